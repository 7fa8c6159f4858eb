#include "spawner/spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "spawner/collect.h"

namespace mayfly::spawner {

using base::BoxId;
using base::Code;
using base::failSys;
using base::Fd;
using base::monotonicNs;
using base::Result;
using base::Status;
using base::Unit;

namespace {

constexpr uint64_t kMsNs = 1'000'000;
constexpr int kEventsMax = 64;  // epoll events taken at once
constexpr uint64_t kReapMsMax = 5'000;    // kill to reaped, before it is told as stuck
constexpr uint64_t kRemoveMsMax = 2'000;  // the same for the removal of cgroups
constexpr uint64_t kStopMsMax = 5'000;    // after mayflyd's end

void setText(Event& event, const std::string& step, const std::string& text) {
  strncpy(event.step, step.c_str(), sizeof event.step - 1);
  strncpy(event.text, text.c_str(), sizeof event.text - 1);
}

struct Exit {
  int code = 0, status = 0;  // si_code, si_status; code 0: not exited
};

// Takes the exit status of our child from the kernel; empties the pidfd.
Exit reap(Fd& pidfd) {
  siginfo_t info{};
  if (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd.get()), &info, WEXITED | WNOHANG | __WALL) != 0 ||
      info.si_pid == 0)
    return {};
  pidfd.reset();
  return {info.si_code, info.si_status};
}

// The pid behind a pidfd as the host sees it; 0 where it has ended. For people only.
uint32_t pidOf(const Fd& process) {
  auto text = base::readSmallFile({}, fmt::format("/proc/self/fdinfo/{}", process.get()));
  size_t at = text ? text->find("Pid:\t") : std::string::npos;
  if (at == std::string::npos) return 0;
  long pid = ::strtol(text->c_str() + at + 5, nullptr, 10);
  return pid > 0 ? static_cast<uint32_t>(pid) : 0;
}

// Whether a child that is not reaped yet is dying or was sent a SIGKILL. Its pidfd
// tells only when its end is over, which for a pid 1 is after that of its processes.
bool isDying(uint32_t pid) {
  constexpr size_t kFlagsField = 9, kSignalField = 31;      // of /proc/PID/stat, from 1
  constexpr unsigned long kExiting = 0x4, kSignaled = 0x400;  // PF_EXITING, PF_SIGNALED
  auto text = base::readSmallFile({}, fmt::format("/proc/{}/stat", pid));
  size_t at = text ? text->rfind(')') : std::string::npos;
  if (at == std::string::npos) return true;
  unsigned long flags = 0, pending = 0;
  size_t field = 2;
  for (at = text->find(' ', at); at != std::string::npos && field < kSignalField; at = text->find(' ', at + 1)) {
    ++field;
    if (field == kFlagsField) flags = ::strtoul(text->c_str() + at, nullptr, 10);
    if (field == kSignalField) pending = ::strtoul(text->c_str() + at, nullptr, 10);
  }
  return (flags & (kExiting | kSignaled)) != 0 || (pending & (1ul << (SIGKILL - 1))) != 0;
}

std::string describe(const Exit& exit) {
  return exit.code == CLD_EXITED ? fmt::format("exited with {}", exit.status)
                                 : fmt::format("was killed by signal {}", exit.status);
}

void signalKill(const Fd& pidfd) {
  if (pidfd) ::syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
}

}  // namespace

void Spawner::watch(int fd, uint32_t events, Source source, uint64_t id) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = (static_cast<uint64_t>(source) << 56) | id;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) ::abort();  // out of memory only
}

void Spawner::unwatch(const Fd& fd) {
  if (fd) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd.get(), nullptr);
}

// --- talking to mayflyd ------------------------------------------------------

void Spawner::send(const Event& event, const std::vector<int>& fds) {
  if (stopping_) return;
  if (outbox_.empty()) {
    auto sent = base::sendMessage(daemon_.view(), base::bytesOf(event), fds);
    if (sent) return;
    if (sent.error().sys != EAGAIN) return shutDown();
  }
  Outgoing out{event, {}};
  for (int fd : fds) out.fds.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  outbox_.push_back(std::move(out));
  if (outbox_.size() > kOutboxMax) return shutDown();  // mayflyd has stopped reading for good
  epoll_event change{};
  change.events = EPOLLIN | EPOLLOUT;
  change.data.u64 = static_cast<uint64_t>(Source::daemon) << 56;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, daemon_.get(), &change);
}

