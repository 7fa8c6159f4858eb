// Mayfly's C++ client: submits tasks to a daemon and brings their results.
//
//   auto client = mayfly::Client::connect("/run/mayfly/default.sock");
//   mayfly::TaskSpec spec;
//   spec.template_name = "python";
//   spec.kind = mayfly::CodeKind::string;
//   spec.code = "print(6*7)";
//   auto result = (*client)->run(spec);   // result->captured[0] == "42\n"
//
// A Client owns one connection and, unless its caller serves it (ServedBy), one thread
// that does. All calls may be made from any thread, many at a time; they never throw.
// Those that end in Async give a future at once, the others block until answered, and
// all have a deadline. Callbacks run on the thread that serves, one at a time, and must
// return: while one runs, the daemon sends this client nothing more of that task, and no
// blocking call of this client may be made from within it (failedPrecondition).
//
// Input of more than a few MiB goes as a blob: upload it once, name it in as many
// tasks' files as you like.
//
// Dropping a Task that still runs cancels it; dropping the Client ends all of
// its tasks as `clientGone`. A task with `detach` is the user's instead: dropping it
// leaves it alone, any Client of that user can find() it, and a submit that repeats its
// key gives the same task instead of a second run.
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
  command,    // `args` is a whole command line: templates of mechanism `exec`
  file,       // `code` is a script, put at /task/`script_name` and run from there
  string,     // `code` is the program, as after the runtime's -c
  stdinText,  // `code` is the program, as if piped into the runtime
};
enum class Stream : uint8_t { out, err };

// Bytes that the daemon keeps for this user: any number of tasks can have them as an input file.
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

// What is absent takes the template's default. Units: base::Limits.
struct LimitWishes {
#define MAYFLY_CAP(member, type, ...) std::optional<type> member;
  MAYFLY_CAPS(MAYFLY_CAP)
#undef MAYFLY_CAP
};

// Lets a task outlive its connection. Its output is captured, all of its stdin goes with the spec.
struct Detach {
  uint32_t lease_ms =
      3'600'000;    // its result is kept so long after its end and the last call on it
  std::string key;  // optional, at most 128 bytes: the user's own name for this very run
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
  std::string tenant;  // at most 64 bytes, printable; see the schema
};

struct OutFile {
  std::string path;  // relative to /task/out; bytes as the task chose them: never trust them
  uint64_t size_bytes = 0;
  uint32_t mode = 0;
  std::string skipped;  // why it was not collected; empty when it was
};

struct TaskResult {
  uint64_t id = 0;
  std::string template_name;
  base::Verdict verdict = base::Verdict::internal;
  int exit_code = 0;
  int signal = 0;
  std::string reason;
  uint64_t cap_value = 0;
  base::Limits limits;
  base::Usage usage;
  base::Phases phases{};
  base::Receipt receipt;
  std::string captured[2];  // by Stream, where no on_output was given: the first 1 MiB
  bool truncated[2] = {};
  std::vector<OutFile> out_files;
  std::string out_files_note;
};

// All optional. With on_output the output is live; without, it is captured into the result.
struct Callbacks {
  std::function<void()> on_started;
  std::function<void(Stream, std::string_view)> on_output;
  std::function<void(const base::Result<TaskResult>&)> on_result;  // once, the last
};

struct TemplateInfo {
  std::string name, description, mechanism, state, state_text, image_digest;
  base::Limits defaults, maximum;
  uint32_t boxes = 0;                              // alive now
  uint32_t parked = 0;                             // of them: with a clone that is ready for a task
  uint32_t stocked = 0;                            // of them: walls that wait for a clone
  uint32_t parked_target = 0, stocked_target = 0;  // what the pool holds, or is being filled to
  uint32_t making = 0;                             // clones
  uint32_t waiting = 0;                            // tasks that have a box's place and no clone yet
  uint32_t zygotes = 0;           // alive: serving, starting, and those whose last boxes end
  uint32_t renewals = 0;          // zygotes that a younger one followed, since the daemon's start
  uint64_t hits = 0, misses = 0;  // tasks that found a clone parked, and that did not
};

struct TaskInfo {
  uint64_t id = 0;
  std::string template_name, state;
  uint64_t queued_ns = 0, started_ns = 0, now_ns = 0;  // the daemon's monotonic clock
  uint32_t pid_host = 0;
  bool yours = false;
};

struct BlobInfo {
  BlobRef blob;
  uint32_t expires_ms = 0;  // from now, if nothing uses it
};

// 0 is what an older daemon does not tell.
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

// Who serves a connection: receives what the daemon sends, and runs the callbacks.
enum class ServedBy : uint8_t {
  ownThread,  // a thread of the client's own, at any time
  // The thread that connected, in its blocking calls and only there, which saves it two wake-ups a
  // task. Other threads' calls are answered meanwhile. Client and Tasks are destroyed on that
  // thread, which has one such client at a time.
  caller,
};

