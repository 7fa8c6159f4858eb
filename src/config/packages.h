// Package requirements in a manifest: their syntax, and the package that each names.
//
// Only names with versions from a package index: no URL, no path, no option. Callers rely on it
// that no requirement begins with '-'. The indexes themselves are URLs without credentials.
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
// The package's name in its comparable spelling: "PyYAML==6.0" -> "pyyaml".
std::string packageOf(Packages kind, std::string_view requirement);
// The version part as written, operators included; empty if any version will do.
std::string_view versionOf(Packages kind, std::string_view requirement);
// A sample requirement for error texts.
std::string_view example(Packages kind);

// What is wrong with the URL of a package index, as the end of a sentence; empty: nothing. It must
// be https (http only for this machine itself), and it must hold no credentials.
std::string_view faultOfIndex(std::string_view url);

// `wishes` over `inherited`: if both name a package, the result has the entry of `wishes`. Sorted.
std::vector<std::string> mergePackages(Packages kind, const std::vector<std::string>& inherited,
                                       const std::vector<std::string>& wishes);

}  // namespace mayfly::config
