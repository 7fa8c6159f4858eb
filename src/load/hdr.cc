#include "load/hdr.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <string_view>

namespace mayfly::load {
namespace {

// What HdrHistogram derives from three digits and a lowest value of 1.
constexpr uint32_t kSubBuckets = 2'048;  // at least 2 * 10^digits, a power of 2
constexpr uint32_t kHalf = kSubBuckets / 2;
constexpr int kHalfBits = 10;
constexpr double kMs_ns = 1e6;
constexpr int kTicksPerHalfDistance = 5;
constexpr uint32_t kEncodingCookie = 0x1c849313, kCompressedCookie = 0x1c849314;

// Bucket b > 0 holds values from 2^(b + 10) on, in 1024 steps of 2^b.
int bucketOf(uint64_t value_ns) {
  return std::bit_width(value_ns | (kSubBuckets - 1)) - (kHalfBits + 1);
}

size_t indexOf(uint64_t value_ns) {
  const int bucket = bucketOf(value_ns);
  return (static_cast<size_t>(bucket) + 1) * kHalf + (value_ns >> bucket) - kHalf;
}

struct Range {
  uint64_t lowest_ns, size_ns;
  uint64_t highest_ns() const { return lowest_ns + size_ns - 1; }
  double median_ns() const { return static_cast<double>(lowest_ns + (size_ns >> 1)); }
};

Range rangeOf(size_t index) {
  const size_t row = index >> kHalfBits, place = index & (kHalf - 1);
  if (row == 0) return {place, 1};
  return {(place + kHalf) << (row - 1), uint64_t{1} << (row - 1)};
}

int buckets() {
  int count = 1;
  for (uint64_t beyond = kSubBuckets; beyond <= HdrCounts::kHighest_ns; beyond <<= 1) ++count;
  return count;
}

template <class Int>
void putBig(std::string& out, Int value) {
  for (int shift = 8 * (static_cast<int>(sizeof value) - 1); shift >= 0; shift -= 8)
    out += static_cast<char>(static_cast<uint64_t>(value) >> shift);
}

// ZigZag, then LEB128 of at most nine bytes, of which the ninth has all eight bits.
void putCount(std::string& out, int64_t value) {
  uint64_t left = (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63);
  for (int i = 0; i < 8 && left >= 0x80; ++i) {
    out += static_cast<char>(left | 0x80);
    left >>= 7;
  }
  out += static_cast<char>(left);
}

std::string compressed(const std::string& bytes) {
  std::string out(::compressBound(bytes.size()), '\0');
  uLongf size = out.size();
  // Fails only if memory or `out` is too small.
  if (::compress(reinterpret_cast<Bytef*>(out.data()), &size,
                 reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()) != Z_OK)
    return {};
  out.resize(size);
  return out;
}

std::string base64(std::string_view bytes) {
  static constexpr char kDigits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t at = 0; at < bytes.size(); at += 3) {
    uint32_t word = 0;
    const size_t count = std::min<size_t>(3, bytes.size() - at);
    for (size_t i = 0; i < 3; ++i)
      word = word << 8 | (i < count ? static_cast<uint8_t>(bytes[at + i]) : 0);
    for (size_t i = 0; i < 4; ++i) out += i <= count ? kDigits[word >> (18 - 6 * i) & 63] : '=';
  }
  return out;
}

}  // namespace

HdrCounts::HdrCounts(const Histogram& histogram) {
  for (const Histogram::Bin& bin : histogram.bins()) {
    const size_t index = indexOf(std::clamp(bin.value_ns, kLowest_ns, kHighest_ns));
    if (index >= counts_.size()) counts_.resize(index + 1);
    counts_[index] += bin.count;
    total_ += bin.count;
  }
}

uint64_t HdrCounts::max_ns() const {
  return counts_.empty() ? 0 : rangeOf(counts_.size() - 1).highest_ns();
}

double HdrCounts::mean_ns() const {
  double sum = 0;
  for (size_t i = 0; i < counts_.size(); ++i)
    sum += static_cast<double>(counts_[i]) * rangeOf(i).median_ns();
  return total_ == 0 ? 0 : sum / static_cast<double>(total_);
}

