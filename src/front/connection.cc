#include "front/connection.h"

#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>

#include "edge/asio_stream.h"
#include "edge/convert.h"
#include "front/exchange.h"

namespace mayfly::front {

namespace {

using Kind = Route::Kind;

constexpr std::string_view kJson = "application/json";

kj::Duration of(Options::Time time) { return time.count() * kj::MILLISECONDS; }

Refusal tooManyBuffers() {
  return {503,
          base::Code::resourceExhausted,
          "this task's requests hold too much memory",
          "Send fewer large requests at a time.",
          "front.buffers",
          1'000,
          true};
}

}  // namespace

Refusal refusalOf(schema::Error::Reader error) {
  Refusal refusal;
  refusal.code = static_cast<base::Code>(error.getCode());
  const uint16_t status = error.getHttpStatus();
  refusal.status = status >= 400 && status <= 599 ? status : statusOf(refusal.code);
  refusal.message = edge::str(error.getMessage());
  refusal.advice = edge::str(error.getAdvice());
  refusal.rule = edge::str(error.getRule());
  refusal.retry_after_ms = error.getRetryAfterMs();
  return refusal;
}

Refusal vaultLost() {
  return {502,
          base::Code::unavailable,
          "the broker's vault ended during the call",
          "Whether the upstream has acted is unknown. Ask again if that does no harm.",
          "front.vault",
          1'000,
          false};
}

Connection::Connection(DoorContext& door, base::Fd socket, Transport transport)
    : door_(door),
      transport_(transport),
      stream_(edge::asioStream(door.port, std::move(socket))),
      inbox_(*stream_, door.buffers),
      outbox_(*stream_, door.port, [this] { end_->fulfill(After::reset); }),
      scanner_(door.options),
      parser_(door.options) {}

Connection::~Connection() noexcept(false) {
  if (!orderly_) reset();
  door_.buffers.give(charge_);
}

// --- its life --------------------------------------------------------------------

kj::Promise<void> Connection::run() {
  auto paf = kj::newPromiseAndFulfiller<After>();
  end_ = kj::mv(paf.fulfiller);
  return serveAll()
      .exclusiveJoin(kj::mv(paf.promise))
      .catch_([](kj::Exception&&) { return After::reset; })  // the socket failed
      .then([this](After after) { return close(after); })
      .catch_([](kj::Exception&&) {})
      .then([this] { return untilTaken(); });
}

kj::Promise<After> Connection::serveAll() {
  return awaitHead()
      .then([this](Head head) { return serveOne(head); })
      .then([this](After after) -> kj::Promise<After> {
        if (after != After::keep) return after;
        return serveAll();
      });
}

kj::Promise<After> Connection::serveOne(Head head) {
  switch (head) {
    case Head::ended:
      return After::gone;
    case Head::refused:
      return refuse(std::move(*refusal_));
    case Head::whole:
      return begin();
  }
  return After::gone;
}

kj::Promise<void> Connection::close(After after) {
  stopWaiting();
  const bool has_last_word = after == After::timeout && refusal_ && !answering_;
  orderly_ = after == After::keep || after == After::close || after == After::gone || has_last_word;
  if (!orderly_ || after == After::gone) return kj::READY_NOW;
  auto said = has_last_word ? refuse(std::move(*refusal_)).ignoreResult()
                            : kj::Promise<void>(kj::READY_NOW);
  return said.then([this] { return linger(); })
      .exclusiveJoin(door_.port.timer().afterDelay(2 * of(door_.options.linger_time)));
}

// Closing a socket with unread bytes resets it, and the peer may lose the last words. So the peer
// gets some time to read them and to close its end.
kj::Promise<void> Connection::linger() {
  stream_->shutdownWrite();
  return drain().exclusiveJoin(door_.port.timer().afterDelay(of(door_.options.linger_time)));
}

kj::Promise<void> Connection::drain() {
  inbox_.use(inbox_.unread().size());
  return inbox_.more().then([this](bool more) -> kj::Promise<void> {
    if (!more) return kj::READY_NOW;
    return drain();
  });
}

// What a unix socket has sent stays in the host's memory until the box reads it, or ends. Till then
// the connection counts for its door; else a box that reads nothing could hold as much as it has
// descriptors.
kj::Promise<void> Connection::untilTaken() {
  stopWaiting();
  int bytes = 0;
  KJ_IF_MAYBE (fd, stream_->getFd()) {
    if (transport_ != Transport::local || ::ioctl(*fd, TIOCOUTQ, &bytes) != 0 || bytes == 0)
      return kj::READY_NOW;
    ::shutdown(*fd, SHUT_RDWR);
  }
  return door_.port.timer().afterDelay(of(door_.options.sweep_time)).then([this] {
    return untilTaken();
  });
}

// The kernel drops what is unsent, and the peer's next read fails.
void Connection::reset() {
  KJ_IF_MAYBE (fd, stream_->getFd()) {
    const struct ::linger now { 1, 0 };
    ::setsockopt(*fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  }
}

void Connection::wait(Options::Time time) { read_by_ = now() + of(time); }

void Connection::waitForBody() {
  waiting_ = Waiting::request;
  const auto allowed = of(door_.options.body_time) +
                       static_cast<int64_t>(body_bytes_ / kBodyBytesPerSecondMin) * kj::SECONDS;
  const auto left = allowed > body_waited_ ? allowed - body_waited_ : 0 * kj::NANOSECONDS;
  read_by_ = now() + std::min(left, of(door_.options.stall_time));
}

void Connection::sweep(kj::TimePoint time) {
  if (const auto since = outbox_.stalledSince();
      since && time - *since >= of(door_.options.write_time))
    return end_->fulfill(After::reset);
  if (!read_by_ || time < *read_by_) return;
  switch (waiting_) {
    case Waiting::idle:
      return end_->fulfill(After::gone);
    case Waiting::tunnel:
      return end_->fulfill(After::reset);
    case Waiting::turn:
      refusal_ = Refusal{429,
                         base::Code::resourceExhausted,
                         "this task has too many requests under way",
                         "Wait for earlier ones.",
                         "front.calls",
                         1'000,
                         true};
      return end_->fulfill(After::timeout);
    case Waiting::request:
      refusal_ = Refusal{408,
                         base::Code::deadlineExceeded,
                         "the request did not come in time",
                         {},
                         "front.time",
                         0,
                         true};
      return end_->fulfill(After::timeout);
  }
}

// --- a request -------------------------------------------------------------------

kj::Promise<Connection::Head> Connection::awaitHead() {
  scanner_ = HeadScanner(door_.options);
  parser_ = RequestParser(door_.options);
  request_ = Request();
  refusal_.reset();
  slot_ = nullptr;
  body_ = std::string();
  door_.buffers.give(charge_);
  charge_ = body_bytes_ = 0;
  body_waited_ = 0 * kj::NANOSECONDS;
  answering_ = false;
  inbox_.shrink();
  waiting_ = Waiting::idle;
  wait(door_.options.idle_time);
  if (inbox_.unread().empty()) return readHead();
  return door_.queue.pass([this] { return readHead(); });  // pipelined
}

kj::Promise<Connection::Head> Connection::readHead() {
  if (!inbox_.unread().empty()) {
    if (waiting_ == Waiting::idle) {
      waiting_ = Waiting::request;
      wait(door_.options.head_time);
    }
    auto size = scanner_.look(inbox_.unread());
    if (size && *size > 0) {
      auto request = parser_.head(inbox_.unread().substr(0, *size));
      inbox_.use(*size);
      if (request) {
        stopWaiting();
        request_ = std::move(*request);
        if (*size <= kFirstBufferBytes || charge(*size)) return Head::whole;
        size = front::refuse(tooManyBuffers());
      } else {
        size = front::refuse(std::move(request).error());
      }
    }
    if (size && inbox_.unread().size() >= kFirstBufferBytes / 2 && !inbox_.grow())
      size = front::refuse(tooManyBuffers());
    if (!size) {
      refusal_ = std::move(size).error();
      return Head::refused;
    }
  }
  return inbox_.more().then([this](bool more) -> kj::Promise<Head> {
    if (!more) return Head::ended;
    return door_.queue.pass([this] { return readHead(); });
  });
}

// Counts the request's memory against its door's, until the next request.
bool Connection::charge(size_t bytes) {
  if (!door_.buffers.take(bytes)) return false;
  charge_ += bytes;
  return true;
}

kj::Promise<After> Connection::begin() {
  auto route = routeOf(request_);
  if (!route) return refuse(std::move(route).error());
  // A cut-off answer to HTTP/1.0 would look whole: only TCP can be reset.
  if (transport_ == Transport::local && request_.version < 11)
    return refuse({505,
                   base::Code::invalidArgument,
                   "this door speaks HTTP/1.1 only",
                   {},
                   "front.version",
                   0,
                   true});
  route_ = std::move(*route);
  KJ_IF_MAYBE (free, door_.queue.trySlot()) {
    slot_ = kj::mv(*free);
    return dispatch();
  }
  waiting_ = Waiting::turn;
  wait(door_.options.turn_time);
  return door_.queue.slot().then([this](kj::Own<Gate::Queue::Slot> slot) {
    slot_ = kj::mv(slot);
    stopWaiting();
    return dispatch();
  });
}

kj::Promise<After> Connection::dispatch() {
  const bool flows = route_.kind == Kind::cap || route_.kind == Kind::proxy ||
                     route_.kind == Kind::tunnel || route_.kind == Kind::sql;
  KJ_IF_MAYBE (calls, door_.vault.calls()) {
    if (!flows) return unary();
    const bool collects = route_.kind == Kind::sql;
    auto exchange = kj::heap<Exchange>(*this, *calls);
    auto& it = *exchange;
    if (!collects) return it.run().attach(kj::mv(exchange));
    return collect().then([this, exchange = kj::mv(exchange)](bool whole) mutable {
      auto& that = *exchange;
      if (!whole) return refuse(std::move(*refusal_));
      return that.run().attach(kj::mv(exchange));
    });
  }
  return refuse({503, base::Code::unavailable, "the broker's vault is not there now",
                 "It is being started. Ask again.", "front.vault", 1'000, false});
}

kj::Promise<After> Connection::unary() {
  const bool has_body = route_.kind == Kind::mint || route_.kind == Kind::tool;
  auto ready = has_body ? collect() : kj::Promise<bool>(true);
  return ready.then([this](bool whole) -> kj::Promise<After> {
    if (!whole) return refuse(std::move(*refusal_));
    KJ_IF_MAYBE (calls, door_.vault.calls()) {
      auto answer = route_.kind == Kind::mint   ? mint(*calls)
                    : route_.kind == Kind::tool ? tool(*calls)
                                                : describe(*calls);
      return unlessGone(answer.catch_([this](kj::Exception&&) { return refuse(vaultLost()); }));
    }
    return refuse(vaultLost());
  });
}

kj::Promise<After> Connection::describe(schema::Calls::Client calls) {
  auto request = calls.describeRequest();
  request.setSession(door_.session);
  return request.send().then([this](auto&& answer) -> kj::Promise<After> {
    if (answer.getError().getCode() != 0) return refuse(refusalOf(answer.getError()));
    std::string json = edge::str(answer.getJson());
    if (route_.kind == Kind::tools) {
      json = memberOf(json, "tools");
      if (json.empty()) json = "[]";
      json += '\n';
    }
    return reply(200, kJson, std::move(json));
  });
}

kj::Promise<After> Connection::mint(schema::Calls::Client calls) {
  auto request = calls.mintRequest();
  request.setSession(door_.session);
  request.setName(route_.name);
  return request.send().then([this](auto&& answer) -> kj::Promise<After> {
    if (answer.getError().getCode() != 0) return refuse(refusalOf(answer.getError()));
    return reply(200, kJson,
                 jsonOf(Minted{edge::str(answer.getCredential()), edge::str(answer.getAudience()),
                               edge::str(answer.getScope()), answer.getExpiresMs()}),
                 {{"Cache-Control", "no-store"}});
  });
}

kj::Promise<After> Connection::tool(schema::Calls::Client calls) {
  if (auto sound = checkObject(body_); !sound) return refuse(std::move(sound).error());
  auto request = calls.toolRequest(capnp::MessageSize{body_.size() / sizeof(capnp::word) + 64, 0});
  request.setSession(door_.session);
  request.setName(route_.name);
  request.setJson(edge::text(body_));
  return request.send().then([this](auto&& answer) -> kj::Promise<After> {
    if (answer.getError().getCode() != 0) return refuse(refusalOf(answer.getError()));
    return reply(200, kJson, edge::str(answer.getJson()));
  });
}

kj::Promise<bool> Connection::collect() {
  if (const std::string* coding = request_.field("content-encoding");
      coding != nullptr && !sameWord(*coding, "identity")) {
    refusal_ = Refusal{415,
                       base::Code::invalidArgument,
                       "the body has a Content-Encoding",
                       "Send plain JSON.",
                       "front.json",
                       0,
                       false};
    return false;
  }
  if (request_.awaits_continue && request_.body_bytes <= door_.options.json_bytes_max &&
      inbox_.unread().empty())
    outbox_.put("HTTP/1.1 100 Continue\r\n\r\n");
  return collectMore();
}

kj::Promise<bool> Connection::collectMore() {
  const size_t before = body_.size();
  auto refused = [this](Refusal refusal) {
    refusal_ = std::move(refusal);
    return false;
  };
  if (!parser_.done() && request_.body_bytes <= door_.options.json_bytes_max) {
    auto used = parser_.body(inbox_.unread(), body_);
    if (!used) return refused(std::move(used).error());
    inbox_.use(*used);
  }
  body_bytes_ = body_.size();
  if (!charge(body_.size() - before)) return refused(tooManyBuffers());
  if (std::max<uint64_t>(request_.body_bytes, body_.size()) > door_.options.json_bytes_max)
    return refused(refuseSize(413, "the body is larger than " +
                                       std::to_string(door_.options.json_bytes_max) + " bytes")
                       .value());
  if (parser_.done()) return true;
  if (!growForBody()) return refused(tooManyBuffers());
  waitForBody();
  return inbox_.more().then([this, since = now()](bool more) -> kj::Promise<bool> {
    stopWaiting();
    body_waited_ += now() - since;
    if (more) return door_.queue.pass([this] { return collectMore(); });
    end_->fulfill(After::gone);
    return kj::NEVER_DONE;
  });
}

// For what is left of the body, if that is much.
bool Connection::growForBody() {
  const bool small = request_.body == Request::Body::length &&
                     request_.body_bytes - body_bytes_ <= kFirstBufferBytes / 2;
  return small || inbox_.grow();
}

kj::Promise<After> Connection::unlessGone(kj::Promise<After> answer) {
  return answer.exclusiveJoin(untilGone());
}

kj::Promise<After> Connection::untilGone() {
  inbox_.shrink();
  return watch();
}

kj::Promise<After> Connection::watch() {
  return inbox_.more().then([this](bool more) -> kj::Promise<After> {
    if (more) return watch();
    if (inbox_.ended()) return After::reset;
    return stream_->whenWriteDisconnected().then([] { return After::reset; });
  });
}

// --- answers ---------------------------------------------------------------------

kj::Promise<After> Connection::refuse(Refusal refusal) {
  if (refusal.rule.starts_with("front.")) ++door_.refused;
  std::vector<Field> fields;
  if (refusal.retry_after_ms > 0)
    fields.push_back({"Retry-After", std::to_string((refusal.retry_after_ms + 999) / 1'000)});
  if (!refusal.allow.empty()) fields.push_back({"Allow", std::string(refusal.allow)});
  if (refusal.framing_lost) request_.keeps = false;
  return reply(refusal.status, kJson, jsonOf(refusal), std::move(fields));
}

kj::Promise<After> Connection::reply(uint16_t status, std::string_view type, std::string body,
                                     std::vector<Field> fields) {
  fields.insert(fields.begin(), Field{"Content-Type", std::string(type)});
  Answer answer;
  auto head =
      answer.begin(request_, status, fields, static_cast<int64_t>(body.size()), parser_.done());
  std::string out =
      head ? std::move(*head) : "HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n";
  answering_ = true;
  if (head) (void)(answer.body(body, out) && answer.end(out));
  outbox_.put(out);
  return outbox_.written().then([after = answer.after()] { return after; });
}

}  // namespace mayfly::front
