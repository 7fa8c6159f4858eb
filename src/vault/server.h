// The vault's two RPC faces: `Vault` for mayflyd, `Calls` for the front.
//
// Layer: vault. The loop's thread.
#pragma once

#include <broker/broker.capnp.h>

#include <map>

#include "vault/flow.h"
#include "vault/hub.h"

namespace mayfly::vault {

// With its port: curl takes 1080 for that of a proxy that names none.
inline constexpr const char* kBrokerUrl = "http://127.0.0.1:80";

// What the RPC knows of a session beside the book.
struct Faces {
  Hub& hub;
  std::map<uint64_t, schema::Tools::Client> tools;  // by session
  std::string policy_sha256;                        // raw bytes
  uint64_t loaded_ns = 0;

  void end(uint64_t session) {
    hub.revoke(session, {}, "session.ended");
    tools.erase(session);
  }
};

schema::Vault::Client vaultFace(Faces& faces);
schema::Calls::Client callsFace(Faces& faces);

}  // namespace mayfly::vault
