// The C++ client against the real server over a fake core.
#include <mayfly/client.h>
#include <sys/syscall.h>

#include <filesystem>
#include <thread>

#include "rpc_fake_core.h"

namespace mayfly {
namespace {

using base::Code;
using test::FakeCore;
using test::kEventTime;

class ClientTest : public test::RpcFixture {
 protected:
  std::unique_ptr<Client> connect(ConnectOptions connect_options = {}) {
    auto client = Client::connect(socket_path, connect_options);
    EXPECT_TRUE(client) << client.error().message;
    return client ? std::move(*client) : nullptr;
  }
  static TaskSpec spec(std::string name, std::string code = "") {
    TaskSpec s;
    s.template_name = std::move(name);
    s.kind = CodeKind::string;
    s.code = std::move(code);
    return s;
  }
  // A hold task that the core has.
  std::optional<Task> hold(Client& client, TaskSpec s = spec("hold"), Callbacks callbacks = {}) {
    auto task = client.submit(std::move(s), std::move(callbacks));
    EXPECT_TRUE(task) << task.error().message;
    if (!task) return std::nullopt;
    return std::move(*task);
  }
};

TEST_F(ClientTest, HelloTellsVersionInstanceAndBounds) {
  start();
  auto client = connect();
  EXPECT_EQ(client->server().version, "1.2.3");
  EXPECT_EQ(client->server().instance, "unit");
  EXPECT_EQ(client->server().protocol, 4);
  EXPECT_EQ(client->server().connections_max,
            core.account_bounds.of(sched::Resource::connections).pool_max);
}

TEST_F(ClientTest, GrantsAndToolsGoWithTheTaskAndAGrantIsRevoked) {
  core.has_broker = true;
  start();
  auto client = connect();
  TaskSpec s = spec("hold");
  s.grants = {{"openai", "calls=1"}, {"slow", ""}};
  s.tools = {{"lookup", "finds", "{}", [](std::string_view json) -> base::Result<std::string> {
                if (json == "[]") return base::fail(Code::invalidArgument, "not an object");
                return std::string(json) + "!";
              }}};
  auto task = hold(*client, std::move(s));
  ASSERT_TRUE(task);
  EXPECT_TRUE(task->revoke("openai"));
  EXPECT_EQ(task->revoke("slow").error().code, Code::unavailable);
  EXPECT_EQ(task->revoke("other").error().code, Code::notFound);
  const auto call = [&](std::string name, std::string json) {
    std::promise<base::Result<std::string>> answer;
    auto future = answer.get_future();
    onCore([&](FakeCore& c) {
      const auto& asked = c.fakeBroker().specs.at(0);
      EXPECT_EQ(asked.grants.at(0).narrowing, "calls=1");
      EXPECT_EQ(asked.tools.at(0).description, "finds");
      asked.tool_box->call(std::move(name), std::move(json),
                           [&answer](base::Result<std::string> got) { answer.set_value(got); });
    });
    return future.get();
  };
  EXPECT_EQ(call("lookup", "{}").value(), "{}!");
  EXPECT_EQ(call("lookup", "[]").error().message, "not an object");
  EXPECT_EQ(call("other", "{}").error().code, Code::notFound);
  EXPECT_EQ(onCore([](FakeCore& c) { return c.fakeBroker().log->revoked.size(); }), 2u);
  task->close();
  EXPECT_EQ(task->revoke("openai").error().code, Code::failedPrecondition);
}

TEST_F(ClientTest, LiveOutputComesInOrderAndBeforeTheResult) {
  start();
  auto client = connect();
  std::string log;
  Callbacks callbacks;
  callbacks.on_started = [&] { log += "started;"; };
  callbacks.on_output = [&](Stream s, std::string_view bytes) {
    log += (s == Stream::out ? "out:" : "err:") + std::string(bytes) + ";";
  };
  callbacks.on_result = [&](const base::Result<TaskResult>& r) { log += r ? "result" : "error"; };
  auto result = client->run(spec("echo", "hello"), callbacks);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(log, "started;out:hello;err:err;result");
  EXPECT_EQ(result->verdict, base::Verdict::succeeded);
  EXPECT_EQ(result->template_name, "echo");
  EXPECT_TRUE(result->receipt.complete);
  EXPECT_EQ(result->receipt.reaped_ns, 5u);
  EXPECT_EQ(result->phases[0], 1u);
  EXPECT_EQ(result->phases[9], 10u);
  EXPECT_EQ(result->captured[0], "");
}

TEST_F(ClientTest, WithoutASinkTheOutputIsCaptured) {
  start();
  auto client = connect();
  auto result = client->run(spec("echo", std::string("a\0\xff", 3)));
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->captured[0], std::string("a\0\xff", 3));
  EXPECT_FALSE(result->truncated[0]);
  EXPECT_TRUE(result->truncated[1]);
}

TEST_F(ClientTest, TheWholeSpecReachesTheCore) {
  start();
  auto client = connect();
  TaskSpec s = spec("hold");
  s.kind = CodeKind::file;
  s.script_name = "x.py";
  s.code = "print()";
  s.args = {"a", "", "c d"};
  s.env = {{"K", "V=1"}, {"E", ""}};
  s.files = {{"d/f", std::string("\0x", 2), 0755}};
  s.stdin_open = true;
  s.stdin_data = "first";
  s.limits.cpu_milli = 1500;
  s.limits.memory_bytes = 0;
  s.limits.out_files = 3;
  s.seed = 0;
  s.collect_out_files = true;
  auto task = hold(*client, s);
  ASSERT_TRUE(task);
  onCore([&](FakeCore& c) {
    const sched::TaskSpec& got = c.task(task->id()).spec;
    EXPECT_EQ(got.kind, sched::CodeKind::file);
    EXPECT_EQ(got.script_name, "x.py");
    EXPECT_EQ(got.code, "print()");
    EXPECT_EQ(got.args, s.args);
    EXPECT_EQ(got.env, s.env);
    ASSERT_EQ(got.files.size(), 1u);
    EXPECT_EQ(got.files[0].path, "d/f");
    EXPECT_EQ(got.files[0].data, std::string("\0x", 2));
    EXPECT_EQ(got.files[0].mode, 0755u);
    EXPECT_TRUE(got.stdin_open);
    EXPECT_EQ(got.stdin_data, "first");
    EXPECT_EQ(got.limits.cpu_milli, 1500u);
    EXPECT_EQ(got.limits.memory_bytes, 0u);  // 0 is a wish, for the core to refuse
    EXPECT_EQ(got.limits.out_files, 3u);
    EXPECT_FALSE(got.limits.wall_time_ms);
    EXPECT_FALSE(got.limits.processes);
    EXPECT_EQ(got.seed, 0u);
    EXPECT_TRUE(got.collect_out_files);
    EXPECT_FALSE(got.live_output);
    EXPECT_NE(got.owner, 0u);
  });
}

TEST_F(ClientTest, ARefusalKeepsCodeMessageAndAdvice) {
  start();
  auto client = connect();
  for (bool whole : {false, true}) {
    base::Error error;
    if (whole)
      error = client->run(spec("missing")).error();
    else
      error = client->submit(spec("missing")).error();
    EXPECT_EQ(error.code, base::Code::notFound);
    EXPECT_EQ(error.message, "no template 'missing'");
    EXPECT_EQ(error.advice, "See `mayfly templates`.");
  }
}

TEST_F(ClientTest, ATooLargeRequestIsRefusedAndTheConnectionLives) {
  start();
  auto client = connect();
  TaskSpec s = spec("echo");
  s.files = {{"f", std::string(9u << 20, 'x'), 0644}};
  auto refused = client->run(s);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::Code::invalidArgument);
  EXPECT_TRUE(client->run(spec("echo", "x")));
}

