// The allow-list of the daemon's system calls, in force from the moment at which it serves.
//
// Layer: app. Called once, by the only thread.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::app {

enum class OnCall : uint8_t {
  allow,
  readOnly,     // open: nothing is made or written
  dataOnly,     // memory: none that can be executed
  someOptions,  // only the commands that the table in system_calls.cc names
  ourselves,    // a signal to the daemon itself
  end,          // an exploit's call and no correct daemon's: the kernel ends the process
};
struct KnownCall {
  std::string_view name;
  OnCall on;
};
// Every other call fails with EPERM, and its name goes to the log, once: a call that this table
// lacks by mistake ends no task, and does not stay hidden.
std::span<const KnownCall> knownCalls();

// For all threads and for good; needs no_new_privs. The lines about refused calls go to `log`,
// which should be non-blocking and stays open. A build with a sanitizer has no list, because the
// sanitizer makes calls of its own.
base::Status allowOnlyServing(base::FdView log);

}  // namespace mayfly::app
