// The sandbox of a build's steps: inside a root tree, apart from the host.
//
// Own mounts, processes, IPC and host name; no file of the host but those bound in; few
// capabilities and a reduced set of system calls; no network, except for look-ups, which run
// without any rights and with a read-only tree. It is no box for hostile code: uid 0 is the host's,
// and memory and processes are not bounded.
//
// Layer: image. Needs root.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace mayfly::image {

struct Bind {
  std::string from;  // on the host
  std::string to;    // in the tree: exists there, or is below kBindFolder
  bool writable = false;
};

// Mount points below it are made as needed; they disappear with the step.
inline constexpr const char* kBindFolder = "/run/build";

enum class Inside : uint8_t {
  install,  // root over a writable tree, without network
  finish,   // the same, with no mount over any part of the tree
  lookUp,   // nobody, with the host's network; the tree is read-only
  examine,  // nobody, without network; the tree is read-only, with no mount over any part of it
};

struct Sandbox {
  std::string tree;
  Inside inside = Inside::install;
  std::vector<Bind> binds;
};

// For Command::enter. Makes two processes: the inner one goes on to the exec as pid 1 of its own
// namespace, and dies with the outer one.
std::function<void()> enterSandbox(Sandbox sandbox);
// For a command that makes a tree itself: it sees the host's files, but has no network, processes
// and IPC of its own, and only those of root's rights that mounts and owners need.
std::function<void()> leaveHost();

// The environment of a step, without `more`.
std::vector<std::string> sandboxEnvironment(const std::vector<std::string>& more = {});

inline constexpr unsigned kNobody = 65534;

}  // namespace mayfly::image
