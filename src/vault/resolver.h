// Resolves names on threads of its own, for those whose libraries would block the loop with it.
//
// Layer: vault. The loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>

#include "base/result.h"
#include "config/network.h"

namespace mayfly::vault {

class Resolver {
 public:
  using Done = std::function<void(base::Result<std::vector<config::Address>>)>;
  static constexpr uint32_t kThreads = 2, kWaitingMax = 64;

  explicit Resolver(boost::asio::io_context& io) : io_(io), threads_(kThreads) {}
  // Blocks until the threads' last answers: only at the process's end.
  ~Resolver() { *self_ = nullptr; }

  // `done` is called once, in a later turn, while the resolver lives.
  void resolve(const std::string& host, Done done);

 private:
  boost::asio::io_context& io_;
  boost::asio::thread_pool threads_;
  uint32_t waiting_ = 0;
  std::shared_ptr<Resolver*> self_ = std::make_shared<Resolver*>(this);  // null: destroyed
};

}  // namespace mayfly::vault
