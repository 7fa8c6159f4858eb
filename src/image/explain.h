// Turns the output of a failed apt, pip or npm into one error that names the package and the
// remedy.
//
// Layer: image, internal to it. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mayfly::image {

// `otherwise` if the output holds no known message.
base::Error explainApt(std::string_view output, std::string_view suite, base::Error otherwise);
base::Error explainPip(std::string_view output, base::Error otherwise);
base::Error explainNpm(std::string_view output, base::Error otherwise);

// A requirement that pip found no wheel for, and the versions that have wheels.
struct NoWheel {
  std::string requirement;
  std::string wanted_by;  // the package that needs it; empty: the manifest
  std::vector<std::string> versions;
};
std::optional<NoWheel> findNoWheel(std::string_view pip_output);
// `source_versions`: versions that pip has as source only, newest first.
base::Error explainNoWheel(const NoWheel& missing, const std::vector<std::string>& source_versions);
// "Available versions: 2.0, 1.0" of `pip index versions`.
std::vector<std::string> availableVersions(std::string_view pip_index_output);

}  // namespace mayfly::image
