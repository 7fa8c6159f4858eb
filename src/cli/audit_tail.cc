#include "cli/audit_tail.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/text.h"

namespace mayfly::cli {

using base::Code;
using base::Fd;
using base::Result;

namespace {

constexpr size_t kReadBytes = 64u << 10;

std::string fileName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

}  // namespace

std::string AuditTail::numbered(uint32_t n) const {
  return n == 0 ? path_ : path_ + "." + std::to_string(n);
}

Result<AuditTail::Opened> AuditTail::openFile(const std::string& path) {
  // Without O_NONBLOCK, a pipe of that name would wait for its writer.
  MAYFLY_TRY(Fd file, base::openAt({}, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  struct stat st;
  if (::fstat(file.get(), &st) != 0) return base::failSys(errno, "stat", path);
  if (!S_ISREG(st.st_mode))
    return base::fail(Code::invalidArgument,
                      fmt::format("'{}' is no regular file", base::printable(path)));
  return Opened{std::move(file), {st.st_dev, st.st_ino}};
}

std::optional<AuditTail::Look> AuditTail::lookAt(const std::string& path) {
  struct stat st;
  if (::stat(path.c_str(), &st) != 0) return std::nullopt;
  return Look{{st.st_dev, st.st_ino}, static_cast<uint64_t>(st.st_size)};
}

Result<AuditTail> AuditTail::open(std::string path) {
  AuditTail tail(std::move(path));
  for (uint32_t n = kRotatedMax;; --n) {
    auto opened = openFile(tail.numbered(n));
    if (!opened && n > 0 && opened.error().sys == ENOENT) continue;
    if (!opened) return base::fail(std::move(opened).error());
    tail.use(std::move(*opened), n);
    return tail;
  }
}

void AuditTail::use(Opened opened, uint32_t number) {
  file_ = std::move(opened.file);
  id_ = opened.id;
  name_ = base::printable(fileName(numbered(number)));
  offset_ = line_ = 0;
}

std::string AuditTail::place() const { return fmt::format("{}:{}", name_, line_); }

std::vector<std::string> AuditTail::takeNotes() { return std::exchange(notes_, {}); }

Result<std::optional<std::string>> AuditTail::next() {
  for (;;) {
    if (auto line = takeLine()) return line;
    MAYFLY_TRY(const bool filled, fill());
    if (filled || wasCut()) continue;
    MAYFLY_TRY(const bool moved, moveOn());
    if (!moved) return std::nullopt;
  }
}

std::optional<std::string> AuditTail::takeLine() {
  for (;;) {
    const size_t at = held_.find('\n', begin_);
    if (at == std::string::npos) {
      held_.erase(0, std::exchange(begin_, 0));
      if (held_.size() <= kLineBytesMax) return std::nullopt;
      if (!std::exchange(skipping_, true)) noteLong(line_ + 1);
      held_.clear();
      return std::nullopt;
    }
    std::string line = held_.substr(begin_, at - begin_);
    begin_ = at + 1;
    ++line_;
    if (std::exchange(skipping_, false) || line.empty()) continue;
    if (line.size() <= kLineBytesMax) return line;
    noteLong(line_);
  }
}

void AuditTail::noteLong(uint64_t line) {
  note(fmt::format("{}:{}: a line of more than {} bytes", name_, line, kLineBytesMax));
}

Result<bool> AuditTail::fill() {
  const size_t before = held_.size();
  held_.resize(before + kReadBytes);
  ssize_t n;
  do {
    n = ::pread(file_.get(), held_.data() + before, kReadBytes, static_cast<off_t>(offset_));
  } while (n < 0 && errno == EINTR);
  const int failed = n < 0 ? errno : 0;
  held_.resize(before + static_cast<size_t>(std::max<ssize_t>(n, 0)));
  if (failed != 0) return base::failSys(failed, "read", name_);
  offset_ += static_cast<uint64_t>(n);
  return n > 0;
}

void AuditTail::end() {
  if (begin_ < held_.size() || skipping_)
    note(fmt::format("{}:{}: a line without its end", name_, line_ + 1));
  held_.clear();
  begin_ = 0;
  skipping_ = false;
}

// A file that is shorter than what was read of it begins anew.
bool AuditTail::wasCut() {
  struct stat st;
  if (::fstat(file_.get(), &st) != 0 || static_cast<uint64_t>(st.st_size) >= offset_) return false;
  end();
  note(fmt::format("{} was cut to {} bytes: read from its beginning", name_, st.st_size));
  offset_ = line_ = 0;
  return true;
}

std::optional<uint32_t> AuditTail::ownNumber() const {
  for (uint32_t n = 0; n <= kRotatedMax; ++n)
    if (const auto look = lookAt(numbered(n)); look && look->id == id_) return n;
  return std::nullopt;
}

// To the file that follows this one, if it holds bytes. A rotation in the middle of this function
// is noticed, and looked at again at the next call.
Result<bool> AuditTail::moveOn() {
  const auto own = ownNumber();
  if (own == 0u) return false;
  const uint32_t following = own ? *own - 1 : 0;
  const auto look = lookAt(numbered(following));
  if (!look || look->bytes == 0) return false;
  auto opened = openFile(numbered(following));
  if (!opened && opened.error().sys == ENOENT) return false;
  if (!opened) return base::fail(std::move(opened).error());
  if (opened->id != look->id || ownNumber() != own) return false;
  // The last bytes of this file came before the first of the next one.
  MAYFLY_TRY(const bool filled, fill());
  if (filled) return true;
  end();
  if (!own) note(fmt::format("{} is gone: what was written to it since may be missing", name_));
  use(std::move(*opened), following);
  return true;
}

}  // namespace mayfly::cli
