// The state of V8's generators of random numbers: the isolate's, from which each new context is
// seeded, and that of Math.random in the main context.
//
// V8 has no call to seed them anew, and all clones of a snapshot would draw the same numbers. So
// they are found in memory by their values: both were seeded from the same known number at the
// start (`--random-seed`), and their sequence from there is known (xorshift128+).
//
// Layer: zygote. Single-threaded; libc only; 0 or -errno.
#pragma once

#include <stdint.h>

namespace mayfly::zygote {

// Finds the one state of Math.random and at least one generator; -ENXIO if not. Math.random must
// have been called while the flag was set. Afterwards no JavaScript may run until
// seedV8Generators().
int findV8Generators(int64_t random_seed);
// Gives all fresh bytes from the kernel. The numbers that Math.random has already drawn ahead,
// at most 64, still have to be used up.
int seedV8Generators();

}  // namespace mayfly::zygote
