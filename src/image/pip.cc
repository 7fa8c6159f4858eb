// Layer: image. See pip.h.
#include "image/pip.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "config/packages.h"
#include "image/explain.h"
#include "image/machine.h"
#include "image/sandbox.h"
#include "image/store.h"
#include "image/within.h"

namespace mayfly::image {
namespace {

using base::Code;
using Json = nlohmann::json;

constexpr size_t kReportBytesMax = 64u << 20;
constexpr const char* kPip = "/run/build/pip";  // a folder that holds the package `pip`
constexpr const char* kPipWheel = "/run/build/pip.whl";
constexpr const char* kUnpackInTree = "/run/build/unpack.py";
constexpr const char* kWheels = "/run/build/wheels";
constexpr const char* kRequirements = "/run/build/requirements.txt";

// The package alone: with its metadata beside it, pip would count as a package of the image. The
// pyc files are valid whatever times the files have.
constexpr std::string_view kUnpack = R"py(
import compileall, py_compile, sys, zipfile

wheel, folder = sys.argv[1:]
with zipfile.ZipFile(wheel) as file:
    file.extractall(folder, [name for name in file.namelist() if name.startswith('pip/')])
compileall.compile_dir(folder, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
)py";

std::string baseName(std::string_view path) {
  return std::string(path.substr(path.find_last_of('/') + 1));
}

// The host's path of pip's own wheel, out of its Debian package.
base::Result<std::string> fetchWheelOfPip(Workshop& shop, Apt& apt, const std::vector<Deb>& tools) {
  MAYFLY_CHECK(apt.fetch(tools));
  MAYFLY_TRY(std::string folder, shop.scratch());
  Command unpack;
  unpack.argv = {"dpkg-deb", "-x", shop.artifact(tools[0].sha256), folder};
  MAYFLY_CHECK(shop.run(unpack));
  glob_t found{};
  const int r = ::glob((folder + "/usr/share/python-wheels/pip-*.whl").c_str(), 0, nullptr, &found);
  std::string path = r == 0 && found.gl_pathc > 0 ? found.gl_pathv[0] : "";
  ::globfree(&found);
  if (path.empty()) return base::fail(Code::internal, "Debian's pip package holds no pip");
  return path;
}

// pip for use in `tree` and its copies: the host's path of a folder for kPip. Out of its wheel, pip
// would be compiled anew in each run.
//
// The tree's own Python unpacks and compiles it, without rights, so the tree's packages can put
// anything into the folder. They could do the same to every run of pip, which is theirs. So the
// folder belongs to this tree alone, is executed only in sandboxes of it and its copies, and is
// read-only there. The host follows no link in it: it made the folder itself.
base::Result<std::string> unpackPip(Workshop& shop, Apt& apt, const std::vector<Deb>& tools,
                                    const std::string& tree) {
  if (tools.empty()) return base::fail(Code::internal, "the lock names no pip");
  const std::string all = pipFolder(tree), folder = all + "/" + tools[0].sha256;
  if (::access(folder.c_str(), F_OK) == 0) return folder;
  MAYFLY_TRY(std::string wheel, fetchWheelOfPip(shop, apt, tools));
  MAYFLY_TRY(std::string work, shop.scratch());
  const std::string program = work + "/unpack.py", made = work + "/pip";
  MAYFLY_CHECK(writeOwn(program, kUnpack));
  MAYFLY_CHECK(makeOwnFolder(made));
  Command unpack;
  unpack.argv = {"/usr/bin/python3", "-I", "-W", "ignore", kUnpackInTree, kPipWheel, kPip};
  unpack.seconds_max = kShortSecondsMax;
  unpack.environment = sandboxEnvironment({"HOME=/nonexistent"});
  unpack.enter = enterSandbox(
      {tree,
       Inside::lookUp,
       {{program, kUnpackInTree, false}, {wheel, kPipWheel, false}, {made, kPip, true}}});
  MAYFLY_CHECK(shop.run(unpack));
  MAYFLY_CHECK(makeFolders(all));
  // Another build may have been faster: its folder serves as well.
  if (::rename(made.c_str(), folder.c_str()) != 0 && ::access(folder.c_str(), F_OK) != 0)
    return base::failSys(errno, "rename", folder);
  return folder;
}

std::vector<std::string> pipCommand(const char* verb) {
  return {"/usr/bin/python3", "-I", std::string(kPip) + "/pip", verb};
}

base::Status lookUpPip(Workshop& shop, const LookUp& place, std::vector<std::string> argv,
                       std::string* output) {
  Command command;
  command.argv = std::move(argv);
  command.seconds_max = kLookUpSecondsMax;
  command.environment = place.environment;
  command.enter = enterSandbox(place.sandbox);
  return shop.run(std::move(command), output);
}

std::string requirementsText(const std::vector<Wheel>& wheels) {
  std::string text;
  for (const Wheel& w : wheels)
    text += fmt::format("{}=={} --hash=sha256:{}\n", w.name, w.version, w.sha256);
  return text;
}

base::Result<std::vector<Wheel>> readReport(const std::string& path,
                                            const config::ImageRecipe& recipe, Workshop& shop) {
  MAYFLY_TRY(std::string text, base::readSmallFile(base::FdView(AT_FDCWD), path, kReportBytesMax));
  const Json report = Json::parse(text, nullptr, false);
  std::vector<Wheel> wheels;
  for (const Json& one :
       report.is_object() ? report.value("install", Json::array()) : Json::array()) {
    const Json metadata = one.value("metadata", Json::object()),
               download = one.value("download_info", Json::object());
    Wheel w;
    w.name = config::packageOf(config::Packages::pip, metadata.value("name", ""));
    w.version = metadata.value("version", "");
    std::string url = download.value("url", "");
    w.file = baseName(url.substr(0, url.find('#')));
    for (size_t at; (at = w.file.find("%2B")) != std::string::npos;) w.file.replace(at, 3, "+");
    for (const config::ImageFile& own : recipe.wheels) {
      if (baseName(own.source) != w.file) continue;
      w.own = true;
      MAYFLY_TRY(std::string wheel, sourceFile(own.folder, own.source));
      MAYFLY_TRY(w.sha256, shop.keepArtifact(wheel));
    }
    if (!w.own && download.contains("archive_info"))
      w.sha256 = download["archive_info"].value("hashes", Json::object()).value("sha256", "");
    if (w.name.empty() || w.version.empty() || !isDigest(w.sha256) || w.file.size() < 4 ||
        w.file.substr(w.file.size() - 4) != ".whl") {
      return base::fail(Code::failedPrecondition,
                        fmt::format("pip's index gives no sha256 for '{}' {}",
                                    base::printable(w.name), base::printable(w.version)),
                        "Only wheels with a sha256 can be locked.");
    }
    wheels.push_back(std::move(w));
  }
  std::sort(wheels.begin(), wheels.end(),
            [](const Wheel& a, const Wheel& b) { return a.name < b.name; });
  return wheels;
}

base::Status keepDownloads(Workshop& shop, const std::string& folder) {
  DIR* dir = ::opendir(folder.c_str());
  if (!dir) return base::failSys(errno, "opendir", folder);
  base::Status status;
  while (dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] == '.' || !status) continue;
    if (auto kept = shop.keepArtifact(folder + "/" + entry->d_name); !kept)
      status = base::fail(std::move(kept).error());
  }
  ::closedir(dir);
  return status;
}

