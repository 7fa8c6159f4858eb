#include "sched/validate.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "base/text.h"
#include "config/limits.h"

namespace mayfly::sched {
namespace {

using base::Code;
using base::fail;
using base::printable;

std::string num(uint64_t n) { return std::to_string(n); }
std::string quoted(std::string_view text) { return "'" + printable(text, 80) + "'"; }

bool hasNul(std::string_view text) { return text.find('\0') != text.npos; }

// Device names on systems where a client may store the files.
bool isDeviceName(std::string_view part) {
  std::string upper(part);
  for (char& c : upper)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  if (upper == "CON" || upper == "PRN" || upper == "AUX" || upper == "NUL") return true;
  return upper.size() == 4 && (upper.starts_with("COM") || upper.starts_with("LPT")) &&
         upper[3] >= '1' && upper[3] <= '9';
}

base::Status checkEnv(const TaskSpec& spec) {
  if (spec.env.size() > kEnvMax)
    return fail(Code::invalidArgument,
                num(spec.env.size()) + " environment variables; at most " + num(kEnvMax));
  std::set<std::string_view> seen;
  size_t bytes = 0;
  for (const auto& [name, value] : spec.env) {
    if (name.empty() || name.size() > kEnvNameBytesMax)
      return fail(Code::invalidArgument, "the name of an environment variable has " +
                                             num(name.size()) + " bytes; 1 to " +
                                             num(kEnvNameBytesMax) + " are allowed");
    bool good = !(name[0] >= '0' && name[0] <= '9');
    for (char c : name)
      good = good && ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '_');
    if (!good)
      return fail(Code::invalidArgument, "environment variable " + quoted(name) +
                                             ": a name is letters, digits and _, and does "
                                             "not start with a digit");
    if (hasNul(value))
      return fail(Code::invalidArgument,
                  "environment variable " + quoted(name) + ": its value contains a NUL byte");
    if (!seen.insert(name).second)
      return fail(Code::invalidArgument, "environment variable " + quoted(name) + " is set twice");
    bytes += name.size() + value.size() + 2;
  }
  if (bytes > kArgBytesMax)
    return fail(Code::invalidArgument,
                "the environment takes " + num(bytes) + " bytes; at most " + num(kArgBytesMax));
  return base::Unit{};
}

base::Status checkArgs(const TaskSpec& spec) {
  if (spec.args.size() > kArgsMax)
    return fail(Code::invalidArgument,
                num(spec.args.size()) + " arguments; at most " + num(kArgsMax));
  size_t bytes = 0;
  for (const std::string& arg : spec.args) {
    if (hasNul(arg))
      return fail(Code::invalidArgument, "argument " + quoted(arg) + " contains a NUL byte");
    bytes += arg.size() + 1;
  }
  if (bytes > kArgBytesMax)
    return fail(Code::invalidArgument,
                "the arguments take " + num(bytes) + " bytes; at most " + num(kArgBytesMax));
  return base::Unit{};
}

base::Status checkModule(const TaskSpec& spec) {
  if (spec.code.empty() || spec.code.size() > kPathBytesMax)
    return fail(Code::invalidArgument, "the module's name has " + num(spec.code.size()) +
                                           " bytes; 1 to " + num(kPathBytesMax) + " are allowed");
  if (hasNul(spec.code))
    return fail(Code::invalidArgument, "the module's name contains a NUL byte");
  if (!spec.script_name.empty())
    return fail(Code::invalidArgument, "a script name without a script file");
  return base::Unit{};
}

// The program is one of the input files, or their folder.
base::Status checkProgramPath(const TaskSpec& spec, const pool::TemplateSpec& tmpl) {
  if (!spec.code.empty())
    return fail(Code::invalidArgument, "the program is an input file and cannot have code besides");
  MAYFLY_CHECK(checkPath("program", spec.script_name));
  const std::string folder = spec.script_name + "/";
  for (const InputFile& file : spec.files) {
    if (file.path == spec.script_name) return base::Unit{};
    if (!file.path.starts_with(folder)) continue;
    if (tmpl.runs_modules) return base::Unit{};
    return fail(Code::invalidArgument, "template " + quoted(tmpl.name) + " runs no folders",
                "Name a script: one of the input files.");
  }
  return fail(Code::invalidArgument,
              "the program " + quoted(spec.script_name) + " is not among the input files");
}

base::Status checkCode(const TaskSpec& spec, const pool::TemplateSpec& tmpl) {
  bool command = spec.kind == CodeKind::command;
  if (static_cast<uint8_t>(spec.kind) > static_cast<uint8_t>(CodeKind::path))
    return fail(Code::invalidArgument, "unknown kind of code");
  if (spec.kind == CodeKind::module && !tmpl.runs_modules)
    return fail(Code::invalidArgument, "template " + quoted(tmpl.name) + " runs no modules (`-m`)",
                tmpl.runs_code ? "Give the code as a file, a string or on standard input."
                               : "Give a command line.");
  if (command && !tmpl.runs_commands)
    return fail(Code::invalidArgument, "template " + quoted(tmpl.name) + " runs code, no commands",
                "Give the code as a file, a string or on standard input.");
  if (!command && !tmpl.runs_code)
    return fail(Code::invalidArgument, "template " + quoted(tmpl.name) + " runs commands, no code",
                "Give a command line: `mayfly run -t " + tmpl.name + " -- COMMAND`.");
  if (command) {
    if (spec.args.empty() || spec.args[0].empty())
      return fail(Code::invalidArgument, "the command is empty");
    if (!spec.code.empty())
      return fail(Code::invalidArgument, "a command cannot have code besides");
  }
  if (spec.kind == CodeKind::string && spec.code.find('\0') != std::string::npos)
    return fail(Code::invalidArgument,
                "the code has a NUL byte, which cannot stand on a command line",
                "Give it as a file or on standard input.");
  if (spec.code.size() > kCodeBytesMax)
    return fail(Code::invalidArgument,
                "the code has " + num(spec.code.size()) + " bytes; at most " + num(kCodeBytesMax));
  if (spec.kind == CodeKind::file) return checkPath("script name", spec.script_name);
  if (spec.kind == CodeKind::module) return checkModule(spec);
  if (spec.kind == CodeKind::path) return checkProgramPath(spec, tmpl);
  if (!spec.script_name.empty())
    return fail(Code::invalidArgument, "a script name without a script file");
  return base::Unit{};
}

base::Status checkFiles(const TaskSpec& spec, const base::Limits& limits) {
  if (spec.files.size() > kFilesMax)
    return fail(Code::invalidArgument,
                num(spec.files.size()) + " input files; at most " + num(kFilesMax));
  constexpr uint64_t kPage = 4096;
  constexpr uint64_t kInodesOfTheBox = 8;  // /tmp, /task, /task/out...
  std::set<std::string_view> files, folders;
  std::set<const base::Fd*> blobs;
  uint64_t pages_bytes = 0;
  auto add = [&](std::string_view path, uint64_t bytes) -> base::Status {
    if (path == "out")
      return fail(Code::invalidArgument,
                  "input file 'out': the name belongs to the folder of output files");
    if (!files.insert(path).second)
      return fail(Code::invalidArgument, "input file " + quoted(path) + " is given twice");
    for (size_t slash = path.find('/'); slash != path.npos; slash = path.find('/', slash + 1))
      folders.insert(path.substr(0, slash));
    pages_bytes += (bytes + kPage - 1) / kPage * kPage;
    return base::Unit{};
  };
  if (spec.kind == CodeKind::file) MAYFLY_CHECK(add(spec.script_name, spec.code.size()));
  for (const InputFile& file : spec.files) {
    MAYFLY_CHECK(checkPath("input file", file.path));
    if ((file.mode & ~0777u) != 0)
      return fail(Code::invalidArgument,
                  "input file " + quoted(file.path) + ": its mode may hold permission bits only");
    if (file.blob && !file.data.empty())
      return fail(Code::invalidArgument,
                  "input file " + quoted(file.path) + " has both a blob and data of its own");
    if (file.blob) blobs.insert(file.blob.get());
    MAYFLY_CHECK(add(file.path, file.bytes()));
  }
  if (blobs.size() > kBlobsMax)
    return fail(Code::invalidArgument,
                num(blobs.size()) + " different blobs; at most " + num(kBlobsMax),
                "Join small files in an archive, or bring them as data.");
  for (std::string_view folder : folders)
    if (files.contains(folder))
      return fail(Code::invalidArgument,
                  "input file " + quoted(folder) + " is also the folder of another file");
  // A full disk at the start would end the task at its first sample.
  if (pages_bytes >= limits.disk_bytes)
    return fail(Code::invalidArgument,
                "the input files fill the disk: they need " + base::humanBytes(pages_bytes) +
                    " and the disk cap is " + base::humanBytes(limits.disk_bytes),
                "Raise the cap 'disk' (--disk), up to the template's maximum.");
  if (files.size() + folders.size() + kInodesOfTheBox > limits.disk_inodes)
    return fail(Code::invalidArgument,
                "the input files need " + num(files.size() + folders.size()) +
                    " inodes, the box itself " + num(kInodesOfTheBox) + ", and the cap is " +
                    num(limits.disk_inodes),
                "Raise the cap 'disk_inodes' (--inodes), up to the template's maximum.");
  if (pages_bytes > limits.memory_bytes / 2)
    return fail(Code::invalidArgument,
                "the input files need " + base::humanBytes(pages_bytes) +
                    ", more than half of the memory cap of " +
                    base::humanBytes(limits.memory_bytes),
                "Raise the cap 'memory' (--memory), up to the template's maximum.");
  return base::Unit{};
}

}  // namespace

