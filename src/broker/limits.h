// How much tasks, tenants and all together may use: counts, rates, calls in flight and bytes.
//
// Time is an argument, in nanoseconds of one monotonic clock. What is held is bounded: the uses of
// sessions end with these, a tenant's use is dropped once it equals a new one. A user, who may name
// any number of tenants, has a quarter of these at most; the last quarter is for users with few.
//
// Layer: broker. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "broker/narrow.h"
#include "broker/refusal.h"

namespace mayfly::broker {

// Fills steadily up to its size; a debt is allowed and delays what comes next.
class TokenBucket {
 public:
  TokenBucket(uint64_t per_minute, uint64_t size, uint64_t now_ns);
  // 0: taken. Else nothing is taken, and one token is there after so many nanoseconds.
  uint64_t take(uint64_t now_ns);
  // Takes all of them; returns when the debt is paid, in nanoseconds from now.
  uint64_t spend(uint64_t tokens, uint64_t now_ns);
  // Nanoseconds until `take` succeeds.
  uint64_t wait(uint64_t now_ns);
  bool full(uint64_t now_ns);

 private:
  void fill(uint64_t now_ns);
  double per_ns_, size_, tokens_;
  uint64_t filled_ns_;
};

// Memory that calls hold of one pool. A task leaves twice as much free as it holds, a user as much
// as all of his tasks hold: so nobody fills the pool alone.
class HeldBytes {
 public:
  // False: nothing is taken.
  bool take(uint64_t session, uint32_t uid, uint64_t bytes, uint64_t bytes_max);
  void give(uint64_t session, uint32_t uid, uint64_t bytes);
  uint64_t all() const { return all_; }

 private:
  uint64_t all_ = 0;
  std::map<uint64_t, uint64_t> sessions_;  // without those that hold nothing
  std::map<uint32_t, uint64_t> users_;
};

class Limits {
 public:
  // `others_max`: tenants and actions whose use is held.
  explicit Limits(const config::PolicyBounds& bounds, size_t others_max = 20'000)
      : bounds_(bounds), others_max_(others_max) {}

  struct Subject {
    uint64_t session = 0;
    uint32_t uid = 0;
    std::string tenant;
  };
  // A call in flight. Ends by `end`, exactly once.
  struct Call {
    Subject subject;
    std::string action, rule;
    config::TaskQuota task;
    config::SharedQuota tenant, all;
  };

  // Takes a call from every quota, or from none.
  Decision<Call> begin(const Subject& subject, const Grant& grant, uint64_t now_ns);
  // The client's functions count as one action of the task.
  Decision<Call> beginTool(const Subject& subject, const config::TaskQuota& quota, uint64_t now_ns);
  // Counts bytes of a call, in either direction. Returns how long to wait before the next, in
  // nanoseconds; a task beyond its bytes is refused.
  Decision<uint64_t> spend(const Call& call, uint64_t bytes, uint64_t now_ns);
  void end(const Call& call);

  // A journal knows of calls that an earlier vault made.
  void addPastCalls(uint64_t session, const Grant& grant, uint64_t calls, uint64_t now_ns);
  // The session is over; its calls in flight must have ended.
  void forget(uint64_t session);
  void setBounds(const config::PolicyBounds& bounds) { bounds_ = bounds; }

  uint32_t inFlight() const { return in_flight_; }
  size_t held() const { return tasks_.size() + others_.size(); }

 private:
  struct TaskUse {
    uint64_t calls = 0, bytes = 0;
    uint32_t in_flight = 0;
    TokenBucket rate;
  };
  struct OtherUse {
    uint32_t in_flight = 0;
    TokenBucket rate, bytes;
  };
  using TaskKey = std::pair<uint64_t, std::string>;                 // session, action
  using OtherKey = std::tuple<std::string, uint32_t, std::string>;  // action, user, tenant

  TaskUse& taskUse(const Call& call, uint64_t now_ns);
  bool makeRoom(const Call& call, uint64_t now_ns);
  bool hasRoom(uint32_t uid) const;  // for the uses of one call
  void sweep(uint64_t now_ns);       // drops uses that equal new ones
  OtherUse& otherUse(const OtherKey& key, const config::SharedQuota& quota, uint64_t now_ns);
  Decision<base::Unit> checkCounts(const Call& call, const TaskUse& task, const OtherUse* tenant,
                                   const OtherUse* all) const;
  Decision<base::Unit> takeRates(const Call& call, TaskUse& task, OtherUse* tenant, OtherUse* all,
                                 uint64_t now_ns);
  Decision<base::Unit> take(const Call& call, bool shared, uint64_t now_ns);
  static OtherKey tenantKey(const Call& call) {
    return {call.action, call.subject.uid, "t:" + call.subject.tenant};
  }
  static OtherKey allKey(const Call& call) { return {call.action, 0, ""}; }

  config::PolicyBounds bounds_;
  size_t others_max_;
  std::map<TaskKey, TaskUse> tasks_;
  // Calls in flight of each; without those that have none.
  std::map<uint64_t, uint32_t> sessions_;
  std::map<uint32_t, uint32_t> users_;
  std::map<OtherKey, OtherUse> others_;
  std::map<uint32_t, size_t> tenants_of_;  // of each user: uses in others_
  uint64_t next_sweep_ns_ = 0;
  uint32_t in_flight_ = 0;
};

}  // namespace mayfly::broker
