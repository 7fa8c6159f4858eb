// The engine against a double of the spawner that speaks wire/spawner.h over a real
// socket, with real pipes for the streams. Events are awaited, never time.
#pragma once

#include <map>
#include <gtest/gtest.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <deque>

#include "base/clock.h"
#include "core/engine.h"
#include "wire/spool.h"

namespace mayfly::core {

using base::Phase;
using base::Verdict;
using sched::Stream;
using spawner::Event;
using spawner::Kind;
using spawner::Op;
using spawner::Request;

constexpr auto kPatience = std::chrono::seconds(20);  // a bound, never a wait

struct Listener : sched::TaskListener {
  int started = 0, results = 0;
  std::string out[2];
  uint64_t stdin_bytes = 0;
  sched::TaskResult result;
  void onStarted() override { ++started; }
  void onOutput(Stream s, std::string_view bytes) override { out[size_t(s)] += bytes; }
  void onStdinAccepted(uint64_t bytes) override { stdin_bytes += bytes; }
  void onResult(sched::TaskResult r) override {
    ++results;
    result = std::move(r);
  }
};

struct Owner : EngineOwner {
  int settled = 0;
  std::string fatal;
  void onSettled() override { ++settled; }
  void onFatal(base::Error e) override { fatal = e.message; }
};

// Counts every call of the observer by its name.
struct Recorder : base::Observer {
  std::map<std::string, int> calls;
  int incomplete = 0;
  std::string lines, fault;
  std::vector<base::Phase> phases;
  std::vector<base::ClaimKind> claims;
  base::RefusedBy refused_by = base::RefusedBy::other;  // of the last refusal
  base::CloneTimes times;                               // the last clone's
  base::TaskLabels labels;                              // the last; its words are copied
  std::string template_name, mechanism, user, tenant, trace;

  void remember(const base::TaskLabels& t) {
    template_name = t.template_name, mechanism = t.mechanism;
    user = t.user, tenant = t.tenant, trace = t.trace;
    labels = t;
  }
  void taskAccepted(const base::TaskLabels& t) override { ++calls["taskAccepted"], remember(t); }
  void taskRefused(const base::TaskLabels& t, std::string_view, base::RefusedBy by) override {
    ++calls["taskRefused"], remember(t), refused_by = by;
  }
  void taskPhase(const base::TaskLabels& t, base::Phase phase, uint64_t) override {
    ++calls["taskPhase"], remember(t), phases.push_back(phase);
  }
  void taskEnded(const base::TaskLabels& t, Verdict, const base::Usage&,
                 const base::Phases&) override {
    ++calls["taskEnded"], remember(t);
  }
  void queueLength(uint32_t) override { ++calls["queueLength"]; }
  void boxesAlive(uint32_t) override { ++calls["boxesAlive"]; }
  void receipt(std::string_view, const base::Receipt& r) override {
    ++calls["receipt"], incomplete += r.complete ? 0 : 1;
  }
  void receiptCompleted(const base::Receipt&) override { ++calls["receiptCompleted"]; }
  void boxLost(std::string_view, std::string_view) override { ++calls["boxLost"]; }
  void cloneMade(std::string_view, const base::CloneTimes& t) override {
    ++calls["cloneMade"], times = t;
  }
  void cloneDiscarded(std::string_view) override { ++calls["cloneDiscarded"]; }
  void cloneClaimed(const base::TaskLabels& t, base::ClaimKind kind) override {
    ++calls["cloneClaimed"], remember(t), claims.push_back(kind);
  }
  void auditFound(const base::AuditFinding&) override { ++calls["auditFound"]; }
  void auditEnded(const base::AuditWalk&) override { ++calls["auditEnded"]; }
  void connectionOpened(std::string_view) override { ++calls["connectionOpened"]; }
  void connectionEnded(std::string_view) override { ++calls["connectionEnded"]; }
  void connectionRefused(std::string_view, std::string_view) override {
    ++calls["connectionRefused"];
  }
  void messageRefused() override { ++calls["messageRefused"]; }
  void callRefused(std::string_view, std::string_view) override { ++calls["callRefused"]; }
  void callAnswered(std::string_view, uint64_t) override { ++calls["callAnswered"]; }
  void messageReceived(uint64_t) override { ++calls["messageReceived"]; }
  void messageSent(uint64_t) override { ++calls["messageSent"]; }
  void loopLag(uint64_t) override { ++calls["loopLag"]; }
  void templateState(std::string_view, std::string_view, std::string_view) override {
    ++calls["templateState"];
  }
  void poolState(std::string_view, const base::PoolState&) override { ++calls["poolState"]; }
  void trialEnded(std::string_view, std::string_view text) override {
    ++calls["trialEnded"], fault = text;
  }
  void zygoteRenewed(std::string_view) override { ++calls["zygoteRenewed"]; }
  void zygoteDied(std::string_view, std::string_view) override { ++calls["zygoteDied"]; }
  void zygoteSaid(std::string_view, std::string_view line) override {
    ++calls["zygoteSaid"], lines += line;
  }
  void spawnerReady(std::string_view) override { ++calls["spawnerReady"]; }
};

// The spawner's and the clone's side of one box.
struct FakeBox {
  base::BoxId id = 0;
  base::Fd control, in, out, err;
};

struct Fixture : testing::Test {
  boost::asio::io_context io;
  Recorder told, told_too;  // both hear the same
  base::Observers observers;
  Owner owner;
  std::string trial_code;
  EngineOptions options;
  uint32_t parked = 0;
  pool::Renewal renewal;
  uint32_t tenants_max = 0;
  bool restores = false;        // the first template's clones come from a snapshot
  std::string second_template;  // its name; empty: none
  uint64_t id_blocks = 7;       // reserved so far
  bool id_blocks_fail = false;
  sched::TaskIds task_ids{sched::IdKey{1, 2, 3},
                          [this]() -> base::Result<uint64_t> {
                            if (id_blocks_fail)
                              return base::fail(base::Code::internal, "the disk is full");
                            return id_blocks++;
                          },
                          "noon", /*block_bits=*/10};
  std::unique_ptr<Engine> engine;
  base::Fd spawner;
  std::vector<base::Fd> request_fds;

