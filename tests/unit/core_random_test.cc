// Pool, admission, the tasks' state machines and the ledger, driven by the engine against a spawner
// that answers, fails, dies and repeats itself in random order.
#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "core_fixture.h"

namespace mayfly::core {
namespace {

constexpr int kSeeds = 40, kSteps = 600, kSlots = 4;

struct RandomSpawner : Fixture {
  enum class At : uint8_t { asked, made, ready, claimed, running, ending, reaped, gone };
  struct Seen {
    FakeBox fake;
    At at = At::asked;
    bool stock = false, claimed = false, gone_told = false, end_asked = false;
    base::ZygoteId zygote = 0;
  };
  std::mt19937 random;
  std::map<base::BoxId, Seen> seen;
  std::set<base::ZygoteId> starting, serving;
  std::map<base::TaskId, std::shared_ptr<Listener>> listeners;

  uint32_t below(uint32_t n) { return static_cast<uint32_t>(random() % n); }

  // The engine's requests since the last look: more than the channel holds at once.
  void readRequests() {
    while (readSome() && !HasFatalFailure()) {
    }
  }
  bool readSome() {
    settle();
    Request r;
    for (bool some = false;; some = true) {
      auto m = base::receiveMessage(spawner.view(), base::writableBytesOf(r));
      if (!m || m->bytes == 0) return some;  // no more requests, or the engine's end is closed
      take(r);
      if (HasFatalFailure()) return false;
    }
  }
  void take(const Request& r) {
    switch (r.op) {
      case Op::publish:
        ASSERT_TRUE(starting.insert(r.zygote_id).second) << "a zygote's number was used twice";
        break;
      case Op::retire:
        if (starting.erase(r.zygote_id) + serving.erase(r.zygote_id) > 0)
          tellZygote(Kind::zygoteGone, r.zygote_id);
        break;
      case Op::make:
      case Op::clone: {
        Seen& box = seen[r.box];
        ASSERT_EQ(box.claimed, false);
        ASSERT_TRUE(r.op == Op::make ? box.zygote == 0 : box.stock)
            << "box " << r.box << " was asked for twice";
        box.zygote = r.zygote_id;
        box.stock = (r.flags & spawner::kStock) != 0;
        box.at = At::asked;
        break;
      }
      case Op::claim: {
        Seen& box = seen.at(r.box);
        ASSERT_FALSE(std::exchange(box.claimed, true)) << "box " << r.box << " was claimed twice";
        if (box.at == At::ready) box.at = At::claimed;
        break;
      }
      case Op::end:
        seen.at(r.box).end_asked = true;
        break;
      case Op::sample:
      case Op::ping:
      case Op::terminate:
        break;
    }
  }

  void makeBox(base::BoxId id, Seen& box) {
    auto control = base::makeSeqpacketPair();
    auto in = base::makePipe(), out = base::makePipe(), err = base::makePipe();
    Event e;
    e.kind = Kind::boxMade;
    e.box = id;
    e.box_ready_ns = base::monotonicNs();
    tell(e, {control->ours.get(), in->write.get(), out->read.get(), err->read.get()});
    box.fake.id = id;
    box.fake.control = std::move(control->theirs);
    box.fake.in = std::move(in->read);
    box.fake.out = std::move(out->write);
    box.fake.err = std::move(err->write);
    ASSERT_TRUE(base::setNonblocking(box.fake.control.view()));
    box.at = At::made;
  }

  void fail(base::BoxId id, Seen& box) {
    Event e;
    e.kind = Kind::boxFailed;
    e.box = id;
    e.again = below(2);
    tell(e);
    box.fake = {};
    box.at = At::gone;
  }

  void endOf(base::BoxId id, Seen& box) {
    if (box.at == At::asked) {  // requested, then given up: as if it never existed
      return fail(id, box);
    }
    if (box.at < At::reaped) {
      reaped(box.fake);
      box.at = At::reaped;
      return;
    }
    Event e = goneEvent(id);
    e.complete = below(12) != 0;
    if (e.complete == 0 && !box.gone_told)
      e.cgroups_gone_ns = 0;
    else
      e.complete = 1;
    box.gone_told = true;
    tell(e);
    if (e.complete == 1) box.at = At::gone;
  }

