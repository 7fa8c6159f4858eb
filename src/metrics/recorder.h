// Counts the daemon's events, and makes snapshots of the counts.
//
// Each event changes a few numbers in plain memory: no lock, and no allocation once its labels have
// been seen. Labels come from closed sets; a template's name from the daemon's own templates;
// tenants' names through metrics::Busiest. So no client can make the counts grow.
//
// Layer: metrics. Core thread. Time is an argument, but for events, whose time `Clock` tells.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/core_report.h"
#include "base/observer.h"
#include "metrics/busiest.h"
#include "metrics/snapshot.h"

namespace mayfly::metrics {

struct RecorderOptions {
  std::string instance, version;
  uint64_t started_ms = 0;    // since 1970
  uint64_t slow_task_ns = 0;  // 0: no task is slow
  size_t tenants_max = 20;    // with series of their own
  bool broker = false;        // the daemon has one
};

// Monotonic, and since 1970; each at one moment.
struct Moment {
  uint64_t ns = 0, ms = 0;
};

class Recorder final : public base::Observer {
 public:
  using Clock = std::function<Moment()>;
  Recorder(RecorderOptions options, Clock clock);

  // In the order of their TemplateIds, before the first event.
  void addTemplate(std::string_view name, std::string_view mechanism);
  // Ends the present tick. Call every kTickMs.
  void tick(const base::CoreReport& report, const Process& process);
  SnapshotPtr snapshot(const base::CoreReport& report, const Process& process, bool stopping);

  // base::Observer
  void taskAccepted(const base::TaskLabels& t) override;
  void taskRefused(const base::TaskLabels& t, std::string_view code, base::RefusedBy by) override;
  void taskEnded(const base::TaskLabels& t, base::Verdict verdict, const base::Usage& usage,
                 const base::Phases& phases) override;
  void receipt(std::string_view template_name, const base::Receipt& r) override;
  void receiptCompleted(const base::Receipt& r) override;
  void boxLost(std::string_view template_name, std::string_view why) override;
  void cloneMade(std::string_view template_name, const base::CloneTimes& times) override;
  void cloneDiscarded(std::string_view template_name) override;
  void cloneClaimed(const base::TaskLabels& t, base::ClaimKind kind) override;
  void auditFound(const base::AuditFinding& finding) override;
  void auditEnded(const base::AuditWalk& walk) override;
  void connectionOpened(std::string_view user) override;
  void connectionEnded(std::string_view user) override;
  void connectionRefused(std::string_view user, std::string_view code) override;
  void messageRefused() override;
  void callRefused(std::string_view method, std::string_view code) override;
  void callAnswered(std::string_view method, uint64_t took_ns) override;
  void messageReceived(uint64_t bytes) override;
  void messageSent(uint64_t bytes) override;
  void loopLag(uint64_t late_ns) override;
  void templateState(std::string_view template_name, std::string_view state,
                     std::string_view why) override;
  void trialEnded(std::string_view template_name, std::string_view fault) override;
  void zygoteRenewed(std::string_view template_name) override;
  void zygoteDied(std::string_view template_name, std::string_view why) override;
  void brokerUp(std::string_view what) override;
  void brokerDown(std::string_view what, std::string_view why) override;
  void sessionOpened(std::string_view code, uint64_t took_ns) override;
  void sessionEnded(uint64_t took_ns) override;
  void brokerCounts(const base::BrokerCounts& counts) override;

 private:
  // Counts of a template, beside its public ones.
  struct Own {
    std::array<std::array<std::unique_ptr<Template::Parts>, kOutcomes>, base::kLaunches> parts;
    TickTemplate tick;  // since the last one
    std::string state;
  };

  Template* find(std::string_view name);
  size_t indexOf(const Template& t) const { return static_cast<size_t>(&t - templates_.data()); }
  Tenant& tenantOf(const base::TaskLabels& t, bool counts);
  void notice(const char* kind, std::string text);
  void noteIfSlow(const base::TaskLabels& t, base::Verdict verdict, const base::Phases& phases);
  void put(const base::CoreReport& report, std::vector<Template>* templates) const;
  std::vector<Tenant> tenants(const base::CoreReport& report) const;
  void addVault(Broker* broker) const;
  static std::vector<Headroom> headroomOf(const base::CoreReport& report);

  RecorderOptions options_;
  Clock clock_;
  std::vector<Template> templates_;  // without the gauges; `parts` are those of the last snapshot
  std::vector<Own> own_;             // of each template
  size_t last_ = 0;                  // the template that was found last
  Busiest busiest_;
  std::vector<Tenant> tenants_;  // by slot; the last: all others
  uint64_t refused_unknown_ = 0, receipts_late_ = 0;
  Histogram queue_wait_;
  Rpc rpc_;
  std::map<std::string, Histogram, std::less<>> methods_;
  Broker broker_;
  base::BrokerCounts vault_;  // the present vault's; `broker_` has those of earlier ones
  Histogram loop_lag_;
  uint64_t loop_lag_max_ns_ = 0, lag_told_ns_ = 0;
  std::array<uint64_t, base::kAuditKinds> findings_{};
  uint64_t walks_ = 0;
  base::AuditWalk walk_;
  std::deque<SlowTask> slow_;
  uint64_t slow_tasks_ = 0;
  std::deque<Notice> notices_;

  Tick tick_;  // being counted; without its templates
  uint64_t tick_from_ms_ = 0, tick_from_ns_ = 0;
  double tick_cpu_s_ = 0, tick_spawner_cpu_s_ = 0;  // at its begin
  std::deque<std::shared_ptr<const Tick>> ticks_;
  uint64_t serial_ = 0;
};

}  // namespace mayfly::metrics
