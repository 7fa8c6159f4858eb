#include "rpc/connection.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "base/clock.h"
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
  }
}

void putTasks(schema::Mayfly::TasksResults::Builder out, const std::vector<sched::TaskInfo>& all,
              sched::OwnerId owner) {
  auto count = std::min<size_t>(all.size(), kTasksListedMax);
  auto list = out.initTasks(static_cast<unsigned>(count));
  uint64_t now_ns = base::monotonicNs();
  for (unsigned i = 0; i < count; ++i) {
    list[i].setId(all[i].task);
    list[i].setTemplate(edge::text(all[i].template_name));
    list[i].setState(edge::text(all[i].state));
    list[i].setQueuedNs(all[i].queued_ns);
    list[i].setStartedNs(all[i].started_ns);
    list[i].setNowNs(now_ns);
    list[i].setPidHost(all[i].pid_host);
    list[i].setYours(all[i].owner == owner);
  }
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
  MayflyImpl(Hub& hub, kj::Own<ConnectionState> state, std::optional<Error> refusal)
      : hub_(hub), state_(kj::mv(state)), refusal_(std::move(refusal)) {}

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
    bounds.setConnectionsMax(hub_.options.connections_max);
    bounds.setTasksPerConnectionMax(hub_.options.tasks_per_connection_max);
    bounds.setTasksMax(hub_.options.tasks_max);
    bounds.setCallsPerConnectionMax(hub_.options.calls_per_connection_max);
    bounds.setMessageBytesMax(static_cast<uint32_t>(edge::kMessageBytesMax));
    putBlobBounds(bounds, hub_.options);
    if (protocol == 0 || protocol > schema::PROTOCOL_VERSION)
      return refuse(context, Error{Code::failedPrecondition,
                                   fmt::format("client '{}' speaks protocol {}; this daemon ({}) "
                                               "speaks 1 to {}",
                                               client, protocol, hub_.options.version,
                                               schema::PROTOCOL_VERSION),
                                   "Update the older of daemon and client.", 0});
    spdlog::debug("rpc: connection {} is client '{}', protocol {}", state_->owner, client, protocol);
    return kj::READY_NOW;
  }

  kj::Promise<void> templates(TemplatesContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    return inTurn(*state_, [&hub = hub_, context, call = Call(*state_)]() mutable {
      return ask<std::vector<sched::TemplateInfo>>(
                 hub.link, [](sched::Core& core) { return core.templates(); })
          .then([context, call = kj::mv(call)](std::vector<sched::TemplateInfo> all) mutable {
            putTemplates(context.getResults(), all);
          });
    });
  }

  kj::Promise<void> submit(SubmitContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    const Options& options = hub_.options;
    if (state_->tasks >= options.tasks_per_connection_max)
      return refuse(context, tooManyTasks("this connection", state_->tasks));
    if (hub_.tasks.by_key.size() >= options.tasks_max)
      return refuse(context, tooManyTasks("all connections", hub_.tasks.by_key.size()));
    auto params = context.getParams();
    auto spec = specFrom(params.getSpec(), [this](const edge::Sha256& hash) {
      return hub_.blobs->use(state_->uid, hash);
    });
    if (!spec) return refuse(context, spec.error());
    kj::Maybe<schema::OutputSink::Client> sink;
    if (params.hasOutput()) sink = params.getOutput();
    spec->live_output = params.hasOutput();
    context.releaseParams();
    auto task = kj::refcounted<TaskState>(kj::addRef(*state_), kj::mv(sink));
    auto submitted = task->submit(std::move(*spec));
    return submitted.then([this, context, task = kj::mv(task),
                           call = Call(*state_)](base::Result<base::TaskId> id) mutable {
      if (!id) {
        edge::put(context.getResults().initError(), id.error());
        return;
      }
      context.getResults().setId(*id);
      context.getResults().setTask(makeTaskCalls(hub_, kj::addRef(*state_), kj::mv(task)));
    });
  }

  kj::Promise<void> tasks(TasksContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    return inTurn(*state_, [&hub = hub_, owner = state_->owner, context,
                            call = Call(*state_)]() mutable {
      return ask<std::vector<sched::TaskInfo>>(hub.link,
                                               [](sched::Core& core) { return core.tasks(); })
          .then([context, owner, call = kj::mv(call)](std::vector<sched::TaskInfo> all) mutable {
            putTasks(context.getResults(), all, owner);
          });
    });
  }

  kj::Promise<void> kill(KillContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    base::TaskId id = context.getParams().getId();
    return ask<Status>(hub_.link, [id](sched::Core& core) { return core.cancel(id); })
        .then([context, call = Call(*state_)](Status status) mutable { answer(context, status); });
  }

  kj::Promise<void> upload(UploadContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    auto params = context.getParams();
    return hub_.blobs
        ->begin(kj::addRef(*state_), state_->uid, params.getSha256(), params.getSizeBytes())
        .then([context, call = Call(*state_)](base::Result<Blobs::Begun> begun) mutable {
          if (!begun) {
            edge::put(context.getResults().initError(), begun.error());
            return;
          }
          context.getResults().setKnown(begun->known);
          KJ_IF_MAYBE (upload, begun->upload) context.getResults().setUpload(kj::mv(*upload));
        });
  }

  kj::Promise<void> blobs(BlobsContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    return inTurn(*state_, [this, context, call = Call(*state_)]() mutable {
      hub_.blobs->list(state_->uid, context.getResults());
      return kj::Promise<void>(kj::READY_NOW);
    });
  }

  kj::Promise<void> removeBlob(RemoveBlobContext context) override {
    if (auto error = unfit()) return refuse(context, *error);
    answer(context, hub_.blobs->remove(state_->uid, context.getParams().getSha256()));
    return kj::READY_NOW;
  }

 private:
  std::optional<Error> unfit() const {
    return refusal_ ? refusal_ : overloaded(*state_, hub_.options);
  }
  static Error tooManyTasks(const char* whose, size_t count) {
    return Error{Code::resourceExhausted, fmt::format("{} tasks of {} are not closed", count, whose),
                 "Close tasks whose results were read.", 0};
  }

  Hub& hub_;
  kj::Own<ConnectionState> state_;
  std::optional<Error> refusal_;
};

}  // namespace