TEST_F(ClientTest, CancelEndsTheTask) {
  start();
  auto client = connect();
  auto task = hold(*client);
  auto early = task->wait(1);
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().code, base::Code::deadlineExceeded);
  EXPECT_TRUE(task->cancel());
  auto result = task->wait();
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->verdict, base::Verdict::cancelled);
  EXPECT_TRUE(task->cancel());  // harmless after the end
  EXPECT_EQ(task->wait()->verdict, base::Verdict::cancelled);
}

TEST_F(ClientTest, DroppingATaskCancelsIt) {
  start();
  auto client = connect();
  base::TaskId id;
  {
    auto task = hold(*client);
    id = task->id();
  }
  EXPECT_TRUE(eventually("cancelled", [&](FakeCore& c) { return c.task(id).ended; }));
  EXPECT_TRUE(onCore([&](FakeCore& c) { return c.owners_gone.empty(); }));
}

TEST_F(ClientTest, DroppingTheClientTellsTheCoreThatTheOwnerIsGone) {
  start();
  auto other = connect();
  auto others = hold(*other);
  auto client = connect();
  sched::OwnerId owner = 0;
  base::TaskId id = 0;
  std::future<base::Result<TaskResult>> running = client->runAsync(spec("hold"));
  ASSERT_TRUE(eventually("submitted", [&](FakeCore& c) {
    if (c.count() < 2) return false;
    id = 2;
    owner = c.task(id).spec.owner;
    return true;
  }));
  client.reset();
  EXPECT_TRUE(eventually("owner gone", [&](FakeCore& c) {
    return c.owners_gone == std::vector<sched::OwnerId>{owner};
  }));
  EXPECT_TRUE(onCore([&](FakeCore& c) { return c.task(id).ended; }));
  EXPECT_FALSE(onCore([&](FakeCore& c) { return c.task(others->id()).ended; }));
  auto result = running.get();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, base::Code::unavailable);
}

