#include "rpc/connection.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "base/text.h"
#include "edge/convert.h"
#include "rpc/calls.h"
#include "rpc/grants.h"
#include "rpc/share_purse.h"
#include "rpc/task_calls.h"
#include "sched/validate.h"

namespace mayfly::rpc {

using base::Code;
using base::Error;
using base::Status;

namespace {

constexpr uint32_t kTasksListedMax = 10'000;
constexpr size_t kClientNameBytesMax = 100;
constexpr uint32_t kRefusedAnswersMax = 64;
constexpr size_t kUnsentOverheadBytes = 2'048;    // of an answer's objects, beside its words
constexpr auto kLastWordsTime = 1 * kj::SECONDS;  // to send queued answers after the last read

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
    put(list[i], all[i],
        all[i].owner == asks.id || asks.hub.users.owns(asks.account, all[i].owner));
}

void putBounds(schema::Bounds::Builder out, const Options& options,
               const sched::AccountBounds& accounts) {
  using sched::Resource;
  auto pool = [&](Resource resource) { return accounts.of(resource).pool_max; };
  auto user = [&](Resource resource) { return accounts.of(resource).user_max; };
  out.setConnectionsMax(static_cast<uint32_t>(pool(Resource::connections)));
  out.setTasksPerConnectionMax(options.tasks_per_connection_max);
  out.setTasksMax(static_cast<uint32_t>(pool(Resource::openTasks)));
  out.setCallsPerConnectionMax(options.calls_per_connection_max);
  out.setMessageBytesMax(static_cast<uint32_t>(edge::kMessageBytesMax));
  out.setInFlightBytesPerConnectionMax(options.in_flight_bytes_per_connection_max);
  out.setMessageMsMax(options.message_ms_max);
  out.setInFlightBytesMax(pool(Resource::requestBytes));
  out.setOutputHeldBytesMax(pool(Resource::outputBytes));
  out.setOutFilesHeldBytesMax(pool(Resource::outFileBytes));
  out.setHandlesPerConnectionMax(options.handles_per_connection_max);
  out.setDetachedPerUserMax(static_cast<uint32_t>(user(Resource::detachedTasks)));
  out.setDetachLeaseMsMax(options.detach_lease_ms_max);
  out.setResultLeaseMs(options.result_lease_ms);
  out.setConnectionIdleMs(options.connection_idle_ms);
  out.setBlobBytesMax(user(Resource::blobBytes));
  out.setBlobStoreBytesMax(pool(Resource::blobBytes));
  out.setBlobsPerUserMax(static_cast<uint32_t>(user(Resource::blobs)));
  out.setBlobTtlMs(static_cast<uint32_t>(options.blob_ttl_ms));
  out.setUploadsPerConnectionMax(options.uploads_per_connection_max);
  out.setUploadIdleMs(options.upload_idle_ms);
  auto shares = out.initAccounts(sched::kResources);
  for (unsigned i = 0; i < sched::kResources; ++i) {
    const auto resource = static_cast<Resource>(i);
    const sched::ShareBounds& bounds = accounts.of(resource);
    shares[i].setResource(edge::text(std::string(sched::name(resource))));
    shares[i].setAllMax(bounds.pool_max);
    shares[i].setUserMax(bounds.user_max);
    shares[i].setUserOwn(bounds.user_own);
    shares[i].setTenantMax(bounds.tenant_max);
  }
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
    putBounds(info.initBounds(), hub_.options, hub_.accounts.bounds());
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
          auto known = hub_.users.known(state_->account, key, hash);
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
    auto task = hub_.users.find(state_->account, params.getId(), edge::str(params.getKey()));
    if (!task) return refuse(context, task.error());
    auto results = resultsOf(context, 0, 1);
    results.setId((*task)->id());
    results.setTask(makeTaskCalls(kj::addRef(*state_), kj::mv(*task), OnRelease::keep));
    return kj::READY_NOW;
  }

  kj::Promise<void> detached(DetachedContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    MAYFLY_ALLOW_CANCELLATION(context);
    return inTurn(*state_, [state = kj::addRef(*state_), context, call = Call(*state_)]() mutable {
      state->hub.users.list(state->account, context.getResults());
      return kj::Promise<void>(kj::READY_NOW);
    });
  }

  kj::Promise<void> tasks(TasksContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    MAYFLY_ALLOW_CANCELLATION(context);
    return inTurn(*state_, [state = kj::addRef(*state_), context, call = Call(*state_)]() mutable {
      putTasks(context.getResults(), state->hub.core.tasks(state->account), *state);
      return kj::Promise<void>(kj::READY_NOW);
    });
  }

