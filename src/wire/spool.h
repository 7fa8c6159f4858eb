// The spool: one file with the files that a task left in /task/out. The spawner's collector, which
// runs with the box's own uid, writes it, so its reader trusts no value in it.
//
//   SpoolHeader | contents of the files, anywhere | index: `count` records
//
// A record is a SpoolEntry, then `path_bytes` of path, then `skipped_bytes` of text that says why
// the file was not collected (0: it was). Unaligned. A record with a text but no path is about the
// folder /task/out itself.
//
// readIndex() checks every offset and size.
//
// Layer: wire (the collector writes it, mayflyd reads it). Pure.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/task.h"

namespace mayfly::wire {

inline constexpr uint32_t kSpoolMagic = 0x4d46'4f46;  // "MFOF"
inline constexpr uint32_t kSpoolEntriesMax = 4'096;   // files and skipped names together
inline constexpr uint64_t kSpoolIndexBytesMax = 8u << 20;
inline constexpr uint32_t kSpoolPathBytesMax = 4'096;
inline constexpr uint32_t kSpoolSkippedBytesMax = 256;

struct SpoolHeader {
  uint32_t magic = kSpoolMagic;
  uint32_t count = 0;
  uint64_t index_offset = 0;
  uint64_t index_bytes = 0;
};

struct SpoolEntry {
  uint64_t offset = 0;  // of the content in the spool
  uint64_t size = 0;    // bytes of it
  uint32_t mode = 0;
  uint32_t path_bytes = 0;
  uint32_t skipped_bytes = 0;
  uint32_t reserved = 0;
};

static_assert(sizeof(SpoolHeader) == 24 && sizeof(SpoolEntry) == 32);

// Whether the header is possible for a spool of `spool_bytes`: then its index lies within.
base::Status checkHeader(const SpoolHeader& header, uint64_t spool_bytes);

// The files in the index, at most limits.out_files collected ones with at most
// limits.out_files_bytes in all. A skipped file without a name is a note on the whole collection.
// The header must be checked, and `index` be its header.index_bytes.
base::Result<std::vector<base::OutFile>> readIndex(const SpoolHeader& header,
                                                   std::string_view index,
                                                   const base::Limits& limits);

}  // namespace mayfly::wire
