// A measurement's report: series of rounds, as JSON, as a table, as plots.
//
// Layer: bench. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "bench/plot.h"
#include "load/run.h"

namespace mayfly::bench {

using Json = nlohmann::ordered_json;
inline constexpr const char* kFormat = "mayfly-bench-report";
inline constexpr int kFormatVersion = 1;

// How notes begin that void a figure, or say that it is the generator's; diff heeds them.
inline constexpr std::string_view kVoidNote = "void: ";
inline constexpr std::string_view kGeneratorNote = "the generator was the limit";
// The p99 of fewer tasks is the slowest one.
inline constexpr uint64_t kTasksOfP99 = 100;
// Share of the tasks of a sweep's good rate that may fail.
inline constexpr double kErrorsMax = 0.01;

// The same tasks, measured round by round.
struct Series {
  std::string name;
  std::string about;        // what runs
  double stated_per_s = 0;  // 0: none, as in a closed loop
  std::vector<load::Report> rounds;
  std::vector<std::string> notes;                // what a reader must know; why a figure is void
  std::map<std::string, load::Histogram> steps;  // of all rounds together

  // Of each round only the figures that are compared are kept: its steps are added up.
  void add(load::Report round);
  load::Report total() const;
  // The median over the rounds that recorded anything; 0: none did.
  double median(const std::function<double(const load::Report&)>& pick) const;
};

struct BenchReport {
  std::string verb;
  Json environment, options;
  bool interrupted = false;
  std::vector<Series> series;
  Json extra = Json::object();                             // of the verb; its members go to the top
  std::string table;                                       // for people
  std::vector<std::pair<std::string, std::string>> plots;  // file name without .svg, text
};
Json toJson(const BenchReport& report);

// Whether the load generator, and not the daemon, bounded a round; in words.
struct Generator {
  bool limited = false;
  bool plain = false;  // nothing to heed: it kept up, or the loop is closed
  std::string words;
};
// `cpu_share`: of one core, that this process used meanwhile. `stated_per_s` 0: closed loop.
Generator judgeGenerator(const load::Report& round, double stated_per_s, double cpu_share);

double ms(uint64_t ns);
std::string msText(double ms);  // 0.081, 3.81, 25.3, 412
// A line for each series: rate, tasks, errors, first byte, whole. Medians of rounds.
std::string seriesTable(const std::vector<Series>& series);
// What went wrong, a line for each series and kind of error, and the notes.
std::string seriesNotes(const std::vector<Series>& series);
// Latency by percentile, of each series' sum: to the end, and to the first byte.
LinePlot percentilePlot(const std::vector<Series>& series, const std::string& title);

}  // namespace mayfly::bench
