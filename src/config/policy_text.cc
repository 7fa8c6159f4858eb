// Layer: config. See policy_text.h.
#include "config/policy_text.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "base/text.h"

namespace mayfly::config {
namespace {

constexpr std::string_view kDigits = "0123456789";
constexpr std::string_view kLowerAlnum = "abcdefghijklmnopqrstuvwxyz0123456789";
constexpr std::string_view kAnyAlnum =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
constexpr size_t kHostBytesMax = 253, kLabelBytesMax = 63;
constexpr size_t kPatternBytesMax = 1'000;
constexpr size_t kPlaceholdersMax = 99;

bool only(std::string_view text, std::string_view allowed, std::string_view more = {}) {
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return allowed.find(c) != std::string_view::npos || more.find(c) != std::string_view::npos;
  });
}

template <class Check>
bool eachPart(std::string_view text, char border, Check check) {
  while (true) {
    const size_t end = text.find(border);
    if (!check(text.substr(0, end))) return false;
    if (end == std::string_view::npos) return true;
    text.remove_prefix(end + 1);
  }
}

bool isDnsName(std::string_view text) {
  if (text.empty() || text.size() > kHostBytesMax) return false;
  const bool labels = eachPart(text, '.', [](std::string_view label) {
    return !label.empty() && label.size() <= kLabelBytesMax && only(label, kAnyAlnum, "-_") &&
           label.front() != '-' && label.back() != '-';
  });
  // "127.1" and "0x7f.1" are addresses to some resolvers.
  const std::string_view last = text.substr(text.rfind('.') + 1);
  return labels && kDigits.find(last.front()) == std::string_view::npos;
}

std::optional<uint16_t> parsePort(std::string_view text) {
  uint32_t port = 0;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (text.empty() || text.size() > 5 || fault != std::errc() || end != text.data() + text.size() ||
      port == 0 || port > 65'535)
    return std::nullopt;
  return static_cast<uint16_t>(port);
}

// "host", "host:port", "[v6]:port": the host without brackets.
std::optional<std::pair<std::string_view, std::string_view>> splitPort(std::string_view text) {
  size_t colon = text.rfind(':');
  if (text.starts_with('[')) {
    const size_t close = text.find(']');
    if (close == std::string_view::npos) return std::nullopt;
    const std::string_view rest = text.substr(close + 1);
    if (!rest.empty() && rest.front() != ':') return std::nullopt;
    return std::pair{text.substr(1, close - 1), rest};
  }
  if (colon == std::string_view::npos) return std::pair{text, std::string_view()};
  return std::pair{text.substr(0, colon), text.substr(colon)};
}

std::string dashed(std::string_view name) {
  std::string out(name);
  std::replace(out.begin(), out.end(), '_', '-');
  return out;
}

}  // namespace

bool isActionName(std::string_view name) {
  return !name.empty() && name.size() <= kActionNameBytesMax && name.front() >= 'a' &&
         name.front() <= 'z' && only(name, kLowerAlnum, "-_");
}

bool isPrintableText(std::string_view text) {
  return base::isUtf8(text) && std::none_of(text.begin(), text.end(), [](char c) {
           return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
         });
}

bool isAbsolutePath(std::string_view path) {
  return path.size() > 1 && path.size() <= 1'000 && path.front() == '/' && isPrintableText(path) &&
         eachPart(path.substr(1), '/', [](std::string_view part) {
           return !part.empty() && part != "." && part != "..";
         });
}

bool isCredentialName(std::string_view name) {
  return isPlainWord(name) && name != "." && name != "..";
}

bool isPlainWord(std::string_view text) {
  return !text.empty() && text.size() <= 100 && only(text, kAnyAlnum, "-_.");
}

