// Books the bytes of one stream as a share in the book of accounts.
//
// Layer: rpc. Core thread.
#pragma once

#include "edge/byte_budget.h"
#include "sched/accounts.h"

namespace mayfly::rpc {

class SharePurse final : public edge::Purse {
 public:
  SharePurse(sched::Accounts& accounts, const sched::AccountRef& account, sched::Resource resource)
      : accounts_(accounts), resource_(resource), share_(accounts.charge(account, resource, 0)) {}

  Room roomFor(uint64_t more_bytes) const override {
    // A message larger than the whole pool gets its turn when nobody holds any of the pool.
    if (accounts_.usedByAll(resource_) == 0) return Room::yes;
    switch (accounts_.roomFor(share_.whose(), resource_, more_bytes)) {
      case sched::Accounts::Room::yes:
        return Room::yes;
      case sched::Accounts::Room::noneOfAccount:
        return Room::noneOfOwner;
      case sched::Accounts::Room::noneOfPool:
        break;
    }
    return Room::noneOfPool;
  }
  void settle(uint64_t bytes) override { share_.settle(bytes); }
  uint64_t owner() const override { return static_cast<uint64_t>(share_.whose().user()); }

 private:
  sched::Accounts& accounts_;
  sched::Resource resource_;
  sched::Share share_;
};

}  // namespace mayfly::rpc