TEST_F(ClientTest, KillAndListReachOtherClientsTasks) {
  start();
  auto mine = connect(), other = connect();
  auto task = hold(*mine);
  auto listed = other->tasks();
  ASSERT_TRUE(listed);
  ASSERT_EQ(listed->size(), 1u);
  EXPECT_EQ((*listed)[0].id, task->id());
  EXPECT_EQ((*listed)[0].state, "running");
  EXPECT_FALSE((*listed)[0].yours);
  EXPECT_TRUE((*mine->tasks())[0].yours);
  EXPECT_TRUE(other->kill(task->id()));
  EXPECT_EQ(task->wait()->verdict, base::Verdict::cancelled);
  auto again = other->kill(task->id());
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, base::Code::notFound);
}

TEST_F(ClientTest, TemplatesAreListed) {
  start();
  auto all = connect()->templates();
  ASSERT_TRUE(all);
  ASSERT_EQ(all->size(), 1u);
  EXPECT_EQ((*all)[0].name, "python");
  EXPECT_EQ((*all)[0].boxes, 5u);
  EXPECT_EQ((*all)[0].parked, 3u);
  EXPECT_EQ((*all)[0].defaults.memory_bytes, base::Limits{}.memory_bytes);
}

TEST_F(ClientTest, StdinReturnsWhenItWasTakenAndKeepsItsOrder) {
  start();
  auto client = connect();
  TaskSpec s = spec("hold");
  s.stdin_open = true;
  s.stdin_data = "0123";
  auto task = hold(*client, s);
  auto id = task->id();
  std::string big(600'000, 'x');
  auto written = std::async(std::launch::async, [&] { return task->writeStdin(big); });
  ASSERT_TRUE(eventually("data", [&](FakeCore& c) { return c.task(id).stdin_bytes.size() > 4; }));
  // What came with the task is taken first; that is not yet the write's.
  onCore([&](FakeCore& c) { c.task(id).listener->onStdinAccepted(4 + 100); });
  EXPECT_TRUE(client->tasks());
  EXPECT_NE(written.wait_for(std::chrono::seconds(0)), std::future_status::ready);
  EXPECT_LT(onCore([&](FakeCore& c) { return c.task(id).stdin_bytes.size(); }), 4 + big.size());
  uint64_t taken = 104;
  while (taken < 4 + big.size()) {
    ASSERT_TRUE(
        eventually("more", [&](FakeCore& c) { return c.task(id).stdin_bytes.size() > taken; }));
    onCore([&](FakeCore& c) {
      uint64_t more = c.task(id).stdin_bytes.size() - taken;
      taken += more;
      c.task(id).listener->onStdinAccepted(more);
    });
  }
  EXPECT_TRUE(written.get());
  EXPECT_EQ(onCore([&](FakeCore& c) { return c.task(id).stdin_bytes; }), "0123" + big);
  EXPECT_TRUE(task->closeStdin());
  EXPECT_TRUE(eventually("closed", [&](FakeCore& c) { return c.task(id).stdin_closed; }));
  auto late = task->writeStdin("x");
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, base::Code::failedPrecondition);
}

