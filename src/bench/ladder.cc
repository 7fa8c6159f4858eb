#include "bench/ladder.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "base/clock.h"
#include "base/fd.h"
#include "base/text.h"
#include "bench/environment.h"
#include "bench/own_daemon.h"
#include "bench/rivals.h"
#include "bench/stats.h"
#include "image/command.h"
#include "image/store.h"
#include "load/client_target.h"
#include "load/command_target.h"

namespace mayfly::bench {
namespace {

using base::Code;
using base::fail;

constexpr const char* kPython = "print(6*7)";
constexpr const char* kShell = "echo 42";
constexpr const char* kNode = "console.log(6*7)";
constexpr const char* kSays = "42\n";
constexpr uint32_t kWarmTasks = 2;  // of each turn, not recorded
constexpr uint64_t kReadyMsMax = 20'000;
constexpr uint32_t kMountSecondsMax = 30;
constexpr uint32_t kTrialSecondsMax = 30;
constexpr double kOtherwiseShare = 0.01;  // of tasks that did not run as their rung says

void pause(uint64_t ms) {
  timespec time{static_cast<time_t>(ms / 1'000), static_cast<long>(ms % 1'000) * 1'000'000};
  while (::nanosleep(&time, &time) != 0 && errno == EINTR) {
  }
}

// A folder of our own, which goes with all that is in it.
class Folder {
 public:
  base::Status make() {
    std::string path = "/run/mayfly-ladder-XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) return base::failSys(errno, "mkdtemp", path);
    path_ = path;
    return base::Unit{};
  }
  ~Folder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A template's image, read-only at a folder of its own.
class Mounted {
 public:
  static base::Result<std::unique_ptr<Mounted>> mount(const std::string& state_dir,
                                                      const std::string& template_name) {
    MAYFLY_TRY(image::ImageInfo info, image::findImage(state_dir, template_name));
    MAYFLY_TRY(image::Lease lease, image::Lease::take(state_dir, info.digest));
    std::unique_ptr<Mounted> out(new Mounted(std::move(lease)));
    MAYFLY_CHECK(out->folder_.make());
    MAYFLY_CHECK(image::runCommand({"mount", "-t", "erofs", "-o", "ro,nosuid,nodev",
                                    image::imagePath(state_dir, info.digest), out->root()},
                                   kMountSecondsMax));
    out->mounted_ = true;
    return out;
  }
  ~Mounted() {
    if (!mounted_) return;
    image::Command command;
    command.argv = {"umount", root()};
    command.seconds_max = kMountSecondsMax;
    command.cleans_up = true;
    (void)image::runCommand(command);  // else it ends with our mount namespace
  }
  const std::string& root() const { return folder_.path(); }

