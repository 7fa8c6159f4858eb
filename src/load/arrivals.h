// The intended start times of requests, as offsets from the beginning of a run.
//
// The sequence depends on the arguments only: one seed gives one sequence on every machine and with
// every standard library.
//
// Layer: load. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace mayfly::load {

// The next intended start, never before the previous one; nothing: no more requests.
using Arrivals = std::function<std::optional<uint64_t>()>;

Arrivals constantArrivals(double per_s, uint64_t count);
// Independent users: exponential gaps with a mean of 1 / per_s.
Arrivals poissonArrivals(double per_s, uint64_t count, uint64_t seed);
// `count` at once.
Arrivals burstArrivals(uint64_t count);
// `each` at once, every `every_ns`, from the beginning on.
Arrivals repeatedBursts(uint32_t each, uint64_t every_ns, uint64_t count);
// Recorded arrivals, in order.
Arrivals recordedArrivals(std::vector<uint64_t> offsets_ns);

}  // namespace mayfly::load
