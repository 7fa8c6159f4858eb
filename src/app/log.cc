#include "app/log.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "base/clock.h"
#include "base/text.h"
#include "metrics/snapshot.h"

namespace mayfly::app {

using base::Phase;

constexpr uint64_t kLateNs = 200'000'000;  // later: an overloaded host, or a client's flood

std::string oneLine(const base::Error& error) {
  return base::printable(error.advice.empty() ? error.message : error.message + ". " + error.advice,
                         2'000);
}

std::string taskLine(const base::TaskLabels& task, base::Verdict verdict, const base::Usage& usage,
                     const base::Phases& phases) {
  std::string line = fmt::format("task id={} template={} mechanism={} user={}", task.task,
                                 task.template_name, task.mechanism, task.user);
  if (!task.tenant.empty()) line += fmt::format(" tenant={:?}", task.tenant);
  if (!task.trace.empty()) line += fmt::format(" trace={}", task.trace);
  line += fmt::format(" verdict={} launch={}", base::name(verdict), base::name(task.launch));
  for (size_t i = 0; i < metrics::kParts; ++i) {
    const auto part = static_cast<metrics::Part>(i);
    uint64_t ns = 0;
    if (part != metrics::Part::start && metrics::partOf(phases, verdict, part, &ns))
      line += fmt::format(" {}_ms={:.3f}", metrics::name(part), static_cast<double>(ns) / 1e6);
  }
  if (phases[static_cast<size_t>(Phase::receipt)] == 0) line += " receipt=none";
  line += fmt::format(
      " cpu_ms={:.3f} memory_peak={} processes_peak={} stdout={} stderr={} disk={} inodes={}",
      static_cast<double>(usage.user_cpu_ns + usage.system_cpu_ns) / 1e6, usage.memory_peak_bytes,
      usage.processes_peak, usage.stdout_bytes, usage.stderr_bytes, usage.disk_bytes,
      usage.disk_inodes);
  if (usage.fresh_runtime) line += " fresh_runtime=1";
  return line;
}

void LogObserver::taskEnded(const base::TaskLabels& task, base::Verdict verdict,
                            const base::Usage& usage, const base::Phases& phases) {
  const bool slow = slow_ns_ != 0 && metrics::tookNs(phases, base::monotonicNs()) >= slow_ns_;
  const auto level = slow ? spdlog::level::warn : spdlog::level::info;
  if (spdlog::should_log(level))
    spdlog::log(level, "{}{}", slow ? "slow " : "", taskLine(task, verdict, usage, phases));
}

void LogObserver::receipt(std::string_view, const base::Receipt& receipt) {
  if (!receipt.complete)
    spdlog::error("box {} is in quarantine, its receipt incomplete: {}", receipt.box,
                  receipt.missing);
}

void LogObserver::receiptCompleted(const base::Receipt& receipt) {
  spdlog::info("box {} is proven gone and out of quarantine", receipt.box);
}

void LogObserver::auditFound(const base::AuditFinding& f) {
  using Kind = base::AuditFinding::Kind;
  switch (f.kind) {
    case Kind::strayCgroup:
      spdlog::error("audit: box {} has a cgroup, and the ledger says that it is gone: '{}'", f.box,
                    f.what);
      return;
    case Kind::strayProcess:
    case Kind::strayMount:
      spdlog::error("audit: stray {}", f.what);
      return;
    case Kind::lostBox:
      spdlog::warn("audit: box {} is in quarantine, and its cgroup is gone", f.box);
      return;
  }
}

void LogObserver::loopLag(uint64_t late_ns) {
  if (late_ns >= kLateNs)
    spdlog::warn("the core thread came to a timer {:.0f} ms late",
                 static_cast<double>(late_ns) / 1e6);
}

void LogObserver::auditEnded(const base::AuditWalk& walk) {
  spdlog::debug("audit: {} cgroups, {} processes, {} mounts; {} findings", walk.cgroups,
                walk.processes, walk.mounts, walk.findings);
}

void LogObserver::templateState(std::string_view template_name, std::string_view state,
                                std::string_view why) {
  auto level = state == "unhealthy" ? spdlog::level::err
               : why.empty()        ? spdlog::level::info
                                    : spdlog::level::warn;
  spdlog::log(level, "template '{}' is {}{}{}", template_name, state, why.empty() ? "" : ": ", why);
}

void LogObserver::zygoteRenewed(std::string_view template_name) {
  spdlog::info("template '{}' has a new zygote; the old one ends with its last box", template_name);
}

void LogObserver::zygoteSaid(std::string_view template_name, std::string_view line) {
  spdlog::info("zygote of '{}' says: {}", template_name, line);
}

void LogObserver::spawnerReady(std::string_view in_force) {
  spdlog::info("the spawner is ready: {}", in_force);
}

}  // namespace mayfly::app