  // One event that may happen to one box.
  void step(base::BoxId id, Seen& box) {
    if (box.at == At::gone) return;
    if (box.end_asked) return endOf(id, box);
    switch (box.at) {
      case At::asked:
        if (box.stock) {
          if (below(8) == 0) return fail(id, box);
          tell(Kind::boxStocked, id);
          return;  // repeated at random: counts once
        }
        return below(6) == 0 ? fail(id, box) : makeBox(id, box);
      case At::made:
        if (below(8) == 0) {
          box.fake.control.reset();  // the clone died
          return;
        }
        return ready(id, box);
      case At::ready:  // parked, or on its way to a task
        if (below(10) == 0)
          below(2) == 0 ? tell(Kind::boxDied, id) : exits(id, CLD_KILLED, SIGKILL);
        return;
      case At::claimed:
        if (below(6) == 0) return box.fake.control.reset();
        return startTask(box);
      case At::running:
        if (below(8) == 0) return tell(Kind::boxDied, id);
        if (box.fake.out) (void)!::write(box.fake.out.get(), "x", 1);
        return exits(id, CLD_EXITED, static_cast<int>(below(2)));
      default:
        return endOf(id, box);
    }
  }

  // A box that the engine ends meanwhile hears no more from its clone.
  void ready(base::BoxId id, Seen& box) {
    zygote::CloneReady r;
    r.at_ns = base::monotonicNs();
    if (base::sendMessage(box.fake.control.view(), base::bytesOf(r), {})) {
      box.at = At::ready;
    } else {
      readRequests();
      ASSERT_TRUE(box.end_asked) << "box " << id << " is not read from";
    }
  }

  // A close with an unread claim in the channel would lose the message.
  void startTask(Seen& box) {
    zygote::Claim claim;
    if (!base::receiveMessage(box.fake.control.view(), base::writableBytesOf(claim))) return;
    sayStarted(box.fake);
    box.at = At::running;
  }

  void submitOne() {
    sched::TaskSpec s = spec();
    s.owner = 1 + below(3);
    if (below(4) == 0) s.limits.memory_bytes = 64 << 20;
    auto l = std::make_shared<Listener>();
    auto id = engine->submit(std::move(s), l);
    if (id)
      listeners[*id] = l;
    else
      EXPECT_TRUE(id.error().retry_after_ms > 0) << id.error().message;
  }

  void stepZygotes() {
    if (!starting.empty()) {
      base::ZygoteId id = *starting.begin();
      starting.erase(id);
      if (below(6) == 0) return tellZygote(Kind::zygoteFailed, id);
      serving.insert(id);
      return tellZygote(Kind::zygoteReady, id);
    }
    if (!serving.empty() && below(60) == 0) {
      base::ZygoteId id = *serving.begin();
      serving.erase(id);
      tellZygote(Kind::zygoteGone, id);
    }
  }

  void check() {
    std::set<base::BoxId> served;
    for (const auto& [id, l] : listeners) {
      ASSERT_LE(l->results, 1) << "task " << id << " has two results";
      ASSERT_LE(l->started, 1);
      if (l->results == 0) continue;
      base::BoxId box = l->result.receipt.box;
      if (box == 0) continue;
      ASSERT_TRUE(served.insert(box).second) << "box " << box << " served two tasks";
      ASSERT_TRUE(seen.at(box).gone_told || seen.at(box).at == At::gone)
          << "a result came before its receipt";
    }
    auto holds = [](const auto& each) { return each.second.claimed && each.second.at != At::gone; };
    ASSERT_LE(std::count_if(seen.begin(), seen.end(), holds), kSlots)
        << "a slot was given before its box was gone";
  }

