#include "sched/accounts.h"

#include <algorithm>

#include "base/text.h"

namespace mayfly::sched {

using base::Code;
using base::Error;
using base::fail;

namespace {

constexpr uint32_t kSlotBits = 24;
constexpr uint32_t kSlotsMax = 1u << kSlotBits;
constexpr uint64_t kMiB = 1ull << 20, kGiB = 1ull << 30;
constexpr uint64_t kOwnPartLeast = 64;  // a user's own part is at most 1/64 of the pool
constexpr uint32_t kProofMs = 1'000;    // a missing proof may arrive in this time

// One resource's bounds, and the words of its refusals.
struct Row {
  std::string_view name;
  std::string_view unit;  // "tasks in the queue"; for bytes: "<amount> of <unit>"
  enum class In : uint8_t { pieces, bytes } in;
  uint64_t pool_max;
  uint64_t user_own;
  uint32_t user_part;    // of the pool, in 32nds
  uint32_t tenant_part;  // of its user's, in 32nds; 32: only the user's bound applies
  // Suggested wait if the refusing bound is the account's own; 0: its own calls free the resource.
  uint32_t own_retry_ms;
  uint32_t pool_retry_ms;
  std::string_view advice;
};

using In = Row::In;
constexpr std::string_view kClose = "Close tasks whose results were read, or try again later.";
constexpr std::string_view kWait = "Wait for some of them to end.";
constexpr Row kRows[kResources] = {
    {"queuedTasks", "tasks in the queue", In::pieces, 1'024, 4, 30, 30, base::kRetryMs,
     base::kRetryMs, kWait},
    {"runningTasks", "tasks with a box", In::pieces, 4'096, 0, 32, 32, base::kRetryMs,
     base::kRetryMs, kWait},
    {"openTasks", "unclosed tasks", In::pieces, 4'096, 4, 24, 28, 0, base::kRetryMs, kClose},
    {"detachedTasks", "unclosed detached tasks", In::pieces, 4'096, 0, 2, 28, 0, base::kRetryMs,
     kClose},
    {"inputBytes", "input of waiting tasks", In::bytes, kGiB, 8 * kMiB, 24, 24, base::kRetryMs,
     base::kRetryMs, "Try again later."},
    {"outputBytes", "output of unclosed tasks, held or still possible", In::bytes, 2 * kGiB,
     4 * kMiB, 24, 24, base::kRetryMs, base::kRetryMs, kClose},
    {"outFileBytes", "output files of unclosed tasks", In::bytes, 2 * kGiB, 0, 16, 24,
     base::kRetryMs, base::kRetryMs, kClose},
    {"spools", "tasks that are not closed and left output files", In::pieces, 4'096, 0, 16, 24,
     base::kRetryMs, base::kRetryMs, kClose},
    {"quarantinedBoxes", "boxes in quarantine with incomplete receipts", In::pieces, 32, 0, 16, 16,
     kProofMs, kProofMs, "The daemon's log says which proof is missing."},
    {"connections", "connections", In::pieces, 256, 2, 31, 32, base::kRetryMs, base::kRetryMs,
     "Use one connection for many tasks, or try later."},
    {"calls", "unreturned calls", In::pieces, 65'536, 64, 16, 32, 0, base::kRetryMs,
     "Wait for earlier calls."},
    {"answers", "answered calls that the client has not finished", In::pieces, 1'048'576, 4'096, 16,
     32, 0, base::kRetryMs, "Finish them."},
    {"handles", "unreleased tasks and uploads", In::pieces, 524'288, 64, 16, 32, 0, base::kRetryMs,
     "Release them, or connect anew."},
    {"requestBytes", "requests in progress", In::bytes, 512 * kMiB, 256u << 10, 24, 32,
     base::kRetryMs, base::kRetryMs, "Wait for earlier calls."},
    {"unsentBytes", "unread answers", In::bytes, 256 * kMiB, 256u << 10, 24, 32, 0, base::kRetryMs,
     "Read the answers."},
    {"blobs", "blobs and uploads", In::pieces, 4'096, 0, 8, 32, 0, base::kRetryMs,
     "Unused blobs give way by themselves: wait until tasks have started and uploads ended."},
    {"blobBytes", "blobs and uploads", In::bytes, kGiB, 0, 16, 32, 0, base::kRetryMs,
     "Unused blobs give way by themselves: wait until tasks have started and uploads ended."},
    {"tenants", "tenants with tasks", In::pieces, 4'096, 16, 8, 32, base::kRetryMs, base::kRetryMs,
     "Wait until some tenants' tasks have ended."},
};

constexpr size_t indexOf(Resource resource) { return static_cast<size_t>(resource); }
const Row& rowOf(Resource resource) { return kRows[indexOf(resource)]; }

uint64_t partOf(uint64_t whole, uint32_t part) {
  if (whole == kUnbounded) return kUnbounded;
  return std::max<uint64_t>(whole - whole / 32 * (32 - part) - whole % 32 * (32 - part) / 32,
                            std::min<uint64_t>(whole, 1));
}

bool within(uint64_t held, uint64_t amount, uint64_t max) {
  return held <= max && amount <= max - held;
}

std::string amountOf(const Row& row, uint64_t amount) {
  return row.in == In::bytes ? base::humanBytes(amount) + " of" : std::to_string(amount);
}

}  // namespace

std::string_view name(Resource resource) { return rowOf(resource).name; }

// --- bounds --------------------------------------------------------------------------

AccountBounds::AccountBounds() {
  for (size_t i = 0; i < kResources; ++i) setPool(static_cast<Resource>(i), kRows[i].pool_max);
}

void AccountBounds::setPool(Resource resource, uint64_t pool_max) {
  setPool(resource, pool_max, partOf(pool_max, rowOf(resource).user_part));
}

void AccountBounds::setPool(Resource resource, uint64_t pool_max, uint64_t user_max) {
  ShareBounds& b = of(resource);
  b.pool_max = pool_max;
  b.user_own = std::min(rowOf(resource).user_own, pool_max / kOwnPartLeast);
  b.user_max = user_max;
  b.tenant_max = partOf(user_max, rowOf(resource).tenant_part);
}

// --- accounts ------------------------------------------------------------------------

Account Account::ofPeer(uint32_t uid, std::string_view tenant) {
  return {"uid:" + std::to_string(uid), std::string(tenant), uid == 0};
}

Account Account::ofSubject(std::string_view subject, std::string_view tenant, bool sees_all) {
  return {"subject:" + std::string(subject), std::string(tenant), sees_all};
}

AccountRef& AccountRef::operator=(const AccountRef& other) noexcept {
  if (this == &other) return *this;
  if (other.book_ != nullptr) ++other.book_->nodes_[other.slot_].refs;
  reset();
  book_ = other.book_;
  slot_ = other.slot_;
  sees_all_ = other.sees_all_;
  return *this;
}

AccountRef& AccountRef::operator=(AccountRef&& other) noexcept {
  if (this == &other) return *this;
  reset();
  book_ = std::exchange(other.book_, nullptr);
  slot_ = other.slot_;
  sees_all_ = other.sees_all_;
  return *this;
}

void AccountRef::reset() {
  if (Accounts* book = std::exchange(book_, nullptr)) book->release(slot_);
}

AccountId AccountRef::id() const { return book_ != nullptr ? book_->idOf(slot_) : AccountId::none; }

AccountId AccountRef::user() const {
  return book_ != nullptr ? book_->idOf(book_->nodes_[slot_].user) : AccountId::none;
}

// The length of the user's name marks its end: a subject may hold any character.
std::string AccountRef::key() const {
  if (book_ == nullptr) return {};
  const Accounts::Node& mine = book_->nodes_[slot_];
  const Accounts::Node& user = book_->nodes_[mine.user];
  std::string key = std::to_string(user.name.size()) + ":" + user.name;
  return &user == &mine ? key : key + "/" + mine.name;
}

std::string_view AccountRef::userName() const {
  return book_ != nullptr ? book_->nodes_[book_->nodes_[slot_].user].name : std::string_view();
}

std::string_view AccountRef::tenantName() const {
  return book_ != nullptr && book_->nodes_[slot_].user != slot_ ? book_->nodes_[slot_].name
                                                                : std::string_view();
}

bool AccountRef::sees(AccountId owner) const {
  const Accounts::Node* its = book_ != nullptr ? book_->find(owner) : nullptr;
  if (its == nullptr || its == &book_->nodes_.front()) return false;
  const Accounts::Node* mine = &book_->nodes_[slot_];
  return sees_all_ || its == mine || &book_->nodes_[its->user] == mine;
}

// --- shares --------------------------------------------------------------------------

Share& Share::operator=(Share&& other) noexcept {
  if (this == &other) return *this;
  reset();
  whose_ = std::move(other.whose_);
  resource_ = other.resource_;
  amount_ = std::exchange(other.amount_, 0);
  return *this;
}

base::Status Share::grow(uint64_t more) {
  if (!whose_) return fail(Code::internal, "a share of nobody's cannot grow");
  MAYFLY_CHECK(whose_.book_->accepts(whose_, resource_, more));
  settle(amount_ + more);
  return base::Unit{};
}

void Share::shrink(uint64_t less) { settle(amount_ - std::min(less, amount_)); }

void Share::settle(uint64_t amount) {
  if (!whose_) return;
  if (amount > amount_)
    whose_.book_->add(whose_.slot_, resource_, amount - amount_);
  else
    whose_.book_->give(whose_.slot_, resource_, amount_ - amount);
  amount_ = amount;
}

void Share::reset() {
  settle(0);
  whose_.reset();
}

// --- the book ------------------------------------------------------------------------

Accounts::Accounts(AccountBounds bounds) : bounds_(bounds) {
  Node& own = nodes_.emplace_back();
  own.lives = own.refs = 1;
  own.name = "daemon";
}

AccountId Accounts::idOf(uint32_t slot) const {
  return static_cast<AccountId>(nodes_[slot].lives << kSlotBits | slot);
}

const Accounts::Node* Accounts::find(AccountId id) const {
  auto number = static_cast<uint64_t>(id);
  uint64_t slot = number % kSlotsMax;
  if (slot >= nodes_.size()) return nullptr;
  const Node& node = nodes_[slot];
  return node.refs > 0 && node.lives == number >> kSlotBits ? &node : nullptr;
}

AccountRef Accounts::refTo(uint32_t slot, bool sees_all) {
  AccountRef ref;
  ref.book_ = this;
  ref.slot_ = slot;
  ref.sees_all_ = sees_all;
  ++nodes_[slot].refs;
  return ref;
}

AccountRef Accounts::daemon() { return refTo(0, false); }

// A slot for a new account, without a ref yet.
uint32_t Accounts::begin(std::string_view name) {
  uint32_t slot = 0;
  if (free_.empty()) {
    slot = static_cast<uint32_t>(nodes_.size());
    nodes_.emplace_back();
  } else {
    slot = free_.front();
    free_.pop_front();
  }
  Node& node = nodes_[slot];
  ++node.lives;
  node.user = slot;
  node.name = name;
  return slot;
}

base::Result<AccountRef> Accounts::open(const Account& who) {
  // Only bounds that are set far too wide lead here.
  if (free_.empty() && nodes_.size() >= kSlotsMax)
    return fail(Code::resourceExhausted, "the daemon knows too many accounts", "Try again later.",
                base::kRetryMs);
  AccountRef user;
  if (auto at = users_.find(who.user); at != users_.end()) {
    user = refTo(at->second, who.sees_all);
  } else {
    if (!who.sees_all && users_.size() >= bounds_.users_max)
      return fail(
          Code::resourceExhausted,
          "the daemon serves " + std::to_string(users_.size()) + " users, the most at a time",
          "Try again later.", base::kRetryMs);
    user = refTo(users_.emplace(who.user, begin(who.user)).first->second, who.sees_all);
  }
  return openTenant(user, who.tenant);
}

base::Result<AccountRef> Accounts::openTenant(const AccountRef& whose, std::string_view tenant) {
  if (whose.book_ != this) return fail(Code::internal, "a tenant of nobody's");
  if (tenant.empty() || tenant == whose.tenantName()) return whose;
  if (!whose.tenantName().empty())
    return fail(Code::permissionDenied,
                "this client acts for tenant '" + base::printable(whose.tenantName(), 80) +
                    "', not for '" + base::printable(tenant, 80) + "'",
                "Leave `tenant` empty.");
  if (tenant.size() > kTenantBytesMax)
    return fail(Code::invalidArgument, "the tenant's name has " + std::to_string(tenant.size()) +
                                           " bytes; at most " + std::to_string(kTenantBytesMax));
  if (base::printable(tenant, 4 * kTenantBytesMax) != tenant)
    return fail(Code::invalidArgument, "the tenant's name '" + base::printable(tenant, 80) +
                                           "' holds an unprintable character");
  const uint32_t user = whose.slot_;
  if (auto at = nodes_[user].tenants.find(tenant); at != nodes_[user].tenants.end())
    return refTo(at->second, whose.sees_all_);
  if (free_.empty() && nodes_.size() >= kSlotsMax)
    return fail(Code::resourceExhausted, "the daemon knows too many accounts", "Try again later.",
                base::kRetryMs);
  MAYFLY_CHECK(accepts(whose, Resource::tenants));
  uint32_t slot = begin(tenant);
  nodes_[user].tenants.emplace(std::string(tenant), slot);
  nodes_[slot].user = user;
  ++nodes_[user].refs;
  add(user, Resource::tenants, 1);
  return refTo(slot, whose.sees_all_);
}

// Drops a ref. The last one forgets the account, which then holds nothing, because every share has
// a ref.
void Accounts::release(uint32_t slot) {
  Node& node = nodes_[slot];
  if (--node.refs > 0) return;
  const uint32_t user = node.user;
  if (user == slot) {
    users_.erase(node.name);
  } else {
    nodes_[user].tenants.erase(node.name);
    give(user, Resource::tenants, 1);
  }
  node.name = {};
  free_.push_back(slot);
  if (user != slot) release(user);
}

uint64_t Accounts::beyondOwn(Resource resource, uint64_t held) const {
  uint64_t own = bounds_.of(resource).user_own;
  return held > own ? held - own : 0;
}

std::optional<Accounts::Breach> Accounts::breachOf(uint32_t slot, Resource resource,
                                                   uint64_t amount) const {
  const size_t i = indexOf(resource);
  const ShareBounds& b = bounds_.of(resource);
  const Node& node = nodes_[slot];
  const bool is_tenant = node.user != slot, is_daemon = node.user == 0;
  if (is_tenant && !within(node.used[i], amount, b.tenant_max))
    return Breach{Level::tenant, node.used[i], b.tenant_max, amount > b.tenant_max};
  const uint64_t held = nodes_[node.user].used[i];
  if (!is_daemon && !within(held, amount, b.user_max))
    return Breach{Level::user, held, b.user_max, amount > b.user_max};
  if (amount > kUnbounded - held) return Breach{Level::pool, pool_[i], b.pool_max, true};
  const uint64_t more = beyondOwn(resource, held + amount) - beyondOwn(resource, held);
  if (more > 0 && !within(pool_[i], more, b.pool_max))
    return Breach{Level::pool, pool_[i], b.pool_max, beyondOwn(resource, amount) > b.pool_max};
  return std::nullopt;
}

Error Accounts::refusal(uint32_t slot, Resource resource, uint64_t amount,
                        const Breach& breach) const {
  const Row& row = rowOf(resource);
  const bool of_pool = breach.level == Level::pool;
  std::string who, may;
  if (of_pool) {
    who = "beyond what each user has of its own, all have ";
    may = "they may have ";
  } else if (breach.level == Level::user) {
    who = "user " + base::printable(nodes_[nodes_[slot].user].name, 80) + " has ";
    may = "a user may have ";
  } else {
    who = "tenant '" + base::printable(nodes_[slot].name, 80) + "' has ";
    may = "a tenant may have ";
  }
  auto max = row.in == In::bytes ? base::humanBytes(breach.max) : std::to_string(breach.max);
  std::string message =
      who + amountOf(row, breach.held) + " " + std::string(row.unit) + "; " + may + max;
  if (row.in == In::bytes && amount > 1)
    message += ", and the request needs " + base::humanBytes(amount) + " more";
  if (breach.for_ever) return {Code::invalidArgument, std::move(message), "Ask for less.", 0, 0};
  Code code = Code::resourceExhausted;
  if (of_pool && resource == Resource::quarantinedBoxes) {
    code = Code::unavailable;
    message = "the host is not ready: " + message;
  }
  return {code, std::move(message), std::string(row.advice), 0,
          of_pool ? row.pool_retry_ms : row.own_retry_ms};
}

base::Status Accounts::accepts(const AccountRef& whose, Resource resource, uint64_t amount) const {
  if (whose.book_ != this) return fail(Code::internal, "a share is asked for without an account");
  if (auto breach = breachOf(whose.slot_, resource, amount))
    return fail(refusal(whose.slot_, resource, amount, *breach));
  return base::Unit{};
}

Accounts::Room Accounts::roomFor(const AccountRef& whose, Resource resource,
                                 uint64_t amount) const {
  if (whose.book_ != this) return Room::noneOfAccount;
  auto breach = breachOf(whose.slot_, resource, amount);
  if (!breach) return Room::yes;
  return breach->level == Level::pool ? Room::noneOfPool : Room::noneOfAccount;
}

std::optional<Accounts::Level> Accounts::refusedBy(const AccountRef& whose, Resource resource,
                                                   uint64_t amount) const {
  if (whose.book_ != this) return std::nullopt;
  const auto breach = breachOf(whose.slot_, resource, amount);
  return breach ? std::optional(breach->level) : std::nullopt;
}

base::Result<Share> Accounts::take(const AccountRef& whose, Resource resource, uint64_t amount) {
  MAYFLY_CHECK(accepts(whose, resource, amount));
  return charge(whose, resource, amount);
}

Share Accounts::charge(const AccountRef& whose, Resource resource, uint64_t amount) {
  Share share;
  share.whose_ = whose.book_ == this ? whose : daemon();
  share.resource_ = resource;
  share.settle(amount);
  return share;
}

void Accounts::add(uint32_t slot, Resource resource, uint64_t amount) {
  const size_t i = indexOf(resource);
  const uint32_t user = nodes_[slot].user;
  if (user != slot) nodes_[slot].used[i] += amount;
  uint64_t& held = nodes_[user].used[i];
  pool_[i] += beyondOwn(resource, held + amount) - beyondOwn(resource, held);
  held += amount;
  all_[i] += amount;
}

void Accounts::give(uint32_t slot, Resource resource, uint64_t amount) {
  const size_t i = indexOf(resource);
  const uint32_t user = nodes_[slot].user;
  if (user != slot) nodes_[slot].used[i] -= amount;
  uint64_t& held = nodes_[user].used[i];
  pool_[i] -= beyondOwn(resource, held) - beyondOwn(resource, held - amount);
  held -= amount;
  all_[i] -= amount;
}

uint64_t Accounts::used(const AccountRef& whose, Resource resource) const {
  return whose.book_ == this ? nodes_[whose.slot_].used[indexOf(resource)] : 0;
}

bool Accounts::sumsAreRight() const {
  for (size_t i = 0; i < kResources; ++i) {
    uint64_t all = 0, pool = 0;
    for (uint32_t slot = 0; slot < nodes_.size(); ++slot) {
      const Node& node = nodes_[slot];
      if (node.refs == 0 && node.used[i] != 0) return false;
      if (node.refs == 0 || node.user != slot) continue;
      uint64_t tenants = 0;
      for (const auto& [name, tenant] : node.tenants) tenants += nodes_[tenant].used[i];
      if (tenants > node.used[i]) return false;
      all += node.used[i];
      pool += beyondOwn(static_cast<Resource>(i), node.used[i]);
    }
    if (all != all_[i] || pool != pool_[i]) return false;
  }
  return true;
}

}  // namespace mayfly::sched
