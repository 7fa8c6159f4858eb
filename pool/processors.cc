#include "pool/processors.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace mayfly::pool {

namespace {
// Of the processors, that work `ahead` cannot take: a kernel starves nobody.
constexpr double kSharedLeast = 0.05;
}  // namespace

double Processors::speed(Class of) const {
  const auto ahead = static_cast<double>(lines_[0].pieces.size());
  const auto shared = static_cast<double>(lines_[1].pieces.size());
  const double kept = shared > 0 ? kSharedLeast * count_ : 0;
  const double taken = std::min(ahead, count_ - kept);
  if (of == Class::ahead) return ahead > 0 ? taken / ahead : 0;
  return shared > 0 ? std::min(1.0, (count_ - taken) / shared) : 0;
}

double Processors::busy() const {
  return speed(Class::ahead) * static_cast<double>(lines_[0].pieces.size()) +
         speed(Class::shared) * static_cast<double>(lines_[1].pieces.size());
}

void Processors::add(Job job, Class of, uint64_t work_ns) {
  Line& line = lines_[static_cast<size_t>(of)];
  line.pieces.push({line.clock_ns + static_cast<double>(work_ns), order_++, job});
}

void Processors::advance(uint64_t to_ns) {
  const auto passed_ns = static_cast<double>(to_ns - std::min(to_ns, now_ns_));
  const double speeds[] = {speed(Class::ahead), speed(Class::shared)};
  for (size_t i = 0; i < 2; ++i) lines_[i].clock_ns += passed_ns * speeds[i];
  now_ns_ = std::max(now_ns_, to_ns);
}

uint64_t Processors::doneOf_ns(Class of) const {
  const Line& line = lines_[static_cast<size_t>(of)];
  if (line.pieces.empty()) return UINT64_MAX;
  const double left_ns = std::max(0.0, line.pieces.top().done_at - line.clock_ns);
  return now_ns_ + static_cast<uint64_t>(std::ceil(left_ns / speed(of)));
}

uint64_t Processors::nextDone_ns() const {
  return std::min(doneOf_ns(Class::ahead), doneOf_ns(Class::shared));
}

Processors::Job Processors::takeDone() {
  const bool ahead = doneOf_ns(Class::ahead) <= doneOf_ns(Class::shared);
  Line& line = lines_[ahead ? 0 : 1];
  const Job job = line.pieces.top().job;
  line.pieces.pop();
  return job;
}

}  // namespace mayfly::pool
