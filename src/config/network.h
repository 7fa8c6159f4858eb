// IP addresses and networks as policies name them: "10.0.0.5", "10.1.0.0/16", "fd00::/8".
//
// Layer: config. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mayfly::config {

// An IPv6 address; an IPv4 address is held as ::ffff:a.b.c.d.
using Address = std::array<uint8_t, 16>;

struct Network {
  Address address{};
  uint8_t bits = 128;  // of the prefix, of all 128
  bool holds(const Address& other) const;
};

// Nothing: not an address, or not in its usual spelling ("127.1", "0x7f.0.0.1", "fe80::1%eth0").
std::optional<Address> parseAddress(std::string_view text);
// An address, or a network whose address has no bit set behind its prefix.
std::optional<Network> parseNetwork(std::string_view text);
bool isIpv4(const Address& address);
std::string formatAddress(const Address& address);

}  // namespace mayfly::config
