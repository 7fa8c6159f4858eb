// The public calls of include/mayfly/client.h.
#include <mayfly/client.h>

#include <atomic>
#include <map>

#include "base/text.h"
#include "client/connection.h"

namespace mayfly {

using base::Code;
using base::Error;
using base::fail;
using base::Result;
using base::Status;
using base::Unit;

namespace {

constexpr uint16_t kGrantsProtocol = 4;

// The daemon's object for a task. Jobs of the loop hold it, and drop it last. It has no reference
// to the connection: a job must not drop the last one, because the connection's destructor waits
// for the loop.
struct Remote {
  std::atomic<bool> closed = false;
  // For the loop's thread only; null once closed.
  kj::Maybe<schema::Task::Client> task;
  std::map<std::string, schema::Grant::Client> grants;
  kj::Own<kj::PromiseFulfiller<void>> let_go;  // for detached tasks: ends this client's `wait`
};

}  // namespace

struct Task::State {
  std::shared_ptr<Client::Connection> connection;
  uint64_t id = 0;
  bool detached = false, existing = false;
  std::shared_future<Result<TaskResult>> result;
  std::shared_ptr<Remote> remote = std::make_shared<Remote>();

  ~State();  // as Task::release()
};

namespace {

using TaskState = Task::State;

class SinkImpl final : public schema::OutputSink::Server {
 public:
  explicit SinkImpl(std::shared_ptr<Callbacks> callbacks) : callbacks_(std::move(callbacks)) {}

 protected:
  kj::Promise<void> started(StartedContext) override {
    if (callbacks_->on_started) callbacks_->on_started();
    return kj::READY_NOW;
  }
  kj::Promise<void> write(WriteContext context) override {
    if (!callbacks_->on_output) return KJ_EXCEPTION(FAILED, "nobody listens any more");
    auto params = context.getParams();
    callbacks_->on_output(params.getStream() == schema::Stream::STDERR ? Stream::err : Stream::out,
                          edge::view(params.getData()));
    return kj::READY_NOW;
  }

 private:
  std::shared_ptr<Callbacks> callbacks_;
};

class ToolBoxImpl final : public schema::ToolBox::Server {
 public:
  explicit ToolBoxImpl(const std::vector<Tool>& tools) {
    for (const Tool& tool : tools) tools_.emplace(tool.name, tool.call);
  }

 protected:
  kj::Promise<void> call(CallContext context) override {
    auto params = context.getParams();
    const auto tool = tools_.find(edge::str(params.getName()));
    auto answer = tool != tools_.end() && tool->second
                      ? tool->second(edge::view(params.getJson()))
                      : Result<std::string>(fail(Code::notFound, "there is no such tool"));
    if (answer)
      context.getResults().setJson(edge::text(*answer));
    else
      edge::put(context.getResults().initError(), answer.error());
    return kj::READY_NOW;
  }

