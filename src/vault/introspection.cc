#include "vault/introspection.h"

#include <sodium.h>

#include <nlohmann/json.hpp>

#include <chrono>
#include <utility>

#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>

#include "base/clock.h"
#include "vault/sigv4.h"

namespace mayfly::vault {

namespace http = boost::beast::http;
using boost::asio::ip::tcp;
using HttpAnswer = http::response<http::string_body>;
using HttpQuestion = http::request<http::string_body>;

namespace {

constexpr std::string_view kBearer = "Bearer ";
constexpr std::string_view kTokenField = "token=";

// application/x-www-form-urlencoded. A credential has no byte that needs an encoding.
std::string_view tokenIn(std::string_view form) {
  while (!form.empty()) {
    const std::string_view one = form.substr(0, form.find('&'));
    form.remove_prefix(std::min(form.size(), one.size() + 1));
    if (one.starts_with(kTokenField)) return one.substr(kTokenField.size());
  }
  return {};
}

bool mayAsk(const SecretStore& secrets, const std::string& name, std::string_view shown) {
  auto secret = secrets.find(name);
  if (!secret || !shown.starts_with(kBearer)) return false;
  // Hashes have equal lengths, so the comparison takes the same time for each token.
  const std::string a = sha256Hex(shown.substr(kBearer.size()));
  const std::string b = sha256Hex((*secret)->reveal());
  return ::sodium_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string describe(const std::optional<MintedFor>& what) {
  nlohmann::ordered_json out;
  out["active"] = what.has_value();
  if (what) {
    out["scope"] = what->scope;
    out["aud"] = what->audience;
    out["token_type"] = "Bearer";
    out["sub"] = "task-" + std::to_string(what->task);
    out["client_id"] = what->action;
    out["iat"] = what->issued_s;
    out["exp"] = what->expires_s;
  }
  return out.dump() + "\n";
}

}  // namespace

struct Introspection::Listener {
  Listener(Hub& h, config::Introspection w) : hub(h), where(std::move(w)), acceptor(h.io) {}
  void accept(const std::shared_ptr<Listener>& self);

  Hub& hub;
  config::Introspection where;
  tcp::acceptor acceptor;
  uint32_t connections = 0;
};

struct Introspection::Connection : std::enable_shared_from_this<Connection> {
  Connection(std::shared_ptr<Listener> l, tcp::socket socket)
      : listener(std::move(l)), stream(std::move(socket)), buffer(kRequestBytesMax) {
    ++listener->connections;
    stream.expires_after(std::chrono::seconds(kConnectionSecondsMax));
  }
  ~Connection() { --listener->connections; }

  void read() {
    parser.emplace();
    parser->body_limit(kRequestBytesMax);
    parser->header_limit(kRequestBytesMax);
    http::async_read(stream, buffer, *parser,
                     [self = shared_from_this()](boost::beast::error_code failed, size_t) {
                       if (!failed) self->answer(self->parser->get());
                     });
  }

  void answer(const HttpQuestion& question) {
    out = HttpAnswer(http::status::ok, question.version());
    out.set(http::field::cache_control, "no-store");
    out.set(http::field::content_type, "application/json");
    const auto shown = question[http::field::authorization];
    Hub& hub = listener->hub;
    if (question.method() != http::verb::post || question.target() != "/introspect") {
      out.result(http::status::not_found);
      out.body() = "{\"error\":\"POST /introspect\"}\n";
    } else if (!mayAsk(hub.secrets, listener->where.secret, {shown.data(), shown.size()})) {
      out.result(http::status::unauthorized);
      out.set(http::field::www_authenticate, "Bearer");
      out.body() = "{\"error\":\"invalid_client\"}\n";
    } else {
      auto what = hub.mint.find(tokenIn(question.body()), base::monotonicNs());
      // The book is asked, too: a session that is over has nothing active.
      if (what && !hub.book.active(what->session, base::monotonicNs())) what.reset();
      out.body() = describe(what);
    }
    out.keep_alive(question.keep_alive());
    out.prepare_payload();
    http::async_write(stream, out,
                      [self = shared_from_this()](boost::beast::error_code failed, size_t) {
                        if (!failed && self->out.keep_alive()) self->read();
                      });
  }

  std::shared_ptr<Listener> listener;
  boost::beast::tcp_stream stream;
  boost::beast::flat_buffer buffer;
  std::optional<http::request_parser<http::string_body>> parser;
  HttpAnswer out;
};

void Introspection::Listener::accept(const std::shared_ptr<Listener>& self) {
  acceptor.async_accept([self](boost::system::error_code failed, tcp::socket socket) {
    if (!self->acceptor.is_open()) return;
    if (!failed && self->connections < kConnectionsMax)
      std::make_shared<Connection>(self, std::move(socket))->read();
    self->accept(self);
  });
}

Introspection::Introspection(Hub& hub) : hub_(hub) {}

Introspection::~Introspection() {
  boost::system::error_code ignored;
  if (listener_) listener_->acceptor.close(ignored);
}

base::Status Introspection::listen(const config::Introspection& where) {
  if (listener_ && listener_->where.listen == where.listen && listener_->where.port == where.port) {
    listener_->where = where;
    return base::Unit{};
  }
  boost::system::error_code failed, ignored;
  const auto leave = [&] {
    if (listener_) listener_->acceptor.close(ignored);
    listener_.reset();
  };
  if (!where.listen) return leave(), base::Unit{};
  auto next = std::make_shared<Listener>(hub_, where);
  const auto address = boost::asio::ip::make_address(config::formatAddress(*where.listen), failed);
  const tcp::endpoint place(address, where.port);
  const auto ok = [&] { return !failed; };
  if (ok()) next->acceptor.open(place.protocol(), failed);
  if (ok()) next->acceptor.set_option(tcp::acceptor::reuse_address(true), failed);
  if (ok()) next->acceptor.bind(place, failed);
  if (ok()) next->acceptor.listen(kConnectionsMax, failed);
  if (!ok())
    return base::fail(base::Code::unavailable,
                      "cannot listen for introspection at " + config::formatAddress(*where.listen) +
                          ":" + std::to_string(where.port) + ": " + failed.message());
  leave();
  listener_ = std::move(next);
  listener_->accept(listener_);
  return base::Unit{};
}

}  // namespace mayfly::vault
