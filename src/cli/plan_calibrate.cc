// Layer: cli. See plan_calibrate.h.
#include "cli/plan_calibrate.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <deque>
#include <future>
#include <map>
#include <memory>
#include <sstream>

#include "base/clock.h"
#include "base/fd.h"
#include "base/text.h"
#include "config/plan_file.h"
#include "host/report.h"
#include "plan/calibrate.h"

namespace mayfly::cli {
namespace {

using base::Code;
using base::fail;
using base::monotonicNs;

constexpr uint64_t kTick_ns = 10'000'000;  // of /proc/stat
constexpr uint64_t kIdle_ns = 2'000'000'000;
constexpr uint64_t kSettle_ns_max = 30'000'000'000;
constexpr int kPollMs = 4;
constexpr int kRestMs = 25;  // before a task that comes alone: it finds caches and processors cold
constexpr uint32_t kBurstLeast = 4, kBurstMost = 512, kBurstsMost = 400;
constexpr uint32_t kMissesEnough = 12;  // further bursts are smaller, or they would teach the pool
constexpr size_t kProcTextBytesMax = 64u << 10;
constexpr uint64_t kEmptyTaskWallMs = 20'000, kBusyTaskWallMs = 60'000, kLooksMost = 100;
constexpr size_t kErrorBytesMax = 4u << 10;
constexpr double kQuietMost = 0.1;  // of the processors: beyond it, figures are rough

void pauseMs(int ms) { ::poll(nullptr, 0, ms); }

std::string readProc(const std::string& path) {
  auto text = base::readSmallFile(base::FdView(AT_FDCWD), path, kProcTextBytesMax);
  return text ? *text : std::string();
}

// The numbers in the text's first line, after its first `skip` words.
std::vector<uint64_t> numbersIn(std::string_view text, size_t skip) {
  std::vector<uint64_t> out;
  text = text.substr(0, text.find('\n'));
  for (size_t word = 0; !text.empty(); ++word) {
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
    const std::string_view one = text.substr(0, text.find(' '));
    text.remove_prefix(one.size());
    uint64_t value = 0;
    const auto [end, fault] = std::from_chars(one.data(), one.data() + one.size(), value);
    if (word < skip || one.empty()) continue;
    if (fault != std::errc{} || end != one.data() + one.size()) break;
    out.push_back(value);
  }
  return out;
}

// The process at the other end of the daemon's socket; 0: unknown.
int daemonPid(const std::string& socket) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket.size() >= sizeof address.sun_path) return 0;
  socket.copy(address.sun_path, socket.size());
  const base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd || ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return 0;
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

// The daemon's child of that name; 0: none is seen.
int childNamed(int parent, std::string_view name) {
  const std::unique_ptr<DIR, int (*)(DIR*)> proc(::opendir("/proc"), ::closedir);
  if (!proc || parent == 0) return 0;
  while (const dirent* entry = ::readdir(proc.get())) {
    const std::string_view word(entry->d_name);
    int pid = 0;
    const auto [end, fault] = std::from_chars(word.data(), word.data() + word.size(), pid);
    if (fault != std::errc{} || end != word.data() + word.size()) continue;
    // pid (name) state parent
    const std::string stat = readProc(fmt::format("/proc/{}/stat", pid));
    const size_t open = stat.find('('), close = stat.rfind(')');
    if (close == std::string::npos || stat.substr(open + 1, close - open - 1) != name) continue;
    const auto numbers = numbersIn(std::string_view(stat).substr(close + 1), 1);
    if (!numbers.empty() && numbers[0] == static_cast<uint64_t>(parent)) return pid;
  }
  return 0;
}

struct ProcessTime {
  int parent = 0;
  uint64_t ticks = 0;  // with that of its children that ended and were waited for
};
constexpr int kKernelThreads = 2;  // their parent

// pid (name) state parent group session tty foreground flags 4 faults utime stime cutime cstime
std::map<int, ProcessTime> processTimes() {
  std::map<int, ProcessTime> out;
  const std::unique_ptr<DIR, int (*)(DIR*)> proc(::opendir("/proc"), ::closedir);
  while (const dirent* entry = proc ? ::readdir(proc.get()) : nullptr) {
    const auto pid = numbersIn(entry->d_name, 0);
    if (pid.empty()) continue;
    const std::string stat = readProc(fmt::format("/proc/{}/stat", pid[0]));
    std::istringstream words(stat.substr(std::min(stat.size(), stat.rfind(')') + 1)));
    ProcessTime& p = out[static_cast<int>(pid[0])];
    std::string word;
    words >> word >> p.parent;
    for (int i = 0; i < 9; ++i) words >> word;
    for (uint64_t ticks = 0, i = 0; i < 4 && words >> ticks; ++i) p.ticks += ticks;
  }
  return out;
}

// What processors did so far.
class Meter {
 public:
  Meter(int daemon, int spawner) : daemon_(daemon), spawner_(spawner) {}

