// Layer: image. See explain.h.
#include "image/explain.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/text.h"
#include "config/packages.h"

namespace mayfly::image {
namespace {

using base::Code;
using base::Error;

constexpr size_t kVersionsShown = 6;
constexpr size_t kReasonLinesMax = 8;

std::vector<std::string_view> lines(std::string_view text) {
  std::vector<std::string_view> all;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    all.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return all;
}

bool has(std::string_view text, std::string_view what) {
  return text.find(what) != std::string_view::npos;
}

// The text between the two, on one line; empty if it is missing.
std::string between(std::string_view text, std::string_view before, std::string_view after) {
  for (std::string_view line : lines(text)) {
    const size_t at = line.find(before);
    if (at == std::string_view::npos) continue;
    const std::string_view rest = line.substr(at + before.size());
    const size_t end = after.empty() ? rest.size() : rest.find(after);
    if (end != std::string_view::npos) return base::printable(rest.substr(0, end));
  }
  return {};
}

bool isNoNetwork(std::string_view text) {
  for (const char* sign :
       {"Temporary failure in name resolution", "Temporary failure resolving",
        "Could not resolve '", "Name or service not known", "Network is unreachable",
        "Connection refused", "Connection timed out", "Could not connect", "Unable to connect",
        "Failed to establish a new connection", "No route to host", "ENOTFOUND", "EAI_AGAIN",
        "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH", "Read timed out", "ConnectTimeoutError"})
    if (has(text, sign)) return true;
  return false;
}

Error noNetwork(std::string_view what, std::string_view where) {
  return {
      Code::unavailable, fmt::format("{} cannot be reached from this machine", what),
      fmt::format("Check its network and {}. A template that is locked is built without network "
                  "where its packages were downloaded before.",
                  where),
      0, 0};
}

// The indented lines below the line with `title`, up to the first line that is not indented.
std::string reasonsBelow(std::string_view text, std::string_view title) {
  std::string reasons;
  size_t count = 0;
  bool below = false;
  for (std::string_view line : lines(text)) {
    if (below && (line.empty() || line.front() != ' ')) break;
    if (below && ++count <= kReasonLinesMax)
      reasons +=
          "\n  " + base::printable(line.substr(std::min(line.find_first_not_of(' '), line.size())));
    if (has(line, title)) below = true;
  }
  return reasons;
}

std::string newest(const std::vector<std::string>& versions) {
  const size_t from = versions.size() > kVersionsShown ? versions.size() - kVersionsShown : 0;
  return fmt::format(
      "{}{}", from > 0 ? "..., " : "",
      fmt::join(versions.begin() + static_cast<ptrdiff_t>(from), versions.end(), ", "));
}

}  // namespace

Error explainApt(std::string_view output, std::string_view suite, Error otherwise) {
  std::string name = between(output, "E: Unable to locate package ", "");
  if (name.empty()) name = between(output, "E: Package '", "' has no installation candidate");
  if (!name.empty()) {
    return {Code::notFound, fmt::format("Debian {} has no package '{}'", suite, name),
            "Is it spelled as Debian spells it? 'image.packages' in the manifest names it.", 0, 0};
  }
  const std::string version = between(output, "E: Version '", "' was not found");
  if (!version.empty()) {  // 1.2' for 'python3
    const size_t middle = version.find("' for '");
    return {Code::notFound,
            fmt::format("Debian {} does not have version {} of '{}' (any more)", suite,
                        version.substr(0, middle),
                        middle == std::string::npos ? "?" : version.substr(middle + 7)),
            "An archive keeps the newest versions only: change 'image.packages', or renew the lock "
            "with --update.",
            0, 0};
  }
  const std::string reasons = reasonsBelow(output, "unmet dependencies:");
  if (!reasons.empty() || has(output, "you have held broken packages")) {
    return {Code::failedPrecondition,
            fmt::format("the Debian packages exclude each other:{}", reasons),
            "Take one of them out of 'image.packages' (the base's packages count too).", 0, 0};
  }
  if (isNoNetwork(output)) return noNetwork("the Debian archive", "its apt sources");
  if (has(output, " 404 ") || has(output, "404  Not Found")) {
    return {Code::notFound, "the Debian archive does not have a file any more that its index names",
            "Try again; a locked template needs --update.", 0, 0};
  }
  if (has(output, "NO_PUBKEY") || has(output, "is not signed")) {
    return {Code::failedPrecondition, "the Debian archive's signature cannot be checked",
            "Install debian-archive-keyring, or give the apt source its signed-by.", 0, 0};
  }
  return otherwise;
}

std::optional<NoWheel> findNoWheel(std::string_view output) {
  constexpr std::string_view before = "Could not find a version that satisfies the requirement ";
  for (std::string_view line : lines(output)) {
    const size_t at = line.find(before);
    if (at == std::string_view::npos) continue;
    std::string_view rest = line.substr(at + before.size());
    NoWheel missing;
    missing.requirement =
        base::printable(rest.substr(0, std::min(rest.find(" (from "), rest.size())));
    missing.wanted_by = between(rest, " (from ", ") (from versions:");
    const size_t list = rest.find("(from versions: ");
    rest = list == std::string_view::npos ? std::string_view() : rest.substr(list + 16);
    rest = rest.substr(0, std::min(rest.find(')'), rest.size()));
    while (!rest.empty() && rest != "none") {
      const size_t comma = std::min(rest.find(", "), rest.size());
      missing.versions.push_back(base::printable(rest.substr(0, comma)));
      rest.remove_prefix(std::min(comma + 2, rest.size()));
    }
    return missing;
  }
  return std::nullopt;
}

std::vector<std::string> availableVersions(std::string_view output) {
  std::vector<std::string> versions;
  std::string list = between(output, "Available versions: ", "");
  std::string_view rest = list;
  while (!rest.empty()) {
    const size_t comma = std::min(rest.find(", "), rest.size());
    versions.emplace_back(rest.substr(0, comma));
    rest.remove_prefix(std::min(comma + 2, rest.size()));
  }
  return versions;
}

Error explainNoWheel(const NoWheel& missing, const std::vector<std::string>& sources) {
  const std::string name = config::packageOf(config::Packages::pip, missing.requirement);
  const std::string wanted =
      missing.wanted_by.empty()
          ? fmt::format("'{}'", missing.requirement)
          : fmt::format("'{}' (which '{}' needs)", missing.requirement, missing.wanted_by);
  // "==1.2" is among the sources, or any version will do and there are only sources.
  std::string_view version = config::versionOf(config::Packages::pip, missing.requirement);
  const bool pinned = version.substr(0, 2) == "==";
  if (pinned) version.remove_prefix(2);
  const bool in_source = pinned
                             ? std::find(sources.begin(), sources.end(), version) != sources.end()
                             : missing.versions.empty() && !sources.empty();
  if (in_source) {
    return {
        Code::failedPrecondition,
        fmt::format("pip has {} as source code only: it needs a compiler, and an image is built "
                    "without one{}",
                    wanted,
                    missing.versions.empty()
                        ? std::string()
                        : fmt::format(" (built for this Python: {})", newest(missing.versions))),
        fmt::format("Take a version that is built for this Python, or Debian's own package of it "
                    "(python3-{} or the like) in 'image.packages', or build a wheel and name its "
                    "file in 'image.pip'.",
                    name),
        0, 0};
  }
  if (!missing.versions.empty()) {
    return {Code::notFound,
            fmt::format("pip has no version for {}; for this Python there are: {}", wanted,
                        newest(missing.versions)),
            "Change the version in 'image.pip' of the manifest.", 0, 0};
  }
  return {Code::notFound, fmt::format("pip's index has no package {}", wanted),
          "Is it spelled as the index spells it? 'image.pip' in the manifest names it.", 0, 0};
}

Error explainPip(std::string_view output, Error otherwise) {
  if (isNoNetwork(output)) return noNetwork("pip's package index", "its pip configuration");
  if (has(output, "ResolutionImpossible") || has(output, "conflicting dependencies")) {
    return {Code::failedPrecondition,
            fmt::format("pip's packages exclude each other: {}{}",
                        between(output, "ERROR: Cannot install ", " because"),
                        reasonsBelow(output, "The conflict is caused by:")),
            "Loosen or change a version in 'image.pip' of the manifest (the base's count too).", 0,
            0};
  }
  if (has(output, "THESE PACKAGES DO NOT MATCH THE HASHES") || has(output, "Hashes are required")) {
    return {Code::failedPrecondition, "a package of pip's index is not the one that is locked",
            "Find out why before you take the new one with --update.", 0, 0};
  }
  const std::string wheel =
      between(output, "ERROR: ", " is not a supported wheel on this platform");
  if (!wheel.empty()) {
    return {Code::failedPrecondition,
            fmt::format("the wheel '{}' is built for another Python or machine", wheel),
            "Build it for the Python of the image.", 0, 0};
  }
  const std::string invalid = between(output, "ERROR: Invalid requirement: ", "");
  if (!invalid.empty())
    return {Code::invalidArgument, fmt::format("pip cannot read the requirement {}", invalid),
            "Correct it in 'image.pip' of the manifest.", 0, 0};
  return otherwise;
}

Error explainNpm(std::string_view output, Error otherwise) {
  if (isNoNetwork(output)) return noNetwork("npm's registry", "its npm configuration");
  if (has(output, "code E404")) {
    std::string name = between(output, "404  '", "' is not in this registry");
    return {Code::notFound,
            fmt::format("npm's registry has no package '{}'", name.substr(0, name.find('@', 1))),
            "Is it spelled as npm spells it? 'image.npm' in the manifest names it.", 0, 0};
  }
  const std::string version = between(output, "No matching version found for ", "");
  if (!version.empty()) {
    return {Code::notFound,
            fmt::format("npm's registry has no version for '{}'",
                        version.substr(0, version.find_last_not_of('.') + 1)),
            "Change the version in 'image.npm' of the manifest.", 0, 0};
  }
  if (has(output, "code ERESOLVE")) {
    std::string reasons;
    for (const char* sign : {"Found: ", "peer "}) {
      const std::string text = between(output, sign, "");
      if (!text.empty()) reasons += fmt::format("\n  {}{}", sign, text);
    }
    return {Code::failedPrecondition, fmt::format("npm's packages exclude each other:{}", reasons),
            "Change a version in 'image.npm' of the manifest.", 0, 0};
  }
  if (has(output, "code EINTEGRITY")) {
    return {Code::failedPrecondition, "a package of npm's registry is not the one that is locked",
            "Find out why before you take the new one with --update.", 0, 0};
  }
  return otherwise;
}

}  // namespace mayfly::image
