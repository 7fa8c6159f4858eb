#include "core/spool.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "spawner/spool.h"

namespace mayfly::core {
namespace {

base::Status readAll(base::FdView fd, char* to, size_t bytes, uint64_t offset) {
  while (bytes > 0) {
    ssize_t n = ::pread(fd.get(), to, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return base::failSys(n < 0 ? errno : EIO, "pread", "the spool of output files");
    to += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<size_t>(n);
  }
  return base::Unit{};
}

tl::unexpected<base::Error> bad(std::string_view what) {
  return base::fail(base::Code::internal,
                    "the spool of output files is not as agreed: " + std::string(what));
}

}  // namespace

base::Result<std::vector<base::OutFile>> readSpool(base::FdView spool, const base::Limits& limits) {
  struct stat st;
  if (::fstat(spool.get(), &st) != 0) return base::failSys(errno, "fstat", "the spool");
  uint64_t bytes = static_cast<uint64_t>(st.st_size);
  std::vector<base::OutFile> files;
  if (bytes == 0) return files;

  spawner::SpoolHeader header;
  if (bytes < sizeof header) return bad("no room for a header");
  MAYFLY_CHECK(readAll(spool, reinterpret_cast<char*>(&header), sizeof header, 0));
  if (header.magic != spawner::kSpoolMagic) return bad("magic");
  if (header.count > spawner::kSpoolEntriesMax) return bad("too many entries");
  if (header.index_bytes > spawner::kSpoolIndexBytesMax) return bad("the index is too large");
  if (header.index_offset < sizeof header || header.index_offset > bytes ||
      header.index_bytes > bytes - header.index_offset)
    return bad("the index lies outside");

  std::string index(header.index_bytes, '\0');
  MAYFLY_CHECK(readAll(spool, index.data(), index.size(), header.index_offset));
  size_t at = 0;
  uint64_t total_bytes = 0;
  uint32_t collected = 0;
  files.reserve(header.count);
  for (uint32_t i = 0; i < header.count; ++i) {
    spawner::SpoolEntry entry;
    if (index.size() - at < sizeof entry) return bad("the index ends early");
    memcpy(&entry, index.data() + at, sizeof entry);
    at += sizeof entry;
    if (entry.path_bytes > spawner::kSpoolPathBytesMax ||
        entry.skipped_bytes > spawner::kSpoolSkippedBytesMax ||
        index.size() - at < static_cast<size_t>(entry.path_bytes) + entry.skipped_bytes)
      return bad("a name is longer than its place");
    base::OutFile file;
    file.path.assign(index, at, entry.path_bytes);
    file.skipped.assign(index, at + entry.path_bytes, entry.skipped_bytes);
    at += static_cast<size_t>(entry.path_bytes) + entry.skipped_bytes;
    if (file.path.find('\0') != std::string::npos) return bad("a name with a NUL byte");
    if (file.path.empty() && entry.skipped_bytes == 0) return bad("a file without a name");
    file.mode = entry.mode & 0777u;
    file.size_bytes = entry.size;
    if (file.skipped.empty()) {
      if (entry.offset < sizeof header || entry.offset > header.index_offset ||
          entry.size > header.index_offset - entry.offset)
        return bad("a file's content lies outside");
      file.offset = entry.offset;
      total_bytes += entry.size;  // each is below the spool's size, the count is bounded
      if (++collected > limits.out_files) return bad("more files than the cap allows");
      if (total_bytes > limits.out_files_bytes) return bad("more bytes than the cap allows");
    }
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace mayfly::core
