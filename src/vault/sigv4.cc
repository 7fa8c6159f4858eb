#include "vault/sigv4.h"

#include <sodium.h>

#include <algorithm>
#include <array>

namespace mayfly::vault {
namespace {

using Mac = std::array<unsigned char, crypto_auth_hmacsha256_BYTES>;

const unsigned char* raw(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}
std::string_view view(const Mac& mac) {
  return {reinterpret_cast<const char*>(mac.data()), mac.size()};
}

std::string hex(const unsigned char* bytes, size_t size) {
  std::string text(2 * size + 1, '\0');
  ::sodium_bin2hex(text.data(), text.size(), bytes, size);
  text.pop_back();
  return text;
}

Mac hmac(std::string_view key, std::string_view text) {
  crypto_auth_hmacsha256_state state;
  Mac mac;
  crypto_auth_hmacsha256_init(&state, raw(key), key.size());
  crypto_auth_hmacsha256_update(&state, raw(text), text.size());
  crypto_auth_hmacsha256_final(&state, mac.data());
  ::sodium_memzero(&state, sizeof state);
  return mac;
}

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string decoded(std::string_view text, bool plus_is_blank = false) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 &&
        digit(text[i + 2]) >= 0) {
      out += static_cast<char>(16 * digit(text[i + 1]) + digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i] == '+' && plus_is_blank ? ' ' : text[i];
    }
  }
  return out;
}

// Every byte but the unreserved ones as %XX; a slash stays if `keep_slash`.
std::string encoded(std::string_view text, bool keep_slash) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (letter || c == '-' || c == '.' || c == '_' || c == '~' || (keep_slash && c == '/'))
      out += c;
    else
      out += {'%', kHex[byte >> 4], kHex[byte & 15]};
  }
  return out;
}

// S3 signs the path as it is sent; every other service signs it encoded once more.
std::string canonicalPath(const SigV4Request& request) {
  if (request.service == "s3") return encoded(decoded(request.path), true);
  return encoded(request.path, true);
}

// Trimmed, and each run of blanks one blank.
std::string canonicalValue(std::string_view value) {
  std::string out;
  for (char c : value) {
    const bool blank = c == ' ' || c == '\t';
    if (blank && (out.empty() || out.back() == ' ')) continue;
    out += blank ? ' ' : c;
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

}  // namespace

std::string canonicalQuery(std::string_view query) {
  std::vector<std::pair<std::string, std::string>> pairs;
  while (!query.empty()) {
    const std::string_view one = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), one.size() + 1));
    if (one.empty()) continue;
    const size_t equals = one.find('=');
    const std::string_view value =
        equals == std::string_view::npos ? std::string_view() : one.substr(equals + 1);
    pairs.emplace_back(encoded(decoded(one.substr(0, equals), true), false),
                       encoded(decoded(value, true), false));
  }
  std::sort(pairs.begin(), pairs.end());
  std::string out;
  for (const auto& [name, value] : pairs) out += (out.empty() ? "" : "&") + name + "=" + value;
  return out;
}

std::string sha256Hex(std::string_view bytes) {
  unsigned char sum[crypto_hash_sha256_BYTES];
  crypto_hash_sha256(sum, raw(bytes), bytes.size());
  return hex(sum, sizeof sum);
}

std::string sigV4(const SigV4Request& request, const SigV4Keys& keys) {
  auto headers = request.headers;
  headers.emplace_back("host", request.host);
  headers.emplace_back("x-amz-content-sha256", request.payload_sha256);
  headers.emplace_back("x-amz-date", request.time);
  if (!keys.session_token.empty()) headers.emplace_back("x-amz-security-token", keys.session_token);
  std::sort(headers.begin(), headers.end());
  std::string lines, names;
  for (const auto& [name, value] : headers) {
    lines += name + ":" + canonicalValue(value) + "\n";
    names += (names.empty() ? "" : ";") + name;
  }
  std::string canonical = std::string(request.method) + "\n" + canonicalPath(request) + "\n" +
                          canonicalQuery(request.query) + "\n" + lines + "\n" + names + "\n" +
                          std::string(request.payload_sha256);
  const std::string day(request.time.substr(0, 8));
  const std::string scope = day + "/" + std::string(request.region) + "/" +
                            std::string(request.service) + "/aws4_request";
  const std::string to_sign =
      "AWS4-HMAC-SHA256\n" + std::string(request.time) + "\n" + scope + "\n" + sha256Hex(canonical);
  ::sodium_memzero(canonical.data(), canonical.size());  // it may hold the session token
  for (auto& [name, value] : headers) ::sodium_memzero(value.data(), value.size());
  ::sodium_memzero(lines.data(), lines.size());
  const Secret first = Secret::joined({"AWS4", keys.secret});
  Mac key = hmac(first.reveal(), day);
  for (std::string_view part : {request.region, request.service, std::string_view("aws4_request")})
    key = hmac(view(key), part);
  const Mac signature = hmac(view(key), to_sign);
  ::sodium_memzero(key.data(), key.size());
  return "AWS4-HMAC-SHA256 Credential=" + std::string(keys.id) + "/" + scope +
         ", SignedHeaders=" + names + ", Signature=" + hex(signature.data(), signature.size());
}

}  // namespace mayfly::vault
