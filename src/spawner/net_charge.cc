#include "spawner/net_charge.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <string_view>

namespace mayfly::spawner {

namespace {

uint64_t after(const std::string& text, std::string_view words) {
  const size_t at = text.find(words);
  return at == std::string::npos ? 0 : ::strtoull(text.c_str() + at + words.size(), nullptr, 10);
}

uint64_t chargeOf(uint64_t sockets, uint64_t bytes) {
  return sockets > kSocketsFree ? (sockets - kSocketsFree) * bytes : 0;
}

}  // namespace

Sockets socketsIn(const std::string& sockstat) {
  return {after(sockstat, "TCP: inuse ") + after(sockstat, "TCP6: inuse "),
          after(sockstat, "UDP: inuse ") + after(sockstat, "UDP6: inuse ")};
}

uint64_t netCharge(uint32_t pid) {
  Sockets all;
  for (const char* file : {"sockstat", "sockstat6"})
    if (auto text = base::readSmallFile({}, fmt::format("/proc/{}/net/{}", pid, file))) {
      const Sockets of_family = socketsIn(*text);
      all.tcp += of_family.tcp;
      all.udp += of_family.udp;
    }
  return chargeOf(all.tcp, kTcpBytes) + chargeOf(all.udp, kUdpBytes);
}

}  // namespace mayfly::spawner
