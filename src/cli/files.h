// A task's files on their way in and out.
//
// The task names its output files: they are written below one folder only, never through a link,
// and never over a link's target.
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

inline constexpr size_t kInputBytesMax = 8u << 20;        // a request's limit
inline constexpr size_t kInlineFileBytesMax = 1u << 20;   // larger files are uploaded first
inline constexpr size_t kInlineFilesBytesMax = 3u << 20;  // of all files in the request
inline constexpr uint64_t kSpooledBytesMax = 4ull << 30;  // of an input file that is a pipe
inline constexpr size_t kOutDepthMax = 32;

base::Result<std::string> readAll(base::FdView fd, const std::string& name);
base::Result<std::string> readFile(const std::string& path);

// An input file on its way: a small file's bytes are read; a large file is open, to be uploaded.
struct Input {
  InputFile file;
  base::Fd large;  // a regular file; `file.data` is empty then
};
// The file at `path`, for /task/`name`. `inline_left_bytes`: the part of kInlineFilesBytesMax that
// is left; reading a file lowers it.
base::Result<Input> openInputAs(const std::string& path, const std::string& name,
                                size_t* inline_left_bytes);
// PATH[:NAME]. The whole argument is a PATH if such a file exists.
base::Result<Input> openInput(const std::string& argument, size_t* inline_left_bytes);

// Why a path that a task chose is refused; empty: it is not.
std::string oddName(const std::string& path);

// Reads a file's bytes from an offset; empty at its end.
using ReadPiece = std::function<base::Result<std::string>(uint64_t offset)>;
// Writes one file to `path` below `dir`: makes folders, replaces an existing file.
base::Status writeBelow(base::FdView dir, const std::string& path, unsigned mode, ReadPiece read);
// Makes the folder if it is missing.
base::Result<base::Fd> openOutDir(const std::string& path);
std::vector<Written> writeOutFiles(base::FdView dir, Task& task, const std::vector<OutFile>& files);

}  // namespace mayfly::cli
