// Layer: broker. See target.h.
#include "broker/target.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "broker/pattern.h"

namespace mayfly::broker {
namespace {

constexpr std::string_view kUnreserved =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
constexpr std::string_view kPathLetters = "!$&'()*+,;=:@";  // may stand in a path as they are

bool isIn(char c, std::string_view set) { return set.find(c) != std::string_view::npos; }

int hexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The byte of "%XX" at the front; nothing: there is none.
std::optional<char> encodedByte(std::string_view text) {
  if (text.size() < 3 || text[0] != '%') return std::nullopt;
  const int high = hexValue(text[1]), low = hexValue(text[2]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high * 16 + low);
}

bool isControl(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

std::string encodedForm(char c) { return fmt::format("%{:02X}", static_cast<unsigned char>(c)); }

// Reads one path; `fault` is set if it cannot be sent on.
class PathReader {
 public:
  explicit PathReader(EncodedSlash slash) : slash_(slash) {}
  std::string read(std::string_view path, Target& out);

 private:
  // Takes the first letter or "%XX" of `rest`.
  std::string step(std::string_view& rest, Target& out);
  void add(char plain, Target& out) {
    out.plain += plain;
    out.letter += plain;
    out.path += isIn(plain, kUnreserved) || isIn(plain, kPathLetters) || plain == '/'
                    ? std::string(1, plain)
                    : encodedForm(plain);
  }
  EncodedSlash slash_;
};

std::string PathReader::step(std::string_view& rest, Target& out) {
  const char c = rest[0];
  if (c == '%') {
    const auto byte = encodedByte(rest);
    if (!byte) return "has a '%' that two hexadecimal digits do not follow";
    if (isControl(*byte)) return fmt::format("has the control character {}", rest.substr(0, 3));
    if (*byte == '\\') return "has a backslash, which some servers take for '/'";
    rest.remove_prefix(3);
    if (*byte != '/') {
      // An encoded delimiter stays encoded.
      const bool delimiter = isIn(*byte, kPathLetters);
      add(*byte, out);
      if (delimiter) out.path.replace(out.path.size() - 1, 1, encodedForm(*byte));
      return {};
    }
    if (slash_ == EncodedSlash::refused)
      return "has an encoded '/', which servers read differently";
    out.plain += '/';
    out.letter += kSlashAsLetter;
    out.path += "%2F";
    return {};
  }
  if (c == '\\') return "has a backslash, which some servers take for '/'";
  if (c == ' ' || isControl(c) || static_cast<unsigned char>(c) >= 0x80)
    return "has a byte that must be encoded";
  if (c == '#') return "has a fragment";
  rest.remove_prefix(1);
  add(c, out);
  return {};
}

std::string PathReader::read(std::string_view path, Target& out) {
  if (!path.starts_with('/')) return "does not begin with '/'";
  while (!path.empty())
    if (std::string fault = step(path, out); !fault.empty()) return fault;
  if (!base::isUtf8(out.plain)) return "is not UTF-8";
  // Also if the digits themselves came encoded: "%25%32%65".
  for (size_t at = out.plain.find('%'); at != std::string::npos; at = out.plain.find('%', at + 1))
    if (encodedByte(std::string_view(out.plain).substr(at))) return "is encoded twice";
  // Without the path parameters of some servers: "/..;x/".
  for (size_t at = 1; at <= out.plain.size();) {
    const size_t end = std::min(out.plain.find('/', at), out.plain.size());
    const std::string_view whole = std::string_view(out.plain).substr(at, end - at);
    const std::string_view part = whole.substr(0, whole.find(';'));
    if (part == "." || part == "..") return fmt::format("has a part '{}'", part);
    if (part.empty() && (end < out.plain.size() || !whole.empty())) return "has an empty part";
    at = end + 1;
  }
  return {};
}

// "+" is a blank.
std::string readQueryText(std::string_view text, std::string& fault) {
  std::string out;
  while (!text.empty()) {
    const char c = text[0];
    if (c == '%') {
      const auto byte = encodedByte(text);
      if (!byte)
        fault = "has a '%' that two hexadecimal digits do not follow";
      else if (isControl(*byte) && !isIn(*byte, "\t\n\r"))
        fault = fmt::format("has the control character {}", text.substr(0, 3));
      if (!fault.empty()) return {};
      out += *byte;
      text.remove_prefix(3);
      continue;
    }
    if (c == ' ' || c == '#' || isControl(c) || static_cast<unsigned char>(c) >= 0x80) {
      fault = "has a byte that must be encoded";
      return {};
    }
    out += c == '+' ? ' ' : c;
    text.remove_prefix(1);
  }
  return out;
}

std::string readQuery(std::string_view text, std::vector<QueryPart>& out) {
  std::string fault;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, text.find('&'));
    text.remove_prefix(std::min(part.size() + 1, text.size()));
    if (part.empty()) continue;
    if (out.size() == kQueryPartsMax)
      return fmt::format("has more than {} parameters", kQueryPartsMax);
    const size_t equals = part.find('=');
    QueryPart one{readQueryText(part.substr(0, equals), fault), std::nullopt};
    if (equals != std::string_view::npos) one.value = readQueryText(part.substr(equals + 1), fault);
    if (!fault.empty()) return fault;
    out.push_back(std::move(one));
  }
  return {};
}

}  // namespace

std::string percentEncoded(std::string_view text) {
  std::string out;
  for (char c : text) out += isIn(c, kUnreserved) ? std::string(1, c) : encodedForm(c);
  return out;
}

std::string Target::queryText() const {
  std::string out;
  for (const QueryPart& part : query) {
    out += out.empty() ? '?' : '&';
    out += percentEncoded(part.name);
    if (part.value) out += '=' + percentEncoded(*part.value);
  }
  return out;
}

Decision<Target> parseTarget(std::string_view rule, std::string_view target, EncodedSlash slash) {
  Target out;
  std::string fault;
  if (target.size() > kTargetBytesMax) {
    return refuse({base::Code::invalidArgument,
                   414,
                   fmt::format("{}.target", rule),
                   fmt::format("the target is longer than {} bytes", kTargetBytesMax),
                   {},
                   0});
  }
  const size_t question = target.find('?');
  fault = PathReader(slash).read(target.substr(0, question), out);
  if (!fault.empty())
    return refuseForm(fmt::format("{}.target", rule), "the path " + fault,
                      "Send the path in its shortest form.");
  if (question != std::string_view::npos) fault = readQuery(target.substr(question + 1), out.query);
  if (!fault.empty()) return refuseForm(fmt::format("{}.target", rule), "the query " + fault);
  return out;
}

}  // namespace mayfly::broker
