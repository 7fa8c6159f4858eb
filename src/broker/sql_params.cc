// Layer: broker. See sql_params.h.
#include "broker/sql_params.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/text.h"
#include "broker/narrow.h"

namespace mayfly::broker {
namespace {

using config::SqlParam;
using Type = SqlParam::Type;

constexpr size_t kGivenMax = 64;

// Checks values of one parameter; each check says what is wrong, empty: nothing.
struct ParamCheck {
  const SqlParam& declared;

  std::string integer(int64_t value) const {
    if (declared.least && value < *declared.least)
      return fmt::format("is less than {}", *declared.least);
    if (declared.most && value > *declared.most)
      return fmt::format("is greater than {}", *declared.most);
    return {};
  }
  std::string number(double value) const {
    if (!std::isfinite(value)) return "is no finite number";
    if (declared.min && value < *declared.min) return fmt::format("is less than {}", *declared.min);
    if (declared.max && value > *declared.max)
      return fmt::format("is greater than {}", *declared.max);
    return {};
  }
  std::string text(std::string_view value) const {
    if (value.size() > declared.bytes_max)
      return fmt::format("is longer than {} bytes", declared.bytes_max);
    if (value.find('\0') != std::string_view::npos || !base::isUtf8(value))
      return "must be UTF-8 without NUL";
    const auto& values = declared.values;
    if (!values.empty() && std::find(values.begin(), values.end(), value) == values.end())
      return "is none of the allowed values";
    return {};
  }
  std::string items(size_t count) const {
    return count > declared.items_max ? fmt::format("has more than {} items", declared.items_max)
                                      : std::string();
  }
};

template <class Number>
std::optional<Number> numberIn(std::string_view text) {
  Number out{};
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (text.empty() || fault != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return out;
}

// A text where the declaration wants a plain value: the value, else the text itself.
ParamValue readText(Type type, const ParamValue& value) {
  const auto* text = std::get_if<std::string>(&value);
  if (text == nullptr) return value;
  if (type == Type::integer)
    if (const auto n = numberIn<int64_t>(*text)) return *n;
  if (type == Type::number)
    if (const auto n = numberIn<double>(*text)) return *n;
  if (type == Type::boolean && (*text == "true" || *text == "false")) return *text == "true";
  return value;
}

// An item of an array's text form, quoted.
std::string quotedItem(std::string_view item) {
  std::string out = "\"";
  for (char c : item) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

// The value's text form; `fault` is set if the value does not fit.
std::string textForm(const ParamCheck& check, const ParamValue& value, std::string& fault) {
  const Type type = check.declared.type;
  if (const auto* b = std::get_if<bool>(&value); b && type == Type::boolean)
    return *b ? "true" : "false";
  if (const auto* i = std::get_if<int64_t>(&value)) {
    if (type == Type::integer) {
      fault = check.integer(*i);
      return fmt::format("{}", *i);
    }
    if (type == Type::number) {
      fault = check.number(static_cast<double>(*i));
      return fmt::format("{}", *i);
    }
  }
  if (const auto* d = std::get_if<double>(&value); d && type == Type::number) {
    fault = check.number(*d);
    return fmt::format("{}", *d);
  }
  if (const auto* s = std::get_if<std::string>(&value); s && type == Type::text) {
    fault = check.text(*s);
    return *s;
  }
  std::string out = "{";
  if (const auto* all = std::get_if<std::vector<int64_t>>(&value); all && type == Type::integers) {
    fault = check.items(all->size());
    for (int64_t each : *all) {
      if (fault.empty()) fault = check.integer(each);
      out += fmt::format("{}{}", out.size() > 1 ? "," : "", each);
    }
    return out + "}";
  }
  if (const auto* all = std::get_if<std::vector<std::string>>(&value)) {
    // An empty list has no type of its own.
    if (type == Type::texts || (type == Type::integers && all->empty())) {
      fault = check.items(all->size());
      for (const std::string& each : *all) {
        if (fault.empty()) fault = check.text(each);
        if (!fault.empty()) break;
        out += (out.size() > 1 ? "," : "") + quotedItem(each);
      }
      return out + "}";
    }
  }
  if (const auto* all = std::get_if<std::vector<int64_t>>(&value);
      all && type == Type::texts && all->empty())
    return "{}";
  fault = fmt::format("must be of type {}", name(type));
  return {};
}

std::string fixedValue(const SqlParam& declared, const SqlSubject& subject) {
  switch (declared.fixed) {
    case SqlParam::Fixed::tenant:
      return subject.tenant;
    case SqlParam::Fixed::user:
      return fmt::format("{}", subject.uid);
    default:
      return fmt::format("{}", subject.task);
  }
}

}  // namespace

Decision<std::optional<std::string>> checkParam(std::string_view rule, const SqlParam& declared,
                                                const ParamValue& given) {
  const std::string at = fmt::format("{}.params.{}", rule, declared.name);
  if (std::holds_alternative<std::monostate>(given)) {
    if (declared.null) return std::nullopt;
    return refuseForm(at, fmt::format("the parameter '{}' must not be null", declared.name),
                      kAskBroker);
  }
  std::string fault;
  std::string text = textForm({declared}, readText(declared.type, given), fault);
  if (fault.empty()) return text;
  return refuseForm(at, fmt::format("the parameter '{}' {}", declared.name, fault), kAskBroker);
}

Decision<BoundParams> checkParams(const Grant& grant, const SqlSubject& subject,
                                  const std::vector<std::pair<std::string, ParamValue>>& given) {
  const std::string rule = grant.rule();
  const std::vector<SqlParam>& params = grant.sql()->params;
  if (given.size() > kGivenMax)
    return refuseForm(rule + ".params",
                      fmt::format("the call has more than {} parameters", kGivenMax));
  const auto& fixed_by_grant = grant.narrowing.fixed;
  auto named = [](const auto& pairs, std::string_view name) {
    return std::find_if(pairs.begin(), pairs.end(), [&](const auto& p) { return p.first == name; });
  };
  for (auto it = given.begin(); it != given.end(); ++it) {
    const std::string shown = base::printable(it->first, 60);
    const auto at = std::find_if(params.begin(), params.end(),
                                 [&](const SqlParam& p) { return p.name == it->first; });
    if (at == params.end())
      return refuseForm(rule + ".params", fmt::format("there is no parameter '{}'", shown),
                        kAskBroker);
    if (named(given, it->first) != it)
      return refuseForm(rule + ".params", fmt::format("the parameter '{}' is there twice", shown));
    if (at->fixed != SqlParam::Fixed::no ||
        named(fixed_by_grant, it->first) != fixed_by_grant.end())
      return refuse({base::Code::permissionDenied, 403, fmt::format("{}.params.{}", rule, at->name),
                     fmt::format("the parameter '{}' is fixed for this task", shown),
                     "Leave it out: the broker sets it.", 0});
  }
  BoundParams out;
  for (const SqlParam& p : params) {
    if (p.fixed != SqlParam::Fixed::no) {
      if (p.fixed == SqlParam::Fixed::tenant && subject.tenant.empty())
        return refuse(
            {base::Code::permissionDenied, 403, fmt::format("{}.params.{}", rule, p.name),
             fmt::format("the parameter '{}' is the task's tenant, and it has none", p.name),
             "Submit the task with a tenant.", 0});
      out.emplace_back(fixedValue(p, subject));
      continue;
    }
    ParamValue value;  // null
    if (const auto at = named(fixed_by_grant, p.name); at != fixed_by_grant.end())
      value = at->second;
    else if (const auto here = named(given, p.name); here != given.end())
      value = here->second;
    else if (!p.null)
      return refuseForm(fmt::format("{}.params.{}", rule, p.name),
                        fmt::format("the parameter '{}' is missing", p.name), kAskBroker);
    auto bound = checkParam(rule, p, value);
    if (!bound) return tl::unexpected<Refusal>(std::move(bound).error());
    out.push_back(std::move(*bound));
  }
  return out;
}

}  // namespace mayfly::broker