base::Status checkPath(std::string_view what, std::string_view path) {
  auto bad = [&](std::string_view why) {
    return fail(Code::invalidArgument,
                std::string(what) + " " + quoted(path) + ": " + std::string(why));
  };
  if (path.empty()) return fail(Code::invalidArgument, std::string(what) + ": the path is empty");
  if (path.size() > kPathBytesMax)
    return bad("the path has " + num(path.size()) + " bytes; at most " + num(kPathBytesMax));
  if (hasNul(path)) return bad("the path contains a NUL byte");
  if (!base::isUtf8(path)) return bad("the path is not UTF-8");
  for (char c : path)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      return bad("the path contains a control character");
  if (path[0] == '/') return bad("the path is absolute; it must be relative to /task");
  size_t depth = 0;
  for (size_t begin = 0; begin <= path.size();) {
    size_t end = std::min(path.find('/', begin), path.size());
    std::string_view part = path.substr(begin, end - begin);
    if (part.empty()) return bad("the path has an empty part");
    if (part == "." || part == "..") return bad("'.' and '..' are refused");
    if (part.size() > kPathPartBytesMax)
      return bad("a part of the path has more than " + num(kPathPartBytesMax) + " bytes");
    if (isDeviceName(part)) return bad("a part of the path is a device's name");
    if (++depth > kPathDepthMax)
      return bad("the path is deeper than " + num(kPathDepthMax) + " folders");
    begin = end + 1;
  }
  return base::Unit{};
}

