// Layer: config. See limits.h.
#include "config/limits.h"

#include <fmt/format.h>

#include "config/units.h"

namespace mayfly::config {
namespace {

using base::Limits;

constexpr uint64_t kDayMs = 24ull * 3'600'000;
constexpr uint64_t kMiB = 1ull << 20;
constexpr uint64_t kTiB = 1ull << 40;

const LimitField kFields[] = {
    {"cpu", LimitUnit::cores, 10, 1'024'000, &Limits::cpu_milli},
    {"cpu_time", LimitUnit::milliseconds, 10, kDayMs, &Limits::cpu_time_ms},
    {"wall_time", LimitUnit::milliseconds, 10, kDayMs, &Limits::wall_time_ms},
    // Below it a clone could not even start.
    {"memory", LimitUnit::bytes, 16 * kMiB, kTiB, &Limits::memory_bytes},
    {"processes", LimitUnit::count, 1, 32'768, &Limits::processes},
    {"open_files", LimitUnit::count, 16, 1'048'576, &Limits::open_files},
    {"file_size", LimitUnit::bytes, 1, kTiB, &Limits::file_size_bytes},
    {"disk", LimitUnit::bytes, 1 * kMiB, kTiB, &Limits::disk_bytes},
    {"disk_inodes", LimitUnit::count, 64, 10'000'000, &Limits::disk_inodes},
    {"output", LimitUnit::bytes, 1, kTiB, &Limits::output_bytes},
    {"input", LimitUnit::bytes, 1, kTiB, &Limits::input_bytes},
    {"out_files_size", LimitUnit::bytes, 1, kTiB, &Limits::out_files_bytes},
    {"out_files", LimitUnit::count, 1, 100'000, &Limits::out_files},
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
