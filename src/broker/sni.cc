// Layer: broker. See sni.h.
#include "broker/sni.h"

#include <algorithm>
#include <set>

#include "config/policy_text.h"

namespace mayfly::broker {
namespace {

constexpr size_t kRecordHeaderBytes = 5, kHandshakeHeaderBytes = 4;
constexpr size_t kRecordBytesMax = 16'384;
constexpr uint8_t kHandshakeRecord = 22, kClientHello = 1;
constexpr uint32_t kServerNameExtension = 0, kEncryptedHelloExtension = 0xfe0d;
constexpr size_t kRandomBytes = 32, kSessionIdBytesMax = 32;

// Takes numbers and fields from the front; `ok` turns false when the bytes end early.
struct ByteReader {
  std::string_view rest;
  bool ok = true;

  uint32_t number(size_t bytes) {
    const std::string_view part = take(bytes);
    uint32_t out = 0;
    for (char c : part) out = out << 8 | static_cast<unsigned char>(c);
    return out;
  }
  std::string_view take(size_t bytes) {
    if (bytes > rest.size()) {
      ok = false;
      return {};
    }
    const std::string_view out = rest.substr(0, bytes);
    rest.remove_prefix(bytes);
    return out;
  }
  // A field behind its length.
  std::string_view field(size_t length_bytes) {
    const uint32_t length = number(length_bytes);
    return ok ? take(length) : std::string_view();
  }
};

}  // namespace

HelloReader::State HelloReader::refuse(const char* fault) {
  fault_ = fault;
  handshake_.clear();
  return state_ = State::refused;
}

// One record's bytes, or as many as are there. False: refused, or no bytes are left.
bool HelloReader::takeRecord(std::string_view& bytes) {
  if (left_ == 0) {
    const size_t part = std::min(kRecordHeaderBytes - header_.size(), bytes.size());
    header_ += bytes.substr(0, part);
    bytes.remove_prefix(part);
    if (static_cast<uint8_t>(header_[0]) != kHandshakeRecord ||
        (header_.size() > 1 && header_[1] != 3)) {
      refuse("does not begin with a TLS greeting");
      return false;
    }
    if (header_.size() < kRecordHeaderBytes) return false;
    left_ = ByteReader{std::string_view(header_).substr(3)}.number(2);
    header_.clear();
    if (left_ == 0 || left_ > kRecordBytesMax || ++records_ > kHelloRecordsMax) {
      refuse("has TLS records of a wrong size, or too many");
      return false;
    }
  }
  const size_t part = std::min(left_, bytes.size());
  handshake_ += bytes.substr(0, part);
  left_ -= part;
  bytes.remove_prefix(part);
  return !bytes.empty();
}

HelloReader::State HelloReader::feed(std::string_view bytes) {
  while (state_ == State::more && !bytes.empty()) {
    const bool again = takeRecord(bytes);
    if (state_ != State::more) break;
    if (!handshake_.empty() && handshake_[0] != kClientHello)
      return refuse("does not begin with a TLS greeting");
    if (handshake_.size() >= kHandshakeHeaderBytes) {
      const size_t length = ByteReader{std::string_view(handshake_).substr(1)}.number(3);
      if (length > kHelloBytesMax) return refuse("has too large a TLS greeting");
      if (handshake_.size() >= kHandshakeHeaderBytes + length) {
        handshake_.resize(kHandshakeHeaderBytes + length);
        return parse();
      }
    }
    if (!again) break;
  }
  return state_;
}

HelloReader::State HelloReader::parse() {
  ByteReader in{std::string_view(handshake_).substr(kHandshakeHeaderBytes)};
  const uint32_t version = in.number(2);
  in.take(kRandomBytes);
  const std::string_view session = in.field(1), suites = in.field(2), compressions = in.field(1);
  const std::string_view extensions = in.field(2);
  if (!in.ok || version >> 8 != 3 || session.size() > kSessionIdBytesMax || suites.size() < 2 ||
      suites.size() % 2 != 0 || compressions.empty() || !in.rest.empty())
    return refuse("has a TLS greeting that cannot be read");
  return parseExtensions(extensions);
}

HelloReader::State HelloReader::parseExtensions(std::string_view extensions) {
  ByteReader in{extensions};
  std::set<uint32_t> seen;
  std::string_view server_name;
  while (!in.rest.empty()) {
    const uint32_t type = in.number(2);
    const std::string_view body = in.field(2);
    if (!in.ok || !seen.insert(type).second)
      return refuse("has a TLS greeting that cannot be read");
    if (type == kEncryptedHelloExtension) encrypted_ = true;
    if (type == kServerNameExtension) server_name = body;
  }
  if (!seen.contains(kServerNameExtension)) return refuse("names no host in its TLS greeting");
  return parseServerName(server_name);
}

HelloReader::State HelloReader::parseServerName(std::string_view body) {
  ByteReader outer{body};
  ByteReader list{outer.field(2)};
  const uint32_t type = list.number(1);
  const std::string_view name = list.field(2);
  if (!outer.ok || !outer.rest.empty() || !list.ok || !list.rest.empty() || type != 0)
    return refuse("does not name exactly one host in its TLS greeting");
  if (!config::isHost(name) || config::parseAddress(name))
    return refuse("names something in its TLS greeting that is no host's name");
  name_ = config::lowered(name);
  handshake_.clear();
  return state_ = State::done;
}

}  // namespace mayfly::broker
