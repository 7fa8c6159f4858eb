// Counts the memory of collected output files in the book of accounts, until their tasks are
// forgotten.
//
// While a task runs, Admission reserves its cap on output files; after its end, this counts the
// actual files. The book refuses a further task with collection to an account that holds too much.
//
// Layer: core. Core thread; the last copy of a descriptor may be released on any thread, and the
// next call here returns its bytes to the book.
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
  // Whether the account may submit a further task with collection.
  base::Status accepts(const sched::AccountRef& account);
  // The same descriptor; its file's bytes are held until the last copy is gone.
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
