#include "rpc/connection.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "base/text.h"
#include "edge/convert.h"
#include "rpc/calls.h"
#include "rpc/task_calls.h"

namespace mayfly::rpc {

using base::Code;
using base::Error;
using base::Status;

namespace {

constexpr uint32_t kTasksListedMax = 10'000;
constexpr size_t kClientNameBytesMax = 100;
constexpr size_t kUnsentOverheadBytes = 2'048;    // of an answer, beside its words: its objects
constexpr auto kLastWordsTime = 1 * kj::SECONDS;  // to send what is queued when reading has ended

void putTemplates(schema::Mayfly::TemplatesResults::Builder out,
                  const std::vector<sched::TemplateInfo>& all) {
  auto list = out.initTemplates(static_cast<unsigned>(all.size()));
  for (unsigned i = 0; i < all.size(); ++i) {
    list[i].setName(edge::text(all[i].name));
    list[i].setDescription(edge::text(all[i].description));
    list[i].setMechanism(edge::text(all[i].mechanism));
    list[i].setState(edge::text(all[i].state));
    list[i].setStateText(edge::text(all[i].state_text));
    list[i].setImageDigest(edge::text(all[i].image_digest));
    edge::put(list[i].initDefaults(), all[i].defaults);
    edge::put(list[i].initMaximum(), all[i].maximum);
    list[i].setBoxes(all[i].boxes);
    const base::PoolState& pool = all[i].pool;
    list[i].setParked(pool.parked);
    list[i].setParkedTarget(pool.parked_target);
    list[i].setStocked(pool.stocked);
    list[i].setStockedTarget(pool.stocked_target);
    list[i].setMaking(pool.making);
    list[i].setWaiting(pool.waiting);
    list[i].setZygotes(pool.zygotes);
    list[i].setRenewals(pool.renewals);
    list[i].setHits(pool.hits);
    list[i].setMisses(pool.misses);
  }
}

void putTasks(schema::Mayfly::TasksResults::Builder out, const std::vector<sched::TaskInfo>& all,
              const ConnectionState& asks) {
  auto count = std::min<size_t>(all.size(), kTasksListedMax);
  auto list = out.initTasks(static_cast<unsigned>(count));
  for (unsigned i = 0; i < count; ++i)
    put(list[i], all[i], all[i].owner == asks.id || asks.hub.users.owns(asks.uid, all[i].owner));
}

void putBounds(schema::Bounds::Builder out, const Options& options) {
  out.setConnectionsMax(options.connections_max);
  out.setTasksPerConnectionMax(options.tasks_per_connection_max);
  out.setTasksMax(options.tasks_max);
  out.setCallsPerConnectionMax(options.calls_per_connection_max);
  out.setMessageBytesMax(static_cast<uint32_t>(edge::kMessageBytesMax));
  out.setInFlightBytesPerConnectionMax(options.in_flight_bytes_per_connection_max);
  out.setMessageMsMax(options.message_ms_max);
  out.setInFlightBytesMax(options.in_flight_bytes_max);
  out.setOutputHeldBytesMax(options.output_held_bytes_max);
  out.setOutFilesHeldBytesMax(options.out_files_held_bytes_max);
  out.setHandlesPerConnectionMax(options.handles_per_connection_max);
  out.setDetachedPerUserMax(options.detached_per_user_max);
  out.setDetachLeaseMsMax(options.detach_lease_ms_max);
  out.setResultLeaseMs(options.result_lease_ms);
  out.setConnectionIdleMs(options.connection_idle_ms);
}

void putBlobBounds(schema::Bounds::Builder out, const Options& options) {
  out.setBlobBytesMax(std::min(options.blobs.user_bytes_max, options.blobs.store_bytes_max));
  out.setBlobStoreBytesMax(options.blobs.store_bytes_max);
  out.setBlobsPerUserMax(options.blobs.user_blobs_max);
  out.setBlobTtlMs(static_cast<uint32_t>(options.blobs.ttl_ms));
  out.setUploadsPerConnectionMax(options.uploads_per_connection_max);
  out.setUploadIdleMs(options.upload_idle_ms);
}

class MayflyImpl final : public schema::Mayfly::Server {
 public:
  MayflyImpl(kj::Own<ConnectionState> state, std::optional<Error> refusal)
      : hub_(state->hub), state_(kj::mv(state)), refusal_(std::move(refusal)) {}

