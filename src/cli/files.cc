#include "cli/files.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/text.h"

namespace mayfly::cli {

using base::Code;
using base::fail;
using base::Fd;
using base::FdView;
using base::printable;
using base::Result;
using base::Status;
using base::Unit;

Result<std::string> readAll(FdView fd, const std::string& name) {
  std::string text;
  char buffer[64 << 10];
  for (;;) {
    ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return base::failSys(errno, "read", name);
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > kInputBytesMax)
      return fail(
          Code::invalidArgument,
          fmt::format("'{}' has more than {}", printable(name), base::humanBytes(kInputBytesMax)),
          "Give large data with --file or --stdin.");
  }
}

Result<std::string> readFile(const std::string& path) {
  MAYFLY_TRY(Fd fd, base::openAt(FdView(), path, O_RDONLY));
  return readAll(fd.view(), path);
}

namespace {

// Reads at most `bytes_max` bytes; fewer mean that the file has ended.
Result<std::string> readSome(FdView fd, size_t bytes_max, const std::string& name) {
  std::string text(bytes_max, '\0');
  size_t got = 0;
  while (got < bytes_max) {
    ssize_t n = ::read(fd.get(), text.data() + got, bytes_max - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return base::failSys(errno, "read", name);
    if (n == 0) break;
    got += static_cast<size_t>(n);
  }
  text.resize(got);
  return text;
}

// An upload begins with the hash of all bytes, so a pipe's bytes first go into an unnamed file.
Result<Fd> spool(std::string begin, FdView rest, const std::string& name) {
  const char* folder = ::getenv("TMPDIR");
  if (folder == nullptr || *folder == '\0') folder = "/tmp";
  MAYFLY_TRY(Fd file, base::openAt(FdView(), folder, O_TMPFILE | O_RDWR, 0600));
  for (uint64_t bytes = begin.size(); !begin.empty(); bytes += begin.size()) {
    if (bytes > kSpooledBytesMax)
      return fail(
          Code::invalidArgument,
          fmt::format("'{}' has more than {}", printable(name), base::humanBytes(kSpooledBytesMax)),
          "Give large data with --stdin.");
    for (std::string_view left = begin; !left.empty();) {
      ssize_t n = ::write(file.get(), left.data(), left.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return base::failSys(errno, "write", folder);
      left.remove_prefix(static_cast<size_t>(n));
    }
    MAYFLY_TRY(begin, readSome(rest, kInlineFileBytesMax, name));
  }
  return file;
}

}  // namespace

Result<Input> openInput(const std::string& argument, size_t* inline_left_bytes) {
  std::string path = argument, name;
  size_t colon = argument.rfind(':');
  struct stat status;
  if (colon != std::string::npos && colon > 0 && ::stat(argument.c_str(), &status) != 0) {
    path = argument.substr(0, colon);
    name = argument.substr(colon + 1);
  }
  if (name.empty()) name = path.substr(path.rfind('/') + 1);
  return openInputAs(path, name, inline_left_bytes);
}

Result<Input> openInputAs(const std::string& path, const std::string& name,
                          size_t* inline_left_bytes) {
  struct stat status;
  MAYFLY_TRY(Fd fd, base::openAt(FdView(), path, O_RDONLY));
  if (::fstat(fd.get(), &status) != 0) return base::failSys(errno, "fstat", path);
  if (S_ISDIR(status.st_mode))
    return fail(Code::invalidArgument, fmt::format("--file: '{}' is a folder", printable(path)),
                "Give its files one by one, or a tar archive.");
  Input input;
  input.file.path = name;
  bool regular = S_ISREG(status.st_mode);
  input.file.mode = regular ? static_cast<uint16_t>(status.st_mode & 0777) : 0644;
  size_t bytes_max = std::min(kInlineFileBytesMax, *inline_left_bytes);
  if (regular && static_cast<uint64_t>(status.st_size) > bytes_max) {
    input.large = std::move(fd);
    return input;
  }
  // One byte more shows that the file is larger: the size of a pipe or a /proc file is unknown, and
  // a file may grow.
  MAYFLY_TRY(std::string bytes, readSome(fd.view(), bytes_max + 1, path));
  if (bytes.size() > bytes_max) {
    MAYFLY_TRY(input.large, spool(std::move(bytes), fd.view(), path));
    return input;
  }
  *inline_left_bytes -= bytes.size();
  input.file.data = std::move(bytes);
  return input;
}

std::string oddName(const std::string& path) {
  if (path.empty() || path.front() == '/') return "its name is not relative";
  if (path.size() > 4000) return "its name is too long";
  if (printable(path, path.size()) != path)
    return "its name has control characters or is not UTF-8";
  size_t depth = 0;
  for (size_t at = 0; at <= path.size();) {
    size_t end = std::min(path.find('/', at), path.size());
    std::string_view part(path.data() + at, end - at);
    if (part.empty() || part == "." || part == "..")
      return "its name has an empty part, or '.' or '..'";
    if (++depth > kOutDepthMax) return "its path is too deep";
    at = end + 1;
  }
  return {};
}

namespace {

// The folder of `path` below `dir`; makes missing folders. A link anywhere is an error.
Result<Fd> openFolder(FdView dir, const std::string& path) {
  Fd at(::fcntl(dir.get(), F_DUPFD_CLOEXEC, 0));
  if (!at) return base::failSys(errno, "fcntl(F_DUPFD_CLOEXEC)", "the output folder");
  for (size_t from = 0;;) {
    size_t slash = path.find('/', from);
    if (slash == std::string::npos) return at;
    std::string part = path.substr(from, slash - from);
    if (::mkdirat(at.get(), part.c_str(), 0777) != 0 && errno != EEXIST)
      return base::failSys(errno, "mkdir", part);
    open_how how{};
    how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    int next = static_cast<int>(::syscall(SYS_openat2, at.get(), part.c_str(), &how, sizeof how));
    if (next < 0)
      return errno == ELOOP || errno == ENOTDIR
                 ? Result<Fd>(fail(Code::failedPrecondition,
                                   fmt::format("'{}' exists and is not a folder", printable(part))))
                 : Result<Fd>(base::failSys(errno, "open", part));
    at = Fd(next);
    from = slash + 1;
  }
}

Status copyTo(FdView to, const std::string& name, const ReadPiece& read) {
  for (uint64_t offset = 0;;) {
    MAYFLY_TRY(std::string piece, read(offset));
    if (piece.empty()) return Unit{};
    offset += piece.size();
    for (std::string_view rest = piece; !rest.empty();) {
      ssize_t n = ::write(to.get(), rest.data(), rest.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return base::failSys(errno, "write", name);
      rest.remove_prefix(static_cast<size_t>(n));
    }
  }
}

}  // namespace

Status writeBelow(FdView dir, const std::string& path, unsigned mode, ReadPiece read) {
  if (std::string odd = oddName(path); !odd.empty()) return fail(Code::invalidArgument, odd);
  MAYFLY_TRY(Fd folder, openFolder(dir, path));
  std::string name = path.substr(path.rfind('/') + 1);
  // The file is written beside its place and renamed into it: an existing link or hard-linked file
  // is replaced, not written through, and nobody sees half a file.
  std::string temporary = fmt::format(".mayfly-{}.part", ::getpid());
  MAYFLY_TRY(Fd file, base::openAt(folder.view(), temporary,
                                   O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, (mode & 0777) | 0600));
  Status copied = copyTo(file.view(), path, read);
  if (copied && ::renameat(folder.get(), temporary.c_str(), folder.get(), name.c_str()) != 0)
    copied = base::failSys(errno, "rename", path);
  if (!copied) ::unlinkat(folder.get(), temporary.c_str(), 0);
  return copied;
}

Result<Fd> openOutDir(const std::string& path) {
  if (::mkdir(path.c_str(), 0777) != 0 && errno != EEXIST)
    return base::failSys(errno, "mkdir", path);
  return base::openAt(FdView(), path, O_RDONLY | O_DIRECTORY);
}

std::vector<Written> writeOutFiles(FdView dir, Task& task, const std::vector<OutFile>& files) {
  std::vector<Written> all(files.size());
  for (size_t i = 0; i < files.size(); ++i) {
    if (!files[i].skipped.empty()) {
      all[i].why_not = files[i].skipped;
      continue;
    }
    auto status = writeBelow(dir, files[i].path, files[i].mode, [&](uint64_t offset) {
      return task.readFile(static_cast<uint32_t>(i), offset);
    });
    all[i].written = status.has_value();
    if (!status) all[i].why_not = status.error().message;
  }
  return all;
}

}  // namespace mayfly::cli
