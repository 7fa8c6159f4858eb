#include "spawner/tcp_charge.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <string_view>

namespace mayfly::spawner {

uint64_t tcpInUse(const std::string& sockstat) {
  for (std::string_view words : {"TCP: inuse ", "TCP6: inuse "})
    if (size_t at = sockstat.find(words); at != std::string::npos)
      return ::strtoull(sockstat.c_str() + at + words.size(), nullptr, 10);
  return 0;
}

uint64_t tcpCharge(uint32_t pid) {
  uint64_t sockets = 0;
  for (const char* file : {"sockstat", "sockstat6"})
    if (auto text = base::readSmallFile({}, fmt::format("/proc/{}/net/{}", pid, file)))
      sockets += tcpInUse(*text);
  return sockets > kTcpFree ? (sockets - kTcpFree) * kTcpBytes : 0;
}

}  // namespace mayfly::spawner
