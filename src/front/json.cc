#include "front/json.h"

#include <cmath>
#include <limits>
#include <set>

#include <nlohmann/json.hpp>

#include "base/text.h"

namespace mayfly::front {

namespace {

using nlohmann::json;

constexpr size_t kDepthMax = 32;
constexpr size_t kKeysMax = 10'000;  // each costs time, and all doors have one thread
constexpr size_t kParamsMax = 64;
constexpr size_t kParamNameBytesMax = 64;
constexpr size_t kListMax = 10'000;

tl::unexpected<Refusal> badJson(std::string message, std::string advice = {}) {
  return refuse({400, base::Code::invalidArgument, std::move(message), std::move(advice),
                 "front.json", 0, false});
}

// What every body must keep to. `fault` says why the parser was stopped.
class Sax : public nlohmann::json_sax<json> {
 public:
  std::string fault, advice;

  bool null() override { return scalar(nullptr); }
  bool boolean(bool value) override { return scalar(value); }
  bool number_integer(number_integer_t value) override { return scalar(int64_t{value}); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return large();
    return scalar(static_cast<int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    // The parser makes a float of an integer that fits no int64.
    if (text.find_first_of(".eE") == std::string::npos) return large();
    if (!std::isfinite(value)) return large();
    return scalar(value);
  }
  bool string(string_t& value) override {
    if (value.find('\0') != std::string::npos) return stop("a text has NUL in it");
    return scalar(std::move(value));
  }
  bool binary(binary_t&) override { return stop("binary data"); }
  bool start_object(size_t) override {
    if (!nest()) return false;
    keys_.emplace_back();
    return begin('{');
  }
  bool key(string_t& name) override {
    if (name.find('\0') != std::string::npos) return stop("a key has NUL in it");
    if (++key_count_ > kKeysMax) return stop("more than " + std::to_string(kKeysMax) + " keys");
    if (!keys_.back().insert(name).second)
      return stop("key '" + base::printable(name, 64) + "' is there twice");
    return named(name);
  }
  bool end_object() override {
    keys_.pop_back();
    --depth_;
    return end();
  }
  bool start_array(size_t) override { return nest() && begin('['); }
  bool end_array() override {
    --depth_;
    return end();
  }
  bool parse_error(size_t position, const std::string&, const json::exception& e) override {
    if (e.id == 406) return large();  // a float beyond the range
    return stop("no JSON at byte " + std::to_string(position));
  }

 protected:
  using Scalar = std::variant<std::nullptr_t, bool, int64_t, double, std::string>;
  virtual bool value(Scalar) { return true; }
  virtual bool begin(char) { return true; }
  virtual bool named(const std::string&) { return true; }
  virtual bool end() { return true; }
  bool stop(std::string why, std::string what_to_do = {}) {
    fault = std::move(why);
    advice = std::move(what_to_do);
    return false;
  }
  size_t depth() const { return depth_; }  // 1: within the outermost object

 private:
  bool large() { return stop("a number is too large to be kept exactly", "Send it as a text."); }
  bool scalar(Scalar it) {
    if (depth_ == 0) return stop("the body is no JSON object");
    return value(std::move(it));
  }
  bool nest() {
    if (depth_ == 0 && started_) return stop("more than one value");
    started_ = true;
    return ++depth_ <= kDepthMax || stop("nested deeper than " + std::to_string(kDepthMax));
  }
  std::vector<std::set<std::string>> keys_;  // of the open objects
  size_t depth_ = 0, key_count_ = 0;
  bool started_ = false;
};

class ObjectSax final : public Sax {
  bool begin(char what) override {
    return depth() > 1 || what == '{' || stop("the body is no JSON object");
  }
};

class ParamSax final : public Sax {
 public:
  std::vector<Param> params;

 private:
  bool begin(char what) override {
    if (depth() == 1) return what == '{' || stop("the body is no JSON object");
    if (depth() > 2 || what == '{')
      return stop("a parameter is a value or a list of values, not an object");
    in_list_ = true;
    params.back().value = std::vector<std::string>();  // of an empty list
    return true;
  }
  bool end() override {
    in_list_ = false;
    return true;
  }
  bool named(const std::string& name) override {
    if (name.empty() || name.size() > kParamNameBytesMax) return stop("a parameter's name is odd");
    if (params.size() >= kParamsMax)
      return stop("more than " + std::to_string(kParamsMax) + " parameters");
    params.push_back({name, std::monostate()});
    return true;
  }
  bool value(Scalar it) override {
    auto& to = params.back().value;
    if (in_list_) return listed(std::move(it), to);
    if (auto* flag = std::get_if<bool>(&it)) to = *flag;
    if (auto* integer = std::get_if<int64_t>(&it)) to = *integer;
    if (auto* number = std::get_if<double>(&it)) to = *number;
    if (auto* text = std::get_if<std::string>(&it)) to = std::move(*text);
    return true;
  }
  template <class List>
  bool add(List& list, typename List::value_type it) {
    if (list.size() >= kListMax) return stop("a list is longer than " + std::to_string(kListMax));
    list.push_back(std::move(it));
    return true;
  }
  bool listed(Scalar it, decltype(Param::value)& to) {
    using Integers = std::vector<int64_t>;
    using Texts = std::vector<std::string>;
    if (auto* text = std::get_if<std::string>(&it)) {
      if (auto* texts = std::get_if<Texts>(&to)) return add(*texts, std::move(*text));
    } else if (auto* integer = std::get_if<int64_t>(&it)) {
      if (auto* texts = std::get_if<Texts>(&to); texts != nullptr && texts->empty())
        to = Integers();
      if (auto* integers = std::get_if<Integers>(&to)) return add(*integers, *integer);
    }
    return stop("a list has integers only, or texts only");
  }

  bool in_list_ = false;
};

Passed parse(std::string_view text, Sax& sax) {
  if (json::sax_parse(text.begin(), text.end(), &sax)) return base::Unit{};
  return badJson("the body is refused: " + (sax.fault.empty() ? "no JSON" : sax.fault), sax.advice);
}

}  // namespace

Checked<std::vector<Param>> paramsOf(std::string_view text) {
  ParamSax sax;
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) return std::move(sax.params);
  auto parsed = parse(text, sax);
  if (!parsed) return refuse(std::move(parsed).error());
  return std::move(sax.params);
}

Passed checkObject(std::string_view text) {
  ObjectSax sax;
  return parse(text, sax);
}

std::string memberOf(std::string_view text, const char* name) {
  const json all = json::parse(text.begin(), text.end(), nullptr, false);
  if (!all.is_object() || !all.contains(name)) return {};
  return all[name].dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string jsonOf(const Minted& minted) {
  const nlohmann::ordered_json out{{"credential", minted.credential},
                                   {"expires_ms", minted.expires_ms},
                                   {"audience", minted.audience},
                                   {"scope", minted.scope}};
  return out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace mayfly::front
