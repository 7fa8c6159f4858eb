// The system calls that a box may make: the common base, and the calls that no template may add.
//
// A call on neither list does not exist for the box (ENOSYS), as on an older kernel, and a
// template's manifest may add it.
//
// Layer: box. Pure data.
#pragma once

#include <span>
#include <string_view>

namespace mayfly::box {

// Allowed in every box. Names that the library or the architecture lacks are skipped.
std::span<const std::string_view> baseCalls();

// Refused with EPERM in every box; a manifest that names one is refused.
std::span<const std::string_view> neverCalls();

// The number of a call: libseccomp's, or ours for calls younger than its table
// (all architectures number those alike). Negative: unknown, or absent on this one.
int callNumber(std::string_view name);

}  // namespace mayfly::box