  // The time of programs that are neither the daemon's, nor this one, nor the kernel's own.
  uint64_t others_ns() const {
    const std::map<int, ProcessTime> all = processTimes();
    uint64_t ticks = 0;
    for (const auto& [pid, process] : all) {
      int at = pid;
      while (at != 0 && at != daemon_ && at != kKernelThreads && at != ::getpid()) {
        const auto found = all.find(at);
        at = found == all.end() ? 0 : found->second.parent;
      }
      if (at == 0) ticks += process.ticks;
    }
    return ticks * kTick_ns;
  }

  plan::CpuTotals now() const {
    plan::CpuTotals t;
    t.elapsed_ns = monotonicNs();
    // cpu user nice system idle iowait irq softirq
    const auto cpu = numbersIn(readProc("/proc/stat"), 1);
    for (size_t i = 0; i < std::min<size_t>(cpu.size(), 7); ++i)
      if (i != 3 && i != 4) t.machine_ns += cpu[i] * kTick_ns;
    t.daemon_ns = of(daemon_);
    t.spawner_ns = of(spawner_);
    rusage own{};
    ::getrusage(RUSAGE_SELF, &own);
    for (const timeval& v : {own.ru_utime, own.ru_stime})
      t.client_ns += static_cast<uint64_t>(v.tv_sec) * 1'000'000'000 +
                     static_cast<uint64_t>(v.tv_usec) * 1'000;
    return t;
  }
  plan::CpuTotals since(const plan::CpuTotals& before) const {
    plan::CpuTotals t = now();
    for (auto member :
         {&plan::CpuTotals::elapsed_ns, &plan::CpuTotals::machine_ns, &plan::CpuTotals::daemon_ns,
          &plan::CpuTotals::spawner_ns, &plan::CpuTotals::client_ns})
      t.*member -= std::min(t.*member, before.*member);
    return t;
  }

 private:
  static uint64_t of(int pid) {
    if (pid == 0) return 0;
    const auto ran = numbersIn(readProc(fmt::format("/proc/{}/schedstat", pid)), 0);
    return ran.empty() ? 0 : ran[0];
  }
  int daemon_, spawner_;
};

// The median charge of an instance's boxes below `zygote`'s cgroup; 0: none is seen.
uint64_t chargeOfBoxes(const std::string& instance, const std::string& zygote) {
  const std::string mounts = readProc("/proc/self/mountinfo");
  host::CgroupLayout layout = host::parseCgroupLayout(mounts, "");
  layout = host::parseCgroupLayout(mounts, readProc(layout.v2_path + "/cgroup.controllers"));
  const std::string top = layout.memory_path + "/mayfly/" + instance + "/" + zygote;
  std::vector<uint64_t> found;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(top.c_str()), ::closedir);
  while (const dirent* entry = dir ? ::readdir(dir.get()) : nullptr)
    if (entry->d_name[0] == 'b')
      for (const char* file : {"/memory.current", "/memory.usage_in_bytes"})
        for (uint64_t bytes : numbersIn(readProc(top + "/" + entry->d_name + file), 0))
          found.push_back(bytes);
  if (found.empty()) return 0;
  const auto middle = found.begin() + static_cast<ptrdiff_t>(found.size() / 2);
  std::nth_element(found.begin(), middle, found.end());
  return *middle;
}

// Programs by the names of templates.
struct Language {
  std::string_view begins, line, endless;  // one prints a line, one computes until it is killed
};
constexpr Language kLanguages[] = {
    {"python", "print()", "while True: pass"},
    {"perl", "print \"\\n\"", "1 while 1"},
    {"shell", "echo", "while :; do :; done"},
    {"node", "console.log()", "for (;;);"},
};
const Language* languageOf(std::string_view name) {
  for (const Language& each : kLanguages)
    if (name.starts_with(each.begins)) return &each;
  return nullptr;
}

