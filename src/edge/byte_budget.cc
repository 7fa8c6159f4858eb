#include "edge/byte_budget.h"

#include <kj/debug.h>

#include <utility>

namespace mayfly::edge {

// --- Hold ------------------------------------------------------------------------

ByteBudget::Hold::Hold(kj::Own<Account> account, std::list<Entry>::iterator entry)
    : account_(kj::mv(account)), entry_(entry) {}
ByteBudget::Hold::Hold(Hold&& other) noexcept
    : account_(kj::mv(other.account_)), entry_(other.entry_) {}
ByteBudget::Hold& ByteBudget::Hold::operator=(Hold&& other) noexcept {
  if (this != &other) {
    drop();
    account_ = kj::mv(other.account_);
    entry_ = other.entry_;
  }
  return *this;
}
ByteBudget::Hold::~Hold() { drop(); }

void ByteBudget::Hold::drop() {
  if (account_.get() == nullptr) return;
  auto account = kj::mv(account_);
  account->give(entry_);
}

// --- Account ---------------------------------------------------------------------

ByteBudget::Account::Account(ByteBudget& budget, kj::Own<Purse> purse)
    : Account(budget, kj::mv(purse), kj::newPromiseAndFulfiller<void>()) {}
ByteBudget::Account::Account(ByteBudget& budget, kj::Own<Purse> purse,
                             kj::PromiseFulfillerPair<void> stuck)
    : budget_(budget),
      purse_(kj::mv(purse)),
      be_stuck_(kj::mv(stuck.fulfiller)),
      stuck_(stuck.promise.fork()) {
  budget_.accounts_.insert(this);
}
ByteBudget::Account::~Account() noexcept(false) {
  budget_.accounts_.erase(this);
  budget_.waiters_.remove_if([this](const Waiter& w) { return w.account == this; });
}

ByteBudget::Hold ByteBudget::Account::add(uint64_t bytes) {
  held_bytes_ += bytes;
  purse_->settle(held_bytes_);
  return Hold(kj::addRef(*this),
              entries_.insert(entries_.end(), Hold::Entry{bytes, budget_.timer_.now()}));
}

void ByteBudget::Account::give(std::list<Hold::Entry>::iterator entry) {
  held_bytes_ -= entry->bytes;
  purse_->settle(held_bytes_);
  entries_.erase(entry);
  budget_.pump();
}

kj::Maybe<ByteBudget::Hold> ByteBudget::Account::tryTake(uint64_t bytes) {
  if (budget_.fit(*this, bytes) != Fit::yes) return nullptr;
  // Waiters go first, but a stream's own bytes take nothing from them.
  if (!budget_.waiters_.empty() && held_bytes_ + bytes > budget_.bounds_.own_bytes) return nullptr;
  return add(bytes);
}

kj::Promise<ByteBudget::Hold> ByteBudget::Account::take(uint64_t bytes) {
  KJ_IF_MAYBE (hold, tryTake(bytes)) {
    return kj::mv(*hold);
  }
  auto paf = kj::newPromiseAndFulfiller<Hold>();
  budget_.waiters_.push_back({this, bytes, budget_.timer_.now(), kj::mv(paf.fulfiller)});
  budget_.pump();
  if (!budget_.waiters_.empty() && !budget_.watching_ && !budget_.stopped_) {
    budget_.watching_ = true;
    budget_.watch_ = budget_.watch().eagerlyEvaluate([](kj::Exception&&) {});
  }
  return kj::mv(paf.promise);
}

// --- ByteBudget --------------------------------------------------------------------

ByteBudget::Fit ByteBudget::fit(const Account& account, uint64_t bytes) const {
  uint64_t held = account.held_bytes_;
  if (held > 0 && held + bytes > bounds_.account_bytes_max) return Fit::accountFull;
  if (held + bytes <= bounds_.own_bytes) return Fit::yes;
  switch (account.purse_->roomFor(bytes)) {
    case Purse::Room::yes:
      return Fit::yes;
    case Purse::Room::noneOfOwner:
      return Fit::ownerFull;
    case Purse::Room::noneOfPool:
      break;
  }
  return Fit::poolFull;
}

void ByteBudget::pump() {
  if (pumping_) return;  // called from the loop below: by the end of a hold that nobody took
  pumping_ = true;
  for (auto at = waiters_.begin(); at != waiters_.end();) {
    if (!at->fulfiller->isWaiting()) {
      at = waiters_.erase(at);
      continue;
    }
    Fit fits = fit(*at->account, at->bytes);
    if (fits == Fit::poolFull) break;
    if (fits != Fit::yes) {
      ++at;
      continue;
    }
    auto fulfiller = kj::mv(at->fulfiller);
    auto hold = at->account->add(at->bytes);
    at = waiters_.erase(at);
    fulfiller->fulfill(kj::mv(hold));
  }
  pumping_ = false;
}

kj::Promise<void> ByteBudget::watch() {
  return timer_.afterDelay(bounds_.patience / 4 + 1 * kj::MILLISECONDS)
      .then([this]() -> kj::Promise<void> {
        endStuck();
        if (waiters_.empty()) {
          watching_ = false;
          return kj::READY_NOW;
        }
        return watch();
      });
}

void ByteBudget::endStuck() {
  kj::TimePoint long_ago = timer_.now() - bounds_.patience;
  bool all_wait = false;      // a stream waits for the pool, which all share
  std::set<uint64_t> owners;  // owners with a stream that waits for their own bound
  for (auto& waiter : waiters_) {
    if (waiter.since > long_ago) continue;
    Fit fits = fit(*waiter.account, waiter.bytes);
    all_wait = all_wait || fits == Fit::poolFull;
    if (fits == Fit::ownerFull) owners.insert(waiter.account->purse_->owner());
  }
  if (!all_wait && owners.empty()) return;
  for (Account* account : accounts_)
    if (account->held_bytes_ > bounds_.own_bytes && account->entries_.front().since <= long_ago &&
        (all_wait || owners.contains(account->purse_->owner())))
      account->be_stuck_->fulfill();
}

void ByteBudget::stop() {
  stopped_ = true;
  watching_ = false;
  watch_ = nullptr;
}

}  // namespace mayfly::edge
