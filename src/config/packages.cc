// Layer: config. See packages.h.
#include "config/packages.h"

#include <algorithm>
#include <map>

namespace mayfly::config {
namespace {

constexpr size_t kBytesMax = 200;
constexpr size_t kIndexBytesMax = 500;
constexpr std::string_view kLower = "abcdefghijklmnopqrstuvwxyz0123456789";
constexpr std::string_view kAlnum =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

bool all(std::string_view text, std::string_view allowed, std::string_view more) {
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return allowed.find(c) != std::string_view::npos || more.find(c) != std::string_view::npos;
  });
}
bool beginsWith(std::string_view text, std::string_view allowed) {
  return !text.empty() && allowed.find(text.front()) != std::string_view::npos;
}

// The end of the name (with its extras).
size_t nameEnd(Packages kind, std::string_view text) {
  size_t end = std::string_view::npos;
  if (kind == Packages::debian) end = text.find('=');
  if (kind == Packages::pip) end = text.find_first_of("=<>!~ ");
  if (kind == Packages::npm) end = text.find('@', 1);
  return std::min(end, text.size());
}

bool isDebian(std::string_view name, std::string_view rest) {  // as Debian policy names them
  if (name.size() < 2 || !beginsWith(name, kLower) || !all(name, kLower, "+-.")) return false;
  return rest.empty() || (rest.size() > 1 && beginsWith(rest.substr(1), kAlnum) &&
                          all(rest.substr(1), kAlnum, ".+-:~"));
}

bool isPip(std::string_view name, std::string_view rest) {
  std::string_view extras;
  if (const size_t open = name.find('['); open != std::string_view::npos) {
    extras = name.substr(open);
    name = name.substr(0, open);
    if (extras.size() < 3 || extras.back() != ']' ||
        !all(extras.substr(1, extras.size() - 2), kAlnum, ",._-"))
      return false;
  }
  if (!beginsWith(name, kAlnum) || !all(name, kAlnum, "._-")) return false;
  // Clauses separated by commas: an operator, then a version.
  while (!rest.empty()) {
    while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
    const std::string_view clause = rest.substr(0, rest.find(','));
    const size_t version = clause.find_first_not_of("=<>!~");
    if (version == 0 || version > 3 || version == std::string_view::npos) return false;
    const std::string_view op = clause.substr(0, version);
    if (std::string_view(" == >= <= != ~= < > === ").find(" " + std::string(op) + " ") ==
        std::string_view::npos)
      return false;
    std::string_view value = clause.substr(version);
    while (!value.empty() && value.front() == ' ') value.remove_prefix(1);
    if (!beginsWith(value, kAlnum) || !all(value, kAlnum, ".*+!-_")) return false;
    if (clause.size() == rest.size()) return true;
    rest.remove_prefix(clause.size() + 1);
    if (rest.empty()) return false;
  }
  return true;
}

bool isNpm(std::string_view name, std::string_view rest) {
  if (beginsWith(name, "@")) {
    const size_t slash = name.find('/');
    if (slash == std::string_view::npos || slash < 2) return false;
    const std::string_view scope = name.substr(1, slash - 1);
    if (!beginsWith(scope, kLower) || !all(scope, kLower, "._-")) return false;
    name = name.substr(slash + 1);
  }
  if (!beginsWith(name, kLower) || !all(name, kAlnum, "._-")) return false;
  if (rest.empty()) return true;
  rest.remove_prefix(1);  // the '@'
  // A range or a tag: without ':' and '/' it cannot be "git+ssh:", "file:" or "npm:".
  return !rest.empty() && rest.front() != '-' && all(rest, kAlnum, ".^~<>=|*-+ ");
}

}  // namespace

bool isRequirement(Packages kind, std::string_view text) {
  if (text.empty() || text.size() > kBytesMax) return false;
  const std::string_view name = text.substr(0, nameEnd(kind, text)),
                         rest = text.substr(name.size());
  if (kind == Packages::debian) return isDebian(name, rest);
  return kind == Packages::pip ? isPip(name, rest) : isNpm(name, rest);
}

std::string packageOf(Packages kind, std::string_view requirement) {
  std::string name(requirement.substr(0, nameEnd(kind, requirement)));
  if (kind != Packages::pip) return name;
  name = name.substr(0, name.find('['));
  std::string plain;  // as PEP 503 normalises names
  for (char c : name) {
    const bool separator = c == '-' || c == '_' || c == '.';
    if (separator && !plain.empty() && plain.back() == '-') continue;
    plain += separator ? '-' : c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return plain;
}

std::string_view versionOf(Packages kind, std::string_view requirement) {
  std::string_view rest = requirement.substr(nameEnd(kind, requirement));
  if (kind != Packages::pip && !rest.empty()) rest.remove_prefix(1);
  return rest;
}

std::string_view example(Packages kind) {
  switch (kind) {
    case Packages::debian:
      return "\"jq\" or \"jq=1.7.1-6\"";
    case Packages::pip:
      return "\"requests\", \"requests==2.32.3\" or \"requests[socks]>=2.31,<3\"";
    case Packages::npm:
      return "\"lodash\", \"lodash@4.17.21\" or \"@types/node@^20\"";
  }
  return {};
}

std::string_view faultOfIndex(std::string_view url) {
  constexpr std::string_view how =
      "must be the https:// URL of a package index, such as "
      "\"https://download.pytorch.org/whl/cpu\"";
  if (url.size() > kIndexBytesMax || url.find("://") == std::string_view::npos) return how;
  if (url.find('@') != std::string_view::npos || url.find_first_of("?#") != std::string_view::npos)
    return "must hold no user name, password or token: an index that asks for one belongs in the "
           "machine's own configuration of pip (docs/templates.md)";
  const size_t scheme = url.find("://");
  std::string_view host = url.substr(scheme + 3), path;
  if (const size_t slash = host.find('/'); slash != std::string_view::npos) {
    path = host.substr(slash);
    host = host.substr(0, slash);
  }
  if (const size_t colon = host.find(':'); colon != std::string_view::npos) {
    const std::string_view port = host.substr(colon + 1);
    if (port.empty() || port.size() > 5 || !all(port, "0123456789", "")) return how;
    host = host.substr(0, colon);
  }
  if (!beginsWith(host, kAlnum) || !all(host, kAlnum, ".-") || !all(path, kAlnum, "/._~+%-"))
    return how;
  if (url.substr(0, scheme) == "https") return {};
  if (url.substr(0, scheme) == "http" && (host == "localhost" || host == "127.0.0.1")) return {};
  return how;
}

std::vector<std::string> mergePackages(Packages kind, const std::vector<std::string>& inherited,
                                       const std::vector<std::string>& wishes) {
  std::map<std::string, std::string> by_name;
  for (const auto* list : {&inherited, &wishes})
    for (const std::string& requirement : *list)
      by_name[packageOf(kind, requirement)] = requirement;
  std::vector<std::string> all;
  for (auto& [name, requirement] : by_name) all.push_back(std::move(requirement));
  return all;
}

}  // namespace mayfly::config