  kj::Promise<void> kill(KillContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    answer(context,
           hub_.core.cancel(context.getParams().getId(), state_->account, sched::Cancel::soft));
    return kj::READY_NOW;
  }

  kj::Promise<void> upload(UploadContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    if (auto error = tooManyHandles(*state_)) return refuse(context, *error);
    auto params = context.getParams();
    return hub_.blobs.begin(kj::addRef(*state_), params.getSha256(), params.getSizeBytes())
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
      hub_.blobs.list(state_->account, context.getResults());
      return kj::Promise<void>(kj::READY_NOW);
    });
  }

  kj::Promise<void> removeBlob(RemoveBlobContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    answer(context, hub_.blobs.remove(state_->account, context.getParams().getSha256()));
    return kj::READY_NOW;
  }

 private:
  std::optional<Error> unfit() const { return refusal_ ? refusal_ : overloaded(*state_); }

  // `hash` is used only if the spec has a key.
  kj::Promise<void> submitNew(SubmitContext& context, const SpecHash& hash) {
    auto params = context.getParams();
    auto detach = params.getSpec().getDetach();
    const bool detached = detach.getLeaseMs() > 0;
    if (!detached && detach.getKey().size() > 0)
      return refuse(context, Error{Code::invalidArgument, "detach: a key without a lease",
                                   "Set detach.leaseMs.", 0});
    if (!detached && state_->tasks >= hub_.options.tasks_per_connection_max)
      return refuse(context,
                    Error{Code::resourceExhausted,
                          fmt::format("{} tasks of this connection are not closed", state_->tasks),
                          "Close tasks whose results were read.", 0});
    if (auto error = tooManyHandles(*state_)) return refuse(context, *error);
    auto trace = sched::checkTrace(edge::view(params.getTraceparent()));
    if (!trace) return refuse(context, trace.error());
    // Shares are taken first: the spec of a refused task is not copied.
    auto account =
        hub_.accounts.openTenant(state_->account, edge::view(params.getSpec().getTenant()));
    if (!account) return refuse(context, account.error());
    auto shares =
        TaskShares::take(hub_.accounts, *account,
                         params.hasOutput() ? kLiveHeldBytes : kCapturedHeldBytes, detached);
    if (!shares) return refuse(context, shares.error());
    auto wish = sessionFrom(hub_, *account, params);
    if (!wish) return refuse(context, wish.error());
    if (wish->spec.empty())
      return giveToCore(context, hash, *account, std::move(*shares), nullptr, nullptr);
    wish->spec.trace = std::move(*trace);
    // The vault checks the grants before the spec is copied; the request is held meanwhile.
    return openSession(hub_, std::move(wish->spec))
        .then([this, context, hash, account = *account, shares = std::move(*shares),
               tools = std::move(wish->tools),
               call = Call(*state_)](base::Result<SessionPtr> session) mutable {
          if (!session) return refuse(context, session.error());
          if (state_->ended)
            return refuse(context, Error{Code::cancelled, "the client is gone", {}, 0});
          // Meanwhile another call may have submitted the same key.
          auto detach_now = context.getParams().getSpec().getDetach();
          if (detach_now.getLeaseMs() > 0 && detach_now.getKey().size() > 0) {
            auto known = hub_.users.known(state_->account, edge::str(detach_now.getKey()), hash);
            if (!known) return refuse(context, known.error());
            if (*known) {
              answerSubmit(context, kj::mv((*known)->task), OnRelease::keep, true);
              return kj::Promise<void>(kj::READY_NOW);
            }
          }
          return giveToCore(context, hash, account, std::move(shares), std::move(*session),
                            std::move(tools));
        });
  }

  // The last part of a submission: copies the spec and submits it.
  kj::Promise<void> giveToCore(SubmitContext& context, const SpecHash& hash,
                               const sched::AccountRef& account, TaskShares shares,
                               SessionPtr session, std::shared_ptr<TaskTools> tools) {
    auto params = context.getParams();
    auto detach = params.getSpec().getDetach();
    auto spec = specFrom(params.getSpec(), [this](const edge::Sha256& blob) {
      return hub_.blobs.use(state_->account, blob);
    });
    if (!spec) return refuse(context, spec.error());
    spec->live_output = params.hasOutput();
    spec->account = account;
    spec->trace = sched::checkTrace(edge::view(params.getTraceparent())).value_or("");
    spec->session = std::move(session);
    if (detach.getLeaseMs() > 0) {
      auto found =
          hub_.users.submit(state_->account, detach, hash, std::move(shares), std::move(*spec));
      context.releaseParams();
      if (!found) return refuse(context, found.error());
      answerSubmit(context, kj::mv(found->task), OnRelease::keep, found->existing);
      return kj::READY_NOW;
    }
    kj::Maybe<schema::OutputSink::Client> sink;
    if (params.hasOutput()) sink = params.getOutput();
    context.releaseParams();
    auto task = kj::refcounted<TaskState>(kj::addRef(*state_), std::move(shares), kj::mv(sink),
                                          hub_.options.result_lease_ms * kj::MILLISECONDS);
    task->setTools(std::move(tools));
    if (auto submitted = task->submit(std::move(*spec)); !submitted)
      return refuse(context, submitted.error());
    answerSubmit(context, kj::mv(task), OnRelease::close, false);
    return kj::READY_NOW;
  }

  void answerSubmit(SubmitContext& context, kj::Own<TaskState> task, OnRelease on_release,
                    bool existing) {
    const auto grants = static_cast<unsigned>(task->grants().size());
    auto results = resultsOf(context, grants * sizeof(capnp::word), 1 + grants);
    results.setId(task->id());
    results.setExisting(existing);
    putGrants(results, *state_, *task);
    results.setTask(makeTaskCalls(kj::addRef(*state_), kj::mv(task), on_release));
  }

  Hub& hub_;
  kj::Own<ConnectionState> state_;
  std::optional<Error> refusal_;
};

}  // namespace

