#include "cli/program.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "base/fd.h"
#include "base/text.h"

namespace mayfly::cli {

using base::Code;
using base::fail;
using base::FdView;
using base::printable;
using base::Result;
using base::Status;
using base::Unit;

namespace {

// Names in a folder that come along, sorted.
Result<std::vector<std::string>> namesIn(const std::string& path) {
  DIR* dir = ::opendir(path.c_str());
  if (dir == nullptr) return base::failSys(errno, "opendir", path);
  std::vector<std::string> names;
  while (dirent* entry = ::readdir(dir)) {
    const std::string name = entry->d_name;
    if (name[0] != '.' && name != "__pycache__") names.push_back(name);
  }
  ::closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

Status takeBelow(const std::string& path, const std::string& name, size_t depth,
                 std::vector<Input>* inputs, size_t* inline_left_bytes) {
  if (depth > kOutDepthMax)
    return fail(Code::invalidArgument,
                fmt::format("'{}' is deeper than {} folders", printable(path), kOutDepthMax));
  MAYFLY_TRY(std::vector<std::string> names, namesIn(path));
  for (const std::string& each : names) {
    const std::string from = path + "/" + each, to = name + "/" + each;
    struct stat status;
    if (::lstat(from.c_str(), &status) != 0) return base::failSys(errno, "stat", from);
    if (S_ISDIR(status.st_mode)) {
      MAYFLY_CHECK(takeBelow(from, to, depth + 1, inputs, inline_left_bytes));
      continue;
    }
    if (!S_ISREG(status.st_mode))
      return fail(Code::invalidArgument,
                  fmt::format("'{}' is {}", printable(from),
                              S_ISLNK(status.st_mode) ? "a link, which may lead out of the folder"
                                                      : "neither a file nor a folder"),
                  "Remove it from the folder, or give single files with --file.");
    if (inputs->size() >= kFolderFilesMax)
      return fail(Code::invalidArgument,
                  fmt::format("'{}' and the input files are more than {} files", printable(path),
                              kFolderFilesMax),
                  "Give an archive: python3 -m zipapp FOLDER.");
    MAYFLY_TRY(Input input, openInputAs(from, to, inline_left_bytes));
    inputs->push_back(std::move(input));
  }
  return Unit{};
}

bool isFolder(const std::string& path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

bool isFile(const std::string& path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

// The folder's own name: that of `.` and `x/..`, too.
Result<std::string> nameOf(const std::string& path) {
  char real[PATH_MAX];
  if (::realpath(path.c_str(), real) == nullptr) return base::failSys(errno, "realpath", path);
  std::string name(real);
  name = name.substr(name.rfind('/') + 1);
  if (name.empty()) return fail(Code::invalidArgument, "'/' cannot be brought to a task");
  return name;
}

// As a plain `python3 -m` does, looks for the module in the current folder.
Status takeModule(const std::string& module, std::vector<Input>* inputs,
                  size_t* inline_left_bytes) {
  const std::string top = module.substr(0, module.find('.'));
  if (top.empty() || top.find('/') != std::string::npos) return Unit{};
  if (isFolder(top)) return takeFolder(top, top, inputs, inline_left_bytes);
  if (!isFile(top + ".py")) return Unit{};  // the template's own, then
  MAYFLY_TRY(Input input, openInputAs(top + ".py", top + ".py", inline_left_bytes));
  inputs->push_back(std::move(input));
  return Unit{};
}

// A word as a shell takes it.
std::string quoted(const std::string& word) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./_-";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string out = "'";
  for (char c : word) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

base::Error noScript(const RunOptions& options) {
  base::Error error{
      Code::notFound, fmt::format("there is no file '{}'", printable(options.script)), {}, 0, 0};
  if (isProgramName(options.script)) return error;
  std::string words = quoted(options.script);
  for (const std::string& arg : options.args) words += " " + quoted(arg);
  error.advice = fmt::format("To run a command of the template: mayfly run -t {} -- {}",
                             printable(options.template_name), printable(words, 200));
  return error;
}

// A script that the request has no room for goes among the input files.
Status takeScript(const RunOptions& options, TaskSpec* spec, std::vector<Input>* inputs,
                  size_t* inline_left_bytes) {
  const std::string name = options.script.substr(options.script.rfind('/') + 1);
  struct stat status;
  if (::stat(options.script.c_str(), &status) != 0) {
    if (errno == ENOENT) return fail(noScript(options));
    return base::failSys(errno, "stat", options.script);
  }
  if (S_ISREG(status.st_mode) && static_cast<uint64_t>(status.st_size) > kInlineFileBytesMax) {
    MAYFLY_TRY(Input input, openInputAs(options.script, name, inline_left_bytes));
    spec->kind = CodeKind::path;
    spec->script_name = name;
    inputs->push_back(std::move(input));
    return Unit{};
  }
  spec->kind = CodeKind::file;
  spec->script_name = name;
  MAYFLY_TRY(spec->code, readFile(options.script));
  return Unit{};
}

}  // namespace

Status takeFolder(const std::string& path, const std::string& name, std::vector<Input>* inputs,
                  size_t* inline_left_bytes) {
  return takeBelow(path, name, 1, inputs, inline_left_bytes);
}

Status takeProgram(const RunOptions& options, TaskSpec* spec, std::vector<Input>* inputs,
                   size_t* inline_left_bytes) {
  if (options.command) {
    spec->kind = CodeKind::command;
  } else if (options.code) {
    spec->kind = CodeKind::string;
    spec->code = *options.code;
  } else if (!options.module.empty()) {
    spec->kind = CodeKind::module;
    spec->code = options.module;
    return takeModule(options.module, inputs, inline_left_bytes);
  } else if (options.script == "-") {
    spec->kind = CodeKind::stdinText;
    MAYFLY_TRY(spec->code, readAll(FdView(STDIN_FILENO), "standard input"));
  } else if (isFolder(options.script)) {
    spec->kind = CodeKind::path;
    MAYFLY_TRY(spec->script_name, nameOf(options.script));
    if (!isFile(options.script + "/__main__.py"))
      return fail(Code::invalidArgument,
                  fmt::format("the folder '{}' has no __main__.py", printable(options.script)),
                  "Name the script in it, and bring the other files with --file.");
    return takeFolder(options.script, spec->script_name, inputs, inline_left_bytes);
  } else {
    return takeScript(options, spec, inputs, inline_left_bytes);
  }
  return Unit{};
}

}  // namespace mayfly::cli
