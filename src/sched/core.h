// The interface between the edges (RPC) and the core.
//
// Core and edges live on one thread, the core thread; every call below and every callback happens
// there. Nothing here blocks.
//
// Layer: sched. The edges see this header and base only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/observer.h"
#include "base/result.h"
#include "base/task.h"
#include "sched/accounts.h"
#include "sched/broker.h"
#include "sched/cancel.h"

namespace mayfly::sched {

using OwnerId = uint64_t;  // one client connection; 0 is none

enum class CodeKind : uint8_t { command, file, string, stdinText, module, path };
enum class Stream : uint8_t { out, err };

// Bounds on every submission, whatever the template.
inline constexpr size_t kArgsMax = 1'024;
inline constexpr size_t kArgBytesMax = 128 * 1'024;
inline constexpr size_t kEnvMax = 1'024;
inline constexpr size_t kFilesMax = 1'000;
inline constexpr size_t kBlobsMax = 64;  // different blobs of one task
inline constexpr size_t kPathBytesMax = 1'024;
inline constexpr size_t kPathDepthMax = 32;
inline constexpr size_t kCodeBytesMax = 4u << 20;
inline constexpr size_t kCaptureBytesMax = 1u << 20;      // per stream, if output is not live
inline constexpr size_t kOutputWindowBytes = 256u << 10;  // unacknowledged live output per stream

struct InputFile {
  std::string path;  // relative to /task; no "..", no empty part, no NUL
  std::string data;
  uint32_t mode = 0644;  // permission bits
  // Instead of `data`: a sealed memfd, which other tasks may share, and its size.
  std::shared_ptr<const base::Fd> blob;
  uint64_t blob_bytes = 0;

  uint64_t bytes() const { return blob ? blob_bytes : data.size(); }
};

// The caps that the client names; an absent one takes the template's default.
struct LimitWishes {
#define MAYFLY_CAP(member, type, ...) std::optional<type> member;
  MAYFLY_CAPS(MAYFLY_CAP)
#undef MAYFLY_CAP
};

struct TaskSpec {
  std::string template_name;
  CodeKind kind = CodeKind::command;
  // string, stdinText: the program; file: the script's text; module: the module's name
  std::string code;
  // file: its name in /task, e.g. "script.py"; path: the program's path among `files`
  std::string script_name;
  std::vector<std::string> args;  // command: the whole argv; else the arguments after the script
  std::vector<std::pair<std::string, std::string>> env;
  std::vector<InputFile> files;
  bool stdin_open = false;  // true: writeStdin/closeStdin follow `stdin_data`
  std::string stdin_data;
  LimitWishes limits;
  std::string trace;  // W3C traceparent; empty: none
  std::optional<uint64_t> seed;
  bool collect_out_files = false;
  bool live_output = false;  // true: TaskListener::onOutput; false: captured into the result
  OwnerId owner = 0;
  AccountRef account;  // the submitter's, or its tenant's
  // Of its grants and tools; null: it has none. The core joins its variables to `env`, begins it at
  // the claim and ends it with the task.
  std::shared_ptr<Session> session;
};

struct TaskResult {
  base::TaskId task = 0;
  std::string template_name;
  base::Verdict verdict = base::Verdict::internal;
  int exit_code = 0;       // succeeded, failed, and if in_grace
  int signal = 0;          // signaled, and if in_grace; 0: none
  bool in_grace = false;   // its main process ended by itself, after SIGTERM and before the kill
  std::string reason;      // one line for people: which cap and its value, or what failed
  uint64_t cap_value = 0;  // the cap that the task reached, in its unit; 0: none
  base::Limits limits;     // in force
  base::Usage usage;
  base::Phases phases{};
  base::Receipt receipt;
  std::string captured[2];  // by Stream, if output was not live
  bool truncated[2] = {};   // the task wrote more than kCaptureBytesMax
  std::vector<base::OutFile> out_files;
  std::string out_files_note;       // why files are missing from the collection; empty if none are
  bool out_files_lost = false;      // by the collection's failure or its time, not by the task
  std::shared_ptr<base::Fd> spool;  // the collected bytes; read with pread, never written
};

// Callbacks of one task, also from within a call of Core. The last is onResult, exactly once, after
// the receipt.
class TaskListener {
 public:
  virtual ~TaskListener() = default;
  virtual void onStarted() {}
  // Back-pressure: the core reads at most kOutputWindowBytes of a stream beyond the bytes that
  // Core::acknowledgeOutput acknowledged. Once the task's last process is dead, the rest of its
  // pipes follows at once.
  virtual void onOutput(Stream, std::string_view /*bytes*/) {}
  // Bytes of stdin_data, then of writeStdin, that went into the pipe.
  virtual void onStdinAccepted(uint64_t /*bytes*/) {}
  virtual void onResult(TaskResult) = 0;
};

struct TemplateInfo {
  std::string name, description, mechanism;
  std::string state, state_text;  // state: starting, ready, unhealthy, missingImage
  std::string image_digest;
  base::Limits defaults, maximum;
  uint32_t boxes = 0;  // not yet proven gone
  base::PoolState pool;
};

struct TaskInfo {
  base::TaskId task = 0;
  std::string template_name, state;  // queued, making, running, ending
  uint64_t queued_ns = 0, started_ns = 0;
  uint32_t pid_host = 0;
  OwnerId owner = 0;
};

class Core {
 public:
  virtual ~Core() = default;
  // Checks everything before any box is touched; the task is queued when it returns.
  virtual base::Result<base::TaskId> submit(TaskSpec spec,
                                            std::shared_ptr<TaskListener> listener) = 0;
  // An error for data beyond the input cap, or after closeStdin.
  virtual base::Status writeStdin(base::TaskId task, std::string data) = 0;
  virtual base::Status closeStdin(base::TaskId task) = 0;
  virtual void acknowledgeOutput(base::TaskId task, Stream stream, uint64_t bytes) = 0;
  // onResult follows with `cancelled`. notFound for a task that the account `asks` may not see.
  virtual base::Status cancel(base::TaskId task, const AccountRef& asks, Cancel how) = 0;
  virtual void ownerGone(OwnerId owner) = 0;  // its tasks end with `clientGone`
  // When this run of the daemon began, if the id was given by an earlier one; else empty.
  virtual std::string restartedSince(base::TaskId /*task*/) const { return {}; }
  virtual std::vector<TaskInfo> tasks(const AccountRef& asks) const = 0;  // that `asks` may see
  virtual std::optional<TaskInfo> info(base::TaskId task) const = 0;      // none: unknown or ended
  virtual std::vector<TemplateInfo> templates() const = 0;
  // The book that every account is opened in. The refs and shares of an edge end before the core.
  virtual Accounts& accounts() = 0;
  // Opens the sessions of tasks; null: the daemon has no broker.
  virtual Broker* broker() { return nullptr; }
};

}  // namespace mayfly::sched
