// The store's policy: bounds, shares, reservations, expiry. Every time is a number.
#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "rpc/blob_store.h"

namespace mayfly::rpc {
namespace {

using base::Code;
using sched::Resource;

constexpr uint64_t kMs = 1'000'000;

edge::Sha256 hash(uint8_t n) {
  edge::Sha256 h{};
  h[0] = n;
  return h;
}
BlobStore::Content content() { return std::make_shared<const base::Fd>(); }

sched::AccountBounds boundsOf(uint64_t store_bytes_max) {
  sched::AccountBounds bounds;
  bounds.setPool(Resource::blobBytes, store_bytes_max, 100);
  bounds.setPool(Resource::blobs, 5, 3);
  return bounds;
}

// Two users, and a store that is too small for both.
struct Store : testing::Test {
  std::optional<sched::Accounts> book;
  std::optional<BlobStore> store;
  sched::AccountRef ada, bob;
  uint64_t now = 5'000 * kMs;

  Store() { make(150); }
  void make(uint64_t store_bytes_max) {
    ada = bob = {};
    store.reset();
    book.emplace(boundsOf(store_bytes_max));
    store.emplace(*book, 1000);
    ada = book->open(sched::Account::ofPeer(1000)).value();
    bob = book->open(sched::Account::ofPeer(1001)).value();
  }
  BlobStore& s() { return *store; }
  uint64_t bytes() const { return book->usedByAll(Resource::blobBytes); }
  uint64_t blobs() const { return book->usedByAll(Resource::blobs); }
  // Uploads and keeps at once; the refusal's code if it is refused.
  Code put(const sched::AccountRef& user, uint8_t n, uint64_t size,
           BlobStore::Content c = content()) {
    auto r = s().reserve(user, size, now);
    if (!r) return r.error().code;
    s().keep(std::move(*r), hash(n), std::move(c), now);
    return Code{};
  }
  bool has(const sched::AccountRef& user, uint8_t n) {
    return s().use(user, hash(n), now).has_value();
  }
};

TEST_F(Store, ABlobIsItsUsersAlone) {
  EXPECT_EQ(put(ada, 1, 10), Code{});
  EXPECT_TRUE(has(ada, 1));
  EXPECT_FALSE(has(bob, 1));
  EXPECT_FALSE(s().offered(bob, hash(1), now));
  EXPECT_FALSE(s().remove(bob, hash(1), now));
  EXPECT_TRUE(s().list(bob, now).empty());
  EXPECT_EQ(put(bob, 1, 10), Code{});
  EXPECT_EQ(bytes(), 20u);
  EXPECT_TRUE(s().remove(bob, hash(1), now));
  EXPECT_TRUE(has(ada, 1));
}

TEST_F(Store, AReservationTakesItsFullSizeAtOnceAndGivesItBackWhenDropped) {
  {
    auto r = s().reserve(ada, 100, now);
    ASSERT_TRUE(r);
    EXPECT_EQ(bytes(), 100u);
    EXPECT_EQ(put(ada, 1, 1), Code::resourceExhausted);
    EXPECT_EQ(put(bob, 1, 51), Code::resourceExhausted);
    EXPECT_EQ(put(bob, 1, 50), Code{});
  }
  EXPECT_EQ(bytes(), 50u);
  EXPECT_EQ(put(ada, 1, 100), Code{});
  EXPECT_EQ(bytes(), 150u);
}

TEST_F(Store, AReservationThatMovesIsCountedOnce) {
  auto one = s().reserve(ada, 40, now);
  BlobStore::Reservation two;
  two = std::move(*one);
  EXPECT_FALSE(*one);
  EXPECT_TRUE(two);
  EXPECT_EQ(bytes(), 40u);
  auto other = s().reserve(ada, 30, now);
  two = std::move(*other);
  EXPECT_EQ(bytes(), 30u);
  two.release();
  two.release();
  EXPECT_EQ(bytes(), 0u);
  EXPECT_EQ(blobs(), 0u);
}

TEST_F(Store, WhatCanNeverFitIsAnInvalidArgument) {
  EXPECT_EQ(put(ada, 1, 101), Code::invalidArgument);
  EXPECT_EQ(put(ada, 1, UINT64_MAX), Code::invalidArgument);
  make(50);
  EXPECT_EQ(put(ada, 1, 51), Code::invalidArgument);
}

TEST_F(Store, NumbersOfBlobsAreBoundedForAUserAndForAll) {
  std::vector<BlobStore::Content> held(6);  // by tasks
  for (auto& each : held) each = content();
  for (uint8_t n = 0; n < 3; ++n) EXPECT_EQ(put(ada, n, 0, held[n]), Code{});
  auto full = s().reserve(ada, 0, now);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, Code::resourceExhausted);
  EXPECT_NE(full.error().message.find("3 blobs"), std::string::npos) << full.error().message;
  EXPECT_EQ(put(bob, 0, 0, held[3]), Code{});
  EXPECT_EQ(put(bob, 1, 0, held[4]), Code{});
  EXPECT_EQ(put(bob, 2, 0), Code::resourceExhausted);  // 5 of all
  held[0].reset();
  EXPECT_TRUE(s().remove(ada, hash(0), now));
  EXPECT_EQ(put(bob, 2, 0), Code{});
}

TEST_F(Store, UnusedBlobsGiveWayTheOneUnusedForLongestFirst) {
  EXPECT_EQ(put(ada, 1, 60), Code{});
  now += 100 * kMs;
  EXPECT_EQ(put(ada, 2, 40), Code{});
  now += 100 * kMs;
  EXPECT_TRUE(has(ada, 1));  // used again: 2 is unused for longest now
  EXPECT_EQ(put(ada, 3, 30), Code{});
  EXPECT_TRUE(has(ada, 1));
  EXPECT_FALSE(has(ada, 2));
  EXPECT_TRUE(has(ada, 3));
  EXPECT_EQ(put(ada, 4, 100), Code{});  // as large as the whole share
  EXPECT_EQ(s().list(ada, now).size(), 1u);
  EXPECT_EQ(bytes(), 100u);
  EXPECT_TRUE(book->sumsAreRight());
}

TEST_F(Store, NoBlobGivesWayInVain) {
  auto c = content();
  EXPECT_EQ(put(ada, 1, 70, c), Code{});  // a task holds it
  EXPECT_EQ(put(ada, 2, 20), Code{});
  auto full = s().reserve(ada, 40, now);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, Code::resourceExhausted);
  EXPECT_TRUE(has(ada, 2)) << "the upload does not fit without it either";
  EXPECT_EQ(bytes(), 90u);
  EXPECT_EQ(blobs(), 2u);
  EXPECT_TRUE(book->sumsAreRight());
  EXPECT_EQ(put(ada, 3, 30), Code{});
  EXPECT_TRUE(has(ada, 1));
  EXPECT_FALSE(has(ada, 2));
}

