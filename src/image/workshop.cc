// Layer: image. See workshop.h.
#include "image/workshop.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"
#include "image/hash.h"
#include "image/store.h"

namespace mayfly::image {
namespace {

using base::Code;

constexpr size_t kOutputBytesMax = 4u << 20;
constexpr uint64_t kLogBytesMax = 64u << 20;
constexpr time_t kUnusedArtifactSecondsMax = 30 * 86'400;

}  // namespace

Workshop::Workshop(std::string cache_dir, std::string log_path,
                   std::function<void(std::string_view)> progress)
    : cache_dir_(std::move(cache_dir)),
      log_path_(std::move(log_path)),
      progress_(std::move(progress)) {}

Workshop::~Workshop() {
  for (const std::string& folder : scratch_) (void)removeTree(folder);
}

void Workshop::log(std::string_view line) {
  if (log_path_.empty() || log_bytes_ > kLogBytesMax) return;
  if (!log_) {
    (void)makeFolders(log_path_.substr(0, log_path_.find_last_of('/')));
    // A log may show answers of a proxy or an index: only root may read it.
    auto fd = base::openAt(base::FdView(AT_FDCWD), log_path_, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (!fd) {
      log_path_.clear();
      return;
    }
    log_ = std::move(*fd);
  }
  const std::string text = base::printable(line, 4'000) + "\n";
  log_bytes_ += text.size();
  if (::write(log_.get(), text.data(), text.size()) < 0) log_bytes_ = kLogBytesMax + 1;
}

void Workshop::say(std::string_view text) {
  if (progress_) progress_(text);
  log(fmt::format("== {}", text));
}

base::Status Workshop::run(Command command, std::string* output) {
  std::string shown;
  for (const std::string& word : command.argv)
    shown += (shown.empty() ? "" : " ") + shellWord(word);
  log("$ " + shown);
  LineSink also = std::move(command.on_line);
  command.on_line = [&](std::string_view line) {
    log(line);
    if (output && output->size() + line.size() < kOutputBytesMax) output->append(line) += '\n';
    if (also) also(line);
  };
  return runCommand(command);
}

base::Result<std::string> Workshop::scratch() {
  const std::string folder = cache_dir_ + "/scratch";
  MAYFLY_CHECK(makeFolders(folder));
  std::string name = folder + "/XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) return base::failSys(errno, "mkdtemp", name);
  scratch_.push_back(name);
  return name;
}

std::string Workshop::artifact(std::string_view sha256) const {
  return fmt::format("{}/artifacts/{}", cache_dir_, sha256);
}

bool Workshop::hasArtifact(std::string_view sha256) const {
  return isDigest(sha256) && ::utimensat(AT_FDCWD, artifact(sha256).c_str(), nullptr, 0) == 0;
}

base::Result<std::string> Workshop::keepArtifact(const std::string& file, std::string_view sha256) {
  const std::string folder = cache_dir_ + "/artifacts";
  MAYFLY_CHECK(makeFolders(folder));
  // Packages may be private, but a file's name is its hash, which is public.
  if (::chmod(folder.c_str(), 0700) != 0) return base::failSys(errno, "chmod", folder);
  // The copy is hashed, because nobody else can write to it.
  const std::string made = fmt::format("{}/.new-{}", folder, ::getpid());
  ::unlink(made.c_str());
  struct Remove {
    const std::string& path;
    ~Remove() { ::unlink(path.c_str()); }
  } remove{made};
  struct stat st;
  if (::lstat(file.c_str(), &st) != 0) return base::failSys(errno, "stat", file);
  if (!S_ISREG(st.st_mode))
    return base::fail(Code::failedPrecondition,
                      fmt::format("'{}' is no regular file", base::printable(file)));
  MAYFLY_CHECK(
      runCommand({"cp", "--no-dereference", "--no-preserve=all", file, made}, kShortSecondsMax));
  MAYFLY_TRY(std::string digest, hashFile(made));
  if (!sha256.empty() && sha256 != digest) {
    return base::fail(
        Code::failedPrecondition,
        fmt::format("'{}' has sha256 {}, not {}",
                    base::printable(file.substr(file.find_last_of('/') + 1)), digest, sha256));
  }
  const std::string path = artifact(digest);
  if (::rename(made.c_str(), path.c_str()) != 0) return base::failSys(errno, "rename", path);
  return digest;
}

void sweepArtifacts(const std::string& cache_dir) {
  const std::string folder = cache_dir + "/artifacts";
  DIR* dir = ::opendir(folder.c_str());
  if (!dir) return;
  const time_t oldest = ::time(nullptr) - kUnusedArtifactSecondsMax;
  while (dirent* entry = ::readdir(dir)) {
    struct stat st;
    if (::fstatat(::dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (S_ISREG(st.st_mode) && st.st_mtime < oldest) ::unlinkat(::dirfd(dir), entry->d_name, 0);
  }
  ::closedir(dir);
}

std::string shellWord(std::string_view text) {
  constexpr std::string_view plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:+,@%";
  if (!text.empty() && text.find_first_not_of(plain) == std::string_view::npos)
    return std::string(text);
  std::string out = "'";
  for (char c : text) {
    if (c == '\'') {
      out += "'\"'\"'";
    } else {
      out += c;
    }
  }
  return out + "'";
}

base::Status writeText(const std::string& path, std::string_view text, unsigned mode) {
  MAYFLY_TRY(base::Fd fd,
             base::openAt(base::FdView(AT_FDCWD), path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW,
                          static_cast<mode_t>(mode)));
  while (!text.empty()) {
    const ssize_t n = ::write(fd.get(), text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return base::failSys(errno, "write", path);
    text.remove_prefix(static_cast<size_t>(n));
  }
  return base::Unit{};
}

base::Status removeTree(const std::string& path) {
  Command remove;
  remove.argv = {"rm", "-rf", "--one-file-system", path};
  remove.seconds_max = kShortSecondsMax;
  remove.cleans_up = true;
  return runCommand(remove);
}

}  // namespace mayfly::image
