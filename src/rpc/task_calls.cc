#include "rpc/task_calls.h"

#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "base/text.h"

namespace mayfly::rpc {

using base::Code;
using base::fail;
using base::Status;

namespace {

class TaskImpl final : public schema::Task::Server {
 public:
  TaskImpl(Hub& hub, kj::Own<ConnectionState> connection, kj::Own<TaskState> state)
      : hub_(hub), connection_(kj::mv(connection)), state_(kj::mv(state)) {}
  ~TaskImpl() noexcept(false) { state_->close(); }

 protected:
  kj::Promise<void> wait(WaitContext context) override {
    if (auto error = overloaded(*connection_, hub_.options)) return refuse(context, *error);
    MAYFLY_ALLOW_CANCELLATION(context);
    return state_->wait().then([context, state = kj::addRef(*state_),
                                call = Call(*connection_)](Status status) mutable {
      ConnectionState& connection = state->connection();
      return inTurn(connection, [context, status = std::move(status),
                                          state = kj::mv(state), call = kj::mv(call)]() mutable {
        // It may have been closed since the end.
        if (status && state->closed()) status = fail(Code::cancelled, "wait: the task was closed");
        if (status) put(context.getResults().initResult(), *state->result());
        else answer(context, status);
        return kj::Promise<void>(kj::READY_NOW);
      });
    });
  }

  kj::Promise<void> cancel(CancelContext context) override {
    answer(context, state_->cancel());
    return kj::READY_NOW;
  }

  kj::Promise<void> writeStdin(WriteStdinContext context) override {
    if (auto error = overloaded(*connection_, hub_.options)) return refuse(context, *error);
    MAYFLY_ALLOW_CANCELLATION(context);
    std::string data = edge::str(context.getParams().getData());
    context.releaseParams();
    return state_->writeStdin(std::move(data))
        .then([context, state = kj::addRef(*state_), call = Call(*connection_)](
                  Status status) mutable { answer(context, status); });
  }

  kj::Promise<void> closeStdin(CloseStdinContext context) override {
    answer(context, state_->closeStdin());
    return kj::READY_NOW;
  }

  kj::Promise<void> readFile(ReadFileContext context) override {
    auto params = context.getParams();
    auto data = read(params.getIndex(), params.getOffset(), params.getBytesMax());
    if (!data) return refuse(context, data.error());
    auto results = context.getResults(
        capnp::MessageSize{data->bytes.size() / sizeof(capnp::word) + 16, 0});
    results.setData(edge::data(data->bytes));
    results.setEnd(data->end);
    return kj::READY_NOW;
  }

  kj::Promise<void> close(CloseContext) override {
    state_->close();
    return kj::READY_NOW;
  }

 private:
  struct Piece {
    std::string bytes;
    bool end = false;
  };

  base::Result<Piece> read(uint32_t index, uint64_t offset, uint32_t bytes_max) {
    const sched::TaskResult* result = state_->result();
    if (state_->closed()) return fail(Code::failedPrecondition, "readFile: the task is closed");
    if (result == nullptr)
      return fail(Code::failedPrecondition, "readFile: the task has no result yet",
                  "Call wait first.");
    if (index >= result->out_files.size())
      return fail(Code::notFound, fmt::format("readFile: no file {}; the task left {}", index,
                                              result->out_files.size()));
    if (bytes_max == 0) return fail(Code::invalidArgument, "readFile: bytesMax is 0");
    const base::OutFile& file = result->out_files[index];
    if (!file.skipped.empty() || result->spool == nullptr)
      return fail(Code::failedPrecondition,
                  fmt::format("readFile: '{}' was not collected: {}", base::printable(file.path),
                              file.skipped));
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

  Hub& hub_;
  kj::Own<ConnectionState> connection_;
  kj::Own<TaskState> state_;
};

}  // namespace

schema::Task::Client makeTaskCalls(Hub& hub, kj::Own<ConnectionState> connection,
                                   kj::Own<TaskState> state) {
  return kj::heap<TaskImpl>(hub, kj::mv(connection), kj::mv(state));
}

}  // namespace mayfly::rpc
