#include "base/markup.h"

#include "base/text.h"

namespace mayfly::base {

std::string markupText(std::string_view text, size_t bytes_max) {
  std::string out;
  for (char c : printable(text, bytes_max)) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace mayfly::base
