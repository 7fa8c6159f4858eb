#include "spawner/spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "spawner/child.h"
#include "wire/check.h"

namespace mayfly::spawner {

using base::BoxId;
using base::failSys;
using base::monotonicNs;
using base::Result;

namespace {

constexpr int kEventsMax = 64;          // epoll events taken at once
constexpr size_t kRequestsMax = 1'024;  // read ahead; more wait in the socket
constexpr uint64_t kStopMsMax = 5'000;  // after mayflyd's end

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

// A claim is done at once; making and ending boxes, which take longer, wait their turn.
// False: mayflyd is gone, or speaks another language.
bool Spawner::readRequests() {
  while (requests_.size() < kRequestsMax) {
    Request request;
    auto got = base::receiveMessage(daemon_.view(), base::writableBytesOf(request));
    if (!got) return got.error().sys == EAGAIN;
    const Checked checked = check(request, got->bytes, got->fds);
    if (checked.fault == Checked::Fault::language) return false;
    if (checked.fault == Checked::Fault::content && !onUnsound(request, checked.what)) continue;
    if (request.op == Op::claim)
      claim(request);
    else
      requests_.emplace_back(request, std::move(*got));
  }
  return true;
}

// What no sound mayflyd asks for. True: it is done nevertheless, as far as it is sound.
bool Spawner::onUnsound(const Request& request, const char* what) {
  Event failed;
  failed.box = request.box;
  failed.zygote_id = request.zygote_id;
  failed.at_ns = monotonicNs();
  setText(failed, "request", what);
  auto found = boxes_.find(request.box);
  switch (request.op) {
    case Op::publish:
      failed.kind = Kind::zygoteFailed;
      break;
    case Op::make:
      failed.kind = Kind::boxFailed;
      break;
    case Op::clone:
    case Op::claim:
      if (found != boxes_.end() && !found->second->ending) sendBoxDied(*found->second, what);
      return false;
    case Op::end:  // nothing is collected
    case Op::retire:
    case Op::sample:
      return true;
  }
  send(failed);
  return false;
}

void Spawner::doOneRequest() {
  auto [request, fds] = std::move(requests_.front());
  requests_.pop_front();
  switch (request.op) {
    case Op::publish:
      return publish(request, fds);
    case Op::retire:
      return retire(request.zygote_id);
    case Op::make:
      return make(request);
    case Op::clone:
      return clone(request);
    case Op::end:
      return end(request, fds);
    case Op::sample:
      return sample(request.box);
    case Op::claim:
      return;
  }
}

// mayflyd is gone: every box ends, then we do.
void Spawner::shutDown() {
  if (stopping_) return;
  stopping_ = true;
  stop_deadline_ns_ = monotonicNs() + kStopMsMax * kMsNs;
  unwatch(daemon_);
  requests_.clear();
  std::vector<BoxId> ids;
  for (const auto& [id, box] : boxes_) ids.push_back(id);
  for (BoxId id : ids)
    if (auto it = boxes_.find(id); it != boxes_.end() && !it->second->ending) beginEnd(*it->second);
}

// Nobody is told any more. Boxes that are stuck are left to the next start's sweep.
void Spawner::retireAll() {
  std::vector<uint32_t> keys;
  for (const auto& [key, t] : templates_)
    if (t->end_deadline_ns == 0) keys.push_back(key);
  for (uint32_t key : keys) {
    Template& t = *templates_.at(key);
    t.retiring = t.told_gone = true;
    t.boxes = 0;
    tryFinishTemplate(key);
  }
}

// --- the loop ----------------------------------------------------------------

int Spawner::msUntilNextTimer() const {
  uint64_t next = UINT64_MAX;
  for (BoxId id : ending_) {
    const Box& box = *boxes_.at(id);
    if (box.next_try_ns != 0) next = std::min(next, box.next_try_ns);
    if (box.stage != Stage::stuck) next = std::min(next, box.deadline_ns);
  }
  uint64_t now = monotonicNs();
  for (const auto& [key, t] : templates_)
    if (t->end_deadline_ns != 0) next = std::min(next, now + kMsNs);
  if (next == UINT64_MAX) return -1;
  return next <= now
             ? 0
             : static_cast<int>(std::min<uint64_t>((next - now + kMsNs - 1) / kMsNs, 1'000));
}

void Spawner::runTimers() {
  uint64_t now = monotonicNs();
  std::vector<BoxId> due;
  for (BoxId id : ending_) {
    const Box& box = *boxes_.at(id);
    if ((box.next_try_ns != 0 && box.next_try_ns <= now) ||
        (box.stage != Stage::stuck && box.deadline_ns <= now))
      due.push_back(id);
  }
  for (BoxId id : due) {
    Box& box = *boxes_[id];
    bool late = box.stage != Stage::stuck && box.deadline_ns <= now;
    box.next_try_ns = 0;
    switch (box.stage) {
      case Stage::reaping:
        if (late) {
          reportStuck(box, box.init_asked || box.clone_asked
                               ? "the template's maker or zygote does not answer"
                           : box.init || box.clone ? "killed, but not reaped"
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
      case Stage::freeing:
        reportStuck(box, "its disk is not freed yet");
        box.deadline_ns = UINT64_MAX;
        break;
      case Stage::removing:
        if (late) {
          reportStuck(box, "a cgroup of the box is busy");
          box.stage = Stage::stuck;
        }
        tryRemove(box);
        break;
      case Stage::stuck:
        if (box.result.fds_closed_ns != 0)
          tryRemove(box);
        else
          tryFinishReaping(box);
        break;
      default:
        break;
    }
  }
  std::vector<uint32_t> ended;
  for (const auto& [key, t] : templates_)
    if (t->end_deadline_ns != 0) ended.push_back(key);
  for (uint32_t key : ended) tryFinishTemplate(key);
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
      case Source::templatePid1:
        return onTemplateDeath(t, "pid 1");
      case Source::maker:
        return onTemplateDeath(t, "maker");
      case Source::zygote:
        return onTemplateDeath(t, "zygote");
      case Source::makerChannel:
        return onMakerMessage(t);
      default:
        return onZygoteMessage(t);
    }
  }
  auto it = boxes_.find(id);
  if (it == boxes_.end()) return;
  Box& box = *it->second;
  switch (source) {
    case Source::initStatus:
      return onInitStatus(box);
    case Source::init:
      return onInitExit(box);
    case Source::clone:
      return onCloneExit(box);
    case Source::memoryCap:
      return onCapEvent(box, Cap::memory);
    case Source::processCap:
      return onCapEvent(box, Cap::processes);
    case Source::collector:
      return onCollectorExit(box);
    default:
      return;
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
  setText(
      hello, "",
      fmt::format("capabilities: {}; cgroups: {}", describeCapabilities(), s->tree_.describe()));
  s->send(hello);
  return s;
}

int Spawner::run() {
  epoll_event events[kEventsMax];
  while (!stopping_ || !boxes_.empty() || !templates_.empty()) {
    int n =
        ::epoll_wait(epoll_.get(), events, kEventsMax, requests_.empty() ? msUntilNextTimer() : 0);
    if (n < 0 && errno != EINTR) return 1;
    for (int i = 0; i < n; ++i)
      dispatch(static_cast<Source>(events[i].data.u64 >> 56),
               events[i].data.u64 & ((1ull << 56) - 1), events[i].events);
    if (!requests_.empty()) doOneRequest();
    runTimers();
    if (!stopping_) continue;
    const bool late = monotonicNs() > stop_deadline_ns_;
    if (boxes_.empty() || late) retireAll();
    if (late) break;
  }
  tree_.remove();
  return 0;
}

}  // namespace mayfly::spawner
