// The command line, as values.
//
// Layer: cli. Pure; --help and --version of CLI11 are returned as text.
#pragma once

#include <mayfly/client.h>

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace mayfly::cli {

// Exit codes that Mayfly sets, not the task.
inline constexpr int kExitTime = 124;    // wall time or cpu time
inline constexpr int kExitMayfly = 125;  // Mayfly's own errors, wrong use, a lost daemon
inline constexpr int kExitCancelled = 130;
inline constexpr int kExitCap = 137;     // memory, processes, output, disk
inline constexpr int kExitPipe = 141;    // stdout has no reader any more
inline constexpr int kExitSignal = 128;  // plus the number of the signal that ended the task

struct RunOptions {
  std::string template_name = "python";
  std::optional<std::string> code;  // -c
  std::string module;               // -m
  bool command = false;             // `args` is a command line
  std::string script;               // a path, or "-"; empty with -c, -m and commands
  std::vector<std::string> args;
  std::vector<std::string> files;  // PATH[:NAME]
  std::string out_dir;             // empty: output files are not collected
  std::vector<std::pair<std::string, std::string>> env;
  LimitWishes limits;
  std::optional<uint64_t> seed;
  std::string tenant, traceparent;
  std::vector<GrantWish> grants;
  bool forward_stdin = false, json = false, quiet = false;
  std::optional<Detach> detach;
  bool collect = false;  // with detach: keep output files for `mayfly task wait --out`
};
enum class TaskVerb : uint8_t { list, info, wait, cancel, close };
// A detached task, by its id or its key. `list` names none.
struct TaskOptions {
  TaskVerb verb = TaskVerb::info;
  std::optional<uint64_t> id;
  std::string key;
  std::string out_dir;
  bool json = false, quiet = false;
};
enum class BlobVerb : uint8_t { list, remove };
struct BlobOptions {
  BlobVerb verb = BlobVerb::list;
  std::vector<std::string> hashes;  // or their first digits
  bool all = false, json = false;
};
struct PsOptions {
  bool json = false;
};
struct TemplatesOptions {
  bool json = false;
};
struct KillOptions {
  std::vector<uint64_t> ids;
};
struct DoctorOptions {
  std::string config;  // the daemon's settings; empty: the defaults
  bool json = false;
  bool quick = false;    // tries no dump and restore
  bool restore = false;  // a host that cannot restore is an error
};
struct VersionOptions {
  bool json = false, ours_only = false;  // ours_only: asks no daemon
};
struct ImageOptions {
  std::vector<std::string> args;  // image::imageMain reads them
};
struct SnapshotOptions {
  std::vector<std::string> args;  // mayfly-snapshot reads them
};
struct PoolOptions {
  std::vector<std::string> args;  // poolMain reads them
};
struct BenchOptions {
  std::vector<std::string> args;  // benchMain reads them
};
struct TopWords {
  std::vector<std::string> args;  // topMain reads them
};
struct PlanVerbOptions {
  bool trace = false;             // `mayfly trace`
  std::vector<std::string> args;  // planMain or traceMain reads them
};
struct BrokerOptions {
  std::vector<std::string> args;  // brokerMain reads them
};
struct TemplateOptions {
  std::vector<std::string> args;  // templateMain reads them
};
// Help was asked for, or the use was wrong: `text` goes to stdout or stderr.
struct SayAndExit {
  std::string text;
  int code = 0;
};

struct Options {
  std::string socket;
  std::variant<SayAndExit, RunOptions, PsOptions, TemplatesOptions, KillOptions, DoctorOptions,
               VersionOptions, TaskOptions, BlobOptions, ImageOptions, TemplateOptions, PoolOptions,
               BenchOptions, PlanVerbOptions, BrokerOptions, TopWords, SnapshotOptions>
      verb;
};

// Whether a word ends like a script's name.
bool isProgramName(std::string_view word);

// `args` without the program's name. `socket_default`: MAYFLY_SOCKET or the built-in path.
Options parseCommandLine(const std::vector<std::string>& args, const std::string& socket_default);

}  // namespace mayfly::cli
