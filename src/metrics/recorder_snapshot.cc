// Recorder: its ticks and snapshots.
#include <algorithm>
#include <utility>

#include "metrics/recorder.h"

namespace mayfly::metrics {

std::vector<Headroom> Recorder::headroomOf(const base::CoreReport& report) {
  const base::HostUse& u = report.use;
  const auto num = [](auto n) { return static_cast<double>(n); };
  return {
      {"memory", "bytes", num(u.memory_bytes), num(u.memory_bytes_max)},
      {"cpu", "cores", num(u.cpu_milli) / 1'000, num(u.cpu_milli_max) / 1'000},
      {"boxes", "", num(u.boxes), num(u.boxes_max)},
      {"fds", "", num(u.fds), num(u.fds_max)},
      {"pids", "", num(u.pids), num(u.pids_max)},
      {"ptys", "", num(u.ptys), num(u.ptys_max)},
      {"parked", "", num(u.parked), num(u.parked_max)},
      {"parked_memory", "bytes", num(u.parked_memory_bytes), num(u.parked_memory_bytes_max)},
      {"queue", "", num(report.queued), num(report.queue_max)},
  };
}

// The gauges of each template.
void Recorder::put(const base::CoreReport& report, std::vector<Template>* templates) const {
  const size_t count = std::min(report.templates.size(), templates->size());
  for (size_t i = 0; i < count; ++i) {
    const base::TemplateReport& r = report.templates[i];
    Template& t = (*templates)[i];
    t.state = r.state;
    t.state_why = r.state_text;
    t.pool = r.pool;
    t.forecast = r.forecast;
    t.running = r.claimed;
    t.dying = r.dying;
    t.quarantined = r.quarantined;
    t.boxes = r.boxes;
    t.clone_memory_bytes = r.clone_memory_bytes;
  }
}

void Recorder::tick(const base::CoreReport& report, const Process& process) {
  const Moment now = clock_();
  tick_.at_ms = now.ms;
  const uint64_t length_ns = now.ns - std::min(now.ns, tick_from_ns_);
  tick_.length_ms = static_cast<uint32_t>(std::min<uint64_t>(length_ns / 1'000'000, UINT32_MAX));
  tick_.queued = report.queued;
  tick_.boxes = report.boxes;
  tick_.quarantined = report.quarantined;
  tick_.connections = rpc_.connections;
  const auto share = [length_ns](double cpu_s) {
    return length_ns > 0 ? static_cast<float>(cpu_s * 1e9 / static_cast<double>(length_ns)) : 0.0f;
  };
  tick_.cpu_share = share(process.cpu_s - tick_cpu_s_);
  tick_.spawner_cpu_share = share(process.spawner_cpu_s - tick_spawner_cpu_s_);
  for (const Headroom& h : headroomOf(report))
    tick_.headroom.push_back(h.budget > 0 ? static_cast<float>(h.committed / h.budget) : 0.0f);
  for (size_t i = 0; i < std::min(own_.size(), report.templates.size()); ++i) {
    TickTemplate& t = own_[i].tick;
    const base::TemplateReport& r = report.templates[i];
    t.parked = r.pool.parked;
    t.parked_target = r.pool.parked_target;
    t.stocked = r.pool.stocked;
    t.making = r.pool.making;
    t.waiting = r.pool.waiting;
    t.running = r.claimed;
    t.arrivals_hz = static_cast<float>(r.forecast.arrivals_hz);
    t.miss_predicted = static_cast<float>(r.forecast.miss_share);
    const bool ended = std::any_of(t.verdicts.begin(), t.verdicts.end(), [](auto n) { return n; });
    if (ended || t.accepted != 0 || t.refused != 0 || r.boxes != 0) tick_.templates.push_back(t);
    t = {};
    t.index = static_cast<uint32_t>(i);
  }
  ticks_.push_back(std::make_shared<const Tick>(std::exchange(tick_, {})));
  if (ticks_.size() > kTicks) ticks_.pop_front();
  tick_from_ns_ = now.ns;
  tick_cpu_s_ = process.cpu_s;
  tick_spawner_cpu_s_ = process.spawner_cpu_s;
}

std::vector<Tenant> Recorder::tenants(const base::CoreReport& report) const {
  std::vector<Tenant> all = tenants_;
  for (const base::AccountReport& account : report.accounts) {
    Tenant& t = all[busiest_.find(account.user, account.tenant)];
    t.queued += account.queued;
    t.running += account.running;
  }
  // Free places are left out; the busiest one comes first.
  std::vector<size_t> order;
  const auto& slots = busiest_.slots();
  for (size_t i = 0; i < slots.size(); ++i) order.push_back(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return slots[a].weight > slots[b].weight; });
  std::vector<Tenant> sorted;
  for (size_t i : order) sorted.push_back(std::move(all[i]));
  sorted.push_back(std::move(all.back()));
  return sorted;
}

SnapshotPtr Recorder::snapshot(const base::CoreReport& report, const Process& process,
                               bool stopping) {
  const Moment now = clock_();
  auto s = std::make_shared<Snapshot>();
  s->made_ns = now.ns;
  s->made_ms = now.ms;
  s->started_ms = options_.started_ms;
  s->serial = ++serial_;
  s->instance = options_.instance;
  s->version = options_.version;
  s->stopping = stopping;
  s->ready = report.settled && report.serving && !stopping;
  // What has changed since the last snapshot is copied; the rest is shared with it.
  for (size_t i = 0; i < templates_.size(); ++i)
    for (size_t l = 0; l < base::kLaunches; ++l)
      for (size_t o = 0; o < kOutcomes; ++o)
        if (own_[i].parts[l][o] && !templates_[i].parts[l][o])
          templates_[i].parts[l][o] = std::make_shared<const Template::Parts>(*own_[i].parts[l][o]);
  s->templates = templates_;
  put(report, &s->templates);
  s->tenants = tenants(report);
  s->headroom = headroomOf(report);
  s->queued = report.queued;
  s->queue_age_ns = report.queue_age_ns;
  s->boxes = report.boxes;
  s->quarantined = report.quarantined;
  s->queue_wait = queue_wait_;
  s->refused_unknown_template = refused_unknown_;
  s->receipts_late = receipts_late_;
  s->broker = broker_;
  s->broker.sessions = vault_.sessions;
  addVault(&s->broker);
  s->rpc = rpc_;
  for (const auto& [name, took] : methods_) s->rpc.methods.push_back({name, took});
  s->process = process;
  s->loop_lag = loop_lag_;
  s->loop_lag_max_ns = loop_lag_max_ns_;
  s->audit_findings = findings_;
  s->audit_walks = walks_;
  s->audit_last = walk_;
  s->ticks.assign(ticks_.begin(), ticks_.end());
  s->slow.assign(slow_.begin(), slow_.end());
  s->slow_tasks = slow_tasks_;
  s->slow_task_ns = options_.slow_task_ns;
  s->notices.assign(notices_.begin(), notices_.end());
  return s;
}

}  // namespace mayfly::metrics
