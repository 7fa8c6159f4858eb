// The processors of a simulated host and the two threads of which it has one each: the daemon's and
// the spawner's. Each step of a box's life takes time of them.
//
// Layer: pool. Pure: time is an argument, in ns.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "pool/processors.h"

namespace mayfly::pool {

// Time of a processor. The daemon and the spawner do one thing at a time, in the order of requests;
// `own` is of the box's processes, its zygote's and its maker's.
struct SimWork {
  uint64_t daemon_ns = 0, spawner_ns = 0, own_ns = 0;
  uint64_t all_ns() const { return daemon_ns + spawner_ns + own_ns; }
};

struct SimStep {
  SimWork before;        // one after the other; then
  uint64_t wait_ns = 0;  // without a processor; then the step is over
  SimWork behind;        // done after `before`; nobody waits for it
};

class SimHost {
 public:
  using Token = uint64_t;  // a box; not 0. It has one step at a time

  explicit SimHost(double processors) : processors_(processors) {}

  // False: the step has no work that it waits for.
  bool begin(Token token, const SimStep& step);
  void advance(uint64_t to_ns) { processors_.advance(to_ns); }
  // When something is done next; UINT64_MAX: never.
  uint64_t nextDone_ns() const { return processors_.nextDone_ns(); }
  // At that time: the box whose step has had its work `before`, or nothing.
  std::optional<Token> next();

  double busy() const { return processors_.busy(); }
  bool full() const { return processors_.full(); }  // no processor is idle
  bool daemonBusy() const { return !threads_[0].empty(); }
  bool spawnerBusy() const { return !threads_[1].empty(); }

 private:
  struct Piece {
    Token token;  // 0: nobody waits for it
    uint64_t work_ns;
  };
  void give(size_t thread, Token token, uint64_t work_ns);
  bool proceed(Token token);

  Processors processors_;
  std::deque<Piece> threads_[2];  // the first piece of each is under way
  std::vector<SimStep> left_;     // by token
};

}  // namespace mayfly::pool