 private:
  explicit Mounted(image::Lease lease) : lease_(std::move(lease)) {}
  image::Lease lease_;
  Folder folder_;
  bool mounted_ = false;
};

// How a rung's tasks must have got their clone.
enum class Launch : uint8_t { any, parked, stocked, made };

struct Role {
  const char *name, *settings;
  Launch launch;
};
constexpr Role kRoles[] = {
    {"parked", "", Launch::parked},
    {"stocked", "parked_max = 0\n", Launch::stocked},
    {"made", "parked_max = 0\nstocked_max = 0\n", Launch::made},
};

struct OwnClient {
  OwnDaemon daemon;
  std::unique_ptr<Client> client;
};

struct Rung {
  Series series;
  Launch launch = Launch::any;
  std::string template_name;  // of a Mayfly rung
  Client* client = nullptr;
  std::vector<std::string> command;  // of a rival
  std::unique_ptr<load::Target> target;
  std::string reference;  // the rung that it is compared with
  std::string missing;    // why it was not measured
};

bool isReady(Launch launch, const TemplateInfo& t) {
  switch (launch) {
    case Launch::parked:
      return t.parked > 0 && t.making == 0;
    case Launch::stocked:
      return t.stocked > 0 && t.parked == 0 && t.making == 0;
    case Launch::made:
      return t.parked == 0 && t.stocked == 0 && t.making == 0 && t.boxes == 0;
    case Launch::any:
      break;
  }
  return true;
}

base::Status awaitReady(const Rung& rung, const Watch& watch) {
  if (rung.client == nullptr) return base::Unit{};
  const uint64_t until_ns = base::monotonicNs() + kReadyMsMax * 1'000'000;
  while (base::monotonicNs() < until_ns && !watch.stopped()) {
    MAYFLY_TRY(auto templates, rung.client->templates());
    for (const TemplateInfo& t : templates)
      if (t.name == rung.template_name && isReady(rung.launch, t)) return base::Unit{};
    pause(1);
  }
  if (watch.stopped()) return base::Unit{};
  return fail(Code::deadlineExceeded, fmt::format("the pool of '{}' was not as '{}' needs it",
                                                  rung.template_name, rung.series.name));
}

// One turn of a rung: its tasks, one at a time.
base::Result<load::Report> turn(Rung& rung, const LadderVerb& verb, const Watch& watch) {
  load::Report out;
  for (uint32_t i = 0; i < kWarmTasks + verb.tasks && !watch.stopped(); ++i) {
    MAYFLY_CHECK(awaitReady(rung, watch));
    pause(verb.rest_ms);
    load::Plan plan;
    plan.count_max = 1;
    MAYFLY_TRY(load::Report one, load::drive(std::move(plan), *rung.target));
    if (i >= kWarmTasks) load::add(out, one);
  }
  return out;
}

// Why the figures of a rung are void; empty: they are not.
std::string voidOf(const Rung& rung) {
  const load::Report sum = rung.series.total();
  const uint64_t made = sum.recorded - std::min(sum.recorded, sum.parked + sum.stocked);
  const uint64_t right = rung.launch == Launch::parked    ? sum.parked
                         : rung.launch == Launch::stocked ? sum.stocked
                         : rung.launch == Launch::made    ? made
                                                          : sum.recorded;
  if (static_cast<double>(sum.recorded - right) <=
      kOtherwiseShare * static_cast<double>(sum.recorded))
    return {};
  return fmt::format("{}{} of {} tasks got their clone another way", kVoidNote,
                     sum.recorded - right, sum.recorded);
}

double medianP50_ms(const Series& series, const load::Histogram load::Report::*of) {
  return series.median([&](const load::Report& r) { return ms((r.*of).percentile_ns(50)); });
}

}  // namespace

std::string ladderHead(uint32_t tasks, size_t rounds) {
  const char* far = tasks * rounds < kTasksOfP99 ? "most" : "p99";
  return fmt::format(
      "one small task at a time, {} of each rung in a round, {} rounds, taking turns, in ms. p50:\n"
      "median of the rounds; p90, {}: of all {} tasks. Python: {}; sh: {};\nnode: {}.\n"
      "The end is Mayfly's receipt, or the command's exit.\n\n"
      "{:<22}{:>24}{:>28}{:>16}\n{:<22}{:>8}{:>8}{:>8}{:>12}{:>8}{:>8}{:>16}\n",
      tasks, rounds, far, tasks * rounds, kPython, kShell, kNode, "", "first byte", "end",
      "bwrap's end,", "", "p50", "p90", far, "p50", "p90", far, "in this one's");
}

std::string ladderLine(const Series& series, double ratio) {
  const load::Report sum = series.total();
  const auto of = [](const load::Histogram& all, double percent) {
    return msText(ms(all.percentile_ns(percent)));
  };
  return fmt::format("{:<22}{:>8}{:>8}{:>8}{:>12}{:>8}{:>8}{:>15}x\n", series.name,
                     msText(medianP50_ms(series, &load::Report::first_byte)),
                     of(sum.first_byte, 90), of(sum.first_byte, 99),
                     msText(medianP50_ms(series, &load::Report::latency)), of(sum.latency, 90),
                     of(sum.latency, 99), ratio > 0 ? fmt::format("{:.2f}", ratio) : "-");
}

namespace {

class Ladder {
 public:
  Ladder(const LadderVerb& verb, const Watch& watch) : verb_(verb), watch_(watch) {}
  ~Ladder() {
    for (auto& own : daemons_) own->client.reset();  // its callbacks use the rungs' targets
  }

