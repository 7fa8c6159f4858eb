// The store's policy: bounds, shares, reservations, expiry. Every time is a number.
#include <gtest/gtest.h>

#include "rpc/blob_store.h"

namespace mayfly::rpc {
namespace {

using base::Code;

constexpr uint64_t kMs = 1'000'000;
constexpr uid_t kAda = 1000, kBob = 1001;

edge::Sha256 hash(uint8_t n) {
  edge::Sha256 h{};
  h[0] = n;
  return h;
}
BlobStore::Content content() { return std::make_shared<const base::Fd>(); }

struct Store : testing::Test {
  BlobBounds bounds{.user_bytes_max = 100,
                    .store_bytes_max = 150,
                    .user_blobs_max = 3,
                    .store_blobs_max = 5,
                    .ttl_ms = 1000};
  std::unique_ptr<BlobStore> store;
  uint64_t now = 5'000 * kMs;

  BlobStore& s() {
    if (!store) store = std::make_unique<BlobStore>(bounds);
    return *store;
  }
  // Uploads and keeps at once; the refusal's code if it is refused.
  Code put(uid_t uid, uint8_t n, uint64_t bytes, BlobStore::Content c = content()) {
    auto r = s().reserve(uid, bytes, now);
    if (!r) return r.error().code;
    s().keep(std::move(*r), hash(n), std::move(c), now);
    return Code{};
  }
  bool has(uid_t uid, uint8_t n) { return s().use(uid, hash(n), now).has_value(); }
};

TEST_F(Store, ABlobIsItsUsersAlone) {
  EXPECT_EQ(put(kAda, 1, 10), Code{});
  EXPECT_TRUE(has(kAda, 1));
  EXPECT_FALSE(has(kBob, 1));
  EXPECT_FALSE(s().offered(kBob, hash(1), now));
  EXPECT_FALSE(s().remove(kBob, hash(1), now));
  EXPECT_TRUE(s().list(kBob, now).empty());
  EXPECT_EQ(put(kBob, 1, 10), Code{});
  EXPECT_EQ(s().bytes(), 20u);
  EXPECT_TRUE(s().remove(kBob, hash(1), now));
  EXPECT_TRUE(has(kAda, 1));
}

TEST_F(Store, AReservationTakesItsFullSizeAtOnceAndGivesItBackWhenDropped) {
  {
    auto r = s().reserve(kAda, 100, now);
    ASSERT_TRUE(r);
    EXPECT_EQ(s().bytes(), 100u);
    EXPECT_EQ(put(kAda, 1, 1), Code::resourceExhausted);
    EXPECT_EQ(put(kBob, 1, 51), Code::resourceExhausted);
    EXPECT_EQ(put(kBob, 1, 50), Code{});
  }
  EXPECT_EQ(s().bytes(), 50u);
  EXPECT_EQ(put(kAda, 1, 100), Code{});
  EXPECT_EQ(s().bytes(), 150u);
}

TEST_F(Store, AReservationThatMovesIsCountedOnce) {
  auto one = s().reserve(kAda, 40, now);
  BlobStore::Reservation two;
  two = std::move(*one);
  EXPECT_FALSE(*one);
  EXPECT_TRUE(two);
  EXPECT_EQ(s().bytes(), 40u);
  auto other = s().reserve(kAda, 30, now);
  two = std::move(*other);
  EXPECT_EQ(s().bytes(), 30u);
  two.release();
  two.release();
  EXPECT_EQ(s().bytes(), 0u);
  EXPECT_EQ(s().blobs(), 0u);
}

TEST_F(Store, WhatCanNeverFitIsAnInvalidArgument) {
  EXPECT_EQ(put(kAda, 1, 101), Code::invalidArgument);
  EXPECT_EQ(put(kAda, 1, UINT64_MAX), Code::invalidArgument);
  bounds.store_bytes_max = 50;
  store.reset();
  EXPECT_EQ(put(kAda, 1, 51), Code::invalidArgument);
}

TEST_F(Store, NumbersOfBlobsAreBoundedForAUserAndForAll) {
  for (uint8_t n = 0; n < 3; ++n) EXPECT_EQ(put(kAda, n, 0), Code{});
  auto full = s().reserve(kAda, 0, now);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, Code::resourceExhausted);
  EXPECT_NE(full.error().message.find("3 blobs"), std::string::npos) << full.error().message;
  EXPECT_EQ(put(kBob, 0, 0), Code{});
  EXPECT_EQ(put(kBob, 1, 0), Code{});
  EXPECT_EQ(put(kBob, 2, 0), Code::resourceExhausted);  // 5 of all
  EXPECT_TRUE(s().remove(kAda, hash(0), now));
  EXPECT_EQ(put(kBob, 2, 0), Code{});
}

TEST_F(Store, AFullStoreTellsWhenTheNextBlobCanExpire) {
  EXPECT_EQ(put(kAda, 1, 60), Code{});
  now += 300 * kMs;
  EXPECT_EQ(put(kAda, 2, 40), Code{});
  EXPECT_EQ(put(kBob, 1, 50), Code{});
  now += 200 * kMs;
  auto full = s().reserve(kAda, 10, now);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().retry_after_ms, 500u);
  // The whole store is full for Bob, though none of his blobs can expire before 800 ms.
  full = s().reserve(kBob, 10, now);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().retry_after_ms, 500u);
  now += 500 * kMs;
  EXPECT_TRUE(s().reserve(kAda, 10, now));  // makes room by itself
  EXPECT_FALSE(has(kAda, 1));
  EXPECT_TRUE(has(kAda, 2));
}

