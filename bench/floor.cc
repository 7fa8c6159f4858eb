// mayfly-bench-floor: the cost of a box without Mayfly's daemon around it, as JSON on stdout.
//
// The real spawner, maker and zygote over a template's real image, driven over the spawner's wire
// by one tight loop: the same fork of the zygote, namespaces, mounts, cgroups with their caps,
// seccomp, hand-over of the task, exit, reaping and removal, each awaited as the daemon awaits it.
// The daemon's own part is left out: RPC, checks, queue, pool, state machines, deadlines, sampling,
// receipts. The task is written into one memfd that all clones share.
//
//   cycle  a fresh box and clone, its task, its end, all removed
//   make   until the clone is ready, which is then ended
//   park   --count boxes until all are ready, at most `--outstanding` being made at a time
//   ping   no box: a message to the spawner and its answer
//
// Layer: bench. Needs root. One thread. Ends with its spawner, which ends every box.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "app/instance.h"
#include "app/log.h"
#include "app/templates.h"
#include "base/clock.h"
#include "base/fd.h"
#include "core/blob.h"
#include "image/build.h"
#include "load/run.h"
#include "walls/privileges.h"
#include "walls/program.h"
#include "wire/spawner.h"
#include "wire/zygote.h"

namespace {

using namespace mayfly;
using base::Fd;
using base::monotonicNs;
using base::Phase;
using wire::Kind;
using wire::Op;

constexpr int kStallMsMax = 60'000;  // without any event
constexpr int kEventsMax = 64;
constexpr base::TemplateId kTemplate = 1;
constexpr uint32_t kCpuBackstop_s = 3'600;

enum class Mode : uint8_t { cycle, make, park, ping };

struct Options {
  std::string state_dir = "/var/lib/mayfly", template_dir, template_name = "python";
  std::string code = "print(6*7)", expected = "42\n";
  Mode mode = Mode::cycle;
  uint64_t count = 0, warm_up = 0;
  double seconds = 0;
  uint32_t outstanding = 1;
  bool rehearse = false, doors = false;
};

[[noreturn]] void die(const std::string& text) {
  std::fprintf(stderr, "mayfly-bench-floor: %s\n", text.c_str());
  ::exit(1);
}

template <class T>
T must(base::Result<T> result) {
  if (!result) die(result.error().message);
  return std::move(*result);
}

struct Box {
  load::Ticket ticket;
  load::Outcome outcome;
  Fd control, in, out, err;
  std::string said;
  bool exited = false, told = false;  // told: the run knows how it ended
};

class Floor {
 public:
  explicit Floor(const Options& options) : o_(options) {}
  load::Report measure();

 private:
  enum class Source : uint8_t { spawner, control, out };

  void start();
  wire::Event receive(base::Received* fds);
  void send(const wire::Request& request, const std::vector<int>& fds = {});
  void make(const load::Ticket& ticket);
  void ping(const load::Ticket& ticket);
  void end(base::BoxId id);
  void claim(base::BoxId id, Box& box);
  void readOutput(Box& box);
  void turn();
  void onEvent(const wire::Event& event, base::Received& fds);
  void onControl(base::BoxId id);
  void ended(Box& box, uint64_t at_ns);
  void watch(const Fd& fd, Source source, base::BoxId id);
  static uint64_t& phase(Box& box, Phase p) { return box.outcome.phases[static_cast<size_t>(p)]; }

  const Options& o_;
  std::optional<load::Run> run_;
  app::UidSlot slot_;
  walls::Child spawner_;
  std::vector<app::Served> served_;
  Fd epoll_;
  std::optional<core::BlobWriter> task_;
  sched::TaskSpec spec_;  // task_ borrows from it
  load::Ticket pinged_;
  std::unordered_map<base::BoxId, Box> boxes_;
};

void Floor::watch(const Fd& fd, Source source, base::BoxId id) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = (static_cast<uint64_t>(source) << 56) | id;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event) != 0) die("epoll_ctl failed");
}