  void SetUp() override {
    ::signal(SIGPIPE, SIG_IGN);
    observers.add(told), observers.add(told_too);
  }
  void TearDown() override { EXPECT_EQ(told.calls, told_too.calls); }

  template <class P>
  void until(P done) {
    auto give_up = std::chrono::steady_clock::now() + kPatience;
    while (!done()) {
      ASSERT_LT(std::chrono::steady_clock::now(), give_up) << "the awaited event did not come";
      io.restart();
      io.run_one_for(std::chrono::milliseconds(100));
    }
  }
  void settle() {  // handles all present events
    io.restart();
    io.poll();
  }

  Request expect(Op op) {
    Request r;
    bool got = false;
    until([&] {
      auto m = base::receiveMessage(spawner.view(), base::writableBytesOf(r));
      if (!m) return false;
      EXPECT_EQ(m->bytes, sizeof r);
      if (r.op == Op::sample && op != Op::sample) return false;  // of a clone that was just parked
      request_fds.clear();
      for (size_t i = 0; i < m->fds; ++i) request_fds.push_back(std::move(m->fd[i]));
      return got = true;
    });
    EXPECT_TRUE(got);
    EXPECT_EQ(static_cast<int>(r.op), static_cast<int>(op));
    return r;
  }
  bool nothingAsked() {
    settle();
    Request r;
    while (base::receiveMessage(spawner.view(), base::writableBytesOf(r)))
      if (r.op != Op::sample) return false;
    return true;
  }
  void tell(Event e, std::vector<int> fds = {}) {
    if (e.at_ns == 0) e.at_ns = base::monotonicNs();
    ASSERT_TRUE(base::sendMessage(spawner.view(), base::bytesOf(e), fds));
  }
  void tell(Kind kind, base::BoxId box) {
    Event e;
    e.kind = kind;
    e.box = box;
    tell(e);
  }

  void tellZygote(Kind kind, base::ZygoteId zygote) {
    Event e;
    e.kind = kind;
    e.zygote_id = zygote;
    tell(e);
  }

  void start(bool ready = true) {
    ASSERT_TRUE(task_ids.reserve());
    engine = std::make_unique<Engine>(io, options, task_ids, observers, owner);
    pool::TemplateSpec t;
    t.name = "python";
    t.image_digest = std::string(64, 'a');
    t.zygote = {"/usr/bin/python3", "-m", "zygote"};
    t.runs_code = true;
    t.parked_min = t.parked_max = parked;
    t.env = {{"HOME", "/task"}};
    t.cpus_env = {"THREADS"};
    t.maximum.cpu_milli = 2'000;
    t.maximum.grace_ms = 60'000;
    t.renewal = renewal;
    t.mechanism = "fork";
    t.trial_code = trial_code;
    t.tenants_max = tenants_max;
    ASSERT_TRUE(engine->addTemplate(t, *base::makeMemfd("bpf"),
                                    restores ? *base::makeMemfd("snapshot") : base::Fd()));
    if (!second_template.empty()) {
      t.name = second_template;
      ASSERT_TRUE(engine->addTemplate(t, *base::makeMemfd("bpf")));
    }
    auto pair = base::makeSeqpacketPair();
    spawner = std::move(pair->theirs);
    ASSERT_TRUE(base::setNonblocking(spawner.view()));
    ASSERT_TRUE(engine->start(std::move(pair->ours)));
    tell(Kind::hello, 0);
    Request r = expect(Op::publish);
    EXPECT_EQ(r.zygote_id, 1u);
    EXPECT_STREQ(r.zygote[2], "zygote");
    EXPECT_EQ(request_fds.size(), restores ? 3u : 2u);
    if (!second_template.empty()) {
      EXPECT_EQ(expect(Op::publish).zygote_id, 2u);
    }
    if (!ready) return;
    tellZygote(Kind::zygoteReady, 1);
    if (!second_template.empty()) tellZygote(Kind::zygoteReady, 2);
    until([&] { return owner.settled == 1; });
  }

