#include "cli/http_feed.h"

#include <fmt/format.h>

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <limits>
#include <optional>
#include <utility>

#include "base/text.h"

namespace mayfly::cli {

using base::Code;
using base::fail;
using base::printable;
using base::Result;
using base::Status;

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr size_t kBodyBytes = 64u << 10;
constexpr uint32_t kHeadBytesMax = 16u << 10;
constexpr const char* kHttpAdvice =
    "Name the daemon's http.listen: `mayfly top ADDRESS`, MAYFLY_HTTP or --config. "
    "docs/dashboard.md explains how to switch it on.";

base::Error unreachable(const HttpAddress& address, std::string_view what, const error_code& why) {
  const bool late = why == beast::error::timeout;
  return {Code::unavailable,
          fmt::format("cannot {} {}: {}", what, printable(address.text()),
                      late ? "no answer in time" : why.message()),
          kHttpAdvice};
}

// What an answer that is not 200 means.
base::Error refused(const HttpAddress& address, unsigned status) {
  const std::string who = printable(address.text());
  if (status == 401 || status == 403)
    return {Code::permissionDenied,
            address.token.empty() ? fmt::format("{} wants a token", who)
                                  : fmt::format("{} does not take this token", who),
            "Give the daemon's token: --token-file, or --config with its settings."};
  if (status == 404)
    return {Code::notFound, fmt::format("{} answers, but is no mayflyd of this version", who),
            kHttpAdvice};
  const auto code = status == 503 ? Code::unavailable : Code::internal;
  return {code, fmt::format("{} answered with status {}", who, status), ""};
}

class Feed final : public HttpFeed {
 public:
  Feed(asio::io_context& io, HttpAddress address, std::string target, Data data, End end)
      : resolver_(io),
        stream_(io),
        address_(std::move(address)),
        target_(std::move(target)),
        data_(std::move(data)),
        end_(std::move(end)),
        events_([this](std::string_view event) {
          if (const Data told = data_) told(event);  // which may stop this feed
        }) {}

  void start() {
    resolver_.async_resolve(
        address_.host, address_.port,
        [self = self()](const error_code& why, const tcp::resolver::results_type& found) {
          if (!why)
            self->connect(found);
          else
            self->end(fail(unreachable(self->address_, "find", why)));
        });
  }

  void stop() override {
    data_ = nullptr;
    end_ = nullptr;
    resolver_.cancel();
    close();
  }

 private:
  std::shared_ptr<Feed> self() { return std::static_pointer_cast<Feed>(shared_from_this()); }

  void close() {
    error_code ignored;
    stream_.socket().close(ignored);
  }
  void end(Status status) {
    close();
    data_ = nullptr;
    if (End told = std::exchange(end_, nullptr)) told(std::move(status));
  }
  void lost(std::string_view what, const error_code& why) {
    end(fail(unreachable(address_, what, why)));
  }

  void connect(const tcp::resolver::results_type& found) {
    if (!end_) return;  // stopped
    stream_.expires_after(kAnswerTimeMax);
    stream_.async_connect(found, [self = self()](const error_code& why, const tcp::endpoint&) {
      why ? self->lost("connect to", why) : self->ask();
    });
  }

  void ask() {
    request_.method(http::verb::get);
    request_.target(target_);
    request_.version(11);
    request_.set(http::field::host, address_.text());
    request_.set(http::field::user_agent, "mayfly-top");
    if (!address_.token.empty())
      request_.set(http::field::authorization, "Bearer " + address_.token);
    http::async_write(stream_, request_, [self = self()](const error_code& why, size_t) {
      why ? self->lost("write to", why) : self->readHead();
    });
  }

  void readHead() {
    parser_.header_limit(kHeadBytesMax);
    // A stream has no end; each message has a bound.
    parser_.body_limit(std::numeric_limits<uint64_t>::max());
    http::async_read_header(stream_, buffer_, parser_,
                            [self = self()](const error_code& why, size_t) {
                              why ? self->lost("read from", why) : self->takeHead();
                            });
  }

  void takeHead() {
    const auto& head = parser_.get();
    if (head.result_int() != 200) return end(fail(refused(address_, head.result_int())));
    const std::string type(head[http::field::content_type]);
    streams_ = type.starts_with("text/event-stream");
    if (!streams_ && !type.starts_with("application/json"))
      return end(fail(refused(address_, 404)));
    readBody();
  }

