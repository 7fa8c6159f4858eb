// Layer: config. See units.h.
#include "config/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <span>

#include "base/text.h"

namespace mayfly::config {
namespace {

struct Unit {
  std::string_view name;  // in small letters: users' capitals do not matter
  uint64_t factor;
};

// Units that mean two things: users must write another.
struct Ambiguous {
  std::string_view name, why;
};

bool sameButForCapitals(std::string_view text, std::string_view small) {
  return std::equal(text.begin(), text.end(), small.begin(), small.end(), [](char a, char b) {
    return (a >= 'A' && a <= 'Z' ? static_cast<char>(a - 'A' + 'a') : a) == b;
  });
}

// A decimal number without sign or exponent, times `factor`, exactly: digits are counted in
// integers, because 0.1 has no exact double. Returns nothing on overflow or for a fraction of the
// smallest unit.
std::optional<uint64_t> scaled(std::string_view number, uint64_t factor) {
  const size_t dot = number.find('.');
  const std::string_view whole = number.substr(0, dot);
  std::string_view fraction =
      dot == std::string_view::npos ? std::string_view{} : number.substr(dot + 1);
  if (whole.empty() || (dot != std::string_view::npos && fraction.empty())) return std::nullopt;
  while (!fraction.empty() && fraction.back() == '0') fraction.remove_suffix(1);
  if (whole.size() > 20 || fraction.size() > 9) return std::nullopt;
  unsigned __int128 value = 0, divisor = 1;
  for (char c : std::string(whole) + std::string(fraction)) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<unsigned>(c - '0');
  }
  for (size_t i = 0; i < fraction.size(); ++i) divisor *= 10;
  value *= factor;
  if (value % divisor != 0) return std::nullopt;
  value /= divisor;
  if (value > UINT64_MAX) return std::nullopt;
  return static_cast<uint64_t>(value);
}

base::Result<uint64_t> parse(std::string_view text, std::span<const Unit> units,
                             std::string_view what, std::string_view example,
                             std::span<const Ambiguous> ambiguous = {}) {
  const size_t end = std::min(text.find_first_not_of("0123456789."), text.size());
  std::string_view unit = text.substr(end);
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  for (const Ambiguous& each : ambiguous)
    if (end > 0 && unit == each.name)
      return base::fail(base::Code::invalidArgument,
                        fmt::format("'{}' is ambiguous: {}", base::printable(text, 40), each.why),
                        fmt::format("Write it like {}.", example));
  for (const Unit& u : units) {
    if (!sameButForCapitals(unit, u.name)) continue;
    if (auto value = scaled(text.substr(0, end), u.factor)) return *value;
    break;
  }
  return base::fail(base::Code::invalidArgument,
                    fmt::format("'{}' is not {}", base::printable(text, 40), what),
                    fmt::format("Write it like {}.", example));
}

}  // namespace

base::Result<uint64_t> parseBytes(std::string_view text) {
  static constexpr Unit units[] = {{"", 1},
                                   {"b", 1},
                                   {"kib", 1ull << 10},
                                   {"mib", 1ull << 20},
                                   {"gib", 1ull << 30},
                                   {"tib", 1ull << 40},
                                   {"kb", 1'000},
                                   {"mb", 1'000'000},
                                   {"gb", 1'000'000'000},
                                   {"tb", 1'000'000'000'000},
                                   {"k", 1ull << 10},
                                   {"m", 1ull << 20},
                                   {"g", 1ull << 30},
                                   {"t", 1ull << 40}};
  static constexpr std::string_view why = "a small b after a capital may mean bits";
  static constexpr Ambiguous ambiguous[] = {{"Kb", why},  {"Mb", why},  {"Gb", why},  {"Tb", why},
                                            {"Kib", why}, {"Mib", why}, {"Gib", why}, {"Tib", why}};
  return parse(text, units, "a size", "512MiB, 64KiB, 1.5GiB or 65536", ambiguous);
}

base::Result<uint64_t> parseDurationMs(std::string_view text) {
  static constexpr Unit units[] = {{"ms", 1}, {"s", 1'000}, {"m", 60'000}, {"h", 3'600'000}};
  static constexpr Ambiguous ambiguous[] = {{"M", "a capital M may mean months"}};
  return parse(text, units, "a time", "250ms, 30s, 1.5m or 2h", ambiguous);
}

base::Result<uint32_t> parseCoresMilli(std::string_view text) {
  static constexpr Unit units[] = {{"", 1'000}};
  auto value = parse(text, units, "a number of cores", "0.5, 1 or 2 (thousandths are the finest)");
  if (!value) return tl::unexpected<base::Error>(std::move(value).error());
  if (*value > UINT32_MAX) {
    return base::fail(base::Code::invalidArgument,
                      fmt::format("{} cores are too many", *value / 1000));
  }
  return static_cast<uint32_t>(*value);
}

base::Result<uint64_t> parseCount(std::string_view text) {
  static constexpr Unit units[] = {{"", 1}};
  return parse(text, units, "a whole number", "64");
}

std::string formatBytes(uint64_t bytes) {
  static constexpr std::array<Unit, 4> units = {
      {{"TiB", 1ull << 40}, {"GiB", 1ull << 30}, {"MiB", 1ull << 20}, {"KiB", 1ull << 10}}};
  for (const Unit& u : units) {
    if (bytes >= u.factor && bytes % u.factor == 0)
      return fmt::format("{}{}", bytes / u.factor, u.name);
  }
  return fmt::format("{}B", bytes);
}

std::string formatDurationMs(uint64_t ms) {
  if (ms >= 3'600'000 && ms % 3'600'000 == 0) return fmt::format("{}h", ms / 3'600'000);
  if (ms >= 60'000 && ms % 60'000 == 0) return fmt::format("{}m", ms / 60'000);
  if (ms >= 1'000 && ms % 1'000 == 0) return fmt::format("{}s", ms / 1'000);
  return fmt::format("{}ms", ms);
}

std::string formatCoresMilli(uint32_t milli) {
  std::string text = fmt::format("{}.{:03}", milli / 1000, milli % 1000);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text;
}

}  // namespace mayfly::config