 protected:
  kj::Promise<void> hello(HelloContext context) override {
    if (refusal_) return refuse(context, *refusal_);
    uint16_t protocol = context.getParams().getProtocol();
    std::string client =
        base::printable(edge::view(context.getParams().getClient()), kClientNameBytesMax);
    auto info = context.getResults().initInfo();
    info.setVersion(edge::text(hub_.options.version));
    info.setProtocol(schema::PROTOCOL_VERSION);
    info.setInstance(edge::text(hub_.options.instance));
    auto bounds = info.initBounds();
    putBounds(bounds, hub_.options);
    putBlobBounds(bounds, hub_.options);
    if (protocol == 0 || protocol > schema::PROTOCOL_VERSION)
      return refuse(context, Error{Code::failedPrecondition,
                                   fmt::format("client '{}' speaks protocol {}; this daemon ({}) "
                                               "speaks 1 to {}",
                                               client, protocol, hub_.options.version,
                                               schema::PROTOCOL_VERSION),
                                   "Update the older of daemon and client.", 0});
    spdlog::debug("rpc: connection {} is client '{}', protocol {}", state_->id, client, protocol);
    return kj::READY_NOW;
  }

  kj::Promise<void> templates(TemplatesContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    MAYFLY_ALLOW_CANCELLATION(context);
    return inTurn(*state_, [&hub = hub_, context, call = Call(*state_)]() mutable {
      putTemplates(context.getResults(), hub.core.templates());
      return kj::Promise<void>(kj::READY_NOW);
    });
  }

  kj::Promise<void> submit(SubmitContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    auto detach = context.getParams().getSpec().getDetach();
    if (detach.getLeaseMs() == 0 || detach.getKey().size() == 0) return submitNew(context, {});
    if (auto error = tooManyHandles(*state_)) return refuse(context, *error);
    return hashOf(context.getParams().getSpec())
        .then([this, context, call = Call(*state_)](SpecHash hash) mutable {
          auto key = edge::str(context.getParams().getSpec().getDetach().getKey());
          auto known = hub_.users.known(state_->uid, key, hash);
          if (!known) return refuse(context, known.error());
          if (!*known) return submitNew(context, hash);
          context.releaseParams();
          answerSubmit(context, kj::mv((*known)->task), OnRelease::keep, true);
          return kj::Promise<void>(kj::READY_NOW);
        });
  }

  kj::Promise<void> find(FindContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    if (auto error = tooManyHandles(*state_)) return refuse(context, *error);
    auto params = context.getParams();
    auto task = hub_.users.find(state_->uid, params.getId(), edge::str(params.getKey()));
    if (!task) return refuse(context, task.error());
    auto results = resultsOf(context, 0, 1);
    results.setId((*task)->id());
    results.setTask(makeTaskCalls(kj::addRef(*state_), kj::mv(*task), OnRelease::keep));
    return kj::READY_NOW;
  }

  kj::Promise<void> tasks(TasksContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    MAYFLY_ALLOW_CANCELLATION(context);
    return inTurn(*state_, [state = kj::addRef(*state_), context, call = Call(*state_)]() mutable {
      putTasks(context.getResults(), state->hub.core.tasks(), *state);
      return kj::Promise<void>(kj::READY_NOW);
    });
  }

  kj::Promise<void> kill(KillContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    answer(context, hub_.core.cancel(context.getParams().getId()));
    return kj::READY_NOW;
  }