std::string lowered(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

bool isHost(std::string_view text) { return isDnsName(text) || parseAddress(text).has_value(); }

std::optional<Upstream> parseUpstream(std::string_view url) {
  Upstream out;
  if (url.size() > kPatternBytesMax) return std::nullopt;
  if (url.starts_with("https://")) {
    url.remove_prefix(8);
  } else if (url.starts_with("http://")) {
    url.remove_prefix(7);
    out.tls = false;
    out.port = 80;
  } else {
    return std::nullopt;
  }
  const size_t slash = std::min(url.find('/'), url.size());
  const auto split = splitPort(url.substr(0, slash));
  if (!split || !isHost(split->first)) return std::nullopt;
  const bool bracketed = url.starts_with('[');
  if (bracketed != (split->first.find(':') != std::string_view::npos)) return std::nullopt;
  out.host = lowered(split->first);
  if (!split->second.empty()) {
    const auto port = parsePort(split->second.substr(1));
    if (!port) return std::nullopt;
    out.port = *port;
  }
  std::string_view path = url.substr(slash);
  while (path.ends_with('/')) path.remove_suffix(1);
  if (!path.empty() && (!isAbsolutePath(path) || !only(path, kAnyAlnum, "/-._~@:!$&'()+,=")))
    return std::nullopt;
  out.prefix = path;
  return out;
}

std::optional<EgressHost> parseEgressHost(std::string_view text) {
  EgressHost out;
  const auto split = splitPort(text);
  if (!split || text.starts_with('[')) return std::nullopt;
  std::string_view name = split->first;
  if (name.starts_with("*.")) {
    name.remove_prefix(2);
    if (name.find('.') == std::string_view::npos) return std::nullopt;  // "*.com"
  }
  if (!isDnsName(name)) return std::nullopt;
  out.host = lowered(split->first);
  if (!split->second.empty()) {
    const auto port = parsePort(split->second.substr(1));
    if (!port) return std::nullopt;
    out.port = *port;
  }
  return out;
}

std::optional<std::pair<Address, uint16_t>> parseListen(std::string_view text) {
  const auto split = splitPort(text);
  if (!split || split->second.empty()) return std::nullopt;
  const auto address = parseAddress(split->first);
  const auto port = parsePort(split->second.substr(1));
  if (!address || !port || *port < 1'024 || text.starts_with('[') == isIpv4(*address))
    return std::nullopt;
  return std::pair{*address, *port};
}

bool isMethod(std::string_view text) {
  return !text.empty() && text.size() <= 20 && only(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") &&
         text != "CONNECT" && text != "TRACE";
}

bool isHeaderName(std::string_view text) {
  return !text.empty() && text.size() <= 100 && only(text, kAnyAlnum, "!#$%&'*+-.^_`|~");
}

bool isHeaderValue(std::string_view text) {
  return text.size() <= 8'192 && std::none_of(text.begin(), text.end(), [](char c) {
           return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f;
         });
}

bool isFramingHeader(std::string_view name) {
  static const std::set<std::string_view> names = {
      "connection", "content-length", "expect",   "host",    "http2-settings",   "keep-alive",
      "te",         "trailer",        "trailers", "upgrade", "transfer-encoding"};
  const std::string plain = dashed(name);
  return plain.starts_with("proxy-") || names.contains(plain);
}

bool isCredentialHeader(std::string_view name) {
  const std::string plain = dashed(name);
  return plain == "authorization" || plain == "cookie" || plain == "cookie2";
}

bool isTrustHeader(std::string_view name) {
  static const std::set<std::string_view> names = {"client-ip",
                                                   "forwarded",
                                                   "true-client-ip",
                                                   "via",
                                                   "x-amz-content-sha256",
                                                   "x-amz-date",
                                                   "x-amz-security-token",
                                                   "x-client-ip",
                                                   "x-cluster-client-ip",
                                                   "x-host",
                                                   "x-http-method",
                                                   "x-http-method-override",
                                                   "x-method-override",
                                                   "x-original-host",
                                                   "x-original-method",
                                                   "x-original-url",
                                                   "x-originating-ip",
                                                   "x-real-ip",
                                                   "x-remote-ip",
                                                   "x-remote-user",
                                                   "x-rewrite-url",
                                                   "remote-user"};
  const std::string plain = dashed(name);
  return plain.starts_with("x-forwarded") || names.contains(plain);
}

bool isPathPattern(std::string_view text) {
  return text.starts_with('/') && text.size() <= kPatternBytesMax && isPrintableText(text) &&
         text.find_first_of("?#%\\") == std::string_view::npos &&
         text.find("***") == std::string_view::npos &&
         eachPart(text.substr(1), '/', [&](std::string_view part) {
           const bool last = part.data() + part.size() == text.data() + text.size();
           return (!part.empty() || last) && part != "." && part != "..";
         });
}

bool isQueryPattern(std::string_view text) {
  if (text == kAnyone) return true;
  const std::string_view name = text.substr(0, text.find('='));
  return !name.empty() && text.size() <= kPatternBytesMax && isPrintableText(text) &&
         name.find_first_of("*&#%+ ;") == std::string_view::npos;
}

std::optional<size_t> placeholdersOf(std::string_view s) {
  std::set<size_t> used;
  for (size_t i = 0; i < s.size(); ++i) {
    if (s[i] == '\0') return std::nullopt;
    if (s[i] == '\'' || s[i] == '"') {
      const bool escapes = s[i] == '\'' && i > 0 && (s[i - 1] == 'E' || s[i - 1] == 'e');
      const char quote = s[i];
      for (++i; i < s.size() && s[i] != quote; ++i)
        if (escapes && s[i] == '\\') ++i;
    } else if (s.substr(i, 2) == "--") {
      i = std::min(s.find('\n', i), s.size());
    } else if (s.substr(i, 2) == "/*") {
      const size_t end = s.find("*/", i + 2);
      if (end == std::string_view::npos) return std::nullopt;
      i = end + 1;
    } else if (s[i] == '$' && i + 1 < s.size() &&
               kDigits.find(s[i + 1]) == std::string_view::npos) {
      const size_t close = s.find('$', i + 1);  // $tag$ ... $tag$
      if (close == std::string_view::npos) return std::nullopt;
      const std::string_view tag = s.substr(i, close - i + 1);
      const size_t end = s.find(tag, close + 1);
      if (end == std::string_view::npos) return std::nullopt;
      i = end + tag.size() - 1;
    } else if (s[i] == '$') {
      size_t number = 0;
      for (; i + 1 < s.size() && kDigits.find(s[i + 1]) != std::string_view::npos; ++i) {
        number = number * 10 + static_cast<size_t>(s[i + 1] - '0');
        if (number > kPlaceholdersMax) return std::nullopt;
      }
      if (number == 0) return std::nullopt;
      used.insert(number);
    }
  }
  if (!used.empty() && *used.rbegin() != used.size()) return std::nullopt;
  return used.size();
}

std::string_view faultOfVariable(std::string_view name, std::string_view value) {
  if (name.empty() || name.size() > 100 || !only(name, kAnyAlnum, "_") ||
      kDigits.find(name.front()) != std::string_view::npos)
    return "is no variable's name";
  if (name.starts_with("MAYFLY_") || name.starts_with("LD_"))
    return "is Mayfly's or the loader's own";
  if (value.size() > kPatternBytesMax || !isPrintableText(value))
    return "must be set to at most 1000 bytes of printable text";
  std::string_view rest = value;
  while (true) {
    const size_t brace = rest.find_first_of("{}");
    if (brace == std::string_view::npos) return {};
    rest.remove_prefix(brace);
    if (rest.starts_with("{url}"))
      rest.remove_prefix(5);
    else if (rest.starts_with("{broker}"))
      rest.remove_prefix(8);
    else
      return "may hold {url} and {broker}, and no other brace: a variable never holds a secret";
  }
}

}  // namespace mayfly::config
