// Layer: broker. See limits.h.
#include "broker/limits.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace mayfly::broker {
namespace {

constexpr double kNsPerMinute = 60e9;
constexpr double kRounding = 1e-6;  // of a token
constexpr uint64_t kNsPerMs = 1'000'000;
constexpr size_t kTenantsOwn = 16;            // of a user: room for them is kept
constexpr uint64_t kSweepNs = 1'000'000'000;  // between two looks at all uses

// 0 stands for ten seconds' worth.
uint64_t burstOf(uint32_t burst, uint32_t per_minute) {
  return burst != 0 ? burst : std::max<uint64_t>(1, per_minute / 6);
}

uint32_t millis(uint64_t ns) {
  return static_cast<uint32_t>(std::clamp<uint64_t>(ns / kNsPerMs + 1, 1, UINT32_MAX));
}

// How long `tokens` take to come; bounded, since a policy may allow a token a minute.
uint64_t timeOf(double tokens, double per_ns) {
  constexpr double kNsMax = 9e18;
  return static_cast<uint64_t>(std::min(kNsMax, std::ceil(tokens / per_ns)));
}

tl::unexpected<Refusal> tooMany(std::string rule, std::string message, uint32_t retry_after_ms,
                                uint16_t http_status = 429) {
  return refuse({base::Code::resourceExhausted, http_status, std::move(rule), std::move(message),
                 retry_after_ms == 0 ? "This task has used it up." : "Try again a little later.",
                 retry_after_ms});
}

}  // namespace

TokenBucket::TokenBucket(uint64_t per_minute, uint64_t size, uint64_t now_ns)
    : per_ns_(static_cast<double>(per_minute) / kNsPerMinute),
      size_(static_cast<double>(size)),
      tokens_(size_),
      filled_ns_(now_ns) {}

void TokenBucket::fill(uint64_t now_ns) {
  if (now_ns <= filled_ns_) return;
  tokens_ = std::min(size_, tokens_ + static_cast<double>(now_ns - filled_ns_) * per_ns_);
  filled_ns_ = now_ns;
}

uint64_t TokenBucket::wait(uint64_t now_ns) {
  fill(now_ns);
  return tokens_ >= 1 - kRounding ? 0 : timeOf(1 - tokens_, per_ns_);
}

uint64_t TokenBucket::take(uint64_t now_ns) {
  if (const uint64_t ns = wait(now_ns)) return ns;
  tokens_ -= 1;
  return 0;
}

uint64_t TokenBucket::spend(uint64_t tokens, uint64_t now_ns) {
  fill(now_ns);
  tokens_ -= static_cast<double>(tokens);
  return tokens_ >= 0 ? 0 : timeOf(-tokens_, per_ns_);
}

bool TokenBucket::full(uint64_t now_ns) {
  fill(now_ns);
  return tokens_ >= size_;
}

bool HeldBytes::take(uint64_t session, uint32_t uid, uint64_t bytes, uint64_t bytes_max) {
  if (bytes == 0) return true;
  if (all_ > bytes_max || bytes > bytes_max - all_) return false;
  const uint64_t free = bytes_max - all_ - bytes;
  const auto held = [](const auto& all, auto key) {
    const auto at = all.find(key);
    return at == all.end() ? 0 : at->second;
  };
  if (held(sessions_, session) + bytes > free / 2 || held(users_, uid) + bytes > free) return false;
  all_ += bytes;
  sessions_[session] += bytes;
  users_[uid] += bytes;
  return true;
}

void HeldBytes::give(uint64_t session, uint32_t uid, uint64_t bytes) {
  const auto less = [bytes](auto& all, auto key) {
    const auto at = all.find(key);
    if (at == all.end()) return;
    at->second -= std::min(at->second, bytes);
    if (at->second == 0) all.erase(at);
  };
  all_ -= std::min(all_, bytes);
  less(sessions_, session);
  less(users_, uid);
}

Limits::TaskUse& Limits::taskUse(const Call& call, uint64_t now_ns) {
  const TaskKey key{call.subject.session, call.action};
  const auto at = tasks_.find(key);
  if (at != tasks_.end()) return at->second;
  const config::TaskQuota& q = call.task;
  return tasks_
      .emplace(key, TaskUse{0, 0, 0,
                            TokenBucket(q.calls_per_minute, burstOf(q.burst, q.calls_per_minute),
                                        now_ns)})
      .first->second;
}

