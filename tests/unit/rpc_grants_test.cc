// Grants and tools, over a real socket and a core without boxes.
#include "rpc_peer.h"

namespace mayfly {
namespace {

using schema::ErrorCode;
using test::FakeCore;
using test::Peer;

// A client's tool box: answers "echo" at once, and the others when the test says so.
struct ToolLog {
  std::vector<std::string> calls;
  std::vector<kj::Own<kj::PromiseFulfiller<void>>> held;
  int dropped = 0;
};
class ToolBox final : public schema::ToolBox::Server {
 public:
  explicit ToolBox(ToolLog& log) : log_(log) {}
  ~ToolBox() noexcept(false) { ++log_.dropped; }
  kj::Promise<void> call(CallContext context) override {
    auto params = context.getParams();
    const std::string name = edge::str(params.getName());
    log_.calls.push_back(name + " " + edge::str(params.getJson()));
    if (name == "echo") {
      context.getResults().setJson(params.getJson());
    } else if (name == "large") {
      context.getResults().setJson(edge::text(std::string(sched::kToolJsonBytesMax + 1, 'x')));
    } else if (name == "refuse") {
      auto error = context.getResults().initError();
      error.setCode(ErrorCode::NOT_FOUND);
      error.setMessage("no such row");
    } else if (name == "throw") {
      return KJ_EXCEPTION(FAILED, "broken");
    } else {
      auto paf = kj::newPromiseAndFulfiller<void>();
      log_.held.push_back(kj::mv(paf.fulfiller));
      return kj::mv(paf.promise);
    }
    return kj::READY_NOW;
  }

