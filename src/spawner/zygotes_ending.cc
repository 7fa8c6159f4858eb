// The end of a zygote, and the deadlines of all its stages.
#include <fmt/format.h>
#include <sys/epoll.h>

#include <algorithm>

#include "base/clock.h"
#include "spawner/child.h"
#include "spawner/zygotes.h"

namespace mayfly::spawner {

using base::Code;
using base::Error;
using base::Fd;
using base::monotonicNs;
using wire::Event;
using wire::Kind;
using Stage = ZygoteStage;

namespace {

constexpr uint64_t kTryMs = 1;        // between two checks of an end
constexpr uint64_t kLateTryMs = 500;  // the same, once it was reported as stuck

}  // namespace

// --- its end ---------------------------------------------------------------------------

// No more boxes are made of it, and its processes are killed.
void Zygotes::drain(Zygote& z) {
  if (z.start) poller_.unwatch(z.start->report.view());
  z.start.reset();
  poller_.unwatch(z.maker_channel.view());
  if (z.source) poller_.unwatch(z.source->answers());
  z.stage = Stage::draining;
  z.deadline_ns = 0;
  killProcesses(z, Kill::all);
  signalKill(z.helper);
}

// The kernel ends pid 1 after all other processes of its namespace are reaped: maker, zygote and
// strays. Until then the timer tries again, and no other zygote's box waits for it.
void Zygotes::tryEnd(Zygote& z) {
  if (z.stage == Stage::draining && z.boxes == 0) {
    z.stage = Stage::ending;
    z.deadline_ns = inMs(kReapMsMax);
    for (const Fd* fd : {&z.pid1, &z.maker, &z.zygote, &z.helper}) poller_.unwatch(fd->view());
    killProcesses(z, Kill::all);
  }
  if (z.stage != Stage::ending) return;
  for (Fd* process : {&z.zygote, &z.maker, &z.helper})
    if (*process) (void)reap(*process, poller_);
  reap_strays_();
  if (z.pid1) (void)reap(z.pid1, poller_);
  if (z.pid1 || z.maker || z.zygote || z.helper) {
    z.next_try_ns = inMs(z.deadline_ns == kNever ? kLateTryMs : kTryMs);
    return;
  }
  beginUnmount(z);
}

void Zygotes::beginUnmount(Zygote& z) {
  z.stage = Stage::unmounting;
  z.next_try_ns = 0;
  z.pid1_channel.reset();
  z.helper_said.reset();
  z.lease.reset();
  auto helper = startUnmount(z.imagePath());
  if (!helper) {
    z.next_try_ns = inMs(kLateTryMs);
    return;
  }
  z.helper = std::move(*helper);
  if (!poller_.watch(z.helper.view(), EPOLLIN, Source::helper, z.key))
    z.next_try_ns = inMs(kLateTryMs);
}

void Zygotes::tryRemove(Zygote& z) {
  z.stage = Stage::removing;
  if (auto removed = removeCgroups(z); !removed) {
    z.next_try_ns = inMs(z.deadline_ns == kNever ? kLateTryMs : kTryMs);
    return;
  }
  tellLast(z, "retired");
  slots_used_[z.slot] = false;
  zygotes_.erase(z.key);
}

void Zygotes::tellGone(Zygote& z, const char* step, const std::string& text) {
  Event event;
  event.kind = Kind::zygoteGone;
  event.zygote_id = z.id;
  event.at_ns = monotonicNs();
  setText(event, step, text);
  out_.send(event);
  z.told = true;
}

void Zygotes::tellLast(Zygote& z, const std::string& text) {
  if (z.told) return;
  if (!z.failure) return tellGone(z, "", text);
  Event event;
  event.kind = Kind::zygoteFailed;
  event.zygote_id = z.id;
  event.sys = z.failure->error.sys;
  event.at_ns = monotonicNs();
  setText(event, z.failure->step, z.failure->error.message);
  out_.send(event);
  z.told = true;
}

// --- its deadlines ------------------------------------------------------------------------

// A start that is late fails. An end that is late is reported at once and tried again until it
// succeeds; the slot stays in use until then.
void Zygotes::onLate(Zygote& z) {
  auto late = [](const std::string& what, uint64_t ms) {
    return Error{Code::deadlineExceeded, fmt::format("{} within {} ms", what, ms), {}, 0};
  };
  if (z.stage == Stage::mounting)
    return failStart(z, "image", late("the image was not mounted", kMountMsMax));
  if (isStarting(z.stage)) {
    const std::string who = nameOfStarted(z.stage);
    return failStart(z, who, late(who + " did not start", kStartMsMax));
  }
  z.deadline_ns = kNever;
  tellLast(z, z.stage == Stage::ending       ? "retired, but its processes do not end"
              : z.stage == Stage::unmounting ? "retired, but its image is not unmounted yet"
                                             : "retired, but a cgroup of it is busy");
}

uint64_t Zygotes::nextTimer() const {
  uint64_t next = UINT64_MAX;
  for (const auto& [key, z] : zygotes_) {
    if (z->deadline_ns != 0) next = std::min(next, z->deadline_ns);
    if (z->next_try_ns != 0) next = std::min(next, z->next_try_ns);
  }
  return next;
}

void Zygotes::runTimers() {
  const uint64_t now = monotonicNs();
  std::vector<uint32_t> due;
  for (const auto& [key, z] : zygotes_)
    if ((z->deadline_ns != 0 && z->deadline_ns <= now) ||
        (z->next_try_ns != 0 && z->next_try_ns <= now))
      due.push_back(key);
  for (uint32_t key : due) {
    Zygote& z = *zygotes_.at(key);
    if (z.deadline_ns != 0 && z.deadline_ns <= now) onLate(z);
    auto it = zygotes_.find(key);
    if (it == zygotes_.end() || z.next_try_ns == 0 || z.next_try_ns > now) continue;
    z.next_try_ns = 0;
    if (z.stage == Stage::ending)
      tryEnd(z);
    else if (z.stage == Stage::unmounting)
      beginUnmount(z);
    else if (z.stage == Stage::removing)
      tryRemove(z);
  }
}

bool Zygotes::owns(const std::function<bool(const Fd&)>& is) const {
  return std::any_of(zygotes_.begin(), zygotes_.end(), [&](const auto& each) {
    const Zygote& z = *each.second;
    return is(z.pid1) || is(z.maker) || is(z.zygote) || is(z.helper);
  });
}

}  // namespace mayfly::spawner