std::string codeFor(const CalibrateOptions& o, const std::string& name) {
  for (const auto& [tmpl, code] : o.code)
    if (tmpl == name) return code;
  const Language* language = languageOf(name);
  return language ? std::string(language->line) : std::string();
}

TaskSpec specOf(std::string_view name, std::string_view code, uint64_t wall_time_ms) {
  TaskSpec spec;
  spec.template_name = name;
  spec.kind = CodeKind::string;
  spec.code = code;
  spec.limits.wall_time_ms = wall_time_ms;
  return spec;
}

class Calibration {
 public:
  // `busy`: the template whose tasks keep the host full; empty: there is none.
  Calibration(Client& client, const CalibrateOptions& options, Meter meter, double background,
              std::string busy)
      : client_(client),
        o_(options),
        meter_(meter),
        background_(background),
        busy_(std::move(busy)) {}

  base::Result<config::PlanTemplate> measure(const TemplateInfo& info, std::string code);
  bool sawBoxes() const { return saw_boxes_; }
  double others() const { return others_; }  // processors that other programs kept busy meanwhile

 private:
  struct Seen {
    std::atomic<uint64_t> first_byte_ns = 0;
    std::string errors;
  };
  struct Pending {
    uint64_t submitted_ns;
    std::shared_ptr<Seen> seen;
    std::future<base::Result<TaskResult>> result;
  };

  Pending begin();
  base::Result<plan::TaskSample> end(Pending& pending) const;
  base::Result<TemplateInfo> look() const;
  base::Result<TemplateInfo> settle() const;
  void findZygote();
  base::Result<std::vector<plan::TaskSample>> oneByOne();
  base::Status alone(plan::Measured& m);
  base::Status besideOthers(plan::Measured& m);
  base::Status bursts(plan::Measured& m);
  base::Status keepFull(plan::Measured& m);

  Client& client_;
  const CalibrateOptions& o_;
  Meter meter_;
  double background_;
  std::string busy_;
  std::string name_, code_;
  std::string zygote_;  // its cgroup's name, "t3"; empty: not seen
  bool saw_boxes_ = false;
  double others_ = 0;
};

Calibration::Pending Calibration::begin() {
  Pending p{monotonicNs(), std::make_shared<Seen>(), {}};
  Callbacks callbacks;
  callbacks.on_output = [seen = p.seen](Stream stream, std::string_view bytes) {
    if (seen->first_byte_ns == 0) seen->first_byte_ns = monotonicNs();
    if (stream == Stream::err)
      seen->errors +=
          bytes.substr(0, kErrorBytesMax - std::min(kErrorBytesMax, seen->errors.size()));
  };
  p.result = client_.runAsync(specOf(name_, code_, kEmptyTaskWallMs), std::move(callbacks));
  return p;
}

base::Result<plan::TaskSample> Calibration::end(Pending& pending) const {
  auto result = pending.result.get();
  if (!result) return tl::unexpected<base::Error>(std::move(result).error());
  if (result->verdict != base::Verdict::succeeded)
    return fail(
        Code::failedPrecondition,
        fmt::format(
            "the program of template '{}' ended as {}: {}", name_, base::name(result->verdict),
            base::printable(pending.seen->errors.empty() ? result->reason : pending.seen->errors)),
        "Give one that works and prints a line: --code NAME=CODE");
  const uint64_t first_ns = pending.seen->first_byte_ns;
  return plan::TaskSample{result->phases, result->usage.user_cpu_ns + result->usage.system_cpu_ns,
                          result->usage.memory_peak_bytes,
                          first_ns - std::min(first_ns, pending.submitted_ns)};
}

base::Result<TemplateInfo> Calibration::look() const {
  MAYFLY_TRY(auto all, client_.templates());
  for (TemplateInfo& t : all)
    if (t.name == name_) return std::move(t);
  return fail(Code::notFound, fmt::format("the daemon has no template '{}' any more", name_));
}