void Spawner::flushOutbox() {
  while (!outbox_.empty()) {
    std::vector<int> fds;
    for (const Fd& fd : outbox_.front().fds) fds.push_back(fd.get());
    auto sent = base::sendMessage(daemon_.view(), base::bytesOf(outbox_.front().event), fds);
    if (!sent && sent.error().sys == EAGAIN) return;
    if (!sent) return shutDown();
    outbox_.pop_front();
  }
  epoll_event change{};
  change.events = EPOLLIN;
  change.data.u64 = static_cast<uint64_t>(Source::daemon) << 56;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, daemon_.get(), &change);
}

// False: mayflyd is gone, or speaks another language.
bool Spawner::readRequests() {
  for (int i = 0; i < kEventsMax; ++i) {
    Request request;
    auto got = base::receiveMessage(daemon_.view(), base::writableBytesOf(request));
    if (!got) return got.error().sys == EAGAIN;
    if (got->bytes != sizeof request || request.magic != kMagic || request.version != kVersion) return false;
    switch (request.op) {
      case Op::publish: publish(request, *got); break;
      case Op::retire: retire(request.template_id); break;
      case Op::make: make(request); break;
      case Op::end: end(request, *got); break;
      case Op::sample: sample(request.box); break;
    }
  }
  return true;
}

// --- templates ---------------------------------------------------------------

void Spawner::publish(const Request& request, base::Received& fds) {
  Event failed;
  failed.kind = Kind::templateFailed;
  failed.template_id = request.template_id;
  auto refuse = [&](const std::string& step, const std::string& text, int sys = 0) {
    failed.sys = sys;
    setText(failed, step, text);
    failed.at_ns = monotonicNs();
    send(failed);
  };
  for (const auto& arg : request.zygote)
    if (::strnlen(arg, sizeof arg) == sizeof arg) return refuse("request", "a zygote argument is too long");
  if (request.zygote[0][0] != '/') return refuse("request", "the zygote's program must be an absolute path");
  if (fds.fds != 2) return refuse("request", "publish takes two descriptors");
  for (const auto& [key, t] : templates_)
    if (t->id == request.template_id && !t->retiring) return refuse("request", "the template is published already");
  uint32_t slot = 0;
  while (slot + 1 < kTemplatesMax && slots_used_[slot]) ++slot;
  // The last range of a slot is the daemon's own.
  if (slot + 1 >= kTemplatesMax) return refuse("request", fmt::format("{} templates are published", kTemplatesMax - 1));
  uint32_t uid_base = kUidBase + options_.uid_slot * kUidsPerInstance + slot * kUidsPerTemplate;
  static uint32_t keys = 0;
  std::string step;
  auto made = publishTemplate(room_, tree_, request, ++keys, slot, uid_base, fds.fd[0].view(), fds.fd[1].view(), &step);
  if (!made) return refuse(step, made.error().message, made.error().sys);
  slots_used_[slot] = true;
  Template& t = **made;
  uint64_t key = t.key;
  watch(t.pid1.get(), EPOLLIN, Source::templatePid1, key);
  watch(t.maker.get(), EPOLLIN, Source::maker, key);
  watch(t.maker_channel.get(), EPOLLIN, Source::makerChannel, key);
  watch(t.zygote.get(), EPOLLIN, Source::zygote, key);
  watch(t.zygote_channel.get(), EPOLLIN, Source::zygoteChannel, key);
  templates_[t.key] = std::move(*made);
}

void Spawner::retire(base::TemplateId id) {
  for (auto& [key, t] : templates_) {
    if (t->id != id || t->retiring) continue;
    t->retiring = true;
    t->ready = false;
    for (auto& [box_id, box] : boxes_)
      if (box->owner == t.get()) signalKill(box->init);
    killTemplate(*t, true);
    return tryFinishTemplate(key);
  }
}

// A process that dies closes its channel first: its pidfd will tell how it ended.
void Spawner::onChannelEnd(const Fd& channel, const Fd& process) {
  unwatch(channel);
  signalKill(process);
}