  kj::Promise<void> upload(UploadContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    if (auto error = tooManyHandles(*state_)) return refuse(context, *error);
    auto params = context.getParams();
    return hub_.blobs
        .begin(kj::addRef(*state_), state_->uid, params.getSha256(), params.getSizeBytes())
        .then([context, call = Call(*state_)](base::Result<Blobs::Begun> begun) mutable {
          if (!begun) {
            refuse(context, begun.error());
            return;
          }
          auto results = resultsOf(context, 0, 1);
          results.setKnown(begun->known);
          KJ_IF_MAYBE (upload, begun->upload) results.setUpload(kj::mv(*upload));
        });
  }

  kj::Promise<void> blobs(BlobsContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    MAYFLY_ALLOW_CANCELLATION(context);
    return inTurn(*state_, [this, context, call = Call(*state_)]() mutable {
      hub_.blobs.list(state_->uid, context.getResults());
      return kj::Promise<void>(kj::READY_NOW);
    });
  }

  kj::Promise<void> removeBlob(RemoveBlobContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    answer(context, hub_.blobs.remove(state_->uid, context.getParams().getSha256()));
    return kj::READY_NOW;
  }

 private:
  std::optional<Error> unfit() const { return refusal_ ? refusal_ : overloaded(*state_); }

  static Error tooMany(const char* what, size_t count, uint32_t retry_after_ms = 0) {
    return Error{Code::resourceExhausted, fmt::format("{} {} are not closed", count, what),
                 "Close tasks whose results were read.", 0, retry_after_ms};
  }
  // Why no task can be taken on.
  std::optional<Error> full(bool detached) const {
    const Options& options = hub_.options;
    if (!detached && state_->tasks < kOwnTasksMax) return tooManyHandles(*state_);
    if (hub_.tasks.count >= options.tasks_max)
      return tooMany("tasks of all connections", hub_.tasks.count, kRetryMs);
    if (hub_.tasks.bytes >= options.output_held_bytes_max)
      return Error{Code::resourceExhausted,
                   fmt::format("tasks that are not closed hold {} of output, or may come to",
                               base::humanBytes(hub_.tasks.bytes)),
                   "Close tasks whose results were read, or try later.", 0, kRetryMs};
    return tooManyHandles(*state_);
  }

  // `hash` is compared where the spec has a key only.
  kj::Promise<void> submitNew(SubmitContext& context, const SpecHash& hash) {
    auto params = context.getParams();
    auto detach = params.getSpec().getDetach();
    if (auto error = full(detach.getLeaseMs() > 0)) return refuse(context, *error);
    auto spec = specFrom(params.getSpec(), [this](const edge::Sha256& blob) {
      return hub_.blobs.use(state_->uid, blob);
    });
    if (!spec) return refuse(context, spec.error());
    spec->live_output = params.hasOutput();
    spec->user = state_->uid;
    if (detach.getLeaseMs() > 0) {
      auto found = hub_.users.submit(state_->uid, detach, hash, std::move(*spec));
      context.releaseParams();
      if (!found) return refuse(context, found.error());
      answerSubmit(context, kj::mv(found->task), OnRelease::keep, found->existing);
      return kj::READY_NOW;
    }
    if (detach.getKey().size() > 0)
      return refuse(context, Error{Code::invalidArgument, "detach: a key without a lease",
                                   "Set detach.leaseMs.", 0});
    if (state_->tasks >= hub_.options.tasks_per_connection_max)
      return refuse(context, tooMany("tasks of this connection", state_->tasks));
    kj::Maybe<schema::OutputSink::Client> sink;
    if (params.hasOutput()) sink = params.getOutput();
    context.releaseParams();
    auto task = kj::refcounted<TaskState>(kj::addRef(*state_), kj::mv(sink),
                                          hub_.options.result_lease_ms * kj::MILLISECONDS);
    if (auto submitted = task->submit(std::move(*spec)); !submitted)
      return refuse(context, submitted.error());
    answerSubmit(context, kj::mv(task), OnRelease::close, false);
    return kj::READY_NOW;
  }

