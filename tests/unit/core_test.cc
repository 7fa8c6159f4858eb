// The engine against a double of the spawner: core_fixture.h.
#include <algorithm>

#include "core_fixture.h"
#include "full_table.h"

namespace mayfly::core {
namespace {

TEST_F(Fixture, TaskRunsFromSubmitToReceipt) {
  start();
  size_t fds = openFds();
  submit(spec());
  FakeBox b = made();
  cloneReady(b);
  std::string blob = takeClaim(b);
  EXPECT_NE(blob.find("print(1)"), std::string::npos);
  EXPECT_NE(blob.find("HOME=/task"), std::string::npos);
  sayStarted(b);
  until([&] { return listener->started == 1; });
  ASSERT_EQ(::write(b.out.get(), "1\n", 2), 2);
  ASSERT_EQ(::write(b.err.get(), "warn", 4), 4);
  exits(b.id, CLD_EXITED, 0);
  Request end = expect(Op::end);
  EXPECT_EQ(end.box, b.id);
  EXPECT_EQ(end.flags & spawner::kCollect, 0u);
  Event usage;
  usage.counters.user_cpu_ns = 5;
  usage.exit_code = CLD_EXITED;
  reaped(b, usage);
  tell(goneEvent(b.id));
  result();
  const auto& r = listener->result;
  EXPECT_EQ(r.verdict, Verdict::succeeded) << r.reason;
  EXPECT_EQ(r.captured[0], "1\n");
  EXPECT_EQ(r.captured[1], "warn");
  EXPECT_TRUE(r.receipt.complete) << r.receipt.missing;
  EXPECT_EQ(r.usage.user_cpu_ns, 5u);
  for (size_t i = 0; i < base::kPhases; ++i) {
    EXPECT_NE(r.phases[i], 0u) << base::name(Phase(i));
    bool ordered = i == 0 || Phase(i - 1) == Phase::firstByte || Phase(i) == Phase::firstByte ||
                   r.phases[i - 1] <= r.phases[i];
    EXPECT_TRUE(ordered) << base::name(Phase(i));
  }
  EXPECT_TRUE(engine->tasks(account(0)).empty());
  EXPECT_EQ(engine->ledger().alive(), 0u);
  EXPECT_EQ(openFds(), fds);
}

TEST_F(Fixture, ObserversAreToldOfATasksWay) {
  start();
  EXPECT_EQ(told.calls["spawnerReady"], 1);
  EXPECT_EQ(told.calls["templateState"], 2);  // starting, ready
  sched::TaskSpec own = spec();
  own.account = account(7, "blue");
  own.trace = "00-x";
  const base::TaskId id = submit(std::move(own));
  FakeBox b = running();
  ASSERT_EQ(::write(b.out.get(), "1\n", 2), 2);
  exits(b.id, CLD_EXITED, 0);
  expect(Op::end);
  reaped(b);
  tell(goneEvent(b.id));
  result();
  settle();
  EXPECT_EQ(told.calls["taskAccepted"], 1);
  EXPECT_EQ(told.calls["taskEnded"], 1);
  EXPECT_EQ(told.calls["receipt"], 1);
  EXPECT_EQ(told.incomplete, 0);
  EXPECT_EQ(told.calls["cloneMade"], 1);
  EXPECT_EQ(told.times.from, base::Launch::made);
  const auto& steps = told.times.step_ns;
  EXPECT_GT(steps[3], 0u);
  EXPECT_EQ(steps[0] + steps[1] + steps[2], steps[3]) << "box, clone, park are the whole";
  EXPECT_EQ(told.claims, std::vector{base::ClaimKind::made});
  EXPECT_EQ(told.labels.launch, base::Launch::made);
  EXPECT_EQ(told.trace, "00-x");
  EXPECT_GT(told.calls["queueLength"], 0);
  EXPECT_GT(told.calls["boxesAlive"], 0);
  EXPECT_GT(told.calls["poolState"], 0);
  EXPECT_EQ(told.labels.task, id);
  EXPECT_EQ(told.template_name + "/" + told.mechanism, "python/fork");
  EXPECT_EQ(told.user + "/" + told.tenant, "uid:7/blue");
  std::sort(told.phases.begin(), told.phases.end());
  std::vector<Phase> all;
  for (size_t i = 0; i < base::kPhases; ++i) all.push_back(Phase(i));
  EXPECT_EQ(told.phases, all) << "each phase once";
  sched::TaskSpec none = spec();
  none.template_name = "none";
  EXPECT_FALSE(engine->submit(std::move(none), listener));
  EXPECT_EQ(told.calls["taskRefused"], 1);
  EXPECT_EQ(told.calls["taskAccepted"], 1);
}

TEST_F(Fixture, TheReportHasWhatIsThereNow) {
  options.bounds.host_cores = 3;
  FakeBox parked_clone = startWithAParkedClone();
  base::CoreReport r = engine->report();
  EXPECT_TRUE(r.settled && r.serving);
  ASSERT_EQ(r.templates.size(), 1u);
  EXPECT_EQ(r.templates[0].name + " " + r.templates[0].state, "python ready");
  EXPECT_EQ(r.templates[0].pool.parked, 1u);
  EXPECT_EQ(r.templates[0].forecast.target_by_reason[size_t(base::SizeReason::minimum)], 1u);
  EXPECT_EQ(r.use.parked, 1u);
  EXPECT_GT(r.use.parked_memory_bytes, 0u);
  sched::TaskSpec own = spec();
  own.account = account(7, "blue");
  own.limits.memory_bytes = 64u << 20;
  own.limits.cpu_milli = 1'500;
  submit(std::move(own));
  takeClaim(parked_clone);
  sayStarted(parked_clone);
  until([&] { return listener->started == 1; });
  r = engine->report();
  EXPECT_EQ(r.templates[0].claimed, 1u);
  EXPECT_EQ(r.use.boxes, 1u);
  EXPECT_EQ(r.use.memory_bytes, 64u << 20);
  EXPECT_EQ(r.use.cpu_milli, 1'500u);
  EXPECT_EQ(r.use.cpu_milli_max, 3'000u);
  ASSERT_EQ(r.accounts.size(), 1u);
  EXPECT_EQ(r.accounts[0].user + "/" + r.accounts[0].tenant, "uid:7/blue");
  EXPECT_EQ(r.accounts[0].running, 1u);
  EXPECT_EQ(told.claims, std::vector{base::ClaimKind::parked});
  EXPECT_EQ(told.labels.launch, base::Launch::parked);
  exits(parked_clone.id, CLD_EXITED, 0);
  until([&] { return engine->report().templates[0].dying == 1; });
  EXPECT_EQ(engine->report().templates[0].quarantined, 0u);
}

TEST_F(Fixture, APoolThatIsToHaveNoCloneHasAReason) {
  start();
  const auto reasons = [&] { return engine->report().templates[0].forecast.lanes_by_reason; };
  std::array<uint32_t, base::kSizeReasons> wanted{};
  wanted[size_t(base::SizeReason::maximum)] = 1;
  EXPECT_EQ(reasons(), wanted) << "the template's own maximum is 0";
}

TEST_F(Fixture, APoolThatTheDaemonsBudgetKeepsEmptySaysSo) {
  parked = 1;
  options.budget.parked_max = 0;
  start();
  const base::PoolForecast f = engine->report().templates[0].forecast;
  std::array<uint32_t, base::kSizeReasons> wanted{};
  EXPECT_EQ(f.target_by_reason, wanted);
  wanted[size_t(base::SizeReason::budget)] = 1;
  EXPECT_EQ(f.lanes_by_reason, wanted);
}

TEST_F(Fixture, TheReportSaysHowLongTheOldestTaskWaits) {
  start(/*ready=*/false);
  EXPECT_EQ(engine->report().queue_age_ns, 0u);
  submit(spec());
  settle();
  const base::CoreReport r = engine->report();
  EXPECT_EQ(r.queued, 1u);
  EXPECT_GT(r.queue_age_ns, 0u);
  EXPECT_FALSE(r.settled);
  ASSERT_EQ(r.accounts.size(), 1u);
  EXPECT_EQ(r.accounts[0].queued, 1u);
}

TEST_F(Fixture, ADeadZygoteAndItsDiscardedCloneAreTold) {
  FakeBox b = startWithAParkedClone();
  tellZygote(Kind::zygoteGone, 1);
  EXPECT_EQ(expect(Op::end).box, b.id);
  reaped(b);
  tell(goneEvent(b.id));
  until([&] { return engine->ledger().alive() == 0; });
  EXPECT_EQ(told.calls["zygoteDied"], 1);
  EXPECT_EQ(told.calls["cloneDiscarded"], 1);
}

TEST_F(Fixture, ObserversAreToldOfATrialAndOfNoTask) {
  trial_code = "look";
  start(false);
  tellZygote(Kind::zygoteReady, 1);
  FakeBox clones[2] = {made(spawner::kRehearse), made()};
  for (FakeBox& b : clones) cloneReady(b);
  for (FakeBox& b : clones) takeClaim(b);
  for (FakeBox& b : clones) sayStarted(b);
  settle();
  for (FakeBox& b : clones) exits(b.id, CLD_EXITED, 1);
  for (FakeBox& b : clones) {
    expect(Op::end);
    reaped(b);
    tell(goneEvent(b.id));
  }
  EXPECT_EQ(expect(Op::retire).zygote_id, 1u);
  EXPECT_EQ(told.calls["trialEnded"], 1);
  EXPECT_NE(told.fault.find("its trial ended with"), std::string::npos) << told.fault;
  for (const char* name : {"taskAccepted", "taskPhase", "taskEnded"})
    EXPECT_EQ(told.calls.count(name), 0u) << name;
}

TEST_F(Fixture, UsageTellsThatTheRuntimeStartedAnew) {
  start();
  for (uint32_t fresh : {1u, 0u}) {
    listener = std::make_shared<Listener>();
    submit(spec());
    FakeBox b = made();
    cloneReady(b);
    takeClaim(b);
    sayStarted(b, fresh);
    until([&] { return listener->started == 1; });
    exits(b.id, CLD_EXITED, 0);
    expect(Op::end);
    reaped(b);
    tell(goneEvent(b.id));
    result();
    EXPECT_EQ(listener->result.usage.fresh_runtime, fresh == 1);
  }
}

TEST_F(Fixture, VariablesHoldTheTasksProcessorsRoundedUpUnlessItSetsThem) {
  start();
  sched::TaskSpec half = spec(), own = spec();
  half.limits.cpu_milli = 1'001;
  own.env = {{"THREADS", "7"}};
  for (const auto& [task, expected] :
       {std::pair{spec(), "THREADS=1"}, {half, "THREADS=2"}, {own, "THREADS=7"}}) {
    listener = std::make_shared<Listener>();
    submit(task);
    FakeBox b = made();
    cloneReady(b);
    const std::string blob = takeClaim(b);
    EXPECT_NE(blob.find(std::string(expected) + '\0'), std::string::npos) << expected;
    EXPECT_EQ(blob.find("THREADS="), blob.rfind("THREADS="));
    sayStarted(b);
    until([&] { return listener->started == 1; });
    exits(b.id, CLD_EXITED, 0);
    expect(Op::end);
    reaped(b);
    tell(goneEvent(b.id));
    result();
  }
}

TEST_F(Fixture, ExitThatOvertakesStartedIsStillTheTasksOwn) {
  start();
  submit(spec());
  FakeBox b = made();
  cloneReady(b);
  takeClaim(b);
  sayStarted(b);               // on the clone's socket
  exits(b.id, CLD_EXITED, 7);  // on the spawner's: both wait to be read
  expect(Op::end);
  reaped(b);
  tell(goneEvent(b.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::failed);
  EXPECT_EQ(listener->result.exit_code, 7);
}

TEST_F(Fixture, BoxLostBeforeTheTaskStartedIsReplaced) {
  start();
  submit(spec());
  FakeBox b = made();
  cloneReady(b);
  std::string first = takeClaim(b);
  b.control.reset();
  expect(Op::end);
  reaped(b);
  tell(goneEvent(b.id));
  Request r = expect(Op::make);
  EXPECT_NE(r.box, b.id);
  Event failed;
  failed.kind = Kind::boxFailed;
  failed.box = r.box;
  failed.again = 1;
  tell(failed);
  FakeBox last = made();
  cloneReady(last);
  EXPECT_EQ(takeClaim(last), first);
  sayStarted(last);
  until([&] { return listener->started == 1; });
  exits(last.id, CLD_EXITED, 0);
  expect(Op::end);
  reaped(last);
  tell(goneEvent(last.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::succeeded);
  EXPECT_EQ(listener->result.receipt.box, last.id);
  EXPECT_EQ(engine->ledger().alive(), 0u);
}

TEST_F(Fixture, ABoxWhoseDescriptorsFindNoPlaceCostsItsTaskOnlyTime) {
  start();
  submit(spec());
  FakeBox first;
  first.id = expect(Op::make).box;
  auto control = base::makeSeqpacketPair();
  auto in = base::makePipe(), out = base::makePipe(), err = base::makePipe();
  Event e;
  e.kind = Kind::boxMade;
  e.box = first.id;
  e.box_ready_ns = base::monotonicNs();
  tell(e, {control->ours.get(), in->write.get(), out->read.get(), err->read.get()});
  {
    test::FullTable full;
    settle();
  }
  EXPECT_EQ(expect(Op::end).box, first.id);
  reaped(first);
  tell(goneEvent(first.id));
  FakeBox next = running();
  EXPECT_NE(next.id, first.id);
  exits(next.id, CLD_EXITED, 0);
  expect(Op::end);
  reaped(next);
  tell(goneEvent(next.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::succeeded) << listener->result.reason;
}

TEST_F(Fixture, BlobsGoWithEveryClaimAndAreLetGoWhenTheTaskStarted) {
  options.accounts.setPool(sched::Resource::inputBytes,
                           100);  // shared memory is not held for a task
  start();
  auto memfd = base::makeMemfd("blob");
  ASSERT_EQ(::write(memfd->get(), "shared", 6), 6);
  auto blob = std::make_shared<const base::Fd>(std::move(*memfd));
  sched::TaskSpec s = spec();
  s.files = {{"a", "", 0644, blob, 1 << 20}, {"b", "", 0644, blob, 1 << 20}};
  submit(std::move(s));
  std::string first;
  for (int box = 0; box < 2; ++box) {
    FakeBox b = made();
    cloneReady(b);
    std::string block = takeClaim(b);
    if (box == 0) first = block;
    EXPECT_EQ(block, first);
    ASSERT_EQ(claimed_blobs.size(), 1u);
    char text[6];
    EXPECT_EQ(::pread(claimed_blobs[0].get(), text, sizeof text, 0), 6);
    EXPECT_GT(blob.use_count(), 1);
    if (box == 0) {  // the first is lost before the task started
      b.control.reset();
      expect(Op::end);
      reaped(b);
      tell(goneEvent(b.id));
    } else {
      sayStarted(b);
      until([&] { return listener->started == 1; });
      EXPECT_EQ(blob.use_count(), 1);
      exits(b.id, CLD_EXITED, 0);
      expect(Op::end);
      reaped(b);
      tell(goneEvent(b.id));
    }
  }
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::succeeded);
}

TEST_F(Fixture, BoxesLostTooOftenAreInternal) {
  start();
  submit(spec());
  for (uint32_t i = 0; i < options.bounds.boxes_max; ++i) {
    FakeBox b = made();
    cloneReady(b);
    takeClaim(b);
    b.control.reset();
    expect(Op::end);
    reaped(b);
    tell(goneEvent(b.id));
  }
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::internal);
  EXPECT_EQ(listener->started, 0);
  EXPECT_TRUE(nothingAsked());
}

TEST_F(Fixture, LostBoxOfACancelledTaskIsNotReplaced) {
  start();
  base::TaskId id = submit(spec());
  FakeBox b = made();
  cloneReady(b);
  takeClaim(b);
  b.control.reset();
  expect(Op::end);
  ASSERT_TRUE(engine->cancel(id, account(1000), sched::Cancel::soft));
  reaped(b);
  tell(goneEvent(b.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::cancelled);
  EXPECT_TRUE(nothingAsked());
}

TEST_F(Fixture, ParkedCloneIsClaimedAtOnceAndReplaced) {
  options.budget.parked_max = parked = 2;
  start();
  std::vector<FakeBox> clones;
  for (int i = 0; i < 2; ++i) {
    clones.push_back(made(spawner::kRehearse));
    cloneReady(clones.back());
  }
  settle();
  EXPECT_TRUE(nothingAsked());
  EXPECT_EQ(engine->templates()[0].pool.parked, 2u);
  submit(spec());
  takeClaim(clones[0]);  // the oldest
  EXPECT_EQ(engine->templates()[0].pool.parked, 1u);
  EXPECT_TRUE(nothingAsked());  // refill waits until the task has started
  sayStarted(clones[0]);
  until([&] { return listener->started == 1; });
  FakeBox next = made(spawner::kRehearse);
  cloneReady(next);
  exits(clones[0].id, CLD_EXITED, 0);
  EXPECT_EQ(expect(Op::end).box, clones[0].id);
  reaped(clones[0]);
  tell(goneEvent(clones[0].id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::succeeded);
  EXPECT_EQ(listener->result.receipt.box, clones[0].id);
  EXPECT_EQ(engine->ledger().alive(), 2u);
}

TEST_F(Fixture, TaskWhoseCapsItsBoxWasMadeWithWaitsForNobodysByte) {
  start();
  sched::TaskSpec own = spec();
  own.limits.memory_bytes = 64 << 20;
  submit(std::move(own));
  FakeBox b = made();
  cloneReady(b);
  takeClaim(b);
  EXPECT_TRUE(caps_stood);
}

TEST_F(Fixture, TaskWithOtherCapsThanItsClonesWaitsForThem) {
  options.budget.parked_max = parked = 1;
  start();
  FakeBox b = made(spawner::kRehearse);
  cloneReady(b);
  settle();
  sched::TaskSpec own = spec();
  own.limits.memory_bytes = 64 << 20;
  submit(std::move(own));
  takeClaim(b);
  EXPECT_FALSE(caps_stood);
}

TEST_F(Fixture, TaskGetsAStockedBoxAndAnotherIsStocked) {
  options.budget.stocked_max = 1;
  start();
  Request stock = expect(Op::make);
  EXPECT_EQ(stock.flags, spawner::kStock + 0u);
  tell(Kind::boxStocked, stock.box);
  settle();
  EXPECT_TRUE(nothingAsked());
  EXPECT_EQ(engine->templates()[0].boxes, 1u);
  submit(spec());
  FakeBox b = made(0, Op::clone);
  EXPECT_EQ(b.id, stock.box);
  cloneReady(b);
  takeClaim(b);
  sayStarted(b);
  until([&] { return listener->started == 1; });
  Request next = expect(Op::make);  // while the task runs
  EXPECT_EQ(next.flags, spawner::kStock + 0u);
  EXPECT_NE(next.box, stock.box);
  exits(b.id, CLD_EXITED, 0);
  expect(Op::end);
  reaped(b);
  tell(goneEvent(b.id));
  result();
  EXPECT_TRUE(listener->result.receipt.complete);
}

TEST_F(Fixture, StockedBoxThatFailedIsGivenToNobody) {
  options.budget.stocked_max = 1;
  start();
  Request stock = expect(Op::make);
  tell(Kind::boxStocked, stock.box);
  settle();
  tell(Kind::boxFailed, stock.box);
  until([&] { return engine->ledger().alive() == 0; });
  submit(spec());
  EXPECT_NE(expect(Op::make).box, stock.box);
}

TEST_F(Fixture, StockedBoxesEndWithTheDaemon) {
  options.budget.stocked_max = 1;
  start();
  Request stock = expect(Op::make);
  tell(Kind::boxStocked, stock.box);
  settle();
  engine->stop([] {});
  EXPECT_EQ(expect(Op::end).box, stock.box);
}

TEST_F(Fixture, ParkedCloneFoundDeadCostsATaskNothing) {
  options.budget.parked_max = parked = 1;
  start();
  FakeBox dead = made(spawner::kRehearse);
  cloneReady(dead);
  settle();
  exits(dead.id, CLD_KILLED, SIGKILL);
  EXPECT_EQ(expect(Op::end).box, dead.id);
  FakeBox alive = made(spawner::kRehearse);
  cloneReady(alive);
  EXPECT_EQ(told.calls["boxLost"], 1);
  reaped(dead);
  tell(goneEvent(dead.id));
  until([&] { return engine->ledger().alive() == 1; });
  EXPECT_EQ(told.calls["receipt"], 1);
  submit(spec());
  takeClaim(alive);
}

TEST_F(Fixture, ParkedCloneThatSpeaksOutOfPlaceGetsNoTask) {
  FakeBox odd = startWithAParkedClone();
  cloneReady(odd);
  EXPECT_EQ(expect(Op::end).box, odd.id);
  FakeBox next = made(spawner::kRehearse);
  cloneReady(next);
  settle();
  submit(spec());
  takeClaim(next);
}

TEST_F(Fixture, ParkedBoxThatIsGoneUnaskedGetsNoTask) {
  FakeBox odd = startWithAParkedClone();
  tell(goneEvent(odd.id));
  EXPECT_EQ(expect(Op::end).box, odd.id);
  FakeBox next = made(spawner::kRehearse);
  cloneReady(next);
  settle();
  EXPECT_EQ(engine->templates()[0].pool.parked, 1u);
  submit(spec());
  takeClaim(next);
}

TEST_F(Fixture, DeadZygotesClonesGetNoTask) {
  options.budget.parked_max = parked = 2;
  start();
  FakeBox old = made(spawner::kRehearse), late = made(spawner::kRehearse);
  cloneReady(old);
  until([&] { return engine->templates()[0].pool.parked == 1; });
  tellZygote(Kind::zygoteGone, 1);
  EXPECT_EQ(expect(Op::end).box, old.id);
  // Both are stopped, and one becomes ready only now: the task waits for a clone of the next
  // zygote.
  submit(spec());
  cloneReady(late);
  EXPECT_EQ(expect(Op::end).box, late.id);
  EXPECT_EQ(expect(Op::publish).zygote_id, 2u);
  EXPECT_TRUE(nothingAsked());
  tellZygote(Kind::zygoteReady, 2);
  FakeBox fresh = made();
  EXPECT_EQ(made_by.zygote_id, 2u);
  FakeBox next[] = {made(spawner::kRehearse), made(spawner::kRehearse)};  // for the pool
  cloneReady(fresh);
  EXPECT_NE(takeClaim(fresh).find("print(1)"), std::string::npos);
  sayStarted(fresh);
  until([&] { return listener->started == 1; });
  for (FakeBox* dead : {&old, &late}) {
    zygote::Claim claim;
    auto message = base::receiveMessage(dead->control.view(), base::writableBytesOf(claim));
    EXPECT_TRUE(!message || message->bytes == 0) << "box " << dead->id << " was told of a task";
  }
}

TEST_F(Fixture, RenewedZygoteDrainsWhileItsSuccessorServes) {
  options.budget.parked_max = parked = 1;
  renewal.clones = 2;
  start();
  FakeBox first = made(spawner::kRehearse);
  cloneReady(first);
  settle();
  submit(spec());
  takeClaim(first);
  sayStarted(first);
  until([&] { return listener->started == 1; });
  FakeBox second = made(spawner::kRehearse);  // the zygote's second clone: a successor is due
  cloneReady(second);
  EXPECT_EQ(expect(Op::publish).zygote_id, 2u);
  EXPECT_EQ(engine->templates()[0].state, "ready");
  EXPECT_EQ(engine->templates()[0].pool.zygotes, 2u);
  tellZygote(Kind::zygoteReady, 2);
  FakeBox fresh = made(spawner::kRehearse);  // the successor's
  EXPECT_EQ(made_by.zygote_id, 2u);
  EXPECT_EQ(engine->templates()[0].pool.parked, 1u);  // the old zygote's clone serves until then
  EXPECT_TRUE(nothingAsked());
  cloneReady(fresh);
  EXPECT_EQ(expect(Op::end).box, second.id);
  EXPECT_EQ(engine->templates()[0].pool.parked, 1u);
  reaped(second);
  tell(goneEvent(second.id));
  EXPECT_EQ(told.calls["zygoteRenewed"], 1);
  EXPECT_TRUE(nothingAsked());  // a task of the old zygote still runs
  exits(first.id, CLD_EXITED, 0);
  expect(Op::end);
  reaped(first);
  tell(goneEvent(first.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::succeeded);
  EXPECT_EQ(expect(Op::retire).zygote_id, 1u);
  tellZygote(Kind::zygoteGone, 1);
  settle();
  EXPECT_EQ(engine->templates()[0].pool.zygotes, 1u);
  EXPECT_EQ(engine->templates()[0].pool.renewals, 1u);
  EXPECT_EQ(engine->templates()[0].state, "ready");
}

TEST_F(Fixture, SuccessorThatFailsLeavesTheOldZygoteServing) {
  options.budget.parked_max = parked = 1;
  renewal.clones = 1;
  start();
  FakeBox clone = made(spawner::kRehearse);
  cloneReady(clone);
  EXPECT_EQ(expect(Op::publish).zygote_id, 2u);
  tellZygote(Kind::zygoteFailed, 2);
  settle();
  EXPECT_EQ(engine->templates()[0].state, "ready");
  EXPECT_NE(engine->templates()[0].state_text.find("still serves"), std::string::npos);
  submit(spec());
  takeClaim(clone);
}

TEST_F(Fixture, ZygoteThatDiesWhileItsSuccessorStartsIsFollowedByIt) {
  options.budget.parked_max = parked = 1;
  renewal.clones = 1;
  start();
  FakeBox clone = made(spawner::kRehearse);
  cloneReady(clone);
  EXPECT_EQ(expect(Op::publish).zygote_id, 2u);
  tellZygote(Kind::zygoteGone, 1);
  EXPECT_EQ(expect(Op::end).box, clone.id);
  EXPECT_EQ(engine->templates()[0].state, "starting");
  submit(spec());
  EXPECT_TRUE(nothingAsked());
  tellZygote(Kind::zygoteReady, 2);
  made();
  EXPECT_EQ(made_by.zygote_id, 2u);
}

// --- new snapshots ---

// Which snapshot a publish request brought, and which one was given.
ino_t numberOf(base::FdView fd) {
  struct stat st {};
  EXPECT_EQ(::fstat(fd.get(), &st), 0);
  return st.st_ino;
}

struct Refreshes : Fixture {
  std::vector<base::Status> outcomes;
  ino_t refresh(std::string_view name = "python") {
    base::Fd folder = *base::makeMemfd("new snapshot");
    const ino_t number = numberOf(folder.view());
    engine->refresh(name, {std::move(folder), 50ull << 20, 12},
                    [this](base::Status s) { outcomes.push_back(std::move(s)); });
    return number;
  }
  ino_t published(base::ZygoteId zygote) {
    EXPECT_EQ(expect(Op::publish).zygote_id, zygote);
    EXPECT_EQ(request_fds.size(), 3u);
    return request_fds.size() == 3 ? numberOf(request_fds[2].view()) : 0;
  }
};

TEST_F(Refreshes, ANewSnapshotServesOnceItsZygoteDoesAndTheOldOneDrains) {
  restores = true;
  options.budget.parked_max = parked = 1;
  start();
  FakeBox old = made(spawner::kRehearse);
  cloneReady(old);
  settle();
  const ino_t fresh = refresh();
  EXPECT_EQ(published(2), fresh);
  EXPECT_TRUE(outcomes.empty());
  submit(spec());  // meanwhile the old one serves
  takeClaim(old);
  sayStarted(old);
  until([&] { return listener->started == 1; });
  FakeBox next = made(spawner::kRehearse);
  EXPECT_EQ(made_by.zygote_id, 1u);
  cloneReady(next);
  tellZygote(Kind::zygoteReady, 2);
  until([&] { return outcomes.size() == 1; });
  EXPECT_TRUE(outcomes[0]);
  FakeBox of_new = made(spawner::kRehearse);
  EXPECT_EQ(made_by.zygote_id, 2u);
  sched::TaskSpec small = spec();
  small.limits.memory_bytes = 49ull << 20;  // below what the new snapshot's clones take
  EXPECT_FALSE(engine->submit(std::move(small), listener));
  cloneReady(of_new);
  EXPECT_EQ(expect(Op::end).box, next.id);
  exits(old.id, CLD_EXITED, 0);
  EXPECT_EQ(expect(Op::end).box, old.id);
  for (FakeBox* box : {&next, &old}) {
    reaped(*box);
    tell(goneEvent(box->id));
  }
  result();
  EXPECT_EQ(expect(Op::retire).zygote_id, 1u);
  tellZygote(Kind::zygoteGone, 1);
  // Whatever starts later starts from the new one.
  tellZygote(Kind::zygoteGone, 2);
  until([&] { return engine->templates()[0].state == "starting"; });
  EXPECT_EQ(expect(Op::end).box, of_new.id);
  EXPECT_EQ(published(3), fresh);
}

TEST_F(Refreshes, ASnapshotWhoseZygoteFailsIsForgotten) {
  restores = true;
  start();
  const ino_t fresh = refresh();
  EXPECT_EQ(published(2), fresh);
  tellZygote(Kind::zygoteFailed, 2);
  until([&] { return outcomes.size() == 1; });
  ASSERT_FALSE(outcomes[0]);
  EXPECT_NE(outcomes[0].error().message.find("no zygote serves from the new snapshot"),
            std::string::npos);
  EXPECT_EQ(engine->templates()[0].state, "ready");
  tellZygote(Kind::zygoteGone, 1);  // the one that serves restarts from what has served
  EXPECT_NE(published(3), fresh);
}

TEST_F(Refreshes, ATemplateThatIsUnhealthyWithTheOldSnapshotTriesTheNewOneAtOnce) {
  restores = true;
  start();
  for (base::ZygoteId z = 1; z < pool::kDeathsMax; ++z) {
    tellZygote(Kind::zygoteGone, z);
    published(z + 1);
  }
  tellZygote(Kind::zygoteFailed, pool::kDeathsMax);
  until([&] { return engine->templates()[0].state == "unhealthy"; });
  const ino_t fresh = refresh();
  EXPECT_EQ(published(pool::kDeathsMax + 1), fresh);
  tellZygote(Kind::zygoteReady, pool::kDeathsMax + 1);
  until([&] { return outcomes.size() == 1; });
  EXPECT_TRUE(outcomes[0]);
  EXPECT_EQ(engine->templates()[0].state, "ready");
}

TEST_F(Refreshes, AZygoteThatStartsMeanwhileIsReplacedToo) {
  restores = true;
  start(/*ready=*/false);
  const ino_t fresh = refresh();
  EXPECT_TRUE(nothingAsked());  // the first one still starts, from the old snapshot
  tellZygote(Kind::zygoteReady, 1);
  EXPECT_EQ(published(2), fresh);
  tellZygote(Kind::zygoteReady, 2);
  until([&] { return outcomes.size() == 1; });
  EXPECT_TRUE(outcomes[0]);
  EXPECT_EQ(expect(Op::retire).zygote_id, 1u);
}

TEST_F(Refreshes, ANewerSnapshotTakesThePlaceOfOneThatDoesNotServeYet) {
  restores = true;
  start();
  refresh();
  published(2);
  const ino_t newer = refresh();
  ASSERT_EQ(outcomes.size(), 1u);
  EXPECT_FALSE(outcomes[0]);
  tellZygote(Kind::zygoteReady, 2);
  EXPECT_EQ(expect(Op::retire).zygote_id, 1u);
  EXPECT_EQ(published(3), newer);
  tellZygote(Kind::zygoteReady, 3);
  until([&] { return outcomes.size() == 2; });
  EXPECT_TRUE(outcomes[1]);
}

TEST_F(Refreshes, ASnapshotThatServesAfterANewerOneHasComeStaysWhenThatFails) {
  restores = true;
  start();
  const ino_t earlier = refresh();
  EXPECT_EQ(published(2), earlier);
  const ino_t newer = refresh();
  tellZygote(Kind::zygoteReady, 2);
  EXPECT_EQ(expect(Op::retire).zygote_id, 1u);
  tellZygote(Kind::zygoteGone, 1);
  EXPECT_EQ(published(3), newer);
  tellZygote(Kind::zygoteFailed, 3);
  until([&] { return outcomes.size() == 2; });
  EXPECT_FALSE(outcomes[1]);
  sched::TaskSpec small = spec();
  small.limits.memory_bytes = 49ull << 20;  // below what the clones of the earlier one take
  EXPECT_FALSE(engine->submit(std::move(small), listener));
  tellZygote(Kind::zygoteGone, 2);
  EXPECT_EQ(published(4), earlier);
}

TEST_F(Refreshes, OnlyServedTemplatesThatRestoreTakeSnapshots) {
  start();
  refresh();
  refresh("nosuch");
  ASSERT_EQ(outcomes.size(), 2u);
  EXPECT_EQ(outcomes[0].error().code, base::Code::failedPrecondition);
  EXPECT_EQ(outcomes[1].error().code, base::Code::notFound);
  EXPECT_TRUE(nothingAsked());
}

TEST_F(Fixture, AnAccountSeesAndEndsItsOwnTasksOnlyAndRootSeesAll) {
  start();
  auto of = [&](uint32_t uid, std::string_view tenant = {}) {
    sched::TaskSpec s = spec();
    s.account = account(uid, tenant);
    return submit(std::move(s));
  };
  const base::TaskId plain = of(7), blue = of(7, "blue"), other = of(8);
  auto seen = [&](const sched::AccountRef& asks) {
    std::vector<base::TaskId> ids;
    for (const auto& task : engine->tasks(asks)) ids.push_back(task.task);
    return ids;
  };
  using Ids = std::vector<base::TaskId>;
  EXPECT_EQ(seen(account(7)), (Ids{plain, blue}));
  EXPECT_EQ(seen(account(7, "blue")), (Ids{blue}));
  EXPECT_EQ(seen(account(8)), (Ids{other}));
  EXPECT_EQ(seen(account(9)), Ids{});
  EXPECT_EQ(seen(account(0)), (Ids{plain, blue, other}));
  EXPECT_EQ(seen(sched::AccountRef()), Ids{});
  // A task of others looks like none at all.
  for (auto& [asks, task] : {std::pair{account(8), plain}, std::pair{account(7, "blue"), plain},
                             std::pair{account(7, "red"), blue}}) {
    auto refused = engine->cancel(task, asks, sched::Cancel::soft);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().message, "there is no task " + std::to_string(task));
  }
  EXPECT_TRUE(engine->cancel(blue, account(7), sched::Cancel::soft));
  EXPECT_TRUE(engine->cancel(other, account(0), sched::Cancel::soft));
  until([&] { return listener->results == 2; });
  EXPECT_EQ(seen(account(0)), Ids{plain});
}

TEST_F(Fixture, AnIdOfAnEarlierRunIsNobodysTaskAndSaysThatTheDaemonWasRestarted) {
  const uint64_t old =
      *sched::TaskIds(
           sched::IdKey{1, 2, 3}, [] { return base::Result<uint64_t>(6u); }, "", 10)
           .take();
  start();
  const base::TaskId mine = submit(spec());
  EXPECT_EQ(engine->cancel(old, account(0), sched::Cancel::soft).error().message,
            "there is no task " + std::to_string(old) +
                ": the id is of an earlier run of the daemon, which was restarted at noon");
  EXPECT_EQ(engine->restartedSince(old), "noon");
  for (base::TaskId id : {mine, mine ^ 1, base::TaskId{1}})
    EXPECT_EQ(engine->restartedSince(id), "") << id;
  EXPECT_EQ(engine->cancel(1, account(0), sched::Cancel::soft).error().message,
            "there is no task 1");
}

TEST_F(Fixture, WithoutANewIdNothingRuns) {
  start();
  id_blocks_fail = true;
  while (task_ids.take()) {
  }
  auto refused = engine->submit(spec(), listener);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "the disk is full");
  EXPECT_TRUE(nothingAsked());
  EXPECT_EQ(told.calls["taskRefused"], 1);
}

TEST_F(Fixture, ATaskOfNobodysIsRefused) {
  start();
  sched::TaskSpec s = spec();
  s.account = {};
  EXPECT_EQ(engine->submit(s, listener).error().code, base::Code::internal);
}

TEST_F(Fixture, ARefusalSaysWhoseBoundItWas) {
  using base::RefusedBy;
  options.budget.queue_tasks_per_owner_max = 3;
  options.accounts.of(sched::Resource::queuedTasks) = {
      .pool_max = 8, .user_max = 5, .tenant_max = 4};
  start(/*ready=*/false);  // everything waits in the queue
  sched::OwnerId connection = 1;
  const auto submitAs = [&](uint32_t uid, std::string_view tenant, uint32_t count) {
    base::Code code{};
    for (uint32_t i = 0; i < count; ++i) {
      sched::TaskSpec s = spec();
      s.account = account(uid, tenant);
      s.owner = connection;
      const auto id = engine->submit(std::move(s), std::make_shared<Listener>());
      EXPECT_EQ(i + 1 == count, !id) << i;
      if (!id) code = id.error().code;
    }
    EXPECT_EQ(code, base::Code::resourceExhausted);
    return told.refused_by;
  };
  EXPECT_EQ(submitAs(1, "a", 4), RefusedBy::connection);
  connection = 2;
  EXPECT_EQ(submitAs(1, "a", 2), RefusedBy::tenant);
  EXPECT_EQ(submitAs(1, "b", 2), RefusedBy::user);
  EXPECT_EQ(submitAs(2, "", 4), RefusedBy::host) << "8 tasks wait";
  sched::TaskSpec huge = spec();
  huge.limits.memory_bytes = uint64_t{1} << 50;
  EXPECT_FALSE(engine->submit(std::move(huge), listener));
  EXPECT_EQ(told.refused_by, RefusedBy::request) << "though the queue is full, too";
  sched::TaskSpec unknown = spec();
  unknown.template_name = "none";
  EXPECT_FALSE(engine->submit(std::move(unknown), listener));
  EXPECT_EQ(told.refused_by, RefusedBy::unknownTemplate);
  engine->stop([] {});
  EXPECT_FALSE(engine->submit(spec(), listener));
  EXPECT_EQ(told.refused_by, RefusedBy::stopping);
}

TEST_F(Fixture, TenantsShareNoZygote) {
  tenants_max = 2;
  start();
  std::vector<FakeBox> held;
  sched::TaskSpec s = spec();
  s.account = account(7, "a");
  submit(s);
  EXPECT_EQ(expect(Op::publish).zygote_id, 2u);  // the next spare zygote
  held.push_back(made());
  EXPECT_EQ(made_by.zygote_id, 1u);
  submit(s);
  held.push_back(made());
  EXPECT_EQ(made_by.zygote_id, 1u);
  s.account = account(7, "b");
  submit(s);
  EXPECT_EQ(expect(Op::publish).zygote_id, 3u);
  EXPECT_TRUE(nothingAsked());  // b's zygote is not ready yet
  tellZygote(Kind::zygoteReady, 2);
  held.push_back(made());
  EXPECT_EQ(made_by.zygote_id, 2u);
  s.account = account(8, "b");  // the same name, but another user
  auto refused = engine->submit(s, listener);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::Code::resourceExhausted);
  EXPECT_EQ(told.refused_by, base::RefusedBy::notServing);
}

TEST_F(Fixture, OutputBeyondTheCapEndsTheTaskAndIsCutAtTheCap) {
  start();
  sched::TaskSpec s = spec();
  s.limits.output_bytes = 1000;
  submit(std::move(s));
  FakeBox b = running();
  std::string text(1001, 'x');
  ASSERT_EQ(::write(b.out.get(), text.data(), text.size()), 1001);
  expect(Op::end);
  reaped(b);
  tell(goneEvent(b.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::output);
  EXPECT_EQ(listener->result.cap_value, 1000u);
  EXPECT_EQ(listener->result.captured[0].size(), 1000u);
  EXPECT_EQ(listener->result.usage.stdout_bytes, 1000u);
}

TEST_F(Fixture, OutputOfExactlyTheCapIsNoOffence) {
  start();
  sched::TaskSpec s = spec();
  s.limits.output_bytes = 1000;
  submit(std::move(s));
  FakeBox b = running();
  std::string text(1000, 'x');
  ASSERT_EQ(::write(b.out.get(), text.data(), text.size()), 1000);
  exits(b.id, CLD_EXITED, 0);
  expect(Op::end);
  reaped(b);
  tell(goneEvent(b.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::succeeded);
}

TEST_F(Fixture, SlowListenerHoldsTheTaskBackInsteadOfFillingTheDaemon) {
  start();
  sched::TaskSpec s = spec();
  s.live_output = true;
  base::TaskId id = submit(std::move(s));
  FakeBox b = running();
  std::string chunk(64 << 10, 'y');
  size_t written = 0;
  auto fill = [&] {
    for (;;) {
      ssize_t n = ::write(b.out.get(), chunk.data(), chunk.size());
      if (n > 0) {
        written += size_t(n);
        settle();
        continue;
      }
      settle();
      n = ::write(b.out.get(), chunk.data(), chunk.size());
      if (n <= 0) return;
      written += size_t(n);
    }
  };
  fill();
  EXPECT_EQ(listener->out[0].size(), sched::kOutputWindowBytes);
  EXPECT_GT(written, sched::kOutputWindowBytes);
  engine->acknowledgeOutput(id, Stream::out, 1000);
  until([&] { return listener->out[0].size() == sched::kOutputWindowBytes + 1000; });
  // The task is dead: the rest of the pipe follows at once, all of it.
  exits(b.id, CLD_EXITED, 0);
  expect(Op::end);
  reaped(b);
  tell(goneEvent(b.id));
  result();
  EXPECT_EQ(listener->out[0].size(), written);
  EXPECT_EQ(listener->result.usage.stdout_bytes, written);
}

TEST_F(Fixture, PipeHeldOpenByADescendantDoesNotDelayTheEnd) {
  start();
  submit(spec());
  FakeBox b = running();
  exits(b.id, CLD_EXITED, 0);
  expect(Op::end);  // although stdout is still open
  ASSERT_EQ(::write(b.out.get(), "late", 4), 4);
  reaped(b);
  tell(goneEvent(b.id));
  result();
  EXPECT_EQ(listener->result.captured[0], "late");
}

TEST_F(Fixture, StdinFlowsInOrderAndEndsWithEof) {
  start();
  sched::TaskSpec s = spec();
  s.stdin_open = true;
  s.stdin_data = "first ";
  base::TaskId id = submit(std::move(s));
  ASSERT_TRUE(engine->writeStdin(id, "second "));  // while queued
  FakeBox b = running();
  ASSERT_TRUE(engine->writeStdin(id, "third"));
  ASSERT_TRUE(engine->closeStdin(id));
  EXPECT_FALSE(engine->writeStdin(id, "late"));
  std::string got;
  until([&] {
    char buffer[100];
    ssize_t n = ::read(b.in.get(), buffer, sizeof buffer);
    if (n > 0) got.append(buffer, size_t(n));
    return n == 0;
  });
  EXPECT_EQ(got, "first second third");
  EXPECT_EQ(listener->stdin_bytes, got.size());
}

TEST_F(Fixture, StdinOfATaskThatReadsNoMoreIsDroppedNotFatal) {
  start();
  sched::TaskSpec s = spec();
  s.stdin_open = true;
  base::TaskId id = submit(std::move(s));
  FakeBox b = running();
  b.in.reset();
  ASSERT_TRUE(engine->writeStdin(id, std::string(1 << 20, 'x')));
  until([&] { return listener->stdin_bytes == 1 << 20; });
}

TEST_F(Fixture, StdinBeyondTheInputCapIsRefused) {
  start();
  sched::TaskSpec s = spec();
  s.stdin_open = true;
  s.limits.input_bytes = 100;
  base::TaskId id = submit(std::move(s));
  EXPECT_EQ(engine->writeStdin(id, std::string(100, 'x')).error().code,
            base::Code::invalidArgument);
  EXPECT_TRUE(engine->writeStdin(id, std::string(92, 'x')));  // "print(1)" counts too
}

TEST_F(Fixture, WallTimeEndsATaskThatSaysNothing) {
  start();
  sched::TaskSpec s = spec();
  s.limits.wall_time_ms = 20;
  submit(std::move(s));
  FakeBox b = running();
  expect(Op::end);
  reaped(b);
  tell(goneEvent(b.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::wallTime);
  EXPECT_GE(listener->result.usage.wall_ns, 20'000'000u);
}

TEST_F(Fixture, CpuTimeIsSampledAndEndsTheTask) {
  start();
  sched::TaskSpec s = spec();
  s.limits.cpu_time_ms = 30;
  submit(std::move(s));
  FakeBox b = running();
  Request r = expect(Op::sample);
  EXPECT_EQ(r.box, b.id);
  Event e;
  e.kind = Kind::sampled;
  e.box = b.id;
  e.counters.user_cpu_ns = 30'000'000;
  tell(e);
  expect(Op::end);
  reaped(b, e);
  tell(goneEvent(b.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::cpuTime);
}

TEST_F(Fixture, CapHitEventIsTheCauseThoughTheTaskExitsToo) {
  start();
  submit(spec());
  FakeBox b = running();
  Event e;
  e.kind = Kind::capHit;
  e.box = b.id;
  e.cap = spawner::Cap::processes;
  tell(e);
  exits(b.id, CLD_EXITED, 0);
  expect(Op::end);
  reaped(b);
  tell(goneEvent(b.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::processes);
  EXPECT_TRUE(nothingAsked());  // one end, whatever the number of causes
}

TEST_F(Fixture, ACancelledTaskWithAGraceIsAskedAndItsLastOutputAndExitAreKept) {
  start();
  sched::TaskSpec s = spec();
  s.limits.grace_ms = 60'000;
  s.live_output = true;
  const base::TaskId id = submit(std::move(s));
  FakeBox b = running();
  ASSERT_TRUE(engine->cancel(id, account(1000), sched::Cancel::soft));
  EXPECT_EQ(expect(Op::terminate).box, b.id);
  EXPECT_EQ(engine->info(id)->state, "ending");
  EXPECT_TRUE(nothingAsked());
  ASSERT_EQ(::write(b.out.get(), "saved", 5), 5);
  until([&] { return listener->out[0] == "saved"; });
  exits(b.id, CLD_EXITED, 3, true);
  expect(Op::end);
  reaped(b);
  tell(goneEvent(b.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::cancelled);
  EXPECT_TRUE(listener->result.in_grace);
  EXPECT_EQ(listener->result.exit_code, 3);
}

TEST_F(Fixture, WallTimeAsksFirstAndTheGracesEndKills) {
  start();
  sched::TaskSpec s = spec();
  s.limits.wall_time_ms = 20;
  s.limits.grace_ms = 30;
  submit(std::move(s));
  FakeBox b = running();
  EXPECT_EQ(expect(Op::terminate).box, b.id);
  EXPECT_EQ(expect(Op::end).box, b.id);
  reaped(b);
  tell(goneEvent(b.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::wallTime);
  EXPECT_FALSE(listener->result.in_grace);
  EXPECT_GE(listener->result.usage.wall_ns, 50'000'000u);
}

TEST_F(Fixture, WhoIsClosedOrLosesItsClientHasNoGrace) {
  start();
  for (bool closed : {true, false}) {
    listener = std::make_shared<Listener>();
    sched::TaskSpec s = spec();
    s.limits.grace_ms = 60'000;
    const base::TaskId id = submit(std::move(s));
    FakeBox b = running();
    if (closed) {
      ASSERT_TRUE(engine->cancel(id, account(1000), sched::Cancel::atOnce));
    } else {
      engine->ownerGone(1);
    }
    EXPECT_EQ(expect(Op::end).box, b.id);
    reaped(b);
    tell(goneEvent(b.id));
    result();
    EXPECT_EQ(listener->result.verdict, closed ? Verdict::cancelled : Verdict::clientGone);
  }
}

TEST_F(Fixture, AGraceBeyondTheTemplatesMaximumIsRefused) {
  start();
  sched::TaskSpec s = spec();
  s.limits.grace_ms = 60'001;
  auto refused = engine->submit(std::move(s), listener);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::Code::invalidArgument);
  EXPECT_NE(refused.error().message.find("'grace' of 60001ms"), std::string::npos)
      << refused.error().message;
  sched::TaskSpec none = spec();
  none.limits.grace_ms = 0;
  EXPECT_TRUE(engine->submit(std::move(none), listener));
}

TEST_F(Fixture, CancelWhileTheBoxIsMadeDropsItsDescriptors) {
  start();
  size_t fds = openFds();
  base::TaskId id = submit(spec());
  until([&] { return engine->ledger().alive() == 1; });
  ASSERT_TRUE(engine->cancel(id, account(1000), sched::Cancel::soft));
  FakeBox b = made();
  cloneReady(b);
  expect(Op::end);
  reaped(b);
  tell(goneEvent(b.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::cancelled);
  EXPECT_EQ(openFds(), fds);
}

TEST_F(Fixture, AShortTaskPassesALargeOneThatWaitsForRoom) {
  options.budget.memory_bytes_max = 100ull << 20;
  start();
  auto taking = [&](uint64_t mib, uint64_t wall_time_ms, uint64_t grace_ms = 0) {
    sched::TaskSpec s = spec();
    s.limits.grace_ms = grace_ms;
    s.limits.memory_bytes = mib << 20;
    s.limits.wall_time_ms = wall_time_ms;
    return submit(std::move(s));
  };
  taking(60, 15'000);
  const FakeBox first = made();
  taking(90, 30'000);
  const base::TaskId slow = taking(20, 30'000), graceful = taking(20, 10'000, 20'000),
                     quick = taking(20, 10'000);
  const FakeBox second = made();
  EXPECT_EQ(made_by.limits.memory_bytes, 20u << 20);
  settle();
  std::map<base::TaskId, std::string> states;
  for (const sched::TaskInfo& t : engine->tasks(account(0))) states[t.task] = t.state;
  EXPECT_EQ(states[quick], "making");
  EXPECT_EQ(states[slow], "queued");
  EXPECT_EQ(states[graceful], "queued") << "it may run for its grace, too";
}

TEST_F(Fixture, ATaskThatGetsNoBoxInTimeEndsAsNeverRun) {
  options.budget.boxes_max = 1;
  start();
  submit(spec());
  const FakeBox first = made();
  listener = std::make_shared<Listener>();
  sched::TaskSpec late = spec();
  late.limits.queue_time_ms = 20;
  submit(std::move(late));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::queueTime) << listener->result.reason;
  EXPECT_EQ(listener->result.cap_value, 20u);
  EXPECT_TRUE(listener->result.receipt.complete);
  EXPECT_EQ(engine->tasks(account(0)).size(), 1u);
}

TEST_F(Fixture, OwnerThatGoesTakesItsTasksAndNoOthers) {
  options.budget.boxes_max = 1;
  start();
  sched::TaskSpec mine = spec(), other = spec();
  other.owner = 2;
  base::TaskId a = submit(mine);
  auto theirs = std::make_shared<Listener>();
  auto b = engine->submit(other, theirs);
  ASSERT_TRUE(b);
  FakeBox box = running();
  engine->ownerGone(1);
  expect(Op::end);
  reaped(box);
  tell(goneEvent(box.id));
  result();
  EXPECT_EQ(listener->result.task, a);
  EXPECT_EQ(listener->result.verdict, Verdict::clientGone);
  EXPECT_EQ(theirs->results, 0);
  expect(Op::make);  // the other task gets the slot
}

TEST_F(Fixture, BoxFailedIsInternalWithItsStep) {
  start();
  submit(spec());
  Request r = expect(Op::make);
  Event e;
  e.kind = Kind::boxFailed;
  e.box = r.box;
  e.sys = ENOSPC;
  strcpy(e.step, "cgroup");
  tell(e);
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::internal);
  EXPECT_NE(listener->result.reason.find("'cgroup': No space left"), std::string::npos)
      << listener->result.reason;
  EXPECT_TRUE(listener->result.receipt.complete);
  EXPECT_EQ(engine->ledger().alive(), 0u);
}

TEST_F(Fixture, IncompleteReceiptKeepsTheSlotUntilALaterOneCompletesIt) {
  options.budget.boxes_max = 1;
  start();
  submit(spec());
  FakeBox b = running();
  exits(b.id, CLD_EXITED, 0);
  expect(Op::end);
  reaped(b);
  Event e = goneEvent(b.id);
  e.complete = 0;
  e.cgroups_gone_ns = 0;
  tell(e);
  result();
  EXPECT_FALSE(listener->result.receipt.complete);
  EXPECT_EQ(told.incomplete, 1);
  listener = std::make_shared<Listener>();
  submit(spec());
  EXPECT_TRUE(nothingAsked());
  tell(goneEvent(b.id));
  expect(Op::make);
  EXPECT_EQ(told.calls["receiptCompleted"], 1);
}

// The other template, and with it the host, goes on.
TEST_F(Fixture, ATemplateWithTooManyBoxesInQuarantineIsRefusedAndNoOther) {
  options.accounts.of(sched::Resource::quarantinedBoxes) = {
      .pool_max = 4, .user_max = 2, .tenant_max = 2};
  options.bounds.receipt_ns = 20'000'000;
  second_template = "other";
  start();
  std::vector<base::BoxId> stuck;
  for (uint32_t uid : {1, 2, 3}) {
    listener = std::make_shared<Listener>();
    sched::TaskSpec s = spec();
    s.account = account(uid);
    submit(s);
    FakeBox b = running();
    exits(b.id, CLD_EXITED, 0);
    expect(Op::end);
    result();
    stuck.push_back(b.id);
  }
  sched::TaskSpec refused = spec();
  refused.account = account(4);
  auto id = engine->submit(refused, listener);
  ASSERT_FALSE(id);
  EXPECT_EQ(id.error().code, base::Code::unavailable);
  EXPECT_NE(id.error().message.find("'python'"), std::string::npos) << id.error().message;
  EXPECT_EQ(told.refused_by, base::RefusedBy::quarantine);
  EXPECT_EQ(engine->templates()[0].state, "unhealthy");
  EXPECT_EQ(engine->templates()[1].state, "ready");
  refused.template_name = "other";
  listener = std::make_shared<Listener>();
  submit(refused);
  FakeBox b = made();
  EXPECT_EQ(made_by.zygote_id, 2u);
  tell(goneEvent(stuck[0]));
  until([&] { return engine->ledger().quarantined() == 2; });
  EXPECT_EQ(engine->templates()[0].state, "ready");
  refused.template_name = "python";
  EXPECT_TRUE(engine->submit(refused, listener));
}

TEST_F(Fixture, AParkedCloneThatIsNeverReadyFreesItsPlace) {
  options.clone_ready_ns_max = 300'000'000;
  options.budget.parked_max = parked = 1;
  start();
  FakeBox hung = made(spawner::kRehearse);
  Request end = expect(Op::end);
  EXPECT_EQ(end.box, hung.id);
  reaped(hung);
  tell(goneEvent(hung.id));
  FakeBox next = made(spawner::kRehearse);
  cloneReady(next);
  settle();
  submit(spec());
  takeClaim(next);
  sayStarted(next);
  until([&] { return listener->started == 1; });
  EXPECT_EQ(told.calls["boxLost"], 1);
}

TEST_F(Fixture, ATaskWhoseCloneIsNeverReadyGetsAnother) {
  options.clone_ready_ns_max = 300'000'000;
  start();
  submit(spec());
  FakeBox hung = made();
  Request end = expect(Op::end);
  EXPECT_EQ(end.box, hung.id);
  FakeBox b = running();
  exits(b.id, CLD_EXITED, 0);
  expect(Op::end);
  reaped(b);
  tell(goneEvent(b.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::succeeded);
}

TEST_F(Fixture, MissingReceiptGivesTheResultWithinItsBound) {
  options.bounds.receipt_ns = 20'000'000;
  start();
  submit(spec());
  FakeBox b = running();
  exits(b.id, CLD_EXITED, 0);
  expect(Op::end);
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::succeeded);
  EXPECT_FALSE(listener->result.receipt.complete);
  EXPECT_EQ(engine->ledger().quarantined(), 1u);
  tell(goneEvent(b.id));
  until([&] { return engine->ledger().alive() == 0; });
}

TEST_F(Fixture, OutputFilesAreReadFromTheSpool) {
  start();
  sched::TaskSpec s = spec();
  s.collect_out_files = true;
  submit(std::move(s));
  FakeBox b = running();
  exits(b.id, CLD_EXITED, 0);
  Request end = expect(Op::end);
  EXPECT_NE(end.flags & spawner::kCollect, 0u);
  ASSERT_EQ(request_fds.size(), 1u);
  spawner::SpoolHeader h;
  h.count = 1;
  h.index_offset = sizeof h + 3;
  spawner::SpoolEntry entry;
  entry.offset = sizeof h;
  entry.size = 3;
  entry.path_bytes = 1;
  h.index_bytes = sizeof entry + 1;
  std::string spool(reinterpret_cast<char*>(&h), sizeof h);
  spool += "abc";
  spool.append(reinterpret_cast<char*>(&entry), sizeof entry);
  spool += "f";
  ASSERT_EQ(::pwrite(request_fds[0].get(), spool.data(), spool.size(), 0), ssize_t(spool.size()));
  reaped(b);
  Event e = goneEvent(b.id);
  e.collect = spawner::CollectState::done;
  tell(e);
  result();
  ASSERT_EQ(listener->result.out_files.size(), 1u) << listener->result.out_files_note;
  char text[3];
  ASSERT_EQ(
      ::pread(listener->result.spool->get(), text, 3, off_t(listener->result.out_files[0].offset)),
      3);
  EXPECT_EQ(std::string(text, 3), "abc");
}

TEST_F(Fixture, OutputFilesThatWereLostAreToldApartFromATasksOwnNotes) {
  using spawner::CollectState;
  start();
  struct Case {
    CollectState state;
    const char* spool;
    bool lost;
  };
  for (const Case& each : {Case{CollectState::failed, "", true},
                           {CollectState::timedOut, "", true},
                           {CollectState::none, "", true},
                           {CollectState::done, "no spool", true},
                           {CollectState::done, "", false}}) {
    listener = std::make_shared<Listener>();
    sched::TaskSpec s = spec();
    s.collect_out_files = true;
    submit(std::move(s));
    FakeBox b = running();
    exits(b.id, CLD_EXITED, 0);
    expect(Op::end);
    ASSERT_EQ(request_fds.size(), 1u);
    ASSERT_EQ(::pwrite(request_fds[0].get(), each.spool, strlen(each.spool), 0),
              ssize_t(strlen(each.spool)));
    reaped(b);
    Event e = goneEvent(b.id);
    e.collect = each.state;
    tell(e);
    result();
    EXPECT_EQ(listener->result.verdict, Verdict::succeeded) << "the task's own";
    EXPECT_EQ(listener->result.out_files_lost, each.lost) << static_cast<int>(each.state);
    EXPECT_EQ(listener->result.out_files_note.empty(), !each.lost);
  }
}

TEST_F(Fixture, OutputFilesThatAreKeptAreBounded) {
  options.accounts.setPool(sched::Resource::outFileBytes, 64u << 10);
  start();
  sched::TaskSpec s = spec();
  s.collect_out_files = true;
  submit(s);
  FakeBox b = running();
  exits(b.id, CLD_EXITED, 0);
  expect(Op::end);
  spawner::SpoolHeader h;
  h.count = 1;
  h.index_offset = sizeof h + (60u << 10);
  spawner::SpoolEntry entry;
  entry.offset = sizeof h;
  entry.size = 60u << 10;
  entry.path_bytes = 1;
  h.index_bytes = sizeof entry + 1;
  std::string spool(reinterpret_cast<char*>(&h), sizeof h);
  spool.append(60u << 10, 'x').append(reinterpret_cast<char*>(&entry), sizeof entry).append("f");
  ASSERT_EQ(::pwrite(request_fds[0].get(), spool.data(), spool.size(), 0), ssize_t(spool.size()));
  reaped(b);
  Event e = goneEvent(b.id);
  e.collect = spawner::CollectState::done;
  tell(e);
  result();
  ASSERT_NE(listener->result.spool, nullptr);
  // While the result is held, no further task may collect files; other tasks may run.
  auto refused = engine->submit(s, listener);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::Code::resourceExhausted);
  EXPECT_TRUE(refused.error().retryable());
  EXPECT_GT(refused.error().retry_after_ms, 0u);
  EXPECT_TRUE(told.refused_by == base::RefusedBy::user || told.refused_by == base::RefusedBy::host);
  EXPECT_TRUE(engine->submit(spec(), std::make_shared<Listener>()));
  listener->result = {};
  EXPECT_TRUE(engine->submit(s, std::make_shared<Listener>()));
}

TEST_F(Fixture, LostSpawnerEndsEveryTaskAndIsFatal) {
  start();
  submit(spec());
  FakeBox b = running();
  spawner.reset();
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::internal);
  EXPECT_FALSE(listener->result.receipt.complete);
  EXPECT_EQ(owner.fatal, "the spawner ended");
}

TEST_F(Fixture, StopAfterTheSpawnerWasLostWaitsForNothing) {
  options.stop_tasks_ns_max = 3'600'000'000'000;
  start();
  submit(spec());
  FakeBox b = running();
  spawner.reset();
  result();
  bool done = false;
  engine->stop([&] { done = true; });
  until([&] { return done; });
}

TEST_F(Fixture, MessageOfAnotherVersionIsFatal) {
  start();
  Event e;
  e.version = 99;
  tell(e);
  until([&] { return !owner.fatal.empty(); });
}

TEST_F(Fixture, FourDeadZygotesFailTheQueueOfThatTemplate) {
  start(false);
  submit(spec());
  for (uint32_t i = 0; i < 4; ++i) {
    if (i > 0) {
      EXPECT_EQ(expect(Op::publish).zygote_id, i + 1);
    }
    Event e;
    e.kind = Kind::zygoteFailed;
    e.zygote_id = i + 1;
    strcpy(e.step, "zygote");
    strcpy(e.text, "exited with 1");
    tell(e);
  }
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::internal);
  EXPECT_NE(listener->result.reason.find("unhealthy"), std::string::npos);
  auto refused = engine->submit(spec(), listener);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::Code::unavailable);
  EXPECT_EQ(engine->templates()[0].state, "unhealthy");
}

TEST_F(Fixture, StopEndsTasksThenTemplatesThenItself) {
  options.budget.boxes_max = 1;
  start();
  submit(spec());
  FakeBox b = running();
  auto queued = std::make_shared<Listener>();
  ASSERT_TRUE(engine->submit(spec(), queued));
  bool done = false;
  engine->stop([&] { done = true; });
  EXPECT_EQ(queued->result.verdict, Verdict::daemonStopping);
  EXPECT_EQ(engine->submit(spec(), queued).error().code, base::Code::unavailable);
  expect(Op::end);
  EXPECT_FALSE(done);
  reaped(b);
  tell(goneEvent(b.id));
  result();
  EXPECT_EQ(listener->result.verdict, Verdict::daemonStopping);
  EXPECT_TRUE(listener->result.receipt.complete);
  expect(Op::retire);
  EXPECT_FALSE(done);
  tellZygote(Kind::zygoteGone, 1);
  until([&] { return done; });
}

TEST_F(Fixture, ZygotesWordsReachTheLogPrintable) {
  start(false);
  ASSERT_EQ(::write(request_fds[1].get(), "bad \x1b[31m\nhalf", 14), 14);
  until([&] { return !told.lines.empty(); });
  EXPECT_EQ(told.lines, "bad \\x1b[31m");
}

}  // namespace
}  // namespace mayfly::core
