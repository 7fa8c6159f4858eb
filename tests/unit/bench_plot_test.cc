// Plots: well-formed, bounded, safe, and readable without colours.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "bench/plot.h"

namespace mayfly::bench {
namespace {

size_t count(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

// Every tag is closed, in order; attributes are quoted.
void expectWellFormed(const std::string& xml) {
  std::vector<std::string> open;
  for (size_t at = 0; at < xml.size();) {
    if (xml[at] != '<') {
      EXPECT_NE(xml[at], '>') << xml.substr(at > 40 ? at - 40 : 0, 80);
      if (xml[at] == '&') {
        const std::string rest = xml.substr(at, 6);
        EXPECT_TRUE(rest.starts_with("&lt;") || rest.starts_with("&gt;") ||
                    rest.starts_with("&amp;") || rest.starts_with("&quot;"))
            << rest;
      }
      ++at;
      continue;
    }
    size_t end = at;
    bool quoted = false;
    for (; end < xml.size() && (quoted || xml[end] != '>'); ++end) quoted ^= xml[end] == '"';
    ASSERT_LT(end, xml.size());
    const std::string tag = xml.substr(at + 1, end - at - 1);
    if (tag[0] == '/') {
      ASSERT_FALSE(open.empty());
      EXPECT_EQ(open.back(), tag.substr(1));
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
    at = end + 1;
  }
  EXPECT_TRUE(open.empty());
}

LinePlot someLines() {
  LinePlot plot;
  plot.title = "A <title> & \"more\"";
  plot.description = "what\x1b[31m it shows";
  plot.x = {"tasks a second", Scale::linear, 0.0, {}};
  plot.y = {"latency, ms", Scale::log, {}, {}};
  plot.lines.push_back({"p50", {{10, 2}, {20, 3}, {40, 50}}});
  plot.lines.push_back({"p99", {{10, 4}, {20, 9}, {40, 900}}});
  plot.across.push_back({"goal: 50 ms", 50});
  plot.upright.push_back({"knee", 20});
  return plot;
}

TEST(BenchPlot, LinesHaveTitleDescriptionDarkStyleAndLabels) {
  const std::string text = svg(someLines());
  expectWellFormed(text);
  EXPECT_NE(text.find("role=\"img\" aria-labelledby=\"t d\""), std::string::npos);
  EXPECT_NE(text.find("<title id=\"t\">A &lt;title&gt; &amp; &quot;more&quot;</title>"),
            std::string::npos);
  EXPECT_NE(text.find("<desc id=\"d\">what\\x1b[31m it shows</desc>"), std::string::npos);
  EXPECT_NE(text.find("prefers-color-scheme:dark"), std::string::npos);
  for (const char* word : {">p50<", ">p99<", ">goal: 50 ms<", ">knee<", ">latency, ms<"})
    EXPECT_NE(text.find(word), std::string::npos) << word;
  EXPECT_EQ(count(text, "<path class=\"line l"), 2u);
  EXPECT_EQ(count(text, "<script"), 0u);
  EXPECT_EQ(count(text, "href"), 0u);
  EXPECT_EQ(count(text, "nan"), 0u);
}

TEST(BenchPlot, PointsLieWhereTheirValuesAre) {
  LinePlot plot;
  plot.x = {"x", Scale::linear, 0.0, 100.0};
  plot.y = {"y", Scale::linear, 0.0, 10.0};
  plot.lines.push_back({"l", {{0, 0}, {50, 5}, {100, 10}, {200, 20}}});
  const std::string text = svg(plot);
  // The plot's area is from 76 to 630 and from 368 up to 46; what lies outside is drawn at its
  // edge.
  EXPECT_NE(text.find("d=\"M76.0 368.0L353.0 207.0L630.0 46.0L630.0 46.0\""), std::string::npos)
      << text;
}

TEST(BenchPlot, NothingAndTooMuchAreDrawnToo) {
  const std::string empty = svg(LinePlot{});
  expectWellFormed(empty);
  EXPECT_EQ(count(empty, "nan"), 0u);
  EXPECT_EQ(count(empty, "inf"), 0u);
  LinePlot many = someLines();
  for (int i = 0; i < 100; ++i) many.lines.push_back(many.lines[0]);
  for (int i = 0; i < 100'000; ++i) many.lines[0].points.emplace_back(i, i);
  many.lines[1].label = std::string(10'000, 'x');
  const std::string text = svg(many);
  expectWellFormed(text);
  EXPECT_EQ(count(text, "<path class=\"line l"), kPlotLinesMax);
  EXPECT_LT(text.size(), 200'000u);
}

TEST(BenchPlot, BarsAreAsLongAsTheirValues) {
  BarPlot plot;
  plot.title = "One small task";
  plot.unit = "ms";
  plot.kinds = {"first byte", "end"};
  plot.bars = {{"parked", {2, 8}}, {"bwrap", {10, 24.5}}, {"none", {}}};
  const std::string text = svg(plot);
  expectWellFormed(text);
  // The longest is 760 - 220 - 90 = 450 wide.
  EXPECT_NE(text.find("width=\"450.0\" height=\"13.0\"/>"), std::string::npos) << text;
  EXPECT_NE(text.find("width=\"36.7\" height=\"13.0\"/>"), std::string::npos);
  for (const char* word : {">parked<", ">bwrap<", ">2 ms<", ">24.5 ms<", ">first byte<"})
    EXPECT_NE(text.find(word), std::string::npos) << word;
  for (int i = 0; i < 100; ++i) plot.bars.push_back({"more", {1, 2}});
  EXPECT_EQ(count(svg(plot), ">more<"), kPlotBarsMax - 3);
  expectWellFormed(svg(BarPlot{}));
}

}  // namespace
}  // namespace mayfly::bench
