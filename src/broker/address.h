// Which addresses the broker may connect to: public ones, and those that the policy names.
//
// Layer: broker. Pure.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "broker/refusal.h"
#include "config/network.h"

namespace mayfly::broker {

enum class AddressClass : uint8_t {
  global,         // the public Internet
  unspecified,    // 0.0.0.0/8, ::
  loopback,       // 127.0.0.0/8, ::1
  privateUse,     // 10/8, 172.16/12, 192.168/16, fc00::/7, fec0::/10
  sharedNat,      // 100.64/10, of carriers
  linkLocal,      // 169.254/16, fe80::/10
  metadata,       // where clouds give credentials to whoever asks
  multicast,      // 224/4, ff00::/8
  documentation,  //
  benchmarking,   //
  tunnel,         // 6to4, Teredo, ORCHID, locally assigned NAT64: they end elsewhere
  reserved,       // all others
};
std::string_view name(AddressClass kind);

// An address that carries an IPv4 address (mapped, compatible, NAT64) is of that address's class.
AddressClass classOf(const config::Address& address);

// A named network allows the addresses in it; a metadata address must be named alone.
bool isAllowed(const config::Address& address, const std::vector<config::Network>& named);

// The same, with the reason. `rule`: the action, such as "http.openai".
Decision<base::Unit> checkAddress(std::string_view rule, std::string_view host,
                                  const config::Address& address,
                                  const std::vector<config::Network>& named);

}  // namespace mayfly::broker
