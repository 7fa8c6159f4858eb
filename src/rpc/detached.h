// Detached tasks: they belong to a user, outlive the connection that submitted
// them, and are found by id or by the user's own key.
//
// A key makes submit idempotent: as long as its task is kept, a submit with the
// same key and the same spec gives that task. Specs are compared by a hash of
// their canonical form. Tasks and results end with the daemon; keys do not
// (kept_keys.h): one of an earlier run is refused.
//
// Layer: rpc. Core thread.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "base/result.h"
#include "rpc/owner.h"
#include "rpc/task.h"

namespace mayfly::rpc {

inline constexpr size_t kDetachKeyBytesMax = 128;

using SpecHash = std::array<uint8_t, 32>;
// Hashes a large one in steps, between which others have their turn.
kj::Promise<SpecHash> hashOf(schema::TaskSpec::Reader spec);

class UserTasks;

// All users' detached tasks.
class Users {
 public:
  explicit Users(Hub& hub);
  ~Users();
  KJ_DISALLOW_COPY(Users);
  void stop();  // forgets all

  struct Found {
    kj::Own<TaskState> task;
    bool existing;
  };
  // The task that has the key, if one is kept. alreadyExists: it has another spec. To be asked
  // before anything else of a spec is looked at: its blobs, for one, may be gone by now.
  base::Result<std::optional<Found>> known(const sched::AccountRef& account, const std::string& key,
                                           const SpecHash& hash);
  // A new one. Detach says how: its bounds are checked here; no task has its key.
  base::Result<Found> submit(const sched::AccountRef& account, schema::Detach::Reader detach,
                             const SpecHash& hash, TaskShares shares, sched::TaskSpec spec);
  // By the key, or by `id` where the key is empty.
  base::Result<kj::Own<TaskState>> find(const sched::AccountRef& account, base::TaskId id,
                                        const std::string& key);
  // Whether a task of the core's belongs to this user.
  bool owns(const sched::AccountRef& account, sched::OwnerId owner) const;

 private:
  friend class UserTasks;
  base::Result<std::optional<Found>> notLost(const sched::AccountRef& account,
                                             const std::string& key) const;
  void drop(uint32_t kept_key);

  Hub& hub_;
  std::unordered_map<sched::AccountId, kj::Own<UserTasks>> users_;  // each has a task
};

}  // namespace mayfly::rpc
