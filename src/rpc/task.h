// One task as its clients see it: delivers its events to the client, and holds the
// calls that wait for it.
//
// Events come from the core in order. Output goes to the client's sink one write at a
// time; when a write returns, its bytes are acknowledged to the core. The result
// waits until the last write has returned. An ended task is kept until its lease
// ends; every call renews the lease.
//
// Layer: rpc. Core thread.
#pragma once

#include <kj/function.h>
#include <kj/refcount.h>
#include <mayfly/mayfly.capnp.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rpc/blobs.h"
#include "rpc/owner.h"
#include "sched/core.h"

namespace mayfly::rpc {

inline constexpr uint32_t kWaitsPerTaskMax = 16;
inline constexpr size_t kOutFilesListBytesMax = 4u << 20;  // of the result's message

// The most output that the daemon holds for a task that has not ended, both streams together. Live:
// the window, and the rest of a pipe (64 KiB), read at once when the task's last process is dead.
inline constexpr uint64_t kLiveHeldBytes = 2 * (sched::kOutputWindowBytes + (64u << 10));
inline constexpr uint64_t kCapturedHeldBytes = 2 * sched::kCaptureBytesMax;

class TaskState;
class TaskTools;

// A task's shares of its account, until it is closed.
struct TaskShares {
  // Refuses if the account, its user or all users together would hold too much.
  static base::Result<TaskShares> take(sched::Accounts& accounts, const sched::AccountRef& account,
                                       uint64_t output_bytes, bool detached);
  sched::Share open;
  sched::Share output;  // and results: the most until the task ends, then their true size
  sched::Share detached;
};

// The listener that the core holds. It passes events on to the task while the task is kept.
class TaskEar final : public sched::TaskListener {
 public:
  explicit TaskEar(TaskState& state) : state_(&state) {}
  void forget() { state_ = nullptr; }

  void onStarted() override;
  void onOutput(sched::Stream stream, std::string_view bytes) override;
  void onStdinAccepted(uint64_t bytes) override;
  void onResult(sched::TaskResult result) override;

 private:
  template <class Event>
  void tell(Event event);
  TaskState* state_;  // null after forget()
};

class TaskState final : public kj::Refcounted {
 public:
  TaskState(kj::Own<Owner> owner, TaskShares shares, kj::Maybe<schema::OutputSink::Client> sink,
            kj::Duration lease);
  ~TaskState() noexcept(false);

  // Gives the task to the core. If the core refuses it, the task is closed.
  base::Status submit(sched::TaskSpec spec);
  // The promises below do not fail; they resolve with an error.
  kj::Promise<base::Status> wait();
  base::Status cancel(sched::Cancel how);
  kj::Promise<base::Status> writeStdin(std::string data);
  base::Status closeStdin();
  // The client needs the task no more. Idempotent.
  void close() { end(Kept::closed); }
  // The task's lease is over.
  void forget() { end(Kept::forgotten); }
  // Restarts the lease of an ended task. Called when a call on the task begins or returns.
  void renew();
  // Ok while the task is kept; else the error that `call` answers.
  base::Status kept(const char* call) const;
  base::TaskId id() const { return id_; }  // 0 until the core has given one
  // --- the task's session (grants.cc) ---
  void setTools(std::shared_ptr<TaskTools> tools);
  const std::vector<std::string>& grants() const;
  kj::Promise<base::Status> revoke(const std::string& grant);
  // Null until the task has ended and all its output is delivered.
  const sched::TaskResult* result() const { return done_ ? &*result_ : nullptr; }
  // Null until the task has ended.
  const sched::TaskResult* ended() const { return result_ ? &*result_ : nullptr; }
  // The state is "done" once wait() would return at once.
  sched::TaskInfo info() const;
  kj::Duration lease() const { return lease_; }

  // Events, in the core's order.
  void onStarted();
  void onOutput(sched::Stream stream, std::string_view bytes);
  void onStdinAccepted(uint64_t bytes);
  void onResult(sched::TaskResult result);

 private:
  enum class Kept : uint8_t { yes, closed, forgotten };
  using StatusFulfiller = kj::Own<kj::PromiseFulfiller<base::Status>>;
  struct Chunk {
    sched::Stream stream;
    std::string bytes;
  };
  struct StdinWrite {
    uint64_t bytes_left;
    kj::Maybe<StatusFulfiller> done;  // null: the spec's `stdinData`
  };
  struct Errors final : kj::TaskSet::ErrorHandler {
    void taskFailed(kj::Exception&&) override {}  // each delivery handles its own failure
  };

  bool runs() const { return id_ != 0 && !ended_; }  // the core still has the task
  void end(Kept why);
  void deliver();
  kj::Promise<void> deliverOne();
  void sinkFailed();
  void dropSink();
  void cancelUnlessGone(sched::Cancel how);
  void finishIfDelivered();
  void failStdin(const base::Error& error);
  void endTools();

  kj::Own<Owner> owner_;
  TaskShares shares_;
  kj::Duration lease_;
  base::TaskId id_ = 0;
  std::string template_name_;
  std::shared_ptr<TaskEar> ear_;
  std::shared_ptr<sched::Session> session_;  // null: none
  std::shared_ptr<TaskTools> tools_;         // the same; until the task's end
  kj::Maybe<schema::OutputSink::Client> sink_;
  std::deque<Chunk> chunks_;  // bounded by the core: kOutputWindowBytes per stream
  bool delivering_ = false;
  bool stdin_open_ = false;
  std::deque<StdinWrite> stdin_writes_;  // in order; not taken by the task yet
  uint64_t stdin_untaken_bytes_ = 0;     // of writeStdin, without the spec's `stdinData`
  std::optional<sched::TaskResult> result_;
  bool ended_ = false;  // the core has reported the result; end() drops result_ again
  bool done_ = false;   // result_ is set and all output is delivered
  Kept kept_ = Kept::yes;
  std::vector<StatusFulfiller> waits_;
  Errors errors_;
  kj::TaskSet deliveries_;
};

// Copies the schema's TaskSpec. Refuses only a spec that is too large to copy safely; the core
// checks everything else.
base::Result<sched::TaskSpec> specFrom(schema::TaskSpec::Reader in, const FindBlob& find_blob);
void put(schema::TaskResult::Builder out, const sched::TaskResult& result);
size_t sizeOf(const sched::TaskResult& result);  // roughly, of its message

}  // namespace mayfly::rpc
