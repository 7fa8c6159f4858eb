#include "front/answer.h"

#include <algorithm>

#include <boost/beast/http/status.hpp>
#include <fmt/format.h>

namespace mayfly::front {

namespace {

bool isValue(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte < 0x20 && c != '\t') || byte == 0x7f;
  });
}

tl::unexpected<base::Error> fault(std::string what) {
  return base::fail(base::Code::internal, "the answer cannot be passed on: " + std::move(what));
}

}  // namespace

base::Result<std::string> Answer::begin(const Request& request, uint16_t status,
                                        const std::vector<Field>& fields, int64_t body_bytes,
                                        bool body_done) {
  if (status < 200 || status > 599) return fault(fmt::format("status {}", status));
  const auto reason =
      boost::beast::http::obsolete_reason(boost::beast::http::int_to_status(status));
  std::string out =
      fmt::format("HTTP/1.1 {} {}\r\n", status, std::string_view(reason.data(), reason.size()));
  for (const Field* field : endToEnd(fields)) {
    if (!isToken(field->name) || !isValue(field->value)) return fault("a header is malformed");
    out.append(field->name).append(": ").append(field->value).append("\r\n");
    if (out.size() > kAnswerHeadBytesMax) return fault("its head is too large");
  }
  const bool bodiless = status == 204 || status == 304;
  closes_ = !request.keeps || !body_done;
  if (bodiless || request.method == "HEAD") {
    framing_ = Framing::none;
    if (body_bytes >= 0 && !bodiless)
      fmt::format_to(std::back_inserter(out), "Content-Length: {}\r\n", body_bytes);
  } else if (body_bytes >= 0) {
    framing_ = Framing::length;
    left_ = static_cast<uint64_t>(body_bytes);
    fmt::format_to(std::back_inserter(out), "Content-Length: {}\r\n", body_bytes);
  } else if (request.version >= 11) {
    framing_ = Framing::chunked;
    out += "Transfer-Encoding: chunked\r\n";
  } else {
    framing_ = Framing::untilClose;
    closes_ = true;
  }
  if (closes_)
    out += "Connection: close\r\n";
  else if (request.version < 11)
    out += "Connection: keep-alive\r\n";
  out += "\r\n";
  begun_ = true;
  return out;
}

bool Answer::body(std::string_view bytes, std::string& out) {
  if (bytes.empty() || framing_ == Framing::none) return true;
  if (framing_ == Framing::length) {
    if (bytes.size() > left_) return false;
    left_ -= bytes.size();
  }
  if (framing_ == Framing::chunked)
    fmt::format_to(std::back_inserter(out), "{:x}\r\n", bytes.size());
  out += bytes;
  if (framing_ == Framing::chunked) out += "\r\n";
  return true;
}

bool Answer::end(std::string& out) {
  if (framing_ == Framing::length && left_ > 0) return false;
  if (framing_ == Framing::chunked) out += "0\r\n\r\n";
  return true;
}

}  // namespace mayfly::front