 private:
  std::map<std::string, std::function<Result<std::string>(std::string_view)>, std::less<>> tools_;
};

// Receives the result, once. No callback is called afterwards.
struct ResultSlot {
  explicit ResultSlot(Callbacks c) : callbacks(std::make_shared<Callbacks>(std::move(c))) {}
  ResultSlot(const ResultSlot&) = delete;
  ~ResultSlot() {
    if (!done) set(fail(Client::Connection::closed("wait")));
  }
  void set(Result<TaskResult> result) {
    done = true;
    if (callbacks->on_result) callbacks->on_result(result);
    *callbacks = {};
    promise.set_value(std::move(result));
  }
  std::promise<Result<TaskResult>> promise;
  std::shared_ptr<Callbacks> callbacks;
  bool done = false;
};

// Refuses a spec that exceeds one message, which would end the connection and all tasks on it; and
// grants that the daemon would ignore.
Status checkSpec(const TaskSpec& spec, const ServerInfo& server) {
  if (!(spec.grants.empty() && spec.tools.empty()) && server.protocol < kGrantsProtocol)
    return fail(Code::failedPrecondition, "the daemon knows no grants and no tools",
                "Update the daemon: it is older than this client.");
  uint64_t bytes = sizeHint(spec).wordCount * sizeof(capnp::word);
  if (bytes <= schema::MESSAGE_BYTES_MAX) return Unit{};
  return fail(Code::invalidArgument,
              "the task with its code, input files and stdin has " + base::humanBytes(bytes) +
                  "; a request holds at most " + base::humanBytes(schema::MESSAGE_BYTES_MAX),
              "Upload large files and name them as blobs, or give large input on standard input.");
}

// Closes the task. This also ends a pending `wait`; releasing the object alone would not.
void closeRemote(Wire& wire, Remote& remote) {
  KJ_IF_MAYBE (task, remote.task) {
    wire.calls.add(task->closeRequest().send().ignoreResult().catch_([](kj::Exception&&) {}));
    remote.task = nullptr;
    remote.grants.clear();
  }
}

// Releases the object. The daemon keeps the task, and this client makes no more calls on it.
void releaseRemote(Remote& remote) {
  remote.task = nullptr;
  remote.grants.clear();
  if (remote.let_go.get() != nullptr) remote.let_go->fulfill();
}

// Ends `waiting` when releaseRemote() is called.
kj::Promise<void> untilLetGo(kj::Promise<void> waiting, Remote& remote,
                             std::shared_ptr<ResultSlot> slot) {
  auto paf = kj::newPromiseAndFulfiller<void>();
  remote.let_go = kj::mv(paf.fulfiller);
  return waiting.exclusiveJoin(
      paf.promise.catch_([](kj::Exception&&) -> kj::Promise<void> { return kj::NEVER_DONE; })
          .then([slot] {
            slot->set(fail(Code::cancelled, "wait: the task was let go of",
                           "Find it again by its id or its key."));
          }));
}

struct Submitted {
  uint64_t id = 0;
  bool existing = false;
  std::vector<schema::Grant::Client> grants;  // in the order of the spec's
};

enum class Deadline : uint8_t { ofSubmit, ofRun };

kj::Promise<void> waitFor(capnp::RemotePromise<schema::Task::WaitResults> waiting,
                          std::shared_ptr<ResultSlot> slot) {
  return waiting.then(
      [slot](auto&& response) {
        auto ended = edge::get(response.getError());
        if (ended)
          slot->set(get(response.getResult()));
        else
          slot->set(fail(ended.error()));
      },
      [slot](kj::Exception&& e) { slot->set(fail(edge::errorOf(e))); });
}

// Sends submit and, without waiting for its answer, wait. `submitted` gets the answer of the first,
// `slot` that of the second. If the deadline passes, the calls and the task are given up.
template <class OnSubmitted>
kj::Promise<void> begin(Wire& wire, const TaskSpec& spec, std::shared_ptr<ResultSlot> slot,
                        Deadline deadline, DeadlineMs deadline_ms, OnSubmitted submitted) {
  auto request = wire.mayfly.submitRequest(sizeHint(spec));
  put(request.initSpec(), spec);
  if (!spec.traceparent.empty()) request.setTraceparent(edge::text(spec.traceparent));
  if (slot->callbacks->on_output) request.setOutput(kj::heap<SinkImpl>(slot->callbacks));
  if (!spec.tools.empty()) request.setToolBox(kj::heap<ToolBoxImpl>(spec.tools));
  auto promise = request.send();
  auto waiting = promise.getTask().waitRequest().send();
  kj::Promise<Status> sent = promise.then(
      [submitted](auto&& response) -> Status {
        auto status = edge::get(response.getError());
        if (status) {
          Submitted got{response.getId(), response.getExisting(), {}};
          for (auto grant : response.getGrants()) got.grants.push_back(kj::mv(grant));
          submitted(Result<Submitted>(std::move(got)),
                    kj::Maybe<schema::Task::Client>(response.getTask()));
        } else
          submitted(Result<Submitted>(fail(status.error())), nullptr);
        return status;
      },
      [submitted](kj::Exception&& e) -> Status {
        auto error = edge::errorOf(e);
        submitted(Result<Submitted>(fail(error)), nullptr);
        return fail(error);
      });
  auto late = [&wire, deadline_ms](const char* what) {
    return wire.timer.afterDelay(deadline_ms.value_or(0) * kj::MILLISECONDS)
        .then([what, deadline_ms] { return Client::Connection::late(what, *deadline_ms); });
  };
  if (deadline_ms && deadline == Deadline::ofSubmit)
    sent = sent.exclusiveJoin(late("submit").then([submitted](Error&& error) -> Status {
      submitted(Result<Submitted>(fail(error)), nullptr);
      return fail(error);
    }));
  kj::Promise<void> done =
      sent.then([slot, waiting = kj::mv(waiting)](Status status) mutable -> kj::Promise<void> {
        if (!status) {
          slot->set(fail(status.error()));
          return kj::READY_NOW;
        }
        return waitFor(kj::mv(waiting), slot);
      });
  if (deadline_ms && deadline == Deadline::ofRun)
    done = done.exclusiveJoin(
        late("run").then([slot](Error&& error) { slot->set(fail(std::move(error))); }));
  return done;
}

Result<Unit> taskClosed(const char* what) {
  return fail(Code::failedPrecondition, std::string(what) + ": the task is closed");
}

// A call on the task's remote object whose answer carries nothing but its error.
template <class Request>
Status simpleCall(TaskState& state, const char* what, DeadlineMs deadline_ms, Request request) {
  return state.connection->call<Unit>(
      what, deadline_ms,
      [what, remote = state.remote,
       request = std::move(request)](Wire&) mutable -> kj::Promise<Result<Unit>> {
        KJ_IF_MAYBE (task, remote->task) {
          return request(*task).then(
              [](auto&& response) -> Result<Unit> { return edge::get(response.getError()); });
        }
        return taskClosed(what);
      });
}

}  // namespace

// --- Client --------------------------------------------------------------------

Client::Client(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}
Client::~Client() = default;

const ServerInfo& Client::server() const { return connection_->server; }

namespace {

// Receives the answer of submit or find, once; an error if the loop ends first.
struct TaskSlot {
  explicit TaskSlot(const char* call = "submit") : what(call) {}
  TaskSlot(const TaskSlot&) = delete;
  ~TaskSlot() {
    if (!done) set(fail(Client::Connection::closed(what)));
  }
  void set(Result<Task> task) {
    if (std::exchange(done, true)) return;
    promise.set_value(std::move(task));
  }
  std::promise<Result<Task>> promise;
  const char* what;
  bool done = false;
};

}  // namespace

std::future<Result<Task>> Client::submitAsync(TaskSpec spec, Callbacks callbacks,
                                              DeadlineMs deadline_ms) {
  auto slot = std::make_shared<ResultSlot>(std::move(callbacks));
  auto answer = std::make_shared<TaskSlot>();
  auto future = answer->promise.get_future();
  if (auto sound = checkSpec(spec, connection_->server); !sound) {
    slot->set(fail(sound.error()));
    answer->set(fail(sound.error()));
    return future;
  }
  auto remote = std::make_shared<Remote>();
  auto submitted = [wire = connection_->wire.get(), answer, remote,
                    detached = spec.detach.has_value(), wishes = spec.grants,
                    result = slot->promise.get_future().share(),
                    weak = std::weak_ptr<Connection>(connection_)](
                       Result<Submitted> got, kj::Maybe<schema::Task::Client> task) {
    if (!got) return answer->set(fail(std::move(got).error()));
    remote->task = kj::mv(task);
    for (size_t i = 0; i < std::min(wishes.size(), got->grants.size()); ++i)
      remote->grants.emplace(wishes[i].name, kj::mv(got->grants[i]));
    auto state = std::make_shared<TaskState>();
    state->connection = weak.lock();
    if (state->connection == nullptr)  // the client is gone
      return detached ? releaseRemote(*remote) : closeRemote(*wire, *remote);
    state->id = got->id;
    state->existing = got->existing;
    state->detached = detached;
    state->result = result;
    state->remote = remote;
    answer->set(Task(std::move(state)));
  };
  // If the job is dropped, the destructors of both slots report it.
  connection_->loop->post([wire = connection_->wire.get(), spec = std::move(spec),
                           slot = std::move(slot), submitted = std::move(submitted),
                           remote = std::move(remote),
                           within_ms = connection_->deadlineMs(deadline_ms)]() mutable {
    auto done =
        mayfly::begin(*wire, spec, slot, Deadline::ofSubmit, within_ms, std::move(submitted));
    if (spec.detach) done = untilLetGo(kj::mv(done), *remote, slot);
    wire->calls.add(kj::mv(done));
  });
  return future;
}

Result<Task> Client::submit(TaskSpec spec, Callbacks callbacks, DeadlineMs deadline_ms) {
  if (connection_->loop->onThread()) return fail(Connection::onOwnThread("submit"));
  return connection_->take(submitAsync(std::move(spec), std::move(callbacks), deadline_ms));
}

std::future<Result<TaskResult>> Client::runAsync(TaskSpec spec, Callbacks callbacks,
                                                 DeadlineMs deadline_ms) {
  auto slot = std::make_shared<ResultSlot>(std::move(callbacks));
  auto future = slot->promise.get_future();
  if (auto sound = checkSpec(spec, connection_->server); !sound) {
    slot->set(fail(sound.error()));
    return future;
  }
  // If the job is dropped, the slot's destructor reports it.
  connection_->loop->post([wire = connection_->wire.get(), spec = std::move(spec),
                           slot = std::move(slot), deadline_ms]() mutable {
    // Nothing keeps the daemon's object: it is released when submit and wait have returned.
    wire->calls.add(mayfly::begin(*wire, spec, std::move(slot), Deadline::ofRun, deadline_ms,
                                  [](Result<Submitted>, kj::Maybe<schema::Task::Client>) {}));
  });
  return future;
}

Result<TaskResult> Client::run(TaskSpec spec, Callbacks callbacks, DeadlineMs deadline_ms) {
  if (connection_->loop->onThread()) return fail(Connection::onOwnThread("run"));
  return connection_->take(runAsync(std::move(spec), std::move(callbacks), deadline_ms));
}

std::future<Result<Task>> Client::findAny(uint64_t id, std::string key, DeadlineMs deadline_ms) {
  auto answer = std::make_shared<TaskSlot>("find");
  auto future = answer->promise.get_future();
  connection_->loop->post([wire = connection_->wire.get(), id, key = std::move(key),
                           within_ms = connection_->deadlineMs(deadline_ms), answer,
                           slot = std::make_shared<ResultSlot>(Callbacks{}),
                           weak = std::weak_ptr<Connection>(connection_)]() mutable {
    auto request = wire->mayfly.findRequest(capnp::MessageSize{key.size() / 8 + 16, 0});
    request.setId(id);
    request.setKey(edge::text(key));
    kj::Promise<void> found = request.send().then(
        [wire, answer, slot, weak](auto&& response) {
          if (auto status = edge::get(response.getError()); !status)
            return answer->set(fail(status.error()));
          auto state = std::make_shared<TaskState>();
          state->connection = weak.lock();
          if (state->connection == nullptr) return;
          state->id = response.getId();
          state->detached = state->existing = true;
          state->remote->task = response.getTask();
          state->result = slot->promise.get_future().share();
          wire->calls.add(untilLetGo(waitFor(response.getTask().waitRequest().send(), slot),
                                     *state->remote, slot));
          answer->set(Task(std::move(state)));
        },
        [answer](kj::Exception&& e) { answer->set(fail(edge::errorOf(e))); });
    wire->calls.add(found.exclusiveJoin(
        wire->timer.afterDelay(within_ms * kj::MILLISECONDS).then([answer, within_ms] {
          answer->set(fail(Connection::late("find", within_ms)));
        })));
  });
  return future;
}

std::future<Result<Task>> Client::findAsync(std::string key, DeadlineMs deadline_ms) {
  if (!key.empty()) return findAny(0, std::move(key), deadline_ms);
  TaskSlot empty;  // an empty key would ask for a task by its id
  auto future = empty.promise.get_future();
  empty.set(fail(Code::invalidArgument, "find: the key is empty"));
  return future;
}

std::future<Result<Task>> Client::findAsync(uint64_t id, DeadlineMs deadline_ms) {
  return findAny(id, {}, deadline_ms);
}

Result<Task> Client::find(std::string key, DeadlineMs deadline_ms) {
  if (connection_->loop->onThread()) return fail(Connection::onOwnThread("find"));
  return connection_->take(findAsync(std::move(key), deadline_ms));
}

Result<Task> Client::find(uint64_t id, DeadlineMs deadline_ms) {
  if (connection_->loop->onThread()) return fail(Connection::onOwnThread("find"));
  return connection_->take(findAsync(id, deadline_ms));
}

Result<std::vector<TemplateInfo>> Client::templates(DeadlineMs deadline_ms) {
  return connection_->call<std::vector<TemplateInfo>>(
      "templates", connection_->deadlineMs(deadline_ms), [](Wire& wire) {
        return wire.mayfly.templatesRequest().send().then(
            [](auto&& response) -> Result<std::vector<TemplateInfo>> {
              MAYFLY_CHECK(edge::get(response.getError()));
              std::vector<TemplateInfo> all;
              for (auto each : response.getTemplates()) all.push_back(get(each));
              return all;
            });
      });
}

Result<std::vector<DetachedTask>> Client::detached(DeadlineMs deadline_ms) {
  return connection_->call<std::vector<DetachedTask>>(
      "detached", connection_->deadlineMs(deadline_ms), [](Wire& wire) {
        return wire.mayfly.detachedRequest().send().then(
            [](auto&& response) -> Result<std::vector<DetachedTask>> {
              MAYFLY_CHECK(edge::get(response.getError()));
              std::vector<DetachedTask> all;
              for (auto each : response.getTasks()) all.push_back(get(each));
              return all;
            });
      });
}

Result<std::vector<TaskInfo>> Client::tasks(DeadlineMs deadline_ms) {
  return connection_->call<std::vector<TaskInfo>>(
      "tasks", connection_->deadlineMs(deadline_ms), [](Wire& wire) {
        return wire.mayfly.tasksRequest().send().then(
            [](auto&& response) -> Result<std::vector<TaskInfo>> {
              MAYFLY_CHECK(edge::get(response.getError()));
              std::vector<TaskInfo> all;
              for (auto each : response.getTasks()) all.push_back(get(each));
              return all;
            });
      });
}

Status Client::kill(uint64_t id, DeadlineMs deadline_ms) {
  return connection_->call<Unit>("kill", connection_->deadlineMs(deadline_ms), [id](Wire& wire) {
    auto request = wire.mayfly.killRequest();
    request.setId(id);
    return request.send().then(
        [](auto&& response) -> Result<Unit> { return edge::get(response.getError()); });
  });
}

// --- Task ----------------------------------------------------------------------

// The job drops the last reference to the remote: KJ's objects end on the loop's thread.
Task::State::~State() {
  if (connection == nullptr) return;
  const bool over = remote->closed.exchange(true);
  connection->loop->post(
      [wire = connection->wire.get(), over, kept = detached, remote = std::move(remote)] {
        if (!over) kept ? releaseRemote(*remote) : closeRemote(*wire, *remote);
      });
}

Task& Task::operator=(Task&& other) noexcept = default;
Task::~Task() = default;

uint64_t Task::id() const { return state_->id; }

bool Task::existing() const { return state_->existing; }

Result<TaskInfo> Task::info(DeadlineMs deadline_ms) {
  return state_->connection->call<TaskInfo>(
      "info", state_->connection->deadlineMs(deadline_ms),
      [remote = state_->remote](Wire&) -> kj::Promise<Result<TaskInfo>> {
        KJ_IF_MAYBE (task, remote->task) {
          return task->infoRequest().send().then([](auto&& response) -> Result<TaskInfo> {
            MAYFLY_CHECK(edge::get(response.getError()));
            return get(response.getInfo());
          });
        }
        return Result<TaskInfo>(fail(taskClosed("info").error()));
      });
}

Status Task::revoke(const std::string& grant, DeadlineMs deadline_ms) {
  return state_->connection->call<Unit>(
      "revoke", state_->connection->deadlineMs(deadline_ms),
      [remote = state_->remote, grant](Wire&) -> kj::Promise<Result<Unit>> {
        if (remote->task == nullptr) return taskClosed("revoke");
        const auto it = remote->grants.find(grant);
        if (it == remote->grants.end())
          return Result<Unit>(
              fail(Code::notFound, "revoke: the task has no grant '" + grant + "'"));
        return it->second.revokeRequest().send().then(
            [](auto&& response) -> Result<Unit> { return edge::get(response.getError()); });
      });
}

Result<TaskResult> Task::wait(DeadlineMs deadline_ms) {
  if (state_->connection->loop->onThread()) return fail(Client::Connection::onOwnThread("wait"));
  if (!state_->connection->loop->await(state_->result, deadline_ms))
    return fail(Client::Connection::late("wait", deadline_ms.value_or(0)));
  return state_->result.get();
}

std::shared_future<Result<TaskResult>> Task::waitAsync() const { return state_->result; }

Status Task::cancel(DeadlineMs deadline_ms) {
  return simpleCall(*state_, "cancel", state_->connection->deadlineMs(deadline_ms),
                    [](schema::Task::Client& remote) { return remote.cancelRequest().send(); });
}

Status Task::writeStdin(std::string_view data, DeadlineMs deadline_ms) {
  Patience patience(deadline_ms);
  while (!data.empty()) {
    std::string piece(data.substr(0, kPieceBytes));
    data.remove_prefix(piece.size());
    MAYFLY_CHECK(simpleCall(*state_, "writeStdin", patience.left_ms(),
                            [piece = std::move(piece)](schema::Task::Client& remote) {
                              auto request = remote.writeStdinRequest(
                                  capnp::MessageSize{piece.size() / sizeof(capnp::word) + 16, 0});
                              request.setData(edge::data(piece));
                              return request.send();
                            }));
  }
  return Unit{};
}

Status Task::closeStdin(DeadlineMs deadline_ms) {
  return simpleCall(*state_, "closeStdin", state_->connection->deadlineMs(deadline_ms),
                    [](schema::Task::Client& remote) { return remote.closeStdinRequest().send(); });
}

Result<std::string> Task::readFile(uint32_t index, uint64_t offset, DeadlineMs deadline_ms) {
  return state_->connection->call<std::string>(
      "readFile", state_->connection->deadlineMs(deadline_ms),
      [remote = state_->remote, index, offset](Wire&) -> kj::Promise<Result<std::string>> {
        KJ_IF_MAYBE (task, remote->task) {
          auto request = task->readFileRequest();
          request.setIndex(index);
          request.setOffset(offset);
          request.setBytesMax(schema::CHUNK_BYTES_MAX);
          return request.send().then([](auto&& response) -> Result<std::string> {
            MAYFLY_CHECK(edge::get(response.getError()));
            return edge::str(response.getData());
          });
        }
        return Result<std::string>(fail(taskClosed("readFile").error()));
      });
}

void Task::close() {
  if (state_ == nullptr || state_->remote->closed.exchange(true)) return;
  state_->connection->loop->post([wire = state_->connection->wire.get(), remote = state_->remote] {
    closeRemote(*wire, *remote);
  });
}

void Task::release() {
  if (state_ == nullptr || !state_->detached) return close();
  if (state_->remote->closed.exchange(true)) return;
  state_->connection->loop->post([remote = state_->remote] { releaseRemote(*remote); });
}

}  // namespace mayfly
