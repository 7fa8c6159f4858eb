// One client of the HTTP server: reads a request, checks it, has it answered, and again; or sends
// it events until one side ends.
//
// Layer: web, internal to it. HTTP thread.
#pragma once

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/serializer.hpp>
#include <boost/beast/http/span_body.hpp>

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "web/route.h"
#include "web/shared.h"

namespace mayfly::web {

class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<Shared> shared, boost::asio::ip::tcp::socket socket, std::string host);
  ~Connection();

  void read();   // the next request
  void close();  // at once

  // --- calls of Reply and EventStream ---
  void answer(Response response);
  void beginStream();
  void endStream();
  bool push(std::shared_ptr<const std::string> block);
  bool isOpen() const { return state_ != State::closed; }
  size_t unsentBlocks() const { return blocks_.size(); }

  // --- for who wants its place ---
  // Whether it may be ended: it waits for a request, or its client has not read all of an answer in
  // kStuckMs.
  bool mayGo(uint64_t now_ns) const;
  uint64_t since_ns() const { return since_ns_; }  // of its present state
  const std::string& host() const { return host_; }

 private:
  static constexpr uint64_t kStuckMs = 2'000;
  enum class State : uint8_t { reading, answering, writing, streaming, closed };
  using Parser = boost::beast::http::request_parser<boost::beast::http::empty_body>;
  using Head = boost::beast::http::response<boost::beast::http::empty_body>;
  using Whole = boost::beast::http::response<boost::beast::http::span_body<const char>>;

  void enter(State state);
  void onRead(boost::system::error_code failed);
  void handle();
  std::optional<Response> refusal(Access access) const;
  bool isForUs() const;
  bool hasToken() const;
  template <class Message>
  void fill(Message& message, const Response& response) const;
  void onWritten(boost::system::error_code failed);
  void awaitEnd();
  void writeBlock();

  std::shared_ptr<Shared> shared_;
  std::string host_;  // the client's, as hostOf() says
  boost::beast::tcp_stream stream_;
  boost::beast::flat_buffer buffer_;
  std::optional<Parser> parser_;
  boost::asio::steady_timer answer_timer_;
  State state_ = State::reading;
  bool keep_ = false;  // another request may follow
  bool head_only_ = false;
  uint32_t requests_ = 0;
  uint64_t since_ns_ = 0;
  // The answer, while it is written.
  Response response_;
  std::optional<Head> head_;
  std::optional<Whole> whole_;
  std::optional<boost::beast::http::response_serializer<boost::beast::http::empty_body>>
      serializer_;
  // A stream's.
  std::deque<std::shared_ptr<const std::string>> blocks_;
  size_t unsent_bytes_ = 0;
  bool writing_ = false, ending_ = false;
  char byte_ = 0;  // that a listener should not send
};

}  // namespace mayfly::web
