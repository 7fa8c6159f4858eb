// Shares the loop and the vault between doors.
//
// `pass`: a connection that has bytes waits here before they are parsed. Doors take turns, however
// many connections each has. `slot`: a door has a bound of requests under way; more wait.
//
// Layer: front. The loop's thread. A door's queue may go before the gate.
#pragma once

#include <kj/async.h>
#include <kj/refcount.h>

#include <deque>
#include <list>
#include <memory>

#include "edge/asio_port.h"

namespace mayfly::front {

// Resolves when the KJ events of this turn are over.
kj::Promise<void> endOfTurn(edge::AsioPort& port);

class Gate {
 public:
  // What the connections of one door wait for.
  class Queue {
   public:
    Queue(Gate& gate, uint32_t slots) : gate_(gate), shared_(kj::refcounted<Shared>()) {
      shared_->free = slots;
    }
    ~Queue();
    KJ_DISALLOW_COPY(Queue);

    // Held while a request is under way. May outlive the queue.
    class Slot;
    kj::Maybe<kj::Own<Slot>> trySlot();  // null: all are taken
    kj::Promise<kj::Own<Slot>> slot();
    kj::Promise<void> pass();
    // The same, without an event of its own if nobody waits.
    template <class Next>
    auto pass(Next next) -> decltype(next()) {
      if (gate_.mayPass()) return next();
      return waitForPass().then(kj::mv(next));
    }

   private:
    friend class Gate;
    kj::Promise<void> waitForPass();
    struct Shared : kj::Refcounted {
      uint32_t free = 0;
      size_t forget_at = 0;
      std::deque<kj::Own<kj::PromiseFulfiller<kj::Own<Slot>>>> waits;
    };
    Gate& gate_;
    kj::Own<Shared> shared_;
    std::deque<kj::Own<kj::PromiseFulfiller<void>>> passes_;
    size_t forget_at_ = 0;
    bool in_ring_ = false;
  };

  Gate(edge::AsioPort& port, uint32_t starts_per_turn)
      : port_(port),
        self_(std::make_shared<Gate*>(this)),
        starts_per_turn_(starts_per_turn),
        budget_(starts_per_turn) {}
  ~Gate() { *self_ = nullptr; }
  KJ_DISALLOW_COPY(Gate);

 private:
  bool mayPass();
  void refillLater();
  void refill();
  bool admitOne();

  edge::AsioPort& port_;
  std::shared_ptr<Gate*> self_;  // for the host's handler; null once the gate is destroyed
  uint32_t starts_per_turn_, budget_;
  uint64_t turn_ = 0;       // whose budget it is
  std::list<Queue*> ring_;  // doors whose connections wait; the front is next
  bool refilling_ = false;
};

class Gate::Queue::Slot {
 public:
  explicit Slot(kj::Own<Shared> shared) : shared_(kj::mv(shared)) { --shared_->free; }
  ~Slot() noexcept(false);
  KJ_DISALLOW_COPY(Slot);

 private:
  kj::Own<Shared> shared_;
};

}  // namespace mayfly::front
