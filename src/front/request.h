// One HTTP/1.1 request, from bytes to values.
//
// Boost.Beast parses. Where Beast is lax (folded lines, repeated lengths, other transfer codings,
// unbounded chunk lines), this file refuses; tests/unit/front_request_test.cc has the table.
//
// Layer: front. Pure: neither reads nor writes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "front/options.h"
#include "front/refusal.h"

namespace mayfly::front {

struct Field {
  std::string name, value;
};

struct Request {
  enum class Body : uint8_t { none, length, chunked };
  std::string method;
  std::string target;
  unsigned version = 11;      // 10 or 11
  std::vector<Field> fields;  // as sent
  Body body = Body::none;
  uint64_t body_bytes = 0;  // Body::length
  bool keeps = false;       // the client wants to send another request
  bool awaits_continue = false;

  const std::string* field(std::string_view name) const;  // the first; null: none
};

bool sameWord(std::string_view a, std::string_view b);  // but for the case of ASCII letters
bool isToken(std::string_view text);
// Whether the list that the field holds, with commas, has the word.
bool hasWord(std::string_view list, std::string_view word);

// The fields that go on to the vault: no hop-by-hop field, none that Connection names, none that
// says how the body was framed.
std::vector<const Field*> endToEnd(const std::vector<Field>& fields);

// Finds the end of a head, and refuses bytes that no head has. Call it again with more bytes.
class HeadScanner {
 public:
  explicit HeadScanner(const Options& options) : options_(&options) {}
  // The head's size with its blank line; 0: more bytes are needed.
  Checked<size_t> look(std::string_view bytes);

 private:
  Passed lineEnd(std::string_view bytes);
  const Options* options_;
  size_t at_ = 0;     // bytes that are looked at
  size_t line_ = 0;   // where the line begins
  size_t lines_ = 0;  // that have ended
};

// Parses one request.
class RequestParser {
 public:
  explicit RequestParser(const Options& options);
  RequestParser(RequestParser&&) noexcept;
  RequestParser& operator=(RequestParser&&) noexcept;
  ~RequestParser();

  Checked<Request> head(std::string_view head);
  // Appends the body's bytes in `bytes` to `body`; returns how many of `bytes` are used up.
  Checked<size_t> body(std::string_view bytes, std::string& body);
  bool done() const;

 private:
  class Parser;
  std::unique_ptr<Parser> parser_;
  const Options* options_;
};

}  // namespace mayfly::front
