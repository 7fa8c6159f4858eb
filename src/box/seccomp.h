// A template's seccomp program: built once, loaded raw by each of its clones.
//
// It has two parts: libseccomp decides by call number (allowed, refused with EPERM, unknown with
// ENOSYS; foreign architectures and x32 are killed), and guards check arguments (socket families,
// the flags of clone, ...).
//
// Layer: box. Pure but for the memfd; runs in the daemon, never in a box.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::box {

struct SeccompSpec {
  std::vector<std::string> extra_allow;  // names beyond the common base, from the manifest
  bool loopback = true;                  // false: no inet sockets at all
};

inline constexpr size_t kSeccompInstructionsMax = 4096;  // the kernel's BPF_MAXINSNS

// A sealed memfd that holds the program as an array of `sock_filter`; its size
// divided by 8 is `sock_fprog.len`. Unknown names in extra_allow, and names that
// no template may have, are invalidArgument.
base::Result<base::Fd> buildSeccomp(const SeccompSpec& spec);
// The bytes of such a program, for a key.
base::Result<std::string> readSeccomp(base::FdView program);

}  // namespace mayfly::box