  base::Status prepare(Environment& environment);
  base::Status measure();
  void conclude(BenchReport& out) const;

 private:
  base::Status startDaemons(Environment& environment);
  void addTask(const std::string& name, size_t role, const std::string& template_name,
               const std::string& reference);
  base::Status addRivals();
  base::Status addOciRivals(const std::string& interpreter, Folder& bundle, const std::string& root,
                            const std::vector<std::string>& command);
  base::Status addRival(const std::string& name, const std::string& program,
                        std::vector<std::string> argv);
  double versus(const Rung& rung) const;

  const LadderVerb& verb_;
  const Watch& watch_;
  // In the order of their making; each needs those above it.
  std::unique_ptr<Mounted> python_, shell_, node_;
  std::string no_shell_, no_node_;  // why the template is not measured
  Folder bundle_, node_bundle_;
  std::vector<std::unique_ptr<OwnClient>> daemons_;  // by kRoles
  std::vector<Rung> rungs_;
};

base::Status Ladder::startDaemons(Environment& environment) {
  for (const Role& role : kRoles) {
    if (watch_.stopped()) return base::Unit{};
    auto own = std::make_unique<OwnClient>();
    OwnDaemonOptions options;
    options.program = verb_.mayflyd;
    options.purpose = fmt::format("ladder-{}", role.name);
    options.settings = role.settings;
    options.templates = {"python"};
    if (shell_ && role.launch == Launch::parked) options.templates.push_back("shell");
    if (node_) options.templates.push_back("node");
    options.template_dirs = verb_.template_dirs;
    options.state_dir = verb_.state_dir;
    MAYFLY_CHECK(own->daemon.start(options));
    ConnectOptions connect;
    connect.client_name = "mayfly bench ladder";
    MAYFLY_TRY(own->client, Client::connect(own->daemon.socket(), connect));
    MAYFLY_TRY(auto templates, own->client->templates());
    environment.addDaemon(role.name, own->client->server(), templates);
    for (const TemplateInfo& t : templates)
      if (t.name == "node" && t.state != "ready") no_node_ = t.state + ": " + t.state_text;
    daemons_.push_back(std::move(own));
  }
  return base::Unit{};
}

void Ladder::addTask(const std::string& name, size_t role, const std::string& template_name,
                     const std::string& reference) {
  Rung rung;
  rung.series.name = name;
  rung.launch = kRoles[role].launch;
  rung.template_name = template_name;
  rung.reference = reference;
  load::TaskLoad task;
  task.spec.template_name = template_name;
  task.expected = kSays;
  if (template_name == "node") {
    task.spec.kind = CodeKind::string;
    task.spec.code = kNode;
    rung.series.about = kNode;
    rung.missing = no_node_;
  } else if (template_name == "shell") {
    task.spec.kind = CodeKind::command;
    task.spec.args = {"sh", "-c", kShell};
    rung.series.about = kShell;
    rung.missing = no_shell_;
  } else {
    task.spec.kind = CodeKind::string;
    task.spec.code = kPython;
    rung.series.about = kPython;
  }
  rung.client = daemons_[role]->client.get();
  if (rung.missing.empty())
    rung.target = std::make_unique<load::ClientTarget>(*rung.client, std::move(task));
  rungs_.push_back(std::move(rung));
}

// Runs the command once, so that what does not work is missing with its own words.
base::Status Ladder::addRival(const std::string& name, const std::string& program,
                              std::vector<std::string> argv) {
  Rung rung;
  rung.series.name = name;
  rung.series.about = fmt::format("{} in the same image", program);
  rung.reference = "bwrap, python3";
  const std::string path = findProgram(program);
  if (path.empty()) {
    rung.missing = "not installed";
  } else {
    argv[0] = path;
    auto said = image::commandOutput(argv, kTrialSecondsMax);
    if (!said)
      rung.missing = "does not work here: " + base::printable(said.error().message, 300);
    else if (*said != kSays)
      rung.missing = "prints something else: " + base::printable(*said, 100);
    rung.command = std::move(argv);
  }
  rungs_.push_back(std::move(rung));
  return base::Unit{};
}

base::Status Ladder::addRivals() {
  const std::vector<std::string> python = {"python3", "-c", kPython};
  MAYFLY_CHECK(addRival("bwrap, python3", "bwrap", bwrapCommand(python_->root(), python)));
  if (shell_) {
    MAYFLY_CHECK(
        addRival("bwrap, sh", "bwrap", bwrapCommand(shell_->root(), {"sh", "-c", kShell})));
    rungs_.back().reference = "bwrap, sh";
  }
  if (node_) {
    MAYFLY_CHECK(
        addRival("bwrap, node", "bwrap", bwrapCommand(node_->root(), {"node", "-e", kNode})));
    rungs_.back().reference = "bwrap, node";
  }
  MAYFLY_CHECK(addOciRivals("python3", bundle_, python_->root(), python));
  if (!node_) return base::Unit{};
  return addOciRivals("node", node_bundle_, node_->root(), {"node", "-e", kNode});
}

base::Status Ladder::addOciRivals(const std::string& interpreter, Folder& bundle,
                                  const std::string& root,
                                  const std::vector<std::string>& command) {
  MAYFLY_CHECK(bundle.make());
  MAYFLY_TRY(base::Fd file, base::openAt(base::FdView(AT_FDCWD), bundle.path() + "/config.json",
                                         O_WRONLY | O_CREAT | O_EXCL, 0600));
  const std::string config = ociConfig(root, command);
  if (::write(file.get(), config.data(), config.size()) != static_cast<ssize_t>(config.size()))
    return base::failSys(errno, "write", "config.json");
  const std::string id = fmt::format("mayfly-ladder-{}-{}", ::getpid(), interpreter);
  for (const char* program : {"runc", "runsc"}) {
    const std::string state = bundle.path() + "/" + program;
    MAYFLY_CHECK(addRival(fmt::format("{}, {}", program, interpreter), program,
                          program == std::string("runc") ? runcCommand(bundle.path(), state, id)
                                                         : runscCommand(bundle.path(), state, id)));
    rungs_.back().reference = "bwrap, " + interpreter;
  }
  return base::Unit{};
}

base::Status Ladder::prepare(Environment& environment) {
  if (::geteuid() != 0)
    return fail(Code::permissionDenied, "the ladder starts daemons and mounts images",
                "Run it as root.");
  // Our mounts never outlive us.
  if (::unshare(CLONE_NEWNS) != 0) return base::failSys(errno, "unshare", "the mount namespace");
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return base::failSys(errno, "mount", "/, private");
  MAYFLY_TRY(python_, Mounted::mount(verb_.state_dir, "python"));
  const auto mount = [&](const char* name, std::unique_ptr<Mounted>* to, std::string* why_not) {
    auto mounted = Mounted::mount(verb_.state_dir, name);
    if (mounted)
      *to = std::move(*mounted);
    else
      *why_not = mounted.error().message;
  };
  mount("shell", &shell_, &no_shell_);
  mount("node", &node_, &no_node_);
  // Before the daemons: what tries a rival forks, and a connection has a thread.
  MAYFLY_CHECK(addRivals());
  MAYFLY_CHECK(startDaemons(environment));
  if (watch_.stopped()) return base::Unit{};
  std::vector<Rung> rivals = std::move(rungs_);
  rungs_.clear();
  addTask("python, parked", 0, "python", "bwrap, python3");
  addTask("python, stocked box", 1, "python", "bwrap, python3");
  addTask("python, all made", 2, "python", "bwrap, python3");
  addTask("exec: sh, parked", 0, "shell", "bwrap, sh");
  // Restored from a snapshot: ahead of the task, into a box that stands, and with its box.
  addTask("node, parked", 0, "node", "bwrap, node");
  addTask("node, stocked box", 1, "node", "bwrap, node");
  addTask("node, all made", 2, "node", "bwrap, node");
  for (Rung& rival : rivals) {
    if (rival.missing.empty())
      rival.target = std::make_unique<load::CommandTarget>(rival.command, kSays, 1);
    rungs_.push_back(std::move(rival));
  }
  // A daemon parks once it was asked; this is the asking.
  for (Rung& rung : rungs_)
    if (rung.client != nullptr && rung.target != nullptr) {
      load::Plan plan;
      plan.count_max = 1;
      MAYFLY_CHECK(load::drive(std::move(plan), *rung.target));
    }
  return base::Unit{};
}

base::Status Ladder::measure() {
  pool::Random random(verb_.seed);
  for (uint32_t round = 0; round < verb_.rounds && !watch_.stopped(); ++round) {
    std::vector<Rung*> order;
    for (Rung& rung : rungs_)
      if (rung.missing.empty()) order.push_back(&rung);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.next() % i]);
    for (Rung* rung : order) {
      MAYFLY_TRY(load::Report its, turn(*rung, verb_, watch_));
      if (watch_.stopped()) return base::Unit{};
      rung->series.add(std::move(its));
    }
    watch_.tell(fmt::format("round {} of {}", round + 1, verb_.rounds));
  }
  return base::Unit{};
}

// The reference's median time to the end, in this rung's: the median over the rounds.
double Ladder::versus(const Rung& rung) const {
  for (const Rung& other : rungs_) {
    if (other.series.name != rung.reference) continue;
    std::vector<double> ratios;
    for (size_t i = 0; i < std::min(rung.series.rounds.size(), other.series.rounds.size()); ++i) {
      const double ours = ms(rung.series.rounds[i].latency.percentile_ns(50));
      const double theirs = ms(other.series.rounds[i].latency.percentile_ns(50));
      if (ours > 0 && theirs > 0) ratios.push_back(theirs / ours);
    }
    return median(ratios);
  }
  return 0;
}

void Ladder::conclude(BenchReport& out) const {
  out.table = ladderHead(verb_.tasks, rungs_.empty() ? 0 : rungs_[0].series.rounds.size());
  BarPlot plot;
  plot.title = "One small task, by mechanism";
  plot.unit = "ms";
  plot.kinds = {"to the first byte", "to the end"};
  Json& rows = out.extra["ladder"] = Json::array();
  for (const Rung& rung : rungs_) {
    const double first = medianP50_ms(rung.series, &load::Report::first_byte);
    const double end = medianP50_ms(rung.series, &load::Report::latency);
    Json row = {{"rung", rung.series.name}, {"missing", rung.missing}};
    out.series.push_back(rung.series);
    if (!rung.missing.empty() || end == 0) {
      out.table += fmt::format("{:<22}  {}\n", rung.series.name,
                               rung.missing.empty() ? "not measured" : rung.missing);
      rows.push_back(std::move(row));
      continue;
    }
    const double ratio = versus(rung);
    out.table += ladderLine(rung.series, ratio);
    if (std::string why = voidOf(rung); !why.empty()) out.series.back().notes.push_back(why);
    row.update({{"first_byte_p50_ms", first}, {"end_p50_ms", end}, {"of_reference", ratio}});
    row["void"] = !out.series.back().notes.empty();
    rows.push_back(std::move(row));
    plot.bars.push_back({rung.series.name, {first, end}});
    plot.description += fmt::format("{}: first byte {} ms, end {} ms. ", rung.series.name,
                                    msText(first), msText(end));
  }
  out.table += "\n" + seriesNotes(out.series);
  out.plots.emplace_back("ladder", svg(plot));
}

}  // namespace

base::Result<BenchReport> ladder(const LadderVerb& verb, const Watch& watch) {
  Environment environment;
  BenchReport out;
  out.verb = "ladder";
  out.options = {{"rounds", verb.rounds},
                 {"tasks", verb.tasks},
                 {"rest_ms", verb.rest_ms},
                 {"seed", verb.seed}};
  Ladder its(verb, watch);
  MAYFLY_CHECK(its.prepare(environment));
  if (!watch.stopped()) MAYFLY_CHECK(its.measure());
  out.interrupted = watch.stopped();
  out.environment = environment.stamp();
  its.conclude(out);
  return out;
}

}  // namespace mayfly::bench
