#include "pool/trial.h"

#include <map>
#include <utility>

#include "base/text.h"

namespace mayfly::pool {

namespace {

struct Findings {
  std::map<std::string, std::string, std::less<>> differ, equal;
  std::optional<std::string> fault;
};

std::string_view takeWord(std::string_view* line) {
  size_t end = line->find(' ');
  std::string_view word = line->substr(0, end);
  *line = end == std::string_view::npos ? std::string_view() : line->substr(end + 1);
  return word;
}

Findings parse(std::string_view text) {
  Findings f;
  if (text.size() > kTrialBytesMax) text = text.substr(0, kTrialBytesMax);
  while (!text.empty() && !f.fault) {
    size_t end = text.find('\n');
    std::string_view line = text.substr(0, end), rest = line;
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    std::string_view kind = takeWord(&rest);
    if (kind == "fault") {
      f.fault = base::printable(rest, 200);
      continue;
    }
    auto* to = kind == "differ" ? &f.differ : kind == "equal" ? &f.equal : nullptr;
    std::string_view name = takeWord(&rest);
    if (to == nullptr || name.empty() || !to->emplace(name, rest).second)
      f.fault = "its trial printed '" + base::printable(line, 80) + "'";
  }
  return f;
}

}  // namespace

std::optional<std::string> findFault(std::string_view one, std::string_view other) {
  Findings a = parse(one), b = parse(other);
  if (a.fault) return a.fault;
  if (b.fault) return b.fault;
  if (a.differ.empty() && a.equal.empty()) return "its trial printed no finding";
  for (const auto& [name, value] : a.differ) {
    auto found = b.differ.find(name);
    if (found == b.differ.end()) return "only one of two clones has " + base::printable(name, 80);
    if (found->second == value) return "two clones have the same " + base::printable(name, 80);
  }
  for (const auto& [name, value] : a.equal) {
    auto found = b.equal.find(name);
    if (found == b.equal.end()) return "only one of two clones has " + base::printable(name, 80);
    if (found->second != value)
      return "two clones differ in " + base::printable(name, 80) + ": '" +
             base::printable(value, 80) + "' and '" + base::printable(found->second, 80) + "'";
  }
  if (a.differ.size() != b.differ.size() || a.equal.size() != b.equal.size())
    return "two clones have different sets of findings";
  return std::nullopt;
}

}  // namespace mayfly::pool
