// The spawner's readings of kernel memory that no cap counts.
#include <gtest/gtest.h>

#include "spawner/lock_watch.h"
#include "spawner/net_charge.h"

namespace mayfly::spawner {
namespace {

TEST(NetCharge, SocketsInUseAreThoseOfTheNamespace) {
  const Sockets v4 = socketsIn(
      "sockets: used 3\nTCP: inuse 4711 orphan 9 tw 8 alloc 7 mem 6\nUDP: inuse 5 mem 0\n");
  EXPECT_EQ(v4.tcp, 4'711u);
  EXPECT_EQ(v4.udp, 5u);
  const Sockets v6 = socketsIn("TCP6: inuse 12\nUDP6: inuse 3\nUDPLITE6: inuse 0\n");
  EXPECT_EQ(v6.tcp, 12u);
  EXPECT_EQ(v6.udp, 3u);
  EXPECT_EQ(socketsIn("").tcp, 0u);
}

TEST(NetCharge, FewSocketsCountForNothing) {
  EXPECT_EQ(netCharge(1), 0u);
  EXPECT_EQ(netCharge(0), 0u) << "a process that is gone";
}

TEST(LockWatch, LocksAreCountedByTheirOwner) {
  const auto by_pid = locksByPid(
      "1: POSIX  ADVISORY  WRITE 2345 00:2d:17 0 EOF\n"
      "1: -> POSIX  ADVISORY  WRITE 2346 00:2d:17 0 EOF\n"
      "2: FLOCK  ADVISORY  WRITE 2345 00:2d:18 0 EOF\n"
      "3: OFDLCK ADVISORY  READ  -1 00:2d:18 0 EOF\n"
      "4: POSIX  ADVISORY  READ  2345 00:2d:19 4 5\n"
      "5: POSIX  ADVISORY  READ  0 00:2d:19 4 5\n"
      "6: POSIX  ADV");
  ASSERT_EQ(by_pid.size(), 1u);
  EXPECT_EQ(by_pid.at(2'345), 2u);
}

TEST(LockWatch, AProcessIsOfABoxOfThisInstanceOrOfNone) {
  const std::string v1 = "8:pids:/mayfly/a/t3/b77\n0::/mayfly/a/t3/b77\n";
  EXPECT_EQ(boxOf(v1, "a"), 77u);
  EXPECT_EQ(boxOf("0::/mayfly/a/t3/b78/task\n", "a"), 78u);
  EXPECT_EQ(boxOf(v1, "b"), 0u);
  EXPECT_EQ(boxOf("0::/mayfly/a/t3/zygote\n", "a"), 0u);
  EXPECT_EQ(boxOf("0::/user.slice\n", "a"), 0u);
}

TEST(LockWatch, WhoHasTooManyEndsOrTheLargestWhereMoreWereNotLookedAt) {
  EXPECT_TRUE(tooMany({}, true).empty());
  EXPECT_TRUE(tooMany({{1, kLocksMax}, {2, 5}}, false).empty());
  EXPECT_EQ(tooMany({{1, kLocksMax + 1}, {2, 5}}, false), std::vector<base::BoxId>{1});
  EXPECT_EQ(tooMany({{1, 1'500}, {2, 1'600}}, true), std::vector<base::BoxId>{2});
  EXPECT_TRUE(tooMany({{1, 100}, {2, 200}}, true).empty());
}

}  // namespace
}  // namespace mayfly::spawner
