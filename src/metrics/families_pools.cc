// Metrics of clones, pools, zygotes and boxes.
#include <algorithm>

#include "metrics/families.h"

namespace mayfly::metrics {

namespace {

constexpr uint64_t kRecentMs = 300'000;

double amount(uint64_t n) { return static_cast<double>(n); }

// One figure of each template: `get` is a member, or a function of the template.
template <auto kGet>
void each(const Snapshot& s, const Scrape&, Series& out) {
  for (const Template& t : s.templates) {
    if constexpr (std::is_member_object_pointer_v<decltype(kGet)>)
      out.add({t.name}, amount(t.*kGet));
    else
      out.add({t.name}, static_cast<double>(kGet(t)));
  }
}

void claims(const Snapshot& s, const Scrape&, Series& out) {
  for (const Template& t : s.templates)
    for (size_t k = 0; k < base::kClaimKinds; ++k)
      out.add({t.name, name(static_cast<base::ClaimKind>(k))}, amount(t.claims[k]));
}

void clones(const Snapshot& s, const Scrape&, Series& out) {
  for (const Template& t : s.templates) {
    out.add({t.name, "parked"}, t.pool.parked);
    out.add({t.name, "making"}, t.pool.making);
    out.add({t.name, "running"}, t.running);
    out.add({t.name, "dying"}, t.dying);
    out.add({t.name, "quarantined"}, t.quarantined);
  }
}

void targets(const Snapshot& s, const Scrape&, Series& out) {
  for (const Template& t : s.templates)
    for (size_t r = 0; r < base::kSizeReasons; ++r)
      out.add({t.name, name(static_cast<base::SizeReason>(r))}, t.forecast.target_by_reason[r]);
}

void sizeReasons(const Snapshot& s, const Scrape&, Series& out) {
  for (const Template& t : s.templates)
    for (size_t r = 0; r < base::kSizeReasons; ++r)
      out.add({t.name, name(static_cast<base::SizeReason>(r))},
              t.forecast.lanes_by_reason[r] != 0 ? 1 : 0);
}

// The share of the tasks of the last minutes that found no parked clone.
void recentMisses(const Snapshot& s, const Scrape&, Series& out) {
  std::vector<uint64_t> all(s.templates.size()), missed(s.templates.size());
  for (const auto& tick : s.ticks) {
    if (tick->at_ms + kRecentMs < s.made_ms) continue;
    for (const TickTemplate& t : tick->templates) {
      if (t.index >= all.size()) continue;
      for (size_t k = 0; k < base::kClaimKinds; ++k) {
        all[t.index] += t.claims[k];
        if (static_cast<base::ClaimKind>(k) != base::ClaimKind::parked)
          missed[t.index] += t.claims[k];
      }
    }
  }
  for (size_t i = 0; i < all.size(); ++i)
    if (all[i] != 0) out.add({s.templates[i].name}, amount(missed[i]) / amount(all[i]));
}

void makeTimes(const Snapshot& s, const Scrape&, Series& out) {
  for (const Template& t : s.templates)
    for (size_t m = 0; m < base::kMakeSteps; ++m)
      out.add({t.name, name(static_cast<base::MakeStep>(m))}, t.make[m]);
}

void trials(const Snapshot& s, const Scrape&, Series& out) {
  for (const Template& t : s.templates) {
    out.add({t.name, "passed"}, amount(t.trials_passed));
    out.add({t.name, "failed"}, amount(t.trials_failed));
  }
}

void receipts(const Snapshot& s, const Scrape&, Series& out) {
  for (const Template& t : s.templates) {
    out.add({t.name, "complete"}, amount(t.receipts - t.receipts_incomplete));
    out.add({t.name, "incomplete"}, amount(t.receipts_incomplete));
  }
}

void states(const Snapshot& s, const Scrape&, Series& out) {
  for (const Template& t : s.templates)
    for (std::string_view state : {"starting", "ready", "unhealthy", "missingImage"})
      out.add({t.name, state}, t.state == state ? 1 : 0);
}

constexpr Family kPoolFamilies[] = {
    {"mayfly_claims_total", Type::counter, "template kind",
     "Tasks that got a clone: a parked one, one that was being made, or one made on demand.",
     claims},
    {"mayfly_clones", Type::gauge, "template state",
     "Clones and their boxes: parked, making, running, dying, quarantined.", clones},
    {"mayfly_stocked_boxes", Type::gauge, "template", "Complete boxes without a clone.",
     each<[](const Template& t) { return t.pool.stocked; }>},
    {"mayfly_stocked_boxes_target", Type::gauge, "template", "Boxes to keep without a clone.",
     each<[](const Template& t) { return t.pool.stocked_target; }>},
    {"mayfly_pool_target_clones", Type::gauge, "template reason",
     "Clones to keep parked, by the reason of the size; the sum is the target.", targets},
    {"mayfly_pool_size_reason", Type::gauge, "template reason",
     "1: a pool of the template has its size for this reason, even if the size is 0.", sizeReasons},
    {"mayfly_pool_wanted_clones", Type::gauge, "template",
     "Clones that the pool would keep parked without the daemon's budget.",
     each<[](const Template& t) { return t.forecast.wanted; }>},
    {"mayfly_pool_waiting_tasks", Type::gauge, "template", "Admitted tasks that wait for a clone.",
     each<[](const Template& t) { return t.pool.waiting; }>},
    {"mayfly_pool_arrivals_per_second", Type::gauge, "template",
     "The rate of tasks that the pool reckons with.",
     each<[](const Template& t) { return t.forecast.arrivals_hz; }>},
    {"mayfly_pool_predicted_miss_ratio", Type::gauge, "template",
     "The predicted share of tasks that find no parked clone.",
     each<[](const Template& t) { return t.forecast.miss_share; }>},
    {"mayfly_pool_recent_miss_ratio", Type::gauge, "template",
     "The share of the tasks of the last 5 minutes that found no parked clone.", recentMisses},
    {"mayfly_pool_busy_makers", Type::gauge, "template",
     "How many makers of clones the arrivals keep busy.",
     each<[](const Template& t) { return t.forecast.makers; }>},
    {"mayfly_pool_make_time_seconds", Type::gauge, "template",
     "The time to make a clone, as the pool reckons with it.",
     each<[](const Template& t) { return static_cast<double>(t.forecast.make_ns) / 1e9; }>},
    {"mayfly_clone_make_seconds", Type::histogram, "template step",
     "The making of clones: box (unless stocked), clone, park, and whole.", makeTimes},
    {"mayfly_clones_made_total", Type::counter, "template", "Clones that became ready for a task.",
     each<&Template::clones_made>},
    {"mayfly_clones_discarded_total", Type::counter, "template",
     "Ready clones that ended without a task.", each<&Template::clones_discarded>},
    {"mayfly_clones_lost_total", Type::counter, "template",
     "Clones that failed before they had a task.", each<&Template::clones_lost>},
    {"mayfly_clone_unique_memory_bytes", Type::gauge, "template",
     "The memory of one parked clone that it shares with no other.",
     each<&Template::clone_memory_bytes>},
    {"mayfly_template_state", Type::gauge, "template state", "1 for the state that it is in.",
     states},
    {"mayfly_zygotes", Type::gauge, "template", "Zygotes that serve, start or drain.",
     each<[](const Template& t) { return t.pool.zygotes; }>},
    {"mayfly_zygote_generations_total", Type::counter, "template",
     "Zygotes that took over from another.", each<&Template::zygotes_renewed>},
    {"mayfly_zygotes_died_total", Type::counter, "template",
     "Zygotes that ended unasked, failed to start, or were found unfit.",
     each<&Template::zygotes_died>},
    {"mayfly_zygote_trials_total", Type::counter, "template result",
     "Trials of new zygotes; failed: a failure of hygiene, and the zygote does not serve.", trials},
    {"mayfly_template_boxes", Type::gauge, "template", "Boxes that are not proven gone.",
     each<&Template::boxes>},
    {"mayfly_receipts_total", Type::counter, "template result",
     "Receipts; incomplete: the box went into quarantine.", receipts},
    {"mayfly_receipts_late_total", Type::counter, "",
     "Boxes that were proven gone after their quarantine.",
     [](const Snapshot& s, const Scrape&, Series& out) { out.add({}, amount(s.receipts_late)); }},
    {"mayfly_boxes", Type::gauge, "", "Boxes that are not proven gone, of all templates.",
     [](const Snapshot& s, const Scrape&, Series& out) { out.add({}, amount(s.boxes)); }},
    {"mayfly_boxes_quarantined", Type::gauge, "", "Boxes whose proof is overdue.",
     [](const Snapshot& s, const Scrape&, Series& out) { out.add({}, amount(s.quarantined)); }},
};

}  // namespace

std::span<const Family> poolFamilies() { return kPoolFamilies; }

}  // namespace mayfly::metrics
