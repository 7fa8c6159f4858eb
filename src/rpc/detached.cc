#include "rpc/detached.h"

#include <capnp/message.h>
#include <fmt/format.h>
#include <sodium.h>
#include <spdlog/spdlog.h>
#include <time.h>

#include <algorithm>
#include <vector>

#include "base/text.h"
#include "edge/convert.h"
#include "rpc/hub.h"
#include "rpc/kept_keys.h"
#include "rpc/task_calls.h"

namespace mayfly::rpc {

using base::Code;
using base::fail;
using base::Result;
using base::TaskId;

namespace {

constexpr size_t kHashStepBytes = 256u << 10;

uint64_t unixMs() {
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000 + static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
}

struct Hashing {
  crypto_generichash_state sum;
  kj::Array<capnp::word> words;
  size_t done_bytes = 0;
};

kj::Promise<SpecHash> hashOn(kj::Own<Hashing> h) {
  auto bytes = h->words.asBytes();
  size_t step = kj::min(kHashStepBytes, bytes.size() - h->done_bytes);
  crypto_generichash_update(&h->sum, bytes.begin() + h->done_bytes, step);
  h->done_bytes += step;
  if (h->done_bytes < bytes.size())
    return kj::evalLater([h = kj::mv(h)]() mutable { return hashOn(kj::mv(h)); });
  SpecHash hash;
  crypto_generichash_final(&h->sum, hash.data(), hash.size());
  return hash;
}

}  // namespace

kj::Promise<SpecHash> hashOf(schema::TaskSpec::Reader spec) {
  auto hashing = kj::heap<Hashing>();
  hashing->words = capnp::canonicalize(spec);
  crypto_generichash_init(&hashing->sum, nullptr, 0, std::tuple_size_v<SpecHash>);
  return hashOn(kj::mv(hashing));
}

// One user's detached tasks. Each task holds a reference, so a task that is being closed still has
// its owner.
class UserTasks final : public Owner {
 public:
  UserTasks(Hub& h, const sched::AccountRef& user) : Owner(h, h.next_owner++, user) {}

  struct Entry {
    kj::Own<TaskState> task;
    std::string key;
    SpecHash hash;
    std::optional<uint32_t> kept;  // its key's record
  };
  using Entries = std::unordered_map<TaskState*, Entry>;

  void onClosed(TaskState& task) override {
    auto at = entries.find(&task);
    if (at == entries.end()) return;
    Entry gone = kj::mv(at->second);
    entries.erase(at);
    if (!gone.key.empty()) by_key.erase(gone.key);
    if (gone.kept) hub.users.drop(*gone.kept);
    if (entries.empty()) hub.users.users_.erase(account.user());
  }