double HdrCounts::deviation_ns() const {
  const double mean = mean_ns();
  double squares = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    const double gap = rangeOf(i).median_ns() - mean;
    squares += static_cast<double>(counts_[i]) * gap * gap;
  }
  return total_ == 0 ? 0 : std::sqrt(squares / static_cast<double>(total_));
}

// HdrHistogram's own steps: a line for each level that the count has reached, then the next level;
// one more line at 100 %.
std::string HdrCounts::percentileTable() const {
  std::string out = fmt::format("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile",
                                "TotalCount", "1/(1-Percentile)");
  uint64_t seen = 0;
  double level = 0;
  for (size_t i = 0; i < counts_.size() && seen < total_; ++i) {
    if (counts_[i] == 0) continue;
    seen += counts_[i];
    const double value_ms = static_cast<double>(rangeOf(i).highest_ns()) / kMs_ns;
    const double reached = 100.0 * static_cast<double>(seen) / static_cast<double>(total_);
    while (reached >= level && level < 100) {
      out += fmt::format("{:12.3f} {:2.12f} {:10} {:14.2f}\n", value_ms, level / 100, seen,
                         1 / (1 - level / 100));
      const double halvings = std::floor(std::log2(100 / (100 - level))) + 1;
      level += 100 / (kTicksPerHalfDistance * std::exp2(halvings));
      if (seen == total_) break;
    }
  }
  if (total_ != 0)
    out += fmt::format("{:12.3f} {:2.12f} {:10}\n", static_cast<double>(max_ns()) / kMs_ns, 1.0,
                       total_);
  out += fmt::format("#[Mean    = {:12.3f}, StdDeviation   = {:12.3f}]\n", mean_ns() / kMs_ns,
                     deviation_ns() / kMs_ns);
  out += fmt::format("#[Max     = {:12.3f}, Total count    = {:12}]\n",
                     static_cast<double>(max_ns()) / kMs_ns, total_);
  return out + fmt::format("#[Buckets = {:12}, SubBuckets     = {:12}]\n", buckets(), kSubBuckets);
}

std::string HdrCounts::encoded() const {
  std::string counts;
  for (size_t i = 0; i < counts_.size();) {
    size_t zeros = 0;
    while (i + zeros < counts_.size() && counts_[i + zeros] == 0) ++zeros;
    // One zero is a zero; a run of them is its negative length.
    putCount(counts, zeros > 1 ? -static_cast<int64_t>(zeros) : static_cast<int64_t>(counts_[i]));
    i += std::max<size_t>(zeros, 1);
  }
  std::string payload;
  putBig(payload, kEncodingCookie);
  putBig(payload, static_cast<uint32_t>(counts.size()));
  putBig(payload, uint32_t{0});  // the normalizing index offset
  putBig(payload, static_cast<uint32_t>(kDigits));
  putBig(payload, kLowest_ns);
  putBig(payload, kHighest_ns);
  putBig(payload, std::bit_cast<uint64_t>(1.0));  // the conversion ratio of integers to doubles
  payload = compressed(payload + counts);
  std::string out;
  putBig(out, kCompressedCookie);
  putBig(out, static_cast<uint32_t>(payload.size()));
  return base64(out + payload);
}

std::string hdrLog(const std::vector<HdrInterval>& intervals, double start_unix_s,
                   const std::string& about) {
  std::string out = fmt::format("#[{}]\n#[Histogram log format version 1.3]\n", about);
  out += fmt::format("#[StartTime: {:.3f} (seconds since epoch)]\n", start_unix_s);
  out +=
      "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";
  for (const HdrInterval& each : intervals) {
    const HdrCounts counts(*each.histogram);
    if (!each.tag.empty()) out += fmt::format("Tag={},", each.tag);
    out += fmt::format("{:.3f},{:.3f},{:.3f},{}\n", each.start_s, each.length_s,
                       static_cast<double>(counts.max_ns()) / kMs_ns, counts.encoded());
  }
  return out;
}

}  // namespace mayfly::load