TEST_F(ClientTest, StdinBeyondTheInputCapIsRefusedWithTheCoresError) {
  start();
  core.stdin_bytes_max = 10;
  auto client = connect();
  TaskSpec s = spec("hold");
  s.stdin_open = true;
  auto task = hold(*client, s);
  auto status = task->writeStdin("12345678901");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, base::Code::invalidArgument);
  EXPECT_FALSE(status.error().retryable());
}

TEST_F(ClientTest, AWriteToATaskThatEndsReturns) {
  start();
  auto client = connect();
  TaskSpec s = spec("hold");
  s.stdin_open = true;
  auto task = hold(*client, s);
  auto id = task->id();
  auto written = std::async(std::launch::async, [&] { return task->writeStdin("abc"); });
  ASSERT_TRUE(eventually("data", [&](FakeCore& c) { return c.task(id).stdin_bytes == "abc"; }));
  onCore([&](FakeCore& c) { c.end(c.task(id), base::Verdict::wallTime); });
  auto status = written.get();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, base::Code::failedPrecondition);
  EXPECT_EQ(task->wait()->verdict, base::Verdict::wallTime);
}

TEST_F(ClientTest, AskingForAFileThatWasLostIsARetryableError) {
  start();
  auto client = connect();
  for (const char* code : {"", "lost"}) {
    TaskSpec s = spec("files");
    s.code = code;
    auto task = client->submit(s);
    ASSERT_TRUE(task);
    auto result = task->wait();
    ASSERT_TRUE(result);
    EXPECT_EQ(result->verdict, base::Verdict::succeeded);
    const bool lost = *code != '\0';
    EXPECT_EQ(result->out_files_lost, lost);
    EXPECT_EQ(*task->readFile(0, 0), "hello") << "what came is there";
    auto refused = task->readFile(3, 0);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, lost ? base::Code::unavailable : base::Code::notFound);
    EXPECT_EQ(refused.error().retryable(), lost);
    EXPECT_EQ(refused.error().advice == "Run the task again.", lost);
  }
}

TEST_F(ClientTest, CollectedFilesAreReadInPiecesFromTheSpool) {
  start();
  auto client = connect();
  auto task = client->submit(spec("files"));
  ASSERT_TRUE(task);
  auto result = task->wait();
  ASSERT_TRUE(result);
  ASSERT_EQ(result->out_files.size(), 3u);
  EXPECT_EQ(result->out_files[0].path, "a.txt");
  EXPECT_EQ(result->out_files[1].skipped, "symbolic link");
  EXPECT_EQ(result->out_files[2].mode, 0600u);
  EXPECT_EQ(result->out_files_note, "a note");
  EXPECT_EQ(*task->readFile(0, 0), "hello");
  EXPECT_EQ(*task->readFile(0, 4), "o");
  EXPECT_EQ(*task->readFile(0, 5), "");
  EXPECT_EQ(*task->readFile(0, ~0ull), "");
  std::string big;
  for (;;) {
    auto piece = task->readFile(2, big.size());
    ASSERT_TRUE(piece);
    if (piece->empty()) break;
    EXPECT_LE(piece->size(), 1u << 20);
    big += *piece;
  }
  EXPECT_EQ(big, std::string(3'000'000, 'b'));
  EXPECT_EQ(task->readFile(1, 0).error().code, base::Code::failedPrecondition);
  EXPECT_EQ(task->readFile(3, 0).error().code, base::Code::notFound);
  task->close();
  auto running = hold(*client);
  EXPECT_EQ(running->readFile(0, 0).error().code, base::Code::failedPrecondition);
}