TEST_F(Store, AsManyGiveWayAsTheNumberAndTheBytesNeed) {
  for (uint8_t n = 0; n < 3; ++n) {
    EXPECT_EQ(put(ada, n, 30), Code{});
    now += 100 * kMs;
  }
  EXPECT_EQ(put(ada, 3, 0), Code{});  // only one blob too many
  EXPECT_EQ(s().list(ada, now).size(), 3u);
  EXPECT_FALSE(has(ada, 0));
  EXPECT_EQ(put(ada, 4, 100), Code{});  // all of the share: the empty one may stay
  EXPECT_EQ(bytes(), 100u);
  EXPECT_EQ(s().list(ada, now).size(), 2u);
  EXPECT_TRUE(has(ada, 3) && has(ada, 4));
  EXPECT_TRUE(book->sumsAreRight());
}

TEST_F(Store, AFullStoreTakesFromItsUserFirstThenFromOthers) {
  EXPECT_EQ(put(bob, 1, 60), Code{});
  now += 100 * kMs;
  EXPECT_EQ(put(ada, 1, 80), Code{});
  EXPECT_EQ(put(ada, 2, 20), Code{});  // the store is full: Ada's own goes, though Bob's is older
  EXPECT_FALSE(has(ada, 1));
  EXPECT_TRUE(has(bob, 1));
  auto upload = s().reserve(ada, 70, now);
  EXPECT_TRUE(upload);
  EXPECT_EQ(bytes(), 150u);
  auto bobs = s().use(bob, hash(1), now), adas = s().use(ada, hash(2), now);  // tasks hold them
  EXPECT_EQ(put(bob, 2, 20), Code::resourceExhausted);
  adas.reset();
  EXPECT_EQ(put(bob, 2, 30), Code::resourceExhausted) << "Ada's 20 bytes are not enough";
  EXPECT_TRUE(has(ada, 2));
  EXPECT_EQ(put(bob, 2, 20), Code{});
  EXPECT_FALSE(has(ada, 2));
  EXPECT_TRUE(book->sumsAreRight());
}

