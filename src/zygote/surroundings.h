// What a process got with its box and may not have changed before it is dumped or forked, because
// its clones would have it: its namespaces, and its place in the kernel's order of ends when the
// memory is short.
//
// Without a capability, a process can leave its user namespace only, for a new one in which it has
// them all; every other namespace can be left from there.
//
// Layer: zygote. libc only.
#pragma once

#include <stddef.h>
#include <sys/types.h>

namespace mayfly::zygote {

inline constexpr const char* kNamespaces[] = {
    "user", "mnt",    "pid",  "pid_for_children", "net", "ipc",
    "uts",  "cgroup", "time", "time_for_children"};
inline constexpr size_t kNamespaceCount = sizeof kNamespaces / sizeof *kNamespaces;

struct Surroundings {
  ino_t namespaces[kNamespaceCount] = {};  // 0: the kernel has no such kind
  int memory_order = 0;                    // oom_score_adj
};

// Of the process below `proc`, such as "/proc/self". 0 or -errno. `kinds`: so many namespaces; the
// first one is the user namespace.
int readSurroundings(const char* proc, Surroundings* to, size_t kinds = kNamespaceCount);
// Whether `now` differs; then `text` is the end of a sentence, such as "left its user namespace".
bool findChange(const Surroundings& before, const Surroundings& now, char* text, size_t size);

}  // namespace mayfly::zygote
