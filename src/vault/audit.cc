#include "vault/audit.h"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text.h"

namespace mayfly::vault {
namespace {

constexpr size_t kTargetBytesMax = 300, kTextBytesMax = 100;
constexpr size_t kLineBytes = 512;  // most lines are shorter

std::string auditTime(uint64_t ms) {
  const auto seconds = static_cast<time_t>(ms / 1'000);
  tm utc{};
  char text[40] = {};
  ::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", ::gmtime_r(&seconds, &utc));
  return fmt::format("{}.{:03}Z", text, ms % 1'000);
}

void addKey(std::string& out, std::string_view key) {
  out += out.empty() ? "{\"" : ",\"";
  out += key;
  out += "\":";
}
// As JSON. Most texts have nothing to escape.
void addField(std::string& out, std::string_view key, std::string_view text) {
  addKey(out, key);
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) {
    return c >= ' ' && c <= '~' && c != '"' && c != '\\';
  });
  using Json = nlohmann::json;
  if (!plain) {
    out += Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
    return;
  }
  out += '"';
  out += text;
  out += '"';
}
void addField(std::string& out, std::string_view key, uint64_t number) {
  addKey(out, key);
  out += std::to_string(number);
}

}  // namespace

std::string textOf(const AuditLine& line) {
  std::string out;
  out.reserve(kLineBytes);
  addField(out, "time", auditTime(line.time_ms));
  addField(out, "user", line.uid);
  addField(out, "tenant", base::printable(line.tenant, kTextBytesMax));
  addField(out, "task", line.task);
  addField(out, "epoch", line.epoch);
  if (!line.trace.empty()) addField(out, "trace", base::printable(line.trace, kTextBytesMax));
  addField(out, "kind", line.kind);
  addField(out, "action", base::printable(line.action, kTextBytesMax));
  addField(out, "target", base::printable(line.target, kTargetBytesMax));
  addField(out, "outcome", line.outcome);
  if (!line.rule.empty()) addField(out, "rule", base::printable(line.rule, kTextBytesMax));
  if (line.status != 0) addField(out, "status", static_cast<uint64_t>(line.status));
  addField(out, "request_bytes", line.request_bytes);
  addField(out, "answer_bytes", line.answer_bytes);
  addField(out, "duration_us", line.duration_us);
  if (line.refused_before != 0) addField(out, "refused_before", line.refused_before);
  out += "}\n";
  return out;
}

void Audit::reopen(base::Fd file) {
  flush();
  file_ = std::move(file);
}

size_t Audit::put(const std::string& text) {
  const ssize_t n = ::write(file_.get(), text.data(), text.size());
  return n > 0 ? static_cast<size_t>(n) : 0;
}

void Audit::count(const AuditLine& line) {
  const auto& names = base::BrokerCounts::kNames;
  const auto at = std::find(names.begin(), names.end(), line.kind);
  if (at == names.end()) return;
  base::BrokerCounts::Kind& kind = counts_.kinds[static_cast<size_t>(at - names.begin())];
  kind.refused += line.refused_before;
  if (line.kind == "session") return;  // no call of its own
  if (line.outcome == "allowed" || line.outcome == "replayed")
    ++kind.allowed;
  else
    ++(line.outcome == "failed" ? kind.failed : kind.refused);
  kind.took.add(line.duration_us * 1'000);
}

void Audit::write(AuditLine line) {
  count(line);
  turn_.push_back(std::move(line));
  if (turn_.size() >= kTurnLinesMax) return flush();
  if (turn_.size() == 1) later_();
}

void Audit::flush() {
  std::string all;
  std::vector<std::string> lines;
  for (const AuditLine& line : turn_) all += lines.emplace_back(textOf(line));
  turn_.clear();
  size_t written = owed_.empty() && !all.empty() ? put(all) : 0;
  for (std::string& line : lines) {
    if (written >= line.size())
      written -= line.size();
    else if (written = 0; owed_.size() < kOwedMax)
      owed_.push_back(std::move(line));
  }
}

base::Status Audit::ready() {
  for (; !owed_.empty(); owed_.pop_front()) {
    const std::string line = "\n" + owed_.front();  // a half of it may be there
    if (put(line) != line.size())
      return base::fail(base::Code::unavailable, "the audit file takes no lines",
                        "The operator looks at the free space of the broker's folder.");
  }
  return base::Unit{};
}

}  // namespace mayfly::vault
