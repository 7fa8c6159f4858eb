#include "metrics/recorder.h"

#include <algorithm>
#include <utility>

namespace mayfly::metrics {

namespace {

constexpr size_t kMethodsMax = 64;         // the schema's, and "other"
constexpr uint64_t kLag_ns = 200'000'000;  // worth a notice
constexpr uint64_t kLagPause_ns = 10'000'000'000;
constexpr size_t kNoticeBytesMax = 300;

template <class T>
void keep(std::deque<T>* all, T one, size_t most) {
  all->push_back(std::move(one));
  if (all->size() > most) all->pop_front();
}

size_t at(base::Verdict verdict) { return static_cast<size_t>(verdict) % base::kVerdicts; }

}  // namespace

Recorder::Recorder(RecorderOptions options, Clock clock)
    : options_(std::move(options)),
      clock_(std::move(clock)),
      busiest_(options_.tenants_max),
      tenants_(options_.tenants_max + 1) {
  tenants_.back().others = true;
  broker_.configured = options_.broker;
  const Moment now = clock_();
  tick_from_ms_ = now.ms;
  tick_from_ns_ = now.ns;
}

void Recorder::addTemplate(std::string_view name, std::string_view mechanism) {
  Template& t = templates_.emplace_back();
  t.name = name;
  t.mechanism = mechanism;
  own_.emplace_back().tick.index = static_cast<uint32_t>(templates_.size() - 1);
}

// Most events come in rows of one template.
Template* Recorder::find(std::string_view name) {
  if (last_ < templates_.size() && templates_[last_].name == name) return &templates_[last_];
  for (size_t i = 0; i < templates_.size(); ++i)
    if (templates_[i].name == name) return &templates_[last_ = i];
  return nullptr;
}

Tenant& Recorder::tenantOf(const base::TaskLabels& t, bool counts) {
  if (!counts) return tenants_[busiest_.find(t.user, t.tenant)];
  const Busiest::Place place = busiest_.count(t.user, t.tenant, clock_().ns);
  Tenant& tenant = tenants_[place.slot];
  if (place.is_new) {
    tenant = {};
    tenant.user = t.user;
    tenant.tenant = t.tenant;
  }
  return tenant;
}

void Recorder::notice(const char* kind, std::string text) {
  text.resize(std::min(text.size(), kNoticeBytesMax));
  keep(&notices_, {clock_().ms, kind, std::move(text)}, kNotices);
}

// --- tasks --------------------------------------------------------------------------------

void Recorder::taskAccepted(const base::TaskLabels& t) {
  ++tenantOf(t, true).accepted;
  Template* tmpl = find(t.template_name);
  if (tmpl == nullptr) return;
  ++tmpl->accepted;
  ++tmpl->open;
  ++own_[indexOf(*tmpl)].tick.accepted;
}

// A refused name gets no place: to be refused costs a client nothing.
void Recorder::taskRefused(const base::TaskLabels& t, std::string_view code, base::RefusedBy by) {
  ++tenantOf(t, false).refused;
  Template* tmpl = find(t.template_name);
  if (tmpl == nullptr) {
    ++refused_unknown_;
    return;
  }
  ++tmpl->refused[codeOf(code)][static_cast<size_t>(by) % base::kRefusedBys];
  ++own_[indexOf(*tmpl)].tick.refused;
}

void Recorder::taskEnded(const base::TaskLabels& t, base::Verdict verdict, const base::Usage& usage,
                         const base::Phases& phases) {
  const Outcome outcome = outcomeOf(verdict);
  const uint64_t cpu_ns = usage.user_cpu_ns + usage.system_cpu_ns;
  Tenant& tenant = tenantOf(t, false);
  ++tenant.ended[static_cast<size_t>(outcome)];
  tenant.cpu_ns += cpu_ns;
  Template* tmpl = find(t.template_name);
  if (tmpl == nullptr) return;
  Own& own = own_[indexOf(*tmpl)];
  const auto launch = static_cast<size_t>(t.launch) % base::kLaunches;
  if (tmpl->open > 0) --tmpl->open;
  ++tmpl->verdicts[at(verdict)];
  ++own.tick.verdicts[at(verdict)];
  ++tmpl->launches[launch];
  tmpl->cpu_ns += cpu_ns;
  tmpl->output_bytes += usage.stdout_bytes + usage.stderr_bytes;
  tmpl->fresh_runtimes += usage.fresh_runtime ? 1 : 0;
  auto& parts = own.parts[launch][static_cast<size_t>(outcome)];
  if (!parts) parts = std::make_unique<Template::Parts>();
  tmpl->parts[launch][static_cast<size_t>(outcome)] = nullptr;  // the last snapshot's is old
  for (size_t i = 0; i < kParts; ++i) {
    uint64_t ns = 0;
    const auto part = static_cast<Part>(i);
    if (!partOf(phases, verdict, part, &ns)) continue;
    (*parts)[i].add(ns);
    ++tick_.parts[i][bucketOf(ns)];
    if (part == Part::queue) queue_wait_.add(ns);
    if (part == Part::run) ++own.tick.run[bucketOf(ns)];
    if (part == Part::start) {
      ++own.tick.start[bucketOf(ns)];
      tenant.start.add(ns);
    }
    if (part == Part::whole) {
      ++own.tick.whole[bucketOf(ns)];
      tenant.whole.add(ns);
    }
  }
  if (options_.slow_task_ns != 0) noteIfSlow(t, verdict, phases);
}

void Recorder::noteIfSlow(const base::TaskLabels& t, base::Verdict verdict,
                          const base::Phases& phases) {
  const uint64_t took_ns = tookNs(phases, clock_().ns);
  if (took_ns < options_.slow_task_ns) return;
  SlowTask s;
  s.task = t.task;
  s.at_ms = clock_().ms;
  s.template_name = t.template_name;
  s.user = t.user;
  s.tenant = t.tenant;
  s.trace = t.trace;
  s.verdict = verdict;
  s.launch = t.launch;
  for (size_t i = 0; i < kParts; ++i) partOf(phases, verdict, static_cast<Part>(i), &s.part_ns[i]);
  s.part_ns[static_cast<size_t>(Part::whole)] = took_ns;
  ++slow_tasks_;
  keep(&slow_, std::move(s), kSlowTasks);
}

// --- boxes and clones -----------------------------------------------------------------------

void Recorder::receipt(std::string_view template_name, const base::Receipt& r) {
  ++tick_.receipts;
  tick_.receipts_incomplete += r.complete ? 0 : 1;
  if (!r.complete)
    notice("quarantine", "box " + std::to_string(r.box) + " of template '" +
                             std::string(template_name) + "' is not proven gone: " + r.missing);
  Template* t = find(template_name);
  if (t == nullptr) return;
  ++t->receipts;
  t->receipts_incomplete += r.complete ? 0 : 1;
}

void Recorder::receiptCompleted(const base::Receipt& r) {
  ++receipts_late_;
  notice("quarantine", "box " + std::to_string(r.box) + " is proven gone, late");
}

void Recorder::boxLost(std::string_view template_name, std::string_view) {
  if (Template* t = find(template_name)) ++t->clones_lost;
}

void Recorder::cloneMade(std::string_view template_name, const base::CloneTimes& times) {
  Template* t = find(template_name);
  if (t == nullptr) return;
  ++t->clones_made;
  for (size_t i = 0; i < base::kMakeSteps; ++i) {
    const bool skipped =
        times.from == base::Launch::stocked && i == static_cast<size_t>(base::MakeStep::box);
    if (!skipped) t->make[i].add(times.step_ns[i]);
  }
}

void Recorder::cloneDiscarded(std::string_view template_name) {
  if (Template* t = find(template_name)) ++t->clones_discarded;
}

void Recorder::cloneClaimed(const base::TaskLabels& labels, base::ClaimKind kind) {
  Template* t = find(labels.template_name);
  if (t == nullptr) return;
  const auto i = static_cast<size_t>(kind) % base::kClaimKinds;
  ++t->claims[i];
  ++own_[indexOf(*t)].tick.claims[i];
}

// --- audit, loop ----------------------------------------------------------------------------

void Recorder::auditFound(const base::AuditFinding& f) {
  ++findings_[static_cast<size_t>(f.kind) % base::kAuditKinds];
  ++tick_.audit_findings;
  notice("audit",
         std::string(base::name(f.kind)) + ": box " + std::to_string(f.box) + " " + f.what);
}

void Recorder::auditEnded(const base::AuditWalk& walk) {
  ++walks_;
  walk_ = walk;
}

void Recorder::loopLag(uint64_t late_ns) {
  loop_lag_.add(late_ns);
  loop_lag_max_ns_ = std::max(loop_lag_max_ns_, late_ns);
  tick_.loop_lag_us_max =
      std::max(tick_.loop_lag_us_max,
               static_cast<uint32_t>(std::min<uint64_t>(late_ns / 1'000, UINT32_MAX)));
  const uint64_t now_ns = clock_().ns;
  if (late_ns < kLag_ns || (lag_told_ns_ != 0 && now_ns < lag_told_ns_ + kLagPause_ns)) return;
  lag_told_ns_ = now_ns;
  notice("lag", "the core thread was " + std::to_string(late_ns / 1'000'000) + " ms late");
}

// --- clients --------------------------------------------------------------------------------

void Recorder::connectionOpened(std::string_view) {
  ++rpc_.opened;
  ++rpc_.connections;
}

void Recorder::connectionEnded(std::string_view) {
  if (rpc_.connections > 0) --rpc_.connections;
}

void Recorder::connectionRefused(std::string_view, std::string_view code) {
  ++rpc_.connections_refused[codeOf(code)];
  ++tick_.calls_refused;
}

void Recorder::messageRefused() {
  ++rpc_.messages_refused;
  ++tick_.calls_refused;
}

void Recorder::callRefused(std::string_view, std::string_view code) {
  ++rpc_.calls_refused[codeOf(code)];
  ++tick_.calls_refused;
}

void Recorder::callAnswered(std::string_view method, uint64_t took_ns) {
  ++tick_.calls;
  auto found = methods_.find(method);
  if (found == methods_.end())
    found =
        methods_.try_emplace(methods_.size() < kMethodsMax ? std::string(method) : "other").first;
  found->second.add(took_ns);
}

void Recorder::messageReceived(uint64_t bytes) {
  ++rpc_.messages_in;
  rpc_.bytes_in += bytes;
}

void Recorder::messageSent(uint64_t bytes) {
  ++rpc_.messages_out;
  rpc_.bytes_out += bytes;
}

// --- templates, broker ------------------------------------------------------------------------

void Recorder::templateState(std::string_view template_name, std::string_view state,
                             std::string_view why) {
  Template* t = find(template_name);
  if (t == nullptr) return;
  std::string& known = own_[indexOf(*t)].state;
  if (known == state) return;
  known = state;
  notice("template", "template '" + t->name + "' is " + known +
                         (why.empty() ? std::string() : ": " + std::string(why)));
}

void Recorder::trialEnded(std::string_view template_name, std::string_view fault) {
  if (Template* t = find(template_name)) ++(fault.empty() ? t->trials_passed : t->trials_failed);
}

void Recorder::zygoteRenewed(std::string_view template_name) {
  if (Template* t = find(template_name)) ++t->zygotes_renewed;
}

void Recorder::zygoteDied(std::string_view template_name, std::string_view why) {
  Template* t = find(template_name);
  if (t == nullptr) return;
  ++t->zygotes_died;
  notice("template", "a zygote of '" + t->name + "' ended: " + std::string(why));
}

void Recorder::brokerUp(std::string_view what) {
  const bool front = what == "front";
  (front ? broker_.front_up : broker_.vault_up) = true;
  ++(front ? broker_.front_starts : broker_.vault_starts);
}

void Recorder::brokerDown(std::string_view what, std::string_view why) {
  const bool front = what == "front";
  if (!std::exchange(front ? broker_.front_up : broker_.vault_up, false)) return;
  ++(front ? broker_.front_ends : broker_.vault_ends);
  notice("broker", "the " + std::string(what) + " ended: " + std::string(why));
  if (front) return;
  // The next vault counts from 0.
  addVault(&broker_);
  vault_ = {};
}

// The present vault's counts to those of the earlier ones.
void Recorder::addVault(Broker* broker) const {
  for (size_t i = 0; i < vault_.kinds.size(); ++i) {
    const base::BrokerCounts::Kind& from = vault_.kinds[i];
    base::BrokerCounts::Kind& to = broker->decisions[i];
    to.allowed += from.allowed;
    to.refused += from.refused;
    to.failed += from.failed;
    to.took.add(from.took);
  }
}

void Recorder::sessionOpened(std::string_view code, uint64_t took_ns) {
  ++(code.empty() ? broker_.opened_ok : broker_.opened_refused);
  broker_.opened.add(took_ns);
}

void Recorder::sessionEnded(uint64_t took_ns) { broker_.revoked.add(took_ns); }

void Recorder::brokerCounts(const base::BrokerCounts& counts) {
  for (size_t i = 0; i < counts.kinds.size(); ++i) {
    const auto& now = counts.kinds[i];
    const auto& was = vault_.kinds[i];
    const auto more = [](uint64_t a, uint64_t b) {
      return static_cast<uint32_t>(a - std::min(a, b));
    };
    tick_.broker_allowed += more(now.allowed, was.allowed);
    tick_.broker_refused += more(now.refused, was.refused);
    tick_.broker_failed += more(now.failed, was.failed);
  }
  vault_ = counts;
}

}  // namespace mayfly::metrics
