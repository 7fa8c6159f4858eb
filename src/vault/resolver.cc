#include "vault/resolver.h"

#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include <boost/asio/post.hpp>

namespace mayfly::vault {

namespace {

constexpr size_t kAddressesMax = 16;

Resolver::Addresses lookUp(const std::string& host) {
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

bool isWanted(const auto& waiters) {
  return std::any_of(waiters.begin(), waiters.end(),
                     [](const auto& each) { return !each.caller.expired(); });
}

}  // namespace

Resolver::Resolver(boost::asio::io_context& io) : Resolver(io, lookUp) {}
Resolver::Resolver(boost::asio::io_context& io, LookUp look_up)
    : io_(io), look_up_(std::move(look_up)), threads_(kThreads) {}

void Resolver::resolve(const std::string& host, For whose, Done done) {
  Waiter waiter{std::move(whose.caller), std::move(done)};
  if (auto address = config::parseAddress(host))
    return answerLater(std::move(waiter), std::vector{*address});
  const auto known = std::find_if(lookups_.begin(), lookups_.end(), [&](const Lookup& each) {
    return each.session == whose.session && each.uid == whose.uid && each.host == host;
  });
  if (known != lookups_.end()) return known->waiters.push_back(std::move(waiter));
  std::erase_if(lookups_,
                [](const Lookup& each) { return !each.begun && !isWanted(each.waiters); });
  if (!hasPlace(whose))
    return answerLater(std::move(waiter), base::fail(base::Code::resourceExhausted,
                                                     "too many names wait to be resolved"));
  lookups_.push_back({host, whose.session, whose.uid, {}});
  lookups_.back().waiters.push_back(std::move(waiter));
  next();
}

void Resolver::answerLater(Waiter waiter, Addresses found) {
  boost::asio::post(io_, [self = self_, waiter = std::move(waiter), found = std::move(found)] {
    if (*self != nullptr && !waiter.caller.expired()) waiter.done(found);
  });
}

bool Resolver::hasPlace(const For& whose) const {
  size_t all = 0, of_user = 0, of_task = 0;
  for (const Lookup& each : lookups_) {
    if (each.begun) continue;
    ++all;
    of_user += each.uid == whose.uid;
    of_task += each.session == whose.session;
  }
  return all < kWaitingMax && of_user < kWaitingOfUserMax && of_task < kWaitingOfTaskMax;
}

uint32_t Resolver::begunOf(uint32_t uid) const {
  return static_cast<uint32_t>(
      std::count_if(lookups_.begin(), lookups_.end(),
                    [uid](const Lookup& each) { return each.begun && each.uid == uid; }));
}

bool Resolver::mayBegin(const Lookup& lookup) const {
  const auto of_task = std::count_if(lookups_.begin(), lookups_.end(), [&](const Lookup& each) {
    return each.begun && each.session == lookup.session;
  });
  const uint32_t free = kThreads - at_work_;
  return 2 * static_cast<uint32_t>(of_task) < free && begunOf(lookup.uid) < free;
}

void Resolver::next() {
  while (at_work_ < kThreads) {
    std::erase_if(lookups_,
                  [](const Lookup& each) { return !each.begun && !isWanted(each.waiters); });
    auto best = lookups_.end();
    for (auto at = lookups_.begin(); at != lookups_.end(); ++at)
      if (!at->begun && mayBegin(*at) &&
          (best == lookups_.end() || begunOf(at->uid) < begunOf(best->uid)))
        best = at;
    if (best == lookups_.end()) return;
    begin(best);
  }
}

void Resolver::begin(Lookups::iterator lookup) {
  lookup->begun = true;
  ++at_work_;
  boost::asio::post(threads_,
                    [&io = io_, self = self_, look_up = look_up_, host = lookup->host, lookup] {
                      Addresses found = look_up(host);
                      boost::asio::post(io, [self, lookup, found = std::move(found)] {
                        if (*self != nullptr) (*self)->finish(lookup, found);
                      });
                    });
}

void Resolver::finish(Lookups::iterator lookup, const Addresses& found) {
  const auto self = self_;
  const std::vector<Waiter> waiters = std::move(lookup->waiters);
  lookups_.erase(lookup);
  --at_work_;
  next();
  for (const Waiter& each : waiters)
    if (*self != nullptr && !each.caller.expired()) each.done(found);
}

}  // namespace mayfly::vault
