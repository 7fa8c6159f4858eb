// Layer: image. See npm.h.
#include "image/npm.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sodium.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "config/packages.h"
#include "image/explain.h"
#include "image/hash.h"
#include "image/machine.h"
#include "image/sandbox.h"
#include "image/store.h"
#include "image/within.h"

namespace mayfly::image {
namespace {

using base::Code;
using Json = nlohmann::json;

constexpr size_t kPackageLockBytesMax = 64u << 20;
constexpr size_t kTarballBytesMax = 512u << 20;
constexpr size_t kPackedAtOnce = 50;
constexpr const char* kModules = "node_modules/";
constexpr const char* kTarballs = "/run/build/tarballs";

// "node_modules/a/node_modules/@s/b" -> "@s/b"
std::string nameInPath(const std::string& path) {
  const size_t at = path.rfind(kModules);
  return at == std::string::npos ? std::string() : path.substr(at + strlen(kModules));
}
bool isTopLevel(const std::string& path) {
  return path.rfind(kModules, 0) == 0 && path.find(kModules, 1) == std::string::npos;
}

// npm's rule for "os", "cpu" and "libc": a list of the allowed values, or of "!x".
bool allows(const Json& entry, const char* key, std::string_view ours) {
  if (!entry.contains(key) || !entry[key].is_array() || entry[key].empty()) return true;
  bool named = false, any_positive = false;
  for (const Json& one : entry[key]) {
    if (!one.is_string()) continue;
    const std::string value = one.get<std::string>();
    if (value == "!" + std::string(ours)) return false;
    any_positive = any_positive || value.rfind('!', 0) != 0;
    named = named || value == ours || value == "any";
  }
  return named || !any_positive;
}

std::string nodeArchitecture(std::string_view debian) {
  return debian == "amd64" ? "x64" : debian == "i386" ? "ia32" : std::string(debian);
}

// "sha512-<base64>" of a file; the strongest hash counts.
base::Result<bool> matches(const std::string& file, std::string_view integrity) {
  const size_t at = integrity.find("sha512-");
  if (at == std::string_view::npos) {
    return base::fail(Code::failedPrecondition,
                      fmt::format("npm's registry gives a hash '{}', not a sha512",
                                  base::printable(integrity.substr(0, 12))));
  }
  integrity = integrity.substr(at);
  integrity = integrity.substr(0, integrity.find(' '));
  MAYFLY_TRY(std::string bytes,
             base::readSmallFile(base::FdView(AT_FDCWD), file, kTarballBytesMax));
  unsigned char digest[crypto_hash_sha512_BYTES];
  crypto_hash_sha512(digest, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  char text[sodium_base64_ENCODED_LEN(sizeof digest, sodium_base64_VARIANT_ORIGINAL)];
  sodium_bin2base64(text, sizeof text, digest, sizeof digest, sodium_base64_VARIANT_ORIGINAL);
  return integrity == fmt::format("sha512-{}", text);
}

base::Status lookUpNpm(Workshop& shop, const LookUp& place, std::vector<std::string> argv,
                       std::string* output) {
  Command command;
  command.argv = {"/usr/bin/env", "-C", kOutFolder};
  command.argv.insert(command.argv.end(), argv.begin(), argv.end());
  command.seconds_max = kLookUpSecondsMax;
  command.environment = place.environment;
  command.enter = enterSandbox(place.sandbox);
  auto status = shop.run(std::move(command), output);
  if (status) return status;
  return base::fail(explainNpm(*output, std::move(status).error()));
}

// Makes every locked tarball an artifact; fills in a missing sha256.
base::Status fetchNpm(Workshop& shop, const NpmTree& npm_tree, std::vector<NpmPackage>& packages) {
  std::vector<NpmPackage*> missing;
  for (NpmPackage& n : packages)
    if (!shop.hasArtifact(n.sha256)) missing.push_back(&n);
  if (missing.empty()) return base::Unit{};
  shop.say(fmt::format("downloading {} npm packages", missing.size()));
  MAYFLY_TRY(std::string tree, npm_tree());
  MAYFLY_TRY(LookUp place, prepareNpmLookUp(shop, tree));
  for (size_t at = 0; at < missing.size(); at += kPackedAtOnce) {
    std::vector<std::string> argv = {"npm", "pack", "--silent", "--ignore-scripts"};
    for (size_t i = at; i < std::min(at + kPackedAtOnce, missing.size()); ++i)
      argv.push_back(fmt::format("{}@{}", missing[i]->name, missing[i]->version));
    std::string output;
    MAYFLY_CHECK(lookUpNpm(shop, place, std::move(argv), &output));
  }
  DIR* dir = ::opendir(place.out.c_str());
  if (!dir) return base::failSys(errno, "opendir", place.out);
  std::vector<std::string> files;
  while (dirent* entry = ::readdir(dir))
    if (entry->d_name[0] != '.')
      if (auto file = sourceFile(place.out, entry->d_name)) files.push_back(*file);
  ::closedir(dir);
  for (const std::string& file : files) {
    for (NpmPackage* n : missing) {
      if (!n->sha256.empty() && shop.hasArtifact(n->sha256)) continue;
      MAYFLY_TRY(bool same, matches(file, n->integrity));
      if (!same) continue;
      MAYFLY_TRY(n->sha256, shop.keepArtifact(file, n->sha256));
    }
  }
  for (NpmPackage* n : missing) {
    if (!n->sha256.empty() && shop.hasArtifact(n->sha256)) continue;
    return base::fail(
        Code::failedPrecondition,
        fmt::format("npm's registry gave a file for '{}' {} that does not have the announced hash",
                    n->name, n->version),
        "Find out why before you take the new one with --update.");
  }
  return base::Unit{};
}

}  // namespace

base::Result<std::vector<NpmPackage>> readPackageLock(std::string_view text,
                                                      const config::ImageRecipe& recipe,
                                                      std::string_view architecture) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("packages") || !json["packages"].is_object())
    return base::fail(Code::internal, "npm wrote a package-lock.json of an unknown form");
  const std::string cpu = nodeArchitecture(architecture);
  std::vector<NpmPackage> packages;
  for (const auto& [path, entry] : json["packages"].items()) {
    if (path.empty() || !entry.is_object()) continue;
    if (entry.value("inBundle", false)) continue;  // comes in its parent's tarball
    if (!allows(entry, "os", "linux") || !allows(entry, "cpu", cpu) ||
        !allows(entry, "libc", "glibc"))
      continue;
    NpmPackage n;
    n.path = path;
    n.name = entry.value("name", nameInPath(path));
    n.version = entry.value("version", "");
    n.integrity = entry.value("integrity", "");
    const std::string shown = base::printable(n.name, 80);
    if (n.integrity.empty()) {
      return base::fail(
          Code::failedPrecondition,
          fmt::format("npm's package '{}' does not come from the registry: it cannot be "
                      "locked",
                      shown),
          "Take a version that the registry has.");
    }
    const auto& may = recipe.npm_without_scripts;
    if (entry.value("hasInstallScript", false) &&
        std::find(may.begin(), may.end(), n.name) == may.end()) {
      return base::fail(
          Code::failedPrecondition,
          fmt::format(
              "npm's package '{}' {} runs a script when it is installed: it needs a compiler or "
              "downloads more, and an image is built without either",
              shown, base::printable(n.version)),
          fmt::format(
              "Take one that comes built; or where '{}' works without its script, add it to "
              "'image.npm_without_scripts'.",
              shown));
    }
    if (entry.contains("bin") && entry["bin"].is_object())
      for (const auto& [command, file] : entry["bin"].items())
        if (file.is_string()) {
          std::string inside = file.get<std::string>();
          if (inside.rfind("./", 0) == 0) inside = inside.substr(2);
          n.bin.emplace_back(command, inside);
        }
    n.wished = isTopLevel(path) &&
               std::any_of(recipe.npm.begin(), recipe.npm.end(), [&](const std::string& wish) {
                 return config::packageOf(config::Packages::npm, wish) == nameInPath(path);
               });
    packages.push_back(std::move(n));
  }
  return packages;
}

