// One task as its clients see it: its events on their way to the client, and the
// calls that wait for something of it.
//
// Events come from the core in order; output goes to the client's sink one write
// at a time, and is acknowledged to the core when the write returned. The result
// waits until the last write returned. From the end on it is kept as long as its
// lease, which every call renews.
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

// What a task that has not ended may come to hold of its output: what was read beyond the window
// when its last writer died is at most a pipe's.
inline constexpr uint64_t kLiveHeldBytes = 2 * (sched::kOutputWindowBytes + (64u << 10));
inline constexpr uint64_t kCapturedHeldBytes = 2 * sched::kCaptureBytesMax;

class TaskState;

// Tasks that are not closed, of all connections and users.
struct TasksHeld {
  uint32_t count = 0;
  uint64_t bytes = 0;  // of output and results, or what of it is to be expected
};

// What the core holds of a task: it passes on what the core tells, as long as the task is kept.
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
  TaskState* state_;  // null: nobody hears any more
};

class TaskState final : public kj::Refcounted {
 public:
  TaskState(kj::Own<Owner> owner, kj::Maybe<schema::OutputSink::Client> sink, kj::Duration lease);
  ~TaskState() noexcept(false);

  // Gives the task to the core; closed where the core refuses it.
  base::Status submit(sched::TaskSpec spec);
  // The promises below resolve with an error rather than fail.
  kj::Promise<base::Status> wait();
  base::Status cancel();
  kj::Promise<base::Status> writeStdin(std::string data);
  base::Status closeStdin();
  // The client is done with it. Idempotent; also what the destructor of its Task does.
  void close() { end(Kept::closed); }
  // Its lease is over.
  void forget() { end(Kept::forgotten); }
  // A call was made on it or has returned.
  void renew();
  // Why calls on it cannot be served any more; ok while it is kept.
  base::Status kept(const char* call) const;
  base::TaskId id() const { return id_; }  // 0 until the core has given one
  // Of the ended task, once everything was delivered.
  const sched::TaskResult* result() const { return done_ ? &*result_ : nullptr; }
  const sched::TaskResult* ended() const {
    return result_ ? &*result_ : nullptr;
  }  // maybe not delivered yet
  const std::string& templateName() const { return template_name_; }

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
    kj::Maybe<StatusFulfiller> done;  // null: the data that came with the task
  };
  struct Errors final : kj::TaskSet::ErrorHandler {
    void taskFailed(kj::Exception&&) override {}  // each delivery handles its own failure
  };

  bool runs() const { return id_ != 0 && !ended_; }  // in the core
  void end(Kept why);
  void hold(uint64_t bytes);
  void deliver();
  kj::Promise<void> deliverOne();
  void sinkFailed();
  void dropSink();
  void cancelUnlessGone();
  void finishIfDelivered();
  void failStdin(const base::Error& error);

  kj::Own<Owner> owner_;
  kj::Duration lease_;
  base::TaskId id_ = 0;
  std::string template_name_;
  uint64_t held_bytes_ = 0;
  std::shared_ptr<TaskEar> ear_;
  kj::Maybe<schema::OutputSink::Client> sink_;
  std::deque<Chunk> chunks_;  // bounded by the core: kOutputWindowBytes per stream
  bool delivering_ = false;
  bool stdin_open_ = false;
  std::deque<StdinWrite> stdin_writes_;  // in order, those that the task has not taken
  uint64_t stdin_untaken_bytes_ = 0;     // of writeStdin
  std::optional<sched::TaskResult> result_;
  bool ended_ = false;  // the core told the result, which may be dropped again
  bool done_ = false;   // result_ is set and everything was delivered
  Kept kept_ = Kept::yes;
  std::vector<StatusFulfiller> waits_;
  Errors errors_;
  kj::TaskSet deliveries_;
};

// The schema's TaskSpec, copied; what is out of bounds here could not be copied safely. Everything
// else is the core's to check.
base::Result<sched::TaskSpec> specFrom(schema::TaskSpec::Reader in, const FindBlob& find_blob);
void put(schema::TaskResult::Builder out, const sched::TaskResult& result);
size_t sizeOf(const sched::TaskResult& result);  // of its message, about

}  // namespace mayfly::rpc
