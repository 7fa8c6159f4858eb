// Layer: image. See apt.h.
#include "image/apt.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "image/command.h"
#include "image/explain.h"
#include "image/hash.h"
#include "image/sources.h"
#include "image/store.h"

namespace mayfly::image {
namespace {

using base::Code;

constexpr uint32_t kDownloadSecondsMax = 1'200;
constexpr size_t kNamesAtOnce = 150;
constexpr size_t kResolvedBytesMax = 4u << 20;
constexpr const char* kArchiveKeys = "/usr/share/keyrings/debian-archive-keyring.gpg";
// apt counts itself as essential.
constexpr const char* kEssential = "?and(?essential,?not(?name(^apt$)))";

std::string configText(const std::string& folder, const std::string& architecture,
                       const std::vector<std::string>& fetch_options) {
  std::string text = fmt::format(
      "Dir \"{0}\";\n"
      "Dir::State \"{0}\";\n"
      "Dir::State::lists \"{0}/lists\";\n"
      "Dir::State::status \"{0}/status\";\n"
      "Dir::Cache \"{0}\";\n"
      "Dir::Etc \"{0}\";\n"
      "Dir::Etc::main \"none\";\n"
      "Dir::Etc::parts \"none\";\n"
      "Dir::Etc::sourcelist \"{0}/sources.list\";\n"
      "Dir::Etc::sourceparts \"none\";\n"
      "Dir::Etc::netrc \"/etc/apt/auth.conf\";\n"
      "Dir::Etc::netrcparts \"/etc/apt/auth.conf.d\";\n"
      "Dir::Etc::trusted \"{2}\";\n"
      "Dir::Etc::trustedparts \"/etc/apt/trusted.gpg.d\";\n"
      "APT::Architecture \"{1}\";\n"
      "APT::Architectures {{ \"{1}\"; }};\n"
      "APT::Install-Recommends \"false\";\n"
      "APT::Update::Error-Mode \"any\";\n"
      "Acquire::Languages \"none\";\n",
      folder, architecture, kArchiveKeys);
  for (const std::string& option : fetch_options) text += option + "\n";
  return text;
}

// Writes only a changed text: if one of these files is newer than apt's cache of all packages, apt
// makes that anew.
base::Status keepText(const std::string& path, std::string_view text, unsigned mode = 0644) {
  const auto present = base::readSmallFile(base::FdView(AT_FDCWD), path);
  return present && *present == text ? base::Status() : writeText(path, text, mode);
}

// 'uri' name_version_arch.deb size hash
bool readUriLine(std::string_view line, std::string& name_and_version) {
  if (line.empty() || line.front() != '\'') return false;
  const size_t from = line.find("' ");
  if (from == std::string_view::npos) return false;
  std::string_view file = line.substr(from + 2);
  file = file.substr(0, file.find(' '));
  const size_t first = file.find('_'), second = file.find('_', first + 1);
  if (second == std::string_view::npos) return false;
  std::string version(file.substr(first + 1, second - first - 1));
  for (size_t at; (at = version.find("%3a")) != std::string::npos;) version.replace(at, 3, ":");
  name_and_version = fmt::format("{}={}", file.substr(0, first), version);
  return true;
}

}  // namespace

base::Result<std::string> hostArchitecture() {
  MAYFLY_TRY(std::string text, commandOutput({"dpkg", "--print-architecture"}, kShortSecondsMax));
  return text.substr(0, text.find('\n'));
}

Apt::Apt(Workshop& shop, std::string suite)
    : shop_(shop), suite_(std::move(suite)), folder_(shop.cacheDir() + "/apt/" + suite_) {}

base::Status Apt::update() {
  if (updated_) return base::Unit{};
  MAYFLY_TRY(std::string os_release,
             base::readSmallFile(base::FdView(AT_FDCWD), "/etc/os-release"));
  MAYFLY_TRY(std::string targets, commandOutput({"apt-get", "indextargets", "--format",
                                                 kIndexTargetsFormat, "Created-By: Packages"},
                                                kShortSecondsMax));
  MAYFLY_TRY(std::string config, commandOutput({"apt-config", "dump"}, kShortSecondsMax));
  MAYFLY_TRY(std::vector<std::string> sources, sourcesFor(suite_, targets, codename(os_release)));
  MAYFLY_TRY(std::string architecture, hostArchitecture());
  MAYFLY_CHECK(makeFolders(folder_ + "/lists/partial"));
  MAYFLY_CHECK(makeFolders(folder_ + "/archives/partial"));
  MAYFLY_TRY(lock_, lockFile(folder_ + "/lock", kLockSecondsMax));
  std::string list;
  for (const std::string& source : sources) list += source + "\n";
  MAYFLY_CHECK(keepText(folder_ + "/sources.list", list));
  MAYFLY_CHECK(keepText(folder_ + "/status", ""));
  MAYFLY_CHECK(keepText(folder_ + "/apt.conf",
                        configText(folder_, architecture, fetchOptions(config)), 0600));
  std::string output;
  MAYFLY_CHECK(run({"apt-get", "update", "-q"}, kDownloadSecondsMax, &output));
  updated_ = true;
  return base::Unit{};
}

base::Status Apt::run(std::vector<std::string> argv, uint32_t seconds_max, std::string* output) {
  argv.insert(argv.begin(), {"env", "APT_CONFIG=" + folder_ + "/apt.conf"});
  Command command;
  command.argv = std::move(argv);
  command.seconds_max = seconds_max;
  auto status = shop_.run(std::move(command), output);
  if (status) return status;
  return base::fail(explainApt(*output, suite_, std::move(status).error()));
}

// The packages with their hashes from the archive's index.
base::Result<std::vector<Deb>> Apt::show(const std::vector<std::string>& names) {
  std::vector<Deb> debs;
  for (size_t at = 0; at < names.size(); at += kNamesAtOnce) {
    std::vector<std::string> argv = {"apt-cache", "show", "--no-all-versions"};
    argv.insert(argv.end(), names.begin() + static_cast<ptrdiff_t>(at),
                names.begin() + static_cast<ptrdiff_t>(std::min(at + kNamesAtOnce, names.size())));
    argv.insert(argv.begin(), {"env", "APT_CONFIG=" + folder_ + "/apt.conf"});
    Deb deb;
    const auto take = [&](std::string_view line) {
      const auto field = [&](std::string_view key, std::string& to) {
        if (line.substr(0, key.size()) == key) to = line.substr(key.size());
      };
      if (line.rfind("Package: ", 0) == 0) deb = {};
      field("Package: ", deb.name);
      field("Version: ", deb.version);
      field("Architecture: ", deb.architecture);
      field("SHA256: ", deb.sha256);
      if (line.rfind("SHA256: ", 0) == 0) debs.push_back(deb);
    };
    // Kept out of the log: hundreds of descriptions.
    MAYFLY_CHECK(runCommand(argv, kShortSecondsMax, take));
  }
  for (const Deb& deb : debs) {
    if (deb.name.empty() || deb.version.empty() || !isDigest(deb.sha256))
      return base::fail(Code::internal,
                        fmt::format("apt gives no hash for the package '{}'", deb.name));
  }
  if (debs.size() != names.size())
    return base::fail(Code::internal,
                      fmt::format("apt listed {} packages, not the {} that were asked for",
                                  debs.size(), names.size()));
  return debs;
}

template <class Ask>
base::Result<std::vector<Deb>> Apt::remembered(std::string_view what,
                                               const std::vector<std::string>& packages,
                                               Fresh fresh, Ask ask) {
  MAYFLY_TRY(std::string architecture, hostArchitecture());
  Hash hash;
  for (std::string_view field : {std::string_view("mayfly resolved 1"), what,
                                 std::string_view(architecture), std::string_view(suite_)})
    hash.field(field);
  for (const std::string& package : packages) hash.field(package);
  const std::string folder = shop_.cacheDir() + "/resolved",
                    file = fmt::format("{}/{}.json", folder, hash.hex());
  if (fresh == Fresh::no) {
    auto text = base::readSmallFile(base::FdView(AT_FDCWD), file, kResolvedBytesMax);
    auto debs = text ? parseDebs(*text, file)
                     : base::Result<std::vector<Deb>>(base::fail(std::move(text).error()));
    if (debs) {
      ::utimensat(AT_FDCWD, file.c_str(), nullptr, 0);
      return debs;
    }
  }
  MAYFLY_TRY(std::vector<Deb> debs, ask());
  MAYFLY_CHECK(makeFolders(folder));
  const std::string made = fmt::format("{}.new-{}", file, ::getpid());
  MAYFLY_CHECK(writeText(made, debsText(debs)));
  if (::rename(made.c_str(), file.c_str()) != 0) return base::failSys(errno, "rename", file);
  return debs;
}

base::Result<std::vector<Deb>> Apt::ask(const std::vector<std::string>& packages) {
  shop_.say(fmt::format("looking up {} Debian packages and what they need", packages.size()));
  MAYFLY_CHECK(update());
  std::vector<std::string> argv = {"apt-get", "install", "-q", "-y", "--print-uris", kEssential};
  argv.insert(argv.end(), packages.begin(), packages.end());
  std::string output;
  MAYFLY_CHECK(run(std::move(argv), kShortSecondsMax, &output));
  std::vector<std::string> names;
  for (size_t at = 0; at < output.size();) {
    const size_t end = output.find('\n', at);
    std::string name;
    if (readUriLine(std::string_view(output).substr(at, end - at), name)) names.push_back(name);
    at = end + 1;
  }
  MAYFLY_TRY(std::vector<Deb> debs, show(names));
  std::sort(debs.begin(), debs.end(), [](const Deb& a, const Deb& b) { return a.name < b.name; });
  return debs;
}

base::Result<std::vector<Deb>> Apt::resolve(const std::vector<std::string>& packages, Fresh fresh) {
  return remembered("all", packages, fresh, [&] { return ask(packages); });
}

base::Result<std::vector<Deb>> Apt::candidates(const std::vector<std::string>& packages,
                                               Fresh fresh) {
  return remembered("alone", packages, fresh, [&]() -> base::Result<std::vector<Deb>> {
    MAYFLY_CHECK(update());
    return show(packages);
  });
}

base::Status Apt::fetch(const std::vector<Deb>& debs) {
  std::vector<std::string> argv;
  for (const Deb& deb : debs)
    if (!shop_.hasArtifact(deb.sha256)) argv.push_back(fmt::format("{}={}", deb.name, deb.version));
  if (argv.empty()) return base::Unit{};
  shop_.say(fmt::format("downloading {} Debian packages", argv.size()));
  MAYFLY_CHECK(update());
  MAYFLY_TRY(std::string folder, shop_.scratch());
  // If the folder is _apt's, apt downloads as that user; else as root, with a warning.
  if (const passwd* user = ::getpwnam("_apt");
      user && ::chown(folder.c_str(), user->pw_uid, 0) != 0)
    return base::failSys(errno, "chown", folder);
  if (::chmod((shop_.cacheDir() + "/scratch").c_str(), 0711) != 0)
    return base::failSys(errno, "chmod", "scratch");
  argv.insert(argv.begin(), {"env", "-C", folder, "apt-get", "download", "-q"});
  std::string output;
  MAYFLY_CHECK(run(std::move(argv), kDownloadSecondsMax, &output));
  DIR* dir = ::opendir(folder.c_str());
  if (!dir) return base::failSys(errno, "opendir", folder);
  base::Status status;
  while (dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] == '.' || !status) continue;
    auto kept = shop_.keepArtifact(folder + "/" + entry->d_name);
    if (!kept) status = base::fail(std::move(kept).error());
  }
  ::closedir(dir);
  MAYFLY_CHECK(std::move(status));
  for (const Deb& deb : debs) {
    if (shop_.hasArtifact(deb.sha256)) continue;
    return base::fail(
        Code::failedPrecondition,
        fmt::format("the Debian archive's {} {} is not the one that is locked: its hash "
                    "is another",
                    deb.name, deb.version),
        "Find out why before you take the new one with --update.");
  }
  return base::Unit{};
}

}  // namespace mayfly::image
