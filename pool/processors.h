// The processors of a simulated host, shared by the work that is under way.
//
// Two classes. Work `ahead` is the daemon's and the spawner's: threads that sleep most of the time,
// which a kernel runs as soon as they wake up. All other work shares the rest in equal parts. No
// piece of work runs faster than one processor.
//
// Layer: pool. Pure: time is an argument, in ns, and never goes back.
#pragma once

#include <cstdint>
#include <queue>
#include <vector>

namespace mayfly::pool {

class Processors {
 public:
  using Job = uint64_t;
  enum class Class : uint8_t { ahead, shared };

  explicit Processors(double count) : count_(count) {}

  void add(Job job, Class of, uint64_t work_ns);
  void advance(uint64_t to_ns);
  // When the next job is done, if none is added before; UINT64_MAX: there is none.
  uint64_t nextDone_ns() const;
  // Takes the job that is done at nextDone_ns(), which is the present time.
  Job takeDone();
  // The processors that work now.
  double busy() const;
  bool full() const { return busy() > count_ - 1e-6; }

 private:
  struct Piece {
    double done_at;  // on the class's own clock
    uint64_t order;
    Job job;
    bool operator>(const Piece& o) const {
      return done_at != o.done_at ? done_at > o.done_at : order > o.order;
    }
  };
  // Its clock runs as fast as each of its jobs does.
  struct Line {
    double clock_ns = 0;
    std::priority_queue<Piece, std::vector<Piece>, std::greater<>> pieces;
  };
  double speed(Class of) const;
  uint64_t doneOf_ns(Class of) const;

  double count_;
  uint64_t now_ns_ = 0, order_ = 0;
  Line lines_[2];
};

}  // namespace mayfly::pool
