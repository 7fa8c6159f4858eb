#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "sched/accounts.h"

namespace mayfly::sched {
namespace {

using base::Code;

AccountBounds boundsOf(Resource resource, ShareBounds its) {
  AccountBounds b;
  b.of(resource) = its;
  return b;
}

AccountRef opened(Accounts& book, uint32_t uid, std::string_view tenant = {}) {
  auto ref = book.open(Account::ofPeer(uid, tenant));
  EXPECT_TRUE(ref);
  return ref ? *ref : AccountRef();
}

std::vector<Share> takeAll(Accounts& book, const AccountRef& whose, Resource resource) {
  std::vector<Share> shares;
  while (auto share = book.take(whose, resource)) shares.push_back(std::move(*share));
  return shares;
}

TEST(Accounts, MoreTenantsGiveAUserNoLargerShare) {
  Accounts book(
      boundsOf(Resource::queuedTasks, {.pool_max = 100, .user_max = 10, .tenant_max = 4}));
  std::vector<Share> shares;
  for (int i = 0; i < 50; ++i) {
    auto tenant = opened(book, 1, "t" + std::to_string(i));
    auto its = takeAll(book, tenant, Resource::queuedTasks);
    EXPECT_LE(its.size(), 4u);
    std::move(its.begin(), its.end(), std::back_inserter(shares));
  }
  EXPECT_EQ(shares.size(), 10u);
  auto refused = book.accepts(opened(book, 1, "new"), Resource::queuedTasks);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::resourceExhausted);
  EXPECT_NE(refused.error().message.find("user uid:1 has 10 tasks in the queue"), std::string::npos)
      << refused.error().message;
  EXPECT_GT(refused.error().retry_after_ms, 0u);
  EXPECT_FALSE(refused.error().advice.empty());
  EXPECT_TRUE(book.accepts(opened(book, 2), Resource::queuedTasks));
}

TEST(Accounts, OneTenantLeavesItsUsersOthersSome) {
  Accounts book(boundsOf(Resource::inputBytes, {.user_max = 100, .tenant_max = 60}));
  auto greedy = book.take(opened(book, 1, "a"), Resource::inputBytes, 60);
  ASSERT_TRUE(greedy);
  auto refused = greedy->grow(1);
  EXPECT_EQ(refused.error().code, Code::resourceExhausted);
  EXPECT_NE(refused.error().message.find("tenant 'a'"), std::string::npos);
  EXPECT_EQ(greedy->amount(), 60u);
  EXPECT_TRUE(book.take(opened(book, 1, "b"), Resource::inputBytes, 40));
}

TEST(Accounts, EachUserHasItsOwnPartWhateverTheOthersHold) {
  Accounts book(
      boundsOf(Resource::connections, {.pool_max = 4, .user_own = 2, .user_max = kUnbounded}));
  auto greedy = takeAll(book, opened(book, 1), Resource::connections);
  EXPECT_EQ(greedy.size(), 6u);  // its own part, and the pool
  auto other = opened(book, 2);
  auto own = takeAll(book, other, Resource::connections);
  EXPECT_EQ(own.size(), 2u);
  auto refused = book.accepts(other, Resource::connections);
  EXPECT_NE(refused.error().message.find("all have 4 connections; they may have 4"),
            std::string::npos)
      << refused.error().message;
  greedy.pop_back();
  EXPECT_TRUE(book.accepts(other, Resource::connections));
}

TEST(Accounts, WhatCanNeverFitIsAnInvalidArgument) {
  Accounts book(boundsOf(Resource::blobBytes, {.pool_max = 1'000, .user_own = 1, .user_max = 100}));
  auto user = opened(book, 1);
  EXPECT_EQ(book.take(user, Resource::blobBytes, 101).error().code, Code::invalidArgument);
  EXPECT_EQ(book.take(user, Resource::blobBytes, UINT64_MAX).error().code, Code::invalidArgument);
  auto all = book.take(user, Resource::blobBytes, 100);
  ASSERT_TRUE(all);
  EXPECT_EQ(book.take(user, Resource::blobBytes, 1).error().code, Code::resourceExhausted);
  EXPECT_EQ(book.take(user, Resource::blobBytes, UINT64_MAX).error().code, Code::invalidArgument);
}

TEST(Accounts, AnAccountIsForgottenWhenNothingOfItIsLeft) {
  Accounts book;
  auto user = opened(book, 1);
  auto share = book.take(opened(book, 1, "a"), Resource::queuedTasks);
  ASSERT_TRUE(share);
  EXPECT_EQ(book.known(), 2u);
  AccountId tenant = share->whose().id();
  EXPECT_EQ(opened(book, 1, "a").id(), tenant);
  user.reset();
  EXPECT_EQ(book.known(), 2u);  // the tenant's user
  share->reset();
  EXPECT_EQ(book.known(), 0u);
  auto again = opened(book, 1, "a");
  EXPECT_NE(again.id(), tenant);
  EXPECT_FALSE(opened(book, 0).sees(tenant));
  EXPECT_TRUE(opened(book, 0).sees(again.id()));
}

TEST(Accounts, NamesOfTenantsDoNotGrowTheBook) {
  Accounts book;
  auto user = opened(book, 1);
  for (int i = 0; i < 100'000; ++i) ASSERT_TRUE(opened(book, 1, std::to_string(i)));
  EXPECT_EQ(book.known(), 1u);
  EXPECT_LE(book.slotsMade(), 3u);
}

TEST(Accounts, TenantsThatAreKeptAreBoundedPerUserAndInAll) {
  AccountBounds bounds = boundsOf(Resource::tenants, {.pool_max = 6, .user_own = 1, .user_max = 5});
  Accounts book(bounds);
  std::vector<AccountRef> kept;
  auto keep = [&](uint32_t uid) {
    for (int i = 0; i < 100; ++i) {
      auto ref = book.open(Account::ofPeer(uid, std::to_string(i)));
      if (!ref) return ref.error().code;
      kept.push_back(*ref);
    }
    return Code::internal;
  };
  EXPECT_EQ(keep(1), Code::resourceExhausted);
  EXPECT_EQ(kept.size(), 5u);
  EXPECT_EQ(keep(2), Code::resourceExhausted);
  EXPECT_EQ(kept.size(), 5u + 3);
  EXPECT_EQ(keep(3), Code::resourceExhausted);  // its own part
  EXPECT_EQ(kept.size(), 5u + 3 + 1);
  EXPECT_EQ(book.known(), kept.size() + 3);
  kept.clear();
  EXPECT_EQ(book.known(), 0u);
}

TEST(Accounts, UsersAreBoundedButForWhoSeesAll) {
  AccountBounds bounds;
  bounds.users_max = 2;
  Accounts book(bounds);
  auto a = opened(book, 1), b = opened(book, 2);
  EXPECT_EQ(book.open(Account::ofPeer(3)).error().code, Code::resourceExhausted);
  EXPECT_EQ(book.open(Account::ofPeer(3, "t")).error().code, Code::resourceExhausted);
  EXPECT_TRUE(book.open(Account::ofPeer(0)));
  EXPECT_EQ(book.known(), 2u);
  a.reset();
  EXPECT_TRUE(book.open(Account::ofPeer(3)));
}

TEST(Accounts, ARefusedTenantLeavesNoUserBehind) {
  Accounts book(boundsOf(Resource::tenants, {.pool_max = 0, .user_own = 0, .user_max = 0}));
  EXPECT_FALSE(book.open(Account::ofPeer(1, "a")));
  EXPECT_EQ(book.known(), 0u);
  EXPECT_TRUE(book.sumsAreRight());
}

TEST(Accounts, AUidAndASubjectOfTheSameNameAreTwoUsers) {
  Accounts book;
  auto peer = opened(book, 7);
  auto token = book.open(Account::ofSubject("uid:7", {}, false));
  auto number = book.open(Account::ofSubject("7", {}, false));
  ASSERT_TRUE(token && number);
  EXPECT_EQ(book.known(), 3u);
  EXPECT_FALSE(token->sees(peer.id()));
  EXPECT_FALSE(peer.sees(number->id()));
}

TEST(Accounts, NoTwoAccountsHaveOneKeyAndAnAccountKeepsItsOwn) {
  Accounts book;
  std::set<std::string> keys;
  for (std::string_view user : {"a", "a/b", "a/b/c", "", "/"})
    for (std::string_view tenant : {"", "b", "b/c", "c", "/"})
      keys.insert(book.open(Account::ofSubject(user, tenant, false))->key());
  EXPECT_EQ(keys.size(), 25u);
  EXPECT_EQ(book.known(), 0u);
  EXPECT_TRUE(keys.contains(book.open(Account::ofSubject("a", "b", true))->key()));
}

TEST(Accounts, AUserSeesItsTenantsATenantItselfRootAllAndNobodyTheDaemon) {
  Accounts book;
  auto user = opened(book, 1), a = opened(book, 1, "a"), b = opened(book, 1, "b");
  auto other = opened(book, 2), others_a = opened(book, 2, "a"), root = opened(book, 0);
  auto daemon = book.daemon();
  for (const auto& ref : {user, a, b}) EXPECT_TRUE(user.sees(ref.id()));
  for (const auto& ref : {other, others_a, root, daemon}) EXPECT_FALSE(user.sees(ref.id()));
  EXPECT_TRUE(a.sees(a.id()));
  for (const auto& ref : {user, b, others_a, root, daemon}) EXPECT_FALSE(a.sees(ref.id()));
  for (const auto& ref : {user, a, b, other, others_a, root}) EXPECT_TRUE(root.sees(ref.id()));
  EXPECT_FALSE(root.sees(daemon.id()));
  EXPECT_FALSE(root.sees(AccountId::none));
  EXPECT_FALSE(AccountRef().sees(user.id()));
  EXPECT_EQ(a.user(), user.id());
}

TEST(Accounts, WhatHappenedIsCountedBeyondTheBoundsAndThenRefused) {
  Accounts book(boundsOf(Resource::outFileBytes, {.pool_max = 100, .user_max = 50}));
  auto user = opened(book, 1);
  Share files = book.charge(user, Resource::outFileBytes, 80);
  EXPECT_EQ(book.used(user, Resource::outFileBytes), 80u);
  EXPECT_FALSE(book.accepts(user, Resource::outFileBytes));
  files.settle(20);
  EXPECT_TRUE(book.accepts(user, Resource::outFileBytes));
  auto more = book.charge(opened(book, 2), Resource::outFileBytes, 90);
  EXPECT_FALSE(book.accepts(user, Resource::outFileBytes));
  EXPECT_TRUE(book.sumsAreRight());
}

TEST(Accounts, TooMuchQuarantineOfAllMeansThatTheHostIsNotReady) {
  AccountBounds bounds;
  bounds.setPool(Resource::quarantinedBoxes, 4);
  Accounts book(bounds);
  EXPECT_EQ(bounds.of(Resource::quarantinedBoxes).user_max, 2u);
  EXPECT_EQ(bounds.of(Resource::quarantinedBoxes).tenant_max, 1u);
  auto a = opened(book, 1, "a");
  auto first = book.charge(a, Resource::quarantinedBoxes);
  EXPECT_EQ(book.accepts(a, Resource::quarantinedBoxes).error().code, Code::resourceExhausted);
  EXPECT_TRUE(book.accepts(opened(book, 1, "b"), Resource::quarantinedBoxes));
  auto daemons = book.charge(book.daemon(), Resource::quarantinedBoxes, 3);
  EXPECT_EQ(book.accepts(opened(book, 2), Resource::quarantinedBoxes).error().code,
            Code::unavailable);
}

TEST(Accounts, NobodysShareIsRefused) {
  Accounts book, other;
  EXPECT_EQ(book.take(AccountRef(), Resource::calls).error().code, Code::internal);
  EXPECT_EQ(book.take(opened(other, 1), Resource::calls).error().code, Code::internal);
  EXPECT_FALSE(book.fits(AccountRef(), Resource::calls));
  EXPECT_EQ(Share().grow(1).error().code, Code::internal);
}

TEST(Accounts, EveryDefaultBoundLeavesTheLevelAboveSome) {
  AccountBounds bounds;
  std::set<std::string_view> names;
  for (size_t i = 0; i < kResources; ++i) {
    auto resource = static_cast<Resource>(i);
    const ShareBounds& b = bounds.of(resource);
    names.insert(name(resource));
    SCOPED_TRACE(name(resource));
    EXPECT_GT(b.pool_max, 0u);
    EXPECT_LE(b.user_own, b.tenant_max);
    EXPECT_LE(b.tenant_max, b.user_max);
    EXPECT_LE(b.user_max, b.pool_max);
    EXPECT_TRUE(b.user_max < b.pool_max || resource == Resource::runningTasks);
    // A connection has no tenant.
    EXPECT_TRUE(i < kTaskResources || b.tenant_max == b.user_max);
  }
  EXPECT_EQ(names.size(), kResources);
}

TEST(Accounts, ASmallTotalLeavesNobodyWithoutAPart) {
  for (uint64_t pool = 0; pool <= 100; ++pool) {
    AccountBounds bounds;
    bounds.setPool(Resource::queuedTasks, pool);
    const ShareBounds& b = bounds.of(Resource::queuedTasks);
    EXPECT_LE(b.tenant_max, b.user_max);
    EXPECT_LE(b.user_max, pool);
    EXPECT_EQ(b.tenant_max == 0, pool == 0);
  }
}

// --- the book against a plain model --------------------------------------------------

constexpr Resource kTried[] = {Resource::queuedTasks, Resource::inputBytes,
                               Resource::quarantinedBoxes, Resource::calls};

class World {
 public:
  explicit World(uint32_t seed) : random_(seed), charges_(below(2) == 0) {
    AccountBounds bounds;
    bounds.users_max = 4;
    bounds.of(Resource::tenants) = {.pool_max = 7, .user_own = 1 + below(2), .user_max = 4};
    for (Resource r : kTried)
      bounds.of(r) = {.pool_max = 5 + below(40),
                      .user_own = below(5),
                      .user_max = 5 + below(30),
                      .tenant_max = 3 + below(20)};
    book_ = std::make_unique<Accounts>(bounds);
  }

  void step() {
    act();
    const std::set<Who> alive = accounts();
    std::erase_if(id_of_, [&](const auto& each) { return !alive.contains(each.first); });
  }

  void act() {
    switch (below(9)) {
      case 0:
      case 1:
        return open();
      case 2:
        if (!refs_.empty()) dropAny(refs_);
        return;
      case 3:
      case 4:
        return take();
      case 5:
        if (charges_) return charge();
        return;
      case 6:
        return grow();
      case 7:
        if (!shares_.empty()) {
          Held& held = any(shares_);
          uint64_t less = below(5);
          held.share.shrink(less);
          held.amount -= std::min(less, held.amount);
        }
        return;
      default:
        if (!shares_.empty()) dropAny(shares_);
    }
  }

  void check() {
    ASSERT_TRUE(book_->sumsAreRight());
    std::set<Who> alive = accounts();
    std::set<std::string> users;
    for (const Who& who : alive) users.insert(who.first);
    ASSERT_EQ(book_->known(), alive.size());
    for (const Ref& ref : refs_) {
      ASSERT_EQ(ref.ref.id(), id_of_.at(ref.who));
      for (Resource r : kTried) ASSERT_EQ(book_->used(ref.ref, r), used(ref.who, r));
      for (const auto& [who, id] : id_of_)
        ASSERT_EQ(ref.ref.sees(id), ref.who.first == "uid:0" || who == ref.who ||
                                        (ref.who.second.empty() && who.first == ref.who.first));
    }
    for (Resource r : kTried) {
      const ShareBounds& b = book_->bounds().of(r);
      uint64_t all = 0, pool = 0;
      for (const std::string& user : users) {
        uint64_t its = used({user, ""}, r);
        all += its;
        pool += its > b.user_own ? its - b.user_own : 0;
        if (!charges_) {
          ASSERT_LE(its, b.user_max);
        }
      }
      ASSERT_EQ(book_->usedByAll(r), all);
      if (charges_) continue;
      ASSERT_LE(pool, b.pool_max);
      for (const Who& who : alive)
        if (!who.second.empty()) {
          ASSERT_LE(used(who, r), b.tenant_max);
        }
    }
  }

  void end() {
    while (!refs_.empty() || !shares_.empty()) {
      if (!refs_.empty()) dropAny(refs_);
      if (!shares_.empty()) dropAny(shares_);
      ASSERT_TRUE(book_->sumsAreRight());
    }
    ASSERT_NO_FATAL_FAILURE(check());
    ASSERT_EQ(book_->known(), 0u);
    for (size_t i = 0; i < kResources; ++i)
      ASSERT_EQ(book_->usedByAll(static_cast<Resource>(i)), 0u);
    ASSERT_LE(book_->slotsMade(), 1u + 5 + 7 + 5 * 2);
  }

  uint32_t refusals = 0;

 private:
  using Who = std::pair<std::string, std::string>;
  struct Ref {
    Who who;
    AccountRef ref;
  };
  struct Held {
    Who who;
    Resource resource;
    uint64_t amount;
    Share share;
  };

  uint32_t below(uint32_t n) { return random_() % n; }
  template <class T>
  T& any(std::vector<T>& of) {
    return of[below(static_cast<uint32_t>(of.size()))];
  }
  template <class T>
  void dropAny(std::vector<T>& of) {
    size_t i = below(static_cast<uint32_t>(of.size()));
    std::swap(of[i], of.back());
    of.pop_back();
  }

  std::set<Who> accounts() const {
    std::set<Who> all;
    for (const Ref& ref : refs_) all.insert(ref.who);
    for (const Held& held : shares_) all.insert(held.who);
    for (const Who& who : std::set<Who>(all)) all.insert({who.first, ""});
    return all;
  }
  // Of a user, with its tenants.
  uint64_t used(const Who& who, Resource r) const {
    uint64_t sum = 0;
    for (const Held& held : shares_)
      if (held.resource == r && held.who.first == who.first &&
          (who.second.empty() || held.who.second == who.second))
        sum += held.amount;
    return sum;
  }
  bool fits(const Who& who, Resource r, uint64_t amount) const {
    const ShareBounds& b = book_->bounds().of(r);
    if (!who.second.empty() && used(who, r) + amount > b.tenant_max) return false;
    const uint64_t its = used({who.first, ""}, r) + amount;
    if (its > b.user_max) return false;
    uint64_t pool = its > b.user_own ? its - b.user_own : 0;
    if (pool == 0 || (its - amount >= b.user_own && amount == 0)) return true;
    std::set<std::string> others;
    for (const Held& held : shares_)
      if (held.who.first != who.first) others.insert(held.who.first);
    for (const std::string& other : others) {
      uint64_t theirs = used({other, ""}, r);
      pool += theirs > b.user_own ? theirs - b.user_own : 0;
    }
    return pool <= b.pool_max;
  }
  using Figures = std::vector<uint64_t>;
  Figures figures() const {
    Figures all{book_->known()};
    for (size_t i = 0; i < kResources; ++i)
      all.push_back(book_->usedByAll(static_cast<Resource>(i)));
    for (const Ref& ref : refs_)
      for (Resource r : kTried) all.push_back(book_->used(ref.ref, r));
    return all;
  }
  void refused(const base::Error& error, const Figures& before) {
    ++refusals;
    EXPECT_TRUE(error.code == Code::resourceExhausted || error.code == Code::unavailable ||
                error.code == Code::invalidArgument);
    EXPECT_FALSE(error.message.empty());
    ASSERT_EQ(figures(), before) << "a refusal changed something";
  }

  void open() {
    Who who{"uid:" + std::to_string(below(6)), below(3) == 0 ? "" : "t" + std::to_string(below(6))};
    const std::set<Who> before = accounts();
    const Figures figures_before = figures();
    auto ref = book_->open({who.first, who.second, who.first == "uid:0"});
    if (!ref) {
      ASSERT_FALSE(before.contains(who)) << "a known account is never refused";
      return refused(ref.error(), figures_before);
    }
    const AccountId id = ref->id();
    ASSERT_NE(id, AccountId::none);
    for (const Who& each : {who, Who{who.first, ""}}) {
      AccountId its = each == who ? id : ref->user();
      if (before.contains(each)) {
        ASSERT_EQ(its, id_of_.at(each));
      } else if (!id_of_.contains(each)) {
        ASSERT_TRUE(ids_ever_.insert(its).second) << "an id was given twice";
        id_of_[each] = its;
      }
    }
    refs_.push_back({who, below(2) == 0 ? *ref : std::move(*ref)});
  }

  void take() {
    if (refs_.empty()) return;
    Ref& ref = any(refs_);
    Resource r = kTried[below(4)];
    uint64_t amount = below(8);
    const Figures before = figures();
    const bool may = fits(ref.who, r, amount);
    ASSERT_EQ(book_->fits(ref.ref, r, amount), may);
    auto share = book_->take(ref.ref, r, amount);
    ASSERT_EQ(share.has_value(), may);
    if (!share) return refused(share.error(), before);
    shares_.push_back({ref.who, r, amount, std::move(*share)});
  }

  void charge() {
    if (refs_.empty()) return;
    Ref& ref = any(refs_);
    Resource r = kTried[below(4)];
    uint64_t amount = below(10);
    shares_.push_back({ref.who, r, amount, book_->charge(ref.ref, r, amount)});
  }

  void grow() {
    if (shares_.empty()) return;
    Held& held = any(shares_);
    uint64_t more = below(5);
    if (charges_ && below(3) == 0) {
      held.share.settle(held.amount + more);
      held.amount += more;
      return;
    }
    const Figures before = figures();
    const bool may = fits(held.who, held.resource, more);
    auto grown = held.share.grow(more);
    ASSERT_EQ(grown.has_value(), may);
    if (!grown) return refused(grown.error(), before);
    held.amount += more;
  }

  std::mt19937 random_;
  const bool charges_;  // else every bound holds all the time
  std::unique_ptr<Accounts> book_;
  std::vector<Ref> refs_;
  std::vector<Held> shares_;
  std::map<Who, AccountId> id_of_;  // of known accounts
  std::set<AccountId> ids_ever_;
};

TEST(Accounts, RandomLivesKeepEverySumAndBoundAndLeaveNothing) {
  uint32_t refusals = 0;
  for (uint32_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    World world(seed);
    for (int i = 0; i < 300; ++i) {
      ASSERT_NO_FATAL_FAILURE(world.step());
      if (i % 4 == 0) {
        ASSERT_NO_FATAL_FAILURE(world.check());
      }
    }
    ASSERT_NO_FATAL_FAILURE(world.end());
    refusals += world.refusals;
  }
  EXPECT_GT(refusals, 1'000u);
}

}  // namespace
}  // namespace mayfly::sched
