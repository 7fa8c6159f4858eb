// Layer: broker. See address.h.
#include "broker/address.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace mayfly::broker {
namespace {

using config::Address;
using config::Network;

struct ClassedNetwork {
  const char* text;
  AddressClass kind;
};
// The IANA registries of special-purpose addresses; the first that holds an address counts.
constexpr ClassedNetwork kSpecial[] = {
    {"169.254.169.254", AddressClass::metadata},  // AWS, Google, Azure, OpenStack...
    {"169.254.169.253", AddressClass::metadata},  // AWS: DNS and time
    {"169.254.169.123", AddressClass::metadata},
    {"169.254.170.2", AddressClass::metadata},    // AWS: containers
    {"169.254.170.23", AddressClass::metadata},   // AWS: EKS
    {"100.100.100.200", AddressClass::metadata},  // Alibaba
    {"168.63.129.16", AddressClass::metadata},    // Azure
    {"192.0.0.192", AddressClass::metadata},      // Oracle
    {"fd00:ec2::254", AddressClass::metadata},    // AWS
    {"fd00:ec2::23", AddressClass::metadata},
    {"fd20:ce::254", AddressClass::metadata},  // Google
    {"0.0.0.0/8", AddressClass::unspecified},
    {"10.0.0.0/8", AddressClass::privateUse},
    {"100.64.0.0/10", AddressClass::sharedNat},
    {"127.0.0.0/8", AddressClass::loopback},
    {"169.254.0.0/16", AddressClass::linkLocal},
    {"172.16.0.0/12", AddressClass::privateUse},
    {"192.0.2.0/24", AddressClass::documentation},
    {"192.0.0.0/24", AddressClass::reserved},
    {"192.88.99.0/24", AddressClass::tunnel},  // relays of 6to4
    {"192.168.0.0/16", AddressClass::privateUse},
    {"198.18.0.0/15", AddressClass::benchmarking},
    {"198.51.100.0/24", AddressClass::documentation},
    {"203.0.113.0/24", AddressClass::documentation},
    {"224.0.0.0/4", AddressClass::multicast},
    {"240.0.0.0/4", AddressClass::reserved},
    {"0.0.0.0/0", AddressClass::global},  // every other IPv4 address
    {"::", AddressClass::unspecified},
    {"::1", AddressClass::loopback},
    {"64:ff9b:1::/48", AddressClass::tunnel},
    {"100::/64", AddressClass::reserved},
    {"2001::/32", AddressClass::tunnel},  // Teredo
    {"2001:2::/48", AddressClass::benchmarking},
    {"2001:db8::/32", AddressClass::documentation},
    {"2001:10::/28", AddressClass::tunnel},
    {"2001:20::/28", AddressClass::tunnel},
    {"2001::/23", AddressClass::reserved},
    {"2002::/16", AddressClass::tunnel},  // 6to4
    {"3fff::/20", AddressClass::documentation},
    {"2000::/3", AddressClass::global},
    {"fc00::/7", AddressClass::privateUse},
    {"fe80::/10", AddressClass::linkLocal},
    {"fec0::/10", AddressClass::privateUse},
    {"ff00::/8", AddressClass::multicast},
};

const std::vector<std::pair<Network, AddressClass>>& specialNetworks() {
  static const auto all = [] {
    std::vector<std::pair<Network, AddressClass>> out;
    for (const ClassedNetwork& each : kSpecial)
      out.emplace_back(config::parseNetwork(each.text).value(), each.kind);
    return out;
  }();
  return all;
}

Address mapped(const Address& address) {  // its last four bytes as an IPv4 address
  Address out = config::parseAddress("0.0.0.0").value();
  std::copy(address.end() - 4, address.end(), out.end() - 4);
  return out;
}

}  // namespace

std::string_view name(AddressClass kind) {
  static constexpr std::string_view names[] = {
      "public",     "unspecified", "loopback",  "private",       "shared (carrier's NAT)",
      "link-local", "metadata",    "multicast", "documentation", "benchmarking",
      "tunnel",     "reserved"};
  return names[static_cast<size_t>(kind)];
}

AddressClass classOf(const Address& address) {
  static const Network nat64 = config::parseNetwork("64:ff9b::/96").value();
  static const Network compatible = config::parseNetwork("::/96").value();
  for (const auto& [network, kind] : specialNetworks())
    if (network.holds(address)) return kind;
  if (nat64.holds(address)) return classOf(mapped(address));
  if (compatible.holds(address)) {
    // Deprecated: of the carried address's class if that is no public one.
    const AddressClass carried = classOf(mapped(address));
    return carried == AddressClass::global ? AddressClass::reserved : carried;
  }
  return AddressClass::reserved;
}

bool isAllowed(const Address& address, const std::vector<Network>& named) {
  const AddressClass kind = classOf(address);
  if (kind == AddressClass::global) return true;
  return std::any_of(named.begin(), named.end(), [&](const Network& network) {
    return network.holds(address) && (kind != AddressClass::metadata || network.bits == 128);
  });
}

Decision<base::Unit> checkAddress(std::string_view rule, std::string_view host,
                                  const Address& address, const std::vector<Network>& named) {
  if (isAllowed(address, named)) return base::Unit{};
  return refuse(
      {base::Code::permissionDenied, 403, fmt::format("{}.allow_addresses", rule),
       fmt::format("'{}' has the address {}, which is a {} address", base::printable(host, 100),
                   config::formatAddress(address), name(classOf(address))),
       "The operator can name the address in allow_addresses.", 0});
}

}  // namespace mayfly::broker