bool Limits::hasRoom(uint32_t uid) const {
  constexpr size_t kPerCall = 2;  // the tenant's and the action's
  const size_t quarter = others_max_ / 4, all = others_.size() + kPerCall;
  const auto at = tenants_of_.find(uid);
  const size_t own = at == tenants_of_.end() ? 0 : at->second;
  return own < quarter && all <= (own < kTenantsOwn ? others_max_ : others_max_ - quarter);
}

bool Limits::makeRoom(const Call& call, uint64_t now_ns) {
  if (others_.contains(tenantKey(call)) || hasRoom(call.subject.uid)) return true;
  if (now_ns < next_sweep_ns_) return false;
  next_sweep_ns_ = now_ns + kSweepNs;
  sweep(now_ns);
  return hasRoom(call.subject.uid);
}

void Limits::sweep(uint64_t now_ns) {
  for (auto at = others_.begin(); at != others_.end();) {
    const auto& [action, uid, tenant] = at->first;
    OtherUse& use = at->second;
    if (use.in_flight != 0 || !use.rate.full(now_ns) || !use.bytes.full(now_ns)) {
      ++at;
      continue;
    }
    if (const auto its = tenants_of_.find(uid); !tenant.empty() && its != tenants_of_.end())
      if (--its->second == 0) tenants_of_.erase(its);
    at = others_.erase(at);
  }
}

Limits::OtherUse& Limits::otherUse(const OtherKey& key, const config::SharedQuota& q,
                                   uint64_t now_ns) {
  const auto at = others_.find(key);
  if (at != others_.end()) return at->second;
  // A second's worth of bytes may come at once.
  const uint64_t bytes_at_once = std::max<uint64_t>(1, q.bytes_per_minute / 60);
  const uint64_t burst = burstOf(q.burst, q.calls_per_minute);
  if (const auto& [action, uid, tenant] = key; !tenant.empty()) ++tenants_of_[uid];
  return others_
      .emplace(key, OtherUse{0, TokenBucket(q.calls_per_minute, burst, now_ns),
                             TokenBucket(q.bytes_per_minute, bytes_at_once, now_ns)})
      .first->second;
}

Decision<base::Unit> Limits::checkCounts(const Call& call, const TaskUse& task,
                                         const OtherUse* tenant, const OtherUse* all) const {
  const std::string& rule = call.rule;
  if (in_flight_ >= bounds_.calls_max)
    return tooMany("bounds.calls_max", "the broker has too many calls in flight", base::kRetryMs,
                   503);
  const auto session = sessions_.find(call.subject.session);
  if (session != sessions_.end() && session->second >= bounds_.calls_per_task_max)
    return tooMany("bounds.calls_per_task_max",
                   fmt::format("the task has {} calls in flight", session->second), base::kRetryMs);
  const auto user = users_.find(call.subject.uid);
  if (user != users_.end() && user->second >= bounds_.calls_per_user_max)
    return tooMany("bounds.calls_per_user_max",
                   fmt::format("the user's tasks have {} calls in flight", user->second),
                   base::kRetryMs);
  if (task.calls >= call.task.calls)
    return tooMany(rule + ".task.calls",
                   fmt::format("the task has made its {} calls", call.task.calls), 0);
  if (task.bytes >= call.task.bytes)
    return tooMany(rule + ".task.bytes",
                   fmt::format("the task has moved its {} bytes", call.task.bytes), 0);
  if (task.in_flight >= call.task.parallel)
    return tooMany(rule + ".task.parallel",
                   fmt::format("the task has {} calls of this action in flight", task.in_flight),
                   base::kRetryMs);
  if (tenant != nullptr && tenant->in_flight >= call.tenant.parallel)
    return tooMany(rule + ".tenant.parallel",
                   "the tenant has too many calls of this action in flight", base::kRetryMs);
  if (all != nullptr && all->in_flight >= call.all.parallel)
    return tooMany(rule + ".all.parallel", "this action has too many calls in flight",
                   base::kRetryMs, 503);
  return base::Unit{};
}

