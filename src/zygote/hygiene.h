// Finds things that a zygote must not have when it is forked: a second thread, a child, a timer, a
// socket, a descriptor or writable shared memory that a preload left behind.
//
// Layer: zygote. Single-threaded; the zygote only.
#pragma once

#include <stddef.h>

namespace mayfly::zygote {

inline constexpr size_t kFaultBytes = 104;

// Takes the baseline: descriptors that are open now belong to the runtime; later ones are faults.
void takeBaseline();

// 0, or a negative errno; then `fault` is the end of a sentence, such as "started a thread".
// Without a baseline, only threads, children, timers and sockets count.
int findHygieneFault(char fault[kFaultBytes]);

// Records the time of the preload `name`: since the previous one, or the baseline.
void notePreload(const char* name);
// Prints one line on stderr: the number of preloads, their time, the longest. Nothing without
// preloads.
void reportPreloads();

}  // namespace mayfly::zygote
