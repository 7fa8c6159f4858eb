#include "front/request.h"

#include <algorithm>
#include <optional>

#include <boost/beast/http/basic_parser.hpp>

namespace mayfly::front {

namespace http = boost::beast::http;
using boost::beast::error_code;

namespace {

constexpr size_t kMethodBytesMax = 32;
constexpr size_t kFieldNameBytesMax = 128;
constexpr size_t kRequestLineExtraBytes = kMethodBytesMax + 16;  // beside the target
constexpr size_t kLengthDigitsMax = 16;  // Beast has refused what is larger than kBodyBytesMax
constexpr size_t kChunkLineBytesMax = 8u << 10;  // an unfinished chunk line, or the trailers
constexpr size_t kExtensionBytesMax = 4u << 10;  // of all chunks of a body
constexpr size_t kTrailersMax = 32;
constexpr size_t kConnectionWordsMax = 32;
constexpr uint64_t kBodyBytesMax = uint64_t{1} << 50;  // the vault's rules have the real bounds

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
bool isDigit(char c) { return c >= '0' && c <= '9'; }
bool isLetter(char c) { return lower(c) >= 'a' && lower(c) <= 'z'; }
bool isControl(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f;
}

template <class Use>
void eachWord(std::string_view list, Use use) {
  while (!list.empty()) {
    const size_t comma = list.find(',');
    std::string_view word = list.substr(0, comma);
    list = comma == std::string_view::npos ? std::string_view() : list.substr(comma + 1);
    while (!word.empty() && (word.front() == ' ' || word.front() == '\t')) word.remove_prefix(1);
    while (!word.empty() && (word.back() == ' ' || word.back() == '\t')) word.remove_suffix(1);
    if (!word.empty()) use(word);
  }
}

// Fields of one hop (RFC 9110, 7.6.1), and those that say how the body was framed.
constexpr std::string_view kOneHop[] = {
    "connection", "keep-alive",          "proxy-connection", "proxy-authenticate",
    "te",         "proxy-authorization", "trailer",          "transfer-encoding",
    "upgrade",    "http2-settings",      "content-length",   "expect"};

Refusal refusalOf(error_code error) {
  if (error == http::error::bad_version)
    return {505,
            base::Code::invalidArgument,
            "the broker speaks HTTP/1.1 and HTTP/1.0 only",
            {},
            "front.version",
            0,
            true};
  if (error == http::error::header_limit)
    return refuseSize(431, "the request's head is too large").value();
  if (error == http::error::body_limit)
    return refuseSize(413, "the body is larger than any rule allows").value();
  return refuseFraming("the request is no HTTP: " + error.message()).value();
}

Passed checkTarget(std::string_view target, const Options& options) {
  if (target.size() > options.target_bytes_max)
    return refuseSize(
        414, "the target is longer than " + std::to_string(options.target_bytes_max) + " bytes");
  const auto bad = std::find_if(target.begin(), target.end(), [](char c) {
    return static_cast<unsigned char>(c) > 0x7e || static_cast<unsigned char>(c) <= 0x20 ||
           c == '#' || c == '\\';
  });
  if (bad == target.end()) return base::Unit{};
  return refuseFraming("the target has a byte that no target may have",
                       "Percent-encode it, e.g. %C3%A4.");
}

// A host, with or without a port.
bool isAuthority(std::string_view text) {
  if (text.empty() || text.size() > 300) return false;
  std::string_view host = text;
  if (const size_t colon = text.rfind(':');
      colon != std::string_view::npos && text.find(']', colon) == std::string_view::npos) {
    host = text.substr(0, colon);
    const std::string_view port = text.substr(colon + 1);
    if (port.size() > 5 || !std::all_of(port.begin(), port.end(), isDigit)) return false;
  }
  if (host.starts_with('['))
    return host.size() > 2 && host.back() == ']' &&
           std::all_of(host.begin() + 1, host.end() - 1,
                       [](char c) { return isDigit(c) || isLetter(c) || c == ':' || c == '.'; });
  return !host.empty() && std::all_of(host.begin(), host.end(), [](char c) {
    return isDigit(c) || isLetter(c) || c == '-' || c == '.' || c == '_';
  });
}

Passed readFraming(Request& r) {
  const Field* coding = nullptr;
  const Field* length = nullptr;
  for (const Field& field : r.fields) {
    const bool is_coding = sameWord(field.name, "transfer-encoding");
    if (!is_coding && !sameWord(field.name, "content-length")) continue;
    const Field*& first = is_coding ? coding : length;
    if (first != nullptr) return refuseFraming(field.name + " is there twice");
    first = &field;
  }
  if (coding != nullptr && length != nullptr)
    return refuseFraming("Content-Length and Transfer-Encoding together");
  if (coding != nullptr) {
    if (!sameWord(coding->value, "chunked"))
      return refuseFraming("the only Transfer-Encoding is `chunked`");
    if (r.version < 11) return refuseFraming("HTTP/1.0 has no Transfer-Encoding");
    r.body = Request::Body::chunked;
  } else if (length != nullptr) {
    const std::string& digits = length->value;
    if (digits.empty() || digits.size() > kLengthDigitsMax ||
        !std::all_of(digits.begin(), digits.end(), isDigit) ||
        (digits.size() > 1 && digits[0] == '0'))
      return refuseFraming("Content-Length is no length");
    r.body_bytes = std::stoull(digits);
    if (r.body_bytes > 0) r.body = Request::Body::length;
  }
  return base::Unit{};
}

Passed checkHost(const Request& r) {
  const auto hosts = std::count_if(r.fields.begin(), r.fields.end(),
                                   [](const Field& f) { return sameWord(f.name, "host"); });
  if (hosts > 1) return refuseFraming("Host is there twice");
  if (hosts == 0) {
    if (r.version >= 11) return refuseFraming("Host is missing");
    return base::Unit{};
  }
  const std::string& host = *r.field("host");
  if (!host.empty() && !isAuthority(host)) return refuseFraming("Host names no host");
  return base::Unit{};
}

Passed readConnection(Request& r) {
  bool close = false, keep = false, upgrade = r.field("upgrade") != nullptr;
  size_t words = 0;
  for (const Field& field : r.fields) {
    if (!sameWord(field.name, "connection")) continue;
    // Each is compared with each header.
    eachWord(field.value, [&](std::string_view) { ++words; });
    if (words > kConnectionWordsMax) return refuseFraming("Connection names too many headers");
    close = close || hasWord(field.value, "close");
    keep = keep || hasWord(field.value, "keep-alive");
    upgrade = upgrade || hasWord(field.value, "upgrade");
  }
  if (upgrade)
    return refuse({501, base::Code::invalidArgument, "the broker upgrades no connection",
                   "Ask with plain HTTP/1.1 (curl: --http1.1).", "front.upgrade", 0, true});
  r.keeps = r.version >= 11 ? !close : keep && !close;
  if (const std::string* expect = r.field("expect")) {
    if (!sameWord(*expect, "100-continue"))
      return refuse({417,
                     base::Code::invalidArgument,
                     "the only Expect is `100-continue`",
                     {},
                     "front.expect",
                     0,
                     true});
    r.awaits_continue = r.version >= 11 && r.body != Request::Body::none;
  }
  return base::Unit{};
}

}  // namespace

bool sameWord(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

bool isToken(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return isDigit(c) || isLetter(c) ||
           std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

bool hasWord(std::string_view list, std::string_view word) {
  bool has = false;
  eachWord(list, [&](std::string_view each) { has = has || sameWord(each, word); });
  return has;
}

std::vector<const Field*> endToEnd(const std::vector<Field>& fields) {
  std::vector<std::string_view> dropped(std::begin(kOneHop), std::end(kOneHop));
  for (const Field& field : fields)
    if (sameWord(field.name, "connection"))
      eachWord(field.value, [&](std::string_view word) { dropped.push_back(word); });
  std::vector<const Field*> kept;
  kept.reserve(fields.size());
  for (const Field& field : fields)
    if (std::none_of(dropped.begin(), dropped.end(),
                     [&](std::string_view name) { return sameWord(name, field.name); }))
      kept.push_back(&field);
  return kept;
}

const std::string* Request::field(std::string_view name) const {
  for (const Field& each : fields)
    if (sameWord(each.name, name)) return &each.value;
  return nullptr;
}

// --- HeadScanner -----------------------------------------------------------------

// `at_` is behind the line's end.
Passed HeadScanner::lineEnd(std::string_view bytes) {
  const size_t length = at_ - 2 - line_;
  if (lines_ == 0 && length > options_->target_bytes_max + kRequestLineExtraBytes)
    return refuseSize(414, "the request line is too long");
  if (lines_ == 0 && length == 0) return refuseFraming("the request begins with an empty line");
  if (++lines_ > size_t{options_->headers_max} + 1 && length > 0)
    return refuseSize(431, "more than " + std::to_string(options_->headers_max) + " headers");
  if (at_ < bytes.size() && (bytes[at_] == ' ' || bytes[at_] == '\t'))
    return refuseFraming("a header's line is folded");
  line_ = at_;
  return base::Unit{};
}

Checked<size_t> HeadScanner::look(std::string_view bytes) {
  // A line's end is looked at together with the byte behind it, which shows a folded line. The
  // blank line needs none.
  while (at_ < bytes.size()) {
    const char c = bytes[at_];
    if (c != '\r' && c != '\n') {
      if (isControl(c) && c != '\t') return refuseFraming("the head has a control character");
      if (at_ == 0 && (c == ' ' || c == '\t'))
        return refuseFraming("the request begins with a blank");
      ++at_;
      if (lines_ == 0 && at_ - line_ > options_->target_bytes_max + kRequestLineExtraBytes)
        return refuseSize(414, "the request line is too long");
    } else {
      if (c == '\n') return refuseFraming("a line ends without a carriage return");
      const bool blank = at_ == line_ && lines_ > 0;
      const size_t needed = blank ? 2 : 3;
      if (at_ + 1 < bytes.size() && bytes[at_ + 1] != '\n')
        return refuseFraming("a carriage return stands alone");
      if (bytes.size() - at_ < needed) break;
      at_ += 2;
      if (blank) {
        if (at_ > options_->head_bytes_max) break;
        return at_;
      }
      auto sound = lineEnd(bytes);
      if (!sound) return refuse(std::move(sound).error());
    }
  }
  if (at_ > options_->head_bytes_max || bytes.size() > options_->head_bytes_max)
    return refuseSize(431, "the request's head is larger than " +
                               std::to_string(options_->head_bytes_max) + " bytes");
  return size_t{0};
}

// --- RequestParser ---------------------------------------------------------------

class RequestParser::Parser final : public http::basic_parser<true> {
 public:
  explicit Parser(const Options& options) {
    header_limit(static_cast<uint32_t>(options.head_bytes_max));
    body_limit(kBodyBytesMax);
  }
  Request request;
  std::string* body = nullptr;
  // The rest may be the beginning of the last chunk. Beast asserts that it gets none of less than 5
  // bytes twice.
  bool wantsMore(std::string_view rest) const {
    return chunk_left_ == 0 && request.body == Request::Body::chunked && rest.size() < 5 &&
           rest.starts_with('0');
  }

 private:
  void on_request_impl(http::verb, boost::beast::string_view method,
                       boost::beast::string_view target, int version, error_code&) override {
    request.method.assign(method.data(), method.size());
    request.target.assign(target.data(), target.size());
    request.version = static_cast<unsigned>(version);
  }
  void on_response_impl(int, boost::beast::string_view, int, error_code&) override {}
  void on_field_impl(http::field, boost::beast::string_view name, boost::beast::string_view value,
                     error_code& error) override {
    if (in_body_) {  // a trailer: dropped
      if (++trailers_ > kTrailersMax) error = http::error::bad_field;
      return;
    }
    if (name.size() > kFieldNameBytesMax)
      error = http::error::header_limit;
    else
      request.fields.push_back(
          {std::string(name.data(), name.size()), std::string(value.data(), value.size())});
  }
  void on_header_impl(error_code&) override { in_body_ = true; }
  void on_body_init_impl(boost::optional<uint64_t> const&, error_code&) override {}
  size_t on_body_impl(boost::beast::string_view bytes, error_code&) override {
    body->append(bytes.data(), bytes.size());
    return bytes.size();
  }
  void on_chunk_header_impl(uint64_t size, boost::beast::string_view extensions,
                            error_code& error) override {
    chunk_left_ = size;
    extension_bytes_ += extensions.size();
    if (extension_bytes_ > kExtensionBytesMax) error = http::error::bad_chunk_extension;
  }
  size_t on_chunk_body_impl(uint64_t, boost::beast::string_view bytes, error_code&) override {
    chunk_left_ -= bytes.size();
    body->append(bytes.data(), bytes.size());
    return bytes.size();
  }
  void on_finish_impl(error_code&) override {}

  bool in_body_ = false;
  size_t trailers_ = 0, extension_bytes_ = 0;
  uint64_t chunk_left_ = 0;
};

RequestParser::RequestParser(const Options& options)
    : parser_(std::make_unique<Parser>(options)), options_(&options) {}
RequestParser::RequestParser(RequestParser&&) noexcept = default;
RequestParser& RequestParser::operator=(RequestParser&&) noexcept = default;
RequestParser::~RequestParser() = default;

bool RequestParser::done() const { return parser_->is_done(); }

Checked<Request> RequestParser::head(std::string_view head) {
  error_code error;
  const size_t used = parser_->put(boost::asio::buffer(head.data(), head.size()), error);
  if (error) return refuse(refusalOf(error));
  if (used != head.size() || !parser_->is_header_done())
    return refuseFraming("the head does not end where it should");
  Request request = std::move(parser_->request);
  const auto check = [&](Passed passed, auto&& next) { return passed ? next() : passed; };
  auto sound = check(checkTarget(request.target, *options_), [&] {
    return check(readFraming(request), [&] {
      return check(checkHost(request), [&] { return readConnection(request); });
    });
  });
  if (!sound) return refuse(std::move(sound).error());
  if (request.method.size() > kMethodBytesMax) return refuseSize(501, "the method is too long");
  parser_->request.body = request.body;
  return request;
}

Checked<size_t> RequestParser::body(std::string_view bytes, std::string& body) {
  parser_->body = &body;
  size_t used = 0;
  while (!parser_->is_done() && used < bytes.size()) {
    error_code error;
    const std::string_view rest = bytes.substr(used);
    if (parser_->wantsMore(rest)) break;
    const size_t n = parser_->put(boost::asio::buffer(rest.data(), rest.size()), error);
    used += n;
    if (error == http::error::need_more) break;
    if (error) return refuse(refusalOf(error));
    if (n == 0 && !parser_->is_done()) return refuseFraming("the body cannot be read");
  }
  if (!parser_->is_done() && bytes.size() - used > kChunkLineBytesMax)
    return refuseFraming("a chunk's line, or the trailers, are too long");
  return used;
}

}  // namespace mayfly::front
