// A snapshot as Prometheus' text, and the list of all metrics.
//
// prometheus-cpp is the data model and the serializer; its registry, which locks and allocates for
// each count, is not used. Runs on the thread that answers a scrape, never on the core's.
//
// Layer: metrics: the only user of prometheus-cpp. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "metrics/snapshot.h"

namespace mayfly::metrics {

// What the scraped server knows, and the snapshot does not.
struct Scrape {
  uint64_t age_ns = 0;  // of the snapshot
  uint64_t http_connections = 0, http_streams = 0;
  uint64_t http_requests = 0, http_refused = 0, http_unauthorised = 0, http_slow = 0;
};

inline constexpr const char* kPrometheusType = "text/plain; version=0.0.4; charset=utf-8";

std::string prometheusText(const Snapshot& snapshot, const Scrape& scrape);

struct MetricInfo {
  std::string_view name, type, labels, help;  // labels: "template, verdict"
};
std::vector<MetricInfo> metricList();
std::string metricTable();  // of docs/metrics.md

}  // namespace mayfly::metrics
