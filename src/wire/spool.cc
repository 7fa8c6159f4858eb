#include "wire/spool.h"

#include <string.h>

#include <string>

namespace mayfly::wire {
namespace {

tl::unexpected<base::Error> bad(std::string_view what) {
  return base::fail(base::Code::internal,
                    "the spool of output files is malformed: " + std::string(what));
}

}  // namespace

base::Status checkHeader(const SpoolHeader& header, uint64_t spool_bytes) {
  if (spool_bytes < sizeof header) return bad("no room for a header");
  if (header.magic != kSpoolMagic) return bad("magic");
  if (header.count > kSpoolEntriesMax) return bad("too many entries");
  if (header.index_bytes > kSpoolIndexBytesMax) return bad("the index is too large");
  if (header.index_offset < sizeof header || header.index_offset > spool_bytes ||
      header.index_bytes > spool_bytes - header.index_offset)
    return bad("the index lies outside");
  return base::Unit{};
}

base::Result<std::vector<base::OutFile>> readIndex(const SpoolHeader& header,
                                                   std::string_view index,
                                                   const base::Limits& limits) {
  std::vector<base::OutFile> files;
  uint64_t total_bytes = 0;
  uint32_t collected = 0;
  files.reserve(header.count);
  for (uint32_t i = 0; i < header.count; ++i) {
    SpoolEntry entry;
    if (index.size() < sizeof entry) return bad("the index ends early");
    memcpy(&entry, index.data(), sizeof entry);
    index.remove_prefix(sizeof entry);
    const size_t names_bytes = size_t{entry.path_bytes} + entry.skipped_bytes;
    if (entry.path_bytes > kSpoolPathBytesMax || entry.skipped_bytes > kSpoolSkippedBytesMax ||
        index.size() < names_bytes)
      return bad("a name is longer than its place");
    base::OutFile file;
    file.path = index.substr(0, entry.path_bytes);
    file.skipped = index.substr(entry.path_bytes, entry.skipped_bytes);
    index.remove_prefix(names_bytes);
    if (file.path.find('\0') != std::string::npos) return bad("a name with a NUL byte");
    if (file.path.empty() && file.skipped.empty()) return bad("a file without a name");
    file.mode = entry.mode & 0777u;
    file.size_bytes = entry.size;
    if (file.skipped.empty()) {
      if (entry.offset < sizeof header || entry.offset > header.index_offset ||
          entry.size > header.index_offset - entry.offset)
        return bad("a file's content lies outside");
      file.offset = entry.offset;
      total_bytes += entry.size;  // each is below the spool's size, and the count is bounded
      if (++collected > limits.out_files) return bad("more files than the cap allows");
      if (total_bytes > limits.out_files_bytes) return bad("more bytes than the cap allows");
    }
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace mayfly::wire
