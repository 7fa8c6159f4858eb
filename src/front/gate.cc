#include "front/gate.h"

#include <algorithm>
#include <utility>

#include <boost/asio/post.hpp>

namespace mayfly::front {

namespace {

// Drops those that wait no more, once there may be as many of them as of the others.
template <class Queue>
void forgetGone(Queue& queue, size_t& at) {
  if (queue.size() < at) return;
  std::erase_if(queue, [](auto& each) { return !each->isWaiting(); });
  at = std::max<size_t>(64, 2 * queue.size());
}

}  // namespace

kj::Promise<void> endOfTurn(edge::AsioPort& port) {
  auto paf = kj::newPromiseAndFulfiller<void>();
  auto told = std::make_shared<kj::Own<kj::PromiseFulfiller<void>>>(kj::mv(paf.fulfiller));
  port.atTurnEnd([told] { (*told)->fulfill(); });
  return kj::mv(paf.promise);
}

Gate::Queue::~Queue() {
  if (in_ring_) gate_.ring_.remove(this);
}

kj::Maybe<kj::Own<Gate::Queue::Slot>> Gate::Queue::trySlot() {
  if (shared_->free == 0) return nullptr;
  return kj::heap<Slot>(kj::addRef(*shared_));
}

kj::Promise<kj::Own<Gate::Queue::Slot>> Gate::Queue::slot() {
  KJ_IF_MAYBE (free, trySlot()) return kj::mv(*free);
  forgetGone(shared_->waits, shared_->forget_at);
  auto paf = kj::newPromiseAndFulfiller<kj::Own<Slot>>();
  shared_->waits.push_back(kj::mv(paf.fulfiller));
  return kj::mv(paf.promise);
}

Gate::Queue::Slot::~Slot() noexcept(false) {
  ++shared_->free;
  while (shared_->free > 0 && !shared_->waits.empty()) {
    auto next = kj::mv(shared_->waits.front());
    shared_->waits.pop_front();
    if (next->isWaiting()) next->fulfill(kj::heap<Slot>(kj::addRef(*shared_)));
  }
}

kj::Promise<void> Gate::Queue::pass() {
  if (gate_.mayPass()) return kj::READY_NOW;
  return waitForPass();
}

kj::Promise<void> Gate::Queue::waitForPass() {
  forgetGone(passes_, forget_at_);
  auto paf = kj::newPromiseAndFulfiller<void>();
  passes_.push_back(kj::mv(paf.fulfiller));
  if (!in_ring_) gate_.ring_.push_back(this);
  in_ring_ = true;
  gate_.refillLater();
  return kj::mv(paf.promise);
}

bool Gate::mayPass() {
  if (!ring_.empty()) return false;
  if (std::exchange(turn_, port_.turns()) != port_.turns()) budget_ = starts_per_turn_;
  if (budget_ == 0) return false;
  --budget_;
  return true;
}

// Those who wait share the budget of a turn that comes after the host's poll.
void Gate::refillLater() {
  if (refilling_) return;
  refilling_ = true;
  boost::asio::post(port_.host(), [self = self_] {
    if (*self != nullptr) (*self)->refill();
  });
}

void Gate::refill() {
  refilling_ = false;
  budget_ = starts_per_turn_;
  while (budget_ > 0 && admitOne()) --budget_;
  if (!ring_.empty()) refillLater();
}

// The first waiting connection of the next door. False: none waits.
bool Gate::admitOne() {
  while (!ring_.empty()) {
    Queue& queue = *ring_.front();
    ring_.pop_front();
    queue.in_ring_ = false;
    bool admitted = false;
    while (!admitted && !queue.passes_.empty()) {
      auto next = kj::mv(queue.passes_.front());
      queue.passes_.pop_front();
      admitted = next->isWaiting();
      if (admitted) next->fulfill();
    }
    if (!queue.passes_.empty()) {
      queue.in_ring_ = true;
      ring_.push_back(&queue);
    }
    if (admitted) return true;
  }
  return false;
}

}  // namespace mayfly::front
