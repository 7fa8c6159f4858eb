// libFuzzer on the index of a spool: the input is the whole spool, as a process with a box's uid
// may have written it.
//
// Finds: a sanitizer's finding, and a file outside the spool or beyond the caps.
#include <stdlib.h>
#include <string.h>

#include <string_view>

#include "wire/spool.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mayfly;
  wire::SpoolHeader header;
  if (size < sizeof header) return 0;
  memcpy(&header, data, sizeof header);
  if (!wire::checkHeader(header, size)) return 0;
  base::Limits limits;
  limits.out_files = 16;
  limits.out_files_bytes = 1'024;
  const std::string_view whole(reinterpret_cast<const char*>(data), size);
  auto files =
      wire::readIndex(header, whole.substr(header.index_offset, header.index_bytes), limits);
  if (!files) return 0;
  uint64_t bytes = 0, collected = 0;
  for (const base::OutFile& f : *files) {
    if (f.path.size() > wire::kSpoolPathBytesMax || f.path.find('\0') != std::string::npos) abort();
    if (!f.skipped.empty()) continue;
    if (f.path.empty() || f.offset > size || f.size_bytes > size - f.offset) abort();
    bytes += f.size_bytes;
    ++collected;
  }
  if (bytes > limits.out_files_bytes || collected > limits.out_files) abort();
  return 0;
}
