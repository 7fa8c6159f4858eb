// The daemon's log: stderr, one line per event, made safe to print at the edge.
//
// Layer: app. Core thread (and before it starts).
#pragma once

#include <string>

#include "base/observer.h"
#include "base/result.h"

namespace mayfly::app {

std::string oneLine(const base::Error& error);

// A task's end in one line of key=value: task, user, verdict, the time of each step, usage; never
// input or output. Times are in ms, of the parts that the metrics have; a part that was not reached
// is left out, and a missing receipt is named.
std::string taskLine(const base::TaskLabels& task, base::Verdict verdict, const base::Usage& usage,
                     const base::Phases& phases);

class LogObserver final : public base::Observer {
 public:
  // A task that takes at least as long, until its receipt or a result without one, gets a warning;
  // 0: none does.
  void setSlow(uint64_t slow_ns) { slow_ns_ = slow_ns; }

  void taskEnded(const base::TaskLabels& task, base::Verdict verdict, const base::Usage& usage,
                 const base::Phases& phases) override;
  void receipt(std::string_view template_name, const base::Receipt& receipt) override;
  void receiptCompleted(const base::Receipt& receipt) override;
  void auditFound(const base::AuditFinding& finding) override;
  void loopLag(uint64_t late_ns) override;
  void auditEnded(const base::AuditWalk& walk) override;
  void templateState(std::string_view template_name, std::string_view state,
                     std::string_view why) override;
  void zygoteRenewed(std::string_view template_name) override;
  void zygoteSaid(std::string_view template_name, std::string_view line) override;
  void spawnerReady(std::string_view in_force) override;

 private:
  uint64_t slow_ns_ = 0;
};

}  // namespace mayfly::app