  // As many tasks run at once as there are slots.
  void allSlotsAreFree(std::chrono::steady_clock::time_point give_up) {
    auto unfinished = [](const auto& each) { return each.second->results == 0; };
    auto running = [](const auto& each) {
      return each.second.at == At::running && !each.second.end_asked;
    };
    while (std::count_if(seen.begin(), seen.end(), running) < kSlots) {
      ASSERT_LT(std::chrono::steady_clock::now(), give_up) << "a slot leaked";
      io.restart();
      io.run_one_for(std::chrono::milliseconds(1));
      if (std::count_if(listeners.begin(), listeners.end(), unfinished) < kSlots) submitOne();
      readRequests();
      for (base::ZygoteId id : std::exchange(starting, {}))
        serving.insert(id), tellZygote(Kind::zygoteReady, id);
      for (auto& [id, box] : seen) {
        if (box.at == At::gone) continue;
        settle();  // the channel holds few messages
        if (box.end_asked)
          endOf(id, box);
        else if (box.at == At::asked && !box.stock)
          makeBox(id, box);
        else if (box.at == At::made)
          ready(id, box);
        else if (box.at == At::claimed)
          startTask(box);
      }
      check();
      if (HasFatalFailure()) return;
    }
  }

  void anyBox() {
    if (seen.empty()) return;
    auto at = seen.lower_bound(1 + below(static_cast<uint32_t>(seen.rbegin()->first)));
    if (at != seen.end()) step(at->first, at->second);
  }
};

TEST_F(RandomSpawner, EachTaskHasOneResultAndNothingLeaks) {
  for (uint32_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    random.seed(seed);
    seen.clear(), starting.clear(), serving.clear(), listeners.clear();
    owner = {};
    options.budget.boxes_max = kSlots;
    options.budget.parked_max = parked = 3;
    options.budget.stocked_max = 1;
    options.accounts.of(sched::Resource::quarantinedBoxes) = {};
    renewal.clones = seed % 2 == 0 ? 15 : 0;
    start();
    serving.insert(1);
    for (int i = 0; i < kSteps; ++i) {
      readRequests();
      switch (below(10)) {
        case 0:
        case 1:
          if (listeners.size() < 80) submitOne();
          break;
        case 2:
          if (!listeners.empty() && below(4) == 0)
            (void)engine->cancel(
                std::next(listeners.begin(), below(static_cast<uint32_t>(listeners.size())))->first,
                account(0), below(2) == 0 ? sched::Cancel::soft : sched::Cancel::atOnce);
          break;
        case 3:
          stepZygotes();
          break;
        case 4:
          if (below(40) == 0) engine->ownerGone(1 + below(3));
          break;
        default:
          anyBox();
      }
      check();
      if (HasFatalFailure()) return;
    }
    // From here on the spawner behaves: every task ends, every box goes.
    auto give_up = std::chrono::steady_clock::now() + kPatience;
    auto waits = [&] {
      for (const auto& [id, l] : listeners)
        if (l->results == 0) return true;
      return engine->ledger().quarantined() > 0;
    };
    while (waits()) {
      ASSERT_LT(std::chrono::steady_clock::now(), give_up) << "a task was lost";
      io.restart();
      io.run_one_for(std::chrono::milliseconds(1));  // a zygote's pause, a timer of the engine's
      readRequests();
      for (base::ZygoteId id : std::set<base::ZygoteId>(starting)) {
        starting.erase(id), serving.insert(id);
        tellZygote(Kind::zygoteReady, id);
      }
      for (auto& [id, box] : seen) step(id, box);
      check();
      if (HasFatalFailure()) return;
    }
    allSlotsAreFree(give_up);
    if (HasFatalFailure()) return;
    bool done = false;
    engine->stop([&] { done = true; });
    while (!done) {
      ASSERT_LT(std::chrono::steady_clock::now(), give_up) << "the engine did not stop";
      readRequests();
      for (auto& [id, box] : seen)
        if (box.end_asked && box.at != At::gone) endOf(id, box);
    }
    EXPECT_EQ(engine->ledger().alive(), 0u) << "a slot leaked";
    auto ran = [](const auto& each) { return each.second->started == 1; };
    EXPECT_GT(std::count_if(listeners.begin(), listeners.end(), ran), kSlots)
        << "hardly a task ran";
    EXPECT_TRUE(owner.fatal.empty()) << owner.fatal;
    engine.reset();
  }
}

}  // namespace
}  // namespace mayfly::core
