// The two roles of mayfly-restorer, which stands in the zygote's place in templates whose mechanism
// is `restore`.
//
// Layer: zygote. Single-threaded; libc only. Root of the template's user namespace only.
#pragma once

namespace mayfly::zygote {

// Restores one clone per request from the snapshot in kSnapshotFd; several at a time.
[[noreturn]] void runServing();

// Starts the template's zygote in the one box that it is asked for, and dumps it into kSnapshotFd.
[[noreturn]] void runDumping(char** argv);

// Runs criu in the caller's place. Its first line with "Error" tells why it failed.
[[noreturn]] void executeCriu(const char* const* arguments, const char* folder_of_kernel_file);
// That line, of the text in the pipe `said`; `to` keeps what it holds if there is none.
void readCriusError(int said, char* to, unsigned long size);

}  // namespace mayfly::zygote
