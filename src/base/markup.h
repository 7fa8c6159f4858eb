// Makes text safe inside XML: in an element and in an attribute in double quotes.
//
// Layer: base. Pure.
#pragma once

#include <string>
#include <string_view>

namespace mayfly::base {

// As printable() shows it, because XML allows no control characters; then <, >, & and " become
// entities. At most `bytes_max` bytes of the input are shown.
std::string markupText(std::string_view text, size_t bytes_max = 1'000);

}  // namespace mayfly::base
