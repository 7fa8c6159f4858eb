#include "web/connection.h"

#include <boost/beast/http/read.hpp>
#include <boost/beast/http/write.hpp>

#include <sodium.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"

namespace mayfly::web {

namespace http = boost::beast::http;
namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr size_t kTargetBytesMax = 2'048;
constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'";

std::chrono::milliseconds ms(uint32_t count) { return std::chrono::milliseconds(count); }

std::string str(boost::beast::string_view text) { return {text.data(), text.size()}; }

// Of so many places, for streams: an eighth is for requests alone.
uint32_t mayListen(uint32_t places) {
  return places < 2 ? places : places - std::max(1u, places / 8);
}

// In a time that depends on the lengths alone.
bool same(std::string_view a, std::string_view b) {
  return a.size() == b.size() && ::sodium_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace

Connection::Connection(std::shared_ptr<Shared> shared, asio::ip::tcp::socket socket,
                       std::string host)
    : shared_(std::move(shared)),
      host_(std::move(host)),
      stream_(std::move(socket)),
      buffer_(shared_->options.head_bytes_max),
      answer_timer_(shared_->io) {
  Shared::Places& mine = shared_->of_host[host_];
  shared_->connections.insert(this);  // what may throw comes before what is counted
  ++mine.connections;
  ++shared_->open;
}

Connection::~Connection() { close(); }

// Its place is free from here on, even if a reply that waits for the core still holds the object.
void Connection::close() {
  if (state_ == State::closed) return;
  const auto places = shared_->of_host.find(host_);
  if (state_ == State::streaming) {
    --shared_->streams;
    --places->second.streams;
  }
  if (--places->second.connections == 0) shared_->of_host.erase(places);
  shared_->connections.erase(this);
  --shared_->open;
  state_ = State::closed;
  answer_timer_.cancel();
  blocks_.clear();
  unsent_bytes_ = 0;
  error_code ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
  stream_.close();
}

void Connection::enter(State state) {
  state_ = state;
  since_ns_ = base::monotonicNs();
}

bool Connection::mayGo(uint64_t now_ns) const {
  return state_ == State::reading ||
         (state_ == State::writing && now_ns - since_ns_ > kStuckMs * 1'000'000);
}

// --- requests -------------------------------------------------------------------------------

void Connection::read() {
  enter(State::reading);
  parser_.emplace();
  parser_->header_limit(shared_->options.head_bytes_max);
  parser_->body_limit(0);
  const Options& o = shared_->options;
  stream_.expires_after(ms(requests_ == 0 ? o.head_ms_max : o.idle_ms_max));
  http::async_read_header(
      stream_, buffer_, *parser_,
      [self = shared_from_this()](error_code failed, size_t) { self->onRead(failed); });
}

void Connection::onRead(error_code failed) {
  if (state_ != State::reading) return;
  if (failed == boost::beast::error::timeout && requests_ == 0) ++shared_->dropped_slow;
  if (failed == http::error::end_of_stream || failed == boost::beast::error::timeout ||
      (failed && failed.category() == boost::system::system_category()))
    return close();
  ++requests_;
  ++shared_->requests;
  state_ = State::answering;
  keep_ = false;
  head_only_ = false;
  if (failed == http::error::header_limit || failed == http::error::buffer_overflow)
    return answer(text(431, "the request's head is too large\n"));
  if (failed == http::error::body_limit) return answer(text(413, "a request has no body here\n"));
  if (failed) return answer(text(400, "this is no HTTP request: " + failed.message() + "\n"));
  handle();
}

void Connection::handle() {
  const auto& message = parser_->get();
  keep_ = message.keep_alive() && requests_ < shared_->options.requests_max;
  head_only_ = message.method() == http::verb::head;
  if (!parser_->is_done()) {  // a body follows, which nobody reads
    keep_ = false;
    return answer(text(413, "a request has no body here\n"));
  }
  if (message.method() != http::verb::get && !head_only_)
    return answer(text(405, "only GET and HEAD exist: nothing can be changed here\n"));
  const std::string target = str(message.target());
  if (target.empty() || target[0] != '/' || target.size() > kTargetBytesMax)
    return answer(text(400, "the target is no path\n"));
  Request request;
  const size_t mark = std::min(target.find('?'), target.size());
  request.path = target.substr(0, mark);
  request.query = target.substr(std::min(mark + 1, target.size()));
  request.if_none_match = str(message[http::field::if_none_match]);
  request.accept_encoding = str(message[http::field::accept_encoding]);
  request.accept = str(message[http::field::accept]);
  request.head = head_only_;
  const Router::Found found = shared_->router.find(request.path);
  if (auto refused = refusal(found.access)) return answer(std::move(*refused));
  if (found.handler == nullptr) return answer(text(404, "there is no such page\n"));
  response_.etag = request.if_none_match;  // for answer(): what the client has
  answer_timer_.expires_after(ms(shared_->options.answer_ms_max));
  answer_timer_.async_wait([self = shared_from_this()](error_code failed) {
    if (failed || self->state_ != State::answering) return;
    self->keep_ = false;  // a late reply must not answer a later request
    self->answer(text(503, "the daemon does not answer in time\n"));
  });
  try {
    (*found.handler)(request, Reply(shared_from_this()));
  } catch (const std::exception& e) {
    keep_ = false;
    answer(text(500, std::string("the request failed: ") + e.what() + "\n"));
  }
}

std::optional<Response> Connection::refusal(Access access) const {
  if (!isForUs()) {
    ++shared_->unauthorised;
    return text(421, "the Host header names another host\n");
  }
  if (access == Access::open || shared_->options.token.empty() || hasToken()) return std::nullopt;
  ++shared_->unauthorised;
  return text(401,
              "this server wants its token: Authorization: Bearer TOKEN, or TOKEN as the "
              "password of any user\n");
}

// A page of a foreign name that resolves to 127.0.0.1 must not be one origin with ours. Elsewhere
// the token protects: a browser sends it to no other name.
bool Connection::isForUs() const {
  const auto& message = parser_->get();
  if (message.count(http::field::host) != 1)
    return message.version() == 10 && !message.count(http::field::host) &&
           !shared_->options.loopback;
  if (!shared_->options.loopback) return true;
  std::string host = str(message[http::field::host]);
  const std::string port = ":" + std::to_string(shared_->options.port);
  if (host.ends_with(port)) host.resize(host.size() - port.size());
  return host == "127.0.0.1" || host == "localhost" || host == "[::1]";
}

bool Connection::hasToken() const {
  const std::string& token = shared_->options.token;
  const std::string given = str(parser_->get()[http::field::authorization]);
  if (given.starts_with("Bearer ")) return same(std::string_view(given).substr(7), token);
  if (!given.starts_with("Basic ")) return false;
  std::string plain(given.size(), '\0');
  size_t length = 0;
  const char* end = nullptr;
  const char* from = given.data() + 6;
  const size_t bytes = given.size() - 6;
  if (::sodium_base642bin(reinterpret_cast<unsigned char*>(plain.data()), plain.size(), from, bytes,
                          nullptr, &length, &end, sodium_base64_VARIANT_ORIGINAL) != 0 ||
      end != from + bytes)
    return false;
  plain.resize(length);
  const size_t colon = plain.find(':');
  return colon != std::string::npos && same(std::string_view(plain).substr(colon + 1), token);
}

// --- answers --------------------------------------------------------------------------------

template <class Message>
void Connection::fill(Message& m, const Response& r) const {
  m.version(11);
  m.result(r.status);
  m.keep_alive(keep_);
  m.set(http::field::content_type, r.type);
  m.set(http::field::cache_control, r.cache);
  m.set("Content-Security-Policy", kPolicy);
  m.set("X-Content-Type-Options", "nosniff");
  m.set("X-Frame-Options", "DENY");
  m.set("Referrer-Policy", "no-referrer");
  m.set("Cross-Origin-Opener-Policy", "same-origin");
  m.set("Cross-Origin-Resource-Policy", "same-origin");
  if (!r.etag.empty()) m.set(http::field::etag, r.etag);
  if (!r.encoding.empty()) {
    m.set(http::field::content_encoding, r.encoding);
    m.set(http::field::vary, "Accept-Encoding");
  }
  if (r.status == 401) m.set(http::field::www_authenticate, "Basic realm=\"mayfly\"");
  if (r.status == 405) m.set(http::field::allow, "GET, HEAD");
  if (r.status == 503) m.set(http::field::retry_after, "1");
}

void Connection::answer(Response response) {
  if (state_ != State::answering) return;
  answer_timer_.cancel();
  const std::string has = std::exchange(response_.etag, {});
  const bool unchanged = response.status == 200 && !response.etag.empty() && has == response.etag;
  response_ = std::move(response);
  if (unchanged) response_.status = 304;
  enter(State::writing);
  stream_.expires_after(ms(shared_->options.write_ms_max));
  const size_t bytes = response_.body ? response_.body->size() : 0;
  auto done = [self = shared_from_this()](error_code failed, size_t) { self->onWritten(failed); };
  if (unchanged || head_only_) {
    fill(head_.emplace(), response_);
    if (!unchanged) head_->content_length(bytes);
    serializer_.emplace(*head_);
    http::async_write_header(stream_, *serializer_, std::move(done));
    return;
  }
  fill(whole_.emplace(), response_);
  if (bytes > 0) whole_->body() = {response_.body->data(), bytes};
  whole_->content_length(bytes);
  http::async_write(stream_, *whole_, std::move(done));
}

void Connection::onWritten(error_code failed) {
  if (state_ != State::writing) return;
  if (failed == boost::beast::error::timeout) ++shared_->dropped_slow;
  serializer_.reset();
  whole_.reset();
  head_.reset();
  response_ = {};
  if (failed || !keep_) return close();
  read();
}

// --- events ---------------------------------------------------------------------------------

void Connection::beginStream() {
  if (state_ != State::answering) return;
  Shared::Places& mine = shared_->of_host[host_];
  const Options& o = shared_->options;
  if (mine.streams >= mayListen(o.per_host_max) || shared_->streams >= mayListen(o.connections_max))
    return answer(text(503, "there are too many listeners\n"));
  answer_timer_.cancel();
  state_ = State::streaming;
  ++mine.streams;
  ++shared_->streams;
  keep_ = false;
  response_ = {};
  response_.type = "text/event-stream";
  fill(head_.emplace(), response_);
  serializer_.emplace(*head_);
  writing_ = true;
  stream_.expires_after(ms(shared_->options.write_ms_max));
  http::async_write_header(stream_, *serializer_,
                           [self = shared_from_this()](error_code failed, size_t) {
                             self->writing_ = false;
                             if (failed || self->head_only_) return self->close();
                             self->stream_.expires_never();
                             self->awaitEnd();
                             self->writeBlock();
                           });
}

// The client's end of the connection, or a byte that no listener sends.
void Connection::awaitEnd() {
  stream_.async_read_some(asio::buffer(&byte_, 1),
                          [self = shared_from_this()](error_code, size_t) { self->close(); });
}

bool Connection::push(std::shared_ptr<const std::string> block) {
  if (state_ != State::streaming || ending_) return false;
  unsent_bytes_ += block->size();
  blocks_.push_back(std::move(block));
  if (blocks_.size() > EventStream::kUnsentBlocksMax ||
      unsent_bytes_ > EventStream::kUnsentBytesMax) {
    ++shared_->dropped_slow;
    close();
    return false;
  }
  writeBlock();
  return true;
}

void Connection::writeBlock() {
  if (state_ != State::streaming || writing_) return;
  if (blocks_.empty()) {
    if (ending_) close();
    return;
  }
  writing_ = true;
  const auto block = blocks_.front();
  stream_.expires_after(ms(shared_->options.write_ms_max));
  asio::async_write(stream_, asio::buffer(*block),
                    [self = shared_from_this(), block](error_code failed, size_t) {
                      self->writing_ = false;
                      // The end of the connection has then been seen by awaitEnd(), too.
                      if (failed == boost::beast::error::timeout) ++self->shared_->dropped_slow;
                      if (self->state_ != State::streaming) return;
                      if (failed) return self->close();
                      self->unsent_bytes_ -= block->size();
                      self->blocks_.pop_front();
                      self->writeBlock();
                    });
}

// What is queued still goes out.
void Connection::endStream() {
  ending_ = true;
  if (state_ == State::streaming && blocks_.empty() && !writing_) close();
}

}  // namespace mayfly::web