void Spawner::onMakerMessage(Template& t) {
  zygote::InitMade made;
  auto got = base::receiveMessage(t.maker_channel.view(), base::writableBytesOf(made));
  if (!got && got.error().sys == EAGAIN) return;
  if (got && got->bytes == 0) return onChannelEnd(t.maker_channel, t.maker);
  if (!got || got->bytes != sizeof made || made.magic != zygote::kMagic) return onTemplateDeath(t, "maker");
  auto found = boxes_.find(made.box);
  if (found == boxes_.end() || found->second->owner != &t || !found->second->init_asked)
    return onTemplateDeath(t, "maker");
  Box& box = *found->second;
  box.init_asked = false;
  if (got->fds == 1) {
    box.init = std::move(got->fd[0]);
    watch(box.init.get(), EPOLLIN, Source::init, box.id);
  }
  if (box.ending) {
    signalKill(box.init);
    return tryFinishReaping(box);
  }
  if (made.error != 0)
    return failBox(box, fmt::format("init: {}", made.step), base::sysError(made.error, made.step, "the box's init"));
  if (auto asked = askClone(box); !asked) return failBox(box, "ask clone", asked.error());
  box.pid_host = pidOf(box.init);  // while the zygote forks
}

void Spawner::onZygoteMessage(Template& t) {
  zygote::CloneMade made;
  auto got = base::receiveMessage(t.zygote_channel.view(), base::writableBytesOf(made));
  if (!got && got.error().sys == EAGAIN) return;
  if (got && got->bytes == 0) return onChannelEnd(t.zygote_channel, t.zygote);
  if (!got || got->bytes != sizeof made || made.magic != zygote::kMagic) return onTemplateDeath(t, "zygote");
  if (made.box == 0) {
    Event event;
    event.kind = made.error == 0 ? Kind::templateReady : Kind::templateFailed;
    event.template_id = t.id;
    event.sys = made.error;
    event.at_ns = monotonicNs();
    if (made.error == 0) {
      t.ready = true;
      setText(event, "", t.image_mount == ImageMount::file ? "image mounted from its file" : "image mounted by a loop device");
    } else {
      t.told_gone = true;
      setText(event, "zygote", fmt::format("the zygote can't serve: {}", made.step));
    }
    return send(event);  // one that can't serve exits, and its exit removes it
  }
  auto found = boxes_.find(made.box);
  if (found == boxes_.end() || found->second->owner != &t || !found->second->clone_asked)
    return onTemplateDeath(t, "zygote");
  Box& box = *found->second;
  box.clone_asked = false;
  if (got->fds == 1) {
    box.clone = std::move(got->fd[0]);
    watch(box.clone.get(), EPOLLIN, Source::clone, box.id);
  }
  if (box.ending) {
    signalKill(box.clone);
    return tryFinishReaping(box);
  }
  if (made.error != 0 || !box.clone)
    return failBox(box, fmt::format("clone: {}", made.step), base::sysError(made.error, "fork", "the clone"));
  tryMade(box);
}

// A process of the template ended unasked. Boxes that run go on while pid 1
// lives; new ones need a new template.
void Spawner::onTemplateDeath(Template& t, const char* who) {
  std::string how = "broke the protocol";
  auto look = [&](Fd& pidfd, const char* name) {
    if (!pidfd) return;
    unwatch(pidfd);
    if (Exit exit = reap(pidfd); exit.code != 0 && strcmp(name, who) == 0) how = describe(exit);
    else if (pidfd) watch(pidfd.get(), EPOLLIN, name[0] == 'z' ? Source::zygote : name[0] == 'm' ? Source::maker : Source::templatePid1, t.key);
  };
  look(t.zygote, "zygote");
  look(t.maker, "maker");
  look(t.pid1, "pid 1");
  killTemplate(t, strcmp(who, "pid 1") == 0);
  bool told = t.told_gone;
  if (!t.retiring && !told) {
    Event event;
    event.kind = Kind::templateGone;
    event.template_id = t.id;
    event.at_ns = monotonicNs();
    setText(event, who, fmt::format("the template's {} {}", who, how));
    send(event);
  }
  t.told_gone = t.told_gone || !t.retiring;
  t.retiring = true;
  t.ready = false;
  // Boxes in the making wait for an answer that will not come.
  std::vector<BoxId> waiting;
  for (auto& [id, box] : boxes_)
    if (box->owner == &t && (box->init_asked || box->clone_asked)) waiting.push_back(id);
  for (BoxId id : waiting)
    if (auto it = boxes_.find(id); it != boxes_.end()) {
      Box& box = *it->second;
      box.init_asked = box.clone_asked = false;
      if (box.ending) tryFinishReaping(box);
      else failBox(box, who, base::Error{Code::unavailable, fmt::format("the template's {} {}", who, how), {}, 0});
    }
  tryFinishTemplate(t.key);
}

