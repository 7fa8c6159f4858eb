// Files on their way into a task and out of it.
//
// What comes out is named by the task: it is written below one folder only,
// never through a link, and never over a link's target.
//
// Layer: cli. Blocking.
#pragma once

#include <mayfly/client.h>

#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "cli/report.h"

namespace mayfly::cli {

inline constexpr size_t kInputBytesMax = 8u << 20;        // a request holds no more
inline constexpr size_t kInlineFileBytesMax = 1u << 20;   // larger ones are uploaded before
inline constexpr size_t kInlineFilesBytesMax = 3u << 20;  // of all that go with the request
inline constexpr uint64_t kSpooledBytesMax = 4ull << 30;  // of an input file that is a pipe
inline constexpr size_t kOutDepthMax = 32;

base::Result<std::string> readAll(base::FdView fd, const std::string& name);
base::Result<std::string> readFile(const std::string& path);

// An input file on its way: what is small is read, what is large is open and to be uploaded.
struct Input {
  InputFile file;
  base::Fd large;  // a regular file; `file.data` is empty then
};
// PATH[:NAME]. The whole of it is a PATH where such a file exists. `inline_left_bytes`: what of
// kInlineFilesBytesMax earlier files have left; lowered by what is read.
base::Result<Input> openInput(const std::string& argument, size_t* inline_left_bytes);

// Why a path that a task chose is not written; empty: it is.
std::string oddName(const std::string& path);

// Gives the bytes of a file from an offset; empty at its end.
using ReadPiece = std::function<base::Result<std::string>(uint64_t offset)>;
// Writes one file to `path` below `dir`: folders are made, a file that is there is replaced.
base::Status writeBelow(base::FdView dir, const std::string& path, unsigned mode, ReadPiece read);
// Makes the folder if it is missing.
base::Result<base::Fd> openOutDir(const std::string& path);
std::vector<Written> writeOutFiles(base::FdView dir, Task& task, const std::vector<OutFile>& files);

}  // namespace mayfly::cli
