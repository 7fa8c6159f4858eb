// Mayfly's C++ client: submits tasks to a daemon and returns their results.
//
//   auto client = mayfly::Client::connect("/run/mayfly/default.sock");
//   mayfly::TaskSpec spec;
//   spec.template_name = "python";
//   spec.kind = mayfly::CodeKind::string;
//   spec.code = "print(6*7)";
//   auto result = (*client)->run(spec);   // result->captured[0] == "42\n"
//
// A Client owns one connection, and one thread that serves it unless the caller does
// (ServedBy). Any thread may make calls, many at a time. Calls never throw, and each
// takes a deadline. Calls whose names end in Async return a future at once; the others
// block until answered. Callbacks run on the serving thread, one at a time, and must
// return: while one runs, the daemon sends this client nothing more of that task. A
// blocking call from within a callback fails with failedPrecondition.
//
// Send input of more than a few MiB as a blob: upload it once, and name it in the files
// of any number of tasks.
//
// Destroying the Task of a task that still runs cancels the task. The end of the
// connection ends its other tasks as `clientGone`. A task with `detach` belongs to the
// user instead: destroying its Task lets it run on, any Client of that user can find()
// it, and a submit that repeats its key returns the same task and runs nothing.
//
// Layer: client. Link mayfly_client.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "base/task.h"

