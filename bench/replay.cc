// mayfly-bench-replay: runs a trace against a daemon, each task at its time; the report as JSON on
// stdout.
//
// Each arrival becomes a task of its template and tenant that prints a line, computes, then waits,
// so that its box takes the trace's processor and run time. The host's file says how much of them
// an empty task has already. Times count in the daemon, from `queued`: a client's own delay is none
// of the daemon's. bench/plan compares them with what `mayfly plan` predicts.
//
// Layer: a client of Mayfly. Needs templates of Python.
#include <stdlib.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "base/clock.h"
#include "config/plan_file.h"
#include "load/drive.h"
#include "load/histogram.h"
#include "mayfly/client.h"
#include "pool/trace.h"

namespace {

using namespace mayfly;
using base::Phase;
using Json = nlohmann::ordered_json;

constexpr const char* kProgram =
    "print(flush=True)\n"
    "import sys, time\n"
    "end = time.process_time() + float(sys.argv[1])\n"
    "while time.process_time() < end: pass\n"
    "time.sleep(float(sys.argv[2]))\n";
constexpr uint32_t kOutstandingMax = 4'096;

[[noreturn]] void die(const std::string& text) {
  std::fprintf(stderr, "mayfly-bench-replay: %s\n", text.c_str());
  ::exit(1);
}

std::string read(const std::string& path) {
  std::ifstream file(path);
  if (!file) die("cannot read " + path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Figures of the tasks that came after the warm-up, by the daemon's phases.
struct Figures {
  std::mutex mutex;
  load::Histogram first_byte, whole, queue, claim, run, reap;
  uint64_t tasks = 0, parked = 0;
  double cpu_s = 0;
};

class Replay final : public load::Target {
 public:
  Replay(Client& client, const pool::Trace& trace, const config::PlanHost& host, uint64_t warm_up,
         Figures& figures)
      : client_(client), trace_(trace), host_(host), warm_up_(warm_up), figures_(figures) {}

  void begin(const load::Ticket& ticket, Done done) override {
    Callbacks callbacks;
    const bool counts = ticket.index >= warm_up_;
    callbacks.on_result = [this, counts,
                           done = std::move(done)](const base::Result<TaskResult>& result) {
      load::Outcome outcome;
      outcome.ended_ns = base::monotonicNs();
      if (!result)
        outcome.error = base::name(result.error().code);
      else if (result->verdict != base::Verdict::succeeded)
        outcome.error = base::name(result->verdict);
      else if (counts)
        record(*result);
      done(std::move(outcome));
    };
    client_.runAsync(specOf(trace_.arrivals[ticket.index]), std::move(callbacks));
  }

 private:
  TaskSpec specOf(const pool::Arrival& a) const {
    const config::PlanTemplate& t = *host_.find(trace_.templates[a.template_index]);
    const auto beyond = [](uint64_t ns, uint64_t us) { return ns - std::min(ns, us * 1'000); };
    const uint64_t run_ns = beyond(a.run_ns, t.task.run_us);
    const uint64_t cpu_ns = std::min(run_ns, beyond(a.cpu_ns, t.task.box_cpu_us));
    TaskSpec spec;
    spec.template_name = t.name;
    spec.kind = CodeKind::string;
    spec.code = kProgram;
    spec.args = {std::to_string(static_cast<double>(cpu_ns) * 1e-9),
                 std::to_string(static_cast<double>(run_ns - cpu_ns) * 1e-9)};
    if (!trace_.tenants.empty()) spec.tenant = trace_.tenants[a.tenant_index].tenant;
    return spec;
  }

  void record(const TaskResult& r) {
    const auto at = [&](Phase phase) { return r.phases[static_cast<size_t>(phase)]; };
    const auto span = [&](load::Histogram& to, Phase from, Phase until) {
      if (at(from) != 0 && at(until) >= at(from)) to.record(at(until) - at(from));
    };
    std::lock_guard lock(figures_.mutex);
    span(figures_.first_byte, Phase::queued, Phase::firstByte);
    span(figures_.whole, Phase::queued, Phase::receipt);
    span(figures_.queue, Phase::queued, Phase::box);
    span(figures_.claim, Phase::box, Phase::started);
    span(figures_.run, Phase::started, Phase::exited);
    span(figures_.reap, Phase::exited, Phase::receipt);
    ++figures_.tasks;
    figures_.parked += at(Phase::clone) == at(Phase::box);
    figures_.cpu_s += static_cast<double>(r.usage.user_cpu_ns + r.usage.system_cpu_ns) * 1e-9;
  }

  Client& client_;
  const pool::Trace& trace_;
  const config::PlanHost& host_;
  uint64_t warm_up_;
  Figures& figures_;
};

}  // namespace

int main(int argc, char** argv) {
  std::string socket = ::getenv("MAYFLY_SOCKET") ? ::getenv("MAYFLY_SOCKET") : kDefaultSocket;
  std::string trace_file, host_file;
  double warm_up_s = 0;
  CLI::App cli{"mayfly-bench-replay: runs a trace against a daemon"};
  cli.add_option("--socket", socket, "the daemon's socket (default: MAYFLY_SOCKET)");
  cli.add_option("--trace", trace_file, "the trace, as `mayfly plan --arrivals` writes it")
      ->required();
  cli.add_option("--host", host_file, "the host, as `mayfly plan calibrate` writes it")->required();
  cli.add_option("--warm-up", warm_up_s, "seconds of the trace that are not recorded");
  CLI11_PARSE(cli, argc, argv);

  auto host = config::parsePlanHost(read(host_file), host_file);
  if (!host) die(host.error().message);
  auto trace = pool::parseTrace(read(trace_file), trace_file, 0, 1);
  if (!trace) die(trace.error().message);
  for (const std::string& name : trace->templates)
    if (host->find(name) == nullptr) die(host_file + " has no template " + name);
  auto client = Client::connect(socket, {.client_name = "bench replay"});
  if (!client) die(client.error().message);

  std::vector<uint64_t> at_ns;
  uint64_t warm_up = 0;
  for (const pool::Arrival& a : trace->arrivals) {
    at_ns.push_back(a.at_ns);
    warm_up += static_cast<double>(a.at_ns) < warm_up_s * 1e9;
  }
  load::Plan plan;
  plan.arrivals = load::recordedArrivals(std::move(at_ns));
  plan.warm_up = warm_up;
  plan.outstanding_max = kOutstandingMax;
  Figures figures;
  Replay target(**client, *trace, *host, warm_up, figures);
  auto report = load::drive(std::move(plan), target);
  if (!report) die(report.error().message);
  Json out = {{"sent", report->sent},     {"succeeded", report->succeeded},
              {"errors", report->errors}, {"tasks", figures.tasks},
              {"parked", figures.parked}, {"cpu_s", figures.cpu_s}};
  out["send_lag"] = load::toJson(report->send_lag);
  out["first_byte"] = load::toJson(figures.first_byte);
  out["whole"] = load::toJson(figures.whole);
  out["queue"] = load::toJson(figures.queue);
  out["claim"] = load::toJson(figures.claim);
  out["run"] = load::toJson(figures.run);
  out["reap"] = load::toJson(figures.reap);
  std::printf("%s\n", out.dump().c_str());
  return 0;
}
