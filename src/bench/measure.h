// The parts that the verbs share: a connection with its load, and one round of it.
//
// Layer: bench. Blocks.
#pragma once

#include <mayfly/client.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "bench/mix_target.h"
#include "bench/report.h"
#include "load/run.h"

namespace mayfly::bench {

inline constexpr uint32_t kInFlightMax = 100'000;
inline constexpr uint64_t kTasksMax = 10'000'000;  // of one round
inline constexpr double kTime_s_max = 86'400;

// How tasks arrive.
struct LoadShape {
  enum class Kind : uint8_t { poisson, constant, bursts, trace, closed } kind = Kind::poisson;
  double rate_per_s = 10;  // poisson, constant
  uint32_t burst = 10;     // bursts: as many at once ...
  double every_s = 1;      // ... as often
  double speed = 1;        // trace: so many times as fast
  std::shared_ptr<const pool::Trace> trace;
  uint32_t in_flight = 1'000;  // most at a time; closed: always so many
  double time_s = 5;           // of a round, after its warm-up
  double warm_up_s = 1;
  uint64_t tasks_max = kTasksMax;  // of a round, warm-up included
  uint64_t seed = 1;

  double stated_per_s() const;  // 0: closed loop
};
// Round n has a sequence of its own, the same for each run with this seed.
load::Plan planOf(const LoadShape& shape, uint64_t round);
std::string textOf(const LoadShape& shape);
Json toJson(const LoadShape& shape);
Json toJson(const config::Mix& mix);

// What a round gave: all tasks together, and each of the mix's.
struct RoundResult {
  load::Report all;
  std::vector<load::Report> of_task;  // by place in the mix
  Generator generator;
};

struct Watch {
  std::function<bool()> stopped;                      // Ctrl-C
  std::function<void(const std::string& line)> tell;  // progress
};

// A connection to a daemon with a mix's load.
class Session {
 public:
  static base::Result<std::unique_ptr<Session>> open(const std::string& socket, MixLoad load);
  ~Session();

  Client& client() { return *client_; }
  // invalidArgument: the daemon does not take as many tasks in flight on a connection.
  base::Result<RoundResult> round(const LoadShape& shape, uint64_t nth, const Watch& watch);

 private:
  Session() = default;

  std::shared_ptr<const config::Mix> mix_;
  std::unique_ptr<MixTarget> target_;
  std::unique_ptr<Client> client_;  // goes first: its callbacks use the target
};

// A series for all tasks and, if the mix has several, one for each.
std::vector<Series> seriesOf(const config::Mix& mix, const LoadShape& shape);
void addRound(std::vector<Series>& series, const RoundResult& round);
std::string roundLine(uint32_t nth, uint32_t rounds, const RoundResult& round);

}  // namespace mayfly::bench
