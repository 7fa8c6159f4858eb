// HdrHistogram's formats. tests/e2e/test_bench_verbs.py reads them with HdrHistogram's own library.
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "load/hdr.h"

namespace mayfly::load {
namespace {

constexpr uint64_t kMs = 1'000'000;

struct Row {
  double value_ms, share;
  uint64_t count;
};

std::vector<Row> rowsOf(const std::string& table) {
  std::vector<Row> rows;
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);) {
    Row row{};
    if (!line.empty() && line[0] != '#' &&
        std::istringstream(line) >> row.value_ms >> row.share >> row.count)
      rows.push_back(row);
  }
  return rows;
}

TEST(LoadHdr, TheTableHasHdrHistogramsHeadAndFoot) {
  Histogram h;
  for (int i = 0; i < 4; ++i) h.record(3 * kMs);
  const std::string table = HdrCounts(h).percentileTable();
  EXPECT_EQ(table.substr(0, table.find('\n') + 1),
            "       Value     Percentile TotalCount 1/(1-Percentile)\n");
  // One index holds all: its level, then 100 %. 3,000,000 ns is in [2,998,272; 3,000,319].
  EXPECT_NE(table.find("\n       3.000 0.000000000000          4           1.00\n"
                       "       3.000 1.000000000000          4\n"),
            std::string::npos)
      << table;
  EXPECT_NE(table.find("#[Max     =        3.000, Total count    =            4]\n"
                       "#[Buckets =           32, SubBuckets     =         2048]\n"),
            std::string::npos)
      << table;
  EXPECT_NE(table.find("#[Mean    =        2.999, StdDeviation   =        0.000]\n"),
            std::string::npos)
      << table;
}

TEST(LoadHdr, EachRowsValueIsThePercentileOfItsLevel) {
  Histogram h;
  for (uint64_t i = 1; i <= 10'000; ++i) h.record(i * 1'000);
  const auto rows = rowsOf(HdrCounts(h).percentileTable());
  ASSERT_GT(rows.size(), 40u);
  for (const Row& row : rows) {
    const double wanted_ms = static_cast<double>(h.percentile_ns(100 * row.share)) / 1e6;
    EXPECT_NEAR(row.value_ms, wanted_ms, 0.0015 * wanted_ms + 0.0006) << row.share;
    EXPECT_GE(static_cast<double>(row.count), row.share * 10'000);
  }
  // Five steps to each half of the rest: 0, 10, 20, 30, 40, 50, 55, 60 ...
  EXPECT_DOUBLE_EQ(rows[4].share, 0.4);
  EXPECT_DOUBLE_EQ(rows[6].share, 0.55);
  EXPECT_DOUBLE_EQ(rows[10].share, 0.75);
  EXPECT_DOUBLE_EQ(rows.back().share, 1);
  EXPECT_EQ(rows.back().count, 10'000u);
}

TEST(LoadHdr, ALogHasALineForEachInterval) {
  Histogram fast, slow, none;
  fast.record(kMs);
  slow.record(200 * kMs);
  const std::string log =
      hdrLog({{"fast", 0, 5, &fast}, {"", 5.5, 5, &slow}, {"none", 11, 1, &none}}, 1'700'000'000.25,
             "a test");
  EXPECT_TRUE(
      log.starts_with("#[a test]\n#[Histogram log format version 1.3]\n"
                      "#[StartTime: 1700000000.250 (seconds since epoch)]\n"
                      "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\","))
      << log;
  EXPECT_NE(log.find("\nTag=fast,0.000,5.000,1.000,HISTFAAAA"), std::string::npos) << log;
  EXPECT_NE(log.find("\n5.500,5.000,200."), std::string::npos) << log;
  EXPECT_NE(log.find("\nTag=none,11.000,1.000,0.000,HISTFAAAA"), std::string::npos) << log;
}

TEST(LoadHdr, NothingMeasuredIsAnEmptyTable) {
  const std::string table = HdrCounts(Histogram()).percentileTable();
  EXPECT_TRUE(rowsOf(table).empty());
  EXPECT_NE(table.find("Total count    =            0]"), std::string::npos);
}

}  // namespace
}  // namespace mayfly::load
