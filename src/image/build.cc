// Layer: image. See build.h.
#include "image/build.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "image/apt.h"
#include "image/hash.h"
#include "image/lock.h"
#include "image/needs.h"
#include "image/npm.h"
#include "image/pip.h"
#include "image/stage.h"
#include "image/within.h"
#include "image/workshop.h"

namespace mayfly::image {
namespace {

using base::Code;

constexpr uint32_t kPackSecondsMax = 600;
constexpr size_t kMissingShownMax = 10;
// The same for every image: only the file's hash names it.
constexpr const char* kUuid = "6d617966-6c79-4000-8000-000000000000";
constexpr const char* kFolder = "/usr/lib/mayfly";

struct Laid {
  std::string source, target;
  std::string text;  // instead of a source
  unsigned mode = 0644;
};

base::Result<std::vector<Laid>> filesToLay(const config::Manifest& manifest,
                                           const BuildOptions& options) {
  std::vector<Laid> files;
  for (const RuntimeFile& f : options.runtime) files.push_back({f.source, f.target, {}, f.mode});
  for (const config::ImageFile& f : manifest.image.files) {
    auto source = sourceFile(f.folder, f.source);
    if (!source) {
      base::Error error = std::move(source).error().in("[image.files] of the manifest");
      return base::fail(std::move(error));
    }
    struct stat st;
    if (::stat(source->c_str(), &st) != 0) return base::failSys(errno, "stat", *source);
    files.push_back({*source, f.target, {}, (st.st_mode & 0111) ? 0755u : 0644u});
  }
  files.push_back({{}, std::string(kFolder) + "/template.json", templateJson(manifest), 0644});
  std::sort(files.begin(), files.end(),
            [](const Laid& a, const Laid& b) { return a.target < b.target; });
  for (size_t i = 1; i < files.size(); ++i) {
    if (files[i].target != files[i - 1].target) continue;
    return base::fail(Code::invalidArgument,
                      fmt::format("'{}' in the image belongs to Mayfly", files[i].target),
                      "[image.files] of the manifest must put its file elsewhere.");
  }
  return files;
}

base::Result<std::string> inputsKey(const config::Manifest& manifest, const Lock* lock,
                                    const std::vector<Laid>& files) {
  Hash hash;
  hash.field("mayfly image 3");
  hash.field(recipeKey(manifest.image));
  hash.field(lock ? lockText(*lock) : "");
  for (const Laid& f : files) {
    hash.field(f.target);
    hash.field(std::to_string(f.mode));
    if (f.source.empty()) {
      hash.field(f.text);
      continue;
    }
    MAYFLY_TRY(std::string digest, hashFile(f.source));
    hash.field(digest);
  }
  return hash.hex();
}

// Resolves the parts of the lock that do not match the manifest.
base::Result<Lock> renewLock(Workshop& shop, Apt& apt, const config::ImageRecipe& recipe, Lock lock,
                             const std::vector<Section>& sections, Fresh fresh) {
  const auto among = [&](Section s) {
    return std::find(sections.begin(), sections.end(), s) != sections.end();
  };
  if (among(Section::debian)) {
    lock.suite = recipe.suite;
    MAYFLY_TRY(lock.architecture, hostArchitecture());
    lock.debian_wishes = recipe.packages;
    MAYFLY_TRY(lock.debian, apt.resolve(recipe.packages, fresh));
  }
  const bool pip = among(Section::pip), npm = among(Section::npm);
  if (!pip && !npm) return lock;
  MAYFLY_TRY(Tree tree,
             makeDebianTree(shop, apt, recipe.suite, lock.debian, recipe.early_run, Fresh::no));
  if (pip) MAYFLY_CHECK(resolvePip(shop, apt, recipe, tree.path, fresh, lock));
  if (npm)
    MAYFLY_CHECK(resolveNpm(
        shop, [&] { return makeNpmTree(shop, apt, recipe.suite); }, recipe, tree.path, lock));
  return lock;
}

base::Error lockMisfit(const config::Manifest& manifest, bool missing) {
  return {Code::failedPrecondition,
          fmt::format("'{}/{}' {}", manifest.folder, kLockFile,
                      missing ? "does not exist" : "does not match the manifest"),
          fmt::format("Make it with: mayfly template build {}.", manifest.name), 0, 0};
}

// Returns the libraries that the image lacks.
base::Result<std::vector<Missing>> pack(Workshop& shop, const std::vector<Laid>& files,
                                        const std::string& tree, std::string_view suite,
                                        const std::string& packed) {
  Stage stage(shop);
  MAYFLY_CHECK(stage.make(tree));
  for (const Laid& f : files)
    MAYFLY_CHECK(f.source.empty() ? putText(stage.path(), f.target, f.text, f.mode)
                                  : putCopy(stage.path(), f.target, f.source, f.mode));
  // What is missing may belong to a part that nobody uses, so neither it nor a failed look is an
  // error of the build.
  std::vector<Missing> missing;
  if (auto found = examine(shop, stage.path(), suite)) {
    missing = std::move(*found);
  } else {
    shop.say("not checked for missing libraries: " + found.error().message);
  }
  for (size_t i = 0; i < missing.size(); ++i)
    if (i < kMissingShownMax) shop.say("missing library: " + missingText(missing[i]));
  if (missing.size() > kMissingShownMax)
    shop.say(fmt::format("{} more libraries are missing: `mayfly template build --json` names each",
                         missing.size() - kMissingShownMax));
  // One time, no owners, no attributes: the same files give the same image. Some versions of
  // mkfs.erofs keep a file's time if it is older; the tree has none such.
  const std::string time = fmt::format("-T{}", kImageUnixSeconds);
  Command make;
  make.argv = {"mkfs.erofs", "--quiet", time,   "-x-1",      "--all-root",
               "-U",         kUuid,     packed, stage.path()};
  make.seconds_max = kPackSecondsMax;
  MAYFLY_CHECK(shop.run(make));
  MAYFLY_TRY(base::Fd fd, base::openAt(base::FdView(AT_FDCWD), packed, O_RDONLY));
  // Only root may open it: a process that can open an image can lock it and so delay its removal
  // for ever.
  if (::fchmod(fd.get(), 0600) != 0 || ::fsync(fd.get()) != 0)
    return base::failSys(errno, "fsync", packed);
  return missing;
}

}  // namespace

std::vector<RuntimeFile> defaultRuntime(const std::string& executable_dir) {
  const std::string up = executable_dir.substr(0, executable_dir.find_last_of('/'));
  const std::string in = kFolder;
  return {{executable_dir + "/mayfly-maker", in + "/mayfly-maker", 0755},
          {executable_dir + "/mayfly-exec-zygote", in + "/mayfly-exec-zygote", 0755},
          {executable_dir + "/mayfly-restorer", in + "/mayfly-restorer", 0755},
          {up + "/lib/libmayfly-zygote.so", in + "/libmayfly-zygote.so", 0644},
          {up + "/lib/libmayfly-snapshot.so", in + "/libmayfly-snapshot.so", 0644},
          {up + "/lib/libmayfly-node.so", in + "/libmayfly-node.so", 0644},
          {up + "/lib/libmayfly-python.so", in + "/libmayfly-python.so", 0644}};
}

base::Result<std::string> runtimeKey(const std::vector<RuntimeFile>& runtime) {
  Hash hash;
  for (const RuntimeFile& f : runtime) {
    MAYFLY_TRY(std::string digest, hashFile(f.source));
    hash.field(f.target);
    hash.field(digest);
  }
  return hash.hex();
}

std::string templateJson(const config::Manifest& manifest) {
  nlohmann::ordered_json env = nlohmann::ordered_json::object();
  for (const auto& [name, value] : manifest.zygote.env) env[name] = value;
  nlohmann::ordered_json json;
  json["name"] = manifest.name;
  json["mechanism"] = std::string(config::name(manifest.mechanism));
  json["preload"] = manifest.zygote.preload;
  json["env"] = env;
  nlohmann::ordered_json task_env = nlohmann::ordered_json::object();
  for (const auto& [name, value] : config::taskEnvironment(manifest)) task_env[name] = value;
  json["task_env"] = task_env;
  json["cpus_env"] = manifest.cpus_env;
  json["fresh_env"] = manifest.zygote.fresh_env;
  json["fresh_files"] = manifest.zygote.fresh_files;
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string buildLogPath(const std::string& state_dir, std::string_view template_name) {
  return fmt::format("{}/logs/build-{}.log", state_dir, template_name);
}

namespace {

base::Result<BuildResult> build(const config::Manifest& manifest, const BuildOptions& options,
                                Workshop& shop) {
  const std::string folder = options.state_dir + "/images";
  MAYFLY_CHECK(makeFolders(folder));
  const config::ImageRecipe& recipe = manifest.image;
  MAYFLY_TRY(std::vector<Laid> files, filesToLay(manifest, options));
  MAYFLY_TRY(std::string runtime, runtimeKey(options.runtime));
  MAYFLY_TRY(std::optional<Lock> lock, readLock(manifest.folder));
  const bool locking = options.locking != Locking::asNeeded || lock || !manifest.base.empty() ||
                       recipe.hasLanguagePackages();
  std::vector<Section> sections;
  if (locking) {
    MAYFLY_TRY(std::string architecture, hostArchitecture());
    const bool missing = !lock;
    if (missing || options.locking == Locking::update) lock = Lock{};
    MAYFLY_TRY(sections, stale(*lock, recipe, architecture));
    if (!sections.empty() && options.locking == Locking::frozen)
      return base::fail(lockMisfit(manifest, missing));
  }
  BuildResult result;
  const auto finished = [&](const ImageInfo& image) {
    result.image = image;
    if (lock) {
      result.debian_packages = lock->debian.size();
      result.pip_packages = lock->pip.size();
      result.npm_packages = lock->npm.size();
    }
    return result;
  };
  std::string key;
  const auto current = [&]() -> std::optional<ImageInfo> {
    auto image = findImage(options.state_dir, manifest.name);
    if (options.fresh == Fresh::yes || !sections.empty() || !image || image->inputs_key != key ||
        image->runtime_key != runtime)
      return std::nullopt;
    return *image;
  };
  MAYFLY_TRY(key, inputsKey(manifest, lock ? &*lock : nullptr, files));
  if (auto image = current()) return finished(*image);
  if (::geteuid() != 0) {
    return base::fail(Code::permissionDenied,
                      fmt::format("building the image of '{}' needs root", manifest.name));
  }
  MAYFLY_TRY(base::Fd build_lock, lockFile(options.state_dir + "/build.lock", kLockSecondsMax));
  sweepTrees(options.cache_dir);
  Apt apt(shop, recipe.suite);
  if (!sections.empty()) {
    const Fresh anew = options.locking == Locking::update ? Fresh::yes : Fresh::no;
    MAYFLY_TRY(lock, renewLock(shop, apt, recipe, std::move(*lock), sections, anew));
    MAYFLY_CHECK(writeLock(manifest.folder, *lock));
    result.locked_anew = true;
    sections.clear();
    MAYFLY_TRY(key, inputsKey(manifest, &*lock, files));
  }
  // Another build may have made it while this one waited, or the newest packages are the present
  // ones.
  if (auto image = current()) return finished(*image);
  std::vector<Deb> debs;
  if (lock) {
    debs = lock->debian;
  } else {
    MAYFLY_TRY(debs, apt.resolve(recipe.packages, options.fresh));
  }
  MAYFLY_TRY(Tree below,
             makeDebianTree(shop, apt, recipe.suite, debs, recipe.early_run, options.fresh));
  MAYFLY_TRY(Tree tree, makeFullTree(shop, apt, recipe, lock ? *lock : Lock{}, std::move(below),
                                     options.fresh));
  shop.say("packing");
  const std::string packed = fmt::format("{}/.new-{}", folder, ::getpid());
  auto missing = pack(shop, files, tree.path, recipe.suite, packed);
  if (!missing) {
    ::unlink(packed.c_str());
    return base::fail(std::move(missing).error());
  }
  ImageInfo info;
  info.missing = std::move(*missing);
  MAYFLY_TRY(info.digest, hashFile(packed));
  const std::string path = imagePath(options.state_dir, info.digest);
  if (::rename(packed.c_str(), path.c_str()) != 0) return base::failSys(errno, "rename", path);
  struct stat st;
  if (::stat(path.c_str(), &st) != 0) return base::failSys(errno, "stat", path);
  info.template_name = manifest.name;
  info.inputs_key = key;
  info.runtime_key = runtime;
  info.bytes = static_cast<uint64_t>(st.st_size);
  info.built_unix_s = static_cast<uint64_t>(::time(nullptr));
  MAYFLY_CHECK(publishImage(options.state_dir, info));
  MAYFLY_CHECK(sweepImages(options.state_dir));
  result.rebuilt = true;
  return finished(info);
}

}  // namespace

base::Result<BuildResult> buildImage(const config::Manifest& manifest,
                                     const BuildOptions& options) {
  const Interrupts interrupts;  // first: a signal ends this process after all else was removed
  Workshop shop(options.cache_dir, buildLogPath(options.state_dir, manifest.name),
                [&](std::string_view text) {
                  if (options.progress)
                    options.progress(fmt::format("{}: {}", manifest.name, text));
                });
  auto result = build(manifest, options, shop);
  if (result) return result;
  base::Error error =
      std::move(result).error().in(fmt::format("cannot build template '{}'", manifest.name));
  if (shop.logged())
    error.advice +=
        fmt::format("{}The build's log: {}", error.advice.empty() ? "" : "\n", shop.logPath());
  return base::fail(std::move(error));
}

}  // namespace mayfly::image
