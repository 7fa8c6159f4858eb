// Puts an action's secret into a request: the only place where a secret meets an upstream's name.
//
// Layer: vault.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "broker/http_rules.h"
#include "config/policy.h"
#include "vault/secret.h"

namespace mayfly::vault {

struct Rendered {
  MaybeSecret url;
  std::vector<MaybeSecret> headers;  // "name: value"
  std::vector<SecretRef> used;       // for the scrubber
  std::vector<SecretRef> forms;  // what else stands for them on the wire: base64 of user:password
};

// Whether the signature needs the whole body first.
bool hashesBody(const config::Auth& auth, const broker::HttpCall& call);

struct BodyHash {
  std::string sha256_hex;  // empty: the body is not signed
};

// `auth`: null: none. An error: a secret that cannot be read, or that no header can carry.
base::Result<Rendered> render(const broker::HttpCall& call, const config::Auth* auth,
                              const SecretStore& secrets, const BodyHash& body, uint64_t time_s);

}  // namespace mayfly::vault
