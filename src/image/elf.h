// What a library or program needs of other libraries: the dynamic section of an ELF file.
//
// The file is hostile: each offset, count and length is checked against the file and a bound; what
// makes no sense is left out.
//
// Layer: image, internal to it. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mayfly::image {

struct Elf {
  std::string soname;              // empty: none
  std::vector<std::string> needs;  // names of libraries
  // The versions that a library of that name must have: "libc.so.6", "GLIBC_2.38".
  std::vector<std::pair<std::string, std::string>> needed_versions;
  std::vector<std::string> versions;  // those that it defines itself
};

// Nothing if `file` is no ELF file of this machine's kind, or has no dynamic section.
std::optional<Elf> readElf(std::string_view file);

}  // namespace mayfly::image