  void answerSubmit(SubmitContext& context, kj::Own<TaskState> task, OnRelease on_release,
                    bool existing) {
    auto results = resultsOf(context, 0, 1);
    results.setId(task->id());
    results.setExisting(existing);
    results.setTask(makeTaskCalls(kj::addRef(*state_), kj::mv(task), on_release));
  }

  Hub& hub_;
  kj::Own<ConnectionState> state_;
  std::optional<Error> refusal_;
};

}  // namespace

Connection::Connection(Hub& hub, kj::Own<kj::AsyncIoStream> stream, uint32_t uid,
                       std::optional<Error> refusal)
    : state_(kj::refcounted<ConnectionState>(hub, hub.next_owner++, uid)),
      refused_(refusal.has_value()),
      stream_(kj::mv(stream)),
      peer_(hub.answers),
      memory_(hub.requests.open()),
      messages_(*stream_),
      network_(messages_, capnp::rpc::twoparty::Side::SERVER, edge::readerOptions()),
      rpc_(capnp::makeRpcServer(network_,
                                kj::heap<MayflyImpl>(kj::addRef(*state_), std::move(refusal)))) {
  KJ_IF_MAYBE (fd, stream_->getFd()) state_->socket = *fd;
  messages_.pauseWhile([this] { return unsentBytes(); },
                       hub.options.unsent_bytes_per_connection_max, hub.answers_unread);
  messages_.guard({hub.timer, hub.options.message_ms_max * kj::MILLISECONDS, kj::addRef(*memory_),
                   [this](capnp::MessageReader& message) { peer_.inspect(message); },
                   [this](capnp::MessageReader& message) { peer_.sent(message); },
                   [this] { return peer_.farewell(); }});
  state_->room = [this] { return messages_.whenRoom(); };
}

Connection::~Connection() noexcept(false) {
  state_->ended = true;
  state_->room = nullptr;
  if (!refused_) state_->hub.core.ownerGone(state_->id);
}

kj::Promise<void> Connection::onEnd() {
  // After a refused message the RPC system still says why, as far as the client reads.
  auto read_end = messages_.onReadEnd().then(
      [&timer = state_->hub.timer] { return timer.afterDelay(kLastWordsTime); });
  // Whoever is gone is noticed also while nothing more is read of it; what it sent is read first.
  auto left = stream_->whenWriteDisconnected()
                  .then([this] { return state_->hub.timer.afterDelay(kLastWordsTime); })
                  .then([this]() -> kj::Promise<void> {
                    if (messages_.saysFarewell()) return messages_.onReadEnd();
                    return kj::READY_NOW;
                  });
  auto stuck = memory_->onStuck().then([this] {
    spdlog::warn(
        "rpc: connection {} ends: it keeps {} of requests from the others, and none of "
        "its calls goes on",
        state_->id, base::humanBytes(memory_->heldBytes()));
  });
  return network_.onDisconnect()
      .exclusiveJoin(kj::mv(read_end))
      .exclusiveJoin(kj::mv(left))
      .exclusiveJoin(kj::mv(stuck))
      .exclusiveJoin(onIdle());
}

size_t Connection::unsentBytes() {
  return network_.getCurrentQueueSize() + kUnsentOverheadBytes * network_.getCurrentQueueCount();
}

kj::Promise<void> Connection::onIdle() {
  auto idle = state_->hub.options.connection_idle_ms * kj::MILLISECONDS;
  kj::TimePoint now = state_->hub.timer.now();
  // A call that waits is something that happens, unless it waits for the client to read.
  bool busy = state_->tasks > 0 || (state_->calls > 0 && network_.getCurrentQueueCount() == 0);
  kj::TimePoint end = (busy ? now : messages_.lastActivity()) + idle;
  if (end <= now) {
    spdlog::info("rpc: connection {} ends: nothing happened on it for {} ms", state_->id,
                 state_->hub.options.connection_idle_ms);
    return kj::READY_NOW;
  }
  return state_->hub.timer.atTime(end).then([this] { return onIdle(); });
}

}  // namespace mayfly::rpc
