#include "vault/flow.h"

#include <algorithm>
#include <utility>

#include "edge/convert.h"

namespace mayfly::vault {
namespace {

constexpr size_t kPieceBytesMax = 64u << 10;
constexpr size_t kErrorOverheadBytes = 256;

capnp::MessageSize sizeOf(size_t bytes) { return {bytes / sizeof(capnp::word) + 32, 0}; }

class UpServer final : public schema::Up::Server {
 public:
  explicit UpServer(std::weak_ptr<UpEvents> events) : events_(std::move(events)) {}
  ~UpServer() noexcept(false) {
    if (auto events = events_.lock()) events->onUpDropped();
  }

 protected:
  kj::Promise<void> write(WriteContext context) override {
    auto events = events_.lock();
    if (!events) {
      put(context.getResults(sizeOf(kErrorOverheadBytes)).initError(),
          {base::Code::cancelled, 502, "", "the call has ended", "", 0});
      return kj::READY_NOW;
    }
    auto taken = events->onUp(edge::view(context.getParams().getData()));
    context.releaseParams();
    if (!taken) {
      put(context
              .getResults(sizeOf(kErrorOverheadBytes + taken.error().message.size() +
                                 taken.error().advice.size()))
              .initError(),
          taken.error());
      return kj::READY_NOW;
    }
    return kj::mv(*taken);
  }
  kj::Promise<void> end(EndContext) override {
    if (auto events = events_.lock()) events->onUpEnd();
    return kj::READY_NOW;
  }

 private:
  std::weak_ptr<UpEvents> events_;
};

}  // namespace

void put(schema::Error::Builder out, const broker::Refusal& refusal) {
  out.setCode(static_cast<uint16_t>(refusal.code));
  out.setMessage(edge::text(refusal.message));
  out.setAdvice(edge::text(refusal.advice));
  out.setRule(edge::text(refusal.rule));
  out.setHttpStatus(refusal.http_status);
  out.setRetryAfterMs(refusal.retry_after_ms);
}

void put(capnp::List<schema::Header>::Builder out, const std::vector<broker::Header>& headers) {
  for (unsigned i = 0; i < out.size(); ++i) {
    out[i].setName(edge::text(headers[i].name));
    out[i].setValue(edge::text(headers[i].value));
  }
}

broker::Refusal refusalOf(const base::Error& error, std::string rule) {
  const auto status = [&]() -> uint16_t {
    switch (error.code) {
      case base::Code::invalidArgument:
        return 400;
      case base::Code::permissionDenied:
        return 403;
      case base::Code::notFound:
        return 404;
      case base::Code::alreadyExists:
      case base::Code::failedPrecondition:
        return 409;
      case base::Code::resourceExhausted:
        return 429;
      case base::Code::unavailable:
        return 503;
      case base::Code::deadlineExceeded:
        return 504;
      default:
        return 502;
    }
  }();
  return {error.code, status, std::move(rule), error.message, error.advice, error.retry_after_ms};
}

schema::Up::Client upFor(std::weak_ptr<UpEvents> events) {
  return kj::heap<UpServer>(std::move(events));
}

void Flow::track(kj::Promise<void> call, size_t bytes) {
  unsent_ += bytes;
  was_full_ = was_full_ || full();
  tasks_.add(call.then(
      [self = shared_from_this(), bytes] {
        self->unsent_ -= bytes;
        if (!self->was_full_ || self->unsent_ > kWindowBytes / 2) return;
        self->was_full_ = false;
        if (self->events_ != nullptr) self->events_->onRoom();
      },
      [self = shared_from_this()](kj::Exception&&) {
        self->down_ = nullptr;
        if (FlowEvents* events = std::exchange(self->events_, nullptr)) events->onGone();
      }));
}

void Flow::head(uint16_t status, std::vector<broker::Header> headers, int64_t bytes) {
  if (down_ == nullptr) return;
  begun_ = true;
  held_ = Head{status, std::move(headers), bytes};
  tasks_.add(kj::evalLater([self = shared_from_this()] { self->sendHeld(More::follows); }));
}

kj::Promise<Flow::Beginning> Flow::beginning() {
  auto paf = kj::newPromiseAndFulfiller<Beginning>();
  beginning_ = kj::mv(paf.fulfiller);
  return kj::mv(paf.promise);
}

bool Flow::tell(Beginning beginning) {
  auto waiting = kj::mv(beginning_);
  if (waiting.get() == nullptr) return false;
  waiting->fulfill(kj::mv(beginning));
  return true;
}

void Flow::sendHeld(More more) {
  auto head = std::exchange(held_, std::nullopt);
  std::string body = std::exchange(held_body_, {});
  if (!head) return;
  if (more == More::follows) {
    tell(Begun{});
    return sendHead(*head, body, more);
  }
  if (beginning_.get() == nullptr) return sendHead(*head, body, more);
  down_ = nullptr;
  tell(Whole{std::move(*head), std::move(body)});
}

void Flow::sendHead(const Head& head, const std::string& body, More more) {
  KJ_IF_MAYBE (down, down_) {
    size_t text_bytes = 0;
    for (const broker::Header& each : head.headers)
      text_bytes += each.name.size() + each.value.size() + kHeaderOverheadBytes;
    auto request = down->headRequest(sizeOf(body.size() + text_bytes));
    request.setStatus(head.status);
    request.setBodyBytes(head.bytes);
    put(request.initHeaders(static_cast<unsigned>(head.headers.size())), head.headers);
    request.setData(edge::data(body));
    request.setEnded(more == More::none);
    track(request.send().ignoreResult(), body.size());
  }
}

void Flow::write(std::string_view bytes) {
  if (held_ && held_body_.size() + bytes.size() <= kPieceBytesMax) {
    held_body_ += bytes;
    return;
  }
  sendHeld(More::follows);
  while (!bytes.empty()) {
    const std::string_view piece = bytes.substr(0, kPieceBytesMax);
    bytes.remove_prefix(piece.size());
    KJ_IF_MAYBE (down, down_) {
      auto request = down->writeRequest(sizeOf(piece.size()));
      request.setData(edge::data(piece));
      track(request.send().ignoreResult(), piece.size());
    }
  }
}

void Flow::end() {
  if (!held_) return last(nullptr);
  events_ = nullptr;
  sendHeld(More::none);
  down_ = nullptr;
}
void Flow::fail(const broker::Refusal& refusal) {
  sendHeld(More::follows);
  if (tell(refusal)) {
    events_ = nullptr;
    down_ = nullptr;
    return;
  }
  last(&refusal);
}

void Flow::last(const broker::Refusal* refusal) {
  events_ = nullptr;
  KJ_IF_MAYBE (down, down_) {
    auto request = down->endRequest();
    if (refusal != nullptr) put(request.initError(), *refusal);
    auto call = request.send().ignoreResult();
    down_ = nullptr;
    track(kj::mv(call), 0);
  }
}

}  // namespace mayfly::vault
