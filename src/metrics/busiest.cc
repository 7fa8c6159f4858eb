#include "metrics/busiest.h"

#include <algorithm>
#include <utility>

namespace mayfly::metrics {

namespace {

auto lightest(std::vector<Busiest::Name>& names) {
  return std::min_element(names.begin(), names.end(),
                          [](const auto& a, const auto& b) { return a.weight < b.weight; });
}

bool is(const Busiest::Name& name, std::string_view user, std::string_view tenant) {
  return name.tenant == tenant && name.user == user;
}

}  // namespace

size_t Busiest::find(std::string_view user, std::string_view tenant) const {
  for (size_t i = 0; i < slots_.size(); ++i)
    if (is(slots_[i], user, tenant)) return i;
  return slots_max_;
}

void Busiest::decay(uint64_t now_ns) {
  if (decayed_ns_ == 0) decayed_ns_ = now_ns;
  for (; now_ns >= decayed_ns_ + kHalf_ns; decayed_ns_ += kHalf_ns) {
    for (auto* names : {&slots_, &candidates_})
      for (Name& name : *names) {
        name.weight /= 2;
        name.error /= 2;
      }
    if (now_ns - decayed_ns_ > 64 * kHalf_ns) decayed_ns_ = now_ns - kHalf_ns;
  }
}

Busiest::Name& Busiest::candidate(std::string_view user, std::string_view tenant) {
  for (Name& name : candidates_)
    if (is(name, user, tenant)) return name;
  if (candidates_.size() < kCandidates)
    return candidates_.emplace_back(Name{std::string(user), std::string(tenant)});
  Name& least = *lightest(candidates_);
  least.user.assign(user);
  least.tenant.assign(tenant);
  least.error = least.weight;
  return least;
}

Busiest::Place Busiest::count(std::string_view user, std::string_view tenant, uint64_t now_ns) {
  decay(now_ns);
  if (const size_t slot = find(user, tenant); slot < slots_max_) {
    slots_[slot].weight += 1;
    return {slot, false};
  }
  if (slots_.size() < slots_max_) {
    slots_.push_back({std::string(user), std::string(tenant), 1, 0});
    return {slots_.size() - 1, true};
  }
  if (slots_.empty()) return {slots_max_, false};
  Name& name = candidate(user, tenant);
  name.weight += 1;
  const auto least = lightest(slots_);
  if (now_ns >= day_from_ns_ + kDay_ns) {
    day_from_ns_ = now_ns;
    swaps_ = 0;
  }
  if (now_ns < swap_from_ns_ || swaps_ >= kSwapsOfDay ||
      name.weight - name.error < kClearly * least->weight + kLeast)
    return {slots_max_, false};
  swap_from_ns_ = now_ns + kSwapPause_ns;
  ++swaps_;
  std::swap(*least, name);  // the one that goes may come back
  least->error = 0;
  return {static_cast<size_t>(least - slots_.begin()), true};
}

}  // namespace mayfly::metrics