void Spawner::tryFinishTemplate(uint32_t key) {
  auto it = templates_.find(key);
  if (it == templates_.end() || !it->second->retiring || it->second->boxes != 0) return;
  Template& t = *it->second;
  for (const Fd* fd : {&t.pid1, &t.maker, &t.zygote, &t.maker_channel, &t.zygote_channel}) unwatch(*fd);
  killTemplate(t, true);
  auto removed = removeTemplate(tree_, t);
  if (!t.told_gone) {
    Event event;
    event.kind = Kind::templateGone;
    event.template_id = t.id;
    event.at_ns = monotonicNs();
    setText(event, "", removed ? "retired" : removed.error().message);
    send(event);
  }
  slots_used_[t.slot] = false;
  templates_.erase(it);
}

// --- making a box ------------------------------------------------------------

void Spawner::make(const Request& request) {
  Event failed;
  failed.kind = Kind::boxFailed;
  failed.box = request.box;
  failed.template_id = request.template_id;
  auto refuse = [&](const char* step, const std::string& text) {
    setText(failed, step, text);
    failed.at_ns = monotonicNs();
    send(failed);
  };
  Template* owner = nullptr;
  for (auto& [key, t] : templates_)
    if (t->id == request.template_id && t->ready && !t->retiring) owner = t.get();
  if (owner == nullptr) return refuse("template", "the template is not ready");
  if (request.box == 0 || request.box >> 56 != 0 || boxes_.count(request.box) != 0)
    return refuse("request", "the box's id is in use or out of range");
  auto box = std::make_unique<Box>();
  box->id = request.box;
  box->owner = owner;
  box->limits = request.limits;
  box->deadline_ns = 0;
  if (!owner->uids.take(&box->uid_first)) return refuse("uids", "every uid of the template is in use");
  ++owner->boxes;
  Box& b = *box;
  boxes_[b.id] = std::move(box);
  if (auto s = prepareBox(b); !s) failBox(b, "prepare", s.error());
}

Status Spawner::prepareBox(Box& box) {
  Template& t = *box.owner;
  MAYFLY_TRY(box.cgroups, BoxCgroups::create(tree_, fmt::format("t{}/b{}", t.key, box.id), t.uid_base, box.limits));
  MAYFLY_TRY(box.memory_watch, box.cgroups.watchMemory());
  MAYFLY_TRY(box.process_watch, box.cgroups.watchProcesses());
  watch(box.memory_watch.get(), box.cgroups.memoryWatchIsEventfd() ? EPOLLIN : EPOLLPRI, Source::memoryCap, box.id);
  if (box.process_watch) watch(box.process_watch.get(), EPOLLPRI, Source::processCap, box.id);
  MAYFLY_TRY(base::Pair status, base::makeSeqpacketPair());
  MAYFLY_CHECK(base::setNonblocking(status.ours.view()));
  box.init_status = std::move(status.ours);
  watch(box.init_status.get(), EPOLLIN, Source::initStatus, box.id);
  zygote::MakeInit make;
  make.box = box.id;
  make.uid_user = box.uid_first;
  make.uid_root = box.uid_first + 1;
  make.loopback = t.loopback ? 1 : 0;
  MAYFLY_TRY(box.disk, makeDisk(box.limits, t.uid_base + make.uid_root));
  MAYFLY_TRY(base::Pipe stands, base::makePipe());
  box.stands = std::move(stands.read);
  int fds[] = {status.theirs.get(), box.cgroups.initDir().get(), box.disk.get(), stands.write.get()};
  MAYFLY_CHECK(base::sendMessage(t.maker_channel.view(), base::bytesOf(make), fds));
  box.init_asked = true;
  // While the maker works: what the clone will need.
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
  // The task may open /dev/stdout again: the pipes are its own.
  uint32_t uid = t.uid_base + box.uid_first;
  for (int i = 1; i <= 3; ++i)
    if (::fchown(box.their_fds[i].get(), uid, uid) != 0) return failSys(errno, "fchown", "a pipe of the box");
  return Unit{};
}

