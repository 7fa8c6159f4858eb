// Resolves names on a bounded number of threads of its own: libraries would block the loop with it,
// or start a thread for each name.
//
// A name's server may take its time, and a task may choose the name. So a lookup begins only while
// a task has twice as much left free of the threads as it has, a user as much as all of his tasks
// have: nobody takes all of them. Among those who wait, the user with the fewest is next.
//
// Layer: vault. The loop's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
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
  using Addresses = base::Result<std::vector<config::Address>>;
  using Done = std::function<void(Addresses)>;
  using LookUp = std::function<Addresses(const std::string& host)>;  // on a thread
  static constexpr uint32_t kThreads = 16;
  static constexpr size_t kWaitingMax = 256;  // lookups that have not begun
  static constexpr size_t kWaitingOfUserMax = kWaitingMax / 2, kWaitingOfTaskMax = kWaitingMax / 8;

  struct For {
    uint64_t session = 0;
    uint32_t uid = 0;
    std::weak_ptr<const void> caller;
  };

  explicit Resolver(boost::asio::io_context& io);
  Resolver(boost::asio::io_context& io, LookUp look_up);
  // Blocks until the threads' last answers: only at the process's end.
  ~Resolver() { *self_ = nullptr; }

  // `done` is called once, in a later turn, unless its caller or the resolver has gone by then. One
  // lookup serves all calls of a task that ask for the same name.
  void resolve(const std::string& host, For whose, Done done);
  uint32_t atWork() const { return at_work_; }

 private:
  struct Waiter {
    std::weak_ptr<const void> caller;
    Done done;
  };
  struct Lookup {
    std::string host;
    uint64_t session;
    uint32_t uid;
    std::vector<Waiter> waiters;
    bool begun = false;
  };
  using Lookups = std::list<Lookup>;
  void answerLater(Waiter waiter, Addresses found);
  bool hasPlace(const For& whose) const;  // for one more that waits
  uint32_t begunOf(uint32_t uid) const;
  bool mayBegin(const Lookup& lookup) const;
  void next();
  void begin(Lookups::iterator lookup);
  void finish(Lookups::iterator lookup, const Addresses& found);

  boost::asio::io_context& io_;
  LookUp look_up_;
  Lookups lookups_;       // in the order in which they were asked for
  uint32_t at_work_ = 0;  // lookups that have begun
  std::shared_ptr<Resolver*> self_ = std::make_shared<Resolver*>(this);  // null: destroyed
  boost::asio::thread_pool threads_;
};

}  // namespace mayfly::vault
