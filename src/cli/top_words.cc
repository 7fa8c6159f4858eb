#include "cli/top_words.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/text.h"

namespace mayfly::cli {

namespace {

constexpr const char* kDash = "-";
constexpr size_t kFieldBytesMax = 400;
constexpr double kDayMs = 86'400'000;

// Three digits that count: 0.0123, 1.23, 12.3, 123, 1230.
std::string digits(double value) {
  const double size = std::abs(value);
  const int places = size >= 99.95 || size == 0 ? 0 : size >= 9.995 ? 1 : size >= 0.0995 ? 2 : 3;
  std::string text = fmt::format("{:.{}f}", value, places);
  if (text.find('.') == std::string::npos) return text;
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

}  // namespace

const Value& at(const Value& json, std::string_view key) {
  static const Value none;
  if (!json.is_object()) return none;
  const auto found = json.find(std::string(key));
  return found == json.end() ? none : *found;
}

double numberAt(const Value& json, std::string_view key) {
  const Value& value = at(json, key);
  return value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

std::string textAt(const Value& json, std::string_view key) {
  const Value& value = at(json, key);
  return value.is_string() ? base::printable(value.get_ref<const std::string&>(), kFieldBytesMax)
                           : "";
}

std::string countText(double value) {
  if (!std::isfinite(value)) return kDash;
  return std::abs(value) >= 1e7 ? digits(value / 1e6) + " M" : fmt::format("{:.0f}", value);
}

std::string rateText(double value) { return std::isfinite(value) ? digits(value) + "/s" : kDash; }

std::string secondsText(double value) {
  if (!std::isfinite(value)) return kDash;
  if (value == 0) return "0 s";
  if (value < 0.001) return digits(value * 1e6) + " us";
  if (value < 1) return digits(value * 1e3) + " ms";
  if (value < 120) return digits(value) + " s";
  if (value < 7'200) return digits(value / 60) + " min";
  if (value < 172'800) return digits(value / 3'600) + " h";
  return digits(value / 86'400) + " d";
}

std::string shareText(double value) {
  if (!std::isfinite(value)) return kDash;
  return value > 0 && value < 0.0001 ? "<0.01 %" : digits(value * 100) + " %";
}

std::string bytesText(double value) {
  if (!std::isfinite(value)) return kDash;
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (value >= 1'024 && unit + 1 < kUnits.size()) {
    value /= 1'024;
    ++unit;
  }
  return fmt::format("{} {}", digits(value), kUnits[unit]);
}

std::string amountText(double value, std::string_view unit) {
  if (unit == "bytes") return bytesText(value);
  if (unit == "cores") return std::isfinite(value) ? digits(value) : kDash;
  return countText(value);
}

std::string clockText(double unix_ms) {
  if (!std::isfinite(unix_ms) || unix_ms < 0) return kDash;
  const auto s = static_cast<uint32_t>(std::fmod(unix_ms, kDayMs) / 1e3);
  return fmt::format("{:02}:{:02}:{:02}", s / 3'600, s / 60 % 60, s % 60);
}

std::string wordsText(std::string_view name) {
  std::string out;
  for (char c : name) {
    if (c >= 'A' && c <= 'Z') {
      out += ' ';
      c = static_cast<char>(c - 'A' + 'a');
    }
    out += c == '_' ? ' ' : c;
  }
  return out;
}

}  // namespace mayfly::cli
