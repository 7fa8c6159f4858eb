// mayfly bench isolation: what a noisy tenant costs another one on the same daemon.
//
// Pairs of phases, one quiet and one noisy, in an order that is drawn for each pair: what changes
// slowly on the machine meets both sides alike. A pair gives one ratio, noisy to quiet, for each
// figure; the pairs' geometric mean has Student's 95 % interval, and a p that is corrected by Holm
// over all figures.
//
// Layer: bench. Blocks. A thread of its own makes the noise.
#pragma once

#include <string>
#include <vector>

#include "bench/measure.h"
#include "bench/stats.h"

namespace mayfly::bench {

// What the noisy tenant's tasks do; `all`: each of the others in turn.
enum class Noise : uint8_t { cpu, memory, disk, churn, all };
inline constexpr std::string_view kNoises[] = {"cpu", "memory", "disk", "churn", "all"};
config::Mix noiseMix(Noise noise, const std::string& tenant);

struct IsolationVerb {
  std::string socket;
  LoadShape victim;  // its shape
  MixLoad victim_load, noise_load;
  uint32_t noise_in_flight = 4;
  uint32_t pairs = 6;
};
// Adds table, plot and JSON of a report whose series are quiet, noisy and noise.
void concludeIsolation(const IsolationVerb& verb, BenchReport& report);
base::Result<BenchReport> isolation(const IsolationVerb& verb, const Watch& watch);

}  // namespace mayfly::bench
