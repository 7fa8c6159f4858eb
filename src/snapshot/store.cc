// Layer: snapshot. See store.h.
#include "snapshot/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/folder.h"
#include "base/text.h"
#include "image/hash.h"

namespace mayfly::snapshot {
namespace {

using base::Code;
using base::Fd;
using base::FdView;
using Json = nlohmann::ordered_json;

constexpr std::string_view kFormat = "mayfly snapshot 1";
constexpr const char* kInfoFile = "snapshot.json";
constexpr const char* kMemoryFile =
    "memory";  // as zygote/snapshot.h has it; of the zygote, not of a clone
constexpr size_t kInfoBytesMax = 4u << 20;
constexpr size_t kEntriesMax = 10'000;
constexpr uint32_t kLockSecondsMax = 600;
constexpr const char* kCandidatePrefix = ".new-";
constexpr const char* kOldPrefix = ".old-";

// criu's own, and what the runtime writes until its task runs.
constexpr uint64_t kRestoreBytes = 24ull << 20;
constexpr uint32_t kRestoreProcesses = 4;  // criu and its helpers, beside the clone's threads
constexpr uint64_t kLeaseLookMs = 50, kLeaseMsMax = 10'000;
constexpr int kSweepMs = 100;  // between two looks at who uses a snapshot

std::string placeOf(const std::string& state_dir) { return state_dir + "/snapshots"; }

// The names in an open folder, but snapshot.json.
base::Result<std::vector<std::string>> filesOf(FdView folder) {
  std::vector<std::string> names;
  MAYFLY_TRY(Fd own, base::openAt(folder, ".", O_RDONLY | O_DIRECTORY));
  DIR* dir = ::fdopendir(own.get());
  if (!dir) return base::failSys(errno, "fdopendir", "the folder of a snapshot");
  (void)own.release();
  while (dirent* entry = ::readdir(dir)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != ".." && name != kInfoFile && names.size() <= kFilesMax)
      names.emplace_back(name);
  }
  ::closedir(dir);
  if (names.size() > kFilesMax)
    return base::fail(Code::resourceExhausted, "a snapshot has too many files");
  std::sort(names.begin(), names.end());
  return names;
}

bool leased(const std::string& folder) {
  auto fd = base::openAt({}, folder, O_RDONLY | O_DIRECTORY);
  return fd && ::flock(fd->get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

// False: somebody serves it. Nobody begins to while it is removed.
base::Result<bool> removeUnused(const std::string& folder) {
  auto fd = base::openAt({}, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!fd && fd.error().sys == ENOENT) return true;
  if (!fd) return base::fail(std::move(fd).error());
  if (::flock(fd->get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return false;
    return base::failSys(errno, "flock", folder);
  }
  MAYFLY_CHECK(removeFolder(folder));
  return true;
}

base::Result<Fd> lockWithin(const std::string& state_dir, uint32_t seconds_max) {
  const std::string place = placeOf(state_dir);
  MAYFLY_CHECK(image::makeFolders(place));
  // Whoever restores has a descriptor of one folder in it: no way leads up from there.
  if (::chmod(place.c_str(), 0700) != 0) return base::failSys(errno, "chmod", place);
  return image::lockFile(place + "/build.lock", seconds_max);
}

base::Error damaged(const std::string& what, const std::string& template_name) {
  return {Code::failedPrecondition, what,
          fmt::format("Make the snapshot again: mayfly snapshot build {}.",
                      template_name.empty() ? "TEMPLATE" : template_name),
          0, 0};
}

std::string word(const Json& json, const char* key) {
  return json.is_object() && json.contains(key) && json[key].is_string()
             ? json[key].get<std::string>()
             : std::string();
}
uint64_t number(const Json& json, const char* key) {
  return json.is_object() && json.contains(key) && json[key].is_number_unsigned()
             ? json[key].get<uint64_t>()
             : 0;
}

base::Result<Info> readInfo(const std::string& folder) {
  const std::string path = folder + "/" + kInfoFile;
  MAYFLY_TRY(std::string text, base::readSmallFile({}, path, kInfoBytesMax));
  const Json json = Json::parse(text, nullptr, false);
  Info info;
  info.key = word(json, "key");
  info.template_name = word(json, "template");
  info.image_digest = word(json, "image");
  info.kernel = word(json, "kernel");
  info.built_unix_s = number(json, "built_unix_s");
  info.built_ms = number(json, "built_ms");
  const Json files = json.is_object() ? json.value("files", Json()) : Json();
  for (const Json& one : files.is_array() ? files : Json::array())
    info.files.push_back({word(one, "name"), number(one, "bytes"), word(one, "sha256")});
  const bool sound = image::isDigest(info.key) && !info.template_name.empty() &&
                     !info.files.empty() &&
                     std::all_of(info.files.begin(), info.files.end(), [](const File& f) {
                       return !f.name.empty() && f.name.find('/') == std::string::npos &&
                              image::isDigest(f.sha256);
                     });
  if (!sound) return base::fail(damaged(fmt::format("'{}' is damaged", path), info.template_name));
  return info;
}

base::Status writeInfo(const std::string& folder, const Info& info) {
  Json files = Json::array();
  for (const File& f : info.files)
    files.push_back({{"name", f.name}, {"bytes", f.bytes}, {"sha256", f.sha256}});
  const Json json = {{"template", info.template_name},
                     {"key", info.key},
                     {"image", info.image_digest},
                     {"kernel", info.kernel},
                     {"built_unix_s", info.built_unix_s},
                     {"built_ms", info.built_ms},
                     {"files", files}};
  const std::string path = folder + "/" + kInfoFile;
  MAYFLY_TRY(Fd fd, base::openAt({}, path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  const std::string text = json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      ::fsync(fd.get()) != 0)
    return base::failSys(errno, "write", path);
  return base::Unit{};
}

// A file of a snapshot as it is; no link is followed.
base::Result<File> examine(FdView folder, const std::string& name) {
  MAYFLY_TRY(Fd fd, base::openAt(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return base::failSys(errno, "fstat", name);
  if (!S_ISREG(st.st_mode)) return base::fail(Code::failedPrecondition, name + " is no file");
  File file{name, static_cast<uint64_t>(st.st_size), {}};
  if (file.bytes > kBytesMax) return base::fail(Code::resourceExhausted, name + " is too large");
  MAYFLY_TRY(file.sha256, image::hashFile(fmt::format("/proc/self/fd/{}", fd.get())));
  return file;
}

}  // namespace

uint64_t Info::bytes() const {
  uint64_t sum = 0;
  for (const File& f : files) sum += f.bytes;
  return sum;
}

uint32_t Info::threads() const {
  return static_cast<uint32_t>(std::count_if(
      files.begin(), files.end(), [](const File& f) { return f.name.rfind("core-", 0) == 0; }));
}

uint64_t Info::memoryLeast() const {
  uint64_t least = kRestoreBytes;
  for (const File& f : files)
    if (f.name != kMemoryFile) least += f.bytes;
  return least;
}

uint32_t Info::processesLeast() const { return threads() + kRestoreProcesses; }

base::Result<Host> thisHost() {
  Host host;
  utsname name;
  if (::uname(&name) != 0) return base::failSys(errno, "uname", "this host");
  host.kernel = fmt::format("{} {} {}", name.release, name.version, name.machine);
  MAYFLY_TRY(host.boot_id, base::readSmallFile({}, "/proc/sys/kernel/random/boot_id"));
  // Of the first processor; criu and the runtimes look at flags.
  MAYFLY_TRY(std::string cpus, base::readSmallFile({}, "/proc/cpuinfo", 16u << 20));
  for (const char* key : {"vendor_id", "model name", "flags", "Features"}) {
    const size_t at = cpus.find(key);
    if (at == std::string::npos) continue;
    host.processor += cpus.substr(at, cpus.find('\n', at) - at) + "\n";
  }
  return host;
}

std::string keyOf(const config::Manifest& manifest, const image::ImageInfo& image,
                  std::string_view seccomp, const Host& host) {
  image::Hash hash;
  hash.field(kFormat);
  // The image holds criu, the zygote's program, its preloads and settings (template.json).
  for (std::string_view one :
       {std::string_view(manifest.name), std::string_view(image.digest),
        std::string_view(image.runtime_key), seccomp, std::string_view(host.kernel),
        std::string_view(host.boot_id), std::string_view(host.processor)})
    hash.field(one);
  hash.field(manifest.loopback ? "loopback" : "");
  hash.field(std::to_string(manifest.zygote.argv.size()));
  for (const std::string& arg : manifest.zygote.argv) hash.field(arg);
  return hash.hex();
}

std::string folderOf(const std::string& state_dir, std::string_view key) {
  return fmt::format("{}/{}", placeOf(state_dir), key);
}

base::Result<Info> find(const std::string& state_dir, std::string_view template_name,
                        std::string_view key) {
  auto info = readInfo(folderOf(state_dir, key));
  if (info && (info->key != key || info->template_name != template_name))
    return base::fail(damaged(fmt::format("'{}' holds another snapshot", folderOf(state_dir, key)),
                              std::string(template_name)));
  if (info || info.error().sys != ENOENT) return info;
  return base::fail(
      Code::notFound,
      fmt::format("template '{}' has no snapshot for its present image on this host in '{}'",
                  template_name, state_dir),
      fmt::format("Make it: mayfly snapshot build {}.", template_name));
}

base::Result<std::vector<Info>> list(const std::string& state_dir) {
  std::vector<Info> all;
  MAYFLY_TRY(std::vector<std::string> names, base::namesIn(placeOf(state_dir), kEntriesMax));
  for (const std::string& name : names) {
    if (!image::isDigest(name)) continue;
    const std::string folder = folderOf(state_dir, name);
    auto info = readInfo(folder);
    all.push_back(info && info->key == name ? std::move(*info) : Info{});
    all.back().key = name;
    all.back().in_use = leased(folder);
  }
  std::stable_sort(all.begin(), all.end(), [](const Info& a, const Info& b) {
    if (a.template_name != b.template_name) return a.template_name < b.template_name;
    return a.built_unix_s > b.built_unix_s;
  });
  return all;
}

base::Status verify(FdView folder, const Info& info) {
  MAYFLY_TRY(std::vector<std::string> names, filesOf(folder));
  for (const std::string& name : names)
    if (std::none_of(info.files.begin(), info.files.end(),
                     [&](const File& f) { return f.name == name; }))
      return base::fail(damaged(
          fmt::format("snapshot {} of '{}' has a file that was not dumped: "
                      "'{}'",
                      info.key.substr(0, 12), info.template_name, base::printable(name, 60)),
          info.template_name));
  for (const File& wanted : info.files) {
    auto found = examine(folder, wanted.name);
    std::string fault;
    if (!found)
      fault = found.error().sys == ENOENT ? "is missing" : found.error().message;
    else if (found->bytes != wanted.bytes)
      fault = fmt::format("has {} bytes, not {}", found->bytes, wanted.bytes);
    else if (found->sha256 != wanted.sha256)
      fault = "has another checksum";
    if (fault.empty()) continue;
    return base::fail(
        damaged(fmt::format("snapshot {} of '{}' is damaged: '{}' {}", info.key.substr(0, 12),
                            info.template_name, wanted.name, fault),
                info.template_name));
  }
  return base::Unit{};
}

base::Result<Fd> open(const std::string& state_dir, const Info& info) {
  const std::string path = folderOf(state_dir, info.key);
  // As lock() makes it: a state folder may have been copied without its modes.
  if (::chmod(placeOf(state_dir).c_str(), 0700) != 0)
    return base::failSys(errno, "chmod", placeOf(state_dir));
  MAYFLY_TRY(Fd folder, base::openAt({}, path, O_RDONLY | O_DIRECTORY));
  // A removal, or a look whether there is a lease, holds it for moments.
  for (uint64_t ms = 0; ::flock(folder.get(), LOCK_SH | LOCK_NB) != 0; ms += kLeaseLookMs) {
    if (errno != EWOULDBLOCK || ms >= kLeaseMsMax) return base::failSys(errno, "flock", path);
    const timespec pause{0, kLeaseLookMs * 1'000'000};
    (void)::nanosleep(&pause, nullptr);
  }
  // Between the open and the lock it may have been removed, and another made in its place.
  struct stat ours, named;
  if (::fstat(folder.get(), &ours) != 0 || ::stat(path.c_str(), &named) != 0 ||
      ours.st_ino != named.st_ino)
    return base::fail(Code::unavailable, fmt::format("'{}' is being replaced", path), "Try again.");
  return folder;
}

base::Result<Fd> leaseAgain(FdView folder) {
  MAYFLY_TRY(Fd again, base::openAt(folder, ".", O_RDONLY | O_DIRECTORY));
  if (::flock(again.get(), LOCK_SH | LOCK_NB) != 0)
    return base::failSys(errno, "flock", "the folder of a snapshot");
  return again;
}

base::Status close(FdView folder) {
  if (::fchmod(folder.get(), 0755) != 0) return base::failSys(errno, "fchmod", "a candidate");
  MAYFLY_TRY(std::vector<std::string> names, filesOf(folder));
  for (const std::string& name : names) {
    MAYFLY_TRY(Fd file, base::openAt(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
    if (::fchown(file.get(), 0, 0) != 0) return base::failSys(errno, "fchown", name);
    if (::fchmod(file.get(), 0644) != 0) return base::failSys(errno, "fchmod", name);
  }
  return base::Unit{};
}

base::Status publish(const std::string& state_dir, const std::string& folder, Info info) {
  MAYFLY_TRY(Fd dir, base::openAt({}, folder, O_RDONLY | O_DIRECTORY));
  MAYFLY_CHECK(close(dir.view()));
  MAYFLY_TRY(std::vector<std::string> names, filesOf(dir.view()));
  info.files.clear();
  for (const std::string& name : names) {
    MAYFLY_TRY(File file, examine(dir.view(), name));
    info.files.push_back(std::move(file));
  }
  if (info.bytes() > kBytesMax)
    return base::fail(Code::resourceExhausted, "the snapshot is larger than 16 GiB");
  info.built_unix_s = static_cast<uint64_t>(::time(nullptr));
  MAYFLY_CHECK(writeInfo(folder, info));
  if (::syncfs(dir.get()) != 0) return base::failSys(errno, "syncfs", folder);
  const std::string path = folderOf(state_dir, info.key);
  // A daemon that serves the old one has its folder open: it keeps it, under another name.
  const std::string old =
      fmt::format("{}/{}{}-{}", placeOf(state_dir), kOldPrefix, info.key.substr(0, 12), ::getpid());
  MAYFLY_TRY(const bool removed, removeUnused(path));
  if (!removed && ::rename(path.c_str(), old.c_str()) != 0)
    return base::failSys(errno, "rename", path);
  if (::rename(folder.c_str(), path.c_str()) != 0) return base::failSys(errno, "rename", path);
  return base::Unit{};
}

base::Result<size_t> remove(const std::string& state_dir, std::string_view what) {
  MAYFLY_TRY(Fd held, lock(state_dir));
  MAYFLY_TRY(std::vector<Info> all, list(state_dir));
  size_t removed = 0;
  for (const Info& info : all) {
    const bool by_key = what.size() >= 12 && info.key.rfind(what, 0) == 0;
    if (!by_key && info.template_name != what) continue;
    MAYFLY_TRY(const bool done, removeUnused(folderOf(state_dir, info.key)));
    if (!done)
      return base::fail(
          Code::failedPrecondition,
          fmt::format("snapshot {} of '{}' is in use", info.key.substr(0, 12), info.template_name),
          "Stop the daemon that serves it first.");
    ++removed;
  }
  if (removed == 0)
    return base::fail(
        Code::notFound,
        fmt::format("there is no snapshot '{}' in '{}'", base::printable(what, 80), state_dir),
        "`mayfly snapshot list` shows all.");
  return removed;
}

void sweep(const std::string& state_dir, std::string_view template_name,
           std::string_view kept_key) {
  if (auto names = base::namesIn(placeOf(state_dir), kEntriesMax))
    for (const std::string& name : *names) {
      const std::string path = placeOf(state_dir) + "/" + name;
      if (name.rfind(kCandidatePrefix, 0) == 0) (void)removeFolder(path);  // of a killed build
      if (name.rfind(kOldPrefix, 0) == 0) (void)removeUnused(path);
    }
  if (auto all = list(state_dir))
    for (const Info& info : *all)
      if (info.template_name == template_name && info.key != kept_key)
        (void)removeUnused(folderOf(state_dir, info.key));
}

base::Result<size_t> sweepUnused(const std::string& state_dir, const Info& kept, uint64_t ms_max) {
  const std::string old = kOldPrefix + kept.key.substr(0, 12);
  const uint64_t from_ns = base::monotonicNs();
  for (;;) {
    const uint64_t ms = std::min((base::monotonicNs() - from_ns) / 1'000'000, ms_max);
    {
      auto held = lockWithin(state_dir, static_cast<uint32_t>(std::min<uint64_t>(
                                            (ms_max - ms) / 1'000, kLockSecondsMax)));
      if (held)
        sweep(state_dir, kept.template_name, kept.key);
      else if (held.error().code != Code::deadlineExceeded)
        return base::fail(std::move(held).error());
    }
    size_t left = 0;
    MAYFLY_TRY(std::vector<std::string> names, base::namesIn(placeOf(state_dir), kEntriesMax));
    for (const std::string& name : names) left += name.rfind(old, 0) == 0 ? 1 : 0;
    if (left == 0 || ms == ms_max) return left;
    const timespec pause{0, kSweepMs * 1'000'000};
    (void)::nanosleep(&pause, nullptr);
  }
}

std::string criuVersion(FdView folder) {
  constexpr std::string_view kLabel = "Version: ";
  auto text = base::readSmallFile(folder, "criu.version");
  if (!text || text->rfind(kLabel, 0) != 0) return {};
  return base::printable(text->substr(kLabel.size(), text->find('\n') - kLabel.size()), 40);
}

base::Result<Fd> lock(const std::string& state_dir) {
  return lockWithin(state_dir, kLockSecondsMax);
}

base::Result<std::string> makeCandidate(const std::string& state_dir) {
  // Only root reaches the folder by its path.
  const std::string outer =
      fmt::format("{}/{}{}", placeOf(state_dir), kCandidatePrefix, ::getpid());
  MAYFLY_CHECK(removeFolder(outer));
  if (::mkdir(outer.c_str(), 0700) != 0) return base::failSys(errno, "mkdir", outer);
  std::string inner = outer + "/files";
  if (::mkdir(inner.c_str(), 0700) != 0 || ::chmod(inner.c_str(), 0777) != 0)
    return base::failSys(errno, "mkdir", inner);
  return inner;
}

base::Status removeFolder(const std::string& path) {
  auto dir = base::openAt({}, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!dir) {
    if (dir.error().sys == ENOENT) return base::Unit{};
    return base::fail(std::move(dir).error());
  }
  MAYFLY_TRY(std::vector<std::string> names, base::namesIn(path, kEntriesMax));
  for (const std::string& name : names) {
    if (::unlinkat(dir->get(), name.c_str(), 0) == 0) continue;
    if (errno != EISDIR && errno != EPERM) return base::failSys(errno, "unlink", path);
    MAYFLY_CHECK(removeFolder(path + "/" + name));
  }
  if (::rmdir(path.c_str()) != 0) return base::failSys(errno, "rmdir", path);
  return base::Unit{};
}

}  // namespace mayfly::snapshot