  Entries entries;
  std::unordered_map<std::string, TaskState*> by_key;
};

Users::Users(Hub& hub) : hub_(hub) {}
Users::~Users() = default;

void Users::stop() {
  // A destroyed task looks itself up in `user->entries`, so they are emptied before the tasks go.
  for (auto& [account, user] : users_) {
    auto entries = std::move(user->entries);
    user->entries.clear();
    entries.clear();
  }
  users_.clear();
}

// Nothing is known of the key, unless it is of an earlier run.
Result<std::optional<Users::Found>> Users::notLost(const sched::AccountRef& account,
                                                   const std::string& key) const {
  const auto& keys = hub_.options.keys;
  const auto lost_ms = keys ? keys->lostForMs(account.userName(), key, unixMs()) : std::nullopt;
  if (!lost_ms) return std::nullopt;
  return fail(Code::alreadyExists,
              fmt::format("detach: the daemon was restarted at {} after it had taken a task with "
                          "the key '{}': that task may have run, and its result is gone",
                          keys->since(), base::printable(key)),
              fmt::format("Check what the task did, then submit with another key. This key is free "
                          "in {} s.",
                          (*lost_ms + 999) / 1'000));
}

void Users::drop(uint32_t kept_key) {
  if (auto dropped = hub_.options.keys->drop(kept_key); !dropped)
    spdlog::warn("rpc: {}; a key of a closed task counts as used after the next start",
                 dropped.error().message);
}

Result<std::optional<Users::Found>> Users::known(const sched::AccountRef& account,
                                                 const std::string& key, const SpecHash& hash) {
  auto user = users_.find(account.user());
  if (user == users_.end()) return notLost(account, key);
  auto at = user->second->by_key.find(key);
  if (at == user->second->by_key.end()) return notLost(account, key);
  UserTasks::Entry& entry = user->second->entries.at(at->second);
  if (entry.hash != hash)
    return fail(Code::alreadyExists,
                fmt::format("detach: the key '{}' belongs to task {}, which has another spec",
                            base::printable(key), entry.task->id()),
                "Repeat the spec as it was, or use another key.");
  entry.task->renew();
  return Found{kj::addRef(*entry.task), true};
}

Result<Users::Found> Users::submit(const sched::AccountRef& account, schema::Detach::Reader detach,
                                   const SpecHash& hash, TaskShares shares, sched::TaskSpec spec) {
  const Options& options = hub_.options;
  std::string key = edge::str(detach.getKey());
  if (key.size() > kDetachKeyBytesMax)
    return fail(Code::invalidArgument, fmt::format("detach: the key has {} bytes; at most {}",
                                                   key.size(), kDetachKeyBytesMax));
  if (detach.getLeaseMs() > options.detach_lease_ms_max)
    return fail(Code::invalidArgument,
                fmt::format("detach: a lease of {} ms; at most {}", detach.getLeaseMs(),
                            options.detach_lease_ms_max),
                "Every call on the task renews its lease.");
  if (spec.live_output)
    return fail(Code::invalidArgument, "detach: `output` is given; a detached task's is captured");
  if (spec.stdin_open)
    return fail(Code::invalidArgument, "detach: `stdinOpen`; nobody may be there to write",
                "Give all of stdin in `stdinData`.");
  std::optional<uint32_t> kept;
  if (!key.empty() && options.keys) {
    MAYFLY_TRY(kept, options.keys->keep(account.userName(), key, detach.getLeaseMs(), unixMs()));
  }
  auto user = users_.find(account.user());
  if (user == users_.end())
    user = users_.emplace(account.user(), kj::refcounted<UserTasks>(hub_, account)).first;
  UserTasks& mine = *user->second;
  auto task = kj::refcounted<TaskState>(kj::addRef(mine), std::move(shares), nullptr,
                                        detach.getLeaseMs() * kj::MILLISECONDS);
  if (auto submitted = task->submit(std::move(spec)); !submitted) {
    if (mine.entries.empty()) users_.erase(user);
    if (kept) drop(*kept);
    return fail(std::move(submitted).error());
  }
  if (!key.empty()) mine.by_key.emplace(key, task.get());
  mine.entries.emplace(task.get(), UserTasks::Entry{kj::addRef(*task), std::move(key), hash, kept});
  return Found{kj::mv(task), false};
}

Result<kj::Own<TaskState>> Users::find(const sched::AccountRef& account, TaskId id,
                                       const std::string& key) {
  auto user = users_.find(account.user());
  if (user != users_.end()) {
    for (auto& [task, entry] : user->second->entries) {
      if (key.empty() ? id == 0 || entry.task->id() != id : entry.key != key) continue;
      entry.task->renew();
      return kj::addRef(*entry.task);
    }
  }
  if (const std::string since = hub_.core.restartedSince(id); key.empty() && !since.empty())
    return fail(Code::notFound,
                fmt::format("find: the daemon was restarted at {}; task {} and its result ended "
                            "with its earlier run",
                            since, id),
                "Submit the task again.");
  if (!key.empty() && !notLost(account, key))
    return fail(Code::notFound,
                fmt::format("find: the daemon was restarted at {}; the task with the key '{}' may "
                            "have run, and its result ended with the earlier run",
                            hub_.options.keys->since(), base::printable(key)),
                "Check what the task did, then submit it with another key.");
  return fail(Code::notFound,
              key.empty() ? fmt::format("find: this user has no detached task {}", id)
                          : fmt::format("find: this user has no detached task with the key '{}'",
                                        base::printable(key)),
              "It was never submitted, was closed, or its lease is over.");
}

void Users::list(const sched::AccountRef& account, schema::Mayfly::DetachedResults::Builder out) {
  auto user = users_.find(account.user());
  if (user == users_.end()) return;
  std::vector<UserTasks::Entry*> all;
  for (auto& [task, entry] : user->second->entries) all.push_back(&entry);
  std::sort(all.begin(), all.end(), [](const UserTasks::Entry* a, const UserTasks::Entry* b) {
    return a->task->id() < b->task->id();
  });
  auto list = out.initTasks(static_cast<unsigned>(all.size()));
  for (unsigned i = 0; i < all.size(); ++i) {
    TaskState& task = *all[i]->task;
    put(list[i].initTask(), task.info(), true);
    list[i].setKey(edge::text(all[i]->key));
    kj::Duration left = task.lease();
    KJ_IF_MAYBE (begun, hub_.leases.left(task)) left = *begun;
    list[i].setLeaseLeftMs(static_cast<uint32_t>(left / kj::MILLISECONDS));
  }
}

bool Users::owns(const sched::AccountRef& account, sched::OwnerId owner) const {
  auto user = users_.find(account.user());
  return user != users_.end() && user->second->id == owner;
}

}  // namespace mayfly::rpc
