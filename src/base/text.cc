#include "base/text.h"

#include <fmt/format.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "base/result.h"

namespace mayfly::base {

namespace {

// The length of the valid UTF-8 sequence at the front of `s`, 0 if there is none.
size_t sequenceLength(std::string_view s, uint32_t* point) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  if (s.empty()) return 0;
  unsigned char first = byte(0);
  size_t length = first < 0x80                     ? 1
                  : first >= 0xc2 && first <= 0xdf ? 2
                  : (first & 0xf0) == 0xe0         ? 3
                  : first >= 0xf0 && first <= 0xf4 ? 4
                                                   : 0;
  if (length == 0 || s.size() < length) return 0;
  uint32_t value = length == 1 ? first : first & (0x7f >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    value = (value << 6) | (byte(i) & 0x3f);
  }
  if ((length == 3 && (value < 0x800 || (value >= 0xd800 && value <= 0xdfff))) ||
      (length == 4 && (value < 0x10000 || value > 0x10ffff)))
    return 0;
  *point = value;
  return length;
}

// Characters that move the cursor, hide text or change its direction.
bool harmful(uint32_t c) {
  return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x200b && c <= 0x200f) ||
         (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff;
}

}  // namespace

std::string_view name(Code code) {
  switch (code) {
    case Code::invalidArgument:
      return "invalidArgument";
    case Code::notFound:
      return "notFound";
    case Code::alreadyExists:
      return "alreadyExists";
    case Code::resourceExhausted:
      return "resourceExhausted";
    case Code::unavailable:
      return "unavailable";
    case Code::failedPrecondition:
      return "failedPrecondition";
    case Code::permissionDenied:
      return "permissionDenied";
    case Code::cancelled:
      return "cancelled";
    case Code::deadlineExceeded:
      return "deadlineExceeded";
    case Code::hostUnfit:
      return "hostUnfit";
    case Code::internal:
      return "internal";
  }
  return "internal";
}

Error sysError(int err, std::string_view call, std::string_view object) {
  char buffer[128];
  return Error{
      Code::internal,
      fmt::format("{} '{}': {}", call, printable(object), strerror_r(err, buffer, sizeof buffer)),
      {},
      err};
}

std::string printable(std::string_view text, size_t bytes_max) {
  std::string out;
  bool cut = text.size() > bytes_max;
  if (cut) text = text.substr(0, bytes_max);
  while (!text.empty()) {
    uint32_t point = 0;
    size_t length = sequenceLength(text, &point);
    if (length == 0 || harmful(point)) {
      size_t bad = length == 0 ? 1 : length;
      for (size_t i = 0; i < bad; ++i)
        out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[i]));
      text.remove_prefix(bad);
    } else {
      out += text.substr(0, length);
      text.remove_prefix(length);
    }
  }
  if (cut) out += "...";
  return out;
}

bool isUtf8(std::string_view text) {
  uint32_t point = 0;
  while (!text.empty()) {
    size_t length = sequenceLength(text, &point);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string humanBytes(uint64_t bytes) {
  const char* unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t i = 0;
  while (value >= 1024 && i < 4) value /= 1024, ++i;
  if (i == 0) return fmt::format("{} B", bytes);
  bool whole = value >= 100 || value == static_cast<double>(static_cast<uint64_t>(value));
  return fmt::format("{:.{}f} {}", value, whole ? 0 : 1, unit[i]);
}

std::string humanNanos(uint64_t ns) {
  if (ns < 1000) return fmt::format("{} ns", ns);
  if (ns < 1000000) return fmt::format("{:.1f} us", ns / 1e3);
  if (ns < 1000000000) return fmt::format("{:.2f} ms", ns / 1e6);
  return fmt::format("{:.2f} s", ns / 1e9);
}

namespace {

constexpr size_t kNearWordBytesMax = 64;

// The number of edits between two words; a swap of neighbours is one edit.
size_t editsBetween(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i)
    for (size_t j = 1; j <= b.size(); ++j) {
      d[i][j] = std::min(
          {d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  return d[a.size()][b.size()];
}

}  // namespace

std::string_view nearest(std::string_view word, std::span<const std::string_view> known) {
  constexpr size_t kBeginningBytesMin = 3;
  if (word.empty() || word.size() > kNearWordBytesMax) return {};
  std::string_view best;
  size_t edits_max = std::max<size_t>(1, word.size() / 3);
  for (std::string_view each : known) {
    if (each.size() > kNearWordBytesMax) continue;
    if (word.size() >= kBeginningBytesMin && each.starts_with(word)) return each;
    const size_t edits = editsBetween(word, each);
    if (edits > edits_max || (edits == edits_max && !best.empty())) continue;
    best = each;
    edits_max = edits;
  }
  return best;
}

}  // namespace mayfly::base
