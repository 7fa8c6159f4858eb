// The allow-list of a process's system calls, in force from the moment at which it serves.
//
// Layer: walls. Called once, by the only thread.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::walls {

enum class OnCall : uint8_t {
  allow,
  missing,      // ENOSYS, as on an older kernel: the C library then makes another call
  readOnly,     // open: nothing is made or written
  dataOnly,     // memory: none that can be executed
  threadOnly,   // clone: a thread of this process, in its own namespaces
  someOptions,  // fcntl, ioctl: only the commands that the table in call_list.cc names
  internet,     // socket: IPv4, IPv6, and routes of NETLINK, which the C library asks for
  ourselves,    // a signal to the process itself
  end,          // an exploit's call and no correct program's: the kernel ends the process
};
struct KnownCall {
  std::string_view name;
  OnCall on;
};

// The calls that no process of ours makes once it serves: new programs and the ways out of a
// confined process. Each list ends with them.
std::span<const KnownCall> endingCalls();

// Every call that is in neither `calls` nor endingCalls() fails with EPERM, and its name goes to
// the log, once: a call that a table lacks by mistake ends no task, and does not stay hidden.
// For all threads and for good; needs no_new_privs. The lines about refused calls go to `log`,
// which should be non-blocking and stays open; they begin with `who`, a literal. A build with a
// sanitizer has no list, because the sanitizer makes calls of its own.
base::Status allowOnly(std::span<const KnownCall> calls, std::string_view who, base::FdView log);

}  // namespace mayfly::walls