base::Status resolveNpm(Workshop& shop, const NpmTree& npm_tree, const config::ImageRecipe& recipe,
                        const std::string& tree, Lock& lock) {
  lock.npm.clear();
  lock.npm_wishes = recipe.npm;
  if (recipe.npm.empty()) return base::Unit{};
  if (::access((tree + "/usr/bin/node").c_str(), X_OK) != 0) {
    return base::fail(Code::failedPrecondition, "the image has npm packages, but no Node.js",
                      "Add 'nodejs' to 'image.packages' of the manifest.");
  }
  MAYFLY_TRY(std::string npm, npm_tree());
  shop.say(fmt::format("looking up {} npm packages and what they need", recipe.npm.size()));
  MAYFLY_TRY(LookUp place, prepareNpmLookUp(shop, npm));
  Json wishes = Json::object();
  for (const std::string& wish : recipe.npm) {
    const std::string_view version = config::versionOf(config::Packages::npm, wish);
    wishes[config::packageOf(config::Packages::npm, wish)] =
        version.empty() ? "*" : std::string(version);
  }
  const Json package = {{"name", "template"}, {"private", true}, {"dependencies", wishes}};
  MAYFLY_CHECK(writeText(place.out + "/package.json", package.dump()));
  std::string output;
  MAYFLY_CHECK(lookUpNpm(shop, place,
                         {"npm", "install", "--package-lock-only", "--ignore-scripts", "--no-audit",
                          "--no-fund", "--no-update-notifier", "--loglevel=error"},
                         &output));
  MAYFLY_TRY(std::string written, sourceFile(place.out, "package-lock.json"));
  MAYFLY_TRY(std::string text,
             base::readSmallFile(base::FdView(AT_FDCWD), written, kPackageLockBytesMax));
  MAYFLY_TRY(lock.npm, readPackageLock(text, recipe, lock.architecture));
  MAYFLY_CHECK(checkLock(lock, "the answer of npm's registry"));
  return fetchNpm(shop, npm_tree, lock.npm);
}

