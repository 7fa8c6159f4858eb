// Makes text of tasks and clients safe to print, and checks it.
//
// Layer: base. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace mayfly::base {

// For a terminal, a log or an error message: control characters, escape bytes,
// invalid UTF-8 and bidirectional overrides become \xNN; at most `bytes_max`
// bytes of the input are shown, then "...".
std::string printable(std::string_view text, size_t bytes_max = 200);

bool isUtf8(std::string_view text);

// 1536 -> "1.5 KiB".
std::string humanBytes(uint64_t bytes);
// 1500000 (ns) -> "1.50 ms".
std::string humanNanos(uint64_t ns);

// The known word that a mistyped one most likely means: one that it begins, or one that few edits
// make of it (a letter added, left out, replaced, or swapped with the next). Empty: none is near.
std::string_view nearest(std::string_view word, std::span<const std::string_view> known);

}  // namespace mayfly::base
