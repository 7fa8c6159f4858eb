// Plots as SVG: one file, no script, nothing loaded from elsewhere. Title and description are there
// for screen readers; the style sheet has a light and a dark half. Lines differ by dashes and
// labels, not by colour alone.
//
// Layer: bench. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace mayfly::bench {

inline constexpr size_t kPlotLinesMax = 8;
inline constexpr size_t kPlotPointsMax = 2'000;  // of one line
inline constexpr size_t kPlotBarsMax = 32;

enum class Scale : uint8_t {
  linear,
  log,
  nines,  // percentiles: as far to 99 as from 99 to 99.9
};

struct Axis {
  std::string label;
  Scale scale = Scale::linear;
  std::optional<double> least, most;  // else the points'
};
struct Line {
  std::string label;
  std::vector<std::pair<double, double>> points;
};
struct Mark {  // a dotted line across the plot
  std::string label;
  double at = 0;
};
struct LinePlot {
  std::string title, description;
  Axis x, y;
  std::vector<Line> lines;
  std::vector<Mark> across, upright;  // at a y, at an x
};
// Further lines and points than allowed are left out.
std::string svg(const LinePlot& plot);

struct BarPlot {
  struct Bar {
    std::string label;
    std::vector<double> values;  // one for each of `kinds`
  };
  std::string title, description;
  std::string unit;  // of the values, after each
  std::vector<std::string> kinds;
  std::vector<Bar> bars;
};
std::string svg(const BarPlot& plot);

}  // namespace mayfly::bench
