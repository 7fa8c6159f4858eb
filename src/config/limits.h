// The caps as a table: every field of base::Limits with its name, unit and the bounds that every
// manifest and client must keep.
//
// Layer: config. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.h"
#include "base/task.h"

namespace mayfly::config {

enum class LimitUnit : uint8_t { cores, milliseconds, bytes, count };

struct LimitField {
  std::string_view key;  // in manifests and in messages
  LimitUnit unit;
  uint64_t lowest, highest;  // both allowed
  std::variant<uint32_t base::Limits::*, uint64_t base::Limits::*> member;

  uint64_t get(const base::Limits& limits) const;
  void set(base::Limits& limits, uint64_t value) const;  // value <= highest
  std::string format(uint64_t value) const;              // "512MiB", "30s", "1.5", "64"
  base::Result<uint64_t> parse(std::string_view text) const;
};

std::span<const LimitField> limitFields();
const LimitField& limitField(std::string_view key);  // must be in the table

// Checks that every field is within its bounds and at or below the same field of `maximum`. The
// error names the first field that is not, its value and the allowed range.
base::Status checkLimits(const base::Limits& limits, const base::Limits& maximum);

}  // namespace mayfly::config
