// Detached tasks: they belong to a user, outlive the connection that submitted
// them, and are found by id or by the user's own key.
//
// A key makes submit idempotent: while its task is kept, a submit with the same key
// and the same spec returns that task. Specs are compared by a hash of their
// canonical form. Tasks and results end with the daemon; keys do not
// (kept_keys.h): a key of an earlier run is refused.
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
// Hashes in steps of bounded size; other events run between two steps.
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
  // Finds the kept task that has the key. alreadyExists: the task has another spec. Call it before
  // checking anything else in a spec: the blobs of a repeated spec, for example, may have expired.
  base::Result<std::optional<Found>> known(const sched::AccountRef& account, const std::string& key,
                                           const SpecHash& hash);
  // Submits a new task, after checking the bounds in `detach`. No kept task may have its key.
  base::Result<Found> submit(const sched::AccountRef& account, schema::Detach::Reader detach,
                             const SpecHash& hash, TaskShares shares, sched::TaskSpec spec);
  // Finds by the key, or by `id` if the key is empty.
  base::Result<kj::Own<TaskState>> find(const sched::AccountRef& account, base::TaskId id,
                                        const std::string& key);
  // The user's kept tasks, by id.
  void list(const sched::AccountRef& account, schema::Mayfly::DetachedResults::Builder out);
  // Whether a task that the core lists under `owner` is a detached task of this user.
  bool owns(const sched::AccountRef& account, sched::OwnerId owner) const;

 private:
  friend class UserTasks;
  base::Result<std::optional<Found>> notLost(const sched::AccountRef& account,
                                             const std::string& key) const;
  void drop(uint32_t kept_key);

  Hub& hub_;
  std::unordered_map<sched::AccountId, kj::Own<UserTasks>> users_;  // only users that have tasks
};

}  // namespace mayfly::rpc
