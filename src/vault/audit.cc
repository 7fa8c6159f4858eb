#include "vault/audit.h"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/text.h"

namespace mayfly::vault {
namespace {

constexpr size_t kTargetBytesMax = 300, kTextBytesMax = 100;

std::string auditTime(uint64_t ms) {
  const auto seconds = static_cast<time_t>(ms / 1'000);
  tm utc{};
  char text[40] = {};
  ::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", ::gmtime_r(&seconds, &utc));
  return fmt::format("{}.{:03}Z", text, ms % 1'000);
}

}  // namespace

std::string textOf(const AuditLine& line) {
  nlohmann::ordered_json out;
  out["time"] = auditTime(line.time_ms);
  out["user"] = line.uid;
  out["tenant"] = base::printable(line.tenant, kTextBytesMax);
  out["task"] = line.task;
  out["epoch"] = line.epoch;
  out["kind"] = line.kind;
  out["action"] = base::printable(line.action, kTextBytesMax);
  out["target"] = base::printable(line.target, kTargetBytesMax);
  out["outcome"] = line.outcome;
  if (!line.rule.empty()) out["rule"] = base::printable(line.rule, kTextBytesMax);
  if (line.status != 0) out["status"] = line.status;
  out["request_bytes"] = line.request_bytes;
  out["answer_bytes"] = line.answer_bytes;
  out["duration_us"] = line.duration_us;
  if (line.refused_before != 0) out["refused_before"] = line.refused_before;
  return out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void Audit::reopen(base::Fd file) { file_ = std::move(file); }

bool Audit::put(const std::string& text) {
  return ::write(file_.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

void Audit::write(const AuditLine& line) {
  std::string text = textOf(line);
  if (owed_.empty() && put(text)) return;
  if (owed_.size() < kOwedMax) owed_.push_back(std::move(text));
}

base::Status Audit::ready() {
  for (; !owed_.empty(); owed_.pop_front())
    if (!put("\n" + owed_.front()))  // a half of it may be there
      return base::fail(base::Code::unavailable, "the audit file takes no lines",
                        "The operator looks at the free space of the broker's folder.");
  return base::Unit{};
}

}  // namespace mayfly::vault