  void readBody() {
    if (!end_) return;
    if (parser_.is_done()) return finish();
    parser_.get().body().data = bytes_.data();
    parser_.get().body().size = bytes_.size();
    stream_.expires_after(streams_ ? kSilenceMax : kAnswerTimeMax);
    http::async_read_some(
        stream_, buffer_, parser_, [self = self()](const error_code& why, size_t) {
          if (why && why != http::error::need_buffer) return self->lost("read from", why);
          const size_t size = self->bytes_.size() - self->parser_.get().body().size;
          self->takeBody({self->bytes_.data(), size});
        });
  }

  void takeBody(std::string_view bytes) {
    if (!data_) return;
    if (streams_) {
      if (auto fed = events_.feed(bytes); !fed) return end(std::move(fed));
    } else if (whole_.size() + bytes.size() > kMessageBytesMax) {
      return end(fail(Code::internal, fmt::format("the answer of {} is longer than {} bytes",
                                                  printable(address_.text()), kMessageBytesMax)));
    } else {
      whole_ += bytes;
    }
    readBody();
  }

  void finish() {
    if (streams_)
      return end(
          fail(Code::unavailable, fmt::format("{} ended the stream", printable(address_.text()))));
    if (const Data told = data_) told(whole_);
    end({});
  }

  tcp::resolver resolver_;
  beast::tcp_stream stream_;
  HttpAddress address_;
  std::string target_;
  Data data_;
  End end_;
  http::request<http::empty_body> request_;
  beast::flat_buffer buffer_{kBodyBytes + kHeadBytesMax};
  http::response_parser<http::buffer_body> parser_;
  std::array<char, kBodyBytes> bytes_{};
  bool streams_ = false;
  EventReader events_;
  std::string whole_;
};

}  // namespace

std::string HttpAddress::text() const {
  return host.find(':') == std::string::npos ? host + ":" + port : "[" + host + "]:" + port;
}

Result<HttpAddress> parseHttpAddress(std::string_view text) {
  const auto wrong = [&](std::string_view why) {
    return fail(Code::invalidArgument, fmt::format("'{}' {}", printable(text), why),
                "Write HOST:PORT, like 127.0.0.1:9464 or [::1]:9464.");
  };
  std::string_view rest = text;
  if (rest.starts_with("https://"))
    return wrong("asks for TLS, which mayflyd does not speak: forward the port by ssh");
  if (rest.starts_with("http://")) rest.remove_prefix(7);
  if (rest.ends_with("/")) rest.remove_suffix(1);
  const size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return wrong("is not HOST:PORT");
  HttpAddress out;
  std::string_view host = rest.substr(0, colon), port = rest.substr(colon + 1);
  if (host.starts_with("[") && host.ends_with("]"))
    host = host.substr(1, host.size() - 2);
  else if (host.find(':') != std::string_view::npos)
    return wrong("needs [ ] around its address");
  uint16_t number = 0;
  const auto [end, fault] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (fault != std::errc() || end != port.data() + port.size() || number == 0)
    return wrong("has no port between 1 and 65535");
  constexpr size_t kHostBytesMax = 253;
  const bool good = !host.empty() && host.size() <= kHostBytesMax &&
                    host.find_first_not_of(
                        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                        "0123456789-._:%") == std::string_view::npos;
  if (!good) return wrong("names no host");
  out.host = host;
  out.port = port;
  return out;
}

Status EventReader::feed(std::string_view bytes) {
  rest_ += bytes;
  size_t from = 0;
  for (size_t end = rest_.find('\n'); end != std::string::npos; end = rest_.find('\n', from)) {
    std::string_view text = std::string_view(rest_).substr(from, end - from);
    if (text.ends_with('\r')) text.remove_suffix(1);
    line(text);
    from = end + 1;
  }
  rest_.erase(0, from);
  if (rest_.size() + data_.size() > kMessageBytesMax)
    return fail(Code::internal, fmt::format("a message is longer than {} bytes", kMessageBytesMax));
  return {};
}

void EventReader::line(std::string_view line) {
  if (line.empty()) {
    if (!data_.empty()) take_(std::string_view(data_).substr(0, data_.size() - 1));
    data_.clear();
  } else if (line.starts_with("data:")) {
    line.remove_prefix(5);
    if (line.starts_with(' ')) line.remove_prefix(1);
    (data_ += line) += '\n';
  }
}

std::shared_ptr<HttpFeed> HttpFeed::open(asio::io_context& io, const HttpAddress& address,
                                         std::string target, Data data, End end) {
  auto feed =
      std::make_shared<Feed>(io, address, std::move(target), std::move(data), std::move(end));
  feed->start();
  return feed;
}

}  // namespace mayfly::cli
