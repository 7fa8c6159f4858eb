// Layer: image. See sources.h.
#include "image/sources.h"

#include <fmt/format.h>

#include <algorithm>

namespace mayfly::image {
namespace {

std::vector<std::string_view> split(std::string_view text, char by) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const size_t end = std::min(text.find(by), text.size());
    parts.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

// "bookworm-security" -> "-security" for a host whose release is bookworm;
// nothing for a release that is not the host's.
bool suffixOf(std::string_view release, std::string_view host_release, std::string& suffix) {
  for (std::string_view name : {host_release, std::string_view("stable"),
                                std::string_view("oldstable"), std::string_view("testing")}) {
    if (name.empty() || release.substr(0, name.size()) != name) continue;
    suffix = release.substr(name.size());
    if (suffix.empty() || suffix == "-updates" || suffix == "-security") return true;
  }
  return false;
}

}  // namespace

base::Result<std::vector<std::string>> sourcesFor(std::string_view suite,
                                                  std::string_view indextargets,
                                                  std::string_view host_release) {
  std::vector<std::string> sources;
  bool archive = false;
  for (std::string_view line : split(indextargets, '\n')) {
    const auto field = split(line, '|');
    if (field.size() < 5 || field[2] != "main") continue;
    // The origin is unknown (and shown as the variable's name) until the first `apt-get update`.
    if (field[3] != "Debian" && field[3] != "$(ORIGIN)" && !field[3].empty()) continue;
    std::string suffix;
    if (!suffixOf(field[1], host_release, suffix)) continue;
    const std::string signed_by =
        field[4].substr(0, 1) == "/" ? fmt::format("[signed-by={}] ", field[4]) : std::string();
    std::string source = fmt::format("deb {}{} {}{} main", signed_by, field[0], suite, suffix);
    archive = archive || suffix.empty();
    if (std::find(sources.begin(), sources.end(), source) == sources.end()) {
      sources.push_back(std::move(source));
    }
  }
  if (!archive) {
    return base::fail(
        base::Code::failedPrecondition,
        fmt::format("apt on this machine names no Debian archive (release '{}') to take '{}' from",
                    host_release, suite),
        "Images are built on Debian 12 or 13 with the archive in the apt sources.");
  }
  return sources;
}

std::vector<std::string> fetchOptions(std::string_view apt_config_dump) {
  std::vector<std::string> options;
  for (std::string_view line : split(apt_config_dump, '\n')) {
    if (line.size() < 4 || line.substr(line.size() - 4) == " \"\";")
      continue;  // a scope without a value
    for (std::string_view wanted :
         {"Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::Retries",
          "Acquire::ForceIPv", "Acquire::Max-ValidTime", "Acquire::Min-ValidTime"}) {
      if (line.substr(0, wanted.size()) == wanted) options.emplace_back(line);
    }
  }
  return options;
}

std::string codename(std::string_view os_release) {
  constexpr std::string_view key = "VERSION_CODENAME=";
  for (std::string_view line : split(os_release, '\n')) {
    if (line.substr(0, key.size()) != key) continue;
    std::string value(line.substr(key.size()));
    value.erase(std::remove(value.begin(), value.end(), '"'), value.end());
    return value;
  }
  return {};
}

}  // namespace mayfly::image
