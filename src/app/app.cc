#include "app/app.h"

#include <spdlog/spdlog.h>
#include <algorithm>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/post.hpp>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "app/audit.h"
#include "app/broker_link.h"
#include "app/budget.h"
#include "app/door.h"
#include "app/http_edge.h"
#include "app/instance.h"
#include "app/log.h"
#include "app/loop_lag.h"
#include "app/notify.h"
#include "app/remains.h"
#include "app/run_state.h"
#include "app/snapshot_door.h"
#include "app/system_calls.h"
#include "app/templates.h"
#include "base/text.h"
#include "core/engine.h"
#include "host/report.h"
#include "image/build.h"
#include "rpc/kept_keys.h"
#include "rpc/server.h"
#include "walls/own_root.h"
#include "walls/privileges.h"
#include "walls/program.h"

namespace mayfly::app {
namespace {

constexpr int kSpawnerEndMsMax = 8'000;  // longer than the spawner's own bounds
constexpr uint64_t kSpawnerPingNs = 1'000'000'000;
constexpr uint64_t kDeliveryMsMax = 2'000;  // for clients to read the last results
constexpr int kOrphansMsMax = 2'000;        // for the orphans of a killed spawner
constexpr int kRoomMsMax = 10'000;          // for the spawner's start

// P6: refuses a host that cannot keep a promise, unless the settings accept its loss.
base::Result<host::HostReport> checkHost(const config::Daemon& settings) {
  host::HostReport report = host::hostReport();
  auto refusals = report.refusals(settings.accept_lost_promises);
  for (const host::HostLine& line : refusals)
    spdlog::error("this host cannot keep the promise '{}': {} {}: {}{}{}", line.costs, line.group,
                  line.what, line.value, line.note.empty() ? "" : "; ", line.note);
  if (!refusals.empty())
    return base::fail(
        base::Code::hostUnfit, "the daemon does not start: the host cannot keep a promise",
        "`mayfly doctor` shows the host; the setting accept_lost_promises can accept the loss");
  for (const std::string& promise : report.lostPromises())
    spdlog::warn("the promise '{}' is given up by the settings", promise);
  return report;
}

// The spawner's first message follows its entry into its own namespaces; the engine reads it.
base::Status awaitRoom(const walls::Child& spawner) {
  pollfd p{spawner.channel.get(), POLLIN, 0};
  int n;
  do n = ::poll(&p, 1, kRoomMsMax);
  while (n < 0 && errno == EINTR);
  if (n == 0)
    return base::fail(base::Code::deadlineExceeded,
                      "the spawner did not start within " + std::to_string(kRoomMsMax) + " ms");
  char first;
  if (::recv(spawner.channel.get(), &first, 1, MSG_PEEK | MSG_DONTWAIT) != 1)
    return base::fail(base::Code::internal, "the spawner ended");
  return base::Unit{};
}

// The time now, for people.
std::string timeText() {
  const time_t now = ::time(nullptr);
  tm utc{};
  char text[40] = {};
  ::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", ::gmtime_r(&now, &utc));
  return text;
}

class App final : private core::EngineOwner {
 public:
  explicit App(AppOptions options) : options_(std::move(options)) {
    observers_.add(log_);
    for (int signal : {SIGHUP, SIGUSR1, SIGUSR2, SIGALRM}) without_effect_.add(signal);
  }
  base::Result<int> run();

 private:
  base::Status openRunState();
  base::Status makeEngine(const host::HostReport& report);
  void onSignal();
  void tellReady();
  void outliveSignals();
  base::Status openHttp();
  base::Status startBroker();
  void takeSnapshot(const wire::Offer& offer, base::Fd folder, SnapshotDoor::Answer answer);
  void stop();
  void killSpawner();
  base::Status awaitSpawner();
  base::Status left(std::vector<Process> children, const std::string& why) const;

  // core::EngineOwner
  void onSettled() override;
  void onSpawnerReady(base::Fd kill) override;
  void onFatal(base::Error error) override;

