// Opens what a policy's [secrets] name, and starts their commands. Never reads a secret's bytes.
//
// A file must belong to root or the operator, and nobody else may read it; no part of its path is a
// symbolic link. A command runs as an unprivileged user in a process group of its own; a pipe's
// buffer holds all that it writes, so a command that writes more hangs until its time is over.
//
// Layer: supervisor. Short blocking calls. One thread.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <utility>

#include "base/fd.h"
#include "base/result.h"
#include "config/policy.h"

namespace mayfly::supervisor {

inline constexpr uint64_t kMsNs = 1'000'000;

struct SourceRules {
  uint32_t operator_uid = 0;    // whose files are read, beside root's
  uint32_t command_uid = 0;     // never 0
  std::string credentials_dir;  // systemd's; empty: there is none
};

// What tells a file from its former self.
struct Stamp {
  uint64_t device = 0, inode = 0, size = 0;
  int64_t modified_ns = 0, changed_ns = 0;
  bool operator==(const Stamp&) const = default;
};

Stamp stampOf(const struct stat& st);

struct Opened {
  base::Fd file;
  Stamp stamp;
};
base::Result<Opened> openSecret(const config::SecretSource& source, const SourceRules& rules);
// The policy: root's or the operator's, writable by nobody else.
base::Result<Opened> openPolicy(const std::string& path, const SourceRules& rules);

// One run of a command.
class Command {
 public:
  static base::Result<Command> start(const config::SecretSource& source, const SourceRules& rules,
                                     uint64_t now_ns);
  Command(Command&&) noexcept = default;
  Command& operator=(Command&& other) noexcept {
    kill();
    name_ = std::move(other.name_);
    time_ms_max_ = other.time_ms_max_, deadline_ns_ = other.deadline_ns_, pid_ = other.pid_;
    pidfd_ = std::move(other.pidfd_), output_ = std::move(other.output_);
    return *this;
  }
  ~Command() { kill(); }

  base::FdView pidfd() const { return pidfd_.view(); }
  uint64_t deadlineNs() const { return deadline_ns_; }
  // After its end: what it wrote, if it exited with 0.
  base::Result<base::Fd> finish();
  // At its deadline: ends the group. The error says why.
  base::Error giveUp();

 private:
  Command() = default;
  void kill();  // the group, then reaps its leader

  std::string name_;
  uint64_t time_ms_max_ = 0, deadline_ns_ = 0;
  int pid_ = 0;  // its group, too; a number of ours until it is reaped
  base::Fd pidfd_, output_;
};

}  // namespace mayfly::supervisor