// Waits until the pool is as full as the daemon wants it.
base::Result<TemplateInfo> Calibration::settle() const {
  const uint64_t until_ns = monotonicNs() + kSettle_ns_max;
  for (;;) {
    MAYFLY_TRY(TemplateInfo t, look());
    if (t.making == 0 && t.waiting == 0 && t.parked >= t.parked_target) return t;
    if (monotonicNs() > until_ns)
      return fail(Code::deadlineExceeded,
                  fmt::format("the pool of template '{}' is not full after {} s: {} of {} parked",
                              name_, kSettle_ns_max / 1'000'000'000, t.parked, t.parked_target),
                  "Is the daemon busy with other tasks?");
    pauseMs(kPollMs);
  }
}

base::Result<std::vector<plan::TaskSample>> Calibration::oneByOne() {
  std::vector<plan::TaskSample> out;
  for (uint32_t i = 0; i < o_.tasks; ++i) {
    MAYFLY_CHECK(settle());
    pauseMs(kRestMs);
    Pending pending = begin();
    MAYFLY_TRY(plan::TaskSample sample, end(pending));
    out.push_back(sample);
  }
  return out;
}

base::Status Calibration::alone(plan::Measured& m) {
  MAYFLY_TRY(m.quiet, oneByOne());
  return base::Unit{};
}

base::Status awaitRunning(std::vector<Task>& tasks) {
  const uint64_t until_ns = monotonicNs() + kSettle_ns_max;
  for (Task& task : tasks)
    for (;;) {
      MAYFLY_TRY(const TaskInfo info, task.info());
      if (info.state == "running") break;
      if (monotonicNs() > until_ns || info.state == "done")
        return fail(Code::deadlineExceeded, "a task that is to keep the host full does not run");
      pauseMs(kPollMs);
    }
  return base::Unit{};
}

base::Status Calibration::besideOthers(plan::Measured& m) {
  if (busy_.empty()) return base::Unit{};
  std::vector<Task> others;  // whatever happens, their end cancels them
  for (long i = 0; i < ::sysconf(_SC_NPROCESSORS_ONLN); ++i) {
    MAYFLY_TRY(Task task,
               client_.submit(specOf(busy_, languageOf(busy_)->endless, kBusyTaskWallMs)));
    others.push_back(std::move(task));
  }
  MAYFLY_CHECK(awaitRunning(others));
  MAYFLY_TRY(m.busy, oneByOne());
  for (Task& task : others) {
    MAYFLY_TRY(const TaskInfo info, task.info());
    if (info.state != "running")
      return fail(
          Code::failedPrecondition,
          fmt::format("a task that keeps the host full is {}, and has not to the end", info.state),
          "Measure fewer tasks (--tasks).");
    MAYFLY_CHECK(task.cancel());
    task.wait();
  }
  return base::Unit{};
}

base::Status Calibration::bursts(plan::Measured& m) {
  const uint64_t until_ns = monotonicNs() + static_cast<uint64_t>(o_.seconds * 1e9);
  uint32_t missed = 0;
  for (uint32_t n = 0; n < kBurstsMost && monotonicNs() < until_ns; ++n) {
    MAYFLY_TRY(const TemplateInfo full, settle());
    std::vector<Pending> all;
    const uint32_t wanted =
        missed < kMissesEnough ? full.parked + 2 : full.parked - full.parked / 4;
    const uint32_t size = std::clamp(wanted, kBurstLeast, kBurstMost);
    for (uint32_t i = 0; i < size; ++i) all.push_back(begin());
    for (Pending& each : all) {
      MAYFLY_TRY(plan::TaskSample sample, end(each));
      m.burst.push_back(sample);
      missed += !plan::foundParked(sample);
    }
    // All tasks are gone: from here on, the daemon only makes clones.
    const plan::CpuTotals before = meter_.now();
    MAYFLY_TRY(const TemplateInfo empty, look());
    MAYFLY_TRY(const TemplateInfo again, settle());
    plan::CpuTotals refill = meter_.since(before);
    // Of those that were under way, half of the work is counted elsewhere.
    const uint32_t before_it = empty.parked + empty.making / 2;
    refill.makes = again.parked - std::min(again.parked, before_it);
    m.refills += refill;
  }
  return base::Unit{};
}

// The cgroup of a running task's process names its zygote's: ".../mayfly/<instance>/t3/b71".
void Calibration::findZygote() {
  const auto tasks = client_.tasks();
  if (!tasks) return;
  const std::string mark = "/mayfly/" + client_.server().instance + "/t";
  for (const TaskInfo& task : *tasks) {
    if (task.template_name != name_ || task.pid_host == 0) continue;
    const std::string cgroups = readProc(fmt::format("/proc/{}/cgroup", task.pid_host));
    const size_t at = cgroups.find(mark);
    if (at == std::string::npos) continue;
    const size_t begin = at + mark.size() - 1;
    zygote_ = cgroups.substr(begin, cgroups.find_first_of("/\n", begin) - begin);
    return;
  }
}

base::Status Calibration::keepFull(plan::Measured& m) {
  const auto outstanding = static_cast<size_t>(2 * ::sysconf(_SC_NPROCESSORS_ONLN) + 2);
  std::deque<Pending> under_way;
  const uint64_t others_ns = meter_.others_ns();
  const plan::CpuTotals before = meter_.now();
  const uint64_t until_ns = before.elapsed_ns + static_cast<uint64_t>(o_.seconds * 1e9);
  uint64_t boxes_ns = 0, tasks = 0;
  while (monotonicNs() < until_ns || !under_way.empty()) {
    while (monotonicNs() < until_ns && under_way.size() < outstanding) under_way.push_back(begin());
    if (under_way.empty()) break;
    MAYFLY_TRY(const plan::TaskSample sample, end(under_way.front()));
    under_way.pop_front();
    boxes_ns += sample.cpu_ns;
    if (++tasks < kLooksMost && zygote_.empty()) findZygote();
  }
  // The clones that these tasks took are made again: each task counts with one making.
  MAYFLY_CHECK(settle());
  m.full = meter_.since(before);
  m.full.others_ns = meter_.others_ns();
  m.full.others_ns -= std::min(m.full.others_ns, others_ns);
  others_ = static_cast<double>(m.full.others_ns) / static_cast<double>(m.full.elapsed_ns);
  if (!zygote_.empty()) m.clone_bytes = chargeOfBoxes(client_.server().instance, zygote_);
  m.full.boxes_ns = boxes_ns;
  m.full.tasks = m.full.makes = tasks;
  return base::Unit{};
}

base::Result<config::PlanTemplate> Calibration::measure(const TemplateInfo& info,
                                                        std::string code) {
  name_ = info.name;
  code_ = std::move(code);
  config::PlanTemplate out;
  out.name = info.name;
  out.mechanism = info.mechanism;
  out.limits = info.defaults;
  out.ptys = host::kPtysPerBox;
  plan::Measured m;
  m.background = background_;
  const auto context = [&](auto&& status) {
    return tl::unexpected<base::Error>(std::move(status).error().in("template '" + name_ + "'"));
  };
  for (auto part : {&Calibration::alone, &Calibration::besideOthers, &Calibration::bursts,
                    &Calibration::keepFull})
    if (base::Status done = (this->*part)(m); !done) return context(done);
  if (base::Status set = plan::setCosts(m, out); !set) return context(set);
  saw_boxes_ = m.clone_bytes != 0;
  if (!o_.quiet)
    fmt::print(stderr,
               "mayfly: {}: made in {:.2f} ms; one task in {:.2f} ms; {:.0f} tasks/s on a full "
               "host; {} clones made in refills\n",
               name_, static_cast<double>(out.make.time_us) * 1e-3,
               static_cast<double>(out.task.claim_us + out.task.run_us + out.task.end_us) * 1e-3,
               static_cast<double>(m.full.tasks) * 1e9 / static_cast<double>(m.full.elapsed_ns),
               m.refills.makes);
  return out;
}

config::PlanHost describeHost() {
  const host::HostBudget b = host::hostReport().budget;
  config::PlanHost out;
  out.processors = static_cast<double>(::sysconf(_SC_NPROCESSORS_ONLN));
  out.memory_bytes = b.memory_total_bytes;
  out.open_files = b.fds_hard;
  out.processes = b.pids_max;
  out.user_namespaces = b.user_namespaces_max;
  out.ptys = b.ptys_max;
  return out;
}

// The template whose tasks keep the host full while `name` is measured; empty: none is ready.
std::string busyFor(const std::string& name, const std::vector<TemplateInfo>& all) {
  if (languageOf(name)) return name;
  for (const TemplateInfo& t : all)
    if (t.state == "ready" && languageOf(t.name)) return t.name;
  return {};
}

}  // namespace

