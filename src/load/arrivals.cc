#include "load/arrivals.h"

#include <cmath>
#include <random>
#include <utility>

namespace mayfly::load {

Arrivals constantArrivals(double per_s, uint64_t count) {
  return [per_s, count, next = uint64_t{0}]() mutable -> std::optional<uint64_t> {
    if (next == count) return std::nullopt;
    // Computed from the start each time: gaps that are not whole ns must not add up to a drift.
    return static_cast<uint64_t>(static_cast<double>(next++) * 1e9 / per_s);
  };
}

Arrivals poissonArrivals(double per_s, uint64_t count, uint64_t seed) {
  return [per_s, left = count, random = std::mt19937_64(seed),
          at_ns = 0.0]() mutable -> std::optional<uint64_t> {
    if (left == 0) return std::nullopt;
    --left;
    // Not std::exponential_distribution: each library has its own sequence.
    double uniform = static_cast<double>(random() >> 11) * 0x1p-53;  // [0, 1)
    at_ns -= std::log1p(-uniform) * 1e9 / per_s;
    return static_cast<uint64_t>(at_ns);
  };
}

Arrivals burstArrivals(uint64_t count) {
  return [left = count]() mutable -> std::optional<uint64_t> {
    if (left == 0) return std::nullopt;
    --left;
    return 0;
  };
}

Arrivals repeatedBursts(uint32_t each, uint64_t every_ns, uint64_t count) {
  return [each, every_ns, count, next = uint64_t{0}]() mutable -> std::optional<uint64_t> {
    if (next == count) return std::nullopt;
    return next++ / each * every_ns;
  };
}

Arrivals recordedArrivals(std::vector<uint64_t> offsets_ns) {
  return [offsets = std::move(offsets_ns), next = size_t{0}]() mutable -> std::optional<uint64_t> {
    if (next == offsets.size()) return std::nullopt;
    return offsets[next++];
  };
}

}  // namespace mayfly::load