Connection::Connection(Hub& hub, kj::Own<kj::AsyncIoStream> stream, sched::OwnerId owner, uid_t uid,
                       std::optional<Error> refusal)
    : state_(kj::refcounted<ConnectionState>(hub.link, hub.tasks, owner, uid)),
      refused_(refusal.has_value()),
      stream_(kj::mv(stream)),
      messages_(*stream_),
      network_(messages_, capnp::rpc::twoparty::Side::SERVER, edge::readerOptions()),
      rpc_(capnp::makeRpcServer(
          network_, kj::heap<MayflyImpl>(hub, kj::addRef(*state_), std::move(refusal)))) {
  KJ_IF_MAYBE (fd, stream_->getFd()) state_->socket = *fd;
  messages_.pauseWhile([this] { return network_.getCurrentQueueSize(); },
                       hub.options.unsent_bytes_per_connection_max);
  state_->room = [this] { return messages_.whenRoom(); };
  // Calls that have not returned hold their message; two of the largest may.
  rpc_.setFlowLimit(2 * edge::kMessageBytesMax / sizeof(capnp::word));
}

Connection::~Connection() noexcept(false) {
  state_->ended = true;
  state_->room = nullptr;
  if (!refused_)
    toCore(state_->link, [owner = state_->owner](sched::Core& core) { core.ownerGone(owner); });
}

kj::Promise<void> Connection::onEnd(kj::Timer& timer) {
  // After a refused message the RPC system still says why, as far as the client reads.
  auto read_end = messages_.onReadEnd().then([&timer] { return timer.afterDelay(kLastWordsTime); });
  return network_.onDisconnect().exclusiveJoin(kj::mv(read_end));
}

}  // namespace mayfly::rpc