// A package that is not found, or an index that is not reached, may be the template's choice.
void nameIndexes(const config::ImageRecipe& recipe, base::Error& error) {
  if (error.code != Code::unavailable && error.code != Code::notFound) return;
  std::string own = recipe.pip_index.empty() ? "" : "\n'image.pip_index' is " + recipe.pip_index;
  for (const std::string& url : recipe.pip_extra_index)
    own += "\n'image.pip_extra_index' has " + url;
  error.advice += own;
}

// Makes every locked wheel an artifact.
base::Status fetchPip(Workshop& shop, const config::ImageRecipe& recipe, const std::string& tree,
                      const std::string& pip, const std::vector<Wheel>& wheels) {
  std::vector<Wheel> missing;
  for (const Wheel& w : wheels) {
    if (shop.hasArtifact(w.sha256)) continue;
    bool own = false;
    for (const config::ImageFile& file : recipe.wheels) {
      if (!w.own || baseName(file.source) != w.file) continue;
      MAYFLY_TRY(std::string path, sourceFile(file.folder, file.source));
      MAYFLY_CHECK(shop.keepArtifact(path, w.sha256));
      own = true;
    }
    if (!own) missing.push_back(w);
  }
  if (missing.empty()) return base::Unit{};
  shop.say(fmt::format("downloading {} wheels", missing.size()));
  MAYFLY_TRY(LookUp place, preparePipLookUp(shop, tree, recipe));
  MAYFLY_CHECK(writeText(place.out + "/locked.txt", requirementsText(missing)));
  place.sandbox.binds.push_back({pip, kPip, false});
  std::vector<std::string> argv = pipCommand("download");
  argv.insert(argv.end(),
              {"--no-deps", "--only-binary=:all:", "--require-hashes", "-r",
               std::string(kOutFolder) + "/locked.txt", "-d", std::string(kOutFolder) + "/wheels"});
  std::string output;
  if (auto status = lookUpPip(shop, place, std::move(argv), &output); !status) {
    if (auto gone = findNoWheel(output)) {
      return base::fail(Code::notFound,
                        fmt::format("pip's index does not have '{}' any more", gone->requirement),
                        "Take another version with --update.");
    }
    base::Error error = explainPip(output, std::move(status).error());
    nameIndexes(recipe, error);
    return base::fail(std::move(error));
  }
  MAYFLY_CHECK(keepDownloads(shop, place.out + "/wheels"));
  for (const Wheel& w : missing) {
    if (!shop.hasArtifact(w.sha256))
      return base::fail(Code::failedPrecondition,
                        fmt::format("pip's index gave no file for {} {}", w.name, w.version));
  }
  return base::Unit{};
}