TEST_F(ClientTest, FiveHundredTasksAreInFlightAtOnce) {
  start();
  auto client = connect();
  std::vector<std::future<base::Result<TaskResult>>> all;
  for (int i = 0; i < 500; ++i) all.push_back(client->runAsync(spec("hold", std::to_string(i))));
  ASSERT_TRUE(eventually("all", [&](FakeCore& c) { return c.count() == 500; }));
  onCore([&](FakeCore& c) {
    for (base::TaskId id = 500; id >= 1; --id) {
      auto& t = c.task(id);
      c.end(t, base::Verdict::succeeded,
            [&](sched::TaskResult& r) { r.captured[0] = t.spec.code; });
    }
  });
  for (int i = 0; i < 500; ++i) {
    auto result = all[i].get();
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_EQ(result->captured[0], std::to_string(i));
  }
}

TEST_F(ClientTest, MoreTasksThanAConnectionMayHaveAreRefusedUntilOneIsClosed) {
  options.tasks_per_connection_max = 2;
  start();
  auto client = connect();
  auto first = hold(*client), second = hold(*client);
  auto third = client->submit(spec("hold"));
  ASSERT_FALSE(third);
  EXPECT_EQ(third.error().code, base::Code::resourceExhausted);
  first->close();
  EXPECT_TRUE(client->submit(spec("hold")));
}

TEST_F(ClientTest, TheConnectionBeyondTheMaximumIsToldSo) {
  core.account_bounds.setPool(sched::Resource::connections, 1);
  start();
  auto client = connect();
  auto second = Client::connect(socket_path);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, base::Code::resourceExhausted);
  EXPECT_TRUE(client->templates());
}

TEST_F(ClientTest, AnotherUidIsToldThatItMayNot) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become another uid";
  options.uids_allowed = {1234};
  start();
  auto connectAs = [&](uid_t uid) {
    base::Result<std::unique_ptr<Client>> client = base::fail(base::Code::internal, "not run");
    std::thread([&] {
      // The raw call changes this thread only.
      ASSERT_EQ(::syscall(SYS_setresuid, uid, uid, uid), 0);
      client = Client::connect(socket_path);
    }).join();
    return client;
  };
  auto refused = connectAs(65534);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::Code::permissionDenied);
  EXPECT_NE(refused.error().message.find("65534"), std::string::npos);
  auto allowed = connectAs(1234);
  EXPECT_TRUE(allowed) << allowed.error().message;
}

TEST_F(ClientTest, NoDaemonIsAClearError) {
  auto client = Client::connect("/tmp/mayfly-no-such-socket");
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, base::Code::unavailable);
  EXPECT_NE(client.error().advice.find("mayflyd"), std::string::npos);
  EXPECT_EQ(Client::connect(std::string(200, 'x')).error().code, base::Code::invalidArgument);
}

TEST_F(ClientTest, AStoppingDaemonEndsWaitsWithUnavailable) {
  start();
  auto client = connect();
  auto task = hold(*client);
  stopServer();
  auto result = task->wait();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, base::Code::unavailable);
  EXPECT_EQ(client->templates().error().code, base::Code::unavailable);
}

TEST_F(ClientTest, CallsFromACallbackAreRefusedInsteadOfHanging) {
  start();
  auto client = connect();
  base::Status inside;
  Callbacks callbacks;
  callbacks.on_output = [&](Stream, std::string_view) { inside = client->kill(1); };
  ASSERT_TRUE(client->run(spec("echo", "x"), callbacks));
  ASSERT_FALSE(inside);
  EXPECT_EQ(inside.error().code, base::Code::failedPrecondition);
}

// --- a client that its caller serves ---------------------------------------------------

size_t threads() {
  size_t count = 0;
  for (const auto& each : std::filesystem::directory_iterator("/proc/self/task"))
    count += each.is_directory();
  return count;
}

class ServedByCaller : public ClientTest {
 protected:
  std::unique_ptr<Client> connect() {
    ConnectOptions own;
    own.served_by = ServedBy::caller;
    return ClientTest::connect(own);
  }
};