  AppOptions options_;
  const std::string started_ = timeText();  // when this run began
  boost::asio::io_context io_{1};
  boost::asio::signal_set signals_{io_, SIGTERM, SIGINT};
  // Caught, because they would end the daemon (SIGHUP has the broker read its policy again), and an
  // ignored signal stays so across exec.
  boost::asio::signal_set without_effect_{io_};
  LogObserver log_;
  std::unique_ptr<HttpEdge> http_;  // null: the settings name no address; observes all below
  base::Observers observers_;       // the log and any other listener
  LoopLag lag_{io_, observers_};
  base::Fd instance_lock_;
  RunState run_state_;
  std::optional<IdFile> id_file_;
  std::optional<sched::TaskIds> ids_;
  std::shared_ptr<rpc::KeptKeys> keys_;
  UidSlot slot_;
  std::vector<Served> served_;  // keeps the leases
  walls::Child spawner_;
  base::Fd spawner_kill_;       // a file; this process has no capability to signal the spawner
  std::set<uint32_t> foreign_;  // children that this process had before it became the daemon
  walls::Child supervisor_;     // of the broker; pid 0: there is none
  std::unique_ptr<BrokerLink> broker_;  // null: the settings name no policy
  std::unique_ptr<core::Engine> engine_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<Audit> audit_;
  std::unique_ptr<SnapshotDoor> snapshot_door_;
  std::optional<base::Error> fatal_;
  bool stopping_ = false;
};

// Before root is dropped. What the daemon cannot keep across its runs, it refuses to begin.
base::Status App::openRunState() {
  MAYFLY_TRY(run_state_, lockRunState(options_.settings.state_dir, options_.settings.instance));
  MAYFLY_TRY(id_file_, IdFile::open(run_state_));
  MAYFLY_TRY(keys_, rpc::KeptKeys::open(run_state_.folder.view(), run_state_.path, started_,
                                        static_cast<uint64_t>(::time(nullptr)) * 1'000));
  ids_.emplace(
      id_file_->key(), [this] { return id_file_->reserve(); }, started_);
  return ids_->reserve();
}

// While the daemon is root. From here on its events are counted.
base::Status App::openHttp() {
  log_.setSlow(options_.settings.slow_task_ms * 1'000'000);
  MAYFLY_TRY(http_, HttpEdge::open(options_.settings, MAYFLY_VERSION,
                                   static_cast<uint64_t>(::time(nullptr)) * 1'000, spawner_.pid));
  if (!http_) return base::Unit{};
  observers_.add(http_->recorder());
  http_->onTick([this] {
    if (broker_) broker_->count();
  });
  return base::Unit{};
}

// While the daemon is root. The supervisor ends when its channel does, that is with the daemon.
base::Status App::startBroker() {
  const config::Daemon& s = options_.settings;
  if (s.broker_policy.empty()) return base::Unit{};
  const std::string state = s.brokerDir();
  MAYFLY_CHECK(makeFolders(state));
  const BrokerUids uids = brokerUids(slot_.number);
  std::vector<std::string> words = {options_.executable_dir + "/mayfly-broker",
                                    "supervise",
                                    "--policy",
                                    s.broker_policy,
                                    "--state",
                                    state,
                                    "--front-uid",
                                    std::to_string(uids.front),
                                    "--vault-uid",
                                    std::to_string(uids.vault),
                                    "--command-uid",
                                    std::to_string(uids.commands)};
  if (const char* credentials = ::getenv("CREDENTIALS_DIRECTORY"))  // systemd's
    words.insert(words.end(), {"--credentials", credentials});
  MAYFLY_TRY(supervisor_, walls::startProgram(words, {instance_lock_.view(), slot_.lock.view()}));
  broker_ = std::make_unique<BrokerLink>(io_, observers_);
  return broker_->listen(std::move(supervisor_.channel), supervisor_.pid);
}

base::Status App::makeEngine(const host::HostReport& report) {
  const config::Daemon& s = options_.settings;
  core::EngineOptions e = engineOptions(report.budget, s);
  e.bounds.host_cores = static_cast<uint32_t>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
  e.spawner_ping_ns = kSpawnerPingNs;
  e.spawner_busy = [pid = spawner_.pid] { return isBusy(static_cast<uint32_t>(pid)); };
  e.collect_ms_max = static_cast<uint32_t>(s.collect_ms_max);
  e.broker = broker_.get();
  const host::Capacity capacity = host::capacityOf(report.budget, boxSettings(s));
  spdlog::info(
      "{} tasks fit at the default caps, {} binds; at most {} boxes with a task, {} of their "
      "memory, "
      "{} processes, {} pseudo-terminals, {} tasks in the queue",
      capacity.tasks(), capacity.binding().what, e.budget.boxes_max,
      base::humanBytes(e.budget.memory_bytes_max), e.budget.pids_max, e.budget.ptys_max,
      s.queue_max);
  engine_ = std::make_unique<core::Engine>(io_, e, *ids_, observers_,
                                           static_cast<core::EngineOwner&>(*this));
  for (Served& t : served_) {
    const uint32_t wished = std::exchange(t.spec.ptys, grantPtys(e.budget, t.spec.ptys));
    if (t.spec.ptys < wished)
      spdlog::warn(
          "a task of template '{}' has at most {} pseudo-terminals, not {}: all tasks "
          "share {}; raise the host's kernel.pty.max (sysctl) or the setting ptys_max",
          t.spec.name, t.spec.ptys, wished, e.budget.ptys_max);
    if (http_) http_->recorder().addTemplate(t.spec.name, t.spec.mechanism);
    MAYFLY_CHECK(engine_->addTemplate(t.spec, std::move(t.seccomp), std::move(t.snapshot)));
  }
  return base::Unit{};
}

base::Result<int> App::run() {
  const config::Daemon& s = options_.settings;
  if (::geteuid() != 0)
    return base::fail(base::Code::permissionDenied, "mayflyd must be started as root",
                      "It starts the spawner and then drops root.");
  MAYFLY_TRY(instance_lock_, lockInstance(s.run_dir, s.instance));
  MAYFLY_TRY(Allowed allowed, whoMayConnect(s));
  MAYFLY_TRY(host::HostReport report, checkHost(s));
  MAYFLY_TRY(slot_, takeUidSlot(kSlotsDir));
  MAYFLY_CHECK(checkOpenFiles(report.budget, s));
  MAYFLY_CHECK(walls::raiseOpenFiles());
  std::string images = s.state_dir + "/images";
  MAYFLY_CHECK(makeFolders(images));
  MAYFLY_CHECK(openRunState());
  MAYFLY_TRY(std::string runtime,
             image::runtimeKey(image::defaultRuntime(options_.executable_dir)));
  MAYFLY_TRY(served_, loadTemplates(s, runtime, options_.executable_dir));
  if (served_.empty()) spdlog::warn("there is no template to serve, ignoring");
  for (const Process& p : childrenOf(static_cast<uint32_t>(::getpid()))) foreign_.insert(p.pid);
  // The dead children of a killed spawner come to us: unless a parent reaps them at once, the
  // namespaces' pid 1 cannot end.
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0)
    return base::failSys(errno, "prctl(PR_SET_CHILD_SUBREAPER)", "the daemon");
  MAYFLY_TRY(spawner_, walls::startProgram(
                           {options_.executable_dir + "/mayfly-spawner", "--instance", s.instance,
                            "--images", images, "--uid-slot", std::to_string(slot_.number)},
                           {instance_lock_.view(), slot_.lock.view()}));
  MAYFLY_CHECK(openHttp());
  MAYFLY_CHECK(startBroker());
  MAYFLY_CHECK(awaitRoom(spawner_));
  MAYFLY_TRY(AuditPlaces places, auditPlaces(s.instance, s.state_dir, slot_.number, spawner_.pid));
  places.broker = supervisor_.pid;
  places.commands_uid = brokerUids(slot_.number).commands;
  MAYFLY_TRY(base::Fd listener,
             listenAt(s.socketPath(), s.connections_max, socketModeFor(allowed)));
  base::Fd snapshots;
  if (std::any_of(served_.begin(), served_.end(),
                  [](const Served& t) { return !t.snapshot_key.empty(); })) {
    MAYFLY_TRY(snapshots,
               listenForSnapshots(s.run_dir + "/" + s.instance + wire::kOfferSocketSuffix));
  }
  MAYFLY_CHECK(walls::enterOwnRoot(places.folders()));
  MAYFLY_CHECK(walls::dropRoot(daemonUid(slot_.number)));

  signals_.async_wait([this](boost::system::error_code failed, int) {
    if (!failed) onSignal();
  });
  outliveSignals();
  MAYFLY_CHECK(makeEngine(report));
  rpc::Options edge = edgeOptions(s);
  edge.version = MAYFLY_VERSION;
  edge.uids_allowed = std::move(allowed.uids);
  edge.gids_allowed = std::move(allowed.gids);
  edge.keys = keys_;
  MAYFLY_TRY(server_, rpc::Server::start(*engine_, io_, std::move(listener), edge, observers_));
  if (broker_) broker_->attach(server_->port());
  MAYFLY_CHECK(engine_->start(std::move(spawner_.channel)));
  spdlog::info("instance '{}' listens at '{}' as uid {}", s.instance, s.socketPath(),
               daemonUid(slot_.number));
  audit_ =
      std::make_unique<Audit>(io_, std::move(places), engine_->ledger(), observers_, s.audit_ms);
  if (snapshots)
    snapshot_door_ = std::make_unique<SnapshotDoor>(
        io_, std::move(snapshots),
        [this](const wire::Offer& offer, base::Fd folder, SnapshotDoor::Answer answer) {
          takeSnapshot(offer, std::move(folder), std::move(answer));
        });
  lag_.start();
  if (http_) MAYFLY_CHECK(http_->start(io_, [this] { return engine_->report(); }));
  MAYFLY_CHECK(allowOnlyServing(options_.log));
  io_.run();

  snapshot_door_.reset();
  if (http_) http_->stop();
  if (broker_) broker_->detach();  // the server's loop runs its calls
  server_.reset();
  audit_.reset();
  engine_.reset();
  broker_.reset();
  base::Status ended = awaitSpawner();
  if (fatal_) {
    if (!ended) spdlog::error("{}", ended.error().message);
    return base::fail(std::move(*fatal_));
  }
  MAYFLY_CHECK(std::move(ended));
  spdlog::info("stopped");
  return 0;
}

// Root made it and gives it to us. It fits if it has the key of the one that is served: then image,
// programs, filter, kernel and boot are the same.
void App::takeSnapshot(const wire::Offer& offer, base::Fd folder, SnapshotDoor::Answer answer) {
  const std::string name = offer.template_name;
  for (const Served& t : served_)
    if (t.spec.name == name && !t.snapshot_key.empty() && t.snapshot_key != offer.key)
      return answer(base::fail(base::Code::failedPrecondition,
                               "the daemon serves another image, filter or build of template '" +
                                   base::printable(name) + "'",
                               "Start the daemon again."));
  core::NewSnapshot snapshot{std::move(folder), offer.memory_least_bytes, offer.processes_least};
  engine_->refresh(name, std::move(snapshot),
                   [name = base::printable(name), answer = std::move(answer)](base::Status done) {
                     if (done)
                       spdlog::info("template '{}': clones come from a new snapshot", name);
                     else
                       spdlog::warn("template '{}': a new snapshot is not served: {}", name,
                                    oneLine(done.error()));
                     answer(std::move(done));
                   });
}

// With a broker, tasks with grants are taken from the start, too.
void App::onSettled() {
  if (broker_) return broker_->onceUp([this] { tellReady(); });
  tellReady();
}

void App::tellReady() {
  const auto tell = [](base::Fd& to, std::string_view word, const char* name) {
    if (to && ::write(to.get(), word.data(), word.size()) < 0)
      spdlog::warn("{} takes nothing: {}, ignoring", name, ::strerror(errno));
    to.reset();
  };
  tell(options_.ready, "ready\n", "--ready-fd");
  tell(options_.notify, kNotifyReady, "NOTIFY_SOCKET");
}

void App::onSignal() {
  if (stopping_) ::_exit(130);  // the spawner ends all boxes when our socket closes
  spdlog::info("stopping: running tasks end with daemonStopping");
  signals_.async_wait([this](boost::system::error_code failed, int) {
    if (!failed) onSignal();
  });
  stop();
}

void App::outliveSignals() {
  without_effect_.async_wait([this](boost::system::error_code failed, int signal) {
    if (failed) return;
    if (signal == SIGHUP && broker_) {
      spdlog::info("the broker reads its policy again");
      broker_->reload();
    } else {
      spdlog::info("{} has no effect here", ::strsignal(signal));
    }
    outliveSignals();
  });
}

void App::stop() {
  stopping_ = true;
  if (http_) http_->stopping();
  // Every result is told; the clients get what of it is still on its way to them.
  engine_->stop([this] {
    audit_->stop();
    server_->deliver(kDeliveryMsMax, [this] { boost::asio::post(io_, [this] { io_.stop(); }); });
  });
}

void App::onSpawnerReady(base::Fd kill) {
  spawner_kill_ = std::move(kill);
  audit_->start();
}

// With all that it made; no effect on a dead one.
void App::killSpawner() {
  if (spawner_kill_) (void)!::write(spawner_kill_.get(), "1", 1);
}

void App::onFatal(base::Error error) {
  killSpawner();  // it may only hang
  audit_->stop();
  if (!fatal_) fatal_ = std::move(error);  // main logs it once all parts are down
  if (!stopping_) stop();
}

// The ends of the spawner and of all its processes prove that nothing is left on the host.
base::Status App::awaitSpawner() {
  auto ends = [this](int ms_max) {
    pollfd p{spawner_.pidfd.get(), POLLIN, 0};
    int n;
    do n = ::poll(&p, 1, ms_max);
    while (n < 0 && errno == EINTR);
    return n > 0;
  };
  const auto self = static_cast<uint32_t>(::getpid());
  const bool in_time = ends(kSpawnerEndMsMax);
  if (!in_time) {
    killSpawner();
    if (!ends(kOrphansMsMax))
      return left(childrenOf(self),
                  "the spawner did not end within " + std::to_string(kSpawnerEndMsMax) + " ms");
  }
  siginfo_t info{};
  const bool known = ::waitid(static_cast<idtype_t>(P_PIDFD),
                              static_cast<id_t>(spawner_.pidfd.get()), &info, WEXITED) == 0;
  for (int ms = 0; ms < kOrphansMsMax; ++ms) {
    int status;
    pid_t pid;
    while ((pid = ::waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
    }
    if (pid < 0) break;  // no child is left
    ::poll(nullptr, 0, 1);
  }
  MAYFLY_CHECK(left(childrenOf(self), "processes of the spawner are alive " +
                                          std::to_string(kOrphansMsMax) + " ms after its end"));
  if (!in_time)
    return base::fail(base::Code::internal, "the spawner did not end within " +
                                                std::to_string(kSpawnerEndMsMax) +
                                                " ms, and was killed");
  if (known && (info.si_code != CLD_EXITED || info.si_status != 0))
    return base::fail(base::Code::internal,
                      std::string("the spawner ended with ") +
                          (info.si_code == CLD_EXITED ? "exit code " : "signal ") +
                          std::to_string(info.si_status));
  return base::Unit{};
}

// Fails if one of them is ours.
base::Status App::left(std::vector<Process> children, const std::string& why) const {
  std::erase_if(children, [&](const Process& p) { return foreign_.contains(p.pid); });
  if (children.empty()) return base::Unit{};
  return base::fail(base::Code::internal, why + ": " + describe(children),
                    "They keep their cgroups and uids until they end; see what they wait for.");
}

}  // namespace

base::Result<int> run(AppOptions options) { return App(std::move(options)).run(); }

}  // namespace mayfly::app
