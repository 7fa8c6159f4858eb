// What a zygote must not have when it is forked: a second thread, a child, a
// timer, a socket, a descriptor or writable shared memory that a preload left behind.
//
// Layer: zygote. Single-threaded; the zygote only.
#pragma once

#include <stddef.h>

namespace mayfly::zygote {

inline constexpr size_t kFaultBytes = 96;

// From here on nothing more may come: what is open now is the runtime's own.
void takeBaseline();

// 0, or a negative errno and in `fault` what is wrong, as the end of a sentence:
// "started a thread". Without a baseline only threads, children, timers and sockets count.
int findHygieneFault(char fault[kFaultBytes]);

// Notes how long the preload `name` took: since the one before, or the baseline.
void notePreload(const char* name);
// One line on stderr: how many preloads, how long, the longest. Nothing where there was none.
void reportPreloads();

}  // namespace mayfly::zygote
