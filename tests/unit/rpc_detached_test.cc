// Detached tasks and leases, over a real socket and a core without boxes.
#include "rpc_peer.h"

namespace mayfly {
namespace {

using schema::ErrorCode;
using test::FakeCore;
using test::Peer;

class DetachedTest : public test::RpcFixture {
 protected:
  static auto request(Peer& peer, const char* name, std::string code, uint32_t lease_ms,
                      const char* key = "") {
    auto call = peer.submitRequest(name, std::move(code));
    call.getSpec().getDetach().setLeaseMs(lease_ms);
    call.getSpec().getDetach().setKey(key);
    return call;
  }
  static auto find(Peer& peer, uint64_t id, const char* key = "") {
    auto call = peer.mayfly.findRequest();
    call.setId(id);
    call.setKey(key);
    return call.send().wait(peer.io.waitScope);
  }
  // Repeats the call until it answers `code`. Fails after kEventTime.
  template <class Call>
  static ::testing::AssertionResult until(Peer& peer, ErrorCode code, Call call) {
    ErrorCode got{};
    if (peer.until([&] { return (got = call()) == code; })) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "the answer is " << static_cast<int>(got);
  }
};

TEST_F(DetachedTest, ATaskOutlivesItsConnectionAndIsFoundByIdAndByKey) {
  start();
  uint64_t id = 0;
  {
    Peer peer(socket_path);
    auto submitted = request(peer, "hold", "", 60'000, "job-1").send().wait(peer.io.waitScope);
    ASSERT_EQ(submitted.getError().getCode(), ErrorCode::OK);
    EXPECT_FALSE(submitted.getExisting());
    id = submitted.getId();
  }
  ASSERT_TRUE(eventually("owner gone", [](FakeCore& c) { return c.owners_gone.size() == 1; }));
  EXPECT_FALSE(onCore([](FakeCore& c) { return c.task(1).ended; }));
  onCore([](FakeCore& c) {
    c.end(c.task(1), base::Verdict::succeeded,
          [](sched::TaskResult& r) { r.captured[0] = "kept"; });
  });
  Peer peer(socket_path);
  for (int how = 0; how < 2; ++how) {
    auto found = how == 0 ? find(peer, id) : find(peer, 0, "job-1");
    ASSERT_EQ(found.getError().getCode(), ErrorCode::OK);
    EXPECT_EQ(found.getId(), id);
    auto result = found.getTask().waitRequest().send().wait(peer.io.waitScope);
    EXPECT_EQ(edge::view(result.getResult().getStdout()), "kept");
  }
  // Releasing the object of `find` does nothing; close forgets the task for everybody.
  auto found = find(peer, id);
  ASSERT_EQ(found.getError().getCode(), ErrorCode::OK);
  Peer other(socket_path, peer);
  auto same = find(other, id).getTask();
  found.getTask().closeRequest().send().wait(peer.io.waitScope);
  EXPECT_EQ(find(peer, id).getError().getCode(), ErrorCode::NOT_FOUND);
  EXPECT_EQ(find(peer, 0, "job-1").getError().getCode(), ErrorCode::NOT_FOUND);
  EXPECT_EQ(same.waitRequest().send().wait(other.io.waitScope).getError().getCode(),
            ErrorCode::CANCELLED);
}

TEST_F(DetachedTest, TheSameKeyGivesTheSameTaskAndAnotherSpecIsRefused) {
  start();
  Peer peer(socket_path), other(socket_path, peer);
  auto first = request(peer, "hold", "a", 60'000, "k").send().wait(peer.io.waitScope);
  auto again = request(other, "hold", "a", 60'000, "k").send().wait(other.io.waitScope);
  EXPECT_EQ(again.getError().getCode(), ErrorCode::OK);
  EXPECT_TRUE(again.getExisting());
  EXPECT_EQ(again.getId(), first.getId());
  EXPECT_EQ(onCore([](FakeCore& c) { return c.count(); }), 1u);
  EXPECT_EQ(
      request(peer, "hold", "b", 60'000, "k").send().wait(peer.io.waitScope).getError().getCode(),
      ErrorCode::ALREADY_EXISTS);
  // After the close, the key is free again.
  again.getTask().closeRequest().send().wait(other.io.waitScope);
  auto next = request(peer, "hold", "b", 60'000, "k").send().wait(peer.io.waitScope);
  EXPECT_EQ(next.getError().getCode(), ErrorCode::OK);
  EXPECT_FALSE(next.getExisting());
}

TEST_F(DetachedTest, TheListHasTheUsersTasksWithStateKeyAndLease) {
  start();
  Peer peer(socket_path), other(socket_path, peer);
  auto list = [&] { return other.mayfly.detachedRequest().send().wait(other.io.waitScope); };
  EXPECT_EQ(list().getTasks().size(), 0u);
  uint64_t runs = request(peer, "hold", "", 60'000, "k").send().wait(peer.io.waitScope).getId();
  auto ended = request(peer, "echo", "", 50'000).send().wait(peer.io.waitScope);
  ended.getTask().waitRequest().send().wait(peer.io.waitScope);
  auto plain = peer.submitRequest("hold", "").send().wait(peer.io.waitScope);  // not detached
  auto answer = list();
  ASSERT_EQ(answer.getError().getCode(), ErrorCode::OK);
  auto tasks = answer.getTasks();
  ASSERT_EQ(tasks.size(), 2u);
  EXPECT_EQ(tasks[0].getTask().getId(), runs);
  EXPECT_EQ(tasks[0].getTask().getState(), "running");
  EXPECT_EQ(tasks[0].getKey(), "k");
  EXPECT_EQ(tasks[0].getLeaseLeftMs(), 60'000u) << "it begins with the task's end";
  EXPECT_EQ(tasks[1].getTask().getId(), ended.getId());
  EXPECT_EQ(tasks[1].getTask().getState(), "done");
  EXPECT_EQ(tasks[1].getKey(), "");
  EXPECT_LE(tasks[1].getLeaseLeftMs(), 50'000u);
  EXPECT_GT(tasks[1].getLeaseLeftMs(), 50'000u - 30'000);
  ended.getTask().closeRequest().send().wait(peer.io.waitScope);
  EXPECT_EQ(list().getTasks().size(), 1u);
}

TEST_F(DetachedTest, TwoSubmitsAtOnceWithOneKeyRunOnce) {
  start();
  Peer peer(socket_path);
  std::vector<capnp::RemotePromise<schema::Mayfly::SubmitResults>> submits;
  for (int i = 0; i < 20; ++i) submits.push_back(request(peer, "hold", "x", 60'000, "once").send());
  uint32_t existing = 0;
  for (auto& each : submits) {
    auto answer = each.wait(peer.io.waitScope);
    EXPECT_EQ(answer.getId(), 1u);
    existing += answer.getExisting();
  }
  EXPECT_EQ(existing, 19u);
  EXPECT_EQ(onCore([](FakeCore& c) { return c.count(); }), 1u);
}

TEST_F(DetachedTest, WhatTheCoreRefusesIsNotKept) {
  start();
  Peer peer(socket_path);
  for (int i = 0; i < 3; ++i) {
    auto refused = request(peer, "missing", "", 60'000, "k").send().wait(peer.io.waitScope);
    EXPECT_EQ(refused.getError().getCode(), ErrorCode::NOT_FOUND);
    EXPECT_FALSE(refused.getExisting());
  }
  EXPECT_EQ(find(peer, 0, "k").getError().getCode(), ErrorCode::NOT_FOUND);
}

TEST_F(DetachedTest, BadWishesAreRefused) {
  options.detach_lease_ms_max = 1'000;
  start();
  Peer peer(socket_path);
  auto code = [&](auto&& call) { return call.send().wait(peer.io.waitScope).getError().getCode(); };
  EXPECT_EQ(code(request(peer, "hold", "", 1'001)), ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(request(peer, "hold", "", 0, "key")), ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(request(peer, "hold", "", 500, std::string(129, 'k').c_str())),
            ErrorCode::INVALID_ARGUMENT);
  auto open = request(peer, "hold", "", 500);
  open.getSpec().setStdinOpen(true);
  EXPECT_EQ(code(open), ErrorCode::INVALID_ARGUMENT);
  test::SinkLog log;
  auto live = request(peer, "hold", "", 500);
  live.setOutput(kj::heap<test::Sink>(log));
  EXPECT_EQ(code(live), ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(onCore([](FakeCore& c) { return c.count(); }), 0u);
}

TEST_F(DetachedTest, AUserHasABoundedNumber) {
  core.account_bounds.setPool(sched::Resource::detachedTasks, 100, 3);
  start();
  Peer peer(socket_path);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 3; ++i)
    ids.push_back(request(peer, "hold", "", 60'000).send().wait(peer.io.waitScope).getId());
  auto fourth = request(peer, "hold", "", 60'000).send().wait(peer.io.waitScope);
  EXPECT_EQ(fourth.getError().getCode(), ErrorCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(fourth.getError().getRetryable());
  find(peer, ids[1]).getTask().closeRequest().send().wait(peer.io.waitScope);
  EXPECT_EQ(request(peer, "hold", "", 60'000).send().wait(peer.io.waitScope).getError().getCode(),
            ErrorCode::OK);
}

TEST_F(DetachedTest, ItsLeaseBeginsWithItsEndAndEveryCallRenewsIt) {
  start();
  Peer peer(socket_path);
  constexpr uint32_t kLeaseMs = 1'000;
  uint64_t id = request(peer, "hold", "", kLeaseMs).send().wait(peer.io.waitScope).getId();
  auto task = find(peer, id).getTask();
  // A running task has no lease, however long it runs.
  auto& timer = peer.io.provider->getTimer();
  timer.afterDelay(2 * kLeaseMs * kj::MILLISECONDS).wait(peer.io.waitScope);
  EXPECT_EQ(task.infoRequest().send().wait(peer.io.waitScope).getInfo().getState(), "running");
  onCore([](FakeCore& c) { c.end(c.task(1), base::Verdict::succeeded); });
  for (int i = 0; i < 8; ++i) {
    timer.afterDelay(kLeaseMs / 5 * kj::MILLISECONDS).wait(peer.io.waitScope);
    auto info = task.infoRequest().send().wait(peer.io.waitScope);
    ASSERT_EQ(info.getError().getCode(), ErrorCode::OK) << i;
    EXPECT_EQ(info.getInfo().getState(), "done");
    EXPECT_EQ(info.getInfo().getQueuedNs(), 1u);
  }
  // Without calls the task is forgotten. Each call renews the lease, so the pause between two calls
  // is longer than it.
  EXPECT_TRUE(until(peer, ErrorCode::NOT_FOUND, [&] {
    timer.afterDelay(2 * kLeaseMs * kj::MILLISECONDS).wait(peer.io.waitScope);
    return find(peer, id).getError().getCode();
  }));
  EXPECT_EQ(task.waitRequest().send().wait(peer.io.waitScope).getError().getCode(),
            ErrorCode::NOT_FOUND);
  auto read = task.readFileRequest();
  read.setBytesMax(1);
  EXPECT_EQ(read.send().wait(peer.io.waitScope).getError().getCode(), ErrorCode::NOT_FOUND);
  EXPECT_EQ(task.infoRequest().send().wait(peer.io.waitScope).getError().getCode(),
            ErrorCode::NOT_FOUND);
}

TEST_F(DetachedTest, AResultThatNobodyClosesIsForgottenAndItsMemoryWithIt) {
  options.result_lease_ms = 100;
  options.tasks_per_connection_max = 1;
  start();
  Peer peer(socket_path);
  auto submit = [&] { return peer.submitRequest("echo", "x").send().wait(peer.io.waitScope); };
  auto task = submit().getTask();
  task.waitRequest().send().wait(peer.io.waitScope);
  EXPECT_EQ(submit().getError().getCode(), ErrorCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(until(peer, ErrorCode::OK, [&] { return submit().getError().getCode(); }));
  EXPECT_EQ(task.waitRequest().send().wait(peer.io.waitScope).getError().getCode(),
            ErrorCode::NOT_FOUND);
}

TEST_F(DetachedTest, AWriteThatNeverReturnsDoesNotKeepTheTaskForEver) {
  options.result_lease_ms = 100;
  start();
  Peer peer(socket_path);
  test::SinkLog log;
  log.hold = true;
  auto call = peer.submitRequest("echo", "x");
  call.setOutput(kj::heap<test::Sink>(log));
  auto task = call.send().wait(peer.io.waitScope).getTask();
  // The task has ended, and its output is never delivered.
  EXPECT_EQ(task.waitRequest().send().wait(peer.io.waitScope).getError().getCode(),
            ErrorCode::NOT_FOUND);
}

TEST_F(DetachedTest, InfoSaysWhereATaskStands) {
  start();
  Peer peer(socket_path);
  auto submitted = peer.submitRequest("hold").send().wait(peer.io.waitScope);
  auto task = submitted.getTask();
  auto info = task.infoRequest().send().wait(peer.io.waitScope);
  EXPECT_EQ(info.getInfo().getId(), submitted.getId());
  EXPECT_EQ(info.getInfo().getState(), "running");
  EXPECT_EQ(info.getInfo().getPidHost(), 77u);
  EXPECT_TRUE(info.getInfo().getYours());
  onCore([](FakeCore& c) { c.end(c.task(1), base::Verdict::succeeded); });
  task.waitRequest().send().wait(peer.io.waitScope);
  info = task.infoRequest().send().wait(peer.io.waitScope);
  EXPECT_EQ(info.getInfo().getState(), "done");
  EXPECT_EQ(info.getInfo().getTemplate(), "hold");
  // Only a detached task can be found.
  EXPECT_EQ(find(peer, submitted.getId()).getError().getCode(), ErrorCode::NOT_FOUND);
}

TEST_F(DetachedTest, ADetachedTaskIsItsUsersInTheListOfEveryConnection) {
  start();
  Peer peer(socket_path), other(socket_path, peer);
  request(peer, "hold", "", 60'000).send().wait(peer.io.waitScope);
  auto kept = peer.submitRequest("hold").send().wait(peer.io.waitScope);
  auto list = other.mayfly.tasksRequest().send().wait(other.io.waitScope);
  ASSERT_EQ(list.getTasks().size(), 2u);
  EXPECT_TRUE(list.getTasks()[0].getYours());
  EXPECT_FALSE(list.getTasks()[1].getYours());
}

TEST_F(DetachedTest, TheServerStopsWithDetachedTasksKept) {
  start();
  Peer peer(socket_path);
  for (int i = 0; i < 4; ++i)
    ASSERT_EQ(request(peer, i % 2 ? "hold" : "echo", "", 60'000)
                  .send()
                  .wait(peer.io.waitScope)
                  .getError()
                  .getCode(),
              ErrorCode::OK);
  stopServer();
}

}  // namespace
}  // namespace mayfly
