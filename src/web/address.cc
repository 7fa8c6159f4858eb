// Where the server listens, and the token that it wants.
#include <boost/asio/ip/address.hpp>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string.h>

#include "base/text.h"
#include "web/server.h"
#include "web/shared.h"

namespace mayfly::web {

using base::Code;
using base::fail;
using base::Result;

namespace {

constexpr int kSendBytes = 64 << 10, kReceiveBytes = 16 << 10;  // of the kernel's buffers
constexpr unsigned kUnackedMsMax = 30'000;  // of bytes that a vanished client does not confirm
constexpr size_t kTokenLeast = 16, kTokenMost = 256, kTokenFileBytesMax = 4'096;

struct Where {
  sockaddr_storage address{};
  socklen_t length = 0;
};

Where whereOf(const Address& address) {
  Where w;
  const auto ip = boost::asio::ip::make_address(address.host);
  if (ip.is_v4()) {
    auto* in = reinterpret_cast<sockaddr_in*>(&w.address);
    in->sin_family = AF_INET;
    in->sin_port = htons(address.port);
    in->sin_addr.s_addr = htonl(ip.to_v4().to_uint());
    w.length = sizeof *in;
  } else {
    auto* in = reinterpret_cast<sockaddr_in6*>(&w.address);
    in->sin6_family = AF_INET6;
    in->sin6_port = htons(address.port);
    const auto bytes = ip.to_v6().to_bytes();
    ::memcpy(&in->sin6_addr, bytes.data(), bytes.size());
    w.length = sizeof *in;
  }
  return w;
}

}  // namespace

std::string hostOf(const boost::asio::ip::address& address) {
  if (address.is_loopback()) return "loopback";
  if (address.is_v4()) return address.to_string();
  auto bytes = address.to_v6().to_bytes();
  const boost::asio::ip::address_v6 v6(bytes);
  if (v6.is_v4_mapped())
    return hostOf(boost::asio::ip::make_address_v4(boost::asio::ip::v4_mapped, v6));
  std::fill(bytes.begin() + 8, bytes.end(), 0);
  return boost::asio::ip::address_v6(bytes).to_string() + "/64";
}

Result<Address> parseAddress(std::string_view given) {
  const auto wrong = [&](const char* why) {
    return fail(Code::invalidArgument, "http.listen: '" + base::printable(given, 80) + "' " + why,
                "Write it like 127.0.0.1:9464 or [::1]:9464.");
  };
  const size_t colon = given.rfind(':');
  if (colon == std::string_view::npos) return wrong("names no port");
  std::string_view host = given.substr(0, colon);
  const std::string_view digits = given.substr(colon + 1);
  const bool bracketed = host.starts_with('[') && host.ends_with(']');
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (digits.empty() || digits.size() > 5 ||
      !std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; }))
    return wrong("has no port number");
  const unsigned long port = std::stoul(std::string(digits));
  if (port > 65'535) return wrong("has a port above 65535");
  boost::system::error_code failed;
  const auto ip = boost::asio::ip::make_address(std::string(host), failed);
  if (failed) return wrong("has no IP address");
  if (ip.is_v6() != bracketed)
    return wrong("needs [brackets] around an IPv6 address, and only there");
  return Address{ip.to_string(), static_cast<uint16_t>(port), ip.is_loopback()};
}

Result<base::Fd> listenHttp(const Address& address, uint32_t backlog) {
  const std::string name = address.host + " port " + std::to_string(address.port);
  const Where where = whereOf(address);
  base::Fd fd(::socket(where.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return base::failSys(errno, "socket", name);
  const int on = 1;
  const auto set = [&](int level, int option, const auto& value) {
    return ::setsockopt(fd.get(), level, option, &value, sizeof value) == 0;
  };
  // A connection inherits them from its listener.
  if (!set(SOL_SOCKET, SO_REUSEADDR, on) || !set(SOL_SOCKET, SO_SNDBUF, kSendBytes) ||
      !set(SOL_SOCKET, SO_RCVBUF, kReceiveBytes) || !set(IPPROTO_TCP, TCP_NODELAY, on) ||
      !set(IPPROTO_TCP, TCP_USER_TIMEOUT, kUnackedMsMax))
    return base::failSys(errno, "setsockopt", name);
  if (where.address.ss_family == AF_INET6 && !set(IPPROTO_IPV6, IPV6_V6ONLY, on))
    return base::failSys(errno, "setsockopt", name);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&where.address), where.length) != 0)
    return base::failSys(errno, "bind", name);
  if (::listen(fd.get(), static_cast<int>(backlog)) != 0)
    return base::failSys(errno, "listen", name);
  return fd;
}

uint16_t portOf(base::FdView listener) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) return 0;
  if (address.ss_family == AF_INET6)
    return ntohs(reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port);
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

Result<std::string> readToken(const std::string& path) {
  const auto wrong = [&](const std::string& why, const char* advice) {
    return fail(Code::invalidArgument, "http.token_file: '" + path + "' " + why, advice);
  };
  base::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd) return base::failSys(errno, "open", path);
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return base::failSys(errno, "fstat", path);
  if (!S_ISREG(st.st_mode)) return wrong("is no plain file", "Write the token into a file.");
  if (st.st_uid != ::geteuid() || (st.st_mode & 077) != 0)
    return wrong("may be read by others", "chown root and chmod 600.");
  std::string content(kTokenFileBytesMax, '\0');
  const ssize_t n = ::read(fd.get(), content.data(), content.size());
  if (n < 0) return base::failSys(errno, "read", path);
  content.resize(static_cast<size_t>(n));
  while (!content.empty() && (content.back() == '\n' || content.back() == '\r')) content.pop_back();
  const bool printable =
      std::all_of(content.begin(), content.end(), [](char c) { return c > ' ' && c <= '~'; });
  if (content.size() < kTokenLeast || content.size() > kTokenMost || !printable)
    return wrong("holds no line of 16 to 256 printable characters without spaces",
                 "For example: openssl rand -hex 32");
  return content;
}

}  // namespace mayfly::web