void Spawner::onInitStatus(Box& box) {
  zygote::InitReady ready;
  auto got = base::receiveMessage(box.init_status.view(), base::writableBytesOf(ready));
  if (!got && got.error().sys == EAGAIN) return;
  unwatch(box.init_status);
  if (box.ending || box.ready) return;  // the init's end is told by its pidfd
  if (!got || got->bytes != sizeof ready || ready.magic != zygote::kMagic)
    return failBox(box, "init", base::Error{Code::internal, "the init ended before its box stood", {}, 0});
  if (ready.error != 0)
    return failBox(box, fmt::format("box: {}", ready.step), base::sysError(ready.error, ready.step, "the box"));
  box.ready = true;
  box.box_ready_ns = monotonicNs();
  tryMade(box);
}

// Once the init is known: the clone is forked while the init sets its box up.
Status Spawner::askClone(Box& box) {
  if (!box.init) return base::fail(Code::internal, "the maker sent no init");
  Template& t = *box.owner;
  if (t.retiring) return base::fail(Code::unavailable, "the template is being retired");
  MAYFLY_TRY(auto tasks, box.cgroups.openTasks());
  zygote::MakeClone make;
  make.box = box.id;
  make.tasks_fds = static_cast<uint32_t>(tasks.size());
  std::vector<int> fds = {box.init.get()};
  for (const Fd& fd : box.their_fds) fds.push_back(fd.get());
  fds.push_back(box.cgroups.taskDir().get());
  fds.push_back(box.stands.get());
  for (const Fd& fd : tasks) fds.push_back(fd.get());
  MAYFLY_CHECK(base::sendMessage(t.zygote_channel.view(), base::bytesOf(make), fds));
  box.clone_asked = true;
  box.stage = Stage::waitingClone;
  for (Fd& fd : box.their_fds) fd.reset();
  box.stands.reset();
  return Unit{};
}

void Spawner::tryMade(Box& box) {
  if (!box.ready || !box.clone || box.stage != Stage::waitingClone) return;
  box.stage = Stage::made;
  Event event;
  event.kind = Kind::boxMade;
  event.box = box.id;
  event.template_id = box.owner->id;
  event.at_ns = monotonicNs();
  event.box_ready_ns = box.box_ready_ns;
  event.pid_host = box.pid_host;
  std::vector<int> fds;
  for (const Fd& fd : box.our_fds) fds.push_back(fd.get());
  send(event, fds);
  for (Fd& fd : box.our_fds) fd.reset();
}

// Nothing of a box that could not be made stays; mayflyd hears of it at the end.
void Spawner::failBox(Box& box, const std::string& step, const base::Error& error) {
  if (box.ending) return;
  box.result.kind = Kind::boxFailed;
  box.result.sys = error.sys;
  setText(box.result, step, error.message);
  beginEnd(box);
}

// --- ending a box ------------------------------------------------------------

void Spawner::end(const Request& request, base::Received& fds) {
  auto found = boxes_.find(request.box);
  if (found == boxes_.end()) return;  // boxFailed or boxGone is on its way
  Box& box = *found->second;
  if (box.ending || box.end_asked) return;
  box.end_asked = true;
  if ((request.flags & kCollect) != 0 && fds.fds == 1) {
    box.spool = std::move(fds.fd[0]);
    box.collect_ms_max = request.collect_ms_max;
  }
  beginEnd(box);
}

void Spawner::beginEnd(Box& box) {
  box.ending = true;
  box.stage = Stage::reaping;
  box.deadline_ns = monotonicNs() + kReapMsMax * kMsNs;
  // The watches would fire for what the kill itself causes.
  unwatch(box.memory_watch);
  unwatch(box.process_watch);
  (void)box.cgroups.kill();  // absent only where the box has no cgroup yet
  signalKill(box.init);
  signalKill(box.clone);
  unwatch(box.init_status);
  box.init_status.reset();
  box.stands.reset();
  for (Fd& fd : box.our_fds) fd.reset();
  for (Fd& fd : box.their_fds) fd.reset();
  tryFinishReaping(box);
}

