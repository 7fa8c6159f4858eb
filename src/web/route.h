// What a part of the daemon's HTTP pages sees of the server: requests, answers, streams of events.
//
//   router.get("/api/state", [&](const web::Request&, web::Reply reply) {
//     reply.send(web::json(text));
//   });
//
// The server has checked the client's right, method and host before a handler runs, and adds the
// security headers to each answer. Only GET and HEAD exist: no request changes anything.
//
// Layer: web (uses base only). All of it happens on the HTTP thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::web {

struct Request {
  std::string path;   // as sent, without the query; begins with '/'
  std::string query;  // behind the '?', as sent
  std::string if_none_match, accept_encoding, accept;
  bool head = false;  // HEAD: the answer's body is not sent

  // The decoded value of a query's parameter; nothing if it is missing or cannot be decoded.
  std::optional<std::string> param(std::string_view name) const;
  bool accepts(std::string_view encoding) const;  // e.g. "gzip"
};

struct Response {
  unsigned status = 200;
  std::string type = "text/plain; charset=utf-8";
  std::shared_ptr<const std::string> body;  // shared: an asset is never copied; null: empty
  std::string encoding;                     // of the body, e.g. "gzip"; empty: none
  std::string etag;  // with its quotes; an equal If-None-Match is answered with 304. Empty: none
  std::string cache = "no-store";  // Cache-Control
};

Response text(unsigned status, std::string body);
Response json(std::string body, unsigned status = 200);

class Connection;  // the server's

// A client that listens to server-sent events. It ends when its last reference does, when the
// client goes, or when the client does not read: kUnsentBytesMax.
class EventStream {
 public:
  static constexpr size_t kUnsentBytesMax = 1u << 20;  // queued for one client
  static constexpr size_t kUnsentBlocksMax = 8;

  explicit EventStream(std::weak_ptr<Connection> connection) : connection_(std::move(connection)) {}
  ~EventStream();
  EventStream(const EventStream&) = delete;
  EventStream& operator=(const EventStream&) = delete;
  // Queues a whole block, as event() makes it. False: the client is gone, or was just dropped
  // because it does not read.
  bool send(std::shared_ptr<const std::string> block);
  bool alive() const;
  size_t unsent() const;  // blocks; a publisher of states may skip one while it is not 0

 private:
  std::weak_ptr<Connection> connection_;
};

// One event as the stream's bytes. `id` and `type` may be empty; `data` may have several lines.
std::shared_ptr<const std::string> event(std::string_view type, std::string_view data,
                                         std::string_view id = {});

// The duty to answer one request. Dropped without an answer: 500.
class Reply {
 public:
  explicit Reply(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}
  Reply(Reply&&) noexcept = default;
  Reply& operator=(Reply&&) = delete;
  ~Reply();
  // Each at most once, and only one of them. They may be called later, too; a client that has gone
  // by then gets nothing.
  void send(Response response);
  std::shared_ptr<EventStream> events();  // the answer is a stream

 private:
  std::shared_ptr<Connection> connection_;
};

// std::function copies its target, so a reply that is kept goes into a shared pointer.
using Handler = std::function<void(const Request&, Reply)>;

enum class Access : uint8_t {
  guarded,  // wants the token, if the server has one
  open,     // for probes: says nothing worth a secret
};

class Router {
 public:
  // An exact path, or, ending with '/', every path below it that no longer entry matches.
  void get(std::string path, Handler handler, Access access = Access::guarded);
  struct Found {
    const Handler* handler = nullptr;  // null: 404
    Access access = Access::guarded;
  };
  Found find(std::string_view path) const;

 private:
  struct Entry {
    Handler handler;
    Access access;
  };
  std::map<std::string, Entry, std::less<>> entries_;
};

// The listeners of one kind of events. A listener that has unsent blocks is left out: each event is
// a whole state, so it loses nothing but a moment.
class Channel {
 public:
  void add(std::shared_ptr<EventStream> listener) { listeners_.push_back(std::move(listener)); }
  void publish(const std::shared_ptr<const std::string>& block);
  size_t size();  // living listeners

 private:
  std::vector<std::shared_ptr<EventStream>> listeners_;
};

}  // namespace mayfly::web
