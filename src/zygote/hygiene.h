// Finds things that a zygote must not have when it is forked: a second thread, a child, a timer, a
// socket, a descriptor or writable shared memory that a preload left behind, surroundings that a
// preload changed (surroundings.h), a hard limit that it lowered.
//
// Layer: zygote. Single-threaded; the zygote only.
#pragma once

#include <stddef.h>

namespace mayfly::zygote {

inline constexpr size_t kFaultBytes = 256;

// Takes the baseline: descriptors that are open now belong to the runtime; later ones are faults.
// The present namespaces and order are those that the box gave.
void takeBaseline();

// What comes after the gate: forks, or a dump, which takes threads and shared memory along.
enum class Gate : unsigned char { fork, snapshot };

// 0, or a negative errno; then `fault` is the end of a sentence, such as "started a thread". For a
// thread it also tells its name, the file whose code it runs, and the way out.
// Without a baseline, only threads, children, timers, sockets and, before a dump, files of /proc
// count.
int findHygieneFault(Gate gate, char fault[kFaultBytes]);

// What a template can do about a thread that the file `path` runs.
const char* wayOut(const char* path);

// Records the time of the preload `name`: since the previous one, or the baseline.
void notePreload(const char* name);
// Prints one line on stderr: the number of preloads, their time, the longest. Nothing without
// preloads.
void reportPreloads();

}  // namespace mayfly::zygote
