// One HTTP/1.1 answer, from values to bytes.
//
// Layer: front. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "front/request.h"

namespace mayfly::front {

// How the connection goes on after an answer.
enum class After : uint8_t {
  keep,     // another request may follow
  close,    // the answer is whole
  reset,    // the answer is not whole, and the peer must see that
  timeout,  // the request did not come in time
  gone,     // nothing to say
};

class Answer {
 public:
  static constexpr int64_t kUnknownBytes = -1;
  // The answer's head. `body_done`: the request has come to its end, so the next one could follow.
  // An error: the vault's head is none that a client may see.
  base::Result<std::string> begin(const Request& request, uint16_t status,
                                  const std::vector<Field>& fields, int64_t body_bytes,
                                  bool body_done);
  // `bytes` of the body, framed, onto `out`. False: more bytes than the head told.
  bool body(std::string_view bytes, std::string& out);
  // The end of the body, onto `out`. False: fewer bytes than the head told.
  bool end(std::string& out);

  bool begun() const { return begun_; }
  After after() const { return closes_ ? After::close : After::keep; }

 private:
  enum class Framing : uint8_t { none, length, chunked, untilClose };
  Framing framing_ = Framing::none;
  uint64_t left_ = 0;  // Framing::length
  bool begun_ = false, closes_ = true;
};

}  // namespace mayfly::front
