// The book of accounts. For each resource that clients can use up, it counts the holdings of every
// user, every tenant and all users together, and bounds them.
//
// The edge proves the user: a peer's uid, later a token's subject. A client cannot choose its user,
// so every bound applies to the user. A tenant is a name that the client chooses below its user.
// Its bounds keep one tenant from taking its user's whole share. A tenant's holdings count for its
// user, too: more tenants, or more connections, give nobody a larger share.
//
// Layer: sched. Pure. One thread. Refs and shares must not outlive the book.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace mayfly::sched {

// The counted resources. Bounds on the resources of tasks apply to tenants, too. Bounds on the
// resources of connections apply to users only, because a connection names no tenant.
enum class Resource : uint8_t {
  // of tasks
  queuedTasks,
  runningTasks,  // tasks that hold a slot
  openTasks,     // not yet closed or forgotten
  detachedTasks,
  inputBytes,        // code, files and stdin that the daemon holds
  outputBytes,       // output of tasks, held or still possible
  outFileBytes,      // collected output files
  spools,            // files of collected output, each a descriptor
  quarantinedBoxes,  // with incomplete receipts
  // of connections
  connections,
  calls,         // unreturned
  answers,       // not yet finished by the client
  handles,       // objects that the client has not released
  requestBytes,  // of calls in flight
  unsentBytes,   // answers that the client has not read
  blobs,         // uploads, too
  blobBytes,     // an upload counts in full from its start
  tenants,       // below a user
};
inline constexpr size_t kResources = 18;
inline constexpr size_t kTaskResources = 9;  // the first ones
std::string_view name(Resource resource);    // "queuedTasks" ...

inline constexpr uint64_t kUnbounded = UINT64_MAX;

// The bounds on one resource. Each user has `user_own` whatever the others hold; all holdings
// beyond it come out of one pool. So all together hold at most pool_max + users * user_own.
struct ShareBounds {
  uint64_t pool_max = kUnbounded;
  uint64_t user_own = 0;
  uint64_t user_max = kUnbounded;    // of one user, its own part and its tenants included
  uint64_t tenant_max = kUnbounded;  // of one tenant
};

// Every bound, with the defaults of docs/decisions/0016-accounts.md.
class AccountBounds {
 public:
  AccountBounds();
  // Sets the pool's total. A user may hold the resource's usual part of it, or `user_max`; a tenant
  // the usual part of its user's. No bound is 0 unless the total is. A user's own part is the usual
  // one, but at most a 64th of the pool.
  void setPool(Resource resource, uint64_t pool_max);
  void setPool(Resource resource, uint64_t pool_max, uint64_t user_max);
  ShareBounds& of(Resource resource) { return of_[static_cast<size_t>(resource)]; }
  const ShareBounds& of(Resource resource) const { return of_[static_cast<size_t>(resource)]; }

  uint32_t users_max = 1'024;  // known at once; one that sees all is admitted beyond this

 private:
  std::array<ShareBounds, kResources> of_;
};

inline constexpr size_t kTenantBytesMax = 64;

// The account of a client; resolved once, at the edge.
struct Account {
  std::string user;    // as ofPeer and ofSubject write it: two kinds of users never meet
  std::string tenant;  // empty: the user itself
  bool sees_all = false;

  // The gid is not part of the user: a process could choose among its groups and get a share for
  // each.
  static Account ofPeer(uint32_t uid, std::string_view tenant = {});
  static Account ofSubject(std::string_view subject, std::string_view tenant, bool sees_all);
};

// A known account: a tenant's, or a user's without a tenant. Never reused.
enum class AccountId : uint64_t { none = 0 };

class Accounts;

// A counted reference that keeps its account in the book. Empty: no account. Copies are cheap.
class AccountRef {
 public:
  AccountRef() = default;
  AccountRef(const AccountRef& other) noexcept { *this = other; }
  AccountRef(AccountRef&& other) noexcept { *this = std::move(other); }
  AccountRef& operator=(const AccountRef& other) noexcept;
  AccountRef& operator=(AccountRef&& other) noexcept;
  ~AccountRef() { reset(); }
  explicit operator bool() const { return book_ != nullptr; }
  void reset();

  AccountId id() const;
  AccountId user() const;  // the user's account; id() if this is one
  // A unique name that stays valid after the account has left the book, for objects that live
  // longer than that (a tenant's zygote).
  std::string key() const;
  // As in Account, valid as long as the ref. An empty ref has neither name, a user no tenant's.
  std::string_view userName() const;
  std::string_view tenantName() const;
  // Whether this account may see and end the tasks of `owner`. A user sees its tenants' tasks, a
  // tenant only its own. Nobody sees the daemon's own tasks.
  bool sees(AccountId owner) const;

 private:
  friend class Accounts;
  friend class Share;
  Accounts* book_ = nullptr;
  uint32_t slot_ = 0;
  bool sees_all_ = false;
};

