// Tasks with a session at the broker: the engine against doubles of spawner and broker.
#include "core/doors.h"
#include "core_fixture.h"
#include "doors_of_a_box.h"

namespace mayfly::core {
namespace {

// One session, as the core uses it.
struct FakeSession final : sched::Session {
  sched::Env env_ = {{"MAYFLY_BROKER", "http://127.0.0.1:80"}, {"OPENAI_BASE_URL", "ours"}};
  std::vector<std::string> grants_ = {"openai"}, calls;
  base::TaskId task = 0;
  uint64_t expires_ms = 0;
  std::optional<sched::Doors> doors;
  bool doors_listened = false;
  Left left;

  const sched::Env& env() const override { return env_; }
  const std::vector<std::string>& grants() const override { return grants_; }
  base::Status begin(base::TaskId t, uint64_t ms, sched::Doors d) override {
    calls.push_back("begin");
    task = t;
    expires_ms = ms;
    doors = std::move(d);
    doors_listened = test::listens(doors->local.view()) && test::listens(doors->tcp.view());
    return base::Unit{};
  }
  void leave(Left l) override { calls.push_back("leave"), close(std::move(l)); }
  void end(Left l) override {
    calls.push_back("end");
    if (l) close(std::move(l));
  }
  void revoke(const std::string&, std::function<void(base::Status)>) override {}
  void close(Left l) {
    left = std::move(l);
    doors.reset();
  }
  void confirm(uint64_t revoked_ns, uint64_t closed_ns, std::string note = {}) {
    std::exchange(left, {})({revoked_ns, closed_ns, std::move(note)});
  }
};

struct FakeBroker final : sched::Broker {
  void open(sched::SessionSpec, Opened) override {}
};

struct Sessions : Fixture {
  FakeBroker broker;
  std::shared_ptr<FakeSession> session = std::make_shared<FakeSession>();

