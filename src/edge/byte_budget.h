// A budget of memory that many streams share. Each stream has a few bytes of its own.
// Beyond them its purse decides whether there is room, and waiting streams are served
// in the order of arrival.
//
// A stream that holds bytes for long while another waits for them is stuck or
// hostile, and is told to end.
//
// Layer: edge. One KJ thread. Accounts and holds may outlive their streams, but not
// the budget.
#pragma once

#include <kj/async.h>
#include <kj/refcount.h>
#include <kj/timer.h>

#include <cstdint>
#include <list>
#include <set>

namespace mayfly::edge {

// Books the bytes of one stream, and knows the bounds of its owner and of all owners together.
class Purse {
 public:
  enum class Room : uint8_t { yes, noneOfOwner, noneOfPool };
  virtual ~Purse() noexcept(false) = default;
  virtual Room roomFor(uint64_t more_bytes) const = 0;
  // Sets the bytes that the stream holds now, even beyond the bounds.
  virtual void settle(uint64_t bytes) = 0;
  virtual uint64_t owner() const = 0;  // the same for all streams of one owner
};

class ByteBudget {
 public:
  struct Bounds {
    uint64_t own_bytes;          // of each account, whatever the others hold
    uint64_t account_bytes_max;  // of each account, its own included
    kj::Duration patience;       // how long a stream waits before stuck streams must end
  };
  class Account;

  // Taken bytes. The destructor gives them back.
  class Hold {
   public:
    Hold() = default;
    Hold(Hold&& other) noexcept;
    Hold& operator=(Hold&& other) noexcept;
    ~Hold();

   private:
    friend class Account;
    struct Entry {
      uint64_t bytes;
      kj::TimePoint since;
    };
    Hold(kj::Own<Account> account, std::list<Entry>::iterator entry);
    void drop();
    kj::Own<Account> account_;  // null: nothing is held
    std::list<Entry>::iterator entry_;
  };

  class Account final : public kj::Refcounted {
   public:
    Account(ByteBudget& budget, kj::Own<Purse> purse);
    ~Account() noexcept(false);
    // Null: there is no room now.
    kj::Maybe<Hold> tryTake(uint64_t bytes);
    // Resolves when there is room. One call at a time.
    kj::Promise<Hold> take(uint64_t bytes);
    // Resolves when this account has kept for too long bytes that others wait for.
    kj::Promise<void> onStuck() { return stuck_.addBranch(); }
    uint64_t heldBytes() const { return held_bytes_; }

   private:
    friend class ByteBudget;
    friend class Hold;
    Account(ByteBudget& budget, kj::Own<Purse> purse, kj::PromiseFulfillerPair<void> stuck);
    Hold add(uint64_t bytes);
    void give(std::list<Hold::Entry>::iterator entry);

    ByteBudget& budget_;
    kj::Own<Purse> purse_;
    uint64_t held_bytes_ = 0;
    std::list<Hold::Entry> entries_;  // the oldest first
    kj::Own<kj::PromiseFulfiller<void>> be_stuck_;
    kj::ForkedPromise<void> stuck_;
  };

  ByteBudget(kj::Timer& timer, Bounds bounds) : timer_(timer), bounds_(bounds) {}
  KJ_DISALLOW_COPY(ByteBudget);
  kj::Own<Account> open(kj::Own<Purse> purse) {
    return kj::refcounted<Account>(*this, kj::mv(purse));
  }
  // Call before the loop ends. Afterwards no stream is told to end.
  void stop();

 private:
  enum class Fit : uint8_t { yes, accountFull, ownerFull, poolFull };
  struct Waiter {
    Account* account;
    uint64_t bytes;
    kj::TimePoint since;
    kj::Own<kj::PromiseFulfiller<Hold>> fulfiller;
  };
  Fit fit(const Account& account, uint64_t bytes) const;
  void pump();
  kj::Promise<void> watch();
  void endStuck();

  kj::Timer& timer_;
  Bounds bounds_;
  std::set<Account*> accounts_;
  std::list<Waiter> waiters_;  // in the order of arrival; at most one per account
  bool pumping_ = false, watching_ = false, stopped_ = false;
  kj::Promise<void> watch_ = nullptr;
};

}  // namespace mayfly::edge
