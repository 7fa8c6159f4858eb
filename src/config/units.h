// Quantities as people write them: "512MiB", "30s", 1.5 cores.
//
// Layer: config. Pure. The manifest, the daemon's settings and the command
// line's flags all read quantities with these, so they mean the same everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mayfly::config {

// Capitals do not matter, except where a unit would then be ambiguous ("64Mb", "5M" as a time):
// those are refused in words.

// "65536", "64KiB", "1.5GiB", "64m", "10MB": k, m, g, t and all with an i count by 1024; kB, MB,
// GB, TB by 1000.
base::Result<uint64_t> parseBytes(std::string_view text);
// "250ms", "30s", "1.5m", "2h": milliseconds. A unit is required.
base::Result<uint64_t> parseDurationMs(std::string_view text);
// "0.5", "2": thousandths of one core.
base::Result<uint32_t> parseCoresMilli(std::string_view text);
// A plain whole number.
base::Result<uint64_t> parseCount(std::string_view text);

// The shortest exact form: 536870912 -> "512MiB", 90000 -> "90s", 1500 -> "1.5".
std::string formatBytes(uint64_t bytes);
std::string formatDurationMs(uint64_t ms);
std::string formatCoresMilli(uint32_t milli);

}  // namespace mayfly::config
