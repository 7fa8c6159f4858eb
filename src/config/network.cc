// Layer: config. See network.h.
#include "config/network.h"

#include <arpa/inet.h>
#include <string.h>

#include <algorithm>
#include <charconv>

namespace mayfly::config {
namespace {

constexpr std::array<uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
constexpr uint8_t kMappedBits = 96;

}  // namespace

bool isIpv4(const Address& address) {
  return std::equal(kMapped.begin(), kMapped.end(), address.begin());
}

bool Network::holds(const Address& other) const {
  const size_t whole = bits / 8, rest = bits % 8;
  if (!std::equal(address.begin(), address.begin() + whole, other.begin())) return false;
  const auto mask = static_cast<uint8_t>(0xff << (8 - rest));
  return rest == 0 || ((address[whole] ^ other[whole]) & mask) == 0;
}

std::optional<Address> parseAddress(std::string_view text) {
  char buffer[INET6_ADDRSTRLEN] = {};
  if (text.size() >= sizeof buffer || text.find('\0') != std::string_view::npos)
    return std::nullopt;
  text.copy(buffer, text.size());
  Address out{};
  if (::inet_pton(AF_INET6, buffer, out.data()) == 1) return out;
  std::copy(kMapped.begin(), kMapped.end(), out.begin());
  if (::inet_pton(AF_INET, buffer, out.data() + kMapped.size()) == 1) return out;
  return std::nullopt;
}

std::optional<Network> parseNetwork(std::string_view text) {
  const size_t slash = text.find('/');
  const auto address = parseAddress(text.substr(0, slash));
  if (!address) return std::nullopt;
  Network out{*address, 128};
  if (slash == std::string_view::npos) return out;
  const std::string_view digits = text.substr(slash + 1);
  const bool dotted = text.substr(0, slash).find(':') == std::string_view::npos;
  unsigned bits = 0;
  const auto [end, fault] = std::from_chars(digits.data(), digits.data() + digits.size(), bits);
  if (fault != std::errc() || end != digits.data() + digits.size() || bits > (dotted ? 32u : 128u))
    return std::nullopt;
  out.bits = static_cast<uint8_t>(bits + (dotted ? kMappedBits : 0));
  for (size_t bit = out.bits; bit < 128; ++bit)
    if (out.address[bit / 8] & (0x80 >> (bit % 8))) return std::nullopt;
  return out;
}

std::string formatAddress(const Address& address) {
  char buffer[INET6_ADDRSTRLEN] = {};
  if (isIpv4(address))
    ::inet_ntop(AF_INET, address.data() + kMapped.size(), buffer, sizeof buffer);
  else
    ::inet_ntop(AF_INET6, address.data(), buffer, sizeof buffer);
  return buffer;
}

}  // namespace mayfly::config
