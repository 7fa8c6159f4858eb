// Which names get a label of their own: the busiest ones of a stream whose names clients choose.
//
// At most `slots` names have a place at a time; all others count together. A name takes a free
// place at once, a taken one only if it is clearly busier than the least busy name with a place,
// and at most one name does so in `kSwapPause_ns`, `kSwapsOfDay` in a day. Each new name costs a
// scraper the series of one name, some 63, so these bounds are what a client that invents names can
// cost; and it cannot push a busy name out. Busy means lately: counts halve each minute.
//
// The names without a place compete by the space-saving algorithm (Metwally et al.), whose counts
// are too high by a known error at most; only what is beyond the error counts.
//
// Layer: metrics. Pure: time is an argument. A known name costs no allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::metrics {

class Busiest {
 public:
  static constexpr size_t kCandidates = 64;
  static constexpr uint64_t kSwapPause_ns = 60'000'000'000;
  static constexpr uint64_t kDay_ns = 86'400'000'000'000;
  static constexpr uint32_t kSwapsOfDay = 100;
  static constexpr uint64_t kHalf_ns = 60'000'000'000;
  static constexpr double kClearly = 2, kLeast = 8;  // times the least busy one, and events more

  struct Name {
    std::string user, tenant;
    double weight = 0;
    double error = 0;  // of a candidate: how much of the weight may be others'
  };
  struct Place {
    size_t slot = 0;      // slots(): none
    bool is_new = false;  // the name just took the slot
  };

  explicit Busiest(size_t slots_max) : slots_max_(slots_max) {}

  // Counts one event of the name.
  Place count(std::string_view user, std::string_view tenant, uint64_t now_ns);
  size_t find(std::string_view user, std::string_view tenant) const;  // slotsMax(): none
  size_t slotsMax() const { return slots_max_; }
  const std::vector<Name>& slots() const { return slots_; }

 private:
  void decay(uint64_t now_ns);
  Name& candidate(std::string_view user, std::string_view tenant);

  size_t slots_max_;
  std::vector<Name> slots_, candidates_;
  uint64_t decayed_ns_ = 0, swap_from_ns_ = 0;
  uint64_t day_from_ns_ = 0;  // the day's begin; swaps_ counts its swaps
  uint32_t swaps_ = 0;
};

}  // namespace mayfly::metrics
