#include "cli/report.h"

#include <fmt/format.h>
#include <sodium.h>
#include <string.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cli/options.h"
#include "config/units.h"

namespace mayfly::cli {

using base::printable;
using base::Verdict;
using Json = nlohmann::ordered_json;

namespace {

std::string base64(std::string_view bytes) {
  std::string out(sodium_base64_encoded_len(bytes.size(), sodium_base64_VARIANT_ORIGINAL), '\0');
  sodium_bin2base64(out.data(), out.size(), reinterpret_cast<const unsigned char*>(bytes.data()),
                    bytes.size(), sodium_base64_VARIANT_ORIGINAL);
  out.resize(strlen(out.c_str()));
  return out;
}

// `name`: the text; `nameBase64`: true if it is encoded, because it is not UTF-8.
void addBytes(Json& json, const std::string& name, std::string_view bytes) {
  bool utf8 = base::isUtf8(bytes);
  json[name] = utf8 ? std::string(bytes) : base64(bytes);
  json[name + "Base64"] = !utf8;
}

// As in mayfly.capnp, but with a small first letter.
std::string wireName(std::string name) {
  name[0] = static_cast<char>(name[0] - 'A' + 'a');
  return name;
}

Json limitsJson(const base::Limits& l) {
  Json json;
#define MAYFLY_CAP(member, type, standard, unit, lowest, highest, key, Wire, ...) \
  json[wireName(#Wire)] = l.member;
  MAYFLY_CAPS(MAYFLY_CAP)
#undef MAYFLY_CAP
  return json;
}

// Escapes every control character, those above ASCII too: the text may go to a terminal.
std::string dump(const Json& json) {
  return json.dump(2, ' ', true, Json::error_handler_t::replace) + "\n";
}

Json infoJson(const TaskInfo& t) {
  return {{"id", t.id},
          {"template", t.template_name},
          {"state", t.state},
          {"queuedNs", t.queued_ns},
          {"startedNs", t.started_ns},
          {"nowNs", t.now_ns},
          {"pidHost", t.pid_host},
          {"yours", t.yours}};
}

std::string signalName(int number) {
  const char* abbreviation = ::sigabbrev_np(number);
  return abbreviation != nullptr ? fmt::format("SIG{}", abbreviation)
                                 : fmt::format("signal {}", number);
}

std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) line += fmt::format("{:<{}}  ", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

}  // namespace

int exitCode(const TaskResult& result) {
  switch (result.verdict) {
    case Verdict::succeeded:
    case Verdict::failed:
      return result.exit_code;
    case Verdict::signaled:
      return kExitSignal + result.signal;
    case Verdict::wallTime:
    case Verdict::cpuTime:
      return kExitTime;
    case Verdict::memory:
    case Verdict::processes:
    case Verdict::output:
    case Verdict::disk:
      return kExitCap;
    case Verdict::cancelled:
      return kExitCancelled;
    case Verdict::clientGone:
    case Verdict::daemonStopping:
    case Verdict::internal:
    case Verdict::queueTime:
      break;
  }
  return kExitMayfly;
}

std::string verdictLine(const TaskResult& r) {
  std::string line(base::name(r.verdict));
  if (r.verdict == Verdict::failed)
    line += fmt::format(": exit code {}", r.exit_code);
  else if (r.verdict == Verdict::signaled)
    line += fmt::format(": {}", signalName(r.signal));
  else if (r.verdict != Verdict::succeeded && !r.reason.empty())
    line += ": " + printable(r.reason);
  if (r.usage.wall_ns > 0)
    line += fmt::format(" | {}, cpu {}, peak {}", base::humanNanos(r.usage.wall_ns),
                        base::humanNanos(r.usage.user_cpu_ns + r.usage.system_cpu_ns),
                        base::humanBytes(r.usage.memory_peak_bytes));
  if (r.usage.fresh_runtime) line += " | new runtime";
  if (r.receipt.box != 0)
    line += r.receipt.complete ? fmt::format(" | box {} is gone", r.receipt.box)
                               : fmt::format(" | box {}: receipt incomplete: {}", r.receipt.box,
                                             printable(r.receipt.missing));
  return line;
}

std::string truncatedLine(const TaskResult& r, Stream stream) {
  const int i = static_cast<int>(stream);
  if (!r.truncated[i]) return {};
  return fmt::format(
      "{} is cut: the task wrote {}, and the first {} were kept. For all of it, run the task "
      "without --detach, or let it write a file into /task/out (--collect, then `task wait "
      "--out`).",
      stream == Stream::out ? "stdout" : "stderr",
      base::humanBytes(stream == Stream::out ? r.usage.stdout_bytes : r.usage.stderr_bytes),
      base::humanBytes(r.captured[i].size()));
}

base::Status checkInput(const InputBytes& bytes, const TaskSpec& spec,
                        const std::vector<TemplateInfo>& templates, uint64_t blob_bytes_max) {
  if (blob_bytes_max != 0 && bytes.uploaded > blob_bytes_max)
    return base::fail(
        base::Code::invalidArgument,
        fmt::format("the large input files have {}; the daemon keeps at most {} for "
                    "a user. Nothing was uploaded",
                    base::humanBytes(bytes.uploaded), base::humanBytes(blob_bytes_max)),
        "Give the task less, or large data with --stdin.");
  for (const TemplateInfo& t : templates) {
    if (t.name != spec.template_name) continue;
    const auto refuse = [](uint64_t size, uint64_t cap, const char* name, const char* flag,
                           uint64_t maximum) {
      return base::fail(
          base::Code::invalidArgument,
          fmt::format("code and input files have {}; the task's cap on {} is {}. Nothing was "
                      "uploaded",
                      base::humanBytes(size), name, base::humanBytes(cap)),
          fmt::format("Raise it with {}, up to the template's maximum of {}.", flag,
                      base::humanBytes(maximum)));
    };
    const uint64_t all = bytes.code + bytes.files;
    const uint64_t on_disk = bytes.code_on_disk ? all : bytes.files;
    const uint64_t input = spec.limits.input_bytes.value_or(t.defaults.input_bytes);
    const uint64_t disk = spec.limits.disk_bytes.value_or(t.defaults.disk_bytes);
    const uint64_t memory = spec.limits.memory_bytes.value_or(t.defaults.memory_bytes);
    if (all > input) return refuse(all, input, "input", "--input", t.maximum.input_bytes);
    if (on_disk >= disk) return refuse(on_disk, disk, "the disk", "--disk", t.maximum.disk_bytes);
    if (on_disk > memory / 2)
      return refuse(on_disk, memory, "memory (they may take half of it)", "--memory",
                    t.maximum.memory_bytes);
  }
  return base::Unit{};
}

std::string errorText(const base::Error& error) {
  std::string text = "mayfly: " + printable(error.message, 2000) + "\n";
  if (!error.advice.empty()) text += "  " + printable(error.advice, 1000) + "\n";
  if (error.retry_after_ms > 0)
    text += fmt::format("  Do not retry before {}.\n",
                        base::humanNanos(uint64_t{error.retry_after_ms} * 1'000'000));
  return text;
}

std::string errorJson(const base::Error& error) {
  return dump({{"error",
                {{"code", base::name(error.code)},
                 {"message", error.message},
                 {"advice", error.advice},
                 {"retryable", error.retryable()},
                 {"retryAfterMs", error.retry_after_ms}}}});
}

std::string resultJson(const TaskResult& r, std::string_view out, std::string_view err,
                       const std::vector<Written>& written) {
  Json json;
  json["id"] = r.id;
  json["template"] = r.template_name;
  json["verdict"] = base::name(r.verdict);
  const bool signaled = r.verdict == Verdict::signaled || (r.in_grace && r.signal != 0);
  const bool exited = r.verdict == Verdict::succeeded || r.verdict == Verdict::failed ||
                      (r.in_grace && r.signal == 0);
  json["exitCode"] = exited ? Json(r.exit_code) : Json(nullptr);
  json["signal"] = signaled ? Json(r.signal) : Json(nullptr);
  json["inGrace"] = r.in_grace;
  json["reason"] = r.reason;
  json["capValue"] = r.cap_value;
  addBytes(json, "stdout", out);
  addBytes(json, "stderr", err);
  json["stdoutTruncated"] = r.truncated[0];
  json["stderrTruncated"] = r.truncated[1];
  json["limits"] = limitsJson(r.limits);
  json["usage"] = {{"wallNs", r.usage.wall_ns},
                   {"userCpuNs", r.usage.user_cpu_ns},
                   {"systemCpuNs", r.usage.system_cpu_ns},
                   {"memoryPeakBytes", r.usage.memory_peak_bytes},
                   {"processesPeak", r.usage.processes_peak},
                   {"stdoutBytes", r.usage.stdout_bytes},
                   {"stderrBytes", r.usage.stderr_bytes},
                   {"diskBytes", r.usage.disk_bytes},
                   {"diskInodes", r.usage.disk_inodes},
                   {"freshRuntime", r.usage.fresh_runtime}};
  Json phases = Json::object();
  for (size_t i = 0; i < base::kPhases; ++i)
    phases[std::string(base::name(static_cast<base::Phase>(i))) + "Ns"] = r.phases[i];
  json["phases"] = std::move(phases);
  json["receipt"] = {{"box", r.receipt.box},
                     {"complete", r.receipt.complete},
                     {"reapedNs", r.receipt.reaped_ns},
                     {"unpopulatedNs", r.receipt.unpopulated_ns},
                     {"fdsClosedNs", r.receipt.fds_closed_ns},
                     {"cgroupsGoneNs", r.receipt.cgroups_gone_ns},
                     {"uidFreeNs", r.receipt.uid_free_ns},
                     {"missing", r.receipt.missing},
                     {"revokedNs", r.receipt.revoked_ns},
                     {"brokerClosedNs", r.receipt.broker_closed_ns},
                     {"note", r.receipt.note}};
  Json files = Json::array();
  for (size_t i = 0; i < r.out_files.size(); ++i) {
    const OutFile& file = r.out_files[i];
    Json one;
    addBytes(one, "path", file.path);
    one["sizeBytes"] = file.size_bytes;
    one["mode"] = fmt::format("{:04o}", file.mode);
    one["skipped"] = file.skipped;
    if (i < written.size()) {
      one["written"] = written[i].written;
      one["whyNotWritten"] = written[i].why_not;
    }
    files.push_back(std::move(one));
  }
  json["files"] = std::move(files);
  json["filesNote"] = r.out_files_note;
  json["filesLost"] = r.out_files_lost;
  return dump(json);
}

std::string tasksTable(const std::vector<TaskInfo>& tasks) {
  if (tasks.empty()) return "no tasks\n";
  std::vector<std::vector<std::string>> rows{{"ID", "TEMPLATE", "STATE", "AGE", "RUNS", "PID"}};
  for (const TaskInfo& t : tasks) {
    auto since = [&](uint64_t at_ns) {
      return at_ns != 0 && at_ns <= t.now_ns ? base::humanNanos(t.now_ns - at_ns)
                                             : std::string("-");
    };
    rows.push_back({std::to_string(t.id), printable(t.template_name), printable(t.state),
                    since(t.queued_ns), since(t.started_ns),
                    t.pid_host != 0 ? std::to_string(t.pid_host) : "-"});
  }
  return table(rows);
}

std::string detachedTable(const std::vector<DetachedTask>& tasks) {
  if (tasks.empty()) return "no detached tasks\n";
  std::vector<std::vector<std::string>> rows{{"ID", "TEMPLATE", "STATE", "LEASE LEFT", "KEY"}};
  for (const DetachedTask& t : tasks)
    rows.push_back(
        {std::to_string(t.task.id), printable(t.task.template_name), printable(t.task.state),
         t.task.state == "done" ? fmt::format("{} s", t.lease_left_ms / 1'000)
                                : fmt::format("{} s after its end", t.lease_left_ms / 1'000),
         t.key.empty() ? "-" : printable(t.key)});
  return table(rows);
}

std::string detachedListJson(const std::vector<DetachedTask>& tasks) {
  Json list = Json::array();
  for (const DetachedTask& t : tasks) {
    Json one = infoJson(t.task);
    one["key"] = t.key;
    one["leaseLeftMs"] = t.lease_left_ms;
    list.push_back(std::move(one));
  }
  return dump({{"tasks", list}});
}

std::string taskJson(const TaskInfo& task) { return dump(infoJson(task)); }

std::string detachedJson(uint64_t id, bool existing) {
  return dump({{"id", id}, {"existing", existing}});
}

std::string tasksJson(const std::vector<TaskInfo>& tasks) {
  Json list = Json::array();
  for (const TaskInfo& t : tasks) list.push_back(infoJson(t));
  return dump({{"tasks", list}});
}

std::string templatesTable(const std::vector<TemplateInfo>& templates) {
  if (templates.empty()) return "no templates\n";
  std::vector<std::vector<std::string>> rows{{"NAME", "MECHANISM", "STATE", "MEMORY", "WALL TIME",
                                              "BOXES", "PARKED", "STOCKED", "DESCRIPTION"}};
  std::string notes;
  for (const TemplateInfo& t : templates) {
    rows.push_back({printable(t.name), printable(t.mechanism), printable(t.state),
                    config::formatBytes(t.defaults.memory_bytes),
                    config::formatDurationMs(t.defaults.wall_time_ms), std::to_string(t.boxes),
                    fmt::format("{}/{}", t.parked, t.parked_target),
                    fmt::format("{}/{}", t.stocked, t.stocked_target), printable(t.description)});
    if (!t.state_text.empty())
      notes += fmt::format("{}: {}\n", printable(t.name), printable(t.state_text, 1000));
  }
  return table(rows) + notes;
}

std::string templatesJson(const std::vector<TemplateInfo>& templates) {
  Json list = Json::array();
  for (const TemplateInfo& t : templates)
    list.push_back({{"name", t.name},
                    {"description", t.description},
                    {"mechanism", t.mechanism},
                    {"state", t.state},
                    {"stateText", t.state_text},
                    {"imageDigest", t.image_digest},
                    {"defaults", limitsJson(t.defaults)},
                    {"maximum", limitsJson(t.maximum)},
                    {"boxes", t.boxes},
                    {"parked", t.parked},
                    {"stocked", t.stocked},
                    {"parkedTarget", t.parked_target},
                    {"stockedTarget", t.stocked_target},
                    {"making", t.making},
                    {"waiting", t.waiting},
                    {"zygotes", t.zygotes},
                    {"renewals", t.renewals},
                    {"hits", t.hits},
                    {"misses", t.misses}});
  return dump({{"templates", list}});
}

}  // namespace mayfly::cli
