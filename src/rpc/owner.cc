#include "rpc/owner.h"

#include <poll.h>

namespace mayfly::rpc {

bool ConnectionState::gone() const {
  if (ended) return true;
  pollfd peer{socket, POLLRDHUP, 0};
  return ::poll(&peer, 1, 0) == 1 && (peer.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

ConnectionState::Turn::Turn(ConnectionState& state) : state_(kj::addRef(state)) {
  state.turn_taken_ = true;
}

ConnectionState::Turn::~Turn() noexcept(false) {
  state_->turn_taken_ = false;
  auto& waiting = state_->turns_waited_for_;
  while (!waiting.empty()) {
    auto next = kj::mv(waiting.front());
    waiting.pop_front();
    if (!next->isWaiting()) continue;  // its caller is gone
    next->fulfill(kj::heap<Turn>(*state_));
    return;
  }
}

kj::Promise<kj::Own<ConnectionState::Turn>> ConnectionState::turn() {
  kj::Promise<kj::Own<Turn>> turn = nullptr;
  if (turn_taken_) {
    auto paf = kj::newPromiseAndFulfiller<kj::Own<Turn>>();
    turns_waited_for_.push_back(kj::mv(paf.fulfiller));
    turn = kj::mv(paf.promise);
  } else {
    turn = kj::heap<Turn>(*this);
  }
  return turn.then(
      [self = kj::addRef(*this)](kj::Own<Turn> mine) mutable -> kj::Promise<kj::Own<Turn>> {
        KJ_IF_MAYBE (r, self->room) {
          return (*r)().then([mine = kj::mv(mine)]() mutable { return kj::mv(mine); });
        }
        return kj::mv(mine);
      });
}

}  // namespace mayfly::rpc
