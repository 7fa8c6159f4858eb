#include "spawner/spawner.h"

#include <errno.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>

#include "base/clock.h"
#include "spawner/child.h"
#include "wire/check.h"

namespace mayfly::spawner {

using base::Fd;
using base::monotonicNs;
using base::Result;
using wire::Checked;
using wire::Op;

namespace {

constexpr size_t kRequestsMax = 1'024;  // read ahead; more wait in the socket
constexpr uint64_t kStopMsMax = 5'000;  // after mayflyd's end
constexpr int kExitLeft = 3;

// The kernel bounds pending signals and message queues of a user namespace by the limits of its
// creator, and counts them up to the host's root; so the spawner halves its limits and leaves the
// other half to the host's root.
void leaveHalfToTheHost() {
  for (auto resource : {RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE}) {
    rlimit limit;
    if (::getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) continue;
    limit.rlim_cur /= 2;
    (void)::setrlimit(resource, &limit);
  }
}

}  // namespace

Spawner::Spawner(Fd daemon, const Options& options)
    : daemon_(std::move(daemon)),
      out_(daemon_.view(), poller_),
      zygotes_(poller_, out_, room_, tree_, options.uid_slot),
      boxes_(poller_, out_, tree_, zygotes_),
      lock_watch_(poller_, options.instance,
                  [this](base::BoxId box) { boxes_.onTooManyLocks(box); }) {
  zygotes_.setClient(boxes_);
  zygotes_.setReaper([this] { reapStrays(); });
  boxes_.setReaper([this] { reapStrays(); });
}

Result<std::unique_ptr<Spawner>> Spawner::start(Fd daemon, const Options& options) {
  MAYFLY_CHECK(base::setNonblocking(daemon.view()));
  std::unique_ptr<Spawner> s(new Spawner(std::move(daemon), options));
  MAYFLY_CHECK(s->poller_.open());
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGUSR1, SIGUSR2, SIGALRM})
    ::signal(signal, SIG_IGN);
  leaveHalfToTheHost();
  MAYFLY_TRY(s->tree_, CgroupTree::open(options.instance));
  MAYFLY_TRY(Fd kill, s->tree_.enter());
  MAYFLY_TRY(s->room_, enterRoom(options.images_dir));
  MAYFLY_CHECK(dropToLeast());
  MAYFLY_CHECK(s->poller_.watch(s->daemon_.view(), EPOLLIN, Source::daemon, 0));
  wire::Event hello;
  hello.kind = wire::Kind::hello;
  hello.at_ns = monotonicNs();
  setText(
      hello, "",
      fmt::format("capabilities: {}; cgroups: {}", describeCapabilities(), s->tree_.describe()));
  const int fds[] = {kill.get()};
  s->out_.send(hello, fds);
  return s;
}

// --- what mayflyd asks for -----------------------------------------------------------

// A claim, a SIGTERM and a ping are done at once; slower requests (making and ending boxes) wait
// their turn.
// False: mayflyd is gone, or has another version of the protocol.
bool Spawner::readRequests() {
  while (requests_.size() < kRequestsMax) {
    wire::Request request;
    auto got = base::receiveMessage(daemon_.view(), base::writableBytesOf(request));
    if (!got) return got.error().sys == EAGAIN;
    const Checked checked = wire::check(request, got->bytes, got->fds);
    if (checked.fault == Checked::Fault::language) return false;
    const char* unsound = checked.fault == Checked::Fault::content ? checked.what : nullptr;
    if (request.op == Op::ping)
      pong();
    else if (request.op == Op::claim || request.op == Op::terminate)
      boxes_.on(request, *got, unsound);
    else
      requests_.push_back({request, std::move(*got), unsound});
  }
  return true;
}

void Spawner::pong() {
  wire::Event event;
  event.kind = wire::Kind::pong;
  event.at_ns = monotonicNs();
  out_.send(event);
}

void Spawner::doOneRequest() {
  auto [request, fds, unsound] = std::move(requests_.front());
  requests_.pop_front();
  switch (request.op) {
    case Op::publish:
      return unsound != nullptr ? zygotes_.refuse(request, "request", unsound)
                                : zygotes_.publish(request, fds);
    case Op::retire:
      return zygotes_.retire(request.zygote_id);
    default:
      return boxes_.on(request, fds, unsound);
  }
}

// mayflyd is gone: every box ends, then the spawner.
void Spawner::shutDown() {
  if (stopping_) return;
  stopping_ = true;
  stop_deadline_ns_ = monotonicNs() + kStopMsMax * kMsNs;
  poller_.unwatch(daemon_.view());
  out_.close();
  requests_.clear();
  boxes_.endAll();
}

// --- the loop ----------------------------------------------------------------

// A maker or zygote may die between its fork and its answer. Then the spawner has to reap the
// child, whose box's pid 1 can't end before it, but has no pidfd of it.
void Spawner::reapStrays() {
  for (;;) {
    siginfo_t info{};
    if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) != 0 || info.si_pid == 0)
      return;
    const auto pid = static_cast<uint32_t>(info.si_pid);
    auto is = [pid](const Fd& process) { return process && pidOf(process) == pid; };
    if (boxes_.owns(is) || zygotes_.owns(is) || lock_watch_.owns(is))
      return;  // its own event comes first
    ::waitid(P_PID, static_cast<id_t>(info.si_pid), &info, WEXITED | WNOHANG | __WALL);
  }
}

int Spawner::msUntilNextTimer() const {
  uint64_t next = std::min(
      {boxes_.nextTimer(), zygotes_.nextTimer(), lock_watch_.nextTimer(boxes_.tasksRun())});
  if (stopping_) next = std::min(next, stop_deadline_ns_);
  if (next == UINT64_MAX) return -1;
  const uint64_t now = monotonicNs();
  return next <= now
             ? 0
             : static_cast<int>(std::min<uint64_t>((next - now + kMsNs - 1) / kMsNs, 1'000));
}

void Spawner::dispatch(Source source, uint64_t id) {
  if (source == Source::daemon) {
    out_.flush();
    if (!stopping_ && !readRequests()) shutDown();
  } else if (source == Source::lockWatch) {
    lock_watch_.onEvent();
  } else if (isOfZygote(source)) {
    zygotes_.onEvent(source, static_cast<uint32_t>(id));
  } else {
    boxes_.onEvent(source, id);
  }
}

bool Spawner::step(int wait_ms) {
  if (!poller_.wait(requests_.empty() ? wait_ms : 0,
                    [this](Source source, uint64_t id) { dispatch(source, id); }))
    return false;
  if (!requests_.empty()) doOneRequest();
  boxes_.runTimers();
  zygotes_.runTimers();
  lock_watch_.runTimer(boxes_.tasksRun());
  if (out_.broken()) shutDown();
  if (!stopping_) return true;
  late_ = monotonicNs() > stop_deadline_ns_;
  if (boxes_.empty() || late_) zygotes_.retireAll();  // the next start sweeps what is stuck
  return true;
}

int Spawner::run() {
  while (!done())
    if (!step(msUntilNextTimer())) return 1;
  tree_.remove();
  return boxes_.empty() && zygotes_.empty() ? 0 : kExitLeft;
}

}  // namespace mayfly::spawner