Connection::Connection(Hub& hub, kj::Own<kj::AsyncIoStream> stream, sched::Share admitted,
                       std::optional<base::Error> refusal)
    : admitted_(std::move(admitted)),
      state_(kj::refcounted<ConnectionState>(hub, hub.next_owner++, admitted_.whose())),
      stream_(kj::mv(stream)),
      peer_(admitted_ ? hub.options.answers_per_connection_max : kRefusedAnswersMax,
            hub.accounts.charge(state_->account, sched::Resource::answers, 0), hub.observer),
      memory_(hub.requests.open(purse(sched::Resource::requestBytes))),
      messages_(*stream_),
      network_(messages_, capnp::rpc::twoparty::Side::SERVER, edge::readerOptions()),
      rpc_(capnp::makeRpcServer(network_,
                                kj::heap<MayflyImpl>(kj::addRef(*state_), std::move(refusal)))) {
  KJ_IF_MAYBE (fd, stream_->getFd()) state_->socket = *fd;
  messages_.pauseWhile({[this] { return unsentBytes(); },
                        hub.options.unsent_bytes_per_connection_max, hub.options.own_bytes,
                        purse(sched::Resource::unsentBytes)});
  messages_.guard(
      {hub.timer, hub.options.message_ms_max * kj::MILLISECONDS, kj::addRef(*memory_),
       [this](capnp::MessageReader& message, size_t bytes) { peer_.inspect(message, bytes); },
       [this](capnp::MessageReader& message, size_t bytes) { peer_.sent(message, bytes); },
       [this] { return peer_.farewell(); }});
  state_->room = [this] { return messages_.whenRoom(); };
}

kj::Own<edge::Purse> Connection::purse(sched::Resource resource) {
  return kj::heap<SharePurse>(state_->hub.accounts, state_->account, resource);
}

Connection::~Connection() noexcept(false) {
  state_->ended = true;
  state_->room = nullptr;
  if (admitted_) state_->hub.core.ownerGone(state_->id);
}

kj::Promise<void> Connection::onEnd() {
  // After a refused message the RPC system still sends the reason, as far as the client reads it.
  auto read_end = messages_.onReadEnd().then(
      [&timer = state_->hub.timer] { return timer.afterDelay(kLastWordsTime); });
  // Notices a client that hung up even while reading from it is paused. The messages that it had
  // sent still get kLastWordsTime to be read.
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

bool Connection::isServed(kj::Duration quiet) {
  if (state_->undelivered > 0 || state_->calls > 0 || network_.getCurrentQueueCount() > 0)
    return false;
  return state_->handles == 0 || messages_.lastActivity() + quiet <= state_->hub.timer.now();
}

size_t Connection::unsentBytes() {
  return network_.getCurrentQueueSize() + kUnsentOverheadBytes * network_.getCurrentQueueCount();
}

kj::Promise<void> Connection::onIdle() {
  auto idle = state_->hub.options.connection_idle_ms * kj::MILLISECONDS;
  kj::TimePoint now = state_->hub.timer.now();
  // An unreturned call counts as activity, unless it waits for the client to read answers.
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