  void startWithBroker() {
    options.broker = &broker;
    start();
  }
  sched::TaskSpec withSession() {
    sched::TaskSpec s = spec();
    s.session = session;
    s.env = {{"OPENAI_BASE_URL", "mine"}, {"MAYFLY_BROKER", "theirs"}};
    return s;
  }
  // A made box with doors; empty: this host lets nobody make namespaces.
  std::optional<FakeBox> madeWithDoors(const test::DoorPlaces& places = {}) {
    Request r = made_by = expect(Op::make);
    auto doors = test::doorsOfABox(places);
    if (!doors) return std::nullopt;
    FakeBox b;
    b.id = r.box;
    auto control = base::makeSeqpacketPair();
    auto in = base::makePipe(), out = base::makePipe(), err = base::makePipe();
    Event e;
    e.kind = Kind::boxMade;
    e.box = r.box;
    e.box_ready_ns = base::monotonicNs();
    tell(e, {control->ours.get(), in->write.get(), out->read.get(), err->read.get(),
             doors->local.get(), doors->tcp.get()});
    b.control = std::move(control->theirs);
    b.in = std::move(in->read);
    b.out = std::move(out->write);
    b.err = std::move(err->write);
    EXPECT_TRUE(base::setNonblocking(b.control.view()));
    return b;
  }
  std::optional<FakeBox> runs() {
    auto b = madeWithDoors();
    if (!b) return b;
    cloneReady(*b);
    blob = takeClaim(*b);
    sayStarted(*b);
    until([&] { return listener->started == 1; });
    return b;
  }
  std::string blob;
};

#define DOORS_OR_SKIP(box) \
  if (!(box)) GTEST_SKIP() << "this host lets nobody make namespaces here"

TEST_F(Sessions, ATaskHasItsDoorsAndVariablesAndIsRevokedBeforeItIsKilled) {
  startWithBroker();
  const size_t fds = openFds();
  const base::TaskId id = submit(withSession());
  auto b = runs();
  DOORS_OR_SKIP(b);
  EXPECT_EQ(session->calls, std::vector<std::string>{"begin"});
  EXPECT_EQ(session->task, id);
  EXPECT_TRUE(session->doors_listened);
  EXPECT_GT(session->expires_ms, base::Limits().wall_time_ms);
  EXPECT_NE(blob.find("MAYFLY_BROKER=http://127.0.0.1:80"), std::string::npos);
  EXPECT_EQ(blob.find("MAYFLY_BROKER=theirs"), std::string::npos);
  EXPECT_NE(blob.find("OPENAI_BASE_URL=mine"), std::string::npos);
  exits(b->id, CLD_EXITED, 0);
  expect(Op::end);
  EXPECT_EQ(session->calls.back(), "end");  // before the box's end was requested
  reaped(*b);
  tell(goneEvent(b->id));
  settle();
  EXPECT_EQ(listener->results, 0) << "the broker has not confirmed";
  EXPECT_EQ(engine->ledger().alive(), 1u);
  session->confirm(11, 12, "the front was restarted");
  result();
  const base::Receipt& r = listener->result.receipt;
  EXPECT_TRUE(r.complete) << r.missing;
  EXPECT_EQ(r.revoked_ns, 11u);
  EXPECT_EQ(r.broker_closed_ns, 12u);
  EXPECT_EQ(r.note, "the front was restarted");
  EXPECT_EQ(engine->ledger().alive(), 0u);
  EXPECT_EQ(openFds(), fds);
}

TEST_F(Sessions, TheBrokerMayConfirmBeforeTheBoxIsGone) {
  startWithBroker();
  submit(withSession());
  auto b = runs();
  DOORS_OR_SKIP(b);
  exits(b->id, CLD_EXITED, 0);
  expect(Op::end);
  session->confirm(1, 2);
  settle();
  EXPECT_EQ(listener->results, 0);
  reaped(*b);
  tell(goneEvent(b->id));
  result();
  EXPECT_EQ(listener->result.receipt.broker_closed_ns, 2u);
}

TEST_F(Sessions, ATaskWithoutOneHasItsDoorsClosedAndNeverListening) {
  startWithBroker();
  const size_t fds = openFds();
  submit(spec());
  auto b = runs();
  DOORS_OR_SKIP(b);
  EXPECT_EQ(openFds(), fds + 2 + 3) << "of the box: our ends of its output, and the test's ends";
  exits(b->id, CLD_EXITED, 0);
  expect(Op::end);
  reaped(*b);
  tell(goneEvent(b->id));
  result();
  EXPECT_EQ(listener->result.receipt.revoked_ns, 0u);
  EXPECT_EQ(listener->result.receipt.broker_closed_ns, 0u);
}

TEST_F(Sessions, ATaskWhoseBoxIsLostKeepsItsSessionForTheNext) {
  startWithBroker();
  submit(withSession());
  auto b = madeWithDoors();
  DOORS_OR_SKIP(b);
  cloneReady(*b);
  takeClaim(*b);
  tell(Kind::boxDied, b->id);
  expect(Op::end);
  EXPECT_EQ(session->calls, (std::vector<std::string>{"begin", "leave"}));
  reaped(*b);
  tell(goneEvent(b->id));
  EXPECT_TRUE(nothingAsked()) << "another box before the broker has left this one";
  session->confirm(0, 5);
  auto next = runs();
  EXPECT_EQ(session->calls.back(), "begin");
  exits(next->id, CLD_EXITED, 0);
  expect(Op::end);
  session->confirm(6, 7);
  reaped(*next);
  tell(goneEvent(next->id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::succeeded);
  EXPECT_EQ(listener->result.receipt.revoked_ns, 6u);
}

TEST_F(Sessions, ABrokerThatDoesNotConfirmKeepsTheBoxInQuarantine) {
  options.bounds.receipt_ns = 50'000'000;
  startWithBroker();
  submit(withSession());
  auto b = runs();
  DOORS_OR_SKIP(b);
  exits(b->id, CLD_EXITED, 0);
  expect(Op::end);
  reaped(*b);
  tell(goneEvent(b->id));
  result();
  const base::Receipt& r = listener->result.receipt;
  EXPECT_FALSE(r.complete);
  EXPECT_NE(r.missing.find("the broker did not confirm"), std::string::npos) << r.missing;
  EXPECT_EQ(engine->ledger().quarantined(), 1u);
  session->confirm(1, 2);
  settle();
  EXPECT_EQ(engine->ledger().quarantined(), 0u);
  EXPECT_EQ(told.calls["receiptCompleted"], 1);
}

TEST_F(Sessions, ATaskThatNeverHasABoxEndsItsSession) {
  startWithBroker();
  const base::TaskId id = submit(withSession());
  ASSERT_TRUE(engine->cancel(id, account(1000), sched::Cancel::soft));
  result();
  EXPECT_EQ(session->calls, std::vector<std::string>{"end"});
}

TEST_F(Sessions, ZygotesArePublishedWithDoorsOnlyIfThereIsABroker) {
  options.broker = &broker;
  ASSERT_TRUE(task_ids.reserve());
  engine = std::make_unique<Engine>(io, options, task_ids, observers, owner);
  pool::TemplateSpec t;
  t.name = "python";
  t.image_digest = std::string(64, 'a');
  t.zygote = {"/usr/bin/python3"};
  t.runs_code = true;
  t.loopback = false;
  ASSERT_TRUE(engine->addTemplate(t, *base::makeMemfd("bpf")));
  auto pair = base::makeSeqpacketPair();
  spawner = std::move(pair->theirs);
  ASSERT_TRUE(base::setNonblocking(spawner.view()));
  ASSERT_TRUE(engine->start(std::move(pair->ours)));
  tell(Kind::hello, 0);
  EXPECT_EQ(expect(Op::publish).flags, spawner::kDoors | spawner::kLoopback);
}

// A hostile init passes other sockets: the box is lost, and no task gets it.
TEST_F(Sessions, DoorsThatAreNotBoundAsTheyMustBeAreRefused) {
  const auto refusal = [](const test::DoorPlaces& places) -> std::string {
    auto doors = test::doorsOfABox(places);
    if (!doors) return "skip";
    base::Fd fds[] = {std::move(doors->local), std::move(doors->tcp)};
    auto opened = openDoors(fds);
    return opened ? "" : opened.error().message;
  };
  if (refusal({}) == "skip") GTEST_SKIP() << "this host lets nobody make namespaces here";
  EXPECT_EQ(refusal({}), "");
  EXPECT_NE(refusal({.path = "/run/broker.sock2"}).find("not bound to"), std::string::npos);
  EXPECT_NE(refusal({.path = "/run/broker.soc"}).find("not bound to"), std::string::npos);
  EXPECT_NE(refusal({.port = 81}).find("not bound to"), std::string::npos);
  EXPECT_NE(refusal({.address = INADDR_ANY}).find("not bound to"), std::string::npos);
  EXPECT_NE(refusal({.address = INADDR_LOOPBACK + 1}).find("not bound to"), std::string::npos);
  EXPECT_NE(refusal({.type = SOCK_DGRAM}).find("not a stream"), std::string::npos);
  EXPECT_NE(refusal({.listens = true}).find("listens already"), std::string::npos);
  auto pair = base::makeSeqpacketPair();
  base::Fd others[] = {std::move(pair->ours), std::move(pair->theirs)};
  EXPECT_FALSE(openDoors(others));
  base::Fd files[] = {*base::makeMemfd("a"), *base::makeMemfd("b")};
  EXPECT_FALSE(openDoors(files));
  base::Fd one[] = {*base::makeMemfd("a")};
  EXPECT_FALSE(openDoors(one));
  EXPECT_FALSE(openDoors({}));
}

TEST_F(Sessions, ABoxWithWrongDoorsIsLost) {
  startWithBroker();
  submit(spec());
  auto b = madeWithDoors({.port = 8080});
  DOORS_OR_SKIP(b);
  EXPECT_EQ(expect(Op::end).box, b->id);
}

TEST_F(Sessions, NobodyCanConnectBeforeTheDoorsListen) {
  auto doors = test::doorsOfABox();
  DOORS_OR_SKIP(doors);
  base::Fd fds[] = {std::move(doors->local), std::move(doors->tcp)};
  auto opened = openDoors(fds);
  ASSERT_TRUE(opened);
  EXPECT_FALSE(test::listens(opened->local.view()));
  EXPECT_FALSE(test::listens(opened->tcp.view()));
  ASSERT_TRUE(listenOn(*opened));
  EXPECT_TRUE(test::listens(opened->local.view()));
  EXPECT_TRUE(test::listens(opened->tcp.view()));
}

}  // namespace
}  // namespace mayfly::core
