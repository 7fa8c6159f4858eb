// Fields of a message as text. A field that is missing, null or of another type gives a dash.
//
// Layer: cli. Pure.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace mayfly::cli {

using Value = nlohmann::json;

const Value& at(const Value& json, std::string_view key);  // null if it is not there
double numberAt(const Value& json, std::string_view key);  // NaN if it is none
std::string textAt(const Value& json, std::string_view key);

std::string countText(double value);    // "12", "1.2 M"
std::string rateText(double value);     // "12.3/s"
std::string secondsText(double value);  // "2.1 ms"
std::string shareText(double value);    // "4.2 %"
std::string bytesText(double value);    // "1.5 MiB"
std::string amountText(double value, std::string_view unit);
std::string clockText(double unix_ms);  // "12:30:01", UTC
// "firstByte", "first_byte" -> "first byte".
std::string wordsText(std::string_view name);

}  // namespace mayfly::cli
