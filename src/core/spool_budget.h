// What collected output files take of the host's memory, until their tasks are
// forgotten, counted in the book of accounts.
//
// While a task runs, Admission holds its cap on output files for it; what it then
// really left is counted here. The book refuses who holds much a further task that
// collects.
//
// Layer: core. Core thread; but the last copy of a descriptor may end on any, and is
// given back to the book by the next call here.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "sched/accounts.h"

namespace mayfly::core {

class SpoolBudget {
 public:
  explicit SpoolBudget(sched::Accounts& accounts)
      : accounts_(accounts), ended_(std::make_shared<Ended>()) {}
  // Whether a further task of the account's may collect.
  base::Status accepts(const sched::AccountRef& account);
  // The same descriptor; the bytes that its file takes are held until the last copy is gone.
  std::shared_ptr<base::Fd> hold(std::shared_ptr<base::Fd> spool, const sched::AccountRef& account);
  uint64_t heldBytes();

 private:
  struct Ended {
    std::mutex mutex;
    std::vector<uint64_t> holds;  // whose last copy is gone
  };
  void giveBack();

  sched::Accounts& accounts_;
  std::shared_ptr<Ended> ended_;
  std::unordered_map<uint64_t, sched::Share> holds_;
  uint64_t next_hold_ = 0;
};

}  // namespace mayfly::core
