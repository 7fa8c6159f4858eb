// mayflyd's link to the broker, against doubles of supervisor, front and vault on real sockets.
#include <broker/broker.capnp.h>
#include <capnp/rpc-twoparty.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <memory>
#include <optional>

#include "app/broker_link.h"
#include "edge/asio_port.h"
#include "edge/asio_stream.h"
#include "edge/convert.h"
#include "wire/door_check.h"

namespace mayfly::app {
namespace {

using base::Code;
using testing::ElementsAre;
using testing::HasSubstr;
using wire::DoorEvent;
using wire::DoorRequest;
using wire::LinkEvent;
using wire::LinkRequest;
namespace vault = broker::schema;

constexpr auto kPatience = std::chrono::seconds(20);  // a bound, never a wait

struct VaultLog {
  std::vector<std::string> said;  // "open openai 1 task 0", "activate 7", "revoke"...
  uint64_t next_number = 100;
  bool hangs = false;    // answers no revocation
  bool holds = false;    // answers `open` when `answer` is fulfilled
  bool refuses = false;  // to activate
  kj::Own<kj::PromiseFulfiller<void>> answer;
  uint32_t connections_max = 0;
  kj::Maybe<vault::Tools::Client> tools;
  unsigned took = base::BrokerCounts::kKinds * (base::kBuckets + 1);  // numbers
};

class FakeSession final : public vault::Session::Server {
 public:
  explicit FakeSession(VaultLog& log) : log_(log) {}
  ~FakeSession() noexcept(false) { log_.said.push_back("dropped"); }
  kj::Promise<void> activate(ActivateContext context) override {
    log_.said.push_back("activate " + std::to_string(context.getParams().getTask()));
    EXPECT_GT(context.getParams().getExpiresMs(), 0u);
    if (log_.refuses)
      context.getResults().initError().setCode(static_cast<uint16_t>(Code::unavailable));
    return kj::READY_NOW;
  }
  kj::Promise<void> revoke(RevokeContext context) override {
    log_.said.push_back("revoke" + edge::str(context.getParams().getName()));
    if (log_.hangs) return kj::NEVER_DONE;
    return kj::READY_NOW;
  }

 private:
  VaultLog& log_;
};

class FakeVault final : public vault::Vault::Server {
 public:
  explicit FakeVault(VaultLog& log) : log_(log) {}
  kj::Promise<void> open(OpenContext context) override {
    auto spec = context.getParams().getSpec();
    std::string names;
    for (auto wish : spec.getGrants()) names += edge::str(wish.getName()) + " ";
    log_.said.push_back("open " + names + std::to_string(spec.getEpoch()) + " task " +
                        std::to_string(spec.getTask()));
    if (spec.hasTools()) log_.tools = spec.getTools();
    auto results = context.getResults();
    if (names == "wrong ") {
      results.initError().setCode(static_cast<uint16_t>(Code::permissionDenied));
      results.getError().setMessage("not yours\x1b");
      return kj::READY_NOW;
    }
    if (names == "hang ") return kj::NEVER_DONE;
    results.setNumber(log_.next_number++);
    results.setConnectionsMax(log_.connections_max);
    results.setSession(kj::heap<FakeSession>(log_));
    auto env = results.initEnv(1);
    env[0].setName("MAYFLY_BROKER");
    env[0].setValue("http://127.0.0.1:80");
    if (!log_.holds) return kj::READY_NOW;
    auto paf = kj::newPromiseAndFulfiller<void>();
    log_.answer = kj::mv(paf.fulfiller);
    return kj::mv(paf.promise);
  }
  kj::Promise<void> status(StatusContext context) override {
    auto results = context.getResults();
    results.setSessions(3);
    auto decisions = results.initDecisions(3 * base::BrokerCounts::kKinds);
    for (unsigned i = 0; i < decisions.size(); ++i) decisions.set(i, i);
    auto took = results.initTook(log_.took);
    for (unsigned i = 0; i < log_.took; ++i) took.set(i, 1'000 + i);
    return kj::READY_NOW;
  }

 private:
  VaultLog& log_;
};

// Counts each report.
struct Heard : base::Observer {
  std::map<std::string, int> times;
  base::BrokerCounts counts;
  void brokerUp(std::string_view what) override { ++times["up " + std::string(what)]; }
  void brokerDown(std::string_view what, std::string_view) override {
    ++times["down " + std::string(what)];
  }
  void sessionOpened(std::string_view code, uint64_t) override {
    ++times["opened " + std::string(code)];
  }
  void sessionEnded(uint64_t took_ns) override { times["ended"] += took_ns > 0 ? 1 : 0; }
  void brokerCounts(const base::BrokerCounts& c) override { ++times["counts"], counts = c; }
};

struct BrokerTest : testing::Test {
  Heard heard;
  boost::asio::io_context io;
  // Destructors of KJ's may throw, a fixture's must not.
  std::unique_ptr<edge::AsioPort> port;
  std::optional<BrokerLink> link;
  base::Fd supervisor, front;
  std::unique_ptr<VaultLog> log_of_vault = std::make_unique<VaultLog>();
  VaultLog& log = *log_of_vault;
  struct Serving {
    kj::Own<kj::AsyncIoStream> stream;
    kj::Own<capnp::TwoPartyVatNetwork> network;
    kj::Own<capnp::RpcSystem<capnp::rpc::twoparty::VatId>> rpc;
  };
  std::unique_ptr<Serving> serving;

