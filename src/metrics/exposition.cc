#include "metrics/exposition.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <limits>
#include <sstream>
#include <utility>

#include "metrics/families.h"

namespace mayfly::metrics {

namespace {

template <class Use>
void eachFamily(Use use) {
  for (auto families : {taskFamilies(), poolFamilies(), daemonFamilies()})
    for (const Family& family : families) use(family);
}

std::vector<std::string> wordsOf(std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    words.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return words;
}

class FamilySeries final : public Series {
 public:
  FamilySeries(const Family& of, prometheus::MetricFamily& to)
      : of_(of), to_(to), labels_(wordsOf(of.labels)) {}

  void add(Values labels, double value) override {
    prometheus::ClientMetric& m = make(labels);
    if (of_.type == Type::counter)
      m.counter.value = value;
    else
      m.gauge.value = value;
  }
  void add(Values labels, const Histogram& value) override {
    prometheus::ClientMetric& m = make(labels);
    uint64_t below = 0;
    m.histogram.bucket.reserve(kBuckets);
    for (size_t i = 0; i < kBuckets; ++i) {
      prometheus::ClientMetric::Bucket bucket;
      bucket.cumulative_count = below += value.counts[i];
      bucket.upper_bound = i < kBounds ? static_cast<double>(bound_ns(i)) / 1e9
                                       : std::numeric_limits<double>::infinity();
      m.histogram.bucket.push_back(bucket);
    }
    m.histogram.sample_count = below;
    m.histogram.sample_sum = static_cast<double>(value.sum_ns) / 1e9;
  }

 private:
  prometheus::ClientMetric& make(Values labels) {
    prometheus::ClientMetric& m = to_.metric.emplace_back();
    size_t i = 0;
    for (std::string_view value : labels) {
      prometheus::ClientMetric::Label label;
      label.name = labels_.at(i++);
      label.value = value;
      m.label.push_back(std::move(label));
    }
    return m;
  }

  const Family& of_;
  prometheus::MetricFamily& to_;
  std::vector<std::string> labels_;
};

prometheus::MetricType typeOf(Type type) {
  switch (type) {
    case Type::counter:
      return prometheus::MetricType::Counter;
    case Type::gauge:
      return prometheus::MetricType::Gauge;
    case Type::histogram:
      break;
  }
  return prometheus::MetricType::Histogram;
}

std::string_view nameOf(Type type) {
  return type == Type::counter ? "counter" : type == Type::gauge ? "gauge" : "histogram";
}

}  // namespace

// One family at a time: the text is long, and its parts need not be there at once.
std::string prometheusText(const Snapshot& snapshot, const Scrape& scrape) {
  std::ostringstream out;
  const prometheus::TextSerializer serializer;
  eachFamily([&](const Family& family) {
    std::vector<prometheus::MetricFamily> one(1);
    one[0].name = family.name;
    one[0].help = family.help;
    one[0].type = typeOf(family.type);
    FamilySeries series(family, one[0]);
    family.fill(snapshot, scrape, series);
    if (!one[0].metric.empty()) serializer.Serialize(out, one);
  });
  return std::move(out).str();
}

std::vector<MetricInfo> metricList() {
  std::vector<MetricInfo> all;
  eachFamily([&](const Family& f) { all.push_back({f.name, nameOf(f.type), f.labels, f.help}); });
  return all;
}

std::string metricTable() {
  std::string out = "| metric | type | labels | meaning |\n|---|---|---|---|\n";
  for (const MetricInfo& m : metricList()) {
    std::string labels;
    for (const std::string& label : wordsOf(m.labels))
      labels += (labels.empty() ? "`" : ", `") + label + "`";
    out += "| `" + std::string(m.name) + "` | " + std::string(m.type) + " | " + labels + " | " +
           std::string(m.help) + " |\n";
  }
  return out;
}

}  // namespace mayfly::metrics
