#include "bench/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "base/markup.h"

namespace mayfly::bench {
namespace {

constexpr double kWidth = 760, kHeight = 420;
constexpr double kLeft = 76, kKeyLeast = 130, kKeyMost = 300, kTop = 46, kBottom = 52;
constexpr double kBarHeight = 15, kBarGap = 14, kBarLabel = 220, kBarValue = 90;
constexpr size_t kLabelBytesMax = 120;

// Light, then dark. The colours are Okabe and Ito's, darkened or lightened for contrast.
constexpr std::string_view kStyle = R"(<style>
text{font:13px system-ui,sans-serif;fill:#1f2328}
.title{font-size:15px;font-weight:600}.small{font-size:12px}
.back{fill:#fff}.grid{stroke:#d8dee4;stroke-width:1}.axis{stroke:#59636e;stroke-width:1}
.mark{stroke:#59636e;stroke-width:1.5;stroke-dasharray:2 4}
.line{fill:none;stroke-width:2}
.l0{stroke:#0059a8}.l1{stroke:#b34700;stroke-dasharray:7 4}.l2{stroke:#00664a;stroke-dasharray:2 3}
.l3{stroke:#8a3b73;stroke-dasharray:10 3 2 3}.l4{stroke:#59636e;stroke-dasharray:4 2}
.l5{stroke:#7a5c00;stroke-dasharray:1 2}.l6{stroke:#a02020;stroke-dasharray:12 4}.l7{stroke:#1f2328}
.b0{fill:#0059a8}.b1{fill:#d98a4b}.b2{fill:#00664a}.b3{fill:#8a3b73}
@media (prefers-color-scheme:dark){
text{fill:#f0f6fc}.back{fill:#0d1117}.grid{stroke:#30363d}.axis,.mark{stroke:#9198a1}
.l0{stroke:#6cb6ff}.l1{stroke:#f0883e}.l2{stroke:#56d4a0}.l3{stroke:#dd9ac6}.l4{stroke:#9198a1}
.l5{stroke:#d9b44a}.l6{stroke:#ff7b72}.l7{stroke:#f0f6fc}
.b0{fill:#6cb6ff}.b1{fill:#b3622a}.b2{fill:#56d4a0}.b3{fill:#dd9ac6}
}
</style>
)";

std::string label(std::string_view text) { return base::markupText(text, kLabelBytesMax); }

std::string head(double height, const std::string& title, const std::string& description) {
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" "
             "width=\"{:.0f}\" height=\"{:.0f}\" role=\"img\" aria-labelledby=\"t d\">\n"
             "<title id=\"t\">{}</title>\n<desc id=\"d\">{}</desc>\n",
             kWidth, height, kWidth, height, base::markupText(title),
             base::markupText(description)) +
         std::string(kStyle) +
         fmt::format(
             "<rect class=\"back\" width=\"{:.0f}\" height=\"{:.0f}\"/>\n"
             "<text class=\"title\" x=\"16\" y=\"26\">{}</text>\n",
             kWidth, height, label(title));
}

// 1500 -> "1500", 0.25 -> "0.25": no more digits than the number has.
std::string shortNumber(double value) { return fmt::format("{:.4g}", value); }

// From a value to a place between two ends.
class Ruler {
 public:
  Ruler(const Axis& axis, double least, double most, double from, double to)
      : scale_(axis.scale), from_(from), to_(to) {
    least = axis.least.value_or(least);
    most = axis.most.value_or(most);
    if (scale_ == Scale::log) least = std::max(least, 1e-9);
    if (!(most > least)) most = least + (scale_ == Scale::log ? least : 1);
    low_ = place(least);
    high_ = place(most);
    least_ = least;
    most_ = most;
  }

  double at(double value) const {
    const double share = (place(value) - low_) / (high_ - low_);
    return from_ + std::clamp(share, 0.0, 1.0) * (to_ - from_);
  }
  std::vector<double> ticks() const {
    if (scale_ == Scale::nines) return ninesTicks();
    return scale_ == Scale::log ? logTicks() : linearTicks();
  }

 private:
  double place(double value) const {
    if (scale_ == Scale::log) return std::log10(std::max(value, 1e-9));
    if (scale_ == Scale::nines) return -std::log10(1 - std::min(value, 99.99999) / 100);
    return value;
  }
  std::vector<double> linearTicks() const {
    const double raw = (most_ - least_) / 5, size = std::pow(10, std::floor(std::log10(raw)));
    double step = size;
    for (double each : {2.0, 5.0, 10.0})
      if (step < raw) step = each * size;
    std::vector<double> out;
    for (double i = std::ceil(least_ / step); i * step <= most_ * (1 + 1e-9) && out.size() < 12;
         ++i)
      out.push_back(i * step);
    return out;
  }
  std::vector<double> logTicks() const {
    std::vector<double> out;
    const bool few = high_ - low_ < 2.5;
    for (double power = std::floor(low_); power <= high_ && out.size() < 24; ++power)
      for (double digit : {1.0, 2.0, 5.0}) {
        const double value = digit * std::pow(10, power);
        if ((digit == 1 || few) && value >= least_ * (1 - 1e-9) && value <= most_ * (1 + 1e-9))
          out.push_back(value);
      }
    return out;
  }
  std::vector<double> ninesTicks() const {
    std::vector<double> out;
    for (double each : {0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999})
      if (each >= least_ && each <= most_) out.push_back(each);
    return out;
  }

  Scale scale_;
  double from_, to_, low_ = 0, high_ = 1, least_ = 0, most_ = 1;
};

// Beside the plot is its key, as wide as its longest label needs.
double rightOf(const LinePlot& plot) {
  size_t longest = 0;
  for (const Line& line : plot.lines) longest = std::max(longest, line.label.size());
  return kWidth - std::clamp(50 + 6.6 * static_cast<double>(longest), kKeyLeast, kKeyMost);
}

struct Bounds {
  double x_least = INFINITY, x_most = -INFINITY, y_least = INFINITY, y_most = -INFINITY;
};

Bounds boundsOf(const LinePlot& plot) {
  Bounds b;
  auto x = [&](double value) {
    b.x_least = std::min(b.x_least, value);
    b.x_most = std::max(b.x_most, value);
  };
  auto y = [&](double value) {
    b.y_least = std::min(b.y_least, value);
    b.y_most = std::max(b.y_most, value);
  };
  for (const Line& line : plot.lines)
    for (const auto& [px, py] : line.points) {
      x(px);
      y(py);
    }
  for (const Mark& mark : plot.across) y(mark.at);
  for (const Mark& mark : plot.upright) x(mark.at);
  if (b.x_least > b.x_most) b = {0, 1, 0, 1};
  if (plot.y.scale == Scale::linear) b.y_least = std::min(0.0, b.y_least);
  return b;
}

std::string axes(const LinePlot& plot, const Ruler& x, const Ruler& y) {
  const double right = rightOf(plot), bottom = kHeight - kBottom;
  std::string out;
  for (double tick : y.ticks())
    out += fmt::format(
        "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text class=\"small\" text-anchor=\"end\" x=\"{3:.1f}\" y=\"{4:.1f}\">{5}</text>\n",
        kLeft, right, y.at(tick), kLeft - 8, y.at(tick) + 4, shortNumber(tick));
  for (double tick : x.ticks())
    out += fmt::format(
        "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\"/>"
        "<text class=\"small\" text-anchor=\"middle\" x=\"{0:.1f}\" y=\"{3:.1f}\">{4}</text>\n",
        x.at(tick), kTop, bottom, bottom + 18, shortNumber(tick));
  out +=
      fmt::format("<path class=\"axis\" fill=\"none\" d=\"M{0:.1f} {1:.1f}V{2:.1f}H{3:.1f}\"/>\n",
                  kLeft, kTop, bottom, right);
  out += fmt::format(
      "<text class=\"small\" text-anchor=\"middle\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n",
      (kLeft + right) / 2, kHeight - 12, label(plot.x.label));
  return out + fmt::format(
                   "<text class=\"small\" text-anchor=\"middle\" transform=\"translate(18 {:.1f}) "
                   "rotate(-90)\">{}</text>\n",
                   (kTop + bottom) / 2, label(plot.y.label));
}

std::string marks(const LinePlot& plot, const Ruler& x, const Ruler& y) {
  const double right = rightOf(plot), bottom = kHeight - kBottom;
  std::string out;
  for (const Mark& mark : plot.across)
    out += fmt::format(
        "<line class=\"mark\" x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text class=\"small\" x=\"{3:.1f}\" y=\"{4:.1f}\">{5}</text>\n",
        kLeft, right, y.at(mark.at), kLeft + 6, y.at(mark.at) - 5, label(mark.label));
  double down = kTop + 14;  // labels of upright marks stand below each other
  for (const Mark& mark : plot.upright) {
    out += fmt::format(
        "<line class=\"mark\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\"/>"
        "<text class=\"small\" text-anchor=\"end\" x=\"{3:.1f}\" y=\"{4:.1f}\">{5}</text>\n",
        x.at(mark.at), kTop, bottom, x.at(mark.at) - 5, down, label(mark.label));
    down += 16;
  }
  return out;
}

std::string lines(const LinePlot& plot, const Ruler& x, const Ruler& y) {
  std::string out;
  double key_y = kTop + 10;
  for (size_t i = 0; i < std::min(plot.lines.size(), kPlotLinesMax); ++i) {
    const Line& line = plot.lines[i];
    std::string path;
    for (size_t k = 0; k < std::min(line.points.size(), kPlotPointsMax); ++k)
      path += fmt::format("{}{:.1f} {:.1f}", k == 0 ? "M" : "L", x.at(line.points[k].first),
                          y.at(line.points[k].second));
    if (!path.empty()) out += fmt::format("<path class=\"line l{}\" d=\"{}\"/>\n", i, path);
    const double from = rightOf(plot) + 10;
    out += fmt::format(
        "<line class=\"line l{0}\" x1=\"{1:.1f}\" x2=\"{2:.1f}\" y1=\"{3:.1f}\" y2=\"{3:.1f}\"/>"
        "<text class=\"small\" x=\"{4:.1f}\" y=\"{5:.1f}\">{6}</text>\n",
        i, from, from + 26, key_y, from + 32, key_y + 4, label(line.label));
    key_y += 20;
  }
  return out;
}

}  // namespace

std::string svg(const LinePlot& plot) {
  const Bounds b = boundsOf(plot);
  const Ruler x(plot.x, b.x_least, b.x_most, kLeft, rightOf(plot));
  const Ruler y(plot.y, b.y_least, b.y_most, kHeight - kBottom, kTop);
  return head(kHeight, plot.title, plot.description) + axes(plot, x, y) + marks(plot, x, y) +
         lines(plot, x, y) + "</svg>\n";
}

std::string svg(const BarPlot& plot) {
  const size_t bars = std::min(plot.bars.size(), kPlotBarsMax);
  const size_t kinds = std::clamp<size_t>(plot.kinds.size(), 1, 4);
  const double group = kBarHeight * static_cast<double>(kinds) + kBarGap;
  const double height = kTop + 26 + group * static_cast<double>(bars) + 10;
  double most = 0;
  for (const BarPlot::Bar& bar : plot.bars)
    for (double value : bar.values) most = std::max(most, value);
  const double width = kWidth - kBarLabel - kBarValue;
  std::string out = head(height, plot.title, plot.description);
  double key_x = kBarLabel;
  for (size_t k = 0; k < std::min(kinds, plot.kinds.size()); ++k) {
    out += fmt::format(
        "<rect class=\"b{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"12\" height=\"12\"/>"
        "<text class=\"small\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n",
        k, key_x, kTop, key_x + 18, kTop + 10, label(plot.kinds[k]));
    key_x += 40 + 7.0 * static_cast<double>(plot.kinds[k].size());
  }
  for (size_t i = 0; i < bars; ++i) {
    const BarPlot::Bar& bar = plot.bars[i];
    const double top = kTop + 26 + group * static_cast<double>(i);
    out += fmt::format("<text text-anchor=\"end\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n",
                       kBarLabel - 10, top + kBarHeight * static_cast<double>(kinds) / 2 + 4,
                       label(bar.label));
    for (size_t k = 0; k < std::min(kinds, bar.values.size()); ++k) {
      const double y = top + kBarHeight * static_cast<double>(k);
      const double length = most > 0 ? std::max(1.0, bar.values[k] / most * width) : 1;
      out += fmt::format(
          "<rect class=\"b{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>"
          "<text class=\"small\" x=\"{:.1f}\" y=\"{:.1f}\">{} {}</text>\n",
          k, kBarLabel, y + 1, length, kBarHeight - 2, kBarLabel + length + 6, y + 12,
          bar.values[k] < 100 ? fmt::format("{:.3g}", bar.values[k])
                              : fmt::format("{:.0f}", bar.values[k]),
          label(plot.unit));
    }
  }
  return out + "</svg>\n";
}

}  // namespace mayfly::bench