  sched::TaskSpec spec() {
    sched::TaskSpec s;
    s.template_name = "python";
    s.kind = sched::CodeKind::string;
    s.code = "print(1)";
    s.owner = 1;
    s.account = account(1000);
    return s;
  }
  sched::AccountRef account(uint32_t uid, std::string_view tenant = {}) {
    return engine->accounts().open(sched::Account::ofPeer(uid, tenant)).value();
  }
  std::shared_ptr<Listener> listener = std::make_shared<Listener>();
  base::TaskId submit(sched::TaskSpec s) {
    auto id = engine->submit(std::move(s), listener);
    EXPECT_TRUE(id) << id.error().message;
    return id ? *id : 0;
  }

  Request made_by;  // of the last box
  FakeBox made(uint32_t flags = 0, Op op = Op::make) {
    Request r = made_by = expect(op);
    EXPECT_EQ(r.flags & spawner::kRehearse, flags);
    FakeBox b;
    b.id = r.box;
    auto control = base::makeSeqpacketPair();
    auto in = base::makePipe(), out = base::makePipe(), err = base::makePipe();
    Event e;
    e.kind = Kind::boxMade;
    e.box = r.box;
    e.box_ready_ns = base::monotonicNs();
    tell(e, {control->ours.get(), in->write.get(), out->read.get(), err->read.get()});
    b.control = std::move(control->theirs);
    b.in = std::move(in->read);
    b.out = std::move(out->write);
    b.err = std::move(err->write);
    EXPECT_TRUE(base::setNonblocking(b.control.view()));
    EXPECT_TRUE(base::setNonblocking(b.in.view()));
    EXPECT_TRUE(base::setNonblocking(b.out.view()));
    return b;
  }
  void cloneReady(FakeBox& b) {
    zygote::CloneReady r;
    r.at_ns = base::monotonicNs();
    ASSERT_TRUE(base::sendMessage(b.control.view(), base::bytesOf(r), {}));
  }
  FakeBox startWithAParkedClone() {
    options.budget.parked_max = parked = 1;
    start();
    FakeBox b = made(spawner::kRehearse);
    cloneReady(b);
    settle();
    return b;
  }
  std::vector<base::Fd> claimed_blobs;  // of the last claim
  bool caps_stood = false;
  std::string takeClaim(FakeBox& b) {
    Request r = expect(Op::claim);
    EXPECT_EQ(r.box, b.id);
    std::string blob;
    zygote::Claim c;
    until([&] {
      auto m = base::receiveMessage(b.control.view(), base::writableBytesOf(c));
      if (!m) return false;
      EXPECT_EQ(m->fds, 1u + c.blob_fds);
      claimed_blobs.clear();
      for (size_t i = 1; i < m->fds; ++i) claimed_blobs.push_back(std::move(m->fd[i]));
      blob.resize(c.block_bytes);
      EXPECT_EQ(::pread(m->fd[0].get(), blob.data(), blob.size(), 0), ssize_t(blob.size()));
      return true;
    });
    caps_stood = c.caps_stand == 1;
    EXPECT_EQ(caps_stood, (r.flags & spawner::kCapsStand) != 0);  // both messages must agree
    return blob;
  }
  void sayStarted(FakeBox& b, uint32_t fresh = 0) {
    zygote::Started s;
    s.fresh = fresh;
    s.at_ns = base::monotonicNs();
    ASSERT_TRUE(base::sendMessage(b.control.view(), base::bytesOf(s), {}));
    b.control.reset();
  }
  FakeBox running() {
    FakeBox b = made();
    cloneReady(b);
    takeClaim(b);
    sayStarted(b);
    until([&] { return listener->started == 1; });
    return b;
  }
  void exits(base::BoxId box, int code, int status, bool terminated = false) {
    Event e;
    e.kind = Kind::cloneExited;
    e.terminated = terminated ? 1 : 0;
    e.box = box;
    e.exit_code = code;
    e.exit_status = status;
    tell(e);
  }
  // The box's processes are dead: closes the fake's ends.
  void reaped(FakeBox& b, Event e = {}) {
    b.in.reset(), b.out.reset(), b.err.reset(), b.control.reset();
    e.kind = Kind::boxReaped;
    e.box = b.id;
    tell(e);
  }
  Event goneEvent(base::BoxId box) {
    Event e;
    e.kind = Kind::boxGone;
    e.box = box;
    e.complete = 1;
    e.at_ns = e.reaped_ns = e.unpopulated_ns = e.fds_closed_ns = e.cgroups_gone_ns =
        base::monotonicNs();
    return e;
  }
  void result() {
    until([&] { return listener->results > 0; });
    EXPECT_EQ(listener->results, 1);
  }
  size_t openFds() {
    request_fds.clear();
    settle();
    size_t n = 0;
    for (int fd = 0; fd < 256; ++fd)
      if (::fcntl(fd, F_GETFD) >= 0) ++n;
    return n;
  }
};

}  // namespace mayfly::core