base::Status setLimit(std::string_view key, uint64_t wish, const base::Limits& maximum,
                      base::Limits* limits) {
  const config::LimitField& field = config::limitField(key);
  const uint64_t highest = field.get(maximum);
  const std::string cap = "the cap '" + std::string(key) + "'";
  if (wish == 0 && field.lowest > 0)
    return fail(Code::invalidArgument, cap + " must be more than 0");
  if (wish > highest)
    return fail(Code::invalidArgument, cap + " of " + field.format(wish) +
                                           " is above the template's maximum of " +
                                           field.format(highest));
  if (wish < field.lowest)
    return fail(Code::invalidArgument, cap + " of " + field.format(wish) + " is below the least, " +
                                           field.format(field.lowest));
  field.set(*limits, wish);
  return base::Unit{};
}

base::Result<base::Limits> resolveLimits(const LimitWishes& w, const pool::TemplateSpec& tmpl) {
  base::Limits limits = tmpl.defaults;
#define MAYFLY_CAP(member, type, standard, unit, lowest, highest, key, ...) \
  if (w.member) MAYFLY_CHECK(setLimit(key, *w.member, tmpl.maximum, &limits));
  MAYFLY_CAPS(MAYFLY_CAP)
#undef MAYFLY_CAP
  if (limits.memory_bytes < tmpl.memory_least_bytes)
    return fail(Code::invalidArgument,
                "the cap 'memory' of " + base::humanBytes(limits.memory_bytes) +
                    " is below what a clone of the template takes, " +
                    base::humanBytes(tmpl.memory_least_bytes),
                "Raise the cap 'memory' (--memory).");
  if (limits.processes < tmpl.processes_least)
    return fail(Code::invalidArgument,
                "the cap 'processes' of " + num(limits.processes) +
                    " is below what a clone of the template takes, " + num(tmpl.processes_least),
                "Raise the cap 'processes' (--pids).");
  return limits;
}

