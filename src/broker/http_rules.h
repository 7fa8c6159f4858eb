// A task's HTTP request against its grant: the request that goes upstream, or a refusal with the
// rule's name. The same for redirects, answers, proxied requests and tunnels.
//
// Layer: broker. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "broker/narrow.h"
#include "broker/refusal.h"

namespace mayfly::broker {

inline constexpr size_t kHeadersMax = 100;
inline constexpr size_t kHeaderBytesMax = 64u << 10;  // of all names and values

struct Header {
  std::string name, value;
};

struct HttpAsk {
  std::string_view method;
  std::string_view target;  // behind /cap/NAME, or behind the authority
  const std::vector<Header>& headers;
  int64_t body_bytes = 0;  // -1: unknown
};

// What goes upstream, but for the credential. No text has CR, LF or NUL.
struct HttpCall {
  const config::Action* action = nullptr;
  const config::HttpRules* rules = nullptr;
  std::string method;
  bool tls = true;
  std::string host;  // without brackets
  uint16_t port = 443;
  std::string path, query;      // encoded; the query has its "?"
  std::vector<Header> headers;  // lower-case names; neither Host nor Content-Length
  bool write = false;           // the journal records it

  std::string authority() const;  // "host" or "host:port", the Host header's value
  std::string url() const;
};

// `grant` is one of an http action.
Decision<HttpCall> decideHttp(const Grant& grant, const HttpAsk& ask);

// Absolute-form through HTTP_PROXY, upgraded to https. `grants`: all of the task.
Decision<HttpCall> decideProxy(const std::vector<Grant>& grants, std::string_view authority,
                               const HttpAsk& ask);

// CONNECT: the grant that allows it. The caller has seen that the name in the TLS greeting is
// `host`.
Decision<const Grant*> decideTunnel(const std::vector<Grant>& grants, std::string_view host,
                                    uint16_t port);

// An upstream's redirect. Nothing: the task gets the answer as it is.
std::optional<HttpCall> decideRedirect(const Grant& grant, const HttpCall& before, uint16_t status,
                                       std::string_view location);

// The headers of an answer that the task gets; the body's length is the caller's. A redirect to the
// action's own upstream is rewritten to /cap/NAME/...
Decision<std::vector<Header>> decideAnswer(const Grant& grant, const HttpCall& call,
                                           const std::vector<Header>& headers);

}  // namespace mayfly::broker
