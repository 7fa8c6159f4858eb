// Patterns of paths and values.
//
// Layer: broker. Pure. Time grows with the product of both lengths, never faster.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mayfly::broker {

// Stands for an encoded slash in a path that is matched as one segment: no pattern can name it.
inline constexpr char kSlashAsLetter = '\x01';

// "*" stands for any text without "/", "**" for any text.
bool matchesPath(std::string_view pattern, std::string_view path);
bool matchesAnyPath(const std::vector<std::string>& patterns, std::string_view path);
// "*" stands for any text.
bool matchesText(std::string_view pattern, std::string_view text);
// Every path that `inner` matches, `outer` matches too. May say no where a closer look would say
// yes.
bool coversPath(std::string_view outer, std::string_view inner);

}  // namespace mayfly::broker
