// The metrics: one row each, with how its series follow from a snapshot.
//
// Layer: metrics, internal to it.
#pragma once

#include <initializer_list>
#include <span>
#include <string_view>

#include "metrics/exposition.h"

namespace mayfly::metrics {

// The series of one metric, being made. Label values are in the order of the metric's labels.
class Series {
 public:
  using Values = std::initializer_list<std::string_view>;
  virtual ~Series() = default;
  virtual void add(Values labels, double value) = 0;
  virtual void add(Values labels, const Histogram& value) = 0;
};

enum class Type : uint8_t { counter, gauge, histogram };

struct Family {
  const char* name;
  Type type;
  const char* labels;  // "template verdict"; empty: none
  const char* help;
  void (*fill)(const Snapshot&, const Scrape&, Series&);
};

std::span<const Family> taskFamilies();    // tasks, queue, tenants
std::span<const Family> poolFamilies();    // clones, pools, zygotes, boxes
std::span<const Family> daemonFamilies();  // host, broker, audit, RPC, the daemon itself

}  // namespace mayfly::metrics