// Why pip found no wheel: there is only a source, or the index was not reached, which pip reports
// only in verbose mode.
base::Error explainMissing(Workshop& shop, const LookUp& place, const NoWheel& missing) {
  std::vector<std::string> argv = pipCommand("index");
  argv.insert(argv.end(), {"versions", "-vv", "--no-binary=:all:", "--pre",
                           config::packageOf(config::Packages::pip, missing.requirement)});
  std::string output;
  (void)lookUpPip(shop, place, std::move(argv), &output);
  base::Error error = explainPip(output, base::Error{});
  if (error.code == Code::unavailable) return error;
  return explainNoWheel(missing, availableVersions(output));
}

}  // namespace

std::string pipFolder(const std::string& tree) { return tree + ".pip"; }

base::Status resolvePip(Workshop& shop, Apt& apt, const config::ImageRecipe& recipe,
                        const std::string& tree, Fresh fresh, Lock& lock) {
  lock.pip.clear();
  lock.tools.clear();
  lock.pip_index.clear();
  MAYFLY_TRY(lock.pip_wishes, pipWishes(recipe));
  if (lock.pip_wishes.empty()) return base::Unit{};
  lock.pip_index = indexDigest(recipe);
  if (::access((tree + "/usr/bin/python3").c_str(), X_OK) != 0) {
    return base::fail(
        Code::failedPrecondition, "the image has pip packages, but no Python",
        "Add 'python3' to 'image.packages' of the manifest, or take base = \"python\".");
  }
  shop.say(fmt::format("looking up {} pip packages and what they need", lock.pip_wishes.size()));
  MAYFLY_TRY(lock.tools, apt.candidates({"python3-pip-whl"}, fresh));
  MAYFLY_TRY(std::string pip, unpackPip(shop, apt, lock.tools, tree));
  MAYFLY_TRY(LookUp place, preparePipLookUp(shop, tree, recipe));
  place.sandbox.binds.push_back({pip, kPip, false});
  const std::string report = "report.json";
  std::vector<std::string> argv = pipCommand("install");
  // Packages that Debian's satisfy stay Debian's.
  argv.insert(argv.end(), {"--dry-run", "--report", std::string(kOutFolder) + "/" + report,
                           "--only-binary=:all:", "--break-system-packages"});
  argv.insert(argv.end(), recipe.pip.begin(), recipe.pip.end());
  for (const config::ImageFile& wheel : recipe.wheels) {
    const std::string inside = std::string(kWheels) + "/" + baseName(wheel.source);
    MAYFLY_TRY(std::string path, sourceFile(wheel.folder, wheel.source));
    place.sandbox.binds.push_back({path, inside, false});
    argv.push_back(inside);
  }
  std::string output;
  if (auto status = lookUpPip(shop, place, std::move(argv), &output); !status) {
    base::Error error = explainPip(output, std::move(status).error());
    const auto missing = findNoWheel(output);
    if (missing && error.code == Code::internal) error = explainMissing(shop, place, *missing);
    nameIndexes(recipe, error);
    return base::fail(std::move(error));
  }
  MAYFLY_TRY(std::string written, sourceFile(place.out, report));
  MAYFLY_TRY(lock.pip, readReport(written, recipe, shop));
  MAYFLY_CHECK(checkLock(lock, "the answer of pip's index"));
  return fetchPip(shop, recipe, tree, pip, lock.pip);
}

