// A daemon's messages over HTTP: one, or one after the other by server-sent events.
//
// Everything is bounded: the time to connect and to answer, the answer's bytes, the silence of a
// stream. No proxy is asked and no redirection followed, so the token goes to the named address
// alone.
//
// Layer: cli. All of it happens on the io_context's thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mayfly::cli {

struct HttpAddress {
  std::string host, port, token;  // host: a name or an IP address; token: empty if there is none
  std::string text() const;       // "127.0.0.1:9464"
};
// "127.0.0.1:9464", "[::1]:9464", "http://host:9464/"; "localhost" alone has no port: refused.
base::Result<HttpAddress> parseHttpAddress(std::string_view text);

inline constexpr std::chrono::seconds kAnswerTimeMax{5}, kSilenceMax{15};
inline constexpr size_t kMessageBytesMax = 4u << 20;

// Cuts a stream of server-sent events. Holds at most one unfinished event.
class EventReader {
 public:
  using Take = std::function<void(std::string_view data)>;
  explicit EventReader(Take take) : take_(std::move(take)) {}
  base::Status feed(std::string_view bytes);

 private:
  void line(std::string_view line);
  Take take_;
  std::string rest_, data_;
};

// One request. Ends when its last reference does.
class HttpFeed : public std::enable_shared_from_this<HttpFeed> {
 public:
  using Data = std::function<void(std::string_view message)>;
  using End = std::function<void(base::Status)>;  // at most once, and last

  // `target`: "/api/v1/live" or "/api/v1/now". With a stream, `data` gets each event, else the
  // whole answer.
  static std::shared_ptr<HttpFeed> open(boost::asio::io_context& io, const HttpAddress& address,
                                        std::string target, Data data, End end);
  virtual void stop() = 0;  // no call comes after it
  virtual ~HttpFeed() = default;
};

}  // namespace mayfly::cli
