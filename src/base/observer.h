// The reports of the daemon to its listeners. The core knows this interface, and nothing of the
// logs and metrics behind it.
//
// Names and words are safe to print. No call carries a task's input or output.
//
// Layer: base. Called on the core thread only; an implementation must not block.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/histogram.h"
#include "base/task.h"

namespace mayfly::base {

// What a task's box was when the task got it: a parked clone; a stocked box, into which a clone was
// forked for it; or nothing, so that box and clone were made for it.
enum class Launch : uint8_t { none, parked, stocked, made };  // none: it never got a box
inline constexpr size_t kLaunches = 4;
std::string_view name(Launch launch);

// How a task found its clone: parked; being made for the pool already; or made on its demand.
enum class ClaimKind : uint8_t { parked, waited, made };
inline constexpr size_t kClaimKinds = 3;
std::string_view name(ClaimKind kind);

// The steps of making a clone, from the daemon's request on.
enum class MakeStep : uint8_t {
  box,    // until the box stands: cgroups, namespaces, mounts; 0 in a stocked box
  clone,  // until the spawner has the clone
  park,   // until the clone has put up its walls, has rehearsed, and waits
  whole,
};
inline constexpr size_t kMakeSteps = 4;
std::string_view name(MakeStep step);

// Why a pool wants the size that it has.
enum class SizeReason : uint8_t {
  unused,    // no task for a long time: nothing is kept
  minimum,   // the template's own `parked_min`
  forecast,  // the model of arrivals
  bursts,    // the depth of recent bursts
  maximum,   // the wish is larger than the template's `parked_max`
  budget,    // the wish is larger than what the daemon may hold in all
};
inline constexpr size_t kSizeReasons = 6;
std::string_view name(SizeReason reason);

// Whose bound, or which state, refused a submission.
enum class RefusedBy : uint8_t {
  request,          // the submission itself: it can never succeed
  unknownTemplate,  // nothing has the name that it gives
  stopping,         // the daemon
  notServing,       // its template: no image, unhealthy, or no room for one more tenant
  quarantine,       // boxes that are not proven gone
  connection,       // its connection has as many tasks in the queue as one may have
  tenant,           // the tenant's bound
  user,             // the user's bound
  host,             // the bound of all users together: a full queue, or no room for their files
  other,
};
inline constexpr size_t kRefusedBys = 10;
std::string_view name(RefusedBy by);

// What the pool expects; of all lanes of a template.
struct PoolForecast {
  double arrivals_hz = 0;  // tasks
  double makers = 0;       // that are kept busy
  double miss_share = 0;   // chance that a task finds no parked clone, with the present target
  uint32_t wanted = 0;     // parked clones, before the budget's cut
  uint64_t make_ns = 0;    // the time to make a clone
  std::array<uint32_t, kSizeReasons> target_by_reason{};  // clones; sums up to the target
  std::array<uint32_t, kSizeReasons> lanes_by_reason{};   // a target of 0 has a reason, too
};

// A template's clones and boxes that have no task yet.
struct PoolState {
  uint32_t parked = 0, parked_target = 0;    // waiting for a task
  uint32_t stocked = 0, stocked_target = 0;  // boxes without a clone
  uint32_t making = 0;                       // clones being made
  uint32_t waiting = 0;                      // tasks without a clone
  uint32_t zygotes = 0;                      // alive: serving, starting, or draining
  uint32_t renewals = 0;                     // zygotes replaced by a successor
  uint64_t hits = 0, misses = 0;  // tasks that found a parked clone, and tasks that did not
};

// The task of a report; valid during the call. The daemon's own tasks, a zygote's trials, are not
// reported.
struct TaskLabels {
  TaskId task = 0;
  std::string_view template_name;
  std::string_view mechanism;  // how its clone is made: "fork" or "exec"
  std::string_view user;       // the account's, e.g. "uid:0"
  std::string_view tenant;     // of that user; empty: the client named none
  std::string_view trace;      // W3C traceparent; empty: the client gave none
  Launch launch = Launch::none;
};

// A difference between the host and the ledger.
struct AuditFinding {
  enum class Kind : uint8_t {  // kAuditKinds of them
    strayCgroup,               // of a box that is gone by the ledger
    strayProcess,  // in such a cgroup, or with a uid of the daemon's but in none of its cgroups
    strayMount,    // an image or disk in the host's mount namespace, or odd in the spawner's
    lostBox,       // in quarantine, but its cgroup is gone
  };
  Kind kind = Kind::strayCgroup;
  BoxId box = 0;  // 0: no box is known
  std::string what;
};
inline constexpr size_t kAuditKinds = 4;
std::string_view name(AuditFinding::Kind kind);

// The times of a clone's making, by the daemon's clock.
struct CloneTimes {
  Launch from = Launch::made;  // stocked: it was forked into a box that stood already
  std::array<uint64_t, kMakeSteps> step_ns{};
};

struct AuditWalk {
  uint64_t cgroups = 0, processes = 0, mounts = 0;  // that the audit looked at
  uint64_t findings = 0;                            // new and known ones
};

// Of tasks' calls to the broker, by kind; counted by the vault since its start.
struct BrokerCounts {
  static constexpr size_t kKinds = 7;
  static constexpr std::array<std::string_view, kKinds> kNames = {
      "http", "sql", "mint", "tool", "tunnel", "proxy", "session"};
  struct Kind {
    uint64_t allowed = 0, refused = 0, failed = 0;
    Histogram took{};  // of each call, from its decision to the end of its answer
  };
  std::array<Kind, kKinds> kinds{};
  uint32_t sessions = 0, calls = 0;  // at present
};

class Observer {
 public:
  virtual ~Observer() = default;