TEST_F(Store, NothingIsKnownOfWhenUploadsFillIt) {
  auto r = s().reserve(kAda, 100, now);
  auto full = s().reserve(kAda, 1, now);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().retry_after_ms, 0u);
}

TEST_F(Store, ABlobExpiresATimeToLiveAfterItsLastUse) {
  EXPECT_EQ(put(kAda, 1, 10), Code{});
  now += 999 * kMs;
  EXPECT_TRUE(has(kAda, 1));  // its time begins anew
  now += 999 * kMs;
  EXPECT_TRUE(s().offered(kAda, hash(1), now));  // its time begins anew
  now += 999 * kMs;
  EXPECT_EQ(s().list(kAda, now).size(), 1u);  // listing does not renew
  now += 1 * kMs;
  EXPECT_TRUE(s().list(kAda, now).empty());
  EXPECT_FALSE(has(kAda, 1));
  EXPECT_EQ(s().bytes(), 0u);
}

TEST_F(Store, SweepForgetsWhatIsOverAndTellsWhenTheNextOneIs) {
  EXPECT_EQ(s().sweep(now), now + 1000 * kMs);  // empty: nothing can expire sooner
  EXPECT_EQ(put(kAda, 1, 10), Code{});
  now += 400 * kMs;
  EXPECT_EQ(put(kAda, 2, 10), Code{});
  EXPECT_EQ(s().sweep(now), now + 600 * kMs);
  now += 600 * kMs;
  EXPECT_EQ(s().sweep(now), now + 400 * kMs);
  EXPECT_EQ(s().blobs(), 1u);
  now += 400 * kMs;
  s().sweep(now);
  EXPECT_EQ(s().blobs(), 0u);
}

TEST_F(Store, WhatATaskHoldsDoesNotExpireAndIsCountedUntilItLetsGo) {
  auto c = content();
  EXPECT_EQ(put(kAda, 1, 60, c), Code{});
  c.reset();
  auto task = s().use(kAda, hash(1), now);
  now += 5'000 * kMs;
  EXPECT_EQ(s().sweep(now), now + 1000 * kMs);
  EXPECT_TRUE(has(kAda, 1));
  task.reset();
  now += 999 * kMs;
  EXPECT_TRUE(has(kAda, 1));
  now += 1000 * kMs;
  s().sweep(now);
  EXPECT_EQ(s().bytes(), 0u);
}

TEST_F(Store, ARemovedBlobIsGoneForItsUserAndCountedUntilTasksLetGo) {
  EXPECT_EQ(put(kAda, 1, 60), Code{});
  auto task = s().use(kAda, hash(1), now);
  EXPECT_TRUE(s().remove(kAda, hash(1), now));
  EXPECT_FALSE(s().remove(kAda, hash(1), now));
  EXPECT_FALSE(has(kAda, 1));
  EXPECT_TRUE(s().list(kAda, now).empty());
  // Removing blobs that tasks hold does not raise a user's share.
  EXPECT_EQ(s().bytes(), 60u);
  EXPECT_EQ(put(kAda, 2, 60), Code::resourceExhausted);
  task.reset();
  EXPECT_EQ(put(kAda, 2, 60), Code{});
  EXPECT_EQ(s().bytes(), 60u);
}

TEST_F(Store, UploadingWhatWasRemovedWhileATaskHoldsItBringsItBack) {
  EXPECT_EQ(put(kAda, 1, 60), Code{});
  auto task = s().use(kAda, hash(1), now);
  s().remove(kAda, hash(1), now);
  EXPECT_TRUE(s().offered(kAda, hash(1), now));
  EXPECT_TRUE(has(kAda, 1));
  EXPECT_EQ(s().bytes(), 60u);
}

TEST_F(Store, TheSameBlobUploadedTwiceAtOnceIsKeptOnce) {
  auto one = s().reserve(kAda, 40, now), two = s().reserve(kAda, 40, now);
  auto first = content(), second = content();
  s().keep(std::move(*one), hash(1), first, now);
  s().keep(std::move(*two), hash(1), second, now);
  EXPECT_EQ(s().bytes(), 40u);
  EXPECT_EQ(s().use(kAda, hash(1), now)->content, first);
  EXPECT_EQ(second.use_count(), 1);
}

TEST_F(Store, AnEmptyBlobIsABlob) {
  EXPECT_EQ(put(kAda, 1, 0), Code{});
  EXPECT_TRUE(has(kAda, 1));
  EXPECT_EQ(s().list(kAda, now).at(0).size_bytes, 0u);
}

}  // namespace
}  // namespace mayfly::rpc
