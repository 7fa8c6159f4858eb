// The book of accounts: what each user, each of its tenants, and all of them together
// hold of every resource that a client can use up, and how much each may hold.
//
// A user is what the edge proves: a peer's uid, later a token's subject. A client cannot
// choose it, so every bound binds there. A tenant is a name that the client chooses below
// its user: its bounds keep a user's tenants apart, and what a tenant holds its user holds,
// too. So more tenants, or more connections, give nobody a larger share.
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

// What is counted. Those of tasks bind tenants, too; those of connections bind users only, for
// a connection is its user's and names no tenant.
enum class Resource : uint8_t {
  // of tasks
  queuedTasks,
  runningTasks,  // that hold a slot
  openTasks,     // that are not closed or forgotten
  detachedTasks,
  inputBytes,        // code, files and stdin that the daemon holds
  outputBytes,       // what tasks printed, or may come to
  outFileBytes,      // collected
  quarantinedBoxes,  // whose receipts are incomplete
  // of connections
  connections,
  calls,         // that have not returned
  answers,       // that the client has not finished
  handles,       // objects that the client has not released
  requestBytes,  // of calls in flight
  unsentBytes,   // of answers that the client has not read
  blobs,         // and uploads
  blobBytes,     // of uploads from their start
  tenants,       // accounts below the user
};
inline constexpr size_t kResources = 17;
inline constexpr size_t kTaskResources = 8;  // the first ones
std::string_view name(Resource resource);    // "queuedTasks" ...

inline constexpr uint64_t kUnbounded = UINT64_MAX;

// How much may be held of one resource. Each user has `user_own` whatever the others hold; what
// users hold beyond it comes out of one pool. So all together hold at most
// pool_max + users * user_own.
struct ShareBounds {
  uint64_t pool_max = kUnbounded;
  uint64_t user_own = 0;
  uint64_t user_max = kUnbounded;    // its own part and its tenants included
  uint64_t tenant_max = kUnbounded;  // of one tenant
};

// Every bound. Made with the defaults of docs/decisions/0016-accounts.md.
class AccountBounds {
 public:
  AccountBounds();
  // A host's total. A user may hold the resource's usual part of it, or `user_max`, and a tenant
  // the usual part of its user's; nobody's part is 0 unless the total is. A user's own is the
  // usual one, or a 64th of a small total.
  void setPool(Resource resource, uint64_t pool_max);
  void setPool(Resource resource, uint64_t pool_max, uint64_t user_max);
  ShareBounds& of(Resource resource) { return of_[static_cast<size_t>(resource)]; }
  const ShareBounds& of(Resource resource) const { return of_[static_cast<size_t>(resource)]; }

  uint32_t users_max = 1'024;  // known at once; one that sees all is let in beyond them

 private:
  std::array<ShareBounds, kResources> of_;
};

inline constexpr size_t kTenantBytesMax = 64;

// Whose; resolved once, at the edge.
struct Account {
  std::string user;    // as ofPeer and ofSubject write it: two kinds of users never meet
  std::string tenant;  // empty: the user itself
  bool sees_all = false;

  // The gid is no part of it: a process chooses among its groups, and would get a share for each.
  static Account ofPeer(uint32_t uid, std::string_view tenant = {});
  static Account ofSubject(std::string_view subject, std::string_view tenant, bool sees_all);
};

// An account while it is known: of a tenant, or of a user without one. Never reused.
enum class AccountId : uint64_t { none = 0 };

class Accounts;

// Keeps an account known. Empty: nobody's. Copying is cheap.
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
  AccountId user() const;  // the user's account; id() where it is one
  // Names the account beyond its time in the book, for what outlives it (a tenant's zygote). No two
  // accounts have the same.
  std::string key() const;
  // As in Account; valid as long as the ref. Empty: nobody's, or no tenant.
  std::string_view userName() const;
  std::string_view tenantName() const;
  // Whether tasks of `owner` may be shown to and ended by this account. A user sees its tenants'
  // tasks, a tenant its own only. Nobody sees the daemon's own.
  bool sees(AccountId owner) const;

 private:
  friend class Accounts;
  friend class Share;
  Accounts* book_ = nullptr;
  uint32_t slot_ = 0;
  bool sees_all_ = false;
};

// So much of a resource that an account holds. Its end gives it back: the ends of connections and
// tasks have many paths, and a bound that leaks refuses its client for ever.
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
  // Gives some back; at most all.
  void shrink(uint64_t less);
  // What it has come to, whatever the bounds say.
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

  // The account, known from here on as long as a ref or share of it is left.
  base::Result<AccountRef> open(const Account& who);
  // A tenant of the account's user; the account itself where `tenant` is empty. An account that is
  // bound to a tenant opens no other.
  base::Result<AccountRef> openTenant(const AccountRef& whose, std::string_view tenant);
  // The daemon's own account, for what it holds itself: counted, bound by nothing but the pools.
  AccountRef daemon();

  // Takes `amount`, or says which bound of the tenant, the user or the pool refuses it:
  // resourceExhausted, or invalidArgument where it can never fit. A refusal changes nothing.
  base::Result<Share> take(const AccountRef& whose, Resource resource, uint64_t amount = 1);
  base::Status accepts(const AccountRef& whose, Resource resource, uint64_t amount = 1) const;
  // Whether it would fit, without words; else whose bound it breaks.
  enum class Room : uint8_t { yes, noneOfAccount, noneOfPool };
  Room roomFor(const AccountRef& whose, Resource resource, uint64_t amount = 1) const;
  bool fits(const AccountRef& whose, Resource resource, uint64_t amount = 1) const {
    return roomFor(whose, resource, amount) == Room::yes;
  }
  // Whether the account's user would hold some of the pool with so much more.
  bool drawsOnPool(const AccountRef& whose, Resource resource, uint64_t amount = 0) const;
  // Counts what has happened already, within the bounds or not. Beyond them accepts() refuses.
  Share charge(const AccountRef& whose, Resource resource, uint64_t amount = 1);

  uint64_t used(const AccountRef& whose, Resource resource) const;
  uint64_t usedByAll(Resource resource) const { return all_[static_cast<size_t>(resource)]; }
  // Accounts, the daemon's not counted.
  size_t known() const { return users_.size() + all_[static_cast<size_t>(Resource::tenants)]; }
  size_t slotsMade() const { return nodes_.size(); }
  const AccountBounds& bounds() const { return bounds_; }
  // Whether every sum is what its parts make; for tests.
  bool sumsAreRight() const;

 private:
  friend class AccountRef;
  friend class Share;
  struct Node {
    uint64_t lives = 0;  // that the slot has had, this one included
    uint32_t user = 0;   // the slot of its user; its own where it is one
    uint32_t refs = 0;   // 0: the slot is free
    std::string name;    // of the user, or of the tenant within it
    std::array<uint64_t, kResources> used{};
    std::map<std::string, uint32_t, std::less<>> tenants;  // of a user: their slots
  };
  enum class Level : uint8_t { tenant, user, pool };
  struct Breach {  // of a bound
    Level level = Level::tenant;
    uint64_t held = 0, max = 0;
    bool for_ever = false;  // it does not fit beside nothing either
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
  // Invariants: a user's `used` is what was taken for itself and its tenants; all_ is the users'
  // sum, pool_ the sum of what each has beyond its own. A tenant holds a ref of its user.
  std::deque<Node> nodes_;  // by slot; 0 is the daemon's
  std::deque<uint32_t> free_;
  std::map<std::string, uint32_t, std::less<>> users_;
  std::array<uint64_t, kResources> all_{}, pool_{};
};

}  // namespace mayfly::sched