void Floor::send(const wire::Request& request, const std::vector<int>& fds) {
  must(base::sendMessage(spawner_.channel.view(), base::bytesOf(request), fds));
}

// The spawner's next event; blocks.
wire::Event Floor::receive(base::Received* fds) {
  wire::Event event;
  auto got = base::receiveMessage(spawner_.channel.view(), base::writableBytesOf(event));
  if (!got) die(got.error().message);
  if (got->bytes != sizeof event) die("the spawner is gone");
  if (fds != nullptr) *fds = std::move(*got);
  return event;
}

// As mayflyd does at its start.
void Floor::start() {
  must(walls::raiseOpenFiles());
  config::Daemon settings;
  settings.state_dir = o_.state_dir;
  settings.template_dirs = {o_.template_dir};
  settings.templates = {o_.template_name};
  char self[4'096];
  ssize_t n = ::readlink("/proc/self/exe", self, sizeof self - 1);
  std::string dir(self, n > 0 ? static_cast<size_t>(n) : 0);
  dir.resize(dir.find_last_of('/'));
  served_ = must(app::loadTemplates(settings, must(image::runtimeKey(image::defaultRuntime(dir)))));
  const pool::TemplateSpec& t = served_.at(0).spec;
  if (t.image_digest.empty()) die(t.missing_image_text);
  slot_ = must(app::takeUidSlot(app::kSlotsDir));
  spawner_ = must(walls::startProgram(
      {dir + "/mayfly-spawner", "--instance", "floor-" + std::to_string(::getpid()), "--images",
       o_.state_dir + "/images", "--uid-slot", std::to_string(slot_.number)},
      {slot_.lock.view()}));
  if (receive(nullptr).kind != Kind::hello) die("the spawner did not start");
  wire::Request r;
  r.op = Op::publish;
  r.zygote_id = kTemplate;
  r.flags = (t.loopback || o_.doors ? wire::kLoopback : 0u) | (o_.doors ? wire::kDoors : 0u);
  r.ptys = t.ptys;
  r.limits = t.maximum;
  r.limits.memory_bytes = t.zygote_memory_bytes;
  t.image_digest.copy(r.digest, sizeof r.digest - 1);
  for (size_t i = 0; i < t.zygote.size() && i < wire::kZygoteArgsMax; ++i)
    t.zygote[i].copy(r.zygote[i], sizeof r.zygote[i] - 1);
  std::vector<int> fds{served_[0].seccomp.get(), STDERR_FILENO};
  if (served_[0].snapshot) {
    r.flags |= wire::kRestore;
    fds.push_back(served_[0].snapshot.get());
  }
  send(r, fds);
  if (wire::Event e = receive(nullptr); e.kind != Kind::zygoteReady)
    die(std::string("the template is not served: ") + e.step + ": " + e.text);
  must(base::setNonblocking(spawner_.channel.view()));
  epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  watch(spawner_.channel, Source::spawner, 0);
  if (t.runs_commands) {
    spec_.kind = sched::CodeKind::command;
    spec_.args = {"/bin/sh", "-c", o_.code};
  } else {
    spec_.kind = sched::CodeKind::string;
    spec_.code = o_.code;
  }
  task_.emplace(must(core::BlobWriter::create(spec_, t.env)));
  while (!must(task_->step())) {
  }
}

void Floor::make(const load::Ticket& ticket) {
  base::BoxId id = ticket.index + 1;
  Box& box = boxes_[id];
  box.ticket = ticket;
  phase(box, Phase::box) = monotonicNs();
  wire::Request r;
  r.op = Op::make;
  r.box = id;
  r.zygote_id = kTemplate;
  r.limits = served_[0].spec.maximum;
  r.flags = o_.rehearse ? wire::kRehearse : 0u;
  send(r);
}

void Floor::ping(const load::Ticket& ticket) {
  pinged_ = ticket;
  wire::Request r;
  r.op = Op::ping;
  send(r);
}

void Floor::end(base::BoxId id) {
  wire::Request r;
  r.op = Op::end;
  r.box = id;
  send(r);
}

void Floor::claim(base::BoxId id, Box& box) {
  const base::Limits& limits = served_[0].spec.defaults;
  wire::Request r;
  r.op = Op::claim;
  r.box = id;
  r.limits = limits;
  send(r);
  wire::Claim c;
  c.block_bytes = task_->bytes();
  c.open_files = limits.open_files;
  c.file_size_bytes = limits.file_size_bytes;
  c.cpu_time_s = kCpuBackstop_s;
  phase(box, Phase::claimed) = monotonicNs();
  must(base::sendMessage(box.control.view(), base::bytesOf(c), task_->fds()));
}

void Floor::readOutput(Box& box) {
  char text[4'096];
  ssize_t n = ::read(box.out.get(), text, sizeof text);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) return box.out.reset();
  if (box.said.empty()) phase(box, Phase::firstByte) = box.outcome.first_byte_ns = monotonicNs();
  box.said.append(text, static_cast<size_t>(n));
}

void Floor::ended(Box& box, uint64_t at_ns) {
  if (std::exchange(box.told, true)) return;
  if (box.outcome.ended_ns == 0) box.outcome.ended_ns = at_ns;
  if (o_.mode == Mode::cycle && box.said != o_.expected) box.outcome.error = "wrongOutput";
  run_->ended(box.ticket, box.outcome);
}

void Floor::onControl(base::BoxId id) {
  Box& box = boxes_.at(id);
  wire::CloneReady word;  // Started has the same size
  auto got = base::receiveMessage(box.control.view(), base::writableBytesOf(word));
  if (!got || got->bytes != sizeof word || word.error != 0)
    die("a clone did not get ready" +
        (got && got->bytes == sizeof word ? std::string(": ") + word.step : std::string()));
  if (word.kind == wire::Started{}.kind) {
    phase(box, Phase::started) = word.at_ns;
    box.control.reset();
    return;
  }
  phase(box, Phase::clone) = word.at_ns;
  if (o_.mode == Mode::cycle) return claim(id, box);
  box.outcome.ended_ns = word.at_ns;
  if (o_.mode == Mode::park) return ended(box, word.at_ns);
  box.control.reset();
  end(id);
}

void Floor::onEvent(const wire::Event& e, base::Received& fds) {
  if (e.kind == Kind::pong && o_.mode == Mode::ping) {
    load::Outcome outcome;
    outcome.ended_ns = monotonicNs();
    return run_->ended(pinged_, outcome);
  }
  auto at = boxes_.find(e.box);
  if (at == boxes_.end())
    die("an event of no box: " + std::to_string(static_cast<int>(e.kind)) + " " + e.text);
  Box& box = at->second;
  switch (e.kind) {
    case Kind::boxMade:
      if (fds.fds != (o_.doors ? 6 : 4)) die("a box came without its descriptors");
      phase(box, Phase::boxReady) = e.box_ready_ns;
      box.control = std::move(fds.fd[0]);
      box.in = std::move(fds.fd[1]);
      box.out = std::move(fds.fd[2]);
      box.err = std::move(fds.fd[3]);
      must(base::setNonblocking(box.out.view()));
      watch(box.control, Source::control, e.box);
      watch(box.out, Source::out, e.box);
      return;
    case Kind::cloneExited:
      phase(box, Phase::exited) = e.at_ns;
      box.exited = true;
      if (e.exit_status != 0) box.outcome.error = "failed";
      return end(e.box);
    case Kind::boxReaped:
      phase(box, Phase::reaped) = e.at_ns;
      return;
    case Kind::boxGone:
      if (e.complete == 0) die(std::string("a box is not gone: ") + e.text);
      while (box.out && box.exited) {  // the rest of its output
        size_t before = box.said.size();
        readOutput(box);
        if (box.said.size() == before) break;
      }
      phase(box, Phase::receipt) = monotonicNs();
      ended(box, phase(box, Phase::receipt));
      boxes_.erase(at);
      return;
    default:
      die("a box failed: " + std::string(e.step) + ": " + e.text);
  }
}

// Handles all present events; waits if there is none.
void Floor::turn() {
  epoll_event events[kEventsMax];
  int n = ::epoll_wait(epoll_.get(), events, kEventsMax, kStallMsMax);
  if (n < 0 && errno == EINTR) return;
  if (n <= 0) die("no event came for " + std::to_string(kStallMsMax / 1'000) + " s");
  for (int i = 0; i < n; ++i) {
    auto source = static_cast<Source>(events[i].data.u64 >> 56);
    base::BoxId id = events[i].data.u64 & ((1ull << 56) - 1);
    if (source == Source::spawner) {
      for (;;) {
        wire::Event event;
        auto got = base::receiveMessage(spawner_.channel.view(), base::writableBytesOf(event));
        if (!got && got.error().sys == EAGAIN) break;
        if (!got || got->bytes != sizeof event) die("the spawner is gone");
        onEvent(event, *got);
      }
      continue;
    }
    auto at = boxes_.find(id);
    if (at == boxes_.end()) continue;
    if (source == Source::control && at->second.control) onControl(id);
    if (source == Source::out && at->second.out) readOutput(at->second);
  }
}

load::Report Floor::measure() {
  start();
  load::Plan plan;
  plan.count_max = o_.count;
  plan.duration_ns_max = static_cast<uint64_t>(o_.seconds * 1e9);
  plan.warm_up = o_.warm_up;
  plan.outstanding_max = o_.outstanding;
  run_.emplace(std::move(plan));
  for (;;) {
    load::Run::Act act = run_->next(monotonicNs());
    if (act.kind == load::Run::Act::Kind::over) break;
    if (act.kind == load::Run::Act::Kind::send && o_.mode == Mode::ping)
      ping(act.ticket);
    else if (act.kind == load::Run::Act::Kind::send)
      make(act.ticket);
    else
      turn();
  }
  if (o_.mode == Mode::park)
    for (auto& [id, box] : boxes_) {
      box.control.reset();
      end(id);
    }
  while (!boxes_.empty()) turn();
  return run_->report();
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App cli{"mayfly-bench-floor: the cost of a box without Mayfly's daemon around it"};
  cli.add_option("--state-dir", o.state_dir, "the folder of the images")->capture_default_str();
  cli.add_option("--templates", o.template_dir, "folder of templates")->required();
  cli.add_option("--template", o.template_name, "the boxes' template")->capture_default_str();
  cli.add_option("--mode", o.mode, "cycle, make, park or ping")
      ->transform(CLI::CheckedTransformer(std::map<std::string, Mode>{{"cycle", Mode::cycle},
                                                                      {"make", Mode::make},
                                                                      {"park", Mode::park},
                                                                      {"ping", Mode::ping}}));
  cli.add_option("--code", o.code, "each task's program")->capture_default_str();
  cli.add_option("--expect", o.expected, "each task's expected output");
  cli.add_option("--count", o.count, "boxes, warm-up included");
  cli.add_option("--seconds", o.seconds, "no box starts later");
  cli.add_option("--warm-up", o.warm_up, "first boxes that are not recorded");
  cli.add_option("--outstanding", o.outstanding, "boxes in flight at a time; park: being made")
      ->check(CLI::Range(1, 1'000))
      ->capture_default_str();
  cli.add_flag("--rehearse", o.rehearse, "clones rehearse before they are ready");
  cli.add_flag("--doors", o.doors, "each box gets its doors to the broker");
  CLI11_PARSE(cli, argc, argv);
  if (o.count == 0 && o.seconds <= 0) die("give --count or --seconds");
  if (::geteuid() != 0) die("boxes need root");
  spdlog::set_default_logger(
      spdlog::stderr_logger_st("mayfly-bench-floor"));  // stdout is the report's
  Floor floor(o);
  load::Report report = floor.measure();
  std::printf("%s\n", load::toJson(report).dump().c_str());
  return report.errors.empty() ? 0 : 3;
}