  // --- tasks: accepted, each phase, ended, receipt; or refused ---
  virtual void taskAccepted(const TaskLabels&) {}
  // Its template is as the client named it.
  virtual void taskRefused(const TaskLabels&, std::string_view /*code*/, RefusedBy) {}
  virtual void taskPhase(const TaskLabels&, Phase, uint64_t /*at_ns*/) {}
  virtual void taskEnded(const TaskLabels&, Verdict, const Usage&, const Phases&) {}
  virtual void queueLength(uint32_t /*count*/) {}

  // --- boxes ---
  virtual void boxesAlive(uint32_t /*count*/) {}
  // Of every box, with a task or without, complete or overdue.
  virtual void receipt(std::string_view /*template_name*/, const Receipt&) {}
  // An overdue receipt is complete: the box is out of quarantine.
  virtual void receiptCompleted(const Receipt&) {}
  // A box failed before it had a task.
  virtual void boxLost(std::string_view /*template_name*/, std::string_view /*why*/) {}
  // A clone is ready, and waits for its task.
  virtual void cloneMade(std::string_view /*template_name*/, const CloneTimes&) {}
  // A clone that never had a task is gone.
  virtual void cloneDiscarded(std::string_view /*template_name*/) {}
  // A task got its clone, each time that it did.
  virtual void cloneClaimed(const TaskLabels&, ClaimKind) {}
  // Reports each finding once, and the end of each walk over the whole host.
  virtual void auditFound(const AuditFinding&) {}
  virtual void auditEnded(const AuditWalk&) {}

  // --- clients ---
  // `user`: the user of the connection's account, e.g. "uid:0".
  virtual void connectionOpened(std::string_view /*user*/) {}
  virtual void connectionEnded(std::string_view /*user*/) {}
  virtual void connectionRefused(std::string_view /*user*/, std::string_view /*code*/) {}
  // A message that is not of the protocol: its connection ends.
  virtual void messageRefused() {}
  // A call was answered with a typed error, before it reached the core or by it.
  virtual void callRefused(std::string_view /*method*/, std::string_view /*code*/) {}
  // From the call's message to the answer's; `method`: "Mayfly.submit", ..., or "other".
  virtual void callAnswered(std::string_view /*method*/, uint64_t /*took_ns*/) {}
  // Each message from a client, and each message to a client.
  virtual void messageReceived(uint64_t /*bytes*/) {}
  virtual void messageSent(uint64_t /*bytes*/) {}
  // How late the core thread came to a timer: all other work of the thread waits as long. Reported
  // regularly.
  virtual void loopLag(uint64_t /*late_ns*/) {}

  // --- templates and zygotes ---
  virtual void templateState(std::string_view /*template_name*/, std::string_view /*state*/,
                             std::string_view /*why*/) {}
  // At most once for all changes of one moment.
  virtual void poolState(std::string_view /*template_name*/, const PoolState&) {}
  // A new zygote's trial is over; an empty `fault` lets it serve.
  virtual void trialEnded(std::string_view /*template_name*/, std::string_view /*fault*/) {}
  virtual void zygoteRenewed(std::string_view /*template_name*/) {}
  virtual void zygoteDied(std::string_view /*template_name*/, std::string_view /*why*/) {}
  virtual void zygoteSaid(std::string_view /*template_name*/, std::string_view /*line*/) {}
  // The capabilities and cgroups that are in force.
  virtual void spawnerReady(std::string_view /*in_force*/) {}

  // --- the broker ---
  // `what`: "front" or "vault".
  virtual void brokerUp(std::string_view /*what*/) {}
  virtual void brokerDown(std::string_view /*what*/, std::string_view /*why*/) {}
  // A submission's session, from the question to the vault's answer; an empty code: it is open.
  virtual void sessionOpened(std::string_view /*code*/, uint64_t /*took_ns*/) {}
  // A task's session, from its end to the confirmations of vault and front.
  virtual void sessionEnded(uint64_t /*took_ns*/) {}
  // The vault's own counts since its start; regularly.
  virtual void brokerCounts(const BrokerCounts&) {}
};

// Passes each report to several listeners, in the order in which they were added.
class Observers final : public Observer {
 public:
  void add(Observer& one) { all_.push_back(&one); }