namespace mayfly {

inline constexpr const char* kDefaultSocket = "/run/mayfly/default.sock";

enum class CodeKind : uint8_t {
  command,    // `args` is a whole command line; for templates of mechanism `exec`
  file,       // `code` is a script, put at /task/`script_name` and run from there
  string,     // `code` is the program, as after the runtime's -c
  stdinText,  // `code` is the program, as if piped into the runtime
  module,     // `code` is a module's name, as after Python's -m
  path,       // `script_name` is the program's path among `files`: a script, or for templates of
              // Python an archive or a folder with a __main__.py
};
enum class Stream : uint8_t { out, err };

// Names bytes that the daemon stores for this user. Any number of tasks can have them as a file.
struct BlobRef {
  std::array<uint8_t, 32> sha256{};
  uint64_t size_bytes = 0;
};

struct InputFile {
  std::string path;  // relative to /task
  std::string data;
  uint16_t mode = 0644;
  std::optional<BlobRef> blob;  // instead of `data`
};

// An absent cap takes the template's default. Units: base::Limits.
struct LimitWishes {
#define MAYFLY_CAP(member, type, ...) std::optional<type> member;
  MAYFLY_CAPS(MAYFLY_CAP)
#undef MAYFLY_CAP
};

// Lets a task outlive its connection. Its output is captured; its whole stdin comes with the spec.
struct Detach {
  // How long the result is kept after the task's end and after the last call on it.
  uint32_t lease_ms = 3'600'000;
  std::string key;  // optional, at most 128 bytes: the user's own name for this run
};

// An action of the broker's policy that the task may use.
struct GrantWish {
  std::string name;
  std::string narrowing;  // the task's own bounds, e.g. "calls=10,methods=GET"; empty: the policy's
};

// A function of this client that the task may call, as POST /tools/NAME.
struct Tool {
  std::string name;
  std::string description;  // for people and models
  std::string schema_json;  // of the arguments; empty: any
  // Gets one JSON value, every byte of which the task chose, and returns one. It runs on the
  // serving thread, like a callback. Of an error the task sees code and message.
  std::function<base::Result<std::string>(std::string_view json)> call;
};

struct TaskSpec {
  std::string template_name;
  CodeKind kind = CodeKind::command;
  std::string code;
  std::string script_name;
  std::vector<std::string> args;
  std::vector<std::pair<std::string, std::string>> env;
  std::vector<InputFile> files;
  bool stdin_open = false;  // true: writeStdin and closeStdin follow
  std::string stdin_data;
  LimitWishes limits;
  std::optional<uint64_t> seed;
  bool collect_out_files = false;
  std::optional<Detach> detach;
  std::string tenant;             // at most 64 bytes, printable; see the schema
  std::string traceparent;        // the caller's W3C trace context; empty: none
  std::vector<GrantWish> grants;  // empty: none
  std::vector<Tool> tools;        // empty: none; a detached task has none
};

struct OutFile {
  std::string path;  // relative to /task/out; any bytes, chosen by the task: never trust them
  uint64_t size_bytes = 0;
  uint32_t mode = 0;
  std::string skipped;  // why the file was not collected; empty if it was
};

struct TaskResult {
  uint64_t id = 0;
  std::string template_name;
  base::Verdict verdict = base::Verdict::internal;
  int exit_code = 0;      // succeeded, failed, and if in_grace
  int signal = 0;         // signaled, and if in_grace; 0: none
  bool in_grace = false;  // its main process ended by itself, after SIGTERM and before the kill
  std::string reason;
  uint64_t cap_value = 0;
  base::Limits limits;
  base::Usage usage;
  base::Phases phases{};
  base::Receipt receipt;
  std::string captured[2];  // by Stream, without on_output: the first 1 MiB
  bool truncated[2] = {};
  std::vector<OutFile> out_files;
  std::string out_files_note;   // why files are missing from the collection; empty if none are
  bool out_files_lost = false;  // by Mayfly, not by the task: another run can give them
};

// All optional. With on_output the output is live; without, it is captured into the result.
struct Callbacks {
  std::function<void()> on_started;
  std::function<void(Stream, std::string_view)> on_output;
  std::function<void(const base::Result<TaskResult>&)> on_result;  // called once, after the others
};

struct TemplateInfo {
  std::string name, description, mechanism, state, state_text, image_digest;
  base::Limits defaults, maximum;
  uint32_t boxes = 0;                              // alive now
  uint32_t parked = 0;                             // boxes with a clone that is ready for a task
  uint32_t stocked = 0;                            // boxes without a clone yet
  uint32_t parked_target = 0, stocked_target = 0;  // the numbers that the pool is filled to
  uint32_t making = 0;                             // clones in the making
  uint32_t waiting = 0;                            // tasks that have a place but no clone yet
  uint32_t zygotes = 0;                            // alive: serving, starting, or draining
  uint32_t renewals = 0;          // zygotes replaced by a successor, since the daemon's start
  uint64_t hits = 0, misses = 0;  // tasks that found a parked clone, and that did not
};

struct TaskInfo {
  uint64_t id = 0;
  std::string template_name, state;
  uint64_t queued_ns = 0, started_ns = 0, now_ns = 0;  // the daemon's monotonic clock
  uint32_t pid_host = 0;
  bool yours = false;
};

struct DetachedTask {
  TaskInfo task;               // its state may be "done"
  std::string key;             // empty: it was submitted without one
  uint32_t lease_left_ms = 0;  // until an ended task is forgotten; the whole lease before its end
};

struct BlobInfo {
  BlobRef blob;
  uint32_t expires_ms = 0;  // from now, if nobody uses the blob
};

// A bound that an older daemon does not report is 0.
struct ServerInfo {
  std::string version, instance;
  uint16_t protocol = 0;
  uint32_t connections_max = 0, tasks_per_connection_max = 0, tasks_max = 0;
  uint32_t calls_per_connection_max = 0, message_bytes_max = 0;
  uint64_t blob_bytes_max = 0, blob_store_bytes_max = 0;
  uint32_t blobs_per_user_max = 0, uploads_per_connection_max = 0;
  uint32_t blob_ttl_ms = 0, upload_idle_ms = 0;
  uint32_t detached_per_user_max = 0, detach_lease_ms_max = 0;
};

// The thread that serves a connection: it receives the daemon's messages and runs the callbacks.
enum class ServedBy : uint8_t {
  ownThread,  // a thread of the client's own, at any time
  // The thread that connected, during its blocking calls and only then; this saves two wake-ups per
  // task. Other threads' calls are answered only then, too. Destroy the Client and its Tasks on
  // that thread. A thread serves one client at a time.
  caller,
};

struct ConnectOptions {
  std::string client_name = "c++";  // for the daemon's log
  ServedBy served_by = ServedBy::ownThread;
  // The deadline of connect, and of every call without one of its own. The calls that last as long
  // as a task (run, wait, writeStdin) then have none.
  uint64_t call_deadline_ms = 30'000;
};

// A call's own deadline. A call that is not answered in time fails with deadlineExceeded.
using DeadlineMs = std::optional<uint64_t>;

class Client;

// A task of a Client. It keeps the connection alive.
class Task {
 public:
  struct State;  // internal
  explicit Task(std::shared_ptr<State> state) : state_(std::move(state)) {}
  Task(Task&&) noexcept = default;
  Task& operator=(Task&&) noexcept;
  ~Task();  // release()

