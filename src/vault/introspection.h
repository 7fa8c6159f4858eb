// Tells upstreams whether a minted credential is active: RFC 7662, over plain HTTP on an address of
// the operator's choice.
//
// Who asks shows a bearer token, a secret of the policy. A credential of an ended task, an unknown
// one and an expired one have the same answer.
//
// Layer: vault. The loop's thread.
#pragma once

#include <memory>
#include <optional>

#include <boost/asio/io_context.hpp>

#include "config/policy.h"
#include "vault/hub.h"

namespace mayfly::vault {

class Introspection {
 public:
  static constexpr uint32_t kConnectionsMax = 64;
  static constexpr uint64_t kRequestBytesMax = 16u << 10;
  static constexpr uint32_t kConnectionSecondsMax = 30;

  explicit Introspection(Hub& hub);
  ~Introspection();
  // Listens where the policy says; a place that has not changed stays open.
  base::Status listen(const config::Introspection& where);

 private:
  struct Listener;
  struct Connection;
  Hub& hub_;
  std::shared_ptr<Listener> listener_;
};

}  // namespace mayfly::vault
