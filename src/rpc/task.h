// One task as the RPC thread sees it: its events on their way to the client, and
// the calls that wait for something of it.
//
// Events come from the core in order; output goes to the client's sink one write
// at a time, and is acknowledged to the core when the write returned. The result
// waits until the last write returned.
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
#include "sched/core.h"

namespace mayfly::rpc {

inline constexpr uint32_t kWaitsPerTaskMax = 16;
inline constexpr size_t kOutFilesListBytesMax = 4u << 20;  // of the result's message

class TaskState;

// Tasks by key. RPC thread. Outlives every TaskState.
struct TaskTable {
  std::unordered_map<uint64_t, TaskState*> by_key;
  uint64_t next_key = 1;
};

// What a connection's objects share; lives until the last of them is gone.
struct ConnectionState : kj::Refcounted {
  ConnectionState(CoreLinkPtr l, TaskTable& t, sched::OwnerId o, uid_t u)
      : link(std::move(l)), table(t), owner(o), uid(u) {}
  CoreLinkPtr link;
  TaskTable& table;
  sched::OwnerId owner;
  uid_t uid;               // the peer's
  int socket = -1;         // of the connection, while it stands
  bool ended = false;      // the connection is gone; the core was told
  uint32_t calls = 0;      // that have not returned
  uint32_t tasks = 0;      // not closed
  uint32_t uploads = 0;    // not finished

  // The client's end is closed: the connection's own end follows, and tells the core.
  bool peerGone() const;

  // Large answers are made one at a time, each when what was sent before is mostly read: else calls
  // of a few bytes could make the daemon hold megabytes for each. `room` says when that is.
  class Turn {
   public:
    explicit Turn(ConnectionState& state);
    ~Turn() noexcept(false);  // the next one's
    KJ_DISALLOW_COPY(Turn);

   private:
    kj::Own<ConnectionState> state_;
  };
  kj::Promise<kj::Own<Turn>> turn();
  kj::Maybe<kj::Function<kj::Promise<void>()>> room;  // null once the connection is gone

 private:
  bool turn_taken_ = false;
  std::deque<kj::Own<kj::PromiseFulfiller<kj::Own<Turn>>>> turns_waited_for_;  // <= `calls`
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
  TaskState(kj::Own<ConnectionState> connection, kj::Maybe<schema::OutputSink::Client> sink);
  ~TaskState() noexcept(false);

  // Gives the task to the core. Resolves with its id or the core's refusal.
  kj::Promise<base::Result<base::TaskId>> submit(sched::TaskSpec spec);
  // The promises below resolve with an error rather than fail.
  kj::Promise<base::Status> wait();
  base::Status cancel();
  kj::Promise<base::Status> writeStdin(std::string data);
  base::Status closeStdin();
  // Idempotent; also what the destructor of the client's Task does.
  void close();
  bool closed() const { return closed_; }
  ConnectionState& connection() { return *connection_; }
  const sched::TaskResult* result() const { return done_ ? result_.get() : nullptr; }

  // Events, in the core's order.
  void onSubmitted(base::Result<base::TaskId> id);
  void onStarted();
  void onOutput(sched::Stream stream, std::string bytes);
  void onStdinAccepted(uint64_t bytes);
  void onResult(std::shared_ptr<const sched::TaskResult> result);

 private:
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

  void deliver();
  kj::Promise<void> deliverOne();
  void sinkFailed();
  void cancelUnlessGone();
  void finishIfDelivered();
  void onStdinRefused(uint64_t number, const base::Error& error);
  void failStdin(const base::Error& error);

  kj::Own<ConnectionState> connection_;
  uint64_t key_;
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
  bool done_ = false;    // result_ is set and everything was delivered
  bool closed_ = false;
  std::vector<StatusFulfiller> waits_;
  Errors errors_;
  kj::TaskSet deliveries_;
};

// The schema's TaskSpec, copied; what is out of bounds here could not be copied safely. Everything
// else is the core's to check.
base::Result<sched::TaskSpec> specFrom(schema::TaskSpec::Reader in, const FindBlob& find_blob);
void put(schema::TaskResult::Builder out, const sched::TaskResult& result);

}  // namespace mayfly::rpc
