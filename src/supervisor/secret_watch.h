// Which secrets the vault has, and when a source is to be opened again: rotation.
//
// Layer: supervisor. Short blocking calls. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "config/policy.h"
#include "supervisor/sources.h"

namespace mayfly::supervisor {

class SecretWatch {
 public:
  // A secret's new value as a descriptor, or why there is none.
  using Tell = std::function<void(const std::string& name, base::Result<base::Fd> value)>;

  SecretWatch(SourceRules rules, Tell tell) : rules_(std::move(rules)), tell_(std::move(tell)) {}

  // Sources that are new or differ are opened at the next look; others keep their state.
  void set(std::vector<config::SecretSource> sources);
  // A new vault has none of them: all are told again.
  void forget();
  // Once a second. A file is told when it has not changed between two looks, so that no half of a
  // value is; the first time at once.
  void look(uint64_t now_ns);

  std::vector<base::FdView> running() const;  // commands' pidfds: look() when one is readable
  uint64_t nextNs() const;                    // the first deadline of a command; UINT64_MAX: none

 private:
  struct Watched {
    config::SecretSource source;
    std::optional<Stamp> told, seen;
    std::string failure;  // the last that was told
    std::optional<Command> command;
    uint64_t run_again_ns = 0;
  };
  void lookAtFile(Watched& each);
  void lookAtCommand(Watched& each, uint64_t now_ns);
  void fail(Watched& each, base::Error error);

  SourceRules rules_;
  Tell tell_;
  std::vector<Watched> all_;
};

}  // namespace mayfly::supervisor