struct ConnectOptions {
  std::string client_name = "c++";  // for the daemon's log
  ServedBy served_by = ServedBy::ownThread;
  // Of connect and of every call that is given none, but for those that last as long as a task
  // does (run, wait, writeStdin): these have none then.
  uint64_t call_timeout_ms = 30'000;
};

// A call's own deadline; what is not answered in time is deadlineExceeded.
using TimeoutMs = std::optional<uint64_t>;

class Client;

// A task of a Client's. It keeps the connection alive.
class Task {
 public:
  struct State;  // internal
  explicit Task(std::shared_ptr<State> state) : state_(std::move(state)) {}
  Task(Task&&) noexcept = default;
  Task& operator=(Task&&) noexcept;
  ~Task();  // close(), or release() of a detached one

  uint64_t id() const;
  // An earlier submit with the same key made it: nothing runs a second time.
  bool existing() const;
  // Where it stands, without waiting; state "done" once wait() would return at once.
  base::Result<TaskInfo> info(TimeoutMs timeout_ms = {});
  // The result, when nothing of the task is left. After its deadline the task runs on.
  base::Result<TaskResult> wait(TimeoutMs timeout_ms = {});
  std::shared_future<base::Result<TaskResult>> waitAsync() const;
  base::Status cancel(TimeoutMs timeout_ms = {});
  // Returns when the task has taken all of it. After the deadline some of it may have been taken.
  base::Status writeStdin(std::string_view data, TimeoutMs timeout_ms = {});
  base::Status closeStdin(TimeoutMs timeout_ms = {});
  // At most 1 MiB of out_files[index], from `offset`; empty at its end. After wait.
  base::Result<std::string> readFile(uint32_t index, uint64_t offset, TimeoutMs timeout_ms = {});
  // The daemon forgets the task, also a detached one, for everybody; one that runs is cancelled.
  // Idempotent; does not wait.
  void close();
  // Lets go of a detached task and leaves it to the daemon; close() of any other.
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
  // Returns when the daemon has checked and queued the task. After its deadline the task is
  // cancelled, and no callback is called any more.
  base::Result<Task> submit(TaskSpec spec, Callbacks callbacks = {}, TimeoutMs timeout_ms = {});
  std::future<base::Result<Task>> submitAsync(TaskSpec spec, Callbacks callbacks = {},
                                              TimeoutMs timeout_ms = {});
  // submit, wait and close (of a detached one: release) in one; the cheapest way to a result. Its
  // deadline, which is not the task's wall time, is treated as submit's.
  base::Result<TaskResult> run(TaskSpec spec, Callbacks callbacks = {}, TimeoutMs timeout_ms = {});
  std::future<base::Result<TaskResult>> runAsync(TaskSpec spec, Callbacks callbacks = {},
                                                 TimeoutMs timeout_ms = {});
  // A detached task of this user, by its key or its id. Its wait() gives the result, however long
  // ago it ended. notFound: there is none, or its lease is over.
  base::Result<Task> find(std::string key, TimeoutMs timeout_ms = {});
  base::Result<Task> find(uint64_t id, TimeoutMs timeout_ms = {});
  std::future<base::Result<Task>> findAsync(std::string key, TimeoutMs timeout_ms = {});
  std::future<base::Result<Task>> findAsync(uint64_t id, TimeoutMs timeout_ms = {});
  base::Result<std::vector<TemplateInfo>> templates(TimeoutMs timeout_ms = {});
  base::Result<std::vector<TaskInfo>> tasks(TimeoutMs timeout_ms = {});
  base::Status kill(uint64_t id, TimeoutMs timeout_ms = {});

  // Brings bytes to the daemon, unless it has them, and begins their time to live anew. The
  // deadline is of the whole upload; without one each of its calls has the connection's.
  base::Result<BlobRef> upload(std::string_view bytes, TimeoutMs timeout_ms = {});
  // A regular file from its beginning: read twice, in pieces, and never held as a whole.
  base::Result<BlobRef> upload(base::FdView file, TimeoutMs timeout_ms = {});
  base::Result<BlobRef> uploadFile(const std::string& path, TimeoutMs timeout_ms = {});
  base::Result<std::vector<BlobInfo>> blobs(TimeoutMs timeout_ms = {});
  base::Status removeBlob(const BlobRef& blob, TimeoutMs timeout_ms = {});

  struct Connection;  // internal

 private:
  explicit Client(std::shared_ptr<Connection> connection);
  std::future<base::Result<Task>> findAny(uint64_t id, std::string key, TimeoutMs timeout_ms);
  std::shared_ptr<Connection> connection_;
};

}  // namespace mayfly