base::Status installPip(Workshop& shop, Apt& apt, const config::ImageRecipe& recipe,
                        const std::string& look_up_tree, const std::string& tree,
                        const Lock& lock) {
  if (lock.pip.empty()) return base::Unit{};
  MAYFLY_TRY(std::string pip, unpackPip(shop, apt, lock.tools, look_up_tree));
  MAYFLY_CHECK(fetchPip(shop, recipe, look_up_tree, pip, lock.pip));
  shop.say(fmt::format("installing {} wheels", lock.pip.size()));
  MAYFLY_TRY(std::string folder, shop.scratch());
  const std::string wheels = folder + "/wheels", requirements = folder + "/requirements.txt";
  MAYFLY_CHECK(makeFolders(wheels));
  for (const Wheel& w : lock.pip) {
    const std::string named = wheels + "/" + w.file;
    if (::link(shop.artifact(w.sha256).c_str(), named.c_str()) != 0)
      return base::failSys(errno, "link", named);
  }
  MAYFLY_CHECK(writeText(requirements, requirementsText(lock.pip)));
  MAYFLY_CHECK(makeEtc(tree, folder + "/etc"));  // pip does not even start without certificates
  Command install;
  install.argv = pipCommand("install");
  install.argv.insert(
      install.argv.end(),
      {"--no-index", "--find-links", kWheels, "--require-hashes", "--no-deps",
       "--only-binary=:all:", "--no-compile", "--ignore-installed", "--break-system-packages",
       "--root-user-action=ignore", "-r", kRequirements});
  install.seconds_max = kLookUpSecondsMax;
  install.environment =
      sandboxEnvironment({"HOME=/nonexistent", "PIP_CONFIG_FILE=/dev/null", "PIP_NO_CACHE_DIR=1",
                          "PIP_NO_INPUT=1", "PIP_DISABLE_PIP_VERSION_CHECK=1"});
  install.enter = enterSandbox({tree,
                                Inside::install,
                                {{folder + "/etc", "/etc", false},
                                 {pip, kPip, false},
                                 {wheels, kWheels, false},
                                 {requirements, kRequirements, false}}});
  std::string output;
  if (auto status = shop.run(install, &output); !status)
    return base::fail(explainPip(output, std::move(status).error()));
  return base::Unit{};
}

}  // namespace mayfly::image
