#include "app/broker_link.h"

#include <broker/broker.capnp.h>
#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <fcntl.h>
#include <sys/wait.h>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/text.h"
#include "edge/asio_port.h"
#include "edge/asio_stream.h"
#include "edge/convert.h"
#include "edge/message_stream.h"
#include "wire/broker_check.h"
#include "wire/door_check.h"

namespace mayfly::app {

using base::Code;
using base::fail;
using base::monotonicNs;
using base::Result;
using base::Status;
using base::Unit;
using sched::SessionAct;
using sched::SessionMachine;
namespace schema = broker::schema;

namespace {

constexpr auto kOpenTime = 5 * kj::SECONDS;
constexpr auto kActivateTime = 5 * kj::SECONDS;
constexpr auto kRevokeOneTime = 5 * kj::SECONDS;
constexpr auto kCountTime = 5 * kj::SECONDS;
constexpr auto kDeathTime =
    std::chrono::milliseconds(500);  // for the supervisor's report of a death
constexpr uint32_t kRetryAfterMs = 1'000;
constexpr uint32_t kConnectionsPerDoor = 64;  // if the vault names no number
constexpr auto kStartTime = std::chrono::seconds(10);
constexpr auto kReapPause = std::chrono::milliseconds(100);
constexpr uint32_t kReapTries = 50;
constexpr size_t kEnvMax = 256;
constexpr size_t kTextBytesMax = 2'000;  // of the vault's refusals

base::Error down(std::string why) {
  return {Code::unavailable, "the broker is down: " + std::move(why), "The daemon's log says why.",
          0, kRetryAfterMs};
}

Status statusOf(schema::Error::Reader in) {
  if (in.getCode() == 0) return Unit{};
  const auto code = std::min<uint16_t>(in.getCode(), static_cast<uint16_t>(Code::internal));
  return fail(base::Error{
      static_cast<Code>(code), base::printable(edge::view(in.getMessage()), kTextBytesMax),
      base::printable(edge::view(in.getAdvice()), kTextBytesMax), 0, in.getRetryAfterMs()});
}

// A callback that may be copied, for a promise that is fulfilled once.
template <class T>
std::pair<kj::Promise<T>, std::function<void(T)>> promised() {
  auto paf = kj::newPromiseAndFulfiller<T>();
  auto once = std::make_shared<kj::Own<kj::PromiseFulfiller<T>>>(kj::mv(paf.fulfiller));
  return {kj::mv(paf.promise), [once](T value) { (*once)->fulfill(std::move(value)); }};
}

}  // namespace

// The RPC to one vault. Its calls end with it.
struct BrokerLink::Vault final : kj::TaskSet::ErrorHandler {
  Vault(edge::AsioPort& port, base::Fd socket)
      : timer(port.timer()),
        stream(edge::asioStream(port, std::move(socket))),
        messages(*stream),
        network(messages, capnp::rpc::twoparty::Side::CLIENT, edge::readerOptions()),
        rpc(capnp::makeRpcClient(network)),
        calls(*this) {
    capnp::MallocMessageBuilder host;
    auto vat = host.initRoot<capnp::rpc::twoparty::VatId>();
    vat.setSide(capnp::rpc::twoparty::Side::SERVER);
    vault = rpc.bootstrap(vat).castAs<schema::Vault>();
  }
  void taskFailed(kj::Exception&&) override {}  // each call handles its own failure

  // `answered` gets the call's status: of its answer, of its failure, or that it is late.
  void watch(kj::Promise<Status> call, kj::Duration time_max, const char* what,
             std::function<void(Status)> answered) {
    auto late = timer.afterDelay(time_max).then([what]() -> Status {
      return fail(down(std::string("the vault did not answer `") + what + "` in time"));
    });
    calls.add(call.catch_([](kj::Exception&& e) -> Status { return fail(edge::errorOf(e)); })
                  .exclusiveJoin(kj::mv(late))
                  .then([answered = std::move(answered)](Status status) {
                    answered(std::move(status));
                  }));
  }

  kj::Timer& timer;
  kj::Own<kj::AsyncIoStream> stream;
  edge::MessageStream messages;
  capnp::TwoPartyVatNetwork network;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc;
  schema::Vault::Client vault = nullptr;
  kj::TaskSet calls;
};

// One session, from its request to its end.
struct BrokerLink::Life {
  Life(boost::asio::io_context& io, uint64_t i, sched::SessionSpec s, bool front_up)
      : id(i), spec(std::move(s)), machine(SessionMachine::Bounds(), front_up), timer(io) {}

