#include "rpc/task_calls.h"

#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "base/clock.h"
#include "base/text.h"

namespace mayfly::rpc {

using base::Code;
using base::fail;
using base::Status;

namespace {

class TaskImpl final : public schema::Task::Server {
 public:
  TaskImpl(kj::Own<ConnectionState> connection, kj::Own<TaskState> state, OnRelease on_release)
      : connection_(kj::mv(connection)),
        handle_(*connection_),
        state_(kj::mv(state)),
        on_release_(on_release) {}
  ~TaskImpl() noexcept(false) {
    if (state_.get() != nullptr && on_release_ == OnRelease::close) state_->close();
  }

 protected:
  kj::Promise<void> wait(WaitContext context) override {
    if (auto error = unfit("wait", Code::cancelled)) return refuse(context, *error);
    MAYFLY_ALLOW_CANCELLATION(context);
    return state_->wait().then([context, connection = kj::addRef(*connection_),
                                state = kj::addRef(*state_),
                                call = Call(*connection_)](Status status) mutable {
      auto& on = *connection;
      return inTurn(on, [context, status = std::move(status), connection = kj::mv(connection),
                         state = kj::mv(state), call = kj::mv(call)]() mutable {
        // The task may have been closed or forgotten since its end.
        if (status && state->result() == nullptr)
          status = fail(Code::cancelled, "wait: the task was closed");
        if (!status) return refuse(context, status.error());
        state->renew();
        put(resultsOf(context, sizeOf(*state->result())).initResult(), *state->result());
        return kj::Promise<void>(kj::READY_NOW);
      });
    });
  }

  kj::Promise<void> cancel(CancelContext context) override {
    if (auto error = unfit("cancel")) return refuse(context, *error);
    answer(context, state_->cancel(sched::Cancel::soft));
    return kj::READY_NOW;
  }

  kj::Promise<void> writeStdin(WriteStdinContext context) override {
    if (auto error = unfit("writeStdin")) return refuse(context, *error);
    MAYFLY_ALLOW_CANCELLATION(context);
    std::string data = edge::str(context.getParams().getData());
    context.releaseParams();
    return state_->writeStdin(std::move(data))
        .then([context, state = kj::addRef(*state_),
               call = Call(*connection_)](Status status) mutable { answer(context, status); });
  }

  kj::Promise<void> closeStdin(CloseStdinContext context) override {
    if (auto error = unfit("closeStdin")) return refuse(context, *error);
    answer(context, state_->closeStdin());
    return kj::READY_NOW;
  }

  kj::Promise<void> readFile(ReadFileContext context) override {
    if (auto error = unfit("readFile")) return refuse(context, *error);
    auto params = context.getParams();
    return inTurn(*connection_, [context, index = params.getIndex(), offset = params.getOffset(),
                                 bytes_max = params.getBytesMax(), state = kj::addRef(*state_),
                                 call = Call(*connection_)]() mutable {
      auto piece = read(*state, index, offset, bytes_max);
      if (!piece) return refuse(context, piece.error());
      auto results = resultsOf(context, piece->bytes.size());
      results.setData(edge::data(piece->bytes));
      results.setEnd(piece->end);
      return kj::Promise<void>(kj::READY_NOW);
    });
  }

  kj::Promise<void> close(CloseContext) override {
    if (state_.get() == nullptr) return kj::READY_NOW;
    auto state = kj::mv(state_);  // this object may live long and must not keep the task
    state->close();
    return kj::READY_NOW;
  }

  kj::Promise<void> info(InfoContext context) override {
    if (auto error = unfit("info")) return refuse(context, *error);
    if (auto status = state_->kept("info"); !status) return refuse(context, status.error());
    state_->renew();
    const sched::TaskInfo info = state_->info();
    put(resultsOf(context, 64 + info.template_name.size()).initInfo(), info, true);
    return kj::READY_NOW;
  }

 private:
  struct Piece {
    std::string bytes;
    bool end = false;
  };

  // Why the call cannot be served. `closed` is the code for a closed task.
  std::optional<base::Error> unfit(const char* call, Code closed = Code::failedPrecondition) const {
    if (auto error = overloaded(*connection_)) return error;
    if (state_.get() == nullptr)
      return base::Error{closed, fmt::format("{}: the task is closed", call), {}, 0};
    return std::nullopt;
  }

  static base::Result<Piece> read(TaskState& state, uint32_t index, uint64_t offset,
                                  uint32_t bytes_max) {
    if (bytes_max == 0) return fail(Code::invalidArgument, "readFile: bytesMax is 0");
    MAYFLY_CHECK(state.kept("readFile"));
    state.renew();
    const sched::TaskResult* result = state.result();
    if (result == nullptr)
      return fail(Code::failedPrecondition, "readFile: the task has no result yet",
                  "Call wait first.");
    if (index >= result->out_files.size() && result->out_files_lost)
      return fail(
          Code::unavailable,
          fmt::format("readFile: the task's output files were lost: {}", result->out_files_note),
          "Run the task again.");
    if (index >= result->out_files.size())
      return fail(Code::notFound, fmt::format("readFile: no file {}; the task left {}", index,
                                              result->out_files.size()));
    const base::OutFile& file = result->out_files[index];
    if (!file.skipped.empty() || result->spool == nullptr)
      return fail(Code::failedPrecondition, fmt::format("readFile: '{}' was not collected: {}",
                                                        base::printable(file.path), file.skipped));
    Piece piece;
    uint64_t left = offset < file.size_bytes ? file.size_bytes - offset : 0;
    size_t bytes = std::min<uint64_t>({left, bytes_max, schema::CHUNK_BYTES_MAX});
    piece.bytes.resize(bytes);
    size_t got = 0;
    while (got < bytes) {
      ssize_t n = ::pread(result->spool->get(), piece.bytes.data() + got, bytes - got,
                          static_cast<off_t>(file.offset + offset + got));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return base::failSys(errno, "pread", "the spool of collected files");
      if (n == 0) return fail(Code::internal, "readFile: the spool is shorter than its index says");
      got += static_cast<size_t>(n);
    }
    piece.end = left == bytes;
    return piece;
  }

  kj::Own<ConnectionState> connection_;
  Handle handle_;
  kj::Own<TaskState> state_;  // null once closed by this object
  OnRelease on_release_;
};

}  // namespace

void put(schema::TaskInfo::Builder out, const sched::TaskInfo& info, bool yours) {
  out.setId(info.task);
  out.setTemplate(edge::text(info.template_name));
  out.setState(edge::text(info.state));
  out.setQueuedNs(info.queued_ns);
  out.setStartedNs(info.started_ns);
  out.setNowNs(base::monotonicNs());
  out.setPidHost(info.pid_host);
  out.setYours(yours);
}

schema::Task::Client makeTaskCalls(kj::Own<ConnectionState> connection, kj::Own<TaskState> state,
                                   OnRelease on_release) {
  return kj::heap<TaskImpl>(kj::mv(connection), kj::mv(state), on_release);
}

}  // namespace mayfly::rpc
