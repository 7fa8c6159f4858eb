// One task as the RPC thread sees it: its events on their way to the client, and
// the calls that wait for something of it.
//
// Events come from the core in order; output goes to the client's sink one write
// at a time, and is acknowledged to the core when the write returned. The result
// waits until the last write returned. From the end on it is kept as long as its
// lease, which every call renews.
//
// Layer: rpc. RPC thread, but for CoreTask, which is the core thread's.
#pragma once

#include <kj/function.h>
#include <kj/refcount.h>
#include <mayfly/mayfly.capnp.h>

#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "rpc/blobs.h"
#include "rpc/core_link.h"
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

// Tasks by key. RPC thread. Outlives every TaskState.
struct TaskTable {
  std::unordered_map<uint64_t, TaskState*> by_key;
  uint64_t next_key = 1;
  uint64_t held_bytes = 0;  // of output and results, or what of it is to be expected
};

// The core's side of a task. Core thread, but for its making.
class CoreTask final : public sched::TaskListener {
 public:
  CoreTask(CoreLinkPtr link, TaskTable& table, uint64_t key)
      : link_(std::move(link)), table_(table), key_(key) {}
  void onStarted() override;
  void onOutput(sched::Stream stream, std::string_view bytes) override;
  void onStdinAccepted(uint64_t bytes) override;
  void onResult(const sched::TaskResult& result) override;

  base::TaskId id = 0;  // 0 until submitted
  bool ended = false;

  // Runs `event(state)` on the RPC thread, if the task is still known there.
  template <class Event>
  void tell(Event event);

 private:
  CoreLinkPtr link_;
  TaskTable& table_;  // touched on the RPC thread only
  uint64_t key_;
};

class TaskState final : public kj::Refcounted {
 public:
  TaskState(kj::Own<Owner> owner, kj::Maybe<schema::OutputSink::Client> sink, kj::Duration lease);
  ~TaskState() noexcept(false);

  // Gives the task to the core. Resolves with its id or the core's refusal.
  kj::Promise<base::Result<base::TaskId>> submit(sched::TaskSpec spec);
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
  uint64_t key() const { return key_; }
  base::TaskId id() const { return id_; }  // 0 until the core has given one
  // Of the ended task, once everything was delivered.
  const sched::TaskResult* result() const { return done_ ? result_.get() : nullptr; }
  const sched::TaskResult* ended() const { return result_.get(); }  // maybe not delivered yet
  const std::string& templateName() const { return template_name_; }

  // Events, in the core's order.
  void onSubmitted(base::Result<base::TaskId> id);
  void onStarted();
  void onOutput(sched::Stream stream, std::string bytes);
  void onStdinAccepted(uint64_t bytes);
  void onResult(std::shared_ptr<const sched::TaskResult> result);

 private:
  enum class Kept : uint8_t { yes, closed, forgotten };
  using StatusFulfiller = kj::Own<kj::PromiseFulfiller<base::Status>>;
  struct Chunk {
    sched::Stream stream;
    std::string bytes;
  };
  struct StdinWrite {
    uint64_t number;  // 0: the data that came with the task
    uint64_t bytes_left;
    kj::Maybe<StatusFulfiller> done;  // null: number 0
  };
  struct Errors final : kj::TaskSet::ErrorHandler {
    void taskFailed(kj::Exception&&) override {}  // each delivery handles its own failure
  };

  void end(Kept why);
  void hold(uint64_t bytes);
  void deliver();
  kj::Promise<void> deliverOne();
  void sinkFailed();
  void dropSink();
  void cancelUnlessGone();
  void finishIfDelivered();
  void onStdinRefused(uint64_t number, const base::Error& error);
  void failStdin(const base::Error& error);

  kj::Own<Owner> owner_;
  uint64_t key_;
  kj::Duration lease_;
  base::TaskId id_ = 0;
  std::string template_name_;
  uint64_t held_bytes_ = 0;
  std::shared_ptr<CoreTask> core_task_;
  kj::Maybe<schema::OutputSink::Client> sink_;
  kj::Maybe<kj::Own<kj::PromiseFulfiller<base::Result<base::TaskId>>>> submitted_;
  std::deque<Chunk> chunks_;  // bounded by the core: kOutputWindowBytes per stream
  bool delivering_ = false;
  bool stdin_open_ = false;
  std::deque<StdinWrite> stdin_writes_;  // in order, those that the task has not taken
  uint64_t stdin_writes_made_ = 0;
  uint64_t stdin_untaken_bytes_ = 0;  // of writeStdin
  std::shared_ptr<const sched::TaskResult> result_;
  bool done_ = false;  // result_ is set and everything was delivered
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
