// Package requirements as a manifest writes them: what is one, and whose it is.
//
// Only names with versions from a package index: no URL, no path, no option. Both
// the checks and the error texts rely on it that nothing here begins with '-'.
//
// Layer: config. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::config {

enum class Packages : uint8_t { debian, pip, npm };

// "bash", "python3=3.13.5-1"; "requests[socks]>=2.31,<3"; "lodash@^4.17", "@scope/name".
bool isRequirement(Packages kind, std::string_view text);
// What the requirement is for, in the spelling that compares: "PyYAML==6.0" -> "pyyaml".
std::string packageOf(Packages kind, std::string_view requirement);
// The version part as it was written, operators included; empty where any will do.
std::string_view versionOf(Packages kind, std::string_view requirement);
// How to write one, for error texts.
std::string_view example(Packages kind);

// `wishes` over `inherited`: a package that both name is taken as `wishes` has it. Sorted.
std::vector<std::string> mergePackages(Packages kind, const std::vector<std::string>& inherited,
                                       const std::vector<std::string>& wishes);

}  // namespace mayfly::config
