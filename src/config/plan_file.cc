// Layer: config. See plan_file.h.
#include "config/plan_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "base/text.h"
#include "config/limits.h"
#include "config/manifest.h"
#include "config/reader.h"
#include "config/units.h"

namespace mayfly::config {
namespace {

constexpr uint64_t kHourUs = 3'600'000'000, kDayMs = 86'400'000;

// The caps that bound how many tasks fit a host.
constexpr std::string_view kPlanCaps[] = {"memory", "processes", "out_files_size", "wall_time",
                                          "grace"};
constexpr std::string_view kArrivalWords[] = {"poisson", "constant", "bursts", "onoff"};
constexpr std::string_view kRunWords[] = {"exponential", "constant", "lognormal", "pareto"};

void readNumber(Reader::Table& t, std::string_view key, double lowest, double highest,
                double& out) {
  std::optional<double> value;
  t.number(key, value);
  if (!value) return;
  if (*value < lowest || *value > highest)
    t.complain(key, fmt::format("is {:g}; allowed are {:g} to {:g}", *value, lowest, highest));
  else
    out = *value;
}

void readMakeCosts(Reader::Table t, PlanMake& m) {
  t.count("time_us", 1, kHourUs, m.time_us);
  t.count("box_us", 0, kHourUs, m.box_us);
  if (m.box_us > m.time_us) t.complain("box_us", "is more than time_us");
  readNumber(t, "spread", 0, 2, m.spread);
  t.count("daemon_us", 0, kHourUs, m.daemon_us);
  t.count("spawner_us", 0, kHourUs, m.spawner_us);
  t.count("other_us", 0, kHourUs, m.other_us);
  t.finish();
}

void readTaskCosts(Reader::Table t, PlanTask& k) {
  t.count("claim_us", 0, kHourUs, k.claim_us);
  t.count("first_us", 0, kHourUs, k.first_us);
  t.count("run_us", 0, kHourUs, k.run_us);
  if (k.first_us > k.run_us) t.complain("first_us", "is more than run_us");
  t.count("end_us", 0, kHourUs, k.end_us);
  t.count("box_cpu_us", 0, kHourUs, k.box_cpu_us);
  t.count("daemon_us", 0, kHourUs, k.daemon_us);
  t.count("spawner_us", 0, kHourUs, k.spawner_us);
  t.count("other_us", 0, kHourUs, k.other_us);
  t.count("client_us", 0, kHourUs, k.client_us);
  t.quantity("memory", 0, 1ull << 40, sizes(), k.memory_bytes);
  t.rising("late_us", kPlanQuantilesMax, kHourUs, k.late_us);
  t.rising("late_full_us", kPlanQuantilesMax, kHourUs, k.late_full_us);
  t.finish();
}

void readPlanCaps(Reader::Table t, base::Limits& limits) {
  for (std::string_view key : kPlanCaps) {
    const LimitField& field = limitField(key);
    uint64_t value = field.get(limits);
    const Quantity how =
        field.unit == LimitUnit::bytes ? sizes()
        : field.unit == LimitUnit::milliseconds
            ? times()
            : Quantity{"count", parseCount, [](uint64_t n) { return fmt::format("{}", n); }};
    t.quantity(key, field.lowest, field.highest, how, value);
    field.set(limits, value);
  }
  t.finish();
}

PlanTemplate readTemplate(const std::string& name, Reader::Table t) {
  PlanTemplate out;
  out.name = name;
  if (!isTemplateName(name)) t.complain("", "is no template name");
  t.string("mechanism", out.mechanism);
  if (out.mechanism.empty() || out.mechanism.size() > 32)
    t.complain("mechanism", "must be a mechanism's name, such as \"fork\"");
  t.quantity("clone_memory", 0, 1ull << 40, sizes(), out.clone_bytes);
  t.count("pool_min", 0, 4'096, out.parked_min);
  t.count("pool_max", 0, 4'096, out.parked_max);
  if (out.parked_min > out.parked_max) t.complain("pool_min", "is more than pool_max");
  t.boolean("per_tenant", out.per_tenant);
  t.count("ptys", 0, 4'096, out.ptys);
  readPlanCaps(t.table("limits"), out.limits);
  readMakeCosts(t.table("make"), out.make);
  readTaskCosts(t.table("task"), out.task);
  t.finish();
  return out;
}

PlanLoad readLoad(Reader::Table t) {
  PlanLoad out;
  t.string("template", out.template_name);
  t.string("user", out.user);
  t.string("tenant", out.tenant);
  for (const auto& [key, name] : {std::pair{"user", &out.user}, std::pair{"tenant", &out.tenant}})
    if (name->size() > 64 || name->find(',') != std::string::npos || !base::isUtf8(*name))
      t.complain(key, "must be a name of at most 64 bytes without a comma");
  t.word("arrivals", kArrivalWords, out.arrivals);
  readNumber(t, "rate", 1e-6, 1e6, out.rate_hz);
  readNumber(t, "burst", 1, 10'000, out.burst);
  t.quantity("every", 1, 31 * kDayMs, times(), out.every_ms);
  t.quantity("spread", 0, 3'600'000, times(), out.spread_ms);
  t.quantity("on", 1, 31 * kDayMs, times(), out.on_ms);
  t.quantity("off", 1, 31 * kDayMs, times(), out.off_ms);
  t.quantity("run", 0, 3'600'000, times(), out.run_ms);
  t.word("run_spread", kRunWords, out.runs);
  out.run_spread = out.runs == PlanLoad::Runs::pareto ? 1.5 : 1;
  readNumber(t, "run_shape", 0, 100, out.run_spread);
  if (out.runs == PlanLoad::Runs::pareto && out.run_spread < 1.05)
    t.complain("run_shape", "must be at least 1.05, or the mean would not exist");
  if (out.runs == PlanLoad::Runs::lognormal && out.run_spread > 4)
    t.complain("run_shape", "must be at most 4");
  readNumber(t, "cpu", 0, 64, out.cpu_share);
  t.quantity("memory", 0, 1ull << 40, sizes(), out.memory_bytes);
  t.finish();
  return out;
}

PlanGoal readGoal(Reader::Table t) {
  PlanGoal goal;
  t.quantity("first_byte_p99", 1, 3'600'000, times(), goal.first_byte_ms);
  readNumber(t, "missed", 0, 1, goal.missed);
  readNumber(t, "refused", 0, 1, goal.refused);
  t.count("spare_hosts", 0, 16, goal.spare_hosts);
  t.finish();
  return goal;
}

}  // namespace

const PlanTemplate* PlanHost::find(std::string_view name) const {
  for (const PlanTemplate& t : templates)
    if (t.name == name) return &t;
  return nullptr;
}

base::Result<PlanHost> parsePlanHost(std::string_view text, std::string_view file) {
  Reader reader(text, file);
  PlanHost out;
  out.file = file;
  Reader::Table root = reader.root();
  Reader::Table t = root.table("host");
  if (!t.present()) root.complain("host", "is missing: `mayfly plan calibrate` writes it");
  readNumber(t, "processors", 0.1, 4'096, out.processors);
  readNumber(t, "background", 0, 4'096, out.background);
  if (out.background > 0.9 * out.processors)
    t.complain("background", "leaves less than a tenth of the processors");
  t.boolean("clients_here", out.clients_here);
  t.quantity("memory", 64ull << 20, 1ull << 50, sizes(), out.memory_bytes);
  t.count("open_files", 64, 1ull << 40, out.open_files);
  t.count("processes", 64, 1ull << 40, out.processes);
  t.count("user_namespaces", 1, 1ull << 40, out.user_namespaces);
  t.count("ptys", 0, 1ull << 32, out.ptys);
  for (std::string_view key : {"memory", "open_files", "processes", "user_namespaces"})
    if (!t.has(key)) t.complain(key, "is missing: `mayfly plan calibrate` writes it");
  t.finish();
  for (auto& [name, table] : root.named("templates", kPlanTemplatesMax))
    out.templates.push_back(readTemplate(name, table));
  if (out.templates.empty()) root.complain("templates", "is missing: no template was measured");
  root.finish();
  if (reader.failed()) return tl::unexpected<base::Error>(reader.takeError());
  std::sort(out.templates.begin(), out.templates.end(),
            [](const PlanTemplate& a, const PlanTemplate& b) { return a.name < b.name; });
  return out;
}

base::Result<PlanScenario> parsePlanScenario(std::string_view text, std::string_view file) {
  Reader reader(text, file);
  PlanScenario out;
  Reader::Table t = reader.root();
  t.string("host", out.host_file);
  t.string("settings", out.settings_file);
  t.string("trace", out.trace_file);
  t.quantity("time", 1'000, 31 * kDayMs, times(), out.time_ms);
  uint64_t warm_up_ms = 0;
  t.quantity("warm_up", 0, 31 * kDayMs, times(), warm_up_ms);
  if (t.has("warm_up")) out.warm_up_ms = warm_up_ms;
  if (warm_up_ms >= out.time_ms && out.trace_file.empty())
    t.complain("warm_up", "leaves nothing of the time");
  t.count("seed", 0, 1ull << 50, out.seed);
  t.count("hosts_max", 1, 1'024, out.hosts_max);
  out.goal = readGoal(t.table("goal"));
  for (Reader::Table& each : t.tables("load", kPlanLoadsMax)) out.loads.push_back(readLoad(each));
  if (t.has("trace") && !out.loads.empty())
    t.complain("load", "and `trace` exclude each other: a trace has the arrivals");
  t.finish();
  if (reader.failed()) return tl::unexpected<base::Error>(reader.takeError());
  return out;
}

namespace {

std::string formatTemplate(const PlanTemplate& t) {
  const PlanMake& m = t.make;
  const PlanTask& k = t.task;
  std::string out = fmt::format(
      "\n[templates.{}]\nmechanism = \"{}\"\nclone_memory = \"{}\"  # what a parked clone is "
      "charged\npool_min = {}\npool_max = {}\n",
      t.name, base::printable(t.mechanism, 32), formatBytes(t.clone_bytes), t.parked_min,
      t.parked_max);
  if (t.per_tenant) out += "per_tenant = true\n";
  if (t.ptys != 0) out += fmt::format("ptys = {}\n", t.ptys);
  out += fmt::format("\n[templates.{}.limits]  # the default caps\n", t.name);
  for (std::string_view key : kPlanCaps) {
    const LimitField& field = limitField(key);
    const std::string value = field.format(field.get(t.limits));
    out +=
        fmt::format("{} = {}\n", key, field.unit == LimitUnit::count ? value : "\"" + value + "\"");
  }
  out += fmt::format(
      "\n[templates.{}.make]  # a box and its clone\ntime_us = {}\nbox_us = {}\nspread = {:.3f}\n"
      "daemon_us = {}\nspawner_us = {}\nother_us = {}\n",
      t.name, m.time_us, m.box_us, m.spread, m.daemon_us, m.spawner_us, m.other_us);
  out += fmt::format(
      "\n[templates.{}.task]  # whose program does nothing\nclaim_us = {}\nfirst_us = {}\n"
      "run_us = {}\nend_us = {}\nbox_cpu_us = {}\ndaemon_us = {}\nspawner_us = {}\n"
      "other_us = {}\nclient_us = {}\nmemory = \"{}\"\nlate_us = [{}]\nlate_full_us = [{}]\n",
      t.name, k.claim_us, k.first_us, k.run_us, k.end_us, k.box_cpu_us, k.daemon_us, k.spawner_us,
      k.other_us, k.client_us, formatBytes(k.memory_bytes), fmt::join(k.late_us, ", "),
      fmt::join(k.late_full_us, ", "));
  return out;
}

}  // namespace

std::string formatPlanHost(const PlanHost& h, const std::vector<std::string>& remarks) {
  std::string out;
  for (const std::string& remark : remarks) out += "# " + base::printable(remark, 400) + "\n";
  out += fmt::format(
      "[host]\nprocessors = {:g}\nbackground = {:.3f}  # processors that other programs keep busy\n"
      "clients_here = {}\nmemory = \"{}\"\nopen_files = {}\nprocesses = {}\nuser_namespaces = {}\n"
      "ptys = {}\n",
      h.processors, h.background, h.clients_here, formatBytes(h.memory_bytes), h.open_files,
      h.processes, h.user_namespaces, h.ptys);
  for (const PlanTemplate& t : h.templates) out += formatTemplate(t);
  return out;
}

}  // namespace mayfly::config
