#include "vault/resolver.h"

#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include <utility>

#include <boost/asio/post.hpp>

namespace mayfly::vault {

using Addresses = base::Result<std::vector<config::Address>>;

namespace {

constexpr size_t kAddressesMax = 16;

Addresses lookUp(const std::string& host) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (const int code = ::getaddrinfo(host.c_str(), nullptr, &hints, &found); code != 0)
    return base::fail(base::Code::unavailable,
                      "cannot resolve '" + host + "': " + ::gai_strerror(code));
  std::vector<config::Address> all;
  for (const addrinfo* each = found; each != nullptr && all.size() < kAddressesMax;
       each = each->ai_next) {
    config::Address address{};
    if (each->ai_family == AF_INET6) {
      const auto* in6 = reinterpret_cast<const sockaddr_in6*>(each->ai_addr);
      ::memcpy(address.data(), &in6->sin6_addr, address.size());
    } else if (each->ai_family == AF_INET) {
      const auto* in4 = reinterpret_cast<const sockaddr_in*>(each->ai_addr);
      address[10] = address[11] = 0xff;
      ::memcpy(address.data() + 12, &in4->sin_addr, 4);
    } else {
      continue;
    }
    all.push_back(address);
  }
  ::freeaddrinfo(found);
  return all;
}

}  // namespace

void Resolver::resolve(const std::string& host, Done done) {
  if (auto address = config::parseAddress(host)) {
    boost::asio::post(io_, [self = self_, done = std::move(done), address = *address] {
      if (*self != nullptr) done(std::vector{address});
    });
    return;
  }
  if (waiting_ >= kWaitingMax) {
    boost::asio::post(io_, [self = self_, done = std::move(done)] {
      if (*self != nullptr)
        done(base::fail(base::Code::resourceExhausted, "too many names wait to be resolved"));
    });
    return;
  }
  ++waiting_;
  boost::asio::post(threads_, [&io = io_, self = self_, host, done = std::move(done)]() mutable {
    Addresses found = lookUp(host);
    boost::asio::post(io, [self, found = std::move(found), done = std::move(done)]() mutable {
      if (*self == nullptr) return;
      --(*self)->waiting_;
      done(std::move(found));
    });
  });
}

}  // namespace mayfly::vault