 private:
  ToolLog& log_;
};

class GrantsTest : public test::RpcFixture {
 protected:
  void startWithBroker() {
    core.has_broker = true;
    start();
  }
  static auto request(Peer& peer, std::vector<std::pair<const char*, const char*>> wishes,
                      const char* name = "hold") {
    auto call = peer.submitRequest(name);
    auto grants = call.getSpec().initGrants(static_cast<unsigned>(wishes.size()));
    for (unsigned i = 0; i < wishes.size(); ++i) {
      grants[i].setName(wishes[i].first);
      grants[i].setNarrowing(wishes[i].second);
    }
    return call;
  }
  template <class Request>
  static void addTools(Request& request, std::vector<const char*> names) {
    auto tools = request.getSpec().initTools(static_cast<unsigned>(names.size()));
    for (unsigned i = 0; i < names.size(); ++i) {
      tools[i].setName(names[i]);
      tools[i].setDescription("what it does");
      tools[i].setSchemaJson("{}");
    }
  }
  template <class Request>
  static ErrorCode codeOf(Peer& peer, Request&& request) {
    return request.send().wait(peer.io.waitScope).getError().getCode();
  }
  // Whether the core's thread soon sees it.
  bool soon(std::function<bool(FakeCore&)> is) {
    const auto end = std::chrono::steady_clock::now() + test::kEventTime;
    while (!onCore(is)) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }
  // Calls a tool as the broker would, and waits for its answer while the client's loop runs.
  base::Result<std::string> callTool(Peer& peer, std::string name, std::string json) {
    auto answer = std::make_shared<std::promise<base::Result<std::string>>>();
    auto future = answer->get_future();
    onCore([&](FakeCore& c) {
      c.fakeBroker().specs.back().tool_box->call(
          std::move(name), std::move(json),
          [answer](base::Result<std::string> got) { answer->set_value(std::move(got)); });
    });
    EXPECT_TRUE(peer.until(
        [&] { return future.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }));
    return future.get();
  }
};

TEST_F(GrantsTest, GoToTheBrokerAndComeBackAsObjectsThatRevoke) {
  startWithBroker();
  Peer peer(socket_path);
  auto call = request(peer, {{"openai", "calls=10"}, {"slow", ""}});
  call.getSpec().setTenant("blue");
  auto submitted = call.send().wait(peer.io.waitScope);
  ASSERT_EQ(submitted.getError().getCode(), ErrorCode::OK);
  ASSERT_EQ(submitted.getGrants().size(), 2u);
  onCore([](FakeCore& c) {
    const sched::SessionSpec& spec = c.fakeBroker().specs.at(0);
    EXPECT_EQ(spec.uid, ::getuid());
    EXPECT_EQ(spec.tenant, "blue");
    EXPECT_EQ(spec.template_name, "hold");
    ASSERT_EQ(spec.grants.size(), 2u);
    EXPECT_EQ(spec.grants[0].name, "openai");
    EXPECT_EQ(spec.grants[0].narrowing, "calls=10");
    EXPECT_EQ(spec.tool_box, nullptr);
    EXPECT_NE(c.task(1).spec.session, nullptr);
  });
  EXPECT_EQ(codeOf(peer, submitted.getGrants()[0].revokeRequest()), ErrorCode::OK);
  EXPECT_EQ(codeOf(peer, submitted.getGrants()[1].revokeRequest()), ErrorCode::UNAVAILABLE);
  onCore([](FakeCore& c) {
    EXPECT_EQ(c.fakeBroker().log->revoked, (std::vector<std::string>{"openai", "slow"}));
    c.end(c.task(1), base::Verdict::succeeded);
  });
  EXPECT_EQ(codeOf(peer, submitted.getGrants()[1].revokeRequest()), ErrorCode::OK);
  EXPECT_EQ(onCore([](FakeCore& c) { return c.fakeBroker().log->revoked.size(); }), 2u);
}

TEST_F(GrantsTest, ATaskWithoutThemAsksNobody) {
  startWithBroker();
  Peer peer(socket_path);
  EXPECT_EQ(codeOf(peer, peer.submitRequest("hold")), ErrorCode::OK);
  onCore([](FakeCore& c) {
    EXPECT_EQ(c.broker() == nullptr ? 0u : c.fakeBroker().specs.size(), 0u);
    EXPECT_EQ(c.task(1).spec.session, nullptr);
  });
}

TEST_F(GrantsTest, ARefusalIsTheSubmittersErrorAndNothingRuns) {
  startWithBroker();
  Peer peer(socket_path);
  EXPECT_EQ(codeOf(peer, request(peer, {{"wrong", ""}})), ErrorCode::NOT_FOUND);
  EXPECT_EQ(codeOf(peer, request(peer, {{"down", ""}})), ErrorCode::UNAVAILABLE);
  EXPECT_EQ(codeOf(peer, request(peer, {{"a/b", ""}})), ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(codeOf(peer, request(peer, {{"a", ""}, {"a", ""}})), ErrorCode::INVALID_ARGUMENT);
  const std::string longer(sched::kNarrowingBytesMax + 1, 'x');
  EXPECT_EQ(codeOf(peer, request(peer, {{"a", longer.c_str()}})), ErrorCode::INVALID_ARGUMENT);
  auto many = peer.submitRequest("hold");
  many.getSpec().initGrants(sched::kGrantsMax + 1);
  EXPECT_EQ(codeOf(peer, kj::mv(many)), ErrorCode::INVALID_ARGUMENT);
  onCore([](FakeCore& c) {
    EXPECT_EQ(c.count(), 0u);
    EXPECT_EQ(c.fakeBroker().specs.size(), 2u);
  });
  // A spec that the core refuses costs its session.
  EXPECT_EQ(codeOf(peer, request(peer, {{"a", ""}}, "missing")), ErrorCode::NOT_FOUND);
  EXPECT_TRUE(soon([](FakeCore& c) {
    return c.fakeBroker().log->opened == 1 && c.fakeBroker().log->dropped == 1;
  }));
}

TEST_F(GrantsTest, ADaemonWithoutABrokerSaysSo) {
  start();
  Peer peer(socket_path);
  EXPECT_EQ(codeOf(peer, request(peer, {{"openai", ""}})), ErrorCode::FAILED_PRECONDITION);
  EXPECT_EQ(onCore([](FakeCore& c) { return c.count(); }), 0u);
}

TEST_F(GrantsTest, AClientThatLeavesWhileTheVaultThinksGetsNoTask) {
  startWithBroker();
  {
    Peer peer(socket_path);
    auto pending = request(peer, {{"held", ""}}).send();
    ASSERT_TRUE(peer.until([&] {
      return onCore([](FakeCore& c) { return c.broker() && bool(c.fakeBroker().held); });
    }));
  }
  ASSERT_TRUE(eventually("owner gone", [](FakeCore& c) { return c.owners_gone.size() == 1; }));
  onCore([](FakeCore& c) { c.fakeBroker().held(); });
  EXPECT_TRUE(soon([](FakeCore& c) {
    return c.fakeBroker().log->opened == 1 && c.fakeBroker().log->dropped == 1;
  }));
  EXPECT_EQ(onCore([](FakeCore& c) { return c.count(); }), 0u);
}

TEST_F(GrantsTest, AKeysHashCoversThemAndARepeatOpensNoSession) {
  startWithBroker();
  Peer peer(socket_path);
  const auto keyed = [&](const char* narrowing) {
    auto call = request(peer, {{"openai", narrowing}});
    call.getSpec().getDetach().setLeaseMs(60'000);
    call.getSpec().getDetach().setKey("k");
    return call.send().wait(peer.io.waitScope);
  };
  auto first = keyed("calls=1");
  ASSERT_EQ(first.getError().getCode(), ErrorCode::OK);
  auto again = keyed("calls=1");
  EXPECT_TRUE(again.getExisting());
  EXPECT_EQ(again.getId(), first.getId());
  EXPECT_EQ(again.getGrants().size(), 1u);
  EXPECT_EQ(keyed("calls=2").getError().getCode(), ErrorCode::ALREADY_EXISTS);
  EXPECT_EQ(onCore([](FakeCore& c) { return c.fakeBroker().specs.size(); }), 1u);
}

TEST_F(GrantsTest, ADetachedTaskHasNoTools) {
  startWithBroker();
  Peer peer(socket_path);
  ToolLog log;
  auto call = peer.submitRequest("hold");
  addTools(call, {"echo"});
  call.getSpec().getDetach().setLeaseMs(60'000);
  call.setToolBox(kj::heap<ToolBox>(log));
  EXPECT_EQ(codeOf(peer, kj::mv(call)), ErrorCode::INVALID_ARGUMENT);
}

TEST_F(GrantsTest, ToolsNeedAToolBoxAndAnEmptyListMeansNone) {
  startWithBroker();
  Peer peer(socket_path);
  auto bare = peer.submitRequest("hold");
  addTools(bare, {"echo"});
  EXPECT_EQ(codeOf(peer, kj::mv(bare)), ErrorCode::INVALID_ARGUMENT);
  ToolLog log;
  auto none = peer.submitRequest("hold");
  none.setToolBox(kj::heap<ToolBox>(log));
  EXPECT_EQ(codeOf(peer, kj::mv(none)), ErrorCode::OK);
  EXPECT_EQ(onCore([](FakeCore& c) { return c.task(1).spec.session; }), nullptr);
}

class ToolsTest : public GrantsTest {
 protected:
  void submit(Peer& peer) {
    auto call = peer.submitRequest("hold");
    addTools(call, {"echo", "large", "refuse", "throw", "wait"});
    call.setToolBox(kj::heap<ToolBox>(log));
    auto submitted = call.send().wait(peer.io.waitScope);
    ASSERT_EQ(submitted.getError().getCode(), ErrorCode::OK);
    task = std::make_unique<schema::Task::Client>(submitted.getTask());
  }
  ToolLog log;
  std::unique_ptr<schema::Task::Client> task;  // its destructor may throw, a fixture's must not
};

TEST_F(ToolsTest, CallsReachTheClientsFunctions) {
  startWithBroker();
  Peer peer(socket_path);
  submit(peer);
  EXPECT_EQ(callTool(peer, "echo", "{\"a\":1}").value(), "{\"a\":1}");
  EXPECT_EQ(log.calls.at(0), "echo {\"a\":1}");
  auto refused = callTool(peer, "refuse", "{}");
  EXPECT_EQ(refused.error().code, base::Code::notFound);
  EXPECT_EQ(refused.error().message, "no such row");
  EXPECT_EQ(callTool(peer, "throw", "{}").error().code, base::Code::internal);
  task.reset();
}

TEST_F(ToolsTest, SizesAndParallelCallsAreBounded) {
  startWithBroker();
  Peer peer(socket_path);
  submit(peer);
  EXPECT_EQ(callTool(peer, "echo", std::string(sched::kToolJsonBytesMax + 1, ' ')).error().code,
            base::Code::invalidArgument);
  EXPECT_TRUE(log.calls.empty());
  EXPECT_EQ(callTool(peer, "large", "{}").error().code, base::Code::resourceExhausted);
  auto answers = std::make_shared<std::vector<base::Code>>();
  onCore([&](FakeCore& c) {
    for (uint32_t i = 0; i < sched::kToolCallsMax; ++i)
      c.fakeBroker().specs.back().tool_box->call("wait", "{}", [answers](auto got) {
        answers->push_back(got ? base::Code{} : got.error().code);
      });
  });
  ASSERT_TRUE(peer.until([&] { return log.held.size() == sched::kToolCallsMax; }));
  EXPECT_EQ(callTool(peer, "wait", "{}").error().code, base::Code::resourceExhausted);
  for (auto& each : log.held) each->fulfill();
  EXPECT_TRUE(peer.until(
      [&] { return onCore([&](FakeCore&) { return answers->size(); }) == sched::kToolCallsMax; }));
  EXPECT_EQ(callTool(peer, "echo", "1").value(), "1");
  task.reset();
}

TEST_F(ToolsTest, EndWithTheTask) {
  startWithBroker();
  Peer peer(socket_path);
  submit(peer);
  onCore([](FakeCore& c) { c.end(c.task(1), base::Verdict::succeeded); });
  EXPECT_EQ(callTool(peer, "echo", "1").error().code, base::Code::cancelled);
  EXPECT_TRUE(log.calls.empty());
  EXPECT_TRUE(peer.until([&] { return log.dropped == 1; })) << "the daemon keeps the tool box";
  task.reset();
}

}  // namespace
}  // namespace mayfly
