// Who else lives in a box after a restore: nobody may. criu has ended by then; a process that it
// left behind would be root of the box beside the task, without the task's filter.
//
// Layer: zygote. libc only.
#pragma once

#include <sys/types.h>

namespace mayfly::zygote {

// The first process below `proc` that is none of the `count` known ones and has not ended; 0: none;
// or a negative errno. One that only waits to be reaped has ended.
pid_t findBystander(const char* proc, const pid_t* known, int count);

}  // namespace mayfly::zygote