  void SetUp() override {
    port = std::make_unique<edge::AsioPort>(io, edge::TurnBounds{}, [](kj::Exception&& e) {
      ADD_FAILURE() << e.getDescription().cStr();
    });
    link.emplace(io, heard);
    auto pair = base::makeSeqpacketPair();
    supervisor = std::move(pair->theirs);
    ASSERT_TRUE(base::setNonblocking(supervisor.view()));
    ASSERT_TRUE(link->listen(std::move(pair->ours), 0));
    link->attach(*port);
  }
  void TearDown() override {
    log.tools = nullptr;
    log.answer = nullptr;
    link->detach();
    serving.reset();
    port->finish(10'000);
    port.reset();
    link.reset();
  }

  template <class P>
  bool until(P done) {
    const auto give_up = std::chrono::steady_clock::now() + kPatience;
    while (!done()) {
      if (std::chrono::steady_clock::now() > give_up) return false;
      io.restart();
      io.run_one_for(std::chrono::milliseconds(10));
    }
    return true;
  }
  void settle() {
    for (int i = 0; i < 20; ++i) {
      io.restart();
      io.poll();
    }
  }
  void tell(LinkEvent::Kind kind, int fd = -1) {
    LinkEvent event;
    event.kind = kind;
    std::vector<int> fds;
    if (fd >= 0) fds.push_back(fd);
    ASSERT_TRUE(base::sendMessage(supervisor.view(), base::bytesOf(event), fds));
    settle();
  }
  void startFront() {
    auto pair = base::makeSeqpacketPair();
    front = std::move(pair->theirs);
    ASSERT_TRUE(base::setNonblocking(front.view()));
    tell(LinkEvent::Kind::frontUp, pair->ours.get());
  }
  void startVault() {
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    const base::Fd ours(pair[0]);
    serving = std::make_unique<Serving>();
    serving->stream = edge::asioStream(*port, base::Fd(pair[1]));
    serving->network =
        kj::heap<capnp::TwoPartyVatNetwork>(*serving->stream, capnp::rpc::twoparty::Side::SERVER);
    serving->rpc = kj::heap<capnp::RpcSystem<capnp::rpc::twoparty::VatId>>(
        capnp::makeRpcServer(*serving->network, kj::heap<FakeVault>(log)));
    tell(LinkEvent::Kind::vaultUp, ours.get());
  }
  void startBoth() {
    startFront();
    startVault();
  }
  void killVault() {
    tell(LinkEvent::Kind::vaultDown);
    log.tools = nullptr;
    serving.reset();
    settle();
    log.said.clear();
  }

  base::Result<std::shared_ptr<sched::Session>> open(const char* grant,
                                                     std::shared_ptr<sched::ToolBox> box = {}) {
    sched::SessionSpec spec;
    spec.uid = 1000;
    spec.grants.push_back({grant, ""});
    if (box) spec.tools.push_back({"tool", "", ""});
    spec.tool_box = std::move(box);
    std::optional<base::Result<std::shared_ptr<sched::Session>>> answer;
    link->open(std::move(spec), [&](auto got) { answer.emplace(std::move(got)); });
    EXPECT_TRUE(until([&] { return answer.has_value(); }));
    return std::move(*answer);
  }
  static sched::Doors doors() {
    auto pair = base::makeSeqpacketPair();
    return {std::move(pair->ours), std::move(pair->theirs)};
  }
  struct Asked {
    DoorRequest request;
    std::vector<base::Fd> fds;
  };
  std::optional<Asked> asked() {
    std::optional<Asked> got;
    EXPECT_TRUE(until([&] {
      Asked one;
      auto m = base::receiveMessage(front.view(), base::writableBytesOf(one.request));
      if (!m || m->bytes != sizeof one.request) return false;
      for (size_t i = 0; i < m->fds; ++i) one.fds.push_back(std::move(m->fd[i]));
      got = std::move(one);
      return true;
    }));
    return got;
  }
  bool nothingAsked() {
    settle();
    DoorRequest request;
    return !base::receiveMessage(front.view(), base::writableBytesOf(request));
  }
  void closed(uint64_t session) {
    DoorEvent event;
    event.kind = DoorEvent::Kind::closed;
    event.session = session;
    ASSERT_TRUE(base::sendMessage(front.view(), base::bytesOf(event), {}));
    settle();
  }
  LinkRequest::Kind linkRequest() {
    LinkRequest request;
    EXPECT_TRUE(until([&] {
      return base::receiveMessage(supervisor.view(), base::writableBytesOf(request)).has_value();
    }));
    return request.kind;
  }
  // A session whose door the front has.
  std::shared_ptr<sched::Session> served(const char* grant = "openai") {
    auto session = open(grant);
    EXPECT_TRUE(session);
    EXPECT_TRUE((*session)->begin(7, 60'000, doors()));
    auto door = asked();
    EXPECT_EQ(door->request.kind, DoorRequest::Kind::open);
    number = door->request.session;
    return *session;
  }
  uint64_t number = 0;
  std::optional<sched::SessionEnd> end;
  sched::Session::Left onEnd() {
    return [this](sched::SessionEnd got) { end = std::move(got); };
  }
};

TEST_F(BrokerTest, IsUpOnceFrontAndVaultAre) {
  int told = 0;
  link->onceUp([&] { ++told; });
  startFront();
  EXPECT_EQ(told, 0);
  startVault();
  EXPECT_EQ(told, 1);
  killVault();
  startVault();
  EXPECT_EQ(told, 1);
}

TEST_F(BrokerTest, NobodyWaitsForARefusedPolicyOrADeadSupervisor) {
  bool told = false;
  link->onceUp([&] { told = true; });
  startFront();
  EXPECT_FALSE(told);
  tell(LinkEvent::Kind::policyRefused);
  EXPECT_TRUE(told);
  told = false;
  link->onceUp([&] { told = true; });  // it was refused before
  EXPECT_TRUE(until([&] { return told; }));
  supervisor.reset();
  settle();
  told = false;
  link->onceUp([&] { told = true; });
  EXPECT_TRUE(until([&] { return told; }));
}

TEST_F(BrokerTest, ADoorHasAsManyConnectionsAsTheVaultSaysWithinTheProtocolsBounds) {
  startBoth();
  for (auto [said, asked_for] :
       {std::pair{0u, 64u}, {9u, 9u}, {5'000u, mayfly::wire::kDoorConnectionsMax}}) {
    log.connections_max = said;
    auto session = open("openai");
    ASSERT_TRUE(session);
    ASSERT_TRUE((*session)->begin(7, 60'000, doors()));
    auto door = asked();
    EXPECT_EQ(door->request.connections_max, asked_for);
    (*session)->end(onEnd());
    asked();
    closed(door->request.session);
    EXPECT_TRUE(until([&] { return end.has_value(); }));
    end.reset();
  }
}

TEST_F(BrokerTest, ASessionLivesFromOpenToTheConfirmationOfItsEnd) {
  startBoth();
  log.connections_max = 9;
  auto opened = open("openai");
  ASSERT_TRUE(opened) << opened.error().message;
  auto session = *opened;
  EXPECT_THAT(session->grants(), ElementsAre("openai"));
  ASSERT_EQ(session->env().size(), 1u);
  EXPECT_EQ(session->env()[0].first, "MAYFLY_BROKER");
  ASSERT_TRUE(session->begin(7, 60'000, doors()));
  auto door = asked();
  EXPECT_EQ(door->request.kind, DoorRequest::Kind::open);
  EXPECT_EQ(door->request.session, 100u);
  EXPECT_EQ(door->request.connections_max, 9u) << "what the policy says";
  EXPECT_EQ(door->fds.size(), 2u);
  EXPECT_THAT(log.said, ElementsAre("open openai 1 task 0", "activate 7"));
  session->end(onEnd());
  EXPECT_EQ(asked()->request.kind, DoorRequest::Kind::close);
  ASSERT_TRUE(until([&] { return log.said.back() == "revoke"; }));
  settle();
  EXPECT_FALSE(end) << "the front has not confirmed";
  closed(100);
  ASSERT_TRUE(until([&] { return end.has_value(); }));
  EXPECT_GT(end->revoked_ns, 0u);
  EXPECT_GT(end->broker_closed_ns, 0u);
  EXPECT_EQ(end->note, "");
  EXPECT_EQ(link->sessions(), 0u);
}

TEST_F(BrokerTest, ItsLifeAndItsSessionsAreTold) {
  startBoth();
  auto session = *open("openai");
  ASSERT_TRUE(session->begin(7, 60'000, doors()));
  const uint64_t of_door = asked()->request.session;
  session->end(onEnd());
  asked();
  closed(of_door);
  ASSERT_TRUE(until([&] { return end.has_value(); }));
  EXPECT_FALSE(open("wrong"));
  killVault();
  EXPECT_FALSE(open("openai"));
  using Times = std::map<std::string, int>;
  EXPECT_EQ(heard.times, (Times{{"up front", 1},
                                {"up vault", 1},
                                {"opened ", 1},
                                {"opened permissionDenied", 1},
                                {"opened unavailable", 1},
                                {"ended", 1},
                                {"down vault", 1}}));
}

TEST_F(BrokerTest, TheVaultsCountsAreAskedForOneQuestionAtATime) {
  link->count();  // nobody is there
  startBoth();
  link->count();
  link->count();
  ASSERT_TRUE(until([&] { return heard.times["counts"] > 0; }));
  settle();
  EXPECT_EQ(heard.times["counts"], 1);
  EXPECT_EQ(heard.counts.sessions, 3u);
  EXPECT_EQ(heard.counts.kinds[1].allowed, 3u);
  EXPECT_EQ(heard.counts.kinds[1].refused, 4u);
  EXPECT_EQ(heard.counts.kinds[1].failed, 5u);
  EXPECT_EQ(heard.counts.kinds[0].took.counts[1], 1'001u);
  EXPECT_EQ(heard.counts.kinds[0].took.sum_ns, 1'000u + base::kBuckets);
  EXPECT_EQ(heard.counts.kinds[1].took.counts[0], 1'000u + base::kBuckets + 1);
  EXPECT_EQ(heard.counts.kinds[6].took.sum_ns, 1'000u + log.took - 1);
  log.took = 7;  // not ours
  link->count();
  settle();
  log.took = base::BrokerCounts::kKinds * (base::kBuckets + 1);
  link->count();
  ASSERT_TRUE(until([&] { return heard.times["counts"] == 2; }));
}

TEST_F(BrokerTest, AGrantThatTheVaultRefusesIsTheCallersErrorInPrintableWords) {
  startBoth();
  auto refused = open("wrong");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::permissionDenied);
  EXPECT_EQ(refused.error().message, "not yours\\x1b");
  EXPECT_EQ(link->sessions(), 0u);
}

TEST_F(BrokerTest, WithoutAVaultASessionIsUnavailable) {
  startFront();
  auto refused = open("openai");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::unavailable);
  EXPECT_TRUE(refused.error().retryable());
}

TEST_F(BrokerTest, AVaultThatDiesBeforeItAnswersIsUnavailable) {
  startBoth();
  std::optional<base::Result<std::shared_ptr<sched::Session>>> answer;
  sched::SessionSpec spec;
  spec.grants.push_back({"hang", ""});
  link->open(std::move(spec), [&](auto got) { answer.emplace(std::move(got)); });
  ASSERT_TRUE(until([&] { return !log.said.empty(); }));
  killVault();
  ASSERT_TRUE(until([&] { return answer.has_value(); }));
  EXPECT_EQ(answer->error().code, Code::unavailable);
  EXPECT_EQ(link->sessions(), 0u);
}

TEST_F(BrokerTest, ADroppedSessionIsRevoked) {
  startBoth();
  { auto session = open("openai"); }
  ASSERT_TRUE(until([&] { return link->sessions() == 0; }));
  EXPECT_THAT(log.said, testing::Contains("revoke"));
  EXPECT_TRUE(until([&] { return log.said.back() == "dropped"; }));
}

TEST_F(BrokerTest, TheNextFrontGetsTheDoorsOfTheLast) {
  startBoth();
  auto session = served();
  front.reset();
  tell(LinkEvent::Kind::frontDown);
  startFront();
  auto door = asked();
  EXPECT_EQ(door->request.kind, DoorRequest::Kind::open);
  EXPECT_EQ(door->request.session, number);
  EXPECT_EQ(door->fds.size(), 2u);
  EXPECT_TRUE(nothingAsked());
  // Nobody asked the supervisor to restart one that had died.
  LinkRequest request;
  EXPECT_FALSE(base::receiveMessage(supervisor.view(), base::writableBytesOf(request)));
}

TEST_F(BrokerTest, TheNextVaultGetsTheSessionWithTheNextEpoch) {
  startBoth();
  auto session = served();
  killVault();
  EXPECT_EQ(asked()->request.kind, DoorRequest::Kind::close);
  startVault();
  ASSERT_TRUE(until([&] { return log.said.size() == 2; }));
  EXPECT_THAT(log.said, ElementsAre("open openai 2 task 7", "activate 7"));
  EXPECT_TRUE(nothingAsked()) << "the front still has the old number";
  closed(number);
  auto door = asked();
  EXPECT_EQ(door->request.kind, DoorRequest::Kind::open);
  EXPECT_EQ(door->request.session, number + 1);
}

TEST_F(BrokerTest, ANumberThatTheFrontStillHasIsNotTaken) {
  startBoth();
  auto session = served();
  killVault();
  asked();
  log.next_number = number;  // of a new vault that counts anew
  startVault();
  ASSERT_TRUE(until([&] { return !log.said.empty(); }));
  settle();
  closed(number);
  EXPECT_TRUE(nothingAsked()) << "calls of another door could come under that number";
  session->end(onEnd());
  EXPECT_TRUE(until([&] { return end.has_value(); }));
}

TEST_F(BrokerTest, AFrontThatDoesNotConfirmIsRestarted) {
  startBoth();
  auto session = served();
  session->end(onEnd());
  EXPECT_EQ(linkRequest(), LinkRequest::Kind::restartFront);
  EXPECT_FALSE(end);
  tell(LinkEvent::Kind::frontDown);
  ASSERT_TRUE(until([&] { return end.has_value(); }));
  EXPECT_THAT(end->note, HasSubstr("the front did not confirm"));
}

TEST_F(BrokerTest, AVaultThatDoesNotConfirmIsRestarted) {
  startBoth();
  auto session = served();
  log.hangs = true;
  session->end(onEnd());
  asked();
  closed(number);
  EXPECT_EQ(linkRequest(), LinkRequest::Kind::restartVault);
  EXPECT_FALSE(end);
  killVault();
  ASSERT_TRUE(until([&] { return end.has_value(); }));
  EXPECT_THAT(end->note, HasSubstr("the vault did not confirm"));
}

TEST_F(BrokerTest, AFrontThatClosesItsChannelAndLivesIsRestarted) {
  startBoth();
  auto session = served();
  front.reset();
  EXPECT_EQ(linkRequest(), LinkRequest::Kind::restartFront);
}

TEST_F(BrokerTest, AVaultWhoseLinkEndsAndThatLivesIsRestarted) {
  startBoth();
  auto session = served();
  log.tools = nullptr;
  serving.reset();
  EXPECT_EQ(linkRequest(), LinkRequest::Kind::restartVault);
  killVault();
  startVault();
  ASSERT_TRUE(until([&] { return !log.said.empty(); })) << "the next one gets the session";
}

TEST_F(BrokerTest, AMalformedMessageOfTheFrontEndsItsChannel) {
  startBoth();
  auto session = served();
  DoorEvent event;
  event.magic ^= 1;
  ASSERT_TRUE(base::sendMessage(front.view(), base::bytesOf(event), {}));
  EXPECT_EQ(linkRequest(), LinkRequest::Kind::restartFront);
}

TEST_F(BrokerTest, WithoutItsSupervisorNothingIsOpenedAndEndsAreConfirmed) {
  startBoth();
  auto session = served();
  supervisor.reset();
  settle();
  EXPECT_EQ(open("openai").error().code, Code::unavailable);
  session->end(onEnd());
  ASSERT_TRUE(until([&] { return end.has_value(); }));
  EXPECT_GT(end->broker_closed_ns, 0u);
}

TEST_F(BrokerTest, ALostBoxLeavesTheSession) {
  startBoth();
  auto session = served();
  session->leave(onEnd());
  EXPECT_EQ(asked()->request.kind, DoorRequest::Kind::close);
  closed(number);
  ASSERT_TRUE(until([&] { return end.has_value(); }));
  EXPECT_EQ(end->revoked_ns, 0u);
  ASSERT_TRUE(session->begin(7, 60'000, doors()));
  EXPECT_EQ(asked()->request.kind, DoorRequest::Kind::open);
}

TEST_F(BrokerTest, ARevokedGrantIsNotAskedForAtTheNextVault) {
  startBoth();
  sched::SessionSpec spec;
  spec.grants = {{"one", ""}, {"two", ""}};
  std::shared_ptr<sched::Session> session;
  link->open(std::move(spec), [&](auto got) { session = *got; });
  ASSERT_TRUE(until([&] { return session != nullptr; }));
  std::optional<base::Status> revoked;
  session->revoke("one", [&](base::Status status) { revoked.emplace(std::move(status)); });
  ASSERT_TRUE(until([&] { return revoked.has_value(); }));
  EXPECT_TRUE(*revoked);
  EXPECT_EQ(log.said.back(), "revokeone");
  killVault();
  startVault();
  ASSERT_TRUE(until([&] { return !log.said.empty(); }));
  EXPECT_EQ(log.said[0], "open two 2 task 0");
}

TEST_F(BrokerTest, AGrantThatIsRevokedWhileTheNextVaultOpensIsRevokedThere) {
  startBoth();
  sched::SessionSpec spec;
  spec.grants = {{"one", ""}, {"two", ""}};
  std::shared_ptr<sched::Session> session;
  link->open(std::move(spec), [&](auto got) { session = *got; });
  ASSERT_TRUE(until([&] { return session != nullptr; }));
  ASSERT_TRUE(session->begin(7, 60'000, doors()));
  number = asked()->request.session;
  killVault();
  asked();
  closed(number);
  log.holds = true;
  startVault();
  ASSERT_TRUE(until([&] { return log.answer.get() != nullptr; }));
  std::optional<base::Status> revoked;
  session->revoke("one", [&](base::Status status) { revoked.emplace(std::move(status)); });
  ASSERT_TRUE(until([&] { return revoked.has_value(); }));
  log.answer->fulfill();
  EXPECT_EQ(asked()->request.kind, DoorRequest::Kind::open);
  EXPECT_THAT(log.said, ElementsAre("open one two 2 task 7", "revokeone", "activate 7"));
}

TEST_F(BrokerTest, ASessionThatDoesNotBeginIsDroppedAtTheVault) {
  startBoth();
  log.refuses = true;
  auto session = open("openai");
  ASSERT_TRUE(session);
  ASSERT_TRUE((*session)->begin(7, 60'000, doors()));
  EXPECT_TRUE(until([&] { return log.said.back() == "dropped"; }));
  EXPECT_TRUE(nothingAsked());
}

TEST_F(BrokerTest, TheVaultReachesTheSubmittersTools) {
  struct Box final : sched::ToolBox {
    void call(std::string name, std::string json, Done done) override {
      if (json == "{}")
        done(name + " answers");
      else
        done(base::fail(Code::resourceExhausted, "too many"));
    }
  };
  startBoth();
  auto session = open("openai", std::make_shared<Box>());
  ASSERT_TRUE(session);
  std::string answer, message;
  Code code = Code::internal;
  KJ_IF_MAYBE (tools, log.tools) {
    auto call = tools->callRequest();
    call.setName("tool");
    call.setJson("{}");
    auto done = call.send()
                    .then([&](auto&& got) { answer = edge::str(got.getJson()); })
                    .eagerlyEvaluate(nullptr);
    auto bad = tools->callRequest();
    bad.setName("tool");
    bad.setJson("[]");
    auto failed = bad.send()
                      .then([&](auto&& got) {
                        message = edge::str(got.getError().getMessage());
                        code = static_cast<Code>(got.getError().getCode());
                      })
                      .eagerlyEvaluate(nullptr);
    EXPECT_TRUE(until([&] { return !answer.empty() && !message.empty(); }));
  }
  EXPECT_EQ(answer, "tool answers");
  EXPECT_EQ(message, "too many");
  EXPECT_EQ(code, Code::resourceExhausted);  // the vault makes a status of it
}

TEST_F(BrokerTest, ReloadReachesTheSupervisor) {
  link->reload();
  EXPECT_EQ(linkRequest(), LinkRequest::Kind::reload);
}

}  // namespace
}  // namespace mayfly::app