Decision<base::Unit> Limits::takeRates(const Call& call, TaskUse& task, OtherUse* tenant,
                                       OtherUse* all, uint64_t now_ns) {
  struct Part {
    TokenBucket* bucket;
    const char* key;
  };
  const Part parts[] = {{&task.rate, ".task.calls_per_minute"},
                        {tenant ? &tenant->rate : nullptr, ".tenant.calls_per_minute"},
                        {all ? &all->rate : nullptr, ".all.calls_per_minute"}};
  for (const Part& part : parts)
    if (const uint64_t ns = part.bucket ? part.bucket->wait(now_ns) : 0)
      return tooMany(call.rule + part.key, "there were too many calls in the last minute",
                     millis(ns));
  for (const Part& part : parts)
    if (part.bucket != nullptr) (void)part.bucket->take(now_ns);
  return base::Unit{};
}

Decision<base::Unit> Limits::take(const Call& call, bool shared, uint64_t now_ns) {
  OtherUse *tenant = nullptr, *all = nullptr;
  if (shared) {
    if (!makeRoom(call, now_ns))
      return tooMany("bounds", "the tenants of this user, or of all, are too many to count",
                     base::kRetryMs, 503);
    tenant = &otherUse(tenantKey(call), call.tenant, now_ns);
    all = &otherUse(allKey(call), call.all, now_ns);
  }
  TaskUse& task = taskUse(call, now_ns);
  MAYFLY_DECIDE(checkCounts(call, task, tenant, all));
  MAYFLY_DECIDE(takeRates(call, task, tenant, all, now_ns));
  ++task.calls;
  for (uint32_t* count :
       {&in_flight_, &sessions_[call.subject.session], &users_[call.subject.uid], &task.in_flight,
        tenant ? &tenant->in_flight : nullptr, all ? &all->in_flight : nullptr})
    if (count != nullptr) ++*count;
  return base::Unit{};
}

Decision<Limits::Call> Limits::begin(const Subject& subject, const Grant& grant, uint64_t now_ns) {
  Call call{subject,     grant.name(),         grant.rule(),
            grant.quota, grant.action->tenant, grant.action->all};
  MAYFLY_DECIDE(take(call, true, now_ns));
  return call;
}

Decision<Limits::Call> Limits::beginTool(const Subject& subject, const config::TaskQuota& quota,
                                         uint64_t now_ns) {
  Call call{subject, "", "tools", quota, {}, {}};  // no action has an empty name
  MAYFLY_DECIDE(take(call, false, now_ns));
  return call;
}

Decision<uint64_t> Limits::spend(const Call& call, uint64_t bytes, uint64_t now_ns) {
  uint64_t wait_ns = 0;
  for (const auto& key : {tenantKey(call), allKey(call)})
    if (const auto at = others_.find(key); at != others_.end())
      wait_ns = std::max(wait_ns, at->second.bytes.spend(bytes, now_ns));
  const auto at = tasks_.find({call.subject.session, call.action});
  if (at == tasks_.end()) return wait_ns;
  at->second.bytes += bytes;
  if (at->second.bytes > call.task.bytes)
    return tooMany(call.rule + ".task.bytes",
                   fmt::format("the task has moved its {} bytes", call.task.bytes), 0);
  return wait_ns;
}

void Limits::end(const Call& call) {
  auto less = [](uint32_t& count) {
    if (count > 0) --count;
  };
  less(in_flight_);
  auto lessOf = [&](auto& counts, auto key) {
    const auto at = counts.find(key);
    if (at == counts.end()) return;
    less(at->second);
    if (at->second == 0) counts.erase(at);
  };
  lessOf(sessions_, call.subject.session);
  lessOf(users_, call.subject.uid);
  if (const auto at = tasks_.find({call.subject.session, call.action}); at != tasks_.end())
    less(at->second.in_flight);
  for (const auto& key : {tenantKey(call), allKey(call)})
    if (const auto at = others_.find(key); at != others_.end()) less(at->second.in_flight);
}

void Limits::addPastCalls(uint64_t session, const Grant& grant, uint64_t calls, uint64_t now_ns) {
  Call call;
  call.subject.session = session;
  call.action = grant.name();
  call.task = grant.quota;
  taskUse(call, now_ns).calls += calls;
}

void Limits::forget(uint64_t session) {
  tasks_.erase(tasks_.lower_bound({session, std::string()}),
               tasks_.lower_bound({session + 1, std::string()}));
}

}  // namespace mayfly::broker
