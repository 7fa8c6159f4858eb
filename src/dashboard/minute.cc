#include "dashboard/minute.h"

#include <algorithm>

namespace mayfly::dashboard {

namespace {

template <class To, class From>
void addAll(To& to, const From& from) {
  for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

}  // namespace

void Sums::add(const metrics::TickTemplate& tick) {
  accepted += tick.accepted;
  refused += tick.refused;
  addAll(verdicts, tick.verdicts);
  addAll(claims, tick.claims);
  addAll(start, tick.start);
  addAll(whole, tick.whole);
}

uint64_t Sums::ended() const {
  uint64_t all = 0;
  for (uint64_t each : verdicts) all += each;
  return all;
}

double Sums::missShare() const {
  uint64_t all = 0;
  for (uint64_t each : claims) all += each;
  const uint64_t hits = claims[static_cast<size_t>(base::ClaimKind::parked)];
  return all == 0 ? -1 : static_cast<double>(all - hits) / static_cast<double>(all);
}

Minute lastMinute(const metrics::Snapshot& snapshot, uint64_t length_ms) {
  Minute out;
  out.templates.resize(snapshot.templates.size());
  double cpu_ms = 0, spawner_cpu_ms = 0;
  for (const auto& tick : snapshot.ticks) {
    if (tick->at_ms + length_ms <= snapshot.made_ms) continue;
    out.seconds += tick->length_ms / 1e3;
    cpu_ms += static_cast<double>(tick->cpu_share) * tick->length_ms;
    spawner_cpu_ms += static_cast<double>(tick->spawner_cpu_share) * tick->length_ms;
    out.calls += tick->calls;
    out.calls_refused += tick->calls_refused;
    out.loop_lag_us_max = std::max(out.loop_lag_us_max, tick->loop_lag_us_max);
    for (size_t part = 0; part < metrics::kParts; ++part)
      addAll(out.parts[part], tick->parts[part]);
    for (const metrics::TickTemplate& each : tick->templates) {
      out.all.add(each);
      if (each.index < out.templates.size()) out.templates[each.index].add(each);
    }
  }
  if (out.seconds > 0) {
    out.cpu_share = cpu_ms / 1e3 / out.seconds;
    out.spawner_cpu_share = spawner_cpu_ms / 1e3 / out.seconds;
  }
  return out;
}

}  // namespace mayfly::dashboard