// An amount of a resource that an account holds. Its destructor returns the amount: connections and
// tasks end on many paths, and a count that is never returned refuses its client for ever.
class Share {
 public:
  Share() = default;
  Share(Share&& other) noexcept { *this = std::move(other); }
  Share& operator=(Share&& other) noexcept;
  ~Share() { reset(); }
  explicit operator bool() const { return static_cast<bool>(whose_); }
  uint64_t amount() const { return amount_; }
  const AccountRef& whose() const { return whose_; }
  // Takes more, or refuses and changes nothing.
  base::Status grow(uint64_t more);
  // Returns a part; at most all.
  void shrink(uint64_t less);
  // Sets the amount, even beyond the bounds.
  void settle(uint64_t amount);
  void reset();

 private:
  friend class Accounts;
  AccountRef whose_;
  Resource resource_ = Resource::queuedTasks;
  uint64_t amount_ = 0;
};

class Accounts {
 public:
  explicit Accounts(AccountBounds bounds = {});
  Accounts(const Accounts&) = delete;
  Accounts& operator=(const Accounts&) = delete;

  // The account; it is known as long as a ref or share of it exists.
  base::Result<AccountRef> open(const Account& who);
  // A tenant of the account's user; the account itself if `tenant` is empty. permissionDenied if
  // the account is of another tenant.
  base::Result<AccountRef> openTenant(const AccountRef& whose, std::string_view tenant);
  // The daemon's own account, for its own holdings: counted, and bounded only by the pools.
  AccountRef daemon();

  // Takes `amount`, or names the bound of tenant, user or pool that refuses it: resourceExhausted,
  // or invalidArgument if it can never fit. A refusal changes nothing.
  base::Result<Share> take(const AccountRef& whose, Resource resource, uint64_t amount = 1);
  base::Status accepts(const AccountRef& whose, Resource resource, uint64_t amount = 1) const;
  // Like accepts(), but returns only whose bound refuses: the account's (or its user's), or the
  // pool's.
  enum class Room : uint8_t { yes, noneOfAccount, noneOfPool };
  Room roomFor(const AccountRef& whose, Resource resource, uint64_t amount = 1) const;
  bool fits(const AccountRef& whose, Resource resource, uint64_t amount = 1) const {
    return roomFor(whose, resource, amount) == Room::yes;
  }
  // Whose bound refuses it; none if none does.
  enum class Level : uint8_t { tenant, user, pool };
  std::optional<Level> refusedBy(const AccountRef& whose, Resource resource,
                                 uint64_t amount = 1) const;
  // Counts an amount that cannot be refused, even beyond the bounds. Beyond them accepts() refuses.
  Share charge(const AccountRef& whose, Resource resource, uint64_t amount = 1);

  uint64_t used(const AccountRef& whose, Resource resource) const;
  uint64_t usedByAll(Resource resource) const { return all_[static_cast<size_t>(resource)]; }
  // Known accounts, without the daemon's.
  size_t known() const { return users_.size() + all_[static_cast<size_t>(Resource::tenants)]; }
  size_t slotsMade() const { return nodes_.size(); }
  const AccountBounds& bounds() const { return bounds_; }
  // Whether every sum equals the sum of its parts; for tests.
  bool sumsAreRight() const;

 private:
  friend class AccountRef;
  friend class Share;
  struct Node {
    uint64_t lives = 0;  // of this slot's accounts so far, the present one included
    uint32_t user = 0;   // the slot of its user; its own if it is a user
    uint32_t refs = 0;   // 0: the slot is free
    std::string name;    // of the user, or of the tenant within it
    std::array<uint64_t, kResources> used{};
    std::map<std::string, uint32_t, std::less<>> tenants;  // a user's tenants: their slots
  };
  struct Breach {  // of a bound
    Level level = Level::tenant;
    uint64_t held = 0, max = 0;
    bool for_ever = false;  // it would not fit even if nothing else were held
  };

  AccountId idOf(uint32_t slot) const;
  const Node* find(AccountId id) const;
  uint32_t begin(std::string_view name);
  void release(uint32_t slot);
  AccountRef refTo(uint32_t slot, bool sees_all);
  uint64_t beyondOwn(Resource resource, uint64_t held) const;
  std::optional<Breach> breachOf(uint32_t slot, Resource resource, uint64_t amount) const;
  base::Error refusal(uint32_t slot, Resource resource, uint64_t amount,
                      const Breach& breach) const;
  void add(uint32_t slot, Resource resource, uint64_t amount);
  void give(uint32_t slot, Resource resource, uint64_t amount);

  AccountBounds bounds_;
  // Invariants: a user's `used` is the sum taken for itself and its tenants; all_ is the users'
  // sum, pool_ the sum of each user's holdings beyond its own part. A tenant holds a ref of its
  // user.
  std::deque<Node> nodes_;  // by slot; 0 is the daemon's
  std::deque<uint32_t> free_;
  std::map<std::string, uint32_t, std::less<>> users_;
  std::array<uint64_t, kResources> all_{}, pool_{};
};

}  // namespace mayfly::sched
