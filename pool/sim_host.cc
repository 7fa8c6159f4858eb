#include "pool/sim_host.h"

#include <utility>

namespace mayfly::pool {

namespace {
// Jobs of the processors: a thread's number, work that nobody waits for, or a box's own work.
constexpr Processors::Job kBehind = 2, kOwn = 3;
}  // namespace

void SimHost::give(size_t thread, Token token, uint64_t work_ns) {
  std::deque<Piece>& line = threads_[thread];
  line.push_back({token, work_ns});
  if (line.size() == 1) processors_.add(thread, Processors::Class::ahead, work_ns);
}

bool SimHost::begin(Token token, const SimStep& step) {
  if (left_.size() <= token) left_.resize(token + 1);
  left_[token] = step;
  return proceed(token);
}

// Starts the next piece that the step waits for; false: there is none left.
bool SimHost::proceed(Token token) {
  SimStep& left = left_[token];
  if (const uint64_t ns = std::exchange(left.before.daemon_ns, 0); ns != 0) {
    give(0, token, ns);
    return true;
  }
  if (const uint64_t ns = std::exchange(left.before.spawner_ns, 0); ns != 0) {
    give(1, token, ns);
    return true;
  }
  if (const uint64_t ns = std::exchange(left.before.own_ns, 0); ns != 0) {
    processors_.add(kOwn + token, Processors::Class::shared, ns);
    return true;
  }
  const SimWork behind = std::exchange(left.behind, {});
  if (behind.daemon_ns != 0) give(0, 0, behind.daemon_ns);
  if (behind.spawner_ns != 0) give(1, 0, behind.spawner_ns);
  if (behind.own_ns != 0) processors_.add(kBehind, Processors::Class::shared, behind.own_ns);
  return false;
}

std::optional<SimHost::Token> SimHost::next() {
  const Processors::Job job = processors_.takeDone();
  Token token = job > kOwn ? job - kOwn : 0;
  if (job < kBehind) {
    std::deque<Piece>& line = threads_[job];
    token = line.front().token;
    line.pop_front();
    if (!line.empty()) processors_.add(job, Processors::Class::ahead, line.front().work_ns);
  }
  if (token == 0 || proceed(token)) return std::nullopt;
  return token;
}

}  // namespace mayfly::pool
