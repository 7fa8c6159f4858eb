// Layer: image. See build.h.
#include "image/build.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "image/command.h"
#include "image/hash.h"
#include "image/tree.h"

namespace mayfly::image {
namespace {

using base::Code;

constexpr uint32_t kPackSecondsMax = 600;
constexpr uint32_t kLockSecondsMax = 1'800;
// The same for every image: the file's hash is its only name.
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
    const std::string source = manifest.folder + "/" + f.source;
    struct stat st;
    if (::stat(source.c_str(), &st) != 0) {
      return base::fail(Code::notFound,
                        fmt::format("'{}' of template '{}' does not exist", source, manifest.name),
                        "The manifest's [image.files] names it.");
    }
    if (!S_ISREG(st.st_mode)) {
      return base::fail(Code::invalidArgument, fmt::format("'{}' is no regular file", source));
    }
    files.push_back({source, f.target, {}, (st.st_mode & 0111) ? 0755u : 0644u});
  }
  files.push_back({{}, std::string(kFolder) + "/template.json", templateJson(manifest), 0644});
  std::sort(files.begin(), files.end(),
            [](const Laid& a, const Laid& b) { return a.target < b.target; });
  return files;
}

base::Result<std::string> inputsKey(const config::Manifest& manifest,
                                    const std::vector<Laid>& files) {
  Hash hash;
  hash.field("mayfly image 1");
  hash.field(treeKey(manifest.image));
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

base::Status lay(const std::string& stage, const Laid& file) {
  const std::string path = stage + file.target;
  MAYFLY_CHECK(makeFolders(path.substr(0, path.find_last_of('/'))));
  // The staged tree shares its files with the cached one: never write into one.
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return base::failSys(errno, "unlink", path);
  if (!file.source.empty()) {
    MAYFLY_CHECK(runCommand({"cp", "--dereference", "--no-preserve=all", file.source, path},
                            kPackSecondsMax));
  } else {
    MAYFLY_TRY(base::Fd fd,
               base::openAt(base::FdView(AT_FDCWD), path, O_WRONLY | O_CREAT | O_EXCL, 0644));
    if (::write(fd.get(), file.text.data(), file.text.size()) !=
        static_cast<ssize_t>(file.text.size())) {
      return base::failSys(errno, "write", path);
    }
  }
  if (::chmod(path.c_str(), file.mode) != 0) return base::failSys(errno, "chmod", path);
  return base::Unit{};
}

base::Status pack(const std::string& stage, const std::vector<Laid>& files, const std::string& tree,
                  const std::string& packed) {
  MAYFLY_CHECK(removeTree(stage));
  MAYFLY_CHECK(runCommand({"cp", "-al", tree, stage}, kPackSecondsMax));
  for (const Laid& file : files) MAYFLY_CHECK(lay(stage, file));
  // No times, no owners, no attributes: the same files give the same image.
  MAYFLY_CHECK(
      runCommand({"mkfs.erofs", "--quiet", "-T0", "-x-1", "--all-root", "-U", kUuid, packed, stage},
                 kPackSecondsMax));
  MAYFLY_TRY(base::Fd fd, base::openAt(base::FdView(AT_FDCWD), packed, O_RDONLY));
  if (::fchmod(fd.get(), 0644) != 0 || ::fsync(fd.get()) != 0)
    return base::failSys(errno, "fsync", packed);
  return base::Unit{};
}

}  // namespace

std::vector<RuntimeFile> defaultRuntime(const std::string& executable_dir) {
  const std::string up = executable_dir.substr(0, executable_dir.find_last_of('/'));
  const std::string in = kFolder;
  return {{executable_dir + "/mayfly-maker", in + "/mayfly-maker", 0755},
          {executable_dir + "/mayfly-exec-zygote", in + "/mayfly-exec-zygote", 0755},
          {up + "/lib/libmayfly-zygote.so", in + "/libmayfly-zygote.so", 0644}};
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
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

base::Result<BuildResult> buildImage(const config::Manifest& manifest,
                                     const BuildOptions& options) {
  const auto say = [&](std::string_view text) {
    if (options.progress) options.progress(fmt::format("{}: {}", manifest.name, text));
  };
  const std::string folder = options.state_dir + "/images";
  MAYFLY_CHECK(makeFolders(folder));
  MAYFLY_TRY(std::vector<Laid> files, filesToLay(manifest, options));
  MAYFLY_TRY(std::string key, inputsKey(manifest, files));
  MAYFLY_TRY(std::string runtime, runtimeKey(options.runtime));
  const auto current = [&]() -> std::optional<ImageInfo> {
    auto image = findImage(options.state_dir, manifest.name);
    if (options.fresh == Fresh::yes || !image || image->inputs_key != key ||
        image->runtime_key != runtime)
      return std::nullopt;
    return *image;
  };
  if (auto image = current()) return BuildResult{std::move(*image), false};
  if (::geteuid() != 0) {
    return base::fail(Code::permissionDenied,
                      fmt::format("building the image of '{}' needs root", manifest.name));
  }
  MAYFLY_TRY(base::Fd lock, lockFile(options.state_dir + "/build.lock", kLockSecondsMax));
  // Another build may have made it while this one waited.
  if (auto image = current()) return BuildResult{std::move(*image), false};
  MAYFLY_TRY(Tree tree, makeTree(manifest, options));
  say("packing");
  const std::string stage = tree.path + ".stage",
                    packed = fmt::format("{}/.new-{}", folder, ::getpid());
  auto status = pack(stage, files, tree.path, packed);
  (void)removeTree(stage);
  if (!status) {
    ::unlink(packed.c_str());
    return tl::unexpected<base::Error>(std::move(status).error().in(
        fmt::format("cannot pack the image of template '{}'", manifest.name)));
  }
  BuildResult result;
  result.rebuilt = true;
  MAYFLY_TRY(result.image.digest, hashFile(packed));
  const std::string path = imagePath(options.state_dir, result.image.digest);
  if (::rename(packed.c_str(), path.c_str()) != 0) return base::failSys(errno, "rename", path);
  struct stat st;
  if (::stat(path.c_str(), &st) != 0) return base::failSys(errno, "stat", path);
  result.image.template_name = manifest.name;
  result.image.inputs_key = key;
  result.image.runtime_key = runtime;
  result.image.bytes = static_cast<uint64_t>(st.st_size);
  result.image.built_unix_s = static_cast<uint64_t>(::time(nullptr));
  MAYFLY_CHECK(publishImage(options.state_dir, result.image));
  MAYFLY_CHECK(sweepImages(options.state_dir));
  return result;
}

}  // namespace mayfly::image
