// The page's files, compiled in by CMake.
//
// Layer: dashboard. Constant data.
#pragma once

#include <span>
#include <string_view>

namespace mayfly::dashboard {

struct Asset {
  std::string_view path;  // "/page.css"
  std::string_view type;  // Content-Type
  std::string_view etag;  // with its quotes; of the content
  std::string_view body;
};
std::span<const Asset> assets();

}  // namespace mayfly::dashboard
