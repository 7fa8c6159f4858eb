#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "base/markup.h"
#include "plan/render.h"

namespace mayfly::plan {

namespace {

constexpr double kWidth = 760, kTop = 104, kChart = 220, kLeft = 64, kRight = 60, kRow = 24;
constexpr const char* kStyle = R"(<style>
.bg{fill:#fff}.ink{fill:#1f2328}.dim{fill:#59636e}.line{stroke:#d1d9e0}.time{stroke:#0969da}
.dot{fill:#0969da}.busy{stroke:#bc4c00}.goal{stroke:#cf222e}.bar{fill:#0969da}.hot{fill:#cf222e}
.rail{fill:#eff2f5}text{font:12px system-ui,sans-serif}.head{font-size:15px;font-weight:600}
@media (prefers-color-scheme:dark){.bg{fill:#0d1117}.ink{fill:#f0f6fc}.dim{fill:#9198a1}
.line{stroke:#3d444d}.time{stroke:#4493f8}.dot{fill:#4493f8}.busy{stroke:#db6d28}
.goal{stroke:#f85149}.bar{fill:#4493f8}.hot{fill:#f85149}.rail{fill:#151b23}}
</style>)";

std::string text(double x, double y, const char* kind, const char* anchor,
                 const std::string& what) {
  return fmt::format(R"(<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>)", x, y,
                     kind, anchor, base::markupText(what)) +
         "\n";
}

std::string line(double x1, double y1, double x2, double y2, const char* kind, const char* dash) {
  return fmt::format(
             "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\" "
             "stroke-dasharray=\"{}\"/>",
             x1, y1, x2, y2, kind, dash) +
         "\n";
}

// At most three lines that fit the picture.
std::vector<std::string> wrapped(const std::string& words) {
  constexpr size_t kLineMost = 108, kLinesMost = 3;
  std::vector<std::string> out;
  std::string_view rest = words;
  while (!rest.empty() && out.size() < kLinesMost) {
    const size_t space = rest.rfind(' ', kLineMost);
    const size_t end =
        rest.size() <= kLineMost || space == std::string_view::npos ? rest.size() : space;
    out.emplace_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return out;
}

// Logarithmic axes of load and time.
struct Scale {
  double load_least, load_most, ms_least, ms_most;

  double x(double load) const {
    return kLeft + (kWidth - kLeft - kRight) * std::log(load / load_least) /
                       std::log(load_most / load_least);
  }
  double y(double ms) const {
    const double at =
        std::log(std::clamp(ms, ms_least, ms_most) / ms_least) / std::log(ms_most / ms_least);
    return kTop + kChart * (1 - at);
  }
};

Scale scaleOf(const config::PlanScenario& s, const Advice& a) {
  const auto goal_ms = static_cast<double>(s.goal.first_byte_ms);
  Scale scale{1, 1, goal_ms / 2, goal_ms * 2};
  for (const Point& p : a.curve) {
    scale.load_least = std::min(scale.load_least, p.load);
    scale.load_most = std::max(scale.load_most, p.load);
    const double ms = static_cast<double>(p.score.first_p99_ns) * 1e-6;
    if (ms > 0) scale.ms_least = std::min(scale.ms_least, ms / 1.2);
    scale.ms_most = std::max(scale.ms_most, std::min(ms * 1.2, goal_ms * 100));
  }
  scale.load_most = std::max(scale.load_most, scale.load_least * 1.1);
  return scale;
}

std::string axes(const Scale& scale) {
  std::string out;
  const double right = kWidth - kRight, bottom = kTop + kChart;
  for (double ms = std::pow(10, std::ceil(std::log10(scale.ms_least))); ms <= scale.ms_most;
       ms *= 10) {
    out += line(kLeft, scale.y(ms), right, scale.y(ms), "line", "");
    out += text(kLeft - 6, scale.y(ms) + 4, "dim", "end",
                ms >= 1000 ? fmt::format("{:g} s", ms / 1000) : fmt::format("{:g} ms", ms));
  }
  for (double load = std::exp2(std::ceil(std::log2(scale.load_least))); load <= scale.load_most;
       load *= 2) {
    out += line(scale.x(load), kTop, scale.x(load), bottom, "line", "");
    out += text(scale.x(load), bottom + 18, "dim", "middle", fmt::format("{:g}x", load));
  }
  for (int percent : {0, 50, 100})
    out += text(right + 6, bottom - kChart * percent / 100 + 4, "dim", "start",
                fmt::format("{} %", percent));
  return out;
}

std::string curves(const config::PlanScenario& s, const Advice& a, const Scale& scale) {
  std::string times, busy, dots;
  for (const Point& p : a.curve) {
    const double x = scale.x(p.load);
    const double y = scale.y(static_cast<double>(p.score.first_p99_ns) * 1e-6);
    times += fmt::format("{:.1f},{:.1f} ", x, y);
    busy += fmt::format("{:.1f},{:.1f} ", x, kTop + kChart * (1 - std::min(1.0, p.processors)));
    dots += fmt::format(R"(<circle cx="{:.1f}" cy="{:.1f}" r="3" class="{}"/>)", x, y,
                        p.score.met ? "dot" : "hot") +
            "\n";
  }
  std::string out = fmt::format(
      "<polyline points=\"{}\" fill=\"none\" stroke-width=\"1.5\" stroke-dasharray=\"5 4\" "
      "class=\"busy\"/>",
      busy);
  out += fmt::format(
      "\n<polyline points=\"{}\" fill=\"none\" stroke-width=\"2\" class=\"time\"/>\n", times);
  const double goal_y = scale.y(static_cast<double>(s.goal.first_byte_ms));
  out += line(kLeft, goal_y, kWidth - kRight, goal_y, "goal", "2 3");
  return out + dots;
}

std::string bars(const Advice& a, double top) {
  std::string out;
  const double left = 330, wide = kWidth - kRight - left;
  for (const Resource& r : a.resources) {
    const double filled = wide * std::clamp(r.share, 0.0, 1.0);
    out += text(left - 8, top + 13, "ink", "end", r.name);
    out += fmt::format(R"(<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="16" class="rail"/>)",
                       left, top, wide);
    out += fmt::format(
        "\n<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"16\" class=\"{}\"/>\n", left,
        top, filled, r.share >= 0.8 ? "hot" : "bar");
    out += text(left + wide + 6, top + 13, "dim", "start", fmt::format("{:.0f} %", 100 * r.share));
    top += kRow;
  }
  return out;
}

}  // namespace

std::string renderSvg(const config::PlanScenario& s, const Advice& a) {
  const Scale scale = scaleOf(s, a);
  const double below = kTop + kChart + 78;
  const double height = below + kRow * static_cast<double>(a.resources.size()) + 12;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" "
      "aria-label=\"{}\">",
      kWidth, height, base::markupText(hostsInWords(s, a) + " " + bindingInWords(s, a)));
  out += std::string("\n") + kStyle + "\n";
  out += fmt::format(R"(<rect width="{:.0f}" height="{:.0f}" class="bg"/>)", kWidth, height) + "\n";
  out += text(16, 24, "ink head", "start", hostsInWords(s, a));
  double y = 46;
  for (const std::string& each : wrapped(bindingInWords(s, a))) {
    out += text(16, y, "dim", "start", each);
    y += 17;
  }
  out += axes(scale) + curves(s, a, scale);
  out += text(kLeft, kTop + kChart + 38, "dim", "start",
              fmt::format("load on {} host{}: p99 of the first byte (line), goal (dots), busy "
                          "processors (dashes, right)",
                          a.shown, a.shown == 1 ? "" : "s"));
  out += text(16, below - 12, "ink head", "start", "One host at the planned load");
  return out + bars(a, below) + "</svg>\n";
}

}  // namespace mayfly::plan
