// AWS Signature Version 4 of one request.
//
// Not libcurl's CURLOPT_AWS_SIGV4: up to 7.88 (Debian 12) that signs the query as sent, neither
// sorted nor encoded anew, hashes no streamed body, and knows no session token.
//
// Layer: vault. Pure.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vault/secret.h"

namespace mayfly::vault {

inline constexpr std::string_view kUnsignedPayload = "UNSIGNED-PAYLOAD";

struct SigV4Request {
  std::string_view method;
  std::string_view host;   // as the Host header says it, with a port that is not the scheme's own
  std::string_view path;   // as sent: percent-encoded, begins with "/"
  std::string_view query;  // as sent, without "?"; may be empty
  // Lower-case names; besides host and the x-amz-* of this signature.
  std::vector<std::pair<std::string, std::string>> headers;
  std::string_view payload_sha256;  // hex, or kUnsignedPayload
  std::string_view region, service;
  std::string_view time;  // "20260102T030405Z"
};
struct SigV4Keys {
  std::string_view id, secret, session_token;  // session_token may be empty
};

// "Authorization", as it is sent; the request also sends `x-amz-date`, `x-amz-content-sha256` and,
// if there is one, `x-amz-security-token`.
std::string sigV4(const SigV4Request& request, const SigV4Keys& keys);

// The query in the form that is signed: sorted, every other byte than the unreserved ones encoded,
// "+" read as a blank. A signed request is sent with this form, so no server can read it otherwise.
std::string canonicalQuery(std::string_view query);

// Lower-case hex of the SHA-256.
std::string sha256Hex(std::string_view bytes);

}  // namespace mayfly::vault