TEST_F(Store, NothingIsKnownOfWhenUploadsFillIt) {
  auto r = s().reserve(ada, 100, now);
  auto full = s().reserve(ada, 1, now);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().retry_after_ms, 0u);
}

TEST_F(Store, ABlobExpiresATimeToLiveAfterItsLastUse) {
  EXPECT_EQ(put(ada, 1, 10), Code{});
  now += 999 * kMs;
  EXPECT_TRUE(has(ada, 1));  // its time begins anew
  now += 999 * kMs;
  EXPECT_TRUE(s().offered(ada, hash(1), now));  // its time begins anew
  now += 999 * kMs;
  EXPECT_EQ(s().list(ada, now).size(), 1u);  // listing does not renew
  now += 1 * kMs;
  EXPECT_TRUE(s().list(ada, now).empty());
  EXPECT_FALSE(has(ada, 1));
  EXPECT_EQ(bytes(), 0u);
}

TEST_F(Store, SweepForgetsWhatIsOverAndTellsWhenTheNextOneIs) {
  EXPECT_EQ(s().sweep(now), now + 1000 * kMs);  // empty: nothing can expire sooner
  EXPECT_EQ(put(ada, 1, 10), Code{});
  now += 400 * kMs;
  EXPECT_EQ(put(ada, 2, 10), Code{});
  EXPECT_EQ(s().sweep(now), now + 600 * kMs);
  now += 600 * kMs;
  EXPECT_EQ(s().sweep(now), now + 400 * kMs);
  EXPECT_EQ(blobs(), 1u);
  now += 400 * kMs;
  s().sweep(now);
  EXPECT_EQ(blobs(), 0u);
}

TEST_F(Store, WhatATaskHoldsDoesNotExpireAndIsCountedUntilItLetsGo) {
  auto c = content();
  EXPECT_EQ(put(ada, 1, 60, c), Code{});
  c.reset();
  auto task = s().use(ada, hash(1), now);
  now += 5'000 * kMs;
  EXPECT_EQ(s().sweep(now), now + 1000 * kMs);
  EXPECT_TRUE(has(ada, 1));
  task.reset();
  now += 999 * kMs;
  EXPECT_TRUE(has(ada, 1));
  now += 1000 * kMs;
  s().sweep(now);
  EXPECT_EQ(bytes(), 0u);
}

TEST_F(Store, ARemovedBlobIsGoneForItsUserAndCountedUntilTasksLetGo) {
  EXPECT_EQ(put(ada, 1, 60), Code{});
  auto task = s().use(ada, hash(1), now);
  EXPECT_TRUE(s().remove(ada, hash(1), now));
  EXPECT_FALSE(s().remove(ada, hash(1), now));
  EXPECT_FALSE(has(ada, 1));
  EXPECT_TRUE(s().list(ada, now).empty());
  // Removing blobs that tasks hold does not raise a user's share.
  EXPECT_EQ(bytes(), 60u);
  EXPECT_EQ(put(ada, 2, 60), Code::resourceExhausted);
  task.reset();
  EXPECT_EQ(put(ada, 2, 60), Code{});
  EXPECT_EQ(bytes(), 60u);
}

TEST_F(Store, UploadingWhatWasRemovedWhileATaskHoldsItBringsItBack) {
  EXPECT_EQ(put(ada, 1, 60), Code{});
  auto task = s().use(ada, hash(1), now);
  s().remove(ada, hash(1), now);
  EXPECT_TRUE(s().offered(ada, hash(1), now));
  EXPECT_TRUE(has(ada, 1));
  EXPECT_EQ(bytes(), 60u);
}

TEST_F(Store, TheSameBlobUploadedTwiceAtOnceIsKeptOnce) {
  auto one = s().reserve(ada, 40, now), two = s().reserve(ada, 40, now);
  auto first = content(), second = content();
  s().keep(std::move(*one), hash(1), first, now);
  s().keep(std::move(*two), hash(1), second, now);
  EXPECT_EQ(bytes(), 40u);
  EXPECT_EQ(s().use(ada, hash(1), now)->content, first);
  EXPECT_EQ(second.use_count(), 1);
}

TEST_F(Store, AnEmptyBlobIsABlob) {
  EXPECT_EQ(put(ada, 1, 0), Code{});
  EXPECT_TRUE(has(ada, 1));
  EXPECT_EQ(s().list(ada, now).at(0).size_bytes, 0u);
}

}  // namespace
}  // namespace mayfly::rpc
