// An allow-list of system calls for a process that needs a handful: a seccomp program without
// libseccomp, so it can be loaded between fork and the work.
//
// Layer: base. Needs libc only; no allocation, no exceptions.
#pragma once

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::base {

// A sanitizer makes calls of its own, so such a build has no filter.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
#else
inline constexpr bool kSanitized = false;
#endif

// From here on each call that is not in `calls` ends the process. Needs no_new_privs. 0, or -1 with
// errno.
template <size_t N>
int allowOnlyCalls(const int (&calls)[N]) {
  if (kSanitized) return 0;
  sock_filter code[2 * N + 5];
  unsigned short at = 0;
  const auto add = [&](uint16_t op, uint32_t value, uint8_t if_true = 0, uint8_t if_false = 0) {
    code[at++] = sock_filter{op, if_true, if_false, value};
  };
  add(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch));
  add(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
  add(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  add(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
  for (int call : calls) {
    add(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1);
    add(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  }
  add(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  sock_fprog program{at, code};
  return static_cast<int>(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

}  // namespace mayfly::base
