// Keys of detached tasks across runs of the daemon: the file alone, and the server over it.
#include "rpc/kept_keys.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "rpc_peer.h"

namespace mayfly {
namespace {

using rpc::KeptKeys;
using schema::ErrorCode;
using test::FakeCore;
using test::Peer;

constexpr uint64_t kNow = 1'000'000;

// While it lives, nothing can be written beyond a file's first bytes: as on a full disk.
struct FullDisk {
  rlimit before{};
  FullDisk() {
    ::signal(SIGXFSZ, SIG_IGN);
    EXPECT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    rlimit none = before;
    none.rlim_cur = 10;
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &none), 0);
  }
  ~FullDisk() { ::setrlimit(RLIMIT_FSIZE, &before); }
};

struct KeysFolder {
  std::string path;
  base::Fd folder;
  KeysFolder() {
    char name[] = "/tmp/mayfly-keys-XXXXXX";
    path = ::mkdtemp(name);
    folder = base::Fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  ~KeysFolder() { std::filesystem::remove_all(path); }
  std::unique_ptr<KeptKeys> run(uint64_t now_ms = kNow, KeptKeys::Bounds bounds = {}) {
    auto keys = KeptKeys::open(folder.view(), path, "noon", now_ms, bounds);
    EXPECT_TRUE(keys) << keys.error().message;
    return keys ? std::move(*keys) : nullptr;
  }
  std::string bytes() const {
    std::ostringstream all;
    all << std::ifstream(path + "/keys").rdbuf();
    return all.str();
  }
};

TEST(KeptKeys, AKeyOfAnEarlierRunIsLostForItsLeaseFromTheFirstStartOn) {
  KeysFolder at;
  EXPECT_TRUE(at.run()->keep("uid:1", "k", 500, kNow));  // the run is killed
  auto second = at.run(kNow + 10'000);
  EXPECT_EQ(second->lostForMs("uid:1", "k", kNow + 10'000), 500u);
  EXPECT_EQ(second->lostForMs("uid:1", "k", kNow + 10'499), 1u);
  EXPECT_EQ(second->lostForMs("uid:1", "k", kNow + 10'500), std::nullopt);
  EXPECT_EQ(second->lostForMs("uid:2", "k", kNow + 10'000), std::nullopt) << "of another user";
  EXPECT_EQ(second->lostForMs("uid:1", "other", kNow + 10'000), std::nullopt);
  auto third = at.run(kNow + 10'400);
  EXPECT_EQ(third->lostForMs("uid:1", "k", kNow + 10'400), 100u) << "the lease did not begin anew";
  EXPECT_EQ(at.run(kNow + 10'600)->lostForMs("uid:1", "k", kNow + 10'600), std::nullopt);
  EXPECT_EQ(at.bytes(), "");
}

TEST(KeptKeys, ADroppedKeyIsNotLostAndItsRecordIsUsedAgain) {
  KeysFolder at;
  auto keys = at.run();
  const uint32_t a = *keys->keep("u", "a", 500, kNow), b = *keys->keep("u", "b", 500, kNow);
  EXPECT_TRUE(keys->drop(a));
  EXPECT_EQ(*keys->keep("u", "c", 500, kNow), a);
  EXPECT_TRUE(keys->drop(b));
  EXPECT_EQ(at.bytes().size(), 128u);
  auto next = at.run();
  EXPECT_EQ(next->lostForMs("u", "a", kNow), std::nullopt);
  EXPECT_EQ(next->lostForMs("u", "b", kNow), std::nullopt);
  EXPECT_EQ(next->lostForMs("u", "c", kNow), 500u);
  EXPECT_EQ(at.bytes().size(), 64u) << "a start leaves out what is over";
}

TEST(KeptKeys, TheFileTellsNeitherUserNorKey) {
  KeysFolder at;
  EXPECT_TRUE(at.run()->keep("uid:4711", "my-secret-key", 500, kNow));
  EXPECT_EQ(at.bytes().find("4711"), std::string::npos);
  EXPECT_EQ(at.bytes().find("secret"), std::string::npos);
  EXPECT_EQ(std::filesystem::status(at.path + "/keys").permissions(), std::filesystem::perms(0600));
}

TEST(KeptKeys, FullOfOthersKeysOrOfOnesOwnANewOneIsRefusedUntilTheyAreOver) {
  KeysFolder at;
  const KeptKeys::Bounds bounds{.records_max = 5, .lost_per_user_max = 3};
  {
    auto keys = at.run(kNow, bounds);
    for (const char* key : {"a", "b", "c"}) EXPECT_TRUE(keys->keep("u", key, 500, kNow));
  }
  auto keys = at.run(kNow, bounds);
  auto refused = keys->keep("u", "d", 500, kNow + 499);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::Code::resourceExhausted);
  EXPECT_TRUE(keys->keep("v", "a", 500, kNow));
  EXPECT_TRUE(keys->keep("v", "b", 500, kNow));
  EXPECT_FALSE(keys->keep("v", "c", 500, kNow)) << "the file has five";
  EXPECT_TRUE(keys->keep("u", "d", 500, kNow + 500)) << "those of the earlier run are over";
  EXPECT_EQ(at.bytes().size(), 5u * 64);
}

TEST(KeptKeys, WhatCannotBeWrittenIsNotKept) {
  KeysFolder at;
  auto keys = at.run();
  {
    FullDisk full;
    auto refused = keys->keep("u", "a", 500, kNow);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message.find("so it does not run"), std::string::npos);
  }
  EXPECT_TRUE(keys->keep("u", "b", 500, kNow));
  auto next = at.run();
  EXPECT_EQ(next->lostForMs("u", "a", kNow), std::nullopt);
  EXPECT_EQ(next->lostForMs("u", "b", kNow), 500u);
}

TEST(KeptKeys, ADamagedFileRefusesTheStart) {
  KeysFolder at;
  {
    auto keys = at.run();
    EXPECT_TRUE(keys->keep("u", "a", 500, kNow));
    EXPECT_TRUE(keys->keep("u", "b", 500, kNow));
  }
  const std::string whole = at.bytes();
  for (size_t byte : {size_t{0}, size_t{33}, size_t{45}, size_t{127}}) {
    std::string damaged = whole;
    damaged[byte] ^= 1;
    std::ofstream(at.path + "/keys", std::ios::trunc) << damaged;
    auto keys = KeptKeys::open(at.folder.view(), at.path, "noon", kNow);
    ASSERT_FALSE(keys) << byte;
    EXPECT_EQ(keys.error().code, base::Code::failedPrecondition);
    EXPECT_NE(keys.error().message.find(at.path + "/keys' is damaged"), std::string::npos);
    EXPECT_EQ(at.bytes(), damaged) << "it is left as it is";
  }
  // A kill or a full disk may cut the last record short: its submit was never answered.
  std::ofstream(at.path + "/keys", std::ios::trunc) << whole.substr(0, 100);
  EXPECT_EQ(at.run()->lostForMs("u", "a", kNow), 500u);
}

class KeptKeysServerTest : public test::RpcFixture {
 protected:
  auto submit(Peer& peer, const char* key) {
    auto call = peer.submitRequest("hold", "");
    call.getSpec().getDetach().setLeaseMs(60'000);
    call.getSpec().getDetach().setKey(key);
    return call.send().wait(peer.io.waitScope);
  }
  uint64_t count() {
    return onCore([](FakeCore& c) { return c.count(); });
  }
  static uint64_t nowMs() { return static_cast<uint64_t>(::time(nullptr)) * 1'000; }
  KeysFolder at;
};

TEST_F(KeptKeysServerTest, ARepeatedKeyOfAnEarlierRunIsRefusedInWordsAndNothingRuns) {
  const std::string me = sched::Account::ofPeer(::geteuid()).user;
  EXPECT_TRUE(at.run()->keep(me, "job", 60'000, nowMs()));
  options.keys = at.run(nowMs());
  start();
  Peer peer(socket_path);
  auto again = submit(peer, "job");
  EXPECT_EQ(again.getError().getCode(), ErrorCode::ALREADY_EXISTS);
  EXPECT_FALSE(again.getError().getRetryable());
  const std::string said = edge::str(again.getError().getMessage());
  EXPECT_NE(said.find("restarted at noon"), std::string::npos) << said;
  EXPECT_NE(said.find("may have run"), std::string::npos) << said;
  EXPECT_NE(edge::str(again.getError().getAdvice()).find("another key"), std::string::npos);
  EXPECT_EQ(count(), 0u);
  auto find = peer.mayfly.findRequest();
  find.setKey("job");
  auto found = find.send().wait(peer.io.waitScope);
  EXPECT_EQ(found.getError().getCode(), ErrorCode::NOT_FOUND);
  EXPECT_NE(edge::str(found.getError().getMessage()).find("restarted at noon"), std::string::npos);
  // Another key, and the same key of another user, run.
  const uint64_t before_ms = nowMs();
  EXPECT_EQ(submit(peer, "job-2").getError().getCode(), ErrorCode::OK);
  EXPECT_EQ(count(), 1u);
  const uint64_t now_ms = nowMs();
  const auto left_ms = at.run(now_ms)->lostForMs(me, "job-2", now_ms);
  ASSERT_TRUE(left_ms);
  EXPECT_LE(*left_ms, 60'000u);
  EXPECT_GE(*left_ms + (now_ms - before_ms), 60'000u);  // the clock's second may have changed
}

TEST_F(KeptKeysServerTest, AClosedTasksKeyIsFreeAndARefusedTasksToo) {
  options.keys = at.run(nowMs());
  start();
  Peer peer(socket_path);
  auto first = submit(peer, "job");
  ASSERT_EQ(first.getError().getCode(), ErrorCode::OK);
  first.getTask().closeRequest().send().wait(peer.io.waitScope);
  auto refused = peer.submitRequest("missing", "");
  refused.getSpec().getDetach().setLeaseMs(60'000);
  refused.getSpec().getDetach().setKey("refused");
  EXPECT_EQ(refused.send().wait(peer.io.waitScope).getError().getCode(), ErrorCode::NOT_FOUND);
  EXPECT_EQ(at.bytes(), std::string(at.bytes().size(), '\0'));
  EXPECT_EQ(submit(peer, "job").getError().getCode(), ErrorCode::OK);
}

TEST_F(KeptKeysServerTest, WithoutAWrittenKeyTheTaskDoesNotRun) {
  options.keys = at.run(nowMs());
  start();
  Peer peer(socket_path);
  {
    FullDisk full;
    auto refused = submit(peer, "job");
    EXPECT_EQ(refused.getError().getCode(), ErrorCode::INTERNAL);
    EXPECT_NE(edge::str(refused.getError().getMessage()).find("so it does not run"),
              std::string::npos);
  }
  EXPECT_EQ(count(), 0u);
  EXPECT_EQ(submit(peer, "job").getError().getCode(), ErrorCode::OK);
}

TEST_F(KeptKeysServerTest, FindSaysThatTheDaemonWasRestartedWhenItWas) {
  core.id_of_an_earlier_run = 4'711;
  start();
  Peer peer(socket_path);
  for (uint64_t id : {4'711u, 4'712u}) {
    auto find = peer.mayfly.findRequest();
    find.setId(id);
    auto found = find.send().wait(peer.io.waitScope);
    EXPECT_EQ(found.getError().getCode(), ErrorCode::NOT_FOUND);
    const std::string said = edge::str(found.getError().getMessage());
    EXPECT_EQ(said.find("restarted at noon") != std::string::npos, id == 4'711) << said;
  }
}

}  // namespace
}  // namespace mayfly