base::Result<Chosen> chooseTemplates(const CalibrateOptions& o,
                                     const std::vector<TemplateInfo>& all) {
  Chosen out;
  const auto isServed = [&](const std::string& name) {
    return std::any_of(all.begin(), all.end(), [&](const auto& t) { return t.name == name; });
  };
  std::vector<std::string> named = o.templates;
  for (const auto& [name, code] : o.code) named.push_back(name);
  for (const std::string& name : named)
    if (!isServed(name))
      return fail(Code::notFound, fmt::format("there is no template '{}'", base::printable(name)),
                  "`mayfly templates` lists them.");
  for (const TemplateInfo& t : all) {
    const bool is_named =
        std::find(o.templates.begin(), o.templates.end(), t.name) != o.templates.end();
    if (!is_named && (!o.templates.empty() || t.state != "ready")) continue;
    if (t.state != "ready")
      return fail(Code::unavailable,
                  fmt::format("template '{}' is {}: {}", t.name, t.state, t.state_text));
    std::string code = codeFor(o, t.name);
    const std::string option = fmt::format("--code '{}=CODE'", t.name);
    if (!code.empty()) {
      out.templates.emplace_back(t, std::move(code));
    } else if (is_named) {
      return fail(Code::invalidArgument,
                  fmt::format("no program for template '{}' is known", t.name),
                  fmt::format("Give one that prints a line: {}.", option));
    } else {
      out.remarks.push_back(
          fmt::format("'{}' is not measured: no program for it is known. Give one that prints a "
                      "line: {}.",
                      t.name, option));
    }
  }
  if (!out.templates.empty()) return out;
  if (out.remarks.empty())
    return fail(Code::unavailable, "the daemon has no template that is ready");
  return fail(Code::invalidArgument, out.remarks.front());
}

