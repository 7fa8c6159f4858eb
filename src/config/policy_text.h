// The forms of texts in a policy: names, hosts, headers, patterns. The broker checks requests with
// the same functions.
//
// Layer: config. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "config/policy.h"

namespace mayfly::config {

inline constexpr std::string_view kNameRule =
    "is no name: lower-case letters, digits, '-' and '_', a letter first, at most 32";
inline constexpr std::string_view kHostRule =
    "must be a host's name or address, without scheme, port and final dot";
inline constexpr std::string_view kPathPatternRule =
    "\"/\" first, \"*\" for any text without \"/\", \"**\" for any text; neither \"//\", \"/./\", "
    "\"/../\" nor any of ? # % \\";

bool isPrintableText(std::string_view text);   // UTF-8 without control characters
bool isAbsolutePath(std::string_view path);    // without ".", ".." and empty parts
bool isCredentialName(std::string_view name);  // of systemd's LoadCredential=
bool isPlainWord(std::string_view text);       // [A-Za-z0-9_.-]+, at most 100
std::string lowered(std::string_view text);    // ASCII only

// A name of at most 253 bytes, or an address; as it may stand in a URL, without brackets.
bool isHost(std::string_view text);
std::optional<Upstream> parseUpstream(std::string_view url);
std::optional<EgressHost> parseEgressHost(std::string_view text);
std::optional<std::pair<Address, uint16_t>> parseListen(std::string_view text);

bool isMethod(std::string_view text);  // capital letters; neither CONNECT nor TRACE
bool isHeaderName(std::string_view text);
bool isHeaderValue(std::string_view text);  // no control character but tabs, at most 8 KiB
// The names are lower case; '_' counts as '-', as for CGI.
bool isFramingHeader(std::string_view name);     // of one connection, or of the message's frame
bool isCredentialHeader(std::string_view name);  // Authorization, Cookie
bool isTrustHeader(std::string_view name);       // servers may take method, path or peer from them
inline bool isDroppedHeader(std::string_view name) {  // whoever sent it
  return isFramingHeader(name) || isCredentialHeader(name) || isTrustHeader(name);
}

bool isPathPattern(std::string_view text);
bool isQueryPattern(std::string_view text);  // "*", "NAME" or "NAME=PATTERN"

// n, if the statement uses each of $1 to $n outside of strings and comments.
std::optional<size_t> placeholdersOf(std::string_view statement);

// The end of a sentence; empty: a task may get the variable.
std::string_view faultOfVariable(std::string_view name, std::string_view value);

}  // namespace mayfly::config
