// Making a box: its cgroups, disk, init and channels, then its clone.
#include <errno.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/clock.h"
#include "spawner/boxes.h"
#include "spawner/child.h"
#include "spawner/room.h"

namespace mayfly::spawner {

using base::Code;
using base::Error;
using base::failSys;
using base::Fd;
using base::monotonicNs;
using base::Status;
using base::Unit;
using wire::Event;
using wire::Kind;

namespace {

// An init that hangs is then told from a source that does.
bool needsWholeBox(const Box& box) {
  return box.owner->source && box.owner->source->needs() == CloneSource::Needs::wholeBox;
}

}  // namespace

void Boxes::make(const wire::Request& request, const char* unsound) {
  Event failed;
  failed.kind = Kind::boxFailed;
  failed.box = request.box;
  failed.zygote_id = request.zygote_id;
  auto refuse = [&](const char* step, const std::string& text) {
    setText(failed, step, text);
    failed.at_ns = monotonicNs();
    out_.send(failed);
  };
  if (unsound != nullptr) return refuse("request", unsound);
  Zygote* owner = zygotes_.findServing(request.zygote_id);
  if (owner == nullptr) {
    failed.again = 1;
    return refuse("template", "the template is not ready");
  }
  auto made = std::make_unique<Box>();
  Box& box = *made;
  box.id = request.box;
  box.owner = owner;
  box.limits = request.limits;
  if ((request.flags & wire::kRehearse) != 0) box.rehearse = CloneSource::Rehearse::yes;
  if ((request.flags & wire::kStock) != 0) box.clone_comes = Box::Clone::whenAsked;
  if (!owner->uids.take(&box.uid_first))
    return refuse("uids", "every uid of the template is in use");
  ++owner->boxes;
  boxes_[box.id] = std::move(made);
  if (auto s = prepare(box); !s) failBox(box, "prepare", s.error());
}

// Asks for the init first. While the maker works, makes what only the clone needs; the answer is
// read after that.
Status Boxes::prepare(Box& box) {
  const Zygote& z = *box.owner;
  MAYFLY_TRY(box.cgroups,
             BoxCgroups::create(tree_, fmt::format("t{}/b{}", z.key, box.id), z.uid_base));
  MAYFLY_CHECK(askInit(box));
  box.machine.on(BoxEvent::askInit);
  awaitAnswer(box);
  MAYFLY_CHECK(box.cgroups.setCaps(box.limits));
  MAYFLY_TRY(box.memory_watch, box.cgroups.watchMemory());
  MAYFLY_TRY(box.process_watch, box.cgroups.watchProcesses());
  MAYFLY_CHECK(poller_.watch(box.memory_watch.view(),
                             box.cgroups.memoryWatchIsEventfd() ? EPOLLIN : EPOLLPRI,
                             Source::memoryCap, box.id));
  if (box.process_watch)
    MAYFLY_CHECK(poller_.watch(box.process_watch.view(), EPOLLPRI, Source::processCap, box.id));
  return makeChannels(box);
}

Status Boxes::askInit(Box& box) {
  const Zygote& z = *box.owner;
  MAYFLY_TRY(base::Pair status, base::makeSeqpacketPair());
  MAYFLY_CHECK(base::setNonblocking(status.ours.view()));
  box.init_status = std::move(status.ours);
  MAYFLY_CHECK(poller_.watch(box.init_status.view(), EPOLLIN, Source::initStatus, box.id));
  wire::MakeInit make;
  make.box = box.id;
  make.uid_user = box.uid_first;
  make.uid_root = box.uid_first + 1;
  make.loopback = z.loopback ? 1 : 0;
  make.ptys = z.ptys;
  make.doors = z.doors ? 1 : 0;
  MAYFLY_TRY(box.disk, makeDisk(box.limits, z.uid_base + make.uid_root));
  MAYFLY_TRY(base::Pipe go, base::makePipe());
  box.go_theirs = std::move(go.read);
  box.go = std::move(go.write);
  MAYFLY_TRY(Fd cgroup, box.cgroups.openInitDir());
  int fds[] = {status.theirs.get(), cgroup.get(), box.disk.get(), box.go.get()};
  return base::sendMessage(z.maker_channel.view(), base::bytesOf(make), fds);
}

// The control socket and the three pipes between mayflyd and the clone.
Status Boxes::makeChannels(Box& box) {
  MAYFLY_TRY(base::Pair control, base::makeSeqpacketPair());
  MAYFLY_TRY(base::Pipe in, base::makePipe());
  MAYFLY_TRY(base::Pipe out, base::makePipe());
  MAYFLY_TRY(base::Pipe err, base::makePipe());
  box.our_fds[0] = std::move(control.ours);
  box.their_fds[0] = std::move(control.theirs);
  box.our_fds[1] = std::move(in.write);
  box.their_fds[1] = std::move(in.read);
  box.our_fds[2] = std::move(out.read);
  box.their_fds[2] = std::move(out.write);
  box.our_fds[3] = std::move(err.read);
  box.their_fds[3] = std::move(err.write);
  // The task may open /dev/stdout again, so it owns the pipes; so does criu with every pipe.
  const uint32_t uid = box.owner->uid_base + box.uid_first;
  for (const Fd* pipe : {&box.their_fds[1], &box.their_fds[2], &box.their_fds[3], &box.go_theirs})
    if (::fchown(pipe->get(), uid, uid) != 0) return failSys(errno, "fchown", "a pipe of the box");
  return Unit{};
}

// Takes a process that the maker or zygote passed as the box's own.
Status Boxes::adopt(Box& box, Fd& place, Fd process, uint64_t key, Source source) {
  if (!process) return Unit{};
  box.owner->processes.insert(key);
  box.process_keys[source == Source::init ? 0 : 1] = key;
  place = std::move(process);
  return poller_.watch(place.view(), EPOLLIN, source, box.id);
}

Boxes::Said Boxes::onInitMade(Zygote& z, const wire::InitMade& made, Fd init) {
  Box* found = find(made.box);
  const uint64_t key = init ? processKey(init) : 0;
  if (found == nullptr || found->owner != &z || z.processes.contains(key) ||
      found->machine.on(BoxEvent::initMade) == BoxStep::breach)
    return Said::breach;
  Box& box = *found;
  awaitAnswer(box);  // the init's
  const Status adopted = adopt(box, box.init, std::move(init), key, Source::init);
  if (box.machine.ending()) {
    awaitNothing(box);
    signalKill(box.init);
    tryFinishReaping(box);
  } else if (!adopted) {
    failBox(box, "init", adopted.error());
  } else if (made.error != 0) {
    failBox(box, fmt::format("init: {}", made.step),
            base::sysError(made.error, made.step, "the box's init"));
  } else {
    arrived(box);
  }
  return Said::inPlace;
}

void Boxes::onInitStatus(Box& box) {
  wire::InitReady ready;
  auto got = base::receiveMessage(box.init_status.view(), base::writableBytesOf(ready));
  if (!got && got.error().sys == EAGAIN) return;
  poller_.unwatch(box.init_status.view());
  // After its first message, the init's end is reported by its pidfd.
  if (box.machine.ending() || !box.machine.rising()) return;
  if (!got || faultOf(ready, got->bytes, got->fds) != nullptr) {
    box.result.again = 1;
    return failBox(box, "init",
                   Error{Code::internal, "the init ended before its box stood", {}, 0});
  }
  if (ready.error != 0)
    return failBox(box, fmt::format("box: {}", ready.step),
                   base::sysError(ready.error, ready.step, "the box"));
  if (got->fds != (box.owner->doors ? wire::kInitDoorFds : 0))
    return failBox(box, "init",
                   Error{Code::internal, "the init passed a wrong number of doors", {}, 0});
  for (size_t i = 0; i < got->fds; ++i) box.doors[i] = std::move(got->fd[i]);
  box.machine.on(BoxEvent::stands);
  box.box_ready_ns = monotonicNs();
  arrived(box);
}

Boxes::Said Boxes::onClone(Zygote& z, CloneSource::Answer answer) {
  Box* found = find(answer.box);
  const uint64_t key = answer.clone ? processKey(answer.clone) : 0;
  if (found == nullptr || found->owner != &z || z.processes.contains(key) ||
      found->machine.on(BoxEvent::cloneMade) == BoxStep::breach)
    return Said::breach;
  Box& box = *found;
  const bool failed = answer.what == CloneSource::Answer::What::failed;
  // criu makes the clone early; what looks for it cannot enter the box of a killed init.
  box.clone_unnamed = failed && !answer.clone;
  const Status adopted = adopt(box, box.clone, std::move(answer.clone), key, Source::clone);
  if (box.machine.ending()) {
    awaitNothing(box);
    signalKill(box.clone);
    tryFinishReaping(box);
  } else if (!adopted) {
    failBox(box, "clone", adopted.error());
  } else if (failed) {
    // The zygote can't fork into the namespace of an init that was killed.
    box.result.again = answer.again || isDying(box.pid_host) ? 1 : 0;
    // Of a restore, it is criu's own line.
    if (needsWholeBox(box))
      failBox(box, "clone", Error{Code::internal, answer.text, {}, answer.error});
    else
      failBox(box, fmt::format("clone: {}", answer.text),
              base::sysError(answer.error, "fork", "the clone"));
  } else {
    arrived(box);
  }
  return Said::inPlace;
}

// Its init may have been killed, which the kernel tells only when every process of it is reaped.
void Boxes::onSpoiled(const Zygote& z, base::BoxId id) {
  Box* box = find(id);
  if (box == nullptr || box->owner != &z || box->machine.ending() || box->machine.made()) return;
  box->result.again = 1;
  failBox(*box, "clone",
          Error{Code::internal, "what was prepared for the clone ended before it was asked for"});
}

// Does what the new state requires.
void Boxes::arrived(Box& box) {
  switch (box.machine.state()) {
    case BoxState::rising:
      if (box.clone_comes == Box::Clone::atOnce && !needsWholeBox(box)) askCloneOrFail(box);
      return;
    case BoxState::stocked:
      awaitNothing(box);
      if (box.clone_comes == Box::Clone::atOnce) return askCloneOrFail(box);
      prepareClone(box);
      return tell(box, Kind::boxStocked);
    case BoxState::parked:
      awaitNothing(box);
      if (box.clone) tellMade(box);  // otherwise it ended meanwhile, and the box fails for that
      return;
    default:
      return;
  }
}

// mayflyd hears of a zygote's end before it hears of a box that failed because of it.
void Boxes::askCloneOrFail(Box& box) {
  if (auto asked = askClone(box); !asked) {
    Zygote& z = *box.owner;
    failBox(box, "ask clone", asked.error());
    zygotes_.suspect(z);
  }
}

base::Result<CloneAsk> Boxes::partsOf(const Box& box) const {
  CloneAsk parts;
  MAYFLY_TRY(parts.tasks, box.cgroups.openTasks());
  MAYFLY_TRY(parts.cgroup, box.cgroups.openTaskDir());
  parts.ask.box = box.id;
  parts.ask.rehearse = box.rehearse;
  parts.ask.init = box.init.view();
  parts.ask.cgroup = parts.cgroup.view();
  parts.ask.go = box.go_theirs.view();
  parts.ask.streams = box.their_fds;
  parts.ask.tasks = parts.tasks;
  return parts;
}

// Called once the init is known: a forked clone is made while the init sets up its box.
Status Boxes::askClone(Box& box) {
  Zygote& z = *box.owner;
  if (z.stage >= ZygoteStage::draining)
    return base::fail(Code::unavailable, "the template is being retired");
  MAYFLY_CHECK(fitZygoteCap(z));
  MAYFLY_TRY(const CloneAsk parts, partsOf(box));
  MAYFLY_CHECK(z.source->ask(parts.ask));
  box.machine.on(BoxEvent::askClone);
  box.clone_unnamed = false;  // the answer names all
  awaitAnswer(box, z.source->answerMsMax());
  box.pid_host = pidOf(box.init);  // while the zygote forks
  for (Fd& fd : box.their_fds) fd.reset();
  box.go_theirs.reset();
  return Unit{};
}

// A box in stock: what fails here fails, or not, when its clone is asked for.
void Boxes::prepareClone(Box& box) {
  const Zygote& z = *box.owner;
  if (!needsWholeBox(box) || z.stage >= ZygoteStage::draining) return;
  if (const auto parts = partsOf(box)) box.clone_unnamed = z.source->prepare(parts->ask);
}

void Boxes::tellMade(Box& box) {
  Event event;
  event.kind = Kind::boxMade;
  event.box = box.id;
  event.zygote_id = box.owner->id;
  event.at_ns = monotonicNs();
  event.box_ready_ns = box.box_ready_ns;
  event.pid_host = box.pid_host;
  std::vector<int> fds;
  for (const Fd& fd : box.our_fds) fds.push_back(fd.get());
  for (const Fd& fd : box.doors)
    if (fd) fds.push_back(fd.get());
  out_.send(event, fds);
  for (Fd& fd : box.our_fds) fd.reset();
  for (Fd& fd : box.doors) fd.reset();
  // Restarted here because the box may get its task before it is measured as a parked one.
  restartCounters(box);
}

// Nothing of a box that could not be made remains; mayflyd hears of it when the box has ended.
void Boxes::failBox(Box& box, const std::string& step, const Error& error) {
  if (box.machine.ending()) return;
  box.result.kind = Kind::boxFailed;
  box.result.sys = error.sys;
  setText(box.result, step, error.message);
  beginEnd(box, BoxEvent::end);
}

void Boxes::awaitAnswer(Box& box) { awaitAnswer(box, kAnswerMsMax); }

void Boxes::awaitAnswer(Box& box, uint64_t ms_max) {
  box.answer_due_ns = inMs(ms_max);
  box.answer_last_ns = inMs(std::max(ms_max, kBusyMsMax));
  awaiting_.insert(box.id);
}

void Boxes::awaitNothing(Box& box) {
  box.answer_due_ns = 0;
  awaiting_.erase(box.id);
}

// Whoever hangs is ended: the maker or the zygote with all boxes that wait for it, or this box
// alone for its init. An answer that waits to be read, or a timer that is late itself, shows that
// the spawner was held up.
void Boxes::onSilent(Box& box) {
  const Zygote& z = *box.owner;
  const BoxState s = box.machine.state();
  const bool of_maker = s == BoxState::asked || s == BoxState::standing || s == BoxState::owedInit;
  const bool of_init = !of_maker && !box.machine.owed();
  const base::FdView from = of_maker   ? z.maker_channel.view()
                            : of_init  ? box.init_status.view()
                            : z.source ? z.source->answers()
                                       : base::FdView();
  if (isReadable(from) || monotonicNs() > box.answer_due_ns + kHeldUpMs * kMsNs)
    return awaitAnswer(box);
  if (isBusy(of_maker  ? z.maker
             : of_init ? box.init
                       : z.zygote) &&
      monotonicNs() < box.answer_last_ns) {
    box.answer_due_ns = inMs(kBusyLookMs);
    return;
  }
  awaitNothing(box);
  if (!of_init)
    return zygotes_.onSilent(*box.owner, of_maker ? Zygotes::Who::maker : Zygotes::Who::zygote);
  box.result.again = 1;
  failBox(box, "init",
          Error{Code::deadlineExceeded,
                fmt::format("the box's init did not answer within {} ms", kAnswerMsMax),
                {},
                0});
}

// Boxes that are being made wait for an answer that will not come.
void Boxes::onAnswersLost(const Zygote& z, const char* who, const std::string& why) {
  std::vector<base::BoxId> waiting;
  for (const auto& [id, box] : boxes_)
    if (box->owner == &z && box->machine.owed()) waiting.push_back(id);
  for (base::BoxId id : waiting) {
    Box* box = find(id);
    if (box == nullptr) continue;
    awaitNothing(*box);
    if (box->machine.ending()) {
      box->machine.on(BoxEvent::lost);
      tryFinishReaping(*box);
      continue;
    }
    box->result.kind = Kind::boxFailed;
    setText(box->result, who, why);
    beginEnd(*box, BoxEvent::lost);
  }
}

}  // namespace mayfly::spawner
