// One run of load as a state machine: when the next request is sent, and how answers are recorded.
//
// Open loop: requests start at their arrival times, whatever the answers do. A latency counts from
// the *intended* start: if the load generator or a full connection sends late, the wait is part of
// the figure and not left out ("coordinated omission").
// Closed loop: `outstanding_max` requests are always in flight, each intended when it is sent.
//
// Layer: load. Pure: time is an argument. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "base/task.h"
#include "load/arrivals.h"
#include "load/histogram.h"

namespace mayfly::load {

inline constexpr size_t kErrorKindsMax = 64;  // further kinds count as "other"

struct Plan {
  Arrivals arrivals;             // none: closed loop
  uint64_t count_max = 0;        // requests, warm-up included; 0: as many as arrive or fit
  uint64_t duration_ns_max = 0;  // no request starts later; 0: no such bound
  uint64_t warm_up = 0;          // the first requests are not recorded
  uint64_t warm_up_ns = 0;       // nor are those that are intended earlier
  // Nothing is sent later, even if it was due: bounds a run that falls ever more behind. The rest
  // counts as unsent. 0: no such bound.
  uint64_t sending_ns_max = 0;
  uint32_t outstanding_max = 1;  // in flight at a time
};

struct Ticket {
  uint64_t index = 0, intended_ns = 0, sent_ns = 0;
  bool held = false;  // outstanding_max kept it, or one before it, from being sent when it was due
};

// How a request ended.
struct Outcome {
  std::string error;  // the kind of error in a word; empty: none
  uint64_t ended_ns = 0;
  uint64_t first_byte_ns = 0;  // 0: no byte came
  base::Phases phases{};       // the daemon's; 0: not reached
};

// Latencies are of successful requests.
struct Report {
  Histogram latency;     // intended start -> end
  Histogram first_byte;  // intended start -> first byte of output
  Histogram service;     // sent -> end
  Histogram send_lag;    // intended start -> sent: how late the request was
  Histogram own_lag;  // the same of requests that no full outstanding_max held up: the generator's
                      // own part
  // Each phase of the daemon, measured from the previous phase: "claimed" is clone -> claimed.
  // "queued" counts from the sending; "answer" from the last phase to the end that the client sees.
  std::map<std::string, Histogram> steps;
  Histogram claim;                         // queued -> claimed
  Histogram run;                           // started -> exited
  std::map<std::string, uint64_t> errors;  // by kind, warm-up included
  uint64_t sent = 0, succeeded = 0;        // warm-up included
  uint64_t unsent = 0;  // in the plan, not sent: the latencies lack what these would have waited
  uint64_t unfinished = 0;  // sent, no answer when the run was stopped
  uint64_t held = 0;        // recorded requests that were due while outstanding_max were in flight
  uint64_t parked = 0;      // recorded tasks whose clone was ready before them
  uint64_t stocked = 0;     // other recorded tasks whose box was stocked before them
  uint64_t began_ns = 0, ended_ns = 0;  // the interval of `per_s`
  uint64_t recorded = 0;
  base::Phases last{};  // the latest time of each phase, of any request
  double per_s() const;
};
nlohmann::ordered_json toJson(const Report& report);
void add(Report& to, const Report& other);  // per_s of the sum has no meaning
// Adds the end of one request to the counts, and a successful one's times to the histograms.
void count(Report& to, const Outcome& outcome);
void record(Report& to, const Ticket& ticket, const Outcome& outcome);

class Run {
 public:
  explicit Run(Plan plan) : plan_(std::move(plan)) {}

  struct Act {
    enum class Kind : uint8_t {
      send,   // begin `ticket` now
      sleep,  // nothing to do before `until_ns`, whatever answers come
      await,  // nothing to do before an answer comes
      over,   // all have ended
    } kind;
    Ticket ticket;
    uint64_t until_ns = 0;
  };
  // The first call's time is the start of the run.
  Act next(uint64_t now_ns);
  void ended(const Ticket& ticket, const Outcome& outcome);
  // Sends nothing more.
  void stop();
  // Does not wait for what is in flight any more.
  void abandon() { report_.unfinished = outstanding_; }
  bool recorded(const Ticket& ticket) const;  // not of the warm-up

  uint32_t outstanding() const { return outstanding_; }
  const Report& report() const { return report_; }

 private:
  bool arrive();
  std::optional<uint64_t> nextOffset_ns();
  void giveUp();

  Plan plan_;
  std::optional<uint64_t> began_ns_;
  std::optional<uint64_t> intended_ns_;  // open loop: the next request, not yet sent
  bool exhausted_ = false;
  bool full_ = false;    // outstanding_max were in flight when a request was last asked for
  bool behind_ = false;  // since then, a request has been due
  uint32_t outstanding_ = 0;
  uint64_t ended_ = 0;
  Report report_;
};

}  // namespace mayfly::load
