// The server's own refusals and ends: of idle and half-silent connections, of messages that
// Mayfly's protocol does not use, of memory that many connections hold together.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <thread>

#include "edge/asio_port.h"
#include "edge/byte_budget.h"
#include "edge/message_stream.h"
#include "rpc/calls.h"
#include "rpc/peer_guard.h"
#include "rpc/task.h"
#include "rpc_peer.h"

namespace mayfly {
namespace {

using schema::ErrorCode;
using test::appendMessage;
using test::FakeCore;
using test::isEnded;
using test::Peer;
using test::rawConnect;

class BoundsTest : public test::RpcFixture {
 protected:
  static constexpr uid_t kOther = 64'002;  // a user of the host beside root

  static void write(const base::Fd& fd, const std::string& bytes) {
    ASSERT_EQ(::write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  // Another client's task still runs.
  ::testing::AssertionResult othersAreServed() {
    Peer peer(socket_path);
    auto task = peer.submitRequest("echo", "fine").send().wait(peer.io.waitScope).getTask();
    auto result = task.waitRequest().send().wait(peer.io.waitScope);
    if (edge::view(result.getResult().getStdout()) == "fine") return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "another client is not served";
  }
};

std::string bootstrap(uint32_t question) {
  std::string bytes;
  capnp::MallocMessageBuilder message;
  message.initRoot<capnp::rpc::Message>().initBootstrap().setQuestionId(question);
  appendMessage(bytes, message);
  return bytes;
}

// A call of `hello` on the bootstrap's answer, changed by `change`.
template <class Change>
std::string call(uint32_t question, Change change) {
  std::string bytes;
  capnp::MallocMessageBuilder message;
  auto call = message.initRoot<capnp::rpc::Message>().initCall();
  call.setQuestionId(question);
  call.initTarget().initPromisedAnswer().setQuestionId(0);
  call.setInterfaceId(capnp::typeId<schema::Mayfly>());
  call.setMethodId(0);
  call.initParams().getContent().initAs<schema::Mayfly::HelloParams>().setProtocol(1);
  call.initSendResultsTo().setCaller();
  change(call);
  appendMessage(bytes, message);
  return bytes;
}

TEST_F(BoundsTest, HalfAMessageAndThenSilenceEndsItsConnection) {
  options.message_ms_max = 100;
  start();
  uint32_t words[] = {0, 1000, 1, 2};
  for (size_t bytes : {1u, 4u, 7u, 8u, 16u}) {
    base::Fd fd = rawConnect(socket_path);
    write(fd, std::string(reinterpret_cast<const char*>(words), bytes));
    EXPECT_TRUE(isEnded(fd.view())) << bytes;
  }
  // A whole message, then half of one.
  base::Fd fd = rawConnect(socket_path);
  write(fd, bootstrap(0) + std::string(5, '\0'));
  EXPECT_TRUE(isEnded(fd.view()));
  EXPECT_TRUE(othersAreServed());
}

TEST_F(BoundsTest, ASlowMessageIsServedAsLongAsItEndsInTime) {
  options.message_ms_max = 20'000;
  start();
  base::Fd fd = rawConnect(socket_path);
  for (char each : bootstrap(0)) write(fd, std::string(1, each));
  pollfd answer{fd.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&answer, 1, 20'000), 1);
}

TEST_F(BoundsTest, AnIdleConnectionWithoutATaskIsEndedAndOneWithATaskIsNot) {
  options.connection_idle_ms = 200;
  start();
  Peer busy(socket_path);
  auto task = busy.submitRequest("hold").send().wait(busy.io.waitScope).getTask();
  {
    base::Fd silent = rawConnect(socket_path);
    EXPECT_TRUE(isEnded(silent.view()));
    base::Fd spoke = rawConnect(socket_path);
    write(spoke, bootstrap(0));
    EXPECT_TRUE(isEnded(spoke.view()));
  }
  EXPECT_EQ(task.infoRequest().send().wait(busy.io.waitScope).getError().getCode(), ErrorCode::OK);
  // A detached task does not belong to the connection, but a call that waits for it counts as
  // activity.
  auto request = busy.submitRequest("hold");
  request.getSpec().getDetach().setLeaseMs(60'000);
  auto detached = request.send().wait(busy.io.waitScope).getTask();
  auto waiting = detached.waitRequest().send();
  task.closeRequest().send().wait(busy.io.waitScope);
  base::Fd silent = rawConnect(socket_path);
  EXPECT_TRUE(isEnded(silent.view()));
  onCore([](FakeCore& c) { c.end(c.task(2), base::Verdict::succeeded); });
  EXPECT_EQ(waiting.wait(busy.io.waitScope).getError().getCode(), ErrorCode::OK);
}

TEST_F(BoundsTest, MessagesThatHaveNoUseHereEndTheirConnectionOnly) {
  start();
  auto root = [](auto fill) {
    std::string bytes;
    capnp::MallocMessageBuilder message;
    fill(message.initRoot<capnp::rpc::Message>());
    appendMessage(bytes, message);
    return bytes;
  };
  std::vector<std::pair<const char*, std::string>> bad{
      {"too many capabilities", call(1,
                                     [](capnp::rpc::Call::Builder c) {
                                       auto caps = c.getParams().initCapTable(17);
                                       for (uint32_t i = 0; i < 17; ++i) caps[i].setSenderHosted(i);
                                     })},
      {"results to yourself",
       call(1, [](capnp::rpc::Call::Builder c) { c.getSendResultsTo().setYourself(); })},
      {"a deep target", call(1,
                             [](capnp::rpc::Call::Builder c) {
                               c.getTarget().getPromisedAnswer().initTransform(100'000);
                             })},
      {"provide", root([](capnp::rpc::Message::Builder m) { m.initProvide().setQuestionId(5); })},
      {"accept", root([](capnp::rpc::Message::Builder m) { m.initAccept().setQuestionId(5); })},
      {"join", root([](capnp::rpc::Message::Builder m) { m.initJoin().setQuestionId(5); })},
      {"a return of nothing",
       root([](capnp::rpc::Message::Builder m) { m.initReturn().setAnswerId(9); })},
      {"a return from elsewhere",
       root([](capnp::rpc::Message::Builder m) { m.initReturn().setTakeFromOtherQuestion(0); })},
      {"a release of nothing",
       root([](capnp::rpc::Message::Builder m) { m.initRelease().setId(1'000); })},
      {"an unknown target",
       call(1, [](capnp::rpc::Call::Builder c) { c.getTarget().setImportedCap(0xffffffff); })},
      {"a question twice", call(1, [](auto) {}) + call(1, [](auto) {})},
      {"a disembargo of nothing", root([](capnp::rpc::Message::Builder m) {
         m.initDisembargo().getContext().setReceiverLoopback(3);
       })},
  };
  // Cap'n Proto 1.x ignores an unknown `finish`: it may have crossed an answer that needed none.
  if (!rpc::kAnswersMayNeedNoFinish)
    bad.emplace_back("a finish of nothing", root([](capnp::rpc::Message::Builder m) {
                       m.initFinish().setQuestionId(77);
                     }));
  for (auto& [what, bytes] : bad) {
    base::Fd fd = rawConnect(socket_path);
    write(fd, bootstrap(0) + bytes);
    EXPECT_TRUE(isEnded(fd.view())) << what;
  }
  EXPECT_TRUE(othersAreServed());
}

TEST_F(BoundsTest, AnswersThatAreNotFinishedAreBounded) {
  options.answers_per_connection_max = 1'000;
  start();
  base::Fd fd = rawConnect(socket_path);
  // Answers with a capability must always be finished.
  std::string bytes;
  for (uint32_t i = 0; i <= 999; ++i) bytes += bootstrap(i);
  std::thread writer([&] { write(fd, bytes); });
  size_t got = 0;
  char buffer[65'536];
  // All calls are answered: more than one byte each.
  while (got < 1'000 * 64) {
    ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    ASSERT_GT(n, 0);
    got += static_cast<size_t>(n);
  }
  writer.join();
  write(fd, bootstrap(1'000));
  EXPECT_TRUE(isEnded(fd.view()));
  EXPECT_TRUE(othersAreServed());
}

TEST_F(BoundsTest, AClientThatFinishesWhatItAskedMayAskForEver) {
  options.answers_per_connection_max = 50;
  start();
  Peer peer(socket_path);
  for (int i = 0; i < 200; ++i)
    ASSERT_EQ(peer.mayfly.templatesRequest().send().wait(peer.io.waitScope).getError().getCode(),
              ErrorCode::OK);
}

TEST_F(BoundsTest, TasksThatAreClosedAndNotReleasedAreBounded) {
  options.handles_per_connection_max = 5;
  start();
  Peer peer(socket_path);
  std::vector<schema::Task::Client> kept;
  for (int i = 0; i < 5; ++i) {
    kept.push_back(peer.submitRequest("hold").send().wait(peer.io.waitScope).getTask());
    kept.back().closeRequest().send().wait(peer.io.waitScope);
  }
  auto sixth = peer.submitRequest("hold").send().wait(peer.io.waitScope);
  EXPECT_EQ(sixth.getError().getCode(), ErrorCode::RESOURCE_EXHAUSTED);
  kept.clear();
  EXPECT_TRUE(peer.until([&] {
    return peer.submitRequest("hold").send().wait(peer.io.waitScope).getError().getCode() ==
           ErrorCode::OK;
  }));
}

// --- the bounds of a user, over all its connections ---

TEST_F(BoundsTest, OutputThatMayBeHeldIsTheUsersWhateverItsConnections) {
  constexpr uint32_t kMax = 5;
  core.account_bounds.of(sched::Resource::outputBytes) = {
      .pool_max = kMax * rpc::kCapturedHeldBytes, .user_max = kMax * rpc::kCapturedHeldBytes};
  start();
  Peer peer(socket_path), second(socket_path, peer);
  std::vector<schema::Task::Client> tasks;
  for (uint32_t i = 0; i < kMax; ++i) {
    Peer& by = i % 2 == 0 ? peer : second;
    tasks.push_back(by.submitRequest("hold").send().wait(peer.io.waitScope).getTask());
    EXPECT_EQ(tasks.back().infoRequest().send().wait(peer.io.waitScope).getError().getCode(),
              ErrorCode::OK);
  }
  Peer third(socket_path, peer);
  for (Peer* by : {&peer, &second, &third}) {
    auto next = by->submitRequest("hold").send().wait(peer.io.waitScope);
    EXPECT_EQ(next.getError().getCode(), ErrorCode::RESOURCE_EXHAUSTED);
    EXPECT_TRUE(next.getError().getRetryable());
    EXPECT_GT(next.getError().getRetryAfterMs(), 0u);
  }
  for (auto& task : tasks) task.closeRequest().send().wait(peer.io.waitScope);
  EXPECT_EQ(third.submitRequest("hold").send().wait(peer.io.waitScope).getError().getCode(),
            ErrorCode::OK);
}

TEST_F(BoundsTest, CallsAreTheUsersAndAnotherUserIsServed) {
  constexpr uint32_t kMax = 2 * rpc::kWaitsPerTaskMax;
  core.account_bounds.of(sched::Resource::calls) = {
      .pool_max = kMax - 4, .user_own = 4, .user_max = kMax};
  options.uids_allowed = {kOther};
  start();
  Peer peer(socket_path), second(socket_path, peer);
  std::vector<schema::Task::Client> tasks;
  std::vector<kj::Promise<capnp::Response<schema::Task::WaitResults>>> waits;
  for (Peer* by : {&peer, &second, &second}) {  // more calls than the user may have
    tasks.push_back(by->submitRequest("hold").send().wait(peer.io.waitScope).getTask());
    for (uint32_t k = 0; k < rpc::kWaitsPerTaskMax; ++k)
      waits.push_back(tasks.back().waitRequest().send());
  }
  for (Peer* by : {&peer, &second}) {
    EXPECT_TRUE(peer.until([&] {  // until the other connection's calls have arrived
      auto refused = by->mayfly.templatesRequest().send().wait(peer.io.waitScope);
      return refused.getError().getCode() == ErrorCode::RESOURCE_EXHAUSTED &&
             refused.getError().getRetryable();
    }));
  }
  // The first user holds the whole pool; the other user has a part of its own.
  asUser(kOther, [&] { EXPECT_TRUE(othersAreServed()); });
}

TEST_F(BoundsTest, MoreConnectionsThanItsShareAreRefusedAndAnotherUserIsServed) {
  core.account_bounds.of(sched::Resource::connections) = {
      .pool_max = 2, .user_own = 1, .user_max = 3};
  options.uids_allowed = {kOther};
  start();
  Peer peer(socket_path), second(socket_path, peer), third(socket_path, peer);
  auto codeOf = [](Peer& by) {
    return by.mayfly.templatesRequest().send().wait(by.io.waitScope).getError().getCode();
  };
  for (Peer* by : {&peer, &second, &third}) EXPECT_EQ(codeOf(*by), ErrorCode::OK);
  {
    Peer fourth(socket_path, peer);
    EXPECT_EQ(codeOf(fourth), ErrorCode::RESOURCE_EXHAUSTED);
  }
  asUser(kOther, [&] { EXPECT_TRUE(othersAreServed()); });
  EXPECT_EQ(onCore([&](FakeCore&) { return told.refused; }),
            (std::map<std::string, uint64_t>{{"uid:0 resourceExhausted", 1}}));
}

TEST_F(BoundsTest, AUserThatMayNotSpeakIsToldOnceAndIsThenClosedWithoutAWord) {
  start();
  asUser(kOther, [&] {
    {
      Peer peer(socket_path);
      auto refused = peer.mayfly.templatesRequest().send().wait(peer.io.waitScope);
      EXPECT_EQ(refused.getError().getCode(), ErrorCode::PERMISSION_DENIED);
      EXPECT_NE(edge::view(refused.getError().getMessage()).find(std::to_string(kOther)),
                std::string_view::npos);
    }
    for (int i = 0; i < 100; ++i) {
      base::Fd silent = rawConnect(socket_path);
      char byte;
      EXPECT_LE(::read(silent.get(), &byte, 1), 0);
    }
  });
  EXPECT_TRUE(othersAreServed());
  EXPECT_EQ(onCore([&](FakeCore&) { return told.refused.begin()->second; }), 101u);
}

TEST_F(BoundsTest, AMemberOfAnAllowedGroupIsServedAsItsUser) {
  constexpr gid_t kGroup = 80'000, kAnother = 64'012;
  options.gids_allowed = {kGroup};
  start();
  // The raw calls change this thread only, as asUser's does.
  const auto codeAs = [&](gid_t gid, std::vector<gid_t> others, uint32_t* tasks = nullptr) {
    ErrorCode code{};
    std::thread([&] {
      ASSERT_EQ(::syscall(SYS_setgroups, others.size(), others.data()), 0);
      ASSERT_EQ(::syscall(SYS_setresgid, -1, gid, -1), 0);
      ASSERT_EQ(::syscall(SYS_setresuid, -1, kOther, -1), 0);
      Peer peer(socket_path);
      auto answer = peer.mayfly.tasksRequest().send().wait(peer.io.waitScope);
      code = answer.getError().getCode();
      if (tasks != nullptr) *tasks = answer.getTasks().size();
    }).join();
    return code;
  };
  Peer root(socket_path);
  auto roots = root.submitRequest("hold").send().wait(root.io.waitScope);
  uint32_t seen = 1;
  EXPECT_EQ(codeAs(kGroup, {}, &seen), ErrorCode::OK);
  EXPECT_EQ(seen, 0u) << "a group opens the door and shows nobody's tasks";
  EXPECT_EQ(codeAs(kAnother, {kGroup}), ErrorCode::OK);
  std::vector<gid_t> many;
  for (gid_t gid = 70'000; gid < 71'000; ++gid) many.push_back(gid);
  many.push_back(kGroup);  // the last, as the kernel sorts them, too
  EXPECT_EQ(codeAs(kAnother, many), ErrorCode::OK);
  many.pop_back();
  EXPECT_EQ(codeAs(kAnother, many), ErrorCode::PERMISSION_DENIED);
  EXPECT_EQ(onCore([&](FakeCore&) { return told.opened; }), 4);
  EXPECT_EQ(onCore([&](FakeCore&) { return told.refused; }),
            (std::map<std::string, uint64_t>{{"uid:64002 permissionDenied", 1}}));
}

TEST_F(BoundsTest, AUserSeesAndEndsItsOwnTasksOnly) {
  options.uids_allowed = {kOther};
  start();
  Peer root(socket_path);
  auto roots_task = root.submitRequest("hold").send().wait(root.io.waitScope);
  const uint64_t roots = roots_task.getId();
  asUser(kOther, [&] {
    Peer peer(socket_path), second(socket_path, peer);
    auto& scope = peer.io.waitScope;
    auto task = peer.submitRequest("hold").send().wait(scope);
    const uint64_t own = task.getId();
    auto kill = [&](Peer& by, uint64_t id) {
      auto request = by.mayfly.killRequest();
      request.setId(id);
      return request.send().wait(scope).getError().getCode();
    };
    auto seen = second.mayfly.tasksRequest().send().wait(scope);
    ASSERT_EQ(seen.getTasks().size(), 1u);
    EXPECT_EQ(seen.getTasks()[0].getId(), own);
    EXPECT_EQ(kill(second, roots), ErrorCode::NOT_FOUND);
    EXPECT_EQ(kill(second, own), ErrorCode::OK);
  });
  auto seen = root.mayfly.tasksRequest().send().wait(root.io.waitScope);
  ASSERT_EQ(seen.getTasks().size(), 1u);
  EXPECT_EQ(seen.getTasks()[0].getId(), roots);
}

TEST_F(BoundsTest, NothingIsHeldOnceTheConnectionsAreGone) {
  start();
  {
    Peer peer(socket_path), second(socket_path, peer);
    auto& scope = peer.io.waitScope;
    auto task = peer.submitRequest("hold").send().wait(scope).getTask();
    auto waits = task.waitRequest().send();
    auto request = second.submitRequest("echo", std::string(100'000, 'x'));
    request.getSpec().setTenant("blue");
    EXPECT_EQ(request.send().wait(scope).getError().getCode(), ErrorCode::OK);
    auto upload = second.mayfly.uploadRequest();
    upload.setSha256(edge::data(std::string(32, 'h')));
    upload.setSizeBytes(1'000);
    EXPECT_EQ(upload.send().wait(scope).getError().getCode(), ErrorCode::OK);
    EXPECT_GT(onCore([](FakeCore& c) { return c.accounts().known(); }), 0u);
  }
  EXPECT_TRUE(eventually("the end of both", [](FakeCore& c) { return c.owners_gone.size() == 2; }));
  onCore([](FakeCore& c) { c.forgetEnded(); });
  EXPECT_EQ(onCore([](FakeCore& c) {
              for (size_t i = 0; i < sched::kResources; ++i)
                EXPECT_EQ(c.accounts().usedByAll(static_cast<sched::Resource>(i)), 0u)
                    << sched::name(static_cast<sched::Resource>(i));
              EXPECT_TRUE(c.accounts().sumsAreRight());
              return c.accounts().known();
            }),
            0u);
  EXPECT_EQ(onCore([&](FakeCore&) { return told.opened + told.ended; }), 4);
}

TEST_F(BoundsTest, EachCallThatIsAnsweredIsToldOnceWithItsName) {
  start();
  Peer peer(socket_path);
  auto& scope = peer.io.waitScope;
  auto task = peer.submitRequest("echo", std::string(5'000, 'x')).send().wait(scope).getTask();
  EXPECT_EQ(task.waitRequest().send().wait(scope).getError().getCode(), ErrorCode::OK);
  for (int i = 0; i < 3; ++i) peer.mayfly.templatesRequest().send().wait(scope);
  using Counts = std::map<std::string, uint64_t>;
  onCore([&](FakeCore&) {
    EXPECT_EQ(told.answered,
              (Counts{{"Mayfly.submit", 1}, {"Mayfly.templates", 3}, {"Task.wait", 1}}));
    EXPECT_GT(told.received_bytes, 5'000u);
    EXPECT_GT(told.sent_bytes, 5'000u);
  });
}

TEST_F(BoundsTest, EachRefusedCallIsToldWithItsCodeWhereverItWasRefused) {
  start();
  Peer peer(socket_path);
  auto& scope = peer.io.waitScope;
  peer.submitRequest("echo", "").send().wait(scope);  // not refused
  auto trace = peer.submitRequest("echo", "");
  trace.setTraceparent("no trace");
  EXPECT_EQ(trace.send().wait(scope).getError().getCode(), ErrorCode::INVALID_ARGUMENT);
  auto find = peer.mayfly.findRequest();
  find.setId(77);
  EXPECT_EQ(find.send().wait(scope).getError().getCode(), ErrorCode::NOT_FOUND);
  auto blob = peer.mayfly.removeBlobRequest();
  blob.setSha256(capnp::Data::Reader());
  EXPECT_NE(blob.send().wait(scope).getError().getCode(), ErrorCode::OK);
  using Counts = std::map<std::string, uint64_t>;
  onCore([&](FakeCore&) {
    EXPECT_EQ(told.calls_refused, (Counts{{"Mayfly.submit invalidArgument", 1},
                                          {"Mayfly.find notFound", 1},
                                          {"Mayfly.removeBlob invalidArgument", 1}}));
    EXPECT_EQ(told.messages_refused, 0);
  });
}

TEST_F(BoundsTest, TheCallersTraceContextReachesTheCore) {
  start();
  Peer peer(socket_path);
  auto request = peer.submitRequest("echo", "");
  const char* trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  request.setTraceparent(trace);
  const uint64_t id = request.send().wait(peer.io.waitScope).getId();
  onCore([&](FakeCore& c) { EXPECT_EQ(c.task(id).spec.trace, trace); });
}

// Large calls on an unresolved promise: Cap'n Proto holds their messages.
std::string largeCallOn(uint32_t question, uint32_t promised, size_t bytes) {
  return call(question, [&](capnp::rpc::Call::Builder c) {
    c.getTarget().getPromisedAnswer().setQuestionId(promised);
    c.getTarget().getPromisedAnswer().initTransform(1)[0].setGetPointerField(0);
    c.setInterfaceId(capnp::typeId<schema::Task>());
    c.setMethodId(2);
    c.getParams().getContent().initAs<schema::Task::WriteStdinParams>().initData(
        static_cast<uint32_t>(bytes));
  });
}

// A task that keeps running, and a wait for it as question 2.
std::string aWaitThatDoesNotReturn() {
  std::string bytes = bootstrap(0) + call(1, [](capnp::rpc::Call::Builder c) {
                        c.setMethodId(2);
                        auto params =
                            c.getParams().getContent().initAs<schema::Mayfly::SubmitParams>();
                        params.initSpec().setTemplate("hold");
                        params.getSpec().getCode().setString(nullptr);
                      });
  bytes += call(2, [](capnp::rpc::Call::Builder c) {
    c.getTarget().getPromisedAnswer().setQuestionId(1);
    c.getTarget().getPromisedAnswer().initTransform(1)[0].setGetPointerField(0);
    c.setInterfaceId(capnp::typeId<schema::Task>());
    c.setMethodId(0);
    c.getParams().getContent().initAs<schema::Task::WaitParams>();
  });
  return bytes;
}

TEST_F(BoundsTest, WhoKeepsTheSharedMemoryOfRequestsFromOthersIsEnded) {
  core.account_bounds.setPool(sched::Resource::requestBytes, 4u << 20, 4u << 20);
  options.own_bytes = 64u << 10;
  options.message_ms_max = 200;
  start();
  base::Fd hog = rawConnect(socket_path);
  std::string bytes = aWaitThatDoesNotReturn();
  write(hog, bytes);
  std::thread writer([&] {
    std::string large = largeCallOn(3, 2, 3u << 20);
    for (std::string_view rest = large; !rest.empty();) {
      ssize_t n = ::write(hog.get(), rest.data(), rest.size());
      if (n <= 0) break;
      rest.remove_prefix(static_cast<size_t>(n));
    }
  });
  writer.join();
  // Small requests of others proceed meanwhile; a large one waits until the hog ends.
  EXPECT_TRUE(othersAreServed());
  Peer peer(socket_path);
  auto large = peer.submitRequest("echo", std::string(3u << 20, 'x')).send();
  EXPECT_EQ(large.wait(peer.io.waitScope).getError().getCode(), ErrorCode::OK);
  EXPECT_TRUE(isEnded(hog.view()));
}

TEST_F(BoundsTest, WhoeverLeavesIsNoticedThoughNothingMoreIsReadOfIt) {
  options.in_flight_bytes_per_connection_max = 64u << 10;
  start();
  {
    base::Fd client = rawConnect(socket_path);
    write(client, aWaitThatDoesNotReturn());
    // Does not fit beside the wait, so the server reads no further.
    write(client, largeCallOn(3, 2, 64u << 10));
    ASSERT_TRUE(eventually("submitted", [](FakeCore& c) { return c.count() == 1; }));
  }
  EXPECT_TRUE(eventually("its owner is gone", [](FakeCore& c) { return !c.owners_gone.empty(); }));
  EXPECT_TRUE(onCore([](FakeCore& c) { return c.task(1).verdict == base::Verdict::clientGone; }));
}

// --- one thread ----------------------------------------------------------------------

TEST_F(BoundsTest, AFloodOfReadyCallsKeepsTheCoresHandlersWaitingForOneTurnAtMost) {
  constexpr uint32_t kCalls = 900;
  static_assert(kCalls > 2 * edge::TurnBounds{}.events_max);
  options.tasks_per_connection_max = 2 * kCalls;
  core.account_bounds.of(sched::Resource::outputBytes) = {};
  start();
  std::string bytes = bootstrap(0);
  for (uint32_t i = 1; i <= kCalls; ++i)
    bytes += call(i, [](capnp::rpc::Call::Builder call) {
      call.setMethodId(2);
      call.getParams().getContent().initAs<schema::Mayfly::SubmitParams>().initSpec().setTemplate(
          "hold");
    });
  base::Fd fd = rawConnect(socket_path);
  int room = 4 << 20;
  ASSERT_EQ(::setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUF, &room, sizeof room), 0);
  ASSERT_TRUE(base::setNonblocking(fd.view()));
  size_t before = 0, most = 0;
  std::promise<void> done;
  std::function<void()> look = [&] {
    most = std::max(most, core.count() - before);
    before = core.count();
    if (before < kCalls)
      post(look);
    else
      done.set_value();
  };
  // Writes in a handler of the core, so that the server reads nothing before all calls are there,
  // and nothing before the first look.
  ASSERT_EQ(onCore([&](FakeCore&) {
              post(look);
              return ::write(fd.get(), bytes.data(), bytes.size());
            }),
            static_cast<ssize_t>(bytes.size()));
  ASSERT_EQ(done.get_future().wait_for(test::kEventTime), std::future_status::ready);
  EXPECT_LE(most, edge::TurnBounds{}.events_max);
}

TEST(PeerGuard, ItsFarewellFinishesEachCallOnce) {
  sched::Accounts book;
  auto user = book.open(sched::Account::ofPeer(1)).value();
  base::Observer nobody;
  rpc::PeerGuard guard(100, book.charge(user, sched::Resource::answers, 0), nobody);
  for (uint32_t question : {3u, 7u, 5u}) {
    capnp::MallocMessageBuilder message;
    message.initRoot<capnp::rpc::Message>().initBootstrap().setQuestionId(question);
    capnp::SegmentArrayMessageReader reader(message.getSegmentsForOutput());
    guard.inspect(reader, 8);
  }
  std::multiset<uint32_t> finished;
  for (int i = 0; i < 3; ++i) {
    KJ_IF_MAYBE (words, guard.farewell()) {
      auto message = (*words)->getRoot<capnp::rpc::Message>();
      ASSERT_TRUE(message.isFinish());
      EXPECT_TRUE(message.getFinish().getReleaseResultCaps());
      finished.insert(message.getFinish().getQuestionId());
    }
  }
  EXPECT_EQ(finished, (std::multiset<uint32_t>{3, 5, 7}));
  EXPECT_TRUE(guard.farewell() == nullptr);
  EXPECT_EQ(book.used(user, sched::Resource::answers), 0u);
}

// A pool of 1,000 bytes, of which an owner may have 700; each stream has 100 of its own.
constexpr uint64_t kOwn = 100, kOwnerMax = 700, kPoolMax = 1'000;
struct Pool {
  uint64_t bytes = 0;
  std::map<uint64_t, uint64_t> owners;
};
class PoolPurse final : public edge::Purse {
 public:
  PoolPurse(Pool& pool, uint64_t owner) : pool_(pool), owner_(owner) {}
  Room roomFor(uint64_t more) const override {
    const uint64_t needed = beyondOwn(bytes_ + more) - beyondOwn(bytes_);
    if (pool_.owners[owner_] + needed > kOwnerMax) return Room::noneOfOwner;
    return pool_.bytes + needed > kPoolMax ? Room::noneOfPool : Room::yes;
  }
  void settle(uint64_t bytes) override {
    pool_.bytes += beyondOwn(bytes) - beyondOwn(bytes_);
    pool_.owners[owner_] += beyondOwn(bytes) - beyondOwn(bytes_);
    bytes_ = bytes;
  }
  uint64_t owner() const override { return owner_; }

 private:
  static uint64_t beyondOwn(uint64_t bytes) { return bytes > kOwn ? bytes - kOwn : 0; }
  Pool& pool_;
  uint64_t owner_;
  uint64_t bytes_ = 0;
};

TEST(MessageStream, TheFarewellComesBetweenTheLastMessageAndTheEnd) {
  auto io = kj::setupAsyncIo();
  auto pipe = io.provider->newTwoWayPipe();
  edge::ByteBudget budget(io.provider->getTimer(), {1'000, 1'000'000, 1 * kj::SECONDS});
  Pool pool;
  edge::MessageStream stream(*pipe.ends[0]);
  capnp::MallocMessageBuilder words;
  words.initRoot<capnp::rpc::Message>().initFinish().setQuestionId(9);
  int said = 0;
  stream.guard({io.provider->getTimer(), 1 * kj::SECONDS, budget.open(kj::heap<PoolPurse>(pool, 1)),
                [](capnp::MessageReader&, size_t) {}, [](capnp::MessageReader&, size_t) {},
                [&]() -> kj::Maybe<kj::Own<capnp::MessageReader>> {
                  if (said == 2) return nullptr;
                  ++said;
                  return kj::Own<capnp::MessageReader>(
                      kj::heap<capnp::SegmentArrayMessageReader>(words.getSegmentsForOutput()));
                }});
  bool ended = false;
  auto end = stream.onReadEnd().then([&] { ended = true; }).eagerlyEvaluate(nullptr);
  // After half a message the stream's end is a fault, which is reported after the farewell.
  pipe.ends[1]->write("\0\0\0\0\5", 5).wait(io.waitScope);
  pipe.ends[1]->shutdownWrite();
  for (int i = 0; i < 2; ++i) {
    auto got = stream.tryReadMessage(edge::readerOptions(), nullptr).wait(io.waitScope);
    KJ_IF_MAYBE (reader, got) {
      EXPECT_EQ((*reader)->getRoot<capnp::rpc::Message>().getFinish().getQuestionId(), 9u);
    } else {
      ADD_FAILURE() << "no farewell";
    }
    EXPECT_FALSE(ended);
  }
  EXPECT_ANY_THROW(stream.tryReadMessage(edge::readerOptions(), nullptr).wait(io.waitScope));
  io.waitScope.poll();
  EXPECT_TRUE(ended);
}

TEST(MessageStream, ASmallMessageMayBeTraversedAFewTimesItsSizeOnly) {
  auto io = kj::setupAsyncIo();
  auto pipe = io.provider->newTwoWayPipe();
  edge::MessageStream a(*pipe.ends[0]), b(*pipe.ends[1]);
  capnp::MallocMessageBuilder message;
  std::string text(100'000, 'q');
  message.initRoot<schema::TaskSpec>().getCode().setString(edge::data(text));
  auto written = a.writeMessage(message);
  auto got = b.readMessage(edge::readerOptions()).wait(io.waitScope);
  written.wait(io.waitScope);
  int times = 0;
  EXPECT_ANY_THROW({
    for (; times < 100; ++times) (void)got->getRoot<schema::TaskSpec>().getCode().getString();
  });
  EXPECT_GE(times, 3);
  EXPECT_LE(times, 6);
}

// --- the budget ----------------------------------------------------------------------

struct Shared {
  kj::AsyncIoContext io = kj::setupAsyncIo();
  edge::ByteBudget budget{io.provider->getTimer(), {kOwn, 600, 50 * kj::MILLISECONDS}};
  Pool pool;
  uint64_t owners = 0;

  kj::Own<edge::ByteBudget::Account> open() { return openOf(++owners); }
  kj::Own<edge::ByteBudget::Account> openOf(uint64_t owner) {
    return budget.open(kj::heap<PoolPurse>(pool, owner));
  }
};

TEST(ByteBudget, EachHasItsOwnBytesWhateverTheOthersHold) {
  Shared shared;
  auto& io = shared.io;
  auto a = shared.open(), b = shared.open(), c = shared.open(), d = shared.open();
  auto held_a = a->take(600).wait(io.waitScope), held_b = b->take(600).wait(io.waitScope);
  EXPECT_EQ(shared.pool.bytes, 1'000u);
  EXPECT_TRUE(c->tryTake(101) == nullptr);
  auto own_c = c->take(100).wait(io.waitScope), own_d = d->take(100).wait(io.waitScope);
  EXPECT_EQ(shared.pool.bytes, 1'000u);
  own_c = edge::ByteBudget::Hold();
  EXPECT_EQ(c->heldBytes(), 0u);
}

TEST(ByteBudget, WhoAskedFirstIsServedFirst) {
  Shared shared;
  auto& io = shared.io;
  auto a = shared.open(), b = shared.open(), c = shared.open(), d = shared.open();
  auto held_a = a->take(600).wait(io.waitScope), held_b = b->take(500).wait(io.waitScope);
  std::string order;
  std::vector<edge::ByteBudget::Hold> holds;
  auto wait = [&](edge::ByteBudget::Account& account, uint64_t bytes, char name) {
    return account.take(bytes)
        .then([&order, &holds, name](edge::ByteBudget::Hold hold) {
          order += name;
          holds.push_back(kj::mv(hold));
        })
        .eagerlyEvaluate(nullptr);
  };
  auto large = wait(*c, 600, 'c');
  // These bytes would fit, but taking them would make the large request wait for ever.
  EXPECT_TRUE(d->tryTake(150) == nullptr);
  auto small = wait(*d, 150, 'd');
  io.waitScope.poll();
  EXPECT_EQ(order, "");
  held_a = edge::ByteBudget::Hold();
  io.waitScope.poll();
  EXPECT_EQ(order, "cd");
  holds.clear();
  held_b = edge::ByteBudget::Hold();
  EXPECT_EQ(shared.pool.bytes, 0u);
}

TEST(ByteBudget, AnAccountHasItsMaximumAndAWaiterThatGoesHoldsNobodyUp) {
  Shared shared;
  auto& io = shared.io;
  auto a = shared.open(), b = shared.open();
  auto held = a->take(500).wait(io.waitScope);
  auto second = a->take(200);
  EXPECT_TRUE(b->tryTake(200) == nullptr);  // the first waiter stays first, whatever its reason
  { auto gone = kj::mv(second); }
  held = edge::ByteBudget::Hold();
  EXPECT_FALSE(a->tryTake(600) == nullptr);
  EXPECT_EQ(shared.pool.bytes, 0u);
}

TEST(ByteBudget, WhoHoldsThePoolForLongWhileAnotherWaitsIsTold) {
  Shared shared;
  auto& io = shared.io;
  auto a = shared.open(), b = shared.open(), c = shared.open();
  auto held_a = a->take(600).wait(io.waitScope), held_b = b->take(600).wait(io.waitScope);
  auto small = c->take(50).wait(io.waitScope);
  bool told_c = false;
  auto listens = c->onStuck().then([&] { told_c = true; }).eagerlyEvaluate(nullptr);
  auto waits = c->take(300);
  a->onStuck().wait(io.waitScope);
  b->onStuck().wait(io.waitScope);
  held_a = edge::ByteBudget::Hold();
  waits.wait(io.waitScope);
  EXPECT_FALSE(told_c);
}

TEST(ByteBudget, AnOwnersStreamsWaitForEachOtherAndHoldNoOtherOwnerUp) {
  Shared shared;
  auto& io = shared.io;
  auto a = shared.openOf(1), b = shared.openOf(1), own = shared.openOf(1), c = shared.openOf(2);
  auto held_a = a->take(600).wait(io.waitScope);
  auto waits = b->take(400);  // 300 of them from the pool, of which the owner has 200 left
  auto held_c = c->take(500).wait(io.waitScope);
  auto held_own = own->take(100).wait(io.waitScope);
  bool told_c = false;
  auto listens = c->onStuck().then([&] { told_c = true; }).eagerlyEvaluate(nullptr);
  a->onStuck().wait(io.waitScope);
  held_a = edge::ByteBudget::Hold();
  waits.wait(io.waitScope);
  EXPECT_FALSE(told_c);
}

}  // namespace
}  // namespace mayfly