uint64_t inputBytes(const TaskSpec& spec) {
  uint64_t bytes = spec.stdin_data.size() + spec.code.size();
  for (const InputFile& file : spec.files) bytes += file.bytes();
  return bytes;
}

uint64_t heldBytes(const TaskSpec& spec) {
  uint64_t bytes = spec.stdin_data.size() + spec.code.size();
  for (const InputFile& file : spec.files) bytes += file.data.size();
  return bytes;
}

uint64_t copyTime_ns(uint64_t bytes, const base::Limits& limits) {
  double seconds = static_cast<double>(bytes) / static_cast<double>(kCopyBytesPerSecondMin);
  double cores = std::clamp(limits.cpu_milli, 1u, 1'000u) / 1'000.0;
  return static_cast<uint64_t>(seconds / cores * 1e9);
}

// VERSION-TRACE-PARENT-FLAGS, in hexadecimal digits of lower case; ids are not 0. A later version
// may have more behind a further '-'.
base::Result<std::string> checkTrace(std::string_view text) {
  constexpr size_t kLength = 55, kDashes[] = {2, 35, 52};
  if (text.empty()) return std::string();
  const std::string_view head = text.substr(0, kLength);
  bool good = head.size() == kLength && !head.starts_with("ff") &&
              (text.size() == kLength || (!head.starts_with("00") && text[kLength] == '-'));
  for (size_t i = 0; good && i < kLength; ++i) {
    const bool dash = i == kDashes[0] || i == kDashes[1] || i == kDashes[2];
    const bool digit = (head[i] >= '0' && head[i] <= '9') || (head[i] >= 'a' && head[i] <= 'f');
    good = dash ? head[i] == '-' : digit;
  }
  if (good)
    good = head.substr(3, 32).find_first_not_of('0') != std::string_view::npos &&
           head.substr(36, 16).find_first_not_of('0') != std::string_view::npos;
  if (good) return std::string(head);
  return fail(Code::invalidArgument,
              "traceparent: '" + base::printable(text, 80) + "' is no W3C trace context",
              "It is like 00-<32 hexadecimal digits>-<16>-01; leave it out if there is none.");
}

base::Result<base::Limits> checkSpec(const TaskSpec& spec, const pool::TemplateSpec& tmpl) {
  MAYFLY_TRY(base::Limits limits, resolveLimits(spec.limits, tmpl));
  MAYFLY_CHECK(checkCode(spec, tmpl));
  MAYFLY_CHECK(checkArgs(spec));
  MAYFLY_CHECK(checkEnv(spec));
  MAYFLY_CHECK(checkFiles(spec, limits));
  if (uint64_t bytes = inputBytes(spec); bytes > limits.input_bytes)
    return fail(Code::invalidArgument,
                "code, standard input and input files have " + num(bytes) +
                    " bytes; the task may bring " + num(limits.input_bytes),
                "Raise the cap 'input' (--input), up to the template's maximum.");
  return limits;
}

}  // namespace mayfly::sched
