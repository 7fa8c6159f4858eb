// Whether two reports differ by more than noise.
//
// The rounds are the samples. Each figure that both reports have (a series' percentile of first
// byte or receipt, its rate) is tested by Wilcoxon's rank sum, exactly; the p of all figures are
// corrected by Holm, at 5 %. A difference counts if the test finds it and it is larger than a
// margin. Sweeps' sustainable rates are one figure each, and have no test but a bootstrap over the
// repeats of each rate.
//
// Layer: bench. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "bench/report.h"
#include "bench/stats.h"

namespace mayfly::bench {

inline constexpr size_t kReportBytesMax = 64u << 20;
inline constexpr size_t kReportSeriesMax = 256;

// What diff reads of a report.
struct Measured {
  std::string file, verb;
  Json environment, options;
  struct Figure {
    std::string series, name;  // "all", "all: first byte p99, ms"
    bool more_is_worse = true;
    std::vector<double> rounds;
  };
  std::vector<Figure> figures;
  std::vector<std::string> voids;  // series whose figures are void: they are not read
  std::vector<std::string> flags;  // what a reader must know of this report's figures
  // A sweep's answer: the highest rate that kept the goal, and the lowest one that did not.
  struct Sustained {
    std::string goal;
    double per_s = 0, bad_per_s = 0;  // infinite: no rate missed it
    struct Rate {
      double per_s = 0;
      std::vector<bool> kept;  // by repeat: whether it kept the goal
    };
    std::vector<Rate> rates;  // lowest first; none: the repeats do not have the goal's percentile
  };
  std::optional<Sustained> sustained;
};
base::Result<Measured> readReport(std::string_view text, std::string_view file);

struct DiffOptions {
  double margin = 0.03;  // of the first report's figure
  uint64_t seed = 1;     // of the bootstrap
};
struct Difference {
  std::string name;
  double a = 0, b = 0;                                                  // medians
  Interval ratio;                                                       // b / a, by the bootstrap
  double p = 1;                                                         // corrected
  enum class Test : uint8_t { rankSum, repeats } test = Test::rankSum;  // repeats: there is no p
  enum class Kind : uint8_t { noise, better, worse } kind = Kind::noise;
};
struct Diff {
  std::vector<Difference> figures;
  std::vector<std::string> notes;  // what else differs, and the flags of both
  bool differs() const;
};
// invalidArgument: the reports are of different verbs, share no figure, or have too few rounds to
// tell any difference and are no sweeps for one goal.
base::Result<Diff> diff(const Measured& a, const Measured& b, const DiffOptions& options);
std::string diffTable(const Diff& diff, const Measured& a, const Measured& b,
                      const DiffOptions& options);
Json diffJson(const Diff& diff, const Measured& a, const Measured& b);

}  // namespace mayfly::bench
