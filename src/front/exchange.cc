#include "front/exchange.h"

#include <kj/debug.h>

#include "edge/convert.h"

namespace mayfly::front {

namespace {

using Kind = Route::Kind;

// A TLS alert: fatal, unrecognized_name.
constexpr std::string_view kUnrecognisedName{"\x15\x03\x01\x00\x02\x02\x70", 7};

constexpr size_t kHeaderOverheadBytes = 32;  // in a message: two pointers, two ends of words

capnp::MessageSize sizeOf(size_t bytes, unsigned caps) {
  return {bytes / sizeof(capnp::word) + 64, caps};
}

class DownServer final : public schema::Down::Server {
 public:
  explicit DownServer(kj::Own<Exchange::Link> link) : link_(kj::mv(link)) {}
  ~DownServer() noexcept(false) {
    if (link_->to != nullptr) link_->to->onDropped();
  }

 private:
  kj::Promise<void> head(HeadContext context) override { return to().onHead(context.getParams()); }
  kj::Promise<void> write(WriteContext context) override {
    return to().onWrite(context.getParams().getData());
  }
  kj::Promise<void> end(EndContext context) override {
    return to().onEnd(context.getParams().getError());
  }
  Exchange& to() {
    if (link_->to == nullptr)
      kj::throwFatalException(KJ_EXCEPTION(DISCONNECTED, "the box's connection is gone"));
    return *link_->to;
  }
  kj::Own<Exchange::Link> link_;
};

Refusal badVault(std::string what) {
  return {502, base::Code::internal, std::move(what), {}, "front.vault", 0, false};
}

void put(const Param& param, schema::Param::Builder out) {
  out.setName(param.name);
  auto to = out.getValue();
  struct Put {
    schema::Param::Value::Builder to;
    void operator()(std::monostate) { to.setNull(); }
    void operator()(bool value) { to.setBool(value); }
    void operator()(int64_t value) { to.setInteger(value); }
    void operator()(double value) { to.setNumber(value); }
    void operator()(const std::string& value) { to.setText(edge::text(value)); }
    void operator()(const std::vector<int64_t>& values) {
      auto list = to.initIntegers(static_cast<unsigned>(values.size()));
      for (unsigned i = 0; i < values.size(); ++i) list.set(i, values[i]);
    }
    void operator()(const std::vector<std::string>& values) {
      auto list = to.initTexts(static_cast<unsigned>(values.size()));
      for (unsigned i = 0; i < values.size(); ++i) list.set(i, edge::text(values[i]));
    }
  };
  std::visit(Put{to}, param.value);
}

}  // namespace

Exchange::Exchange(Connection& connection, schema::Calls::Client calls)
    : c_(connection), calls_(kj::mv(calls)), link_(kj::refcounted<Link>()) {
  link_->to = this;
  down_ = schema::Down::Client(kj::heap<DownServer>(kj::addRef(*link_)));
}

Exchange::~Exchange() noexcept(false) { link_->to = nullptr; }

kj::Promise<After> Exchange::run() {
  auto paf = kj::newPromiseAndFulfiller<Outcome>();
  done_ = kj::mv(paf.fulfiller);
  auto work = kj::evalNow([this] { return call(); })
                  .then([]() -> kj::Promise<Outcome> { return kj::NEVER_DONE; },
                        [this](kj::Exception&&) -> kj::Promise<Outcome> {
                          return c_.answering_ ? Outcome(After::reset) : Outcome(vaultLost());
                        });
  return paf.promise.exclusiveJoin(kj::mv(work))
      .then([this](Outcome outcome) -> kj::Promise<After> {
        link_->to = nullptr;
        if (auto* after = std::get_if<After>(&outcome)) return *after;
        return c_.refuse(std::move(std::get<Refusal>(outcome)));
      });
}

void Exchange::finish(Outcome outcome) {
  if (done_->isWaiting()) done_->fulfill(kj::mv(outcome));
}

void Exchange::fail(Refusal refusal) {
  if (c_.answering_)
    finish(After::reset);
  else
    finish(std::move(refusal));
}

// --- the call --------------------------------------------------------------------

kj::Promise<void> Exchange::call() {
  switch (c_.route_.kind) {
    case Kind::sql:
      return sql();
    case Kind::tunnel:
      return tunnel();
    default:
      return http();
  }
}

void Exchange::onReturn(schema::Error::Reader error) {
  returned_ = true;
  if (error.getCode() != 0)
    fail(refusalOf(error));
  else if (dropped_ && !ended_)
    fail(badVault("the vault gave the call up"));
}

void Exchange::fill(schema::HttpRequest::Builder out) {
  const Request& request = c_.request_;
  out.setAction(c_.route_.name);
  out.setMethod(request.method);
  out.setTarget(c_.route_.target);
  const auto fields = endToEnd(request.fields);
  auto headers = out.initHeaders(static_cast<unsigned>(fields.size()));
  for (unsigned i = 0; i < fields.size(); ++i) {
    headers[i].setName(fields[i]->name);
    headers[i].setValue(edge::text(fields[i]->value));
  }
  out.setBodyBytes(request.body == Request::Body::none ? 0
                   : request.body == Request::Body::length
                       ? static_cast<int64_t>(request.body_bytes)
                       : -1);
}

kj::Promise<void> Exchange::http() {
  auto ask = [this](auto request) {
    request.setSession(c_.door_.session);
    fill(request.initRequest());
    request.setDown(kj::mv(KJ_ASSERT_NONNULL(down_)));
    down_ = nullptr;
    const bool bodiless = c_.request_.body == Request::Body::none;
    auto answered = request.send().then([this, bodiless](auto&& answer) -> kj::Promise<void> {
      if (answer.hasAnswer()) return onAnswered(answer.getAnswer());
      onReturn(answer.getError());
      if (!done_->isWaiting()) return kj::READY_NOW;
      up_ = answer.getUp();
      if (bodiless) return kj::NEVER_DONE;  // the answer comes through `Down`
      return upload();
    });
    if (!bodiless) return answered;
    // Who goes before the answer gives the call up.
    return answered.exclusiveJoin(c_.untilGone().then([this](After after) { finish(after); }));
  };
  size_t bytes = c_.route_.name.size() + c_.route_.target.size() + c_.route_.host.size();
  for (const Field& each : c_.request_.fields)
    bytes += each.name.size() + each.value.size() + kHeaderOverheadBytes;
  if (c_.route_.kind == Kind::cap) return ask(calls_.httpRequest(sizeOf(bytes, 1)));
  auto request = calls_.proxyRequest(sizeOf(bytes, 1));
  request.setAuthority(c_.route_.host);
  return ask(kj::mv(request));
}

kj::Promise<void> Exchange::sql() {
  std::vector<Param> params;
  for (auto& [name, value] : c_.route_.query) params.push_back({name, value});
  if (c_.request_.method == "POST") {
    auto posted = paramsOf(c_.body_);
    if (!posted) {
      fail(std::move(posted).error());
      return kj::READY_NOW;
    }
    params = std::move(*posted);
  }
  auto request = calls_.sqlRequest(sizeOf(c_.body_.size() + 64 * params.size(), 1));
  request.setSession(c_.door_.session);
  request.setName(c_.route_.name);
  request.setCsv(c_.route_.csv);
  if (const std::string* step = c_.request_.field("idempotency-key")) request.setStep(*step);
  auto list = request.initParams(static_cast<unsigned>(params.size()));
  for (unsigned i = 0; i < params.size(); ++i) put(params[i], list[i]);
  request.setDown(kj::mv(KJ_ASSERT_NONNULL(down_)));
  down_ = nullptr;
  auto answered = request.send().then([this](auto&& answer) { onReturn(answer.getError()); });
  // The call itself may last as long as its rows flow.
  return answered.exclusiveJoin(c_.untilGone().then([this](After after) { finish(after); }))
      .then([this] { return c_.untilGone(); })
      .then([this](After after) { finish(after); });
}

// --- the request's body ----------------------------------------------------------

kj::Promise<void> Exchange::upload() {
  if (c_.parser_.done()) return endUpload();
  if (c_.request_.awaits_continue && !c_.answering_ && c_.inbox_.unread().empty())
    c_.outbox_.put("HTTP/1.1 100 Continue\r\n\r\n");
  c_.request_.awaits_continue = false;
  std::string piece;
  auto used = c_.parser_.body(c_.inbox_.unread(), piece);
  if (!used) {
    fail(std::move(used).error());
    return kj::READY_NOW;
  }
  c_.inbox_.use(*used);
  c_.body_bytes_ += piece.size();
  if (!piece.empty()) return send(std::move(piece)).then([this] { return upload(); });
  if (c_.parser_.done()) return endUpload();
  c_.growForBody();  // without it, the pieces are small
  c_.waitForBody();
  return c_.inbox_.more().then([this, since = c_.now()](bool more) -> kj::Promise<void> {
    c_.stopWaiting();
    c_.body_waited_ += c_.now() - since;
    if (more) return c_.door_.queue.pass([this] { return upload(); });
    finish(After::reset);
    return kj::READY_NOW;
  });
}

kj::Promise<void> Exchange::send(std::string piece) {
  KJ_IF_MAYBE (up, up_) {
    auto request = up->writeRequest(sizeOf(piece.size(), 0));
    request.setData(edge::data(piece));
    auto taken = request.send().then([this](auto&& answer) -> kj::Promise<void> {
      if (answer.getError().getCode() == 0) return kj::READY_NOW;
      fail(refusalOf(answer.getError()));
      return kj::NEVER_DONE;
    });
    // Notices a client that goes while the vault takes its time. That of a tunnel may close one
    // side only; any other is read ahead.
    auto gone = c_.route_.kind == Kind::tunnel
                    ? c_.stream_->whenWriteDisconnected().then([] { return After::reset; })
                    : c_.watch();
    return taken.exclusiveJoin(gone.then([this](After after) -> kj::Promise<void> {
      finish(after);
      return kj::NEVER_DONE;
    }));
  }
  return kj::READY_NOW;
}

kj::Promise<void> Exchange::endUpload() {
  // A request without a body has no end of its own.
  if (c_.request_.body != Request::Body::none) {
    KJ_IF_MAYBE (up, up_)
      tail_ = up->endRequest().send().ignoreResult().eagerlyEvaluate([](kj::Exception&&) {});
  }
  return c_.untilGone().then([this](After after) { finish(after); });
}

// --- tunnels ---------------------------------------------------------------------

kj::Promise<void> Exchange::tunnel() {
  auto request = calls_.tunnelRequest(sizeOf(c_.route_.host.size(), 1));
  request.setSession(c_.door_.session);
  request.setHost(c_.route_.host);
  request.setPort(c_.route_.port);
  request.setDown(kj::mv(KJ_ASSERT_NONNULL(down_)));
  down_ = nullptr;
  auto asked = request.send().then([this](auto&& answer) -> kj::Promise<void> {
    onReturn(answer.getError());
    if (!done_->isWaiting()) return kj::READY_NOW;
    up_ = answer.getUp();
    c_.answering_ = true;
    c_.outbox_.put("HTTP/1.1 200 Connection established\r\n\r\n");
    c_.waiting_ = Connection::Waiting::tunnel;
    c_.wait(c_.door_.options.head_time);
    return readHello();
  });
  return asked;
}

// Nothing reaches the upstream before a whole ClientHello for the very host. An encrypted one could
// be for another.
kj::Promise<void> Exchange::readHello() {
  const std::string_view unread = c_.inbox_.unread();
  const auto state = hello_.feed(unread.substr(hello_bytes_));
  hello_bytes_ = unread.size();
  using State = broker::HelloReader::State;
  if (state == State::done && hello_.name() == c_.route_.host && !hello_.encrypted())
    return uploadTunnel();
  if (state != State::more) {
    ++c_.door_.refused;
    c_.outbox_.put(kUnrecognisedName);
    return c_.outbox_.written().then([this] { finish(After::close); });
  }
  if (!c_.inbox_.grow()) {
    finish(After::reset);
    return kj::READY_NOW;
  }
  return c_.inbox_.more().then([this](bool more) -> kj::Promise<void> {
    if (more) return c_.door_.queue.pass([this] { return readHello(); });
    finish(After::reset);
    return kj::READY_NOW;
  });
}

kj::Promise<void> Exchange::uploadTunnel() {
  c_.wait(c_.door_.options.tunnel_time);
  if (std::string piece(c_.inbox_.unread()); !piece.empty()) {
    c_.inbox_.use(piece.size());
    return send(std::move(piece)).then([this] { return uploadTunnel(); });
  }
  return c_.inbox_.more().then([this](bool more) -> kj::Promise<void> {
    if (more) return c_.door_.queue.pass([this] { return uploadTunnel(); });
    // The client has closed its side; the other may go on.
    KJ_IF_MAYBE (up, up_) return up->endRequest().send().ignoreResult();
    return kj::READY_NOW;
  });
}

// --- the answer ------------------------------------------------------------------

std::optional<std::string> Exchange::headOf(auto head) {
  const bool allowed = !answer_.begun() && !ended_ && c_.route_.kind != Kind::tunnel;
  std::vector<Field> fields;
  fields.reserve(head.getHeaders().size());
  for (auto header : head.getHeaders())
    fields.push_back({edge::str(header.getName()), edge::str(header.getValue())});
  // An answer that begins before the body's end: a success may be one that flows both ways.
  const bool body_will_end = c_.parser_.done() || head.getStatus() < 300;
  base::Result<std::string> text = allowed ? answer_.begin(c_.request_, head.getStatus(), fields,
                                                           head.getBodyBytes(), body_will_end)
                                           : base::fail(base::Code::internal, "a second head");
  if (!text) {
    fail(badVault(text.error().message));
    return std::nullopt;
  }
  c_.answering_ = true;
  return std::move(*text);
}

kj::Promise<void> Exchange::onHead(schema::Down::HeadParams::Reader head) {
  const auto text = headOf(head);
  if (!text) return KJ_EXCEPTION(FAILED, "the answer's head cannot be passed on");
  c_.outbox_.put(*text);
  auto passed = head.getData().size() > 0 ? onWrite(head.getData()) : kj::READY_NOW;
  if (!head.getEnded() || !done_->isWaiting()) return passed;
  return onEnd({}).attach(kj::mv(passed));
}

// The whole answer in one message: it is written at once.
kj::Promise<void> Exchange::onAnswered(schema::Answer::Reader answer) {
  returned_ = true;
  auto out = headOf(answer);
  if (!out) return kj::READY_NOW;
  ended_ = true;
  if (!answer_.body(edge::view(answer.getData()), *out) || !answer_.end(*out)) {
    fail(badVault("the vault's answer is malformed"));
    return kj::READY_NOW;
  }
  c_.outbox_.putAndWrite(*out);
  ending_ = c_.outbox_.written()
                .then([this] { finish(answer_.after()); })
                .eagerlyEvaluate([](kj::Exception&&) {});  // the outbox has told the connection
  return kj::NEVER_DONE;
}

kj::Promise<void> Exchange::onWrite(capnp::Data::Reader data) {
  const bool tunnels = c_.route_.kind == Kind::tunnel;
  std::string out;
  if (tunnels) {
    c_.wait(c_.door_.options.tunnel_time);
    out = edge::str(data);
  }
  const bool allowed =
      !ended_ && (tunnels ? c_.answering_ : answer_.begun() && answer_.body(edge::view(data), out));
  if (!allowed || c_.outbox_.unsent() > kUnsentBytesMax) {
    fail(badVault("the vault's answer is malformed"));
    return KJ_EXCEPTION(FAILED, "these bytes cannot be passed on");
  }
  c_.outbox_.put(out);
  return c_.outbox_.written();
}

kj::Promise<void> Exchange::onEnd(schema::Error::Reader error) {
  if (ended_) return KJ_EXCEPTION(FAILED, "a second end");
  ended_ = true;
  if (error.getCode() != 0) {
    fail(refusalOf(error));
    return kj::READY_NOW;
  }
  const bool tunnels = c_.route_.kind == Kind::tunnel;
  std::string out;
  if (tunnels ? !c_.answering_ : !answer_.begun() || !answer_.end(out)) {
    fail(badVault("the vault's answer is cut off"));
    return kj::READY_NOW;
  }
  if (!out.empty()) c_.outbox_.put(out);
  auto written = c_.outbox_.written().fork();
  ending_ = written.addBranch()
                .then([this, tunnels] {
                  finish(tunnels || !c_.parser_.done() ? After::close : answer_.after());
                })
                .eagerlyEvaluate([](kj::Exception&&) {});  // the outbox has told the connection
  return written.addBranch();
}

void Exchange::onDropped() {
  dropped_ = true;
  if (returned_ && !ended_) fail(badVault("the vault gave the call up"));
}

}  // namespace mayfly::front
