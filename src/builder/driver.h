// Drives a spawner of its own, without a daemon: zygotes and boxes for as long as a snapshot is
// made and tried out.
//
// Every wait has a deadline. The end of the driver ends its spawner, and so all that it made.
//
// Layer: builder. Needs root. One thread; blocks.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "app/instance.h"
#include "base/fd.h"
#include "base/result.h"
#include "base/task.h"
#include "walls/program.h"
#include "wire/spawner.h"

namespace mayfly::builder {

inline constexpr uint64_t kSecondNs = 1'000'000'000;

// A box's descriptors on this side.
struct Box {
  base::BoxId id = 0;
  base::Fd control, in, out, err;
};

struct Exit {
  int code = 0, status = 0;  // si_code, si_status
};

class Driver {
 public:
  static base::Result<Driver> start(const std::string& executable_dir,
                                    const std::string& state_dir);

  // Publishes and waits until the zygote serves, or says why it does not.
  base::Status publish(wire::Request request, const std::vector<int>& fds, uint64_t deadline_ns);
  base::Status make(base::ZygoteId zygote, base::BoxId id, const base::Limits& limits,
                    uint32_t flags);
  base::Result<Box> awaitMade(base::BoxId id, uint64_t deadline_ns);
  void claim(base::BoxId id, const base::Limits& limits);
  base::Result<Exit> awaitExit(base::BoxId id, uint64_t deadline_ns);
  // Ends the box, and waits for the proof that nothing of it is left.
  base::Status end(base::BoxId id, uint64_t deadline_ns);
  base::Status retire(base::ZygoteId zygote, uint64_t deadline_ns);

  // Why no box of it can be, if the spawner said so: it failed or died.
  std::optional<std::string> lostText(base::BoxId id);

 private:
  struct Heard {
    wire::Event event;
    base::Received fds;
  };
  Driver() = default;
  base::Status send(const wire::Request& request, const std::vector<int>& fds = {});
  base::Status hear(uint64_t deadline_ns, const char* what);
  template <class Wanted>
  base::Result<Heard> await(uint64_t deadline_ns, const char* what, Wanted wanted);

  app::UidSlot slot_;
  walls::Child spawner_;
  std::deque<Heard> heard_;  // not yet asked for
};

// Reads one fixed-size message of the clone's; an error if it closed its end.
template <class T>
base::Result<T> receive(base::FdView control, uint64_t deadline_ns, const char* what);
base::Status awaitReadable(base::FdView fd, uint64_t deadline_ns, const char* what);
// To the end, at most `bytes_max`.
base::Result<std::string> readAll(base::FdView fd, size_t bytes_max, uint64_t deadline_ns,
                                  const char* what);

// The same of several descriptors at once: whoever writes waits for none of them.
base::Result<std::vector<std::string>> readAllOf(const std::vector<base::FdView>& fds,
                                                 size_t bytes_max, uint64_t deadline_ns,
                                                 const char* what);

template <class T>
base::Result<T> receive(base::FdView control, uint64_t deadline_ns, const char* what) {
  MAYFLY_CHECK(awaitReadable(control, deadline_ns, what));
  T message;
  MAYFLY_TRY(base::Received got, base::receiveMessage(control, base::writableBytesOf(message)));
  if (faultOf(message, got.bytes, got.fds) != nullptr)
    return base::fail(base::Code::internal,
                      std::string(what) + (got.bytes == 0 ? ": it ended before" : ": broken"));
  return message;
}

}  // namespace mayfly::builder
