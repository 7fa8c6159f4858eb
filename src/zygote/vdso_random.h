// The state of the C library's getrandom(), which runs in user space (vDSO) and whose memory the
// kernel wipes at each fork.
//
// criu restores that memory with its contents and without the wipe: every clone of a snapshot, and
// every child that it forks, would draw the same bytes.
//
// Layer: zygote. libc only; 0 or -errno.
#pragma once

namespace mayfly::zygote {

// Notes where that memory is. Call it last before the dump. -ENOSPC: in more places than expected.
int findDroppableMemory();
// Makes it anew at the same places, as it was after a fork. Call it in the clone while no other
// thread draws.
int renewDroppableMemory();

}  // namespace mayfly::zygote
