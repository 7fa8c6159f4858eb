// Layer: config. See limits.h.
#include "config/limits.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "config/units.h"

namespace mayfly::config {
namespace {

using base::Limits;

const LimitField kFields[] = {
#define MAYFLY_CAP(member, type, standard, unit, lowest, highest, key, ...) \
  {key, LimitUnit::unit, lowest, highest, &Limits::member},
    MAYFLY_CAPS(MAYFLY_CAP)
#undef MAYFLY_CAP
};

}  // namespace

uint64_t LimitField::get(const Limits& limits) const {
  return std::visit([&](auto m) -> uint64_t { return limits.*m; }, member);
}

void LimitField::set(Limits& limits, uint64_t value) const {
  if (auto* small = std::get_if<uint32_t Limits::*>(&member)) {
    limits.** small = static_cast<uint32_t>(value);
  } else {
    limits.*std::get<uint64_t Limits::*>(member) = value;
  }
}

std::string LimitField::format(uint64_t value) const {
  switch (unit) {
    case LimitUnit::cores:
      return formatCoresMilli(static_cast<uint32_t>(value));
    case LimitUnit::milliseconds:
      return formatDurationMs(value);
    case LimitUnit::bytes:
      return formatBytes(value);
    case LimitUnit::count:
      break;
  }
  return fmt::format("{}", value);
}

base::Result<uint64_t> LimitField::parse(std::string_view text) const {
  switch (unit) {
    case LimitUnit::cores: {
      auto milli = parseCoresMilli(text);
      if (!milli) return tl::unexpected<base::Error>(std::move(milli).error());
      return *milli;
    }
    case LimitUnit::milliseconds:
      return parseDurationMs(text);
    case LimitUnit::bytes:
      return parseBytes(text);
    case LimitUnit::count:
      break;
  }
  return parseCount(text);
}

std::span<const LimitField> limitFields() { return kFields; }

const LimitField& limitField(std::string_view key) {
  return *std::find_if(std::begin(kFields), std::end(kFields),
                       [key](const LimitField& field) { return field.key == key; });
}

base::Status checkLimits(const Limits& limits, const Limits& maximum) {
  for (const LimitField& field : kFields) {
    const uint64_t value = field.get(limits);
    const uint64_t highest = std::min(field.highest, field.get(maximum));
    if (value >= field.lowest && value <= highest) continue;
    return base::fail(
        base::Code::invalidArgument,
        fmt::format("cap '{}' is {}; allowed are {} to {}", field.key, field.format(value),
                    field.format(field.lowest), field.format(highest)));
  }
  return base::Unit{};
}

}  // namespace mayfly::config