void Spawner::onInitExit(Box& box) {
  Exit exit = reap(box.init);
  if (exit.code == 0) return;
  if (box.ending) return tryFinishReaping(box);
  if (box.stage != Stage::made)
    return failBox(box, "init", base::Error{Code::internal, "the box's init " + describe(exit), {}, 0});
  sendBoxDied(box, describe(exit));
}

void Spawner::sendBoxDied(const Box& box, const std::string& how) {
  Event event;
  event.kind = Kind::boxDied;
  event.box = box.id;
  event.at_ns = monotonicNs();
  setText(event, "init", "the box's init " + how);
  send(event);
}

void Spawner::onCloneExit(Box& box) {
  Exit exit = reap(box.clone);
  if (exit.code == 0) return;
  box.result.exit_code = exit.code;
  box.result.exit_status = exit.status;
  box.result.clone_exited_ns = monotonicNs();
  if (box.ending) return tryFinishReaping(box);
  // A clone gives up when its init does: the init's own word names the step.
  if (!box.ready && box.init_status) onInitStatus(box);
  if (box.ending) return;
  if (box.stage != Stage::made)
    return failBox(box, "clone", base::Error{Code::internal, "the clone " + describe(exit), {}, 0});
  // An init that is killed takes the box along, its processes first: that end is not the task's.
  if (exit.code == CLD_KILLED && exit.status == SIGKILL && isDying(box.pid_host)) return sendBoxDied(box, "was killed");
  Event event;
  event.kind = Kind::cloneExited;
  event.box = box.id;
  event.exit_code = exit.code;
  event.exit_status = exit.status;
  event.at_ns = box.result.clone_exited_ns;
  send(event);
}

void Spawner::onCapEvent(Box& box, Cap cap) {
  uint64_t count = 0;
  if (cap == Cap::memory && box.cgroups.memoryWatchIsEventfd())
    (void)!::read(box.memory_watch.get(), &count, sizeof count);
  else {  // reading the file arms its next event
    char text[512];
    (void)!::pread(cap == Cap::memory ? box.memory_watch.get() : box.process_watch.get(), text, sizeof text, 0);
  }
  if (box.ending || box.stage != Stage::made) return;
  Event event;
  box.cgroups.read(&event.counters);
  bool hit = cap == Cap::memory ? event.counters.oom_kills > 0 || count > 0 : event.counters.forks_refused > 0;
  bool& told = box.watches_told[cap == Cap::memory ? 0 : 1];
  if (!hit || told) return;
  told = true;
  event.kind = Kind::capHit;
  event.box = box.id;
  event.cap = cap;
  event.at_ns = monotonicNs();
  send(event);
}

void Spawner::sample(BoxId id) {
  auto found = boxes_.find(id);
  if (found == boxes_.end() || found->second->ending) return;
  Event event;
  event.kind = Kind::sampled;
  event.box = id;
  found->second->cgroups.read(&event.counters);
  readDisk(*found->second, &event.counters);
  event.at_ns = monotonicNs();
  send(event);
}

void Spawner::readDisk(const Box& box, Counters* c) const {
  if (!box.disk) return;
  struct statfs fs;
  if (::fstatfs(box.disk.get(), &fs) != 0) return;
  auto block = static_cast<uint64_t>(fs.f_bsize);
  c->disk_bytes = (fs.f_blocks - fs.f_bfree) * block;
  c->disk_bytes_max = fs.f_blocks * block;
  c->disk_inodes = fs.f_files - fs.f_ffree;
  c->disk_inodes_max = fs.f_files;
}

// All reaped by us, its parent, and the kernel says that nobody is left.
void Spawner::tryFinishReaping(Box& box) {
  if (box.stage != Stage::reaping && box.stage != Stage::stuck) return;
  if (box.init_asked || box.clone_asked || box.init || box.clone) return;
  if (box.result.reaped_ns == 0) box.result.reaped_ns = monotonicNs();
  auto populated = box.cgroups.populated();
  if (populated && *populated) {
    box.next_try_ns = monotonicNs() + kMsNs;
    return;
  }
  box.next_try_ns = 0;
  box.result.unpopulated_ns = monotonicNs();
  afterReaped(box);
}