  const uint64_t id;
  sched::SessionSpec spec;  // its grants: those that are not revoked
  std::vector<std::string> grants;
  sched::Env env;
  SessionMachine machine;
  boost::asio::steady_timer timer;
  Opened opened;                        // the submission's; empty once called
  uint64_t asked_ns = 0, ended_ns = 0;  // when it was submitted; when its task ended
  kj::Maybe<schema::Session::Client> session;
  uint64_t number = 0;  // the vault's
  uint32_t connections_max = kConnectionsPerDoor;
  uint64_t door_number = 0;  // under which the front has the door; 0: it has none
  uint32_t epoch = 0;
  base::TaskId task = 0;
  uint64_t expires_ns = 0;
  std::optional<sched::Doors> doors;
  sched::Session::Left left, ended;
};

// What core and RPC hold of a session.
class BrokerLink::Handle final : public sched::Session {
 public:
  Handle(std::shared_ptr<BrokerLink*> link, LifePtr life)
      : link_(std::move(link)), life_(std::move(life)), env_(life_->env), grants_(life_->grants) {}
  ~Handle() override { end({}); }

  const sched::Env& env() const override { return env_; }
  const std::vector<std::string>& grants() const override { return grants_; }
  Status begin(base::TaskId task, uint64_t expires_ms, sched::Doors doors) override {
    if (*link_ == nullptr) return fail(down("the daemon stops"));
    (*link_)->begin(life_, task, expires_ms, std::move(doors));
    return Unit{};
  }
  void leave(Left left) override {
    if (*link_ != nullptr) (*link_)->leave(life_, std::move(left));
  }
  void end(Left left) override {
    if (*link_ != nullptr) (*link_)->end(life_, std::move(left));
  }
  void revoke(const std::string& name, std::function<void(Status)> done) override {
    if (*link_ != nullptr) (*link_)->revoke(life_, name, std::move(done));
  }

 private:
  std::shared_ptr<BrokerLink*> link_;
  LifePtr life_;
  sched::Env env_;
  std::vector<std::string> grants_;
};

// The vault's way to the submitting client's functions.
class BrokerLink::ToolsServer final : public schema::Tools::Server {
 public:
  explicit ToolsServer(std::shared_ptr<sched::ToolBox> box) : box_(std::move(box)) {}

 protected:
  kj::Promise<void> call(CallContext context) override {
    auto [promise, done] = promised<Result<std::string>>();
    auto params = context.getParams();
    box_->call(edge::str(params.getName()), edge::str(params.getJson()), std::move(done));
    return promise.then([context](Result<std::string> answer) mutable {
      if (answer) {
        context.getResults().setJson(edge::text(*answer));
        return;
      }
      auto error = context.getResults().initError();
      error.setCode(static_cast<uint16_t>(answer.error().code));
      error.setMessage(edge::text(base::printable(answer.error().message, kTextBytesMax)));
    });
  }

