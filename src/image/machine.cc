// Layer: image. See machine.h.
#include "image/machine.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "image/store.h"
#include "image/within.h"

namespace mayfly::image {
namespace {

namespace fs = std::filesystem;

constexpr size_t kConfigBytesMax = 256u << 10;
constexpr uint32_t kCopySecondsMax = 120;
constexpr const char* kHome = "/run/build/home";
constexpr const char* kCertificates = "/etc/ssl/certs/ca-certificates.crt";

std::string_view trimmed(std::string_view text) {
  const size_t from = text.find_first_not_of(" \t\r");
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(" \t\r") - from + 1);
}

template <class Visit>
void eachLine(std::string_view text, Visit visit) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    visit(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

std::string environmentValue(const std::string& name) {
  const char* value = ::getenv(name.c_str());
  return value ? value : "";
}

std::string textOf(const std::string& path) {
  auto text = base::readSmallFile(base::FdView(AT_FDCWD), path, kConfigBytesMax);
  return text ? *text : std::string();
}

bool exists(const std::string& path) { return ::access(path.c_str(), R_OK) == 0; }

void passProxies(std::vector<std::string>& environment) {
  for (const char* name : {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY",
                           "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})
    if (const std::string value = environmentValue(name); !value.empty())
      environment.push_back(fmt::format("{}={}", name, value));
}

// A file or folder of the host that a setting names, visible inside under `name`.
std::string bindPath(LookUp& look_up, const std::string& path, const std::string& name) {
  const std::string inside = std::string(kBindFolder) + "/" + name;
  look_up.sandbox.binds.push_back({path, inside, false});
  return inside;
}

// pip's settings, all as variables: they override every file.
void addPip(LookUp& look_up, const config::ImageRecipe& recipe) {
  std::map<std::string, std::string> settings;
  const std::string home = environmentValue("HOME");
  for (const std::string& file :
       {std::string("/etc/xdg/pip/pip.conf"), std::string("/etc/pip.conf"), home + "/.pip/pip.conf",
        home + "/.config/pip/pip.conf", environmentValue("PIP_CONFIG_FILE")})
    for (auto& [key, value] : parsePipConfig(textOf(file))) settings[key] = value;
  auto& environment = look_up.environment;
  constexpr const char* kKeys[] = {
      "index-url", "extra-index-url", "find-links", "no-index", "trusted-host",
      "cert",      "client-cert",     "proxy",      "timeout",  "retries"};
  const auto variableOf = [](const char* key) {
    std::string variable = "PIP_";
    for (const char* c = key; *c; ++c)
      variable += *c == '-' ? '_' : static_cast<char>(*c - 'a' + 'A');
    return variable;
  };
  for (const char* key : kKeys) {
    std::string value = environmentValue(variableOf(key));
    if (value.empty() && std::string_view(key) == "timeout")
      value = environmentValue("PIP_DEFAULT_TIMEOUT");
    if (!value.empty()) settings[key] = value;
  }
  addIndexes(settings, recipe);
  for (const char* key : kKeys) {
    std::string value = settings[key];
    if (value.empty()) continue;
    const bool file = std::string_view(key).find("cert") != std::string_view::npos;
    if (file) {
      if (!exists(value)) continue;
      value = bindPath(look_up, value, key);
    }
    if (std::string_view(key) == "find-links") {
      std::string kept;
      int count = 0;
      for (size_t at = 0; at < value.size();) {
        const size_t end = std::min(value.find_first_of(" \t\n", at), value.size());
        std::string link = value.substr(at, end - at);
        at = end + 1;
        if (link.rfind("file://", 0) == 0) link = link.substr(7);
        if (link.empty() || (link[0] == '/' && !exists(link))) continue;
        if (link[0] == '/') link = bindPath(look_up, link, fmt::format("links-{}", count++));
        kept += (kept.empty() ? "" : " ") + link;
      }
      if (kept.empty()) continue;
      value = kept;
    }
    environment.push_back(variableOf(key) + "=" + value);
  }
  environment.insert(environment.end(),
                     {"PIP_CONFIG_FILE=/dev/null", "PIP_NO_INPUT=1", "PIP_NO_CACHE_DIR=1",
                      "PIP_DISABLE_PIP_VERSION_CHECK=1", "PIP_PROGRESS_BAR=off"});
}

base::Status addNpm(LookUp& look_up, const std::string& home_on_host) {
  const std::string user = environmentValue("NPM_CONFIG_USERCONFIG");
  std::string npmrc;
  for (const std::string& file :
       {std::string("/usr/etc/npmrc"), std::string("/usr/local/etc/npmrc"),
        std::string("/etc/npmrc"), user.empty() ? environmentValue("HOME") + "/.npmrc" : user})
    npmrc += filterNpmrc(textOf(file));
  auto& environment = look_up.environment;
  // Without network, npm's default waits for minutes.
  environment.insert(environment.end(),
                     {"npm_config_fetch_retries=2", "npm_config_fetch_retry_mintimeout=500",
                      "npm_config_fetch_retry_maxtimeout=2000"});
  for (const std::string& name : variablesIn(npmrc))
    if (const std::string value = environmentValue(name); !value.empty())
      environment.push_back(name + "=" + value);
  std::string authority = environmentValue("NODE_EXTRA_CA_CERTS");
  std::string rest;
  eachLine(npmrc, [&](std::string_view line) {
    if (line.rfind("cafile=", 0) == 0)
      authority = line.substr(7);
    else
      rest += std::string(line) + "\n";
  });
  for (const char* key : {"registry", "proxy", "https_proxy", "noproxy", "strict_ssl"})
    for (const char* prefix : {"npm_config_", "NPM_CONFIG_"}) {
      std::string name = std::string(prefix) + key;
      if (prefix[0] == 'N') std::transform(name.begin(), name.end(), name.begin(), ::toupper);
      if (const std::string value = environmentValue(name); !value.empty())
        environment.push_back(name + "=" + value);
    }
  if (!authority.empty() && exists(authority))
    rest += "cafile=" + bindPath(look_up, authority, "authority.pem") + "\n";
  return writeOwn(home_on_host + "/.npmrc", rest);
}

}  // namespace

base::Status makeOwnFolder(const std::string& path) {
  MAYFLY_CHECK(makeFolders(path));
  if (::chmod(path.c_str(), 0700) != 0 || ::chown(path.c_str(), kNobody, kNobody) != 0)
    return base::failSys(errno, "chown", path);
  return base::Unit{};
}

base::Status writeOwn(const std::string& path, std::string_view text) {
  MAYFLY_CHECK(writeText(path, text, 0600));
  if (::chown(path.c_str(), kNobody, kNobody) != 0) return base::failSys(errno, "chown", path);
  return base::Unit{};
}

std::map<std::string, std::string> parsePipConfig(std::string_view text) {
  std::map<std::string, std::string> settings;
  std::string key;
  eachLine(text, [&](std::string_view line) {
    const std::string_view content = trimmed(line);
    if (content.empty() || content.front() == '#' || content.front() == ';') return;
    if (content.front() == '[') {
      key.clear();
      return;
    }
    const bool more = line.front() == ' ' || line.front() == '\t';
    if (more && !key.empty()) {
      std::string& value = settings[key];
      value += (value.empty() ? "" : " ") + std::string(content);
      return;
    }
    const size_t equals = content.find_first_of("=:");
    if (equals == std::string_view::npos) return;
    key = trimmed(content.substr(0, equals));
    std::replace(key.begin(), key.end(), '_', '-');
    settings[key] = trimmed(content.substr(equals + 1));
  });
  return settings;
}

std::string filterNpmrc(std::string_view text) {
  std::string kept;
  eachLine(text, [&](std::string_view line) {
    line = trimmed(line);
    const size_t equals = line.find('=');
    if (equals == std::string_view::npos || line.front() == '#' || line.front() == ';') return;
    const std::string_view key = trimmed(line.substr(0, equals)),
                           value = trimmed(line.substr(equals + 1));
    if (key.empty()) return;
    const bool place = key.rfind("//", 0) == 0 ||
                       (key.front() == '@' && key.find(":registry") != std::string_view::npos);
    bool known = place;
    for (const char* one :
         {"registry", "proxy", "https-proxy", "noproxy", "strict-ssl", "cafile", "ca", "_auth",
          "_authToken", "always-auth", "fetch-retries", "fetch-timeout"})
      known = known || key == one;
    if (known) kept += fmt::format("{}={}\n", key, value);
  });
  return kept;
}

std::vector<std::string> variablesIn(std::string_view npmrc) {
  std::vector<std::string> names;
  for (size_t at = 0; (at = npmrc.find("${", at)) != std::string_view::npos;) {
    const size_t end = npmrc.find('}', at);
    if (end == std::string_view::npos) break;
    names.emplace_back(npmrc.substr(at + 2, end - at - 2));
    at = end;
  }
  return names;
}

base::Status makeEtc(const std::string& tree, const std::string& etc) {
  MAYFLY_CHECK(runCommand({"cp", "-a", tree + "/etc", etc}, kCopySecondsMax));
  for (const char* name : {"/resolv.conf", "/hosts"})
    MAYFLY_CHECK(putText(etc, name, textOf(std::string("/etc") + name), 0644));
  MAYFLY_CHECK(putText(etc, "/nsswitch.conf", "hosts: files dns\n", 0644));
  if (!exists(kCertificates)) {
    return base::fail(base::Code::failedPrecondition,
                      fmt::format("this machine has no '{}'", kCertificates),
                      "pip and npm check their servers with it: install Debian's ca-certificates.");
  }
  return putCopy(etc, "/ssl/certs/ca-certificates.crt", kCertificates, 0644);
}

void addIndexes(std::map<std::string, std::string>& settings, const config::ImageRecipe& recipe) {
  if (!recipe.pip_index.empty()) settings["index-url"] = recipe.pip_index;
  for (const std::string& url : recipe.pip_extra_index) {
    std::string& all = settings["extra-index-url"];
    all += (all.empty() ? "" : " ") + url;
  }
}

namespace {

// `home` gets the host's path of the look-up's home folder.
base::Result<LookUp> prepareLookUp(Workshop& shop, const std::string& tree, std::string& home) {
  MAYFLY_TRY(std::string folder, shop.scratch());
  home = folder + "/home";
  LookUp look_up;
  look_up.out = folder + "/out";
  MAYFLY_CHECK(makeOwnFolder(look_up.out));
  MAYFLY_CHECK(makeOwnFolder(home));
  MAYFLY_CHECK(makeEtc(tree, folder + "/etc"));
  look_up.sandbox.tree = tree;
  look_up.sandbox.inside = Inside::lookUp;
  look_up.sandbox.binds = {
      {folder + "/etc", "/etc", false}, {home, kHome, true}, {look_up.out, kOutFolder, true}};
  look_up.environment = sandboxEnvironment({std::string("HOME=") + kHome});
  passProxies(look_up.environment);
  return look_up;
}

}  // namespace

base::Result<LookUp> preparePipLookUp(Workshop& shop, const std::string& tree,
                                      const config::ImageRecipe& recipe) {
  std::string home;
  MAYFLY_TRY(LookUp look_up, prepareLookUp(shop, tree, home));
  addPip(look_up, recipe);
  return look_up;
}

base::Result<LookUp> prepareNpmLookUp(Workshop& shop, const std::string& tree) {
  std::string home;
  MAYFLY_TRY(LookUp look_up, prepareLookUp(shop, tree, home));
  MAYFLY_CHECK(addNpm(look_up, home));
  return look_up;
}

}  // namespace mayfly::image