  uint64_t id() const;
  // Whether an earlier submit with the same key made the task; it does not run a second time.
  bool existing() const;
  // The task's present state, without waiting: "done" once wait() would return at once.
  base::Result<TaskInfo> info(DeadlineMs deadline_ms = {});
  // Ends one of the spec's grants before the task; returns when no call under it works any more.
  // notFound: the spec has no such grant. Not for a task that was found.
  base::Status revoke(const std::string& grant, DeadlineMs deadline_ms = {});
  // Returns the result when nothing of the task is left. If the deadline passes, the task runs on.
  base::Result<TaskResult> wait(DeadlineMs deadline_ms = {});
  std::shared_future<base::Result<TaskResult>> waitAsync() const;
  // Ends the task as `cancelled`. A task with a grace first gets SIGTERM; a second call ends the
  // grace.
  base::Status cancel(DeadlineMs deadline_ms = {});
  // Returns when the task has taken all of `data`; after a missed deadline it may have taken a
  // part.
  base::Status writeStdin(std::string_view data, DeadlineMs deadline_ms = {});
  base::Status closeStdin(DeadlineMs deadline_ms = {});
  // Reads at most 1 MiB of out_files[index] from `offset`; empty at its end. Call after wait().
  base::Result<std::string> readFile(uint32_t index, uint64_t offset, DeadlineMs deadline_ms = {});
  // Makes the daemon forget the task, even a detached one, for every client; cancels it if it runs.
  // Idempotent; does not wait.
  void close();
  // Leaves a detached task to the daemon; closes any other.
  void release();

 private:
  std::shared_ptr<State> state_;
};

class Client {
 public:
  static base::Result<std::unique_ptr<Client>> connect(const std::string& socket_path,
                                                       ConnectOptions options = {});
  Client(const Client&) = delete;
  ~Client();

  const ServerInfo& server() const;
  // Returns when the daemon has checked and queued the task. If the deadline passes, the task is
  // cancelled and no callback is called any more.
  base::Result<Task> submit(TaskSpec spec, Callbacks callbacks = {}, DeadlineMs deadline_ms = {});
  std::future<base::Result<Task>> submitAsync(TaskSpec spec, Callbacks callbacks = {},
                                              DeadlineMs deadline_ms = {});
  // submit(), wait() and release() in one; the cheapest way to a result. The deadline works like
  // submit's; it is not the task's wall time.
  base::Result<TaskResult> run(TaskSpec spec, Callbacks callbacks = {},
                               DeadlineMs deadline_ms = {});
  std::future<base::Result<TaskResult>> runAsync(TaskSpec spec, Callbacks callbacks = {},
                                                 DeadlineMs deadline_ms = {});
  // Finds a detached task of this user by its key or its id. Its wait() returns the result even if
  // the task has ended. notFound: there is no such task, or its lease is over.
  base::Result<Task> find(std::string key, DeadlineMs deadline_ms = {});
  base::Result<Task> find(uint64_t id, DeadlineMs deadline_ms = {});
  std::future<base::Result<Task>> findAsync(std::string key, DeadlineMs deadline_ms = {});
  std::future<base::Result<Task>> findAsync(uint64_t id, DeadlineMs deadline_ms = {});
  // This user's detached tasks that are kept, ended ones too. Renews no lease.
  base::Result<std::vector<DetachedTask>> detached(DeadlineMs deadline_ms = {});
  base::Result<std::vector<TemplateInfo>> templates(DeadlineMs deadline_ms = {});
  base::Result<std::vector<TaskInfo>> tasks(DeadlineMs deadline_ms = {});
  base::Status kill(uint64_t id, DeadlineMs deadline_ms = {});

  // Uploads the bytes unless the daemon has them, and restarts their time to live. The deadline
  // bounds the whole upload; without one, the connection's deadline bounds each of its calls.
  base::Result<BlobRef> upload(std::string_view bytes, DeadlineMs deadline_ms = {});
  // Uploads a regular file from its beginning: reads it twice, in pieces, and never holds all of
  // it.
  base::Result<BlobRef> upload(base::FdView file, DeadlineMs deadline_ms = {});
  base::Result<BlobRef> uploadFile(const std::string& path, DeadlineMs deadline_ms = {});
  base::Result<std::vector<BlobInfo>> blobs(DeadlineMs deadline_ms = {});
  base::Status removeBlob(const BlobRef& blob, DeadlineMs deadline_ms = {});

  struct Connection;  // internal

 private:
  explicit Client(std::shared_ptr<Connection> connection);
  std::future<base::Result<Task>> findAny(uint64_t id, std::string key, DeadlineMs deadline_ms);
  std::shared_ptr<Connection> connection_;
};

}  // namespace mayfly