  void taskAccepted(const TaskLabels& t) override { tell(&Observer::taskAccepted, t); }
  void taskRefused(const TaskLabels& t, std::string_view code, RefusedBy by) override {
    tell(&Observer::taskRefused, t, code, by);
  }
  void taskPhase(const TaskLabels& t, Phase phase, uint64_t at_ns) override {
    tell(&Observer::taskPhase, t, phase, at_ns);
  }
  void taskEnded(const TaskLabels& t, Verdict verdict, const Usage& usage,
                 const Phases& phases) override {
    tell(&Observer::taskEnded, t, verdict, usage, phases);
  }
  void queueLength(uint32_t count) override { tell(&Observer::queueLength, count); }
  void boxesAlive(uint32_t count) override { tell(&Observer::boxesAlive, count); }
  void receipt(std::string_view template_name, const Receipt& r) override {
    tell(&Observer::receipt, template_name, r);
  }
  void receiptCompleted(const Receipt& r) override { tell(&Observer::receiptCompleted, r); }
  void boxLost(std::string_view template_name, std::string_view why) override {
    tell(&Observer::boxLost, template_name, why);
  }
  void cloneMade(std::string_view template_name, const CloneTimes& times) override {
    tell(&Observer::cloneMade, template_name, times);
  }
  void cloneDiscarded(std::string_view template_name) override {
    tell(&Observer::cloneDiscarded, template_name);
  }
  void cloneClaimed(const TaskLabels& t, ClaimKind kind) override {
    tell(&Observer::cloneClaimed, t, kind);
  }
  void auditFound(const AuditFinding& finding) override { tell(&Observer::auditFound, finding); }
  void auditEnded(const AuditWalk& walk) override { tell(&Observer::auditEnded, walk); }
  void connectionOpened(std::string_view user) override { tell(&Observer::connectionOpened, user); }
  void connectionEnded(std::string_view user) override { tell(&Observer::connectionEnded, user); }
  void connectionRefused(std::string_view user, std::string_view code) override {
    tell(&Observer::connectionRefused, user, code);
  }
  void messageRefused() override { tell(&Observer::messageRefused); }
  void callRefused(std::string_view method, std::string_view code) override {
    tell(&Observer::callRefused, method, code);
  }
  void callAnswered(std::string_view method, uint64_t took_ns) override {
    tell(&Observer::callAnswered, method, took_ns);
  }
  void messageReceived(uint64_t bytes) override { tell(&Observer::messageReceived, bytes); }
  void messageSent(uint64_t bytes) override { tell(&Observer::messageSent, bytes); }
  void loopLag(uint64_t late_ns) override { tell(&Observer::loopLag, late_ns); }
  void templateState(std::string_view template_name, std::string_view state,
                     std::string_view why) override {
    tell(&Observer::templateState, template_name, state, why);
  }
  void poolState(std::string_view template_name, const PoolState& state) override {
    tell(&Observer::poolState, template_name, state);
  }
  void trialEnded(std::string_view template_name, std::string_view fault) override {
    tell(&Observer::trialEnded, template_name, fault);
  }
  void zygoteRenewed(std::string_view template_name) override {
    tell(&Observer::zygoteRenewed, template_name);
  }
  void zygoteDied(std::string_view template_name, std::string_view why) override {
    tell(&Observer::zygoteDied, template_name, why);
  }
  void zygoteSaid(std::string_view template_name, std::string_view line) override {
    tell(&Observer::zygoteSaid, template_name, line);
  }
  void spawnerReady(std::string_view in_force) override { tell(&Observer::spawnerReady, in_force); }
  void brokerUp(std::string_view what) override { tell(&Observer::brokerUp, what); }
  void brokerDown(std::string_view what, std::string_view why) override {
    tell(&Observer::brokerDown, what, why);
  }
  void sessionOpened(std::string_view code, uint64_t took_ns) override {
    tell(&Observer::sessionOpened, code, took_ns);
  }
  void sessionEnded(uint64_t took_ns) override { tell(&Observer::sessionEnded, took_ns); }
  void brokerCounts(const BrokerCounts& counts) override { tell(&Observer::brokerCounts, counts); }

 private:
  template <class... Told, class... Given>
  void tell(void (Observer::*call)(Told...), const Given&... given) {
    for (Observer* one : all_) (one->*call)(given...);
  }
  std::vector<Observer*> all_;
};

}  // namespace mayfly::base