TEST_F(ServedByCaller, AllCallsAndCallbacksHappenOnItsThreadAndThereIsNoSecond) {
  start();
  const size_t before = threads();
  auto client = connect();
  std::string said;
  bool elsewhere = false;
  Callbacks callbacks;
  callbacks.on_output = [&, here = std::this_thread::get_id()](Stream, std::string_view bytes) {
    said += bytes;
    elsewhere = elsewhere || std::this_thread::get_id() != here;
  };
  auto result = client->run(spec("echo", "hello"), callbacks);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(said, "helloerr");
  auto task = client->submit(spec("files"));
  ASSERT_TRUE(task) << task.error().message;
  auto files = task->wait();
  ASSERT_TRUE(files) << files.error().message;
  auto file = task->readFile(0, 0);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(*file, "hello");
  ASSERT_TRUE(client->templates());
  auto blob = client->upload("bytes of a blob");
  ASSERT_TRUE(blob) << blob.error().message;
  EXPECT_FALSE(elsewhere);
  EXPECT_EQ(threads(), before);
}

TEST_F(ServedByCaller, AnotherThreadsCallIsAnsweredWhileItWaits) {
  start();
  auto client = connect();
  auto task = hold(*client);
  std::thread other([&] {
    ASSERT_TRUE(eventually("the task", [](FakeCore& c) { return c.count() == 1; }));
    auto cancelled = task->cancel();
    EXPECT_TRUE(cancelled) << cancelled.error().message;
  });
  auto result = task->wait();
  // What was asked before the result came is answered before it.
  other.join();
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->verdict, base::Verdict::cancelled);
}

TEST_F(ServedByCaller, ACallThatWaitsForNoAnswerIsMadeAllTheSame) {
  start();
  auto client = connect();
  auto task = hold(*client);
  auto cancelled = task->cancel(0);
  if (!cancelled) {
    EXPECT_EQ(cancelled.error().code, base::Code::deadlineExceeded);
  }
  auto result = task->wait();
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->verdict, base::Verdict::cancelled);
}

TEST_F(ServedByCaller, ADeadlineEndsTheWaitAndTheTaskRunsOn) {
  start();
  auto client = connect();
  auto task = hold(*client);
  auto late = task->wait(20);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, base::Code::deadlineExceeded);
  EXPECT_FALSE(onCore([](FakeCore& c) { return c.task(1).ended; }));
}

TEST_F(ServedByCaller, WhatIsDroppedIsToldToTheDaemonWhenTheClientEnds) {
  start();
  {
    auto client = connect();
    auto task = hold(*client);
    task.reset();
  }
  EXPECT_TRUE(eventually("cancelled", [](FakeCore& c) { return c.task(1).ended; }));
}

TEST_F(ServedByCaller, CallsFromACallbackAreRefused) {
  start();
  auto client = connect();
  base::Status inside;
  Callbacks callbacks;
  callbacks.on_output = [&](Stream, std::string_view) { inside = client->kill(1); };
  ASSERT_TRUE(client->run(spec("echo", "x"), callbacks));
  ASSERT_FALSE(inside);
  EXPECT_EQ(inside.error().code, base::Code::failedPrecondition);
}

TEST_F(ServedByCaller, ASecondOneOnTheSameThreadIsRefused) {
  start();
  auto client = connect();
  ConnectOptions own;
  own.served_by = ServedBy::caller;
  auto second = Client::connect(socket_path, own);
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message.find("EventLoop"), std::string::npos) << second.error().message;
  EXPECT_TRUE(client->templates());
}

TEST_F(ClientTest, FloodArrivesWholeAndWithinTheWindow) {
  start();
  auto client = connect();
  uint64_t got = 0, wrong = 0;
  Callbacks callbacks;
  callbacks.on_output = [&](Stream, std::string_view bytes) {
    for (char b : bytes) wrong += static_cast<unsigned char>(b) != got++ % 251;
  };
  ASSERT_TRUE(client->run(spec("flood", "20000000"), callbacks));
  EXPECT_EQ(got, 20'000'000u);
  EXPECT_EQ(wrong, 0u);
  EXPECT_TRUE(eventually("acknowledged", [](FakeCore& c) {
    return c.task(1).unacknowledged_max <= sched::kOutputWindowBytes;
  }));
}

}  // namespace
}  // namespace mayfly
