// The descriptors that the spawner's loop waits for, each with the source of its events.
//
// Layer: spawner. One thread. Never blocks but in wait().
#pragma once

#include <errno.h>
#include <sys/epoll.h>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::spawner {

// The source of an event; the id of its box or zygote comes with it.
enum class Source : uint8_t {
  lockWatch,
  daemon,
  // of a zygote
  pid1,
  maker,
  makerChannel,
  zygote,
  cloneSource,  // an answer from it
  start,        // the last message of a child before its exec
  helper,       // the process that mounts or unmounts its image
  // of a box
  initStatus,
  init,
  clone,
  memoryCap,
  processCap,
  collector  // or the process that frees its disk
};
inline bool isOfZygote(Source source) {
  return source > Source::daemon && source < Source::initStatus;
}

class Poller {
 public:
  base::Status open() {
    epoll_ = base::Fd(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll_) return base::failSys(errno, "epoll_create1", "the spawner");
    return base::Unit{};
  }

  // Fails if memory is short or the descriptor can't be polled; the error belongs to the
  // descriptor's owner.
  [[nodiscard]] base::Status watch(base::FdView fd, uint32_t events, Source source, uint64_t id) {
    if (control(EPOLL_CTL_ADD, fd, events, source, id) != 0)
      return base::failSys(errno, "epoll_ctl", "a descriptor of the spawner's loop");
    return base::Unit{};
  }
  void change(base::FdView fd, uint32_t events, Source source, uint64_t id) {
    (void)control(EPOLL_CTL_MOD, fd, events, source, id);
  }
  void unwatch(base::FdView fd) {
    if (fd) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd.get(), nullptr);
  }

  // Calls `dispatch(source, id)` for each event; -1 waits for the first one. False: an error.
  template <class Dispatch>
  bool wait(int ms, Dispatch dispatch) {
    epoll_event events[kEventsMax];
    const int n = ::epoll_wait(epoll_.get(), events, kEventsMax, ms);
    for (int i = 0; i < n; ++i)
      dispatch(static_cast<Source>(events[i].data.u64 >> kIdBits), events[i].data.u64 & kIdMask);
    return n >= 0 || errno == EINTR;
  }

 private:
  static constexpr int kEventsMax = 64;  // taken per call
  static constexpr int kIdBits = 56;
  static constexpr uint64_t kIdMask = (uint64_t{1} << kIdBits) - 1;

  int control(int op, base::FdView fd, uint32_t events, Source source, uint64_t id) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = (static_cast<uint64_t>(source) << kIdBits) | id;
    return ::epoll_ctl(epoll_.get(), op, fd.get(), &event);
  }

  base::Fd epoll_;
};

}  // namespace mayfly::spawner