void Spawner::afterReaped(Box& box) {
  if (box.result.kind == Kind::boxFailed) return beginRemove(box);
  box.cgroups.read(&box.result.counters);
  readDisk(box, &box.result.counters);
  box.result.kind = Kind::boxReaped;
  box.result.box = box.id;
  box.result.at_ns = box.result.reaped_ns;
  send(box.result);
  if (!box.spool || !box.disk) return beginRemove(box);
  auto collector = startCollector(box.disk.view(), box.spool.view(), box.owner->uid_base + box.uid_first, box.limits);
  if (!collector) {
    box.collect_state = CollectState::failed;
    return beginRemove(box);
  }
  box.collector = std::move(*collector);
  watch(box.collector.get(), EPOLLIN, Source::collector, box.id);
  box.stage = Stage::collecting;
  box.deadline_ns = monotonicNs() + box.collect_ms_max * kMsNs;
}

void Spawner::onCollectorExit(Box& box) {
  Exit exit = reap(box.collector);
  if (exit.code == 0) return;
  if (box.collect_state == CollectState::none)
    box.collect_state = exit.code == CLD_EXITED && exit.status == 0 ? CollectState::done : CollectState::failed;
  beginRemove(box);
}

void Spawner::beginRemove(Box& box) {
  box.stage = Stage::removing;
  box.deadline_ns = monotonicNs() + kRemoveMsMax * kMsNs;
  box.disk.reset();
  box.spool.reset();
  box.memory_watch.reset();
  box.process_watch.reset();
  box.result.fds_closed_ns = monotonicNs();
  tryRemove(box);
}

void Spawner::tryRemove(Box& box) {
  if (auto removed = box.cgroups.remove(tree_); !removed) {
    uint64_t pause_ms = box.stage == Stage::stuck ? 500 : std::min<uint64_t>(1ull << std::min(box.tries, 5u), 32);
    ++box.tries;
    box.next_try_ns = monotonicNs() + pause_ms * kMsNs;
    return;
  }
  Event& event = box.result;
  event.cgroups_gone_ns = event.at_ns = monotonicNs();
  event.box = box.id;
  event.template_id = box.owner->id;
  event.collect = box.collect_state;
  event.complete = 1;
  if (event.kind != Kind::boxFailed) {
    event.kind = Kind::boxGone;
    memset(event.text, 0, sizeof event.text);
  }
  send(event);
  dropBox(box.id);
}

// What is not proven in time is told at once, and tried on until it is.
void Spawner::reportStuck(Box& box, const std::string& what) {
  Event event = box.result;
  event.kind = Kind::boxGone;
  event.box = box.id;
  event.at_ns = monotonicNs();
  event.collect = box.collect_state;
  event.complete = 0;
  setText(event, "", what);
  send(event);
}

void Spawner::dropBox(BoxId id) {
  auto it = boxes_.find(id);
  Template& t = *it->second->owner;
  t.uids.give(it->second->uid_first);
  boxes_.erase(it);
  --t.boxes;
  tryFinishTemplate(t.key);
}

// mayflyd is gone: every box ends, then we do.
void Spawner::shutDown() {
  if (stopping_) return;
  stopping_ = true;
  stop_deadline_ns_ = monotonicNs() + kStopMsMax * kMsNs;
  unwatch(daemon_);
  std::vector<BoxId> ids;
  for (const auto& [id, box] : boxes_) ids.push_back(id);
  for (BoxId id : ids)
    if (auto it = boxes_.find(id); it != boxes_.end() && !it->second->ending) beginEnd(*it->second);
}

// --- the loop ----------------------------------------------------------------

