// Layer: builder. See driver.h.
#include "builder/driver.h"

#include <errno.h>
#include <fmt/format.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <span>

#include "base/clock.h"
#include "base/text.h"
#include "walls/privileges.h"

namespace mayfly::builder {

using base::Code;
using base::monotonicNs;
using wire::Event;
using wire::Kind;
using wire::Op;

namespace {

constexpr uint64_t kHelloNsMax = 20 * kSecondNs;
constexpr size_t kHeardMax = 1'024;

std::string textOf(const Event& e) {
  std::string text = base::printable(e.step);
  const std::string more = base::printable(e.text, sizeof e.text);
  if (!more.empty()) text += (text.empty() ? "" : ": ") + more;
  return text;
}

// Waits until one of them is readable, or has ended.
base::Status awaitAny(std::span<pollfd> fds, uint64_t deadline_ns, const char* what) {
  for (;;) {
    const uint64_t now = monotonicNs();
    const int ms =
        now >= deadline_ns
            ? 0
            : static_cast<int>(std::min<uint64_t>((deadline_ns - now) / 1'000'000 + 1, 60'000));
    const int n = ::poll(fds.data(), fds.size(), ms);
    if (n > 0) return base::Unit{};
    if (n < 0 && errno != EINTR) return base::failSys(errno, "poll", what);
    if (monotonicNs() >= deadline_ns)
      return base::fail(Code::deadlineExceeded, std::string(what) + " did not come in time");
  }
}

}  // namespace

base::Status awaitReadable(base::FdView fd, uint64_t deadline_ns, const char* what) {
  pollfd one{fd.get(), POLLIN, 0};
  return awaitAny({&one, 1}, deadline_ns, what);
}

base::Result<std::vector<std::string>> readAllOf(const std::vector<base::FdView>& fds,
                                                 size_t bytes_max, uint64_t deadline_ns,
                                                 const char* what) {
  std::vector<std::string> texts(fds.size());
  std::vector<pollfd> polled;
  for (base::FdView fd : fds) polled.push_back({fd.get(), POLLIN, 0});
  char buffer[16'384];
  for (size_t open = fds.size(); open > 0;) {
    MAYFLY_CHECK(awaitAny(polled, deadline_ns, what));
    for (size_t i = 0; i < polled.size(); ++i) {
      if (polled[i].fd < 0 || polled[i].revents == 0) continue;
      const ssize_t n = ::read(polled[i].fd, buffer, sizeof buffer);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return base::failSys(errno, "read", what);
      if (n == 0) {
        polled[i].fd = -1;  // poll passes over it
        --open;
        continue;
      }
      if (texts[i].size() + static_cast<size_t>(n) > bytes_max)
        return base::fail(Code::resourceExhausted, std::string(what) + " is too long");
      texts[i].append(buffer, static_cast<size_t>(n));
    }
  }
  return texts;
}

base::Result<std::string> readAll(base::FdView fd, size_t bytes_max, uint64_t deadline_ns,
                                  const char* what) {
  MAYFLY_TRY(auto texts, readAllOf({fd}, bytes_max, deadline_ns, what));
  return std::move(texts[0]);
}

base::Result<Driver> Driver::start(const std::string& executable_dir,
                                   const std::string& state_dir) {
  Driver d;
  MAYFLY_CHECK(walls::raiseOpenFiles());
  MAYFLY_TRY(d.slot_, app::takeUidSlot(app::kSlotsDir));
  MAYFLY_TRY(d.spawner_, walls::startProgram(
                             {executable_dir + "/mayfly-spawner", "--instance",
                              fmt::format("snapshot-{}", ::getpid()), "--images",
                              state_dir + "/images", "--uid-slot", std::to_string(d.slot_.number)},
                             {d.slot_.lock.view()}));
  MAYFLY_CHECK(d.await(monotonicNs() + kHelloNsMax, "the spawner's first word",
                       [](const Event& e) { return e.kind == Kind::hello; }));
  return d;
}

base::Status Driver::send(const wire::Request& request, const std::vector<int>& fds) {
  return base::sendMessage(spawner_.channel.view(), base::bytesOf(request), fds);
}

// Reads one event.
base::Status Driver::hear(uint64_t deadline_ns, const char* what) {
  MAYFLY_CHECK(awaitReadable(spawner_.channel.view(), deadline_ns, what));
  Heard one;
  MAYFLY_TRY(one.fds,
             base::receiveMessage(spawner_.channel.view(), base::writableBytesOf(one.event)));
  if (one.fds.bytes != sizeof one.event || heard_.size() >= kHeardMax)
    return base::fail(Code::internal, "the spawner ended",
                      "Its reason is in the lines before this one.");
  heard_.push_back(std::move(one));
  return base::Unit{};
}

template <class Wanted>
base::Result<Driver::Heard> Driver::await(uint64_t deadline_ns, const char* what, Wanted wanted) {
  for (size_t seen = 0;;) {
    for (; seen < heard_.size(); ++seen) {
      if (!wanted(heard_[seen].event)) continue;
      Heard found = std::move(heard_[seen]);
      heard_.erase(heard_.begin() + static_cast<ptrdiff_t>(seen));
      return found;
    }
    MAYFLY_CHECK(hear(deadline_ns, what));
  }
}

base::Status Driver::publish(wire::Request request, const std::vector<int>& fds,
                             uint64_t deadline_ns) {
  request.op = Op::publish;
  MAYFLY_CHECK(send(request, fds));
  MAYFLY_TRY(Heard heard, await(deadline_ns, "the zygote", [&](const Event& e) {
               return e.zygote_id == request.zygote_id && e.kind >= Kind::zygoteReady &&
                      e.kind <= Kind::zygoteGone;
             }));
  if (heard.event.kind == Kind::zygoteReady) return base::Unit{};
  return base::fail(Code::failedPrecondition, textOf(heard.event));
}

base::Status Driver::make(base::ZygoteId zygote, base::BoxId id, const base::Limits& limits,
                          uint32_t flags) {
  wire::Request r;
  r.op = Op::make;
  r.box = id;
  r.zygote_id = zygote;
  r.limits = limits;
  r.flags = flags;
  return send(r);
}

base::Result<Box> Driver::awaitMade(base::BoxId id, uint64_t deadline_ns) {
  MAYFLY_TRY(Heard heard, await(deadline_ns, "a box", [id](const Event& e) {
               return e.box == id && (e.kind == Kind::boxMade || e.kind == Kind::boxFailed);
             }));
  if (heard.event.kind == Kind::boxFailed)
    return base::fail(Code::failedPrecondition, textOf(heard.event));
  Box box;
  box.id = id;
  box.control = std::move(heard.fds.fd[0]);
  box.in = std::move(heard.fds.fd[1]);
  box.out = std::move(heard.fds.fd[2]);
  box.err = std::move(heard.fds.fd[3]);
  return box;
}

void Driver::claim(base::BoxId id, const base::Limits& limits) {
  wire::Request r;
  r.op = Op::claim;
  r.box = id;
  r.limits = limits;
  r.claimed_ns = monotonicNs();
  (void)send(r);  // a spawner that is gone is seen at the next wait
}

base::Result<Exit> Driver::awaitExit(base::BoxId id, uint64_t deadline_ns) {
  MAYFLY_TRY(Heard heard, await(deadline_ns, "the end of a clone", [id](const Event& e) {
               return e.box == id && (e.kind == Kind::cloneExited || e.kind == Kind::boxDied);
             }));
  if (heard.event.kind == Kind::boxDied)
    return base::fail(Code::failedPrecondition, textOf(heard.event));
  return Exit{heard.event.exit_code, heard.event.exit_status};
}

base::Status Driver::end(base::BoxId id, uint64_t deadline_ns) {
  wire::Request r;
  r.op = Op::end;
  r.box = id;
  MAYFLY_CHECK(send(r));
  MAYFLY_TRY(Heard heard, await(deadline_ns, "the end of a box", [id](const Event& e) {
               return e.box == id && e.kind == Kind::boxGone;
             }));
  if (heard.event.complete == 1) return base::Unit{};
  return base::fail(Code::internal, "a box is not gone: " + textOf(heard.event));
}

base::Status Driver::retire(base::ZygoteId zygote, uint64_t deadline_ns) {
  wire::Request r;
  r.op = Op::retire;
  r.zygote_id = zygote;
  MAYFLY_CHECK(send(r));
  MAYFLY_CHECK(await(deadline_ns, "the end of a zygote", [zygote](const Event& e) {
    return e.zygote_id == zygote && e.box == 0 && e.kind == Kind::zygoteGone;
  }));
  return base::Unit{};
}

std::optional<std::string> Driver::lostText(base::BoxId id) {
  for (const Heard& one : heard_)
    if (one.event.box == id &&
        (one.event.kind == Kind::boxFailed || one.event.kind == Kind::boxDied))
      return textOf(one.event);
  return std::nullopt;
}

}  // namespace mayfly::builder
