// Layer: image. See store.h.
#include "image/store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/folder.h"
#include "base/lock_file.h"
#include "base/text.h"
#include "image/command.h"

namespace mayfly::image {
namespace {

using base::Code;
using Json = nlohmann::json;

constexpr std::string_view kSuffix = ".erofs";
constexpr size_t kIndexBytesMax = 64u << 10;
constexpr size_t kEntriesMax = 10'000;
constexpr uint32_t kRemoveSecondsMax = 30;

std::string indexPath(const std::string& state_dir, std::string_view template_name) {
  return fmt::format("{}/index/{}.json", state_dir, template_name);
}

bool leased(const std::string& path) {
  auto fd = base::openAt(base::FdView(AT_FDCWD), path, O_RDONLY);
  return fd && ::flock(fd->get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

base::Result<ImageInfo> readIndex(const std::string& path) {
  MAYFLY_TRY(std::string text, base::readSmallFile(base::FdView(AT_FDCWD), path, kIndexBytesMax));
  const Json json = Json::parse(text, nullptr, false);
  const auto string = [&](const char* key) {
    return json.is_object() && json.contains(key) && json[key].is_string()
               ? json[key].get<std::string>()
               : std::string();
  };
  const auto number = [&](const char* key) {
    return json.is_object() && json.contains(key) && json[key].is_number_unsigned()
               ? json[key].get<uint64_t>()
               : uint64_t{0};
  };
  ImageInfo info;
  info.template_name = string("template");
  info.digest = string("digest");
  info.inputs_key = string("inputs");
  info.runtime_key = string("runtime");
  info.bytes = number("bytes");
  info.built_unix_s = number("built_unix_s");
  // An index of an older Mayfly has no such list.
  const Json missing = json.is_object() ? json.value("missing", Json()) : Json();
  for (const Json& one : missing.is_array() ? missing : Json::array()) {
    const auto word = [&](const char* key) {
      return one.is_object() && one.contains(key) && one[key].is_string()
                 ? one[key].get<std::string>()
                 : std::string();
    };
    const bool counted =
        one.is_object() && one.contains("files") && one["files"].is_number_unsigned();
    info.missing.push_back({word("library"), word("version"), word("file"),
                            counted ? one["files"].get<uint32_t>() : 1, word("package")});
  }
  if (info.template_name.empty() || !isDigest(info.digest)) {
    return base::fail(Code::internal, fmt::format("'{}' is damaged", path),
                      "Build the template's image again: mayfly image build.");
  }
  return info;
}

}  // namespace

bool isDigest(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string imagePath(const std::string& state_dir, std::string_view digest) {
  return fmt::format("{}/images/{}{}", state_dir, digest, kSuffix);
}

std::string missingText(const Missing& m) {
  const std::string who = m.files > 1 ? fmt::format("'{}' and {} more need", m.file, m.files - 1)
                                      : fmt::format("'{}' needs", m.file);
  if (!m.version.empty())
    return fmt::format("{} {} of {}, and the image's is older: take an older build of the package",
                       who, m.version, m.library);
  if (!m.package.empty())
    return fmt::format("{} {}: add \"{}\" to image.packages", who, m.library, m.package);
  // The driver's parts fit one kernel module, and no box has its devices.
  for (const char* driver : {"libcuda.so.", "libnvidia-", "libnvcuvid.so."})
    if (m.library.rfind(driver, 0) == 0)
      return fmt::format("{} {}, a part of NVIDIA's driver, which no box has", who, m.library);
  return fmt::format("{} {}: `apt-file search {}` tells its package, if Debian has one", who,
                     m.library, m.library);
}

base::Result<ImageInfo> findImage(const std::string& state_dir, std::string_view template_name) {
  const auto missing = [&] {
    return base::fail(Code::notFound,
                      fmt::format("template '{}' has no image in '{}'", template_name, state_dir),
                      fmt::format("Build it: mayfly image build {}.", template_name));
  };
  auto info = readIndex(indexPath(state_dir, template_name));
  if (!info) {
    if (info.error().sys == ENOENT) return missing();
    return info;
  }
  const std::string path = imagePath(state_dir, info->digest);
  struct stat st;
  if (::stat(path.c_str(), &st) != 0 || !S_ISREG(st.st_mode)) return missing();
  info->in_use = leased(path);
  return info;
}

base::Result<std::vector<ImageInfo>> listImages(const std::string& state_dir) {
  std::map<std::string, ImageInfo> unclaimed;  // by digest
  MAYFLY_TRY(std::vector<std::string> files, base::namesIn(state_dir + "/images", kEntriesMax));
  for (const std::string& file : files) {
    const std::string digest = file.substr(0, std::min<size_t>(64, file.size()));
    struct stat st;
    const std::string path = state_dir + "/images/" + file;
    if (!isDigest(digest) || file != digest + std::string(kSuffix) ||
        ::stat(path.c_str(), &st) != 0)
      continue;
    ImageInfo& info = unclaimed[digest];
    info.digest = digest;
    info.bytes = static_cast<uint64_t>(st.st_size);
    info.built_unix_s = static_cast<uint64_t>(st.st_mtime);
    info.in_use = leased(path);
  }
  std::vector<ImageInfo> images;
  std::map<std::string, ImageInfo> rest = unclaimed;
  MAYFLY_TRY(std::vector<std::string> indexes, base::namesIn(state_dir + "/index", kEntriesMax));
  for (const std::string& file : indexes) {
    auto info = readIndex(state_dir + "/index/" + file);
    if (!info || !unclaimed.count(info->digest)) continue;
    info->in_use = unclaimed[info->digest].in_use;
    rest.erase(info->digest);
    images.push_back(std::move(*info));
  }
  for (auto& [digest, info] : rest) images.push_back(std::move(info));
  return images;
}

base::Status publishImage(const std::string& state_dir, const ImageInfo& info) {
  MAYFLY_CHECK(makeFolders(state_dir + "/index"));
  Json missing = Json::array();
  for (const Missing& m : info.missing)
    missing.push_back({{"library", m.library},
                       {"version", m.version},
                       {"file", m.file},
                       {"files", m.files},
                       {"package", m.package}});
  const Json json = {{"template", info.template_name},
                     {"digest", info.digest},
                     {"inputs", info.inputs_key},
                     {"runtime", info.runtime_key},
                     {"bytes", info.bytes},
                     {"built_unix_s", info.built_unix_s},
                     {"missing", missing}};
  const std::string path = indexPath(state_dir, info.template_name);
  const std::string temporary = path + ".new";
  {
    MAYFLY_TRY(base::Fd fd,
               base::openAt(base::FdView(AT_FDCWD), temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644));
    const std::string text = json.dump(2) + "\n";
    if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
        ::fsync(fd.get()) != 0) {
      return base::failSys(errno, "write", temporary);
    }
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) return base::failSys(errno, "rename", path);
  return base::Unit{};
}

base::Status removeImage(const std::string& state_dir, std::string_view what) {
  MAYFLY_TRY(base::Fd lock, lockFile(state_dir + "/build.lock", kRemoveSecondsMax));
  MAYFLY_TRY(std::vector<ImageInfo> images, listImages(state_dir));
  // A short digest is enough if it is unique.
  const auto matches = [&](const ImageInfo& i) {
    return i.template_name == what || (what.size() >= 8 && i.digest.substr(0, what.size()) == what);
  };
  std::string digest;
  for (const ImageInfo& i : images) {
    if (!matches(i)) continue;
    if (!digest.empty() && digest != i.digest) {
      return base::fail(Code::invalidArgument,
                        fmt::format("'{}' names more than one image", base::printable(what)));
    }
    digest = i.digest;
  }
  if (digest.empty()) {
    return base::fail(Code::notFound,
                      fmt::format("no image '{}' in '{}'", base::printable(what), state_dir),
                      "mayfly image list shows what there is.");
  }
  const std::string path = imagePath(state_dir, digest);
  MAYFLY_TRY(base::Fd image, base::openAt(base::FdView(AT_FDCWD), path, O_RDONLY));
  if (::flock(image.get(), LOCK_EX | LOCK_NB) != 0) {
    return base::fail(Code::failedPrecondition,
                      fmt::format("image {} is in use by a running daemon", digest.substr(0, 12)),
                      "Stop the daemon first.");
  }
  for (const ImageInfo& i : images) {
    if (i.digest != digest || i.template_name.empty()) continue;
    const std::string index = indexPath(state_dir, i.template_name);
    if (::unlink(index.c_str()) != 0 && errno != ENOENT)
      return base::failSys(errno, "unlink", index);
  }
  if (::unlink(path.c_str()) != 0) return base::failSys(errno, "unlink", path);
  return base::Unit{};
}

base::Result<Pruned> pruneImages(const std::string& state_dir,
                                 const std::vector<std::string>& kept_names, PruneMode mode) {
  MAYFLY_TRY(base::Fd lock, lockFile(state_dir + "/build.lock", kRemoveSecondsMax));
  MAYFLY_TRY(std::vector<ImageInfo> images, listImages(state_dir));
  const auto isKept = [&](const ImageInfo& i) {
    return std::find(kept_names.begin(), kept_names.end(), i.template_name) != kept_names.end();
  };
  std::map<std::string, bool> done;  // by digest: whether its file is gone, or would be
  Pruned out;
  for (const ImageInfo& i : images)
    if (isKept(i)) done[i.digest] = false;
  for (const ImageInfo& i : images) {
    if (isKept(i)) continue;
    auto at = done.find(i.digest);
    if (at == done.end()) {
      const std::string path = imagePath(state_dir, i.digest);
      auto fd = base::openAt(base::FdView(AT_FDCWD), path, O_RDONLY);
      // The lock is held while the name is removed, so that no process leases it in between.
      const bool is_free = fd && ::flock(fd->get(), LOCK_EX | LOCK_NB) == 0;
      if (!is_free) out.in_use.push_back(i);
      if (is_free && mode == PruneMode::remove && ::unlink(path.c_str()) != 0)
        return base::failSys(errno, "unlink", path);
      at = done.emplace(i.digest, is_free).first;
      if (is_free) {
        out.images.push_back(i);
        out.bytes += i.bytes;
      }
    }
    // A daemon that holds the image needs no index until it starts anew.
    if (!at->second || mode == PruneMode::dryRun || i.template_name.empty()) continue;
    const std::string index = indexPath(state_dir, i.template_name);
    if (::unlink(index.c_str()) != 0 && errno != ENOENT)
      return base::failSys(errno, "unlink", index);
  }
  return out;
}

base::Status sweepImages(const std::string& state_dir) {
  MAYFLY_TRY(std::vector<ImageInfo> images, listImages(state_dir));
  for (const ImageInfo& i : images) {
    if (!i.template_name.empty()) continue;
    const std::string path = imagePath(state_dir, i.digest);
    auto fd = base::openAt(base::FdView(AT_FDCWD), path, O_RDONLY);
    // The lock is held while the name is removed, so that no process leases the image in between.
    if (fd && ::flock(fd->get(), LOCK_EX | LOCK_NB) == 0) ::unlink(path.c_str());
  }
  MAYFLY_TRY(std::vector<std::string> files, base::namesIn(state_dir + "/images", kEntriesMax));
  for (const std::string& file : files) {
    if (file.rfind(".new-", 0) == 0) ::unlink((state_dir + "/images/" + file).c_str());
  }
  return base::Unit{};
}

base::Result<Lease> Lease::take(const std::string& state_dir, std::string_view digest) {
  if (!isDigest(digest))
    return base::fail(Code::invalidArgument, "an image is named by 64 hex digits");
  const std::string path = imagePath(state_dir, digest);
  MAYFLY_TRY(base::Fd fd, base::openAt(base::FdView(AT_FDCWD), path, O_RDONLY));
  struct stat st;
  if (::flock(fd.get(), LOCK_SH | LOCK_NB) != 0 || ::fstat(fd.get(), &st) != 0 ||
      st.st_nlink == 0) {
    return base::fail(Code::unavailable,
                      fmt::format("image {} is being removed", digest.substr(0, 12)),
                      "Build it again: mayfly image build.");
  }
  (void)::fchmod(fd.get(), 0600);  // older builds let everybody open it, and so lock it
  return Lease(std::move(fd), digest);
}

base::Status readAhead(base::FdView image, uint64_t bytes_max) {
  struct stat st;
  if (::fstat(image.get(), &st) != 0) return base::failSys(errno, "fstat", "image");
  const uint64_t bytes = std::min<uint64_t>(static_cast<uint64_t>(st.st_size), bytes_max);
  // readahead(2) reads at most the device's window per call (2 MiB is below the usual maximum), so
  // this reads in pieces.
  constexpr uint64_t piece = 2u << 20;
  for (uint64_t at = 0; at < bytes; at += piece) {
    if (::readahead(image.get(), static_cast<off64_t>(at), piece) != 0) {
      return base::failSys(errno, "readahead", "image");
    }
  }
  return base::Unit{};
}

base::Result<base::Fd> lockFile(const std::string& path, uint32_t seconds_max) {
  MAYFLY_TRY(base::Fd fd, base::openLockFile(path));
  // flock() has no timeout.
  for (uint64_t waited_ms = 0; ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0; waited_ms += 100) {
    if (errno != EWOULDBLOCK && errno != EINTR) return base::failSys(errno, "flock", path);
    if (waited_ms >= uint64_t{seconds_max} * 1'000) {
      return base::fail(Code::deadlineExceeded,
                        fmt::format("'{}' was held by another build for {} s", path, seconds_max));
    }
    if (interrupted()) return base::fail(interruption("the wait for another build"));
    ::usleep(100'000);
  }
  return fd;
}

base::Status makeFolders(const std::string& path) {
  for (size_t at = 1; at != std::string::npos && at < path.size();) {
    at = path.find('/', at + 1);
    const std::string part = path.substr(0, at);
    if (::mkdir(part.c_str(), 0755) != 0 && errno != EEXIST)
      return base::failSys(errno, "mkdir", part);
  }
  return base::Unit{};
}

}  // namespace mayfly::image