int Spawner::msUntilNextTimer() const {
  uint64_t next = UINT64_MAX;
  for (const auto& [id, box] : boxes_) {
    if (!box->ending) continue;
    if (box->next_try_ns != 0) next = std::min(next, box->next_try_ns);
    if (box->stage != Stage::stuck) next = std::min(next, box->deadline_ns);
  }
  if (next == UINT64_MAX) return -1;
  uint64_t now = monotonicNs();
  return next <= now ? 0 : static_cast<int>(std::min<uint64_t>((next - now + kMsNs - 1) / kMsNs, 1'000));
}

void Spawner::runTimers() {
  uint64_t now = monotonicNs();
  std::vector<BoxId> due;
  for (const auto& [id, box] : boxes_)
    if (box->ending && ((box->next_try_ns != 0 && box->next_try_ns <= now) ||
                        (box->stage != Stage::stuck && box->deadline_ns <= now)))
      due.push_back(id);
  for (BoxId id : due) {
    Box& box = *boxes_[id];
    bool late = box.stage != Stage::stuck && box.deadline_ns <= now;
    box.next_try_ns = 0;
    switch (box.stage) {
      case Stage::reaping:
        if (late) {
          reportStuck(box, box.init_asked || box.clone_asked ? "the template's maker or zygote does not answer"
                           : box.init || box.clone             ? "killed, but not reaped"
                                                               : "reaped, but its cgroup is populated");
          box.stage = Stage::stuck;
        }
        tryFinishReaping(box);
        break;
      case Stage::collecting:
        box.collect_state = CollectState::timedOut;
        box.deadline_ns = now + kReapMsMax * kMsNs;
        signalKill(box.collector);
        break;
      case Stage::removing:
        if (late) {
          reportStuck(box, "a cgroup of the box is busy");
          box.stage = Stage::stuck;
        }
        tryRemove(box);
        break;
      case Stage::stuck:
        if (box.result.fds_closed_ns != 0) tryRemove(box);
        else tryFinishReaping(box);
        break;
      default: break;
    }
  }
}

void Spawner::dispatch(Source source, uint64_t id, uint32_t) {
  if (source == Source::daemon) {
    flushOutbox();
    if (!readRequests()) shutDown();
    return;
  }
  if (source <= Source::zygoteChannel) {
    auto it = templates_.find(static_cast<uint32_t>(id));
    if (it == templates_.end()) return;
    Template& t = *it->second;
    switch (source) {
      case Source::templatePid1: return onTemplateDeath(t, "pid 1");
      case Source::maker: return onTemplateDeath(t, "maker");
      case Source::zygote: return onTemplateDeath(t, "zygote");
      case Source::makerChannel: return onMakerMessage(t);
      default: return onZygoteMessage(t);
    }
  }
  auto it = boxes_.find(id);
  if (it == boxes_.end()) return;
  Box& box = *it->second;
  switch (source) {
    case Source::initStatus: return onInitStatus(box);
    case Source::init: return onInitExit(box);
    case Source::clone: return onCloneExit(box);
    case Source::memoryCap: return onCapEvent(box, Cap::memory);
    case Source::processCap: return onCapEvent(box, Cap::processes);
    case Source::collector: return onCollectorExit(box);
    default: return;
  }
}

Result<std::unique_ptr<Spawner>> Spawner::start(Fd daemon, const Options& options) {
  std::unique_ptr<Spawner> s(new Spawner);
  s->options_ = options;
  s->daemon_ = std::move(daemon);
  MAYFLY_CHECK(base::setNonblocking(s->daemon_.view()));
  s->epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!s->epoll_) return failSys(errno, "epoll_create1", "the spawner");
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGUSR1, SIGUSR2}) ::signal(signal, SIG_IGN);
  MAYFLY_TRY(s->tree_, CgroupTree::open(options.instance));
  MAYFLY_TRY(s->room_, enterRoom(options.images_dir));
  MAYFLY_CHECK(dropToLeast());
  s->watch(s->daemon_.get(), EPOLLIN, Source::daemon, 0);
  Event hello;
  hello.kind = Kind::hello;
  hello.at_ns = monotonicNs();
  setText(hello, "", fmt::format("capabilities: {}; cgroups: {}", describeCapabilities(), s->tree_.describe()));
  s->send(hello);
  return s;
}

int Spawner::run() {
  epoll_event events[kEventsMax];
  while (!stopping_ || !boxes_.empty()) {
    int n = ::epoll_wait(epoll_.get(), events, kEventsMax, msUntilNextTimer());
    if (n < 0 && errno != EINTR) return 1;
    for (int i = 0; i < n; ++i)
      dispatch(static_cast<Source>(events[i].data.u64 >> 56), events[i].data.u64 & ((1ull << 56) - 1), events[i].events);
    runTimers();
    if (stopping_ && monotonicNs() > stop_deadline_ns_) break;
  }
  while (!templates_.empty()) {
    Template& t = *templates_.begin()->second;
    t.retiring = t.told_gone = true;
    t.boxes = 0;
    tryFinishTemplate(t.key);
  }
  tree_.remove();
  return 0;
}

}  // namespace mayfly::spawner
