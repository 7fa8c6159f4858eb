#include "core/claims.h"

#include <boost/asio/post.hpp>
#include <utility>

#include "base/clock.h"
#include "core/doors.h"

namespace mayfly::core {

using base::monotonicNs;
using sched::Again;
using sched::Cause;
using sched::TaskStage;

namespace {

// A session ends by itself if nobody ends it: longer than a claim and an end take.
constexpr uint64_t kSessionBeyondTaskMs = 30'000;

// The caps that the spawner enforces; the clone sets the others itself.
bool sameBoxCaps(const base::Limits& a, const base::Limits& b) {
  return a.cpu_milli == b.cpu_milli && a.memory_bytes == b.memory_bytes &&
         a.processes == b.processes && a.disk_bytes == b.disk_bytes &&
         a.disk_inodes == b.disk_inodes;
}

}  // namespace

Claims::Claims(Context& context, Boxes& boxes, Lanes& lanes, Act act)
    : x_(context), boxes_(boxes), lanes_(lanes), act_(std::move(act)) {}

void Claims::write(const TaskPtr& t) {
  if (t->blob) return;
  if (auto begun = t->beginBlob(*x_.registry.get(t->tmpl)); !begun)
    return act_(t,
                t->machine.stop(Cause::internal, std::move(begun).error().message, monotonicNs()));
  step(t);
}

void Claims::step(const TaskPtr& t) {
  if (!t->blob || t->machine.stage() == TaskStage::done) return;
  auto done = t->blob->step();
  if (!done)
    return act_(t,
                t->machine.stop(Cause::internal, std::move(done).error().message, monotonicNs()));
  if (!*done) {
    boost::asio::post(x_.io, [this, t] { step(t); });
    return;
  }
  t->dropContents();
  claim(t);
}

void Claims::wanted(const TaskPtr& t) {
  t->claim_wanted = true;
  claim(t);
}

// Its doors listen before the task can run; the vault knows it before the front serves them.
base::Status Claims::beginSession(const Task& t, const BoxPtr& box) {
  if (!box || !box->doors)
    return base::fail(base::Code::internal, "the box has no doors to the broker");
  MAYFLY_CHECK(listenOn(*box->doors));
  const base::Limits& l = t.machine.limits();
  MAYFLY_CHECK(t.spec.session->begin(t.id, l.wall_time_ms + l.grace_ms + kSessionBeyondTaskMs,
                                     std::move(*box->doors)));
  box->doors.reset();
  box->at_broker = Box::AtBroker::open;
  return base::Unit{};
}

void Claims::claim(const TaskPtr& t) {
  if (!t->claim_wanted || !t->blob_written || t->machine.stage() != TaskStage::claiming) return;
  const uint64_t now_ns = monotonicNs();
  BoxPtr box = boxes_.find(t->box);
  if (t->spec.session)
    if (auto begun = beginSession(*t, box); !begun)
      return act_(t,
                  t->machine.controlBroken(std::move(begun).error().message, Again::yes, now_ns));
  const bool stand = box && sameBoxCaps(box->caps, t->machine.limits());
  zygote::Claim c = t->claim();
  c.caps_stand = stand ? 1 : 0;
  spawner::Request r;
  r.op = spawner::Op::claim;
  r.box = t->box;
  r.limits = t->machine.limits();
  r.claimed_ns = now_ns;
  // Wake first the process that the task waits on.
  if (stand)
    r.flags |= spawner::kCapsStand;
  else
    x_.link.send(r);
  auto sent = t->io->claim(c, t->blob->fds());
  if (stand) x_.link.send(r);
  t->machine.claimed(now_ns);
  tell(x_, *t, base::Phase::claimed);
  if (box) box->doors.reset();  // a task without a session: nobody ever listened
  t->under_way = true;
  lanes_.claimBegan(t->lane, now_ns);
  if (!sent)
    act_(t, t->machine.controlBroken(std::move(sent).error().in("cannot claim").message, Again::yes,
                                     now_ns));
}

void Claims::started(Task& t) {
  over(t);
  t.blob.reset();
  t.input.shrink(t.blob_bytes);
}

void Claims::over(Task& t) {
  if (std::exchange(t.under_way, false)) lanes_.claimOver(t.lane);
}

}  // namespace mayfly::core