 private:
  std::shared_ptr<sched::ToolBox> box_;
};

// --- the link ------------------------------------------------------------------------------

BrokerLink::BrokerLink(boost::asio::io_context& io, base::Observer& observer)
    : io_(io),
      observer_(observer),
      supervisor_(io, *this),
      front_(io, *this),
      front_timer_(io),
      vault_timer_(io),
      start_timer_(io),
      reap_timer_(io),
      self_(std::make_shared<BrokerLink*>(this)) {}

BrokerLink::~BrokerLink() { detach(); }

Status BrokerLink::listen(base::Fd supervisor, uint32_t pid) {
  pids_[0] = pid;
  return supervisor_.open(std::move(supervisor));
}

void BrokerLink::attach(edge::AsioPort& port) { port_ = &port; }

void BrokerLink::detach() {
  *self_ = nullptr;
  for (auto& [id, life] : lives_) {
    life->timer.cancel();
    life->session = nullptr;
    life->opened = {};
    life->left = life->ended = {};
    life->doors.reset();
    life->spec.tool_box.reset();
  }
  lives_.clear();
  doors_.clear();
  vault_.reset();
  once_up_ = {};
  front_timer_.cancel();
  vault_timer_.cancel();
  start_timer_.cancel();
  reap_timer_.cancel();
  front_.close();
  supervisor_.close();
  port_ = nullptr;
}

void BrokerLink::onceUp(std::function<void()> done) {
  once_up_ = std::move(done);
  if (!supervisor_.isOpen() || refused_ || (front_up_ && vault_)) return started();
  start_timer_.expires_after(kStartTime);
  start_timer_.async_wait([this, self = self_](boost::system::error_code failed) {
    if (failed || *self == nullptr) return;
    spdlog::warn("broker: it is not up yet; until then no task with grants is taken");
    started();
  });
}

void BrokerLink::started() {
  if (!once_up_) return;
  start_timer_.cancel();
  boost::asio::post(io_, [self = self_, done = std::exchange(once_up_, {})] {
    if (*self != nullptr) done();
  });
}

void BrokerLink::reload() {
  wire::LinkRequest request;
  request.kind = wire::LinkRequest::Kind::reload;
  supervisor_.send(request);
}

void BrokerLink::count() {
  if (!vault_ || counting_) return;
  counting_ = true;
  auto call = vault_->vault.statusRequest().send().then([this](auto&& answer) -> Status {
    base::BrokerCounts counts;
    counts.sessions = answer.getSessions();
    counts.calls = answer.getCalls();
    auto decisions = answer.getDecisions();
    auto took = answer.getTook();
    if (decisions.size() != 3 * counts.kinds.size() ||
        took.size() != (base::kBuckets + 1) * counts.kinds.size())
      return fail(down("the vault counts in another way"));
    unsigned of_took = 0;
    for (unsigned i = 0; i < counts.kinds.size(); ++i) {
      base::BrokerCounts::Kind& kind = counts.kinds[i];
      kind = {decisions[3 * i], decisions[3 * i + 1], decisions[3 * i + 2]};
      for (uint64_t& bucket : kind.took.counts) bucket = took[of_took++];
      kind.took.sum_ns = took[of_took++];
    }
    observer_.brokerCounts(counts);
    return Unit{};
  });
  vault_->watch(kj::mv(call), kCountTime, "status", [this](Status) { counting_ = false; });
}

Status BrokerLink::receive(MessageChannel& channel, base::FdView socket) {
  return &channel == &supervisor_ ? receiveLink(socket) : receiveDoor(socket);
}

Status BrokerLink::receiveLink(base::FdView socket) {
  wire::LinkEvent event;
  MAYFLY_TRY(base::Received got, base::receiveMessage(socket, base::writableBytesOf(event)));
  if (got.bytes == 0) return fail(Code::internal, "it ended");
  const wire::Checked checked = wire::check(event, got.bytes, got.fds);
  if (checked.fault != wire::Checked::Fault::none)
    return fail(Code::internal, std::string("it sent a malformed message: ") + checked.what);
  onLink(event, got.fds > 0 ? std::move(got.fd[0]) : base::Fd());
  return Unit{};
}

Status BrokerLink::receiveDoor(base::FdView socket) {
  wire::DoorEvent event;
  MAYFLY_TRY(base::Received got, base::receiveMessage(socket, base::writableBytesOf(event)));
  if (got.bytes == 0) return fail(Code::internal, "it ended");
  const wire::Checked checked = wire::check(event, got.bytes, got.fds);
  if (checked.fault != wire::Checked::Fault::none)
    return fail(Code::internal, std::string("it sent a malformed message: ") + checked.what);
  const auto at = doors_.find(event.session);
  if (at == doors_.end()) return Unit{};
  const auto life = lives_.find(at->second);
  doors_.erase(at);
  if (life == lives_.end()) return Unit{};
  const LifePtr its = life->second;
  its->door_number = 0;
  act(its, its->machine.doorClosed(monotonicNs()));
  return Unit{};
}

void BrokerLink::onLost(MessageChannel& channel, const base::Error& why) {
  if (&channel == &front_) {
    // Its death, which the supervisor reports, closes its doors; this does not.
    spdlog::warn("broker: the front's channel: {}", base::printable(why.message));
    if (!supervisor_.isOpen()) return frontDown();
    front_timer_.expires_after(kDeathTime);
    front_timer_.async_wait([this, self = self_](boost::system::error_code failed) {
      if (failed || *self == nullptr || front_.isOpen() || !front_up_) return;
      restart(wire::LinkRequest::Kind::restartFront);
    });
    return;
  }
  spdlog::error(
      "broker: the supervisor's channel: {}; tasks run on, and none with grants is taken any more",
      base::printable(why.message));
  for (const char* what : {"front", "vault"})
    observer_.brokerDown(what, "the supervisor's channel is lost");
  frontDown();
  vaultDown();
  started();
  reap(kReapTries);
}

// Front and vault die with the supervisor, and are then this process's children, as is the
// supervisor. It may be a moment before they are.
void BrokerLink::reap(uint32_t tries_left) {
  bool left = false;
  for (uint32_t& pid : pids_) {
    if (pid != 0 && ::waitpid(static_cast<pid_t>(pid), nullptr, WNOHANG) > 0) pid = 0;
    left = left || pid != 0;
  }
  if (!left || tries_left == 0) return;
  reap_timer_.expires_after(kReapPause);
  reap_timer_.async_wait([this, self = self_, tries_left](boost::system::error_code failed) {
    if (!failed && *self != nullptr) reap(tries_left - 1);
  });
}

void BrokerLink::onLink(wire::LinkEvent& e, base::Fd fd) {
  using Kind = wire::LinkEvent::Kind;
  const std::string text = base::printable(e.text, sizeof e.text);
  switch (e.kind) {
    case Kind::frontUp:
      spdlog::info("broker: the front runs as process {}", e.pid);
      pids_[1] = e.pid;
      return frontUp(std::move(fd));
    case Kind::frontDown:
      spdlog::warn("broker: the front ended with status {}: {}", e.status, text);
      observer_.brokerDown("front", text);
      return frontDown();
    case Kind::vaultUp:
      spdlog::info("broker: the vault runs as process {}", e.pid);
      pids_[2] = e.pid;
      return vaultUp(std::move(fd));
    case Kind::vaultDown:
      spdlog::warn("broker: the vault ended with status {}: {}", e.status, text);
      observer_.brokerDown("vault", text);
      return vaultDown();
    case Kind::policyLoaded:
      refused_ = false;
      return spdlog::info("broker: the policy is loaded");
    case Kind::policyRefused:
      spdlog::error("broker: the policy is refused, and {}: {}",
                    vault_ ? "the old one stays in force" : "no task with grants is taken", text);
      refused_ = true;
      return started();
  }
}

void BrokerLink::frontUp(base::Fd socket) {
  if (front_up_) frontDown();
  if (auto opened = front_.open(std::move(socket)); !opened) {
    spdlog::error("broker: {}", opened.error().message);
    return restart(wire::LinkRequest::Kind::restartFront);
  }
  restart_asked_[0] = false;
  front_up_ = true;
  observer_.brokerUp("front");
  each([](SessionMachine& machine) { return machine.frontBack(); });
  if (vault_) started();
}

void BrokerLink::frontDown() {
  front_.close();
  front_up_ = restart_asked_[0] = false;
  doors_.clear();
  for (auto& [id, life] : lives_) life->door_number = 0;
  const uint64_t now_ns = monotonicNs();
  each([now_ns](SessionMachine& machine) { return machine.frontLost(now_ns); });
}

void BrokerLink::vaultUp(base::Fd socket) {
  if (vault_) vaultDown();
  if (port_ == nullptr) return;
  KJ_IF_MAYBE (fault, kj::runCatchingExceptions(
                          [&] { vault_ = std::make_unique<Vault>(*port_, std::move(socket)); })) {
    spdlog::error("broker: the vault's channel: {}", edge::errorOf(*fault).message);
    return restart(wire::LinkRequest::Kind::restartVault);
  }
  restart_asked_[1] = false;
  counting_ = false;
  observer_.brokerUp("vault");
  vault_->calls.add(
      vault_->network.onDisconnect().then([this, lost = vault_.get()] { vaultLinkLost(lost); }));
  each([](SessionMachine& machine) { return machine.vaultBack(); });
  if (front_up_) started();
}

// A vault whose link has ended ends, and the supervisor reports that. One that does not is ended.
void BrokerLink::vaultLinkLost(const Vault* lost) {
  vault_timer_.expires_after(kDeathTime);
  vault_timer_.async_wait([this, self = self_, lost](boost::system::error_code failed) {
    if (!failed && *self != nullptr && vault_.get() == lost)
      restart(wire::LinkRequest::Kind::restartVault);
  });
}

void BrokerLink::vaultDown() {
  restart_asked_[1] = false;
  vault_timer_.cancel();
  if (!vault_) return;
  for (auto& [id, life] : lives_) {
    life->session = nullptr;
    life->number = 0;
  }
  vault_.reset();
  std::vector<LifePtr> never_opened;
  for (auto& [id, life] : lives_)
    if (life->opened) never_opened.push_back(life);
  for (const LifePtr& life : never_opened) onOpened(life, fail(down("the vault ended")));
  const uint64_t now_ns = monotonicNs();
  each([now_ns](SessionMachine& machine) { return machine.vaultLost(now_ns); });
}

// --- sessions --------------------------------------------------------------------------------

void BrokerLink::each(const std::function<Acts(SessionMachine&)>& event) {
  std::vector<LifePtr> all;
  for (const auto& [id, life] : lives_) all.push_back(life);
  for (const LifePtr& life : all) act(life, event(life->machine));
}

void BrokerLink::act(const LifePtr& life, const Acts& acts) {
  for (SessionAct each : acts) {
    switch (each) {
      case SessionAct::open:
        askOpen(life);
        break;
      case SessionAct::activate:
        askActivate(life);
        break;
      case SessionAct::revoke:
        askRevoke(life);
        break;
      case SessionAct::openDoor:
        openDoor(life);
        break;
      case SessionAct::closeDoor:
        closeDoor(life);
        break;
      case SessionAct::dropDoors:
        life->doors.reset();
        break;
      case SessionAct::restartFront:
        restart(wire::LinkRequest::Kind::restartFront);
        break;
      case SessionAct::restartVault:
        restart(wire::LinkRequest::Kind::restartVault);
        break;
      case SessionAct::tellLeft:
        tell(std::exchange(life->left, {}), life->machine.end());
        break;
      case SessionAct::tellEnded:
        if (life->task != 0) observer_.sessionEnded(monotonicNs() - life->ended_ns);
        tell(std::exchange(life->ended, {}), life->machine.end());
        forget(life);
        return;
    }
  }
  armTimer(life);
}

void BrokerLink::armTimer(const LifePtr& life) {
  const uint64_t due_ns = life->machine.deadline_ns();
  life->timer.cancel();
  if (due_ns == 0) return;
  life->timer.expires_at(std::chrono::steady_clock::time_point(
      std::chrono::nanoseconds(static_cast<int64_t>(due_ns))));
  life->timer.async_wait(
      [this, self = self_, weak = std::weak_ptr<Life>(life)](boost::system::error_code failed) {
        const LifePtr its = weak.lock();
        if (failed || *self == nullptr || !its) return;
        act(its, its->machine.tick(monotonicNs()));
      });
}

void BrokerLink::tell(sched::Session::Left left, const sched::SessionEnd& end) {
  if (!left) return;
  boost::asio::post(io_, [self = self_, left = std::move(left), end] {
    if (*self != nullptr) left(end);
  });
}

void BrokerLink::forget(const LifePtr& life) {
  life->timer.cancel();
  life->session = nullptr;
  life->doors.reset();
  life->spec.tool_box.reset();
  lives_.erase(life->id);
}

void BrokerLink::open(sched::SessionSpec spec, Opened opened) {
  if (!vault_) {
    const bool dead = !supervisor_.isOpen();
    observer_.sessionOpened(base::name(Code::unavailable), 0);
    boost::asio::post(io_, [opened = std::move(opened), dead] {
      opened(fail(down(dead ? "its supervisor ended" : "the vault is being started")));
    });
    return;
  }
  auto life = std::make_shared<Life>(io_, next_life_++, std::move(spec), front_up_);
  for (const sched::GrantWish& wish : life->spec.grants) life->grants.push_back(wish.name);
  life->opened = std::move(opened);
  life->asked_ns = monotonicNs();
  lives_.emplace(life->id, life);
  askOpen(life);
}

void BrokerLink::askOpen(const LifePtr& life) {
  if (!vault_) return;
  auto request = vault_->vault.openRequest();
  auto out = request.initSpec();
  const sched::SessionSpec& spec = life->spec;
  out.setUid(spec.uid);
  out.setTenant(edge::text(spec.tenant));
  out.setTemplate(edge::text(spec.template_name));
  out.setEpoch(++life->epoch);
  out.setTask(life->task);
  out.setTrace(edge::text(spec.trace));
  auto grants = out.initGrants(static_cast<unsigned>(spec.grants.size()));
  for (unsigned i = 0; i < spec.grants.size(); ++i) {
    grants[i].setName(edge::text(spec.grants[i].name));
    grants[i].setNarrowing(edge::text(spec.grants[i].narrowing));
  }
  if (spec.tool_box) out.setTools(kj::heap<ToolsServer>(spec.tool_box));
  auto tools = out.initToolNames(static_cast<unsigned>(spec.tools.size()));
  for (unsigned i = 0; i < spec.tools.size(); ++i) {
    tools[i].setName(edge::text(spec.tools[i].name));
    tools[i].setDescription(edge::text(spec.tools[i].description));
    tools[i].setSchemaJson(edge::text(spec.tools[i].schema_json));
  }
  std::vector<std::string> asked;
  for (const sched::GrantWish& wish : spec.grants) asked.push_back(wish.name);
  auto call = request.send().then([this, life, asked](auto&& answer) -> Status {
    MAYFLY_CHECK(statusOf(answer.getError()));
    const uint64_t number = answer.getNumber();
    const bool taken = doors_.contains(number) ||
                       std::any_of(lives_.begin(), lives_.end(),
                                   [&](const auto& each) { return each.second->number == number; });
    // Under a number that the front still has, another task's calls would come.
    if (number == 0 || taken)
      return fail(
          down("the vault gave session number " + std::to_string(number) + ", which is taken"));
    sched::Env env;
    for (auto pair : answer.getEnv()) {
      if (env.size() >= kEnvMax) return fail(down("the vault names too many variables"));
      env.emplace_back(edge::str(pair.getName()), edge::str(pair.getValue()));
    }
    life->session = answer.getSession();
    life->number = number;
    if (const uint32_t most = answer.getConnectionsMax(); most > 0)
      life->connections_max = std::min(most, wire::kDoorConnectionsMax);
    revokeAgain(life, asked);
    if (life->opened) life->env = std::move(env);  // a running task keeps its own
    return Unit{};
  });
  vault_->watch(kj::mv(call), kOpenTime, "open",
                [this, life](Status status) { onOpened(life, std::move(status)); });
}

void BrokerLink::onOpened(const LifePtr& life, Status status) {
  const uint64_t now_ns = monotonicNs();
  const Opened opened = std::exchange(life->opened, {});
  if (opened)
    observer_.sessionOpened(status ? "" : base::name(status.error().code), now_ns - life->asked_ns);
  if (!status) {
    if (!opened)
      spdlog::warn("broker: the session of task {} is not open any more: {}", life->task,
                   status.error().message);
    act(life, life->machine.refused(now_ns));
    if (!opened) return;
    forget(life);
    boost::asio::post(io_, [opened, why = std::move(status).error()] { opened(fail(why)); });
    return;
  }
  act(life, life->machine.opened(now_ns));
  if (!opened) return;
  std::shared_ptr<sched::Session> handle = std::make_shared<Handle>(self_, life);
  boost::asio::post(io_,
                    [opened, handle = std::move(handle)]() mutable { opened(std::move(handle)); });
}

// Grants of `asked` that were revoked while the vault opened the session. The vault gets this
// before it is asked to activate the session, so no call comes between.
void BrokerLink::revokeAgain(const LifePtr& life, const std::vector<std::string>& asked) {
  const auto& kept = life->spec.grants;
  for (const std::string& name : asked) {
    if (std::any_of(kept.begin(), kept.end(), [&](const auto& wish) { return wish.name == name; }))
      continue;
    KJ_IF_MAYBE (session, life->session) {
      auto request = session->revokeRequest();
      request.setName(edge::text(name));
      vault_->calls.add(request.send().ignoreResult());
    }
  }
}

void BrokerLink::askActivate(const LifePtr& life) {
  KJ_IF_MAYBE (session, life->session) {
    auto request = session->activateRequest();
    request.setTask(life->task);
    const uint64_t now_ns = monotonicNs();
    request.setExpiresMs(life->expires_ns > now_ns ? (life->expires_ns - now_ns) / 1'000'000 : 1);
    vault_->watch(request.send().then([](auto&& answer) { return statusOf(answer.getError()); }),
                  kActivateTime, "activate", [this, life](Status status) {
                    if (status) return act(life, life->machine.activated());
                    spdlog::warn("broker: the session of task {} does not begin: {}", life->task,
                                 status.error().message);
                    life->session = nullptr;  // revokes it, if the vault was only late
                    act(life, life->machine.refused(monotonicNs()));
                  });
  }
}

// No answer in time is the machine's to see.
void BrokerLink::askRevoke(const LifePtr& life) {
  KJ_IF_MAYBE (session, life->session) {
    vault_->calls.add(session->revokeRequest().send().then(
        [this, life](auto&& answer) {
          if (auto status = statusOf(answer.getError()); !status)
            return spdlog::error("broker: the session of task {} is not revoked: {}", life->task,
                                 status.error().message);
          act(life, life->machine.revoked(monotonicNs()));
        },
        [](kj::Exception&&) {}));
  }
}

void BrokerLink::openDoor(const LifePtr& life) {
  if (!life->doors) return;
  wire::DoorRequest request;
  request.kind = wire::DoorRequest::Kind::open;
  request.session = life->door_number = life->number;
  request.connections_max = life->connections_max;
  std::vector<base::Fd> copies;
  for (const base::Fd* each : {&life->doors->local, &life->doors->tcp})
    copies.emplace_back(::fcntl(each->get(), F_DUPFD_CLOEXEC, 3));
  doors_[life->door_number] = life->id;
  if (!copies[0] || !copies[1]) {
    spdlog::error("broker: no descriptor is free for the doors of task {}", life->task);
    boost::asio::post(io_, [this, self = self_, life] {
      if (*self == nullptr) return;
      doors_.erase(std::exchange(life->door_number, 0));
      act(life, life->machine.doorClosed(monotonicNs()));
    });
    return;
  }
  front_.send(request, std::move(copies));
}

void BrokerLink::closeDoor(const LifePtr& life) {
  wire::DoorRequest request;
  request.kind = wire::DoorRequest::Kind::close;
  request.session = life->door_number;
  if (request.session != 0) front_.send(request);
}

void BrokerLink::restart(wire::LinkRequest::Kind kind) {
  const bool vault = kind == wire::LinkRequest::Kind::restartVault;
  if (std::exchange(restart_asked_[vault ? 1 : 0], true)) return;
  spdlog::warn("broker: the {} is restarted: it owes a confirmation", vault ? "vault" : "front");
  wire::LinkRequest request;
  request.kind = kind;
  supervisor_.send(request);
}

// --- calls of a session's object ----------------------------------------------------------------

void BrokerLink::begin(const LifePtr& life, base::TaskId task, uint64_t expires_ms,
                       sched::Doors doors) {
  life->task = task;
  life->expires_ns = monotonicNs() + expires_ms * 1'000'000;
  life->doors = std::move(doors);
  act(life, life->machine.begin());
}

void BrokerLink::leave(const LifePtr& life, sched::Session::Left left) {
  life->left = std::move(left);
  act(life, life->machine.leave(monotonicNs()));
}

void BrokerLink::end(const LifePtr& life, sched::Session::Left left) {
  if (!life->machine.ended()) {
    life->ended = std::move(left);
    life->ended_ns = monotonicNs();
  }
  act(life, life->machine.end(monotonicNs()));
}

void BrokerLink::revoke(const LifePtr& life, const std::string& name,
                        std::function<void(Status)> done) {
  std::erase_if(life->spec.grants, [&](const auto& wish) { return wish.name == name; });
  KJ_IF_MAYBE (session, life->session) {
    if (vault_ && !life->machine.ended()) {
      auto request = session->revokeRequest();
      request.setName(edge::text(name));
      return vault_->watch(request.send().then([](auto&& answer) -> Status {
        auto status = statusOf(answer.getError());
        if (!status && status.error().code == Code::notFound) return Unit{};  // it is revoked
        return status;
      }),
                           kRevokeOneTime, "revoke", std::move(done));
    }
  }
  // No vault knows the session, or it ends: the next one is not asked for this grant.
  boost::asio::post(io_, [done = std::move(done)] { done(Unit{}); });
}

}  // namespace mayfly::app