base::Status installNpm(Workshop& shop, const NpmTree& npm_tree, const std::string& tree,
                        const Lock& lock) {
  if (lock.npm.empty()) return base::Unit{};
  std::vector<NpmPackage> packages = lock.npm;
  MAYFLY_CHECK(fetchNpm(shop, npm_tree, packages));
  shop.say(fmt::format("unpacking {} npm packages", packages.size()));
  MAYFLY_TRY(std::string folder, shop.scratch());
  const std::string tarballs = folder + "/tarballs";
  MAYFLY_CHECK(makeFolders(tarballs));
  // Parents first: a package's folder exists before the packages inside it.
  std::sort(packages.begin(), packages.end(),
            [](const NpmPackage& a, const NpmPackage& b) { return a.path < b.path; });
  std::string script = "set -eu\nmkdir -p /usr/local/bin\n";
  for (const NpmPackage& n : packages) {
    MAYFLY_TRY(std::string digest, hashFile(shop.artifact(n.sha256)));
    if (digest != n.sha256) {
      return base::fail(
          Code::failedPrecondition,
          fmt::format("the downloaded file of '{}' {} was changed", n.name, n.version),
          fmt::format("Remove '{}' and build again.", shop.artifact(n.sha256)));
    }
    const std::string named = tarballs + "/" + n.sha256;
    if (::link(shop.artifact(n.sha256).c_str(), named.c_str()) != 0 && errno != EEXIST)
      return base::failSys(errno, "link", named);
    const std::string path = "/" + n.path;
    script += fmt::format(
        "mkdir -p {0}\ntar -xzf {1}/{2} --strip-components=1 --no-same-owner -C {0}\n"
        // As in npm, a package has no links, so none can mislead later packages.
        "find {0} -type l -delete\n",
        shellWord(path), kTarballs, n.sha256);
    for (const auto& [command, file] : n.bin) {
      if (!n.wished) continue;
      script += fmt::format("chmod +x {0}\n[ -e {1} ] || ln -s {0} {1}\n",
                            shellWord(path + "/" + file), shellWord("/usr/local/bin/" + command));
    }
  }
  script += "chmod -R u+rwX,go+rX,go-w /node_modules\n";
  MAYFLY_CHECK(writeText(folder + "/install.sh", script));
  Command install;
  install.argv = {"/bin/sh", "/run/build/install.sh"};
  install.seconds_max = kLookUpSecondsMax;
  install.environment = sandboxEnvironment({"HOME=/nonexistent"});
  install.enter = enterSandbox(
      {tree,
       Inside::install,
       {{tarballs, kTarballs, false}, {folder + "/install.sh", "/run/build/install.sh", false}}});
  return shop.run(install);
}

}  // namespace mayfly::image
