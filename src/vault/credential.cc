#include "vault/credential.h"

#include <time.h>

#include <algorithm>
#include <optional>

#include "vault/sigv4.h"

namespace mayfly::vault {

using base::Code;
using base::Result;
using AuthKind = config::Auth::Kind;

namespace {

constexpr size_t kAddedHeaders = 5;  // a credential's, and one more

// A line feed in a secret would begin another header.
bool fitsHeader(std::string_view secret) {
  return std::none_of(secret.begin(), secret.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte < 0x20 && c != '\t') || byte == 0x7f;
  });
}

Result<SecretRef> headerSecret(const SecretStore& secrets, const std::string& name) {
  MAYFLY_TRY(SecretRef secret, secrets.find(name));
  if (!fitsHeader(secret->reveal()))
    return base::fail(Code::failedPrecondition,
                      "the secret '" + name + "' has a byte that no header can carry",
                      "The operator looks at its file.");
  return secret;
}

Secret percentEncoded(std::string_view text) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::vector<char> encoded;  // of a locked size, wiped below
  encoded.reserve(3 * text.size());
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_' || c == '~';
    if (plain) {
      encoded.push_back(c);
    } else {
      encoded.insert(encoded.end(), {'%', kHex[byte >> 4], kHex[byte & 15]});
    }
  }
  Secret out = Secret::joined({{encoded.data(), encoded.size()}});
  std::fill(encoded.begin(), encoded.end(), '\0');
  asm volatile("" : : "r"(encoded.data()) : "memory");  // the fill is no dead store
  return out;
}

bool isOfSignature(std::string_view header) {
  return header == "x-amz-date" || header == "x-amz-content-sha256" ||
         header == "x-amz-security-token" || header == "authorization";
}

std::string timeText(uint64_t time_s) {
  const auto seconds = static_cast<time_t>(time_s);
  tm utc{};
  char text[32] = {};
  ::strftime(text, sizeof text, "%Y%m%dT%H%M%SZ", ::gmtime_r(&seconds, &utc));
  return text;
}

base::Status sign(const broker::HttpCall& call, const config::Auth& auth,
                  const SecretStore& secrets, const BodyHash& body, uint64_t time_s,
                  Rendered& out) {
  SecretRef id, token;
  if (!auth.user_secret.empty()) {
    MAYFLY_TRY(id, headerSecret(secrets, auth.user_secret));
  }
  MAYFLY_TRY(SecretRef key, secrets.find(auth.secret));
  if (!auth.session_secret.empty()) {
    MAYFLY_TRY(token, headerSecret(secrets, auth.session_secret));
    out.used.push_back(token);
  }
  const std::string authority = call.authority(), time = timeText(time_s);
  const std::string query =
      canonicalQuery(std::string_view(call.query).substr(call.query.empty() ? 0 : 1));
  SigV4Request request;
  request.method = call.method;
  request.host = authority;
  request.path = call.path;
  request.query = query;
  for (const broker::Header& each : call.headers)
    if (!isOfSignature(each.name) &&
        (each.name == "content-type" || each.name.starts_with("x-amz-")))
      request.headers.emplace_back(each.name, each.value);
  request.payload_sha256 =
      body.sha256_hex.empty() ? kUnsignedPayload : std::string_view(body.sha256_hex);
  request.region = auth.region;
  request.service = auth.service;
  request.time = time;
  const std::string authorization =
      sigV4(request, {id ? id->reveal() : std::string_view(auth.user), key->reveal(),
                      token ? token->reveal() : std::string_view()});
  out.headers.push_back("authorization: " + authorization);
  out.headers.push_back("x-amz-date: " + time);
  out.headers.push_back("x-amz-content-sha256: " + std::string(request.payload_sha256));
  if (token) out.headers.push_back(Secret::joined({"x-amz-security-token: ", token->reveal()}));
  out.used.push_back(std::move(key));
  return base::Unit{};
}

base::Status addCredential(const broker::HttpCall& call, const config::Auth& auth,
                           const SecretStore& secrets, const BodyHash& body, uint64_t time_s,
                           Rendered& out) {
  switch (auth.kind) {
    case AuthKind::none:
      return base::Unit{};
    case AuthKind::header: {
      MAYFLY_TRY(SecretRef secret, headerSecret(secrets, auth.secret));
      out.headers.push_back(Secret::joined({auth.name, ": ", auth.prefix, secret->reveal()}));
      out.used.push_back(std::move(secret));
      return base::Unit{};
    }
    case AuthKind::basic: {
      MAYFLY_TRY(SecretRef password, secrets.find(auth.secret));
      SecretRef user;
      if (!auth.user_secret.empty()) {
        MAYFLY_TRY(user, secrets.find(auth.user_secret));
        out.used.push_back(user);
      }
      const Secret pair = Secret::joined(
          {user ? user->reveal() : std::string_view(auth.user), ":", password->reveal()});
      auto text = std::make_shared<const Secret>(Secret::base64(pair.reveal()));
      out.headers.push_back(Secret::joined({"authorization: Basic ", text->reveal()}));
      out.used.push_back(std::move(password));
      out.forms.push_back(std::move(text));
      return base::Unit{};
    }
    case AuthKind::query: {
      MAYFLY_TRY(SecretRef secret, secrets.find(auth.secret));
      const Secret encoded = percentEncoded(secret->reveal());
      const std::string url = call.url();
      out.url =
          Secret::joined({url, call.query.empty() ? "?" : "&", auth.name, "=", encoded.reveal()});
      out.used.push_back(std::move(secret));
      return base::Unit{};
    }
    case AuthKind::sigv4:
      return sign(call, auth, secrets, body, time_s, out);
  }
  return base::Unit{};
}

}  // namespace

bool hashesBody(const config::Auth& auth, const broker::HttpCall& call) {
  return auth.kind == AuthKind::sigv4 && !(auth.service == "s3" && call.tls);
}

Result<Rendered> render(const broker::HttpCall& call, const config::Auth* auth,
                        const SecretStore& secrets, const BodyHash& body, uint64_t time_s) {
  const bool is_signed = auth != nullptr && auth->kind == AuthKind::sigv4;
  // What is signed is what is sent.
  std::optional<broker::HttpCall> canonical;
  if (is_signed && !call.query.empty()) {
    canonical = call;
    canonical->query = "?" + canonicalQuery(call.query.substr(1));
  }
  const broker::HttpCall& sent = canonical ? *canonical : call;
  Rendered out{sent.url(), {}, {}, {}};
  out.headers.reserve(call.headers.size() + kAddedHeaders);
  for (const broker::Header& each : call.headers) {
    if (is_signed && isOfSignature(each.name)) continue;
    // To libcurl, "name:" means none; an empty value is written with a semicolon.
    out.headers.push_back(each.value.empty() ? each.name + ";" : each.name + ": " + each.value);
  }
  if (auth != nullptr) MAYFLY_CHECK(addCredential(sent, *auth, secrets, body, time_s, out));
  out.headers.push_back("expect:");  // none: nobody waits for 100-continue
  return out;
}

}  // namespace mayfly::vault