base::Result<std::string> calibrate(const CalibrateOptions& o) {
  config::PlanHost out = describeHost();  // forks: before there are threads
  const int daemon = daemonPid(o.socket);
  const Meter meter(daemon, childNamed(daemon, "mayfly-spawner"));
  ConnectOptions connect;
  connect.client_name = "mayfly plan calibrate";
  MAYFLY_TRY(auto client, Client::connect(o.socket, connect));
  MAYFLY_TRY(auto all, client->templates());
  MAYFLY_TRY(Chosen chosen, chooseTemplates(o, all));
  const plan::CpuTotals before = meter.now();
  pauseMs(static_cast<int>(kIdle_ns / 1'000'000));
  const plan::CpuTotals idle = meter.since(before);
  out.background = std::min(0.9 * out.processors, static_cast<double>(idle.machine_ns) /
                                                      static_cast<double>(idle.elapsed_ns));
  std::vector<std::string> remarks{
      "Measured by `mayfly plan calibrate`; docs/planner.md explains every key.",
      "pool_min, pool_max and per_tenant are not measured: set them as in the manifests."};
  if (out.background > kQuietMost * out.processors)
    remarks.push_back(
        fmt::format("Other programs kept {:.2f} processors busy: measure again on a "
                    "quiet host.",
                    out.background));
  if (daemon == 0 || meter.now().spawner_ns == 0)
    remarks.emplace_back("The daemon's processes were not seen: their time counts as other_us.");
  remarks.insert(remarks.end(), chosen.remarks.begin(), chosen.remarks.end());
  for (auto& [info, code] : chosen.templates) {
    const std::string busy = busyFor(info.name, all);
    if (busy.empty())
      remarks.push_back(
          fmt::format("No template is known that can keep the host full: '{}' has no late_full_us.",
                      info.name));
    Calibration calibration(*client, o, meter, out.background, busy);
    MAYFLY_TRY(config::PlanTemplate measured, calibration.measure(info, std::move(code)));
    if (daemon != 0 && calibration.others() > kQuietMost * out.processors)
      remarks.push_back(
          fmt::format("Other programs kept {:.2f} processors busy while '{}' was measured: measure "
                      "again on a quiet host.",
                      calibration.others(), measured.name));
    if (!calibration.sawBoxes())
      remarks.push_back(
          fmt::format("The parked boxes of '{}' were not seen: its clone_memory is a "
                      "guess.",
                      measured.name));
    out.templates.push_back(std::move(measured));
  }
  if (!o.quiet)
    for (size_t i = 2; i < remarks.size(); ++i) fmt::print(stderr, "mayfly: {}\n", remarks[i]);
  return config::formatPlanHost(out, remarks);
}

}  // namespace mayfly::cli
