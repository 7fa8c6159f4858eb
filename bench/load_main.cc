// mayfly-bench-load: one run of load, its report as JSON on stdout.
//
// Each request runs one small program, either as a task of a daemon (through the C++ client), or by
// `bwrap --unshare-all` and a fresh interpreter in an image's root folder. Open loop
// with --rate or --burst, else closed loop with --outstanding requests in flight.
//
// Layer: a client of Mayfly. bench/run calls it; it is also useful by hand.
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/clock.h"
#include "bench/rivals.h"
#include "load/client_target.h"
#include "load/command_target.h"
#include "load/drive.h"
#include "mayfly/client.h"

namespace {

using namespace mayfly;
using Json = nlohmann::ordered_json;

constexpr uint64_t kPoolWaitMsMax = 120'000;
constexpr long kPoolPollNs = 500'000;

struct Options {
  std::string socket = ::getenv("MAYFLY_SOCKET") ? ::getenv("MAYFLY_SOCKET") : kDefaultSocket;
  std::string template_name = "python", code = "print(6*7)", expected = "42\n";
  std::string bwrap_root, interpreter = "python3";
  double rate_per_s = 0, seconds = 0;
  bool poisson = false, captured = false, collect = false;
  uint64_t seed = 1, count = 0, burst = 0, warm_up = 0;
  uint32_t outstanding = 1;
  std::optional<uint32_t> pool;
  std::optional<uint64_t> memory_mib, disk_mib;
};

[[noreturn]] void die(const std::string& text) {
  std::fprintf(stderr, "mayfly-bench-load: %s\n", text.c_str());
  ::exit(1);
}

uint64_t ownCpuNs() {
  rusage used;
  ::getrusage(RUSAGE_SELF, &used);
  auto ns = [](const timeval& t) {
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u +
           static_cast<uint64_t>(t.tv_usec) * 1'000u;
  };
  return ns(used.ru_utime) + ns(used.ru_stime);
}

// Waits until `wanted` clones are parked and none is being made; returns the time of that
// observation.
uint64_t awaitPool(Client& client, const std::string& name, uint32_t wanted) {
  uint64_t until_ns = base::monotonicNs() + kPoolWaitMsMax * 1'000'000;
  uint32_t parked = 0;
  while (base::monotonicNs() < until_ns) {
    auto all = client.templates();
    if (!all) die(all.error().message);
    uint64_t now_ns = base::monotonicNs();
    for (const TemplateInfo& t : *all)
      if (t.name == name) parked = t.parked;
    if (parked >= wanted) return now_ns;
    timespec pause{0, kPoolPollNs};
    ::nanosleep(&pause, nullptr);
  }
  die("only " + std::to_string(parked) + " of " + std::to_string(wanted) +
      " clones were parked after " + std::to_string(kPoolWaitMsMax / 1'000) + " s");
}

load::Plan planOf(const Options& o) {
  load::Plan plan;
  uint64_t count = o.count != 0 ? o.count : UINT64_MAX;
  if (o.burst != 0)
    plan.arrivals = load::burstArrivals(o.burst);
  else if (o.rate_per_s > 0 && o.poisson)
    plan.arrivals = load::poissonArrivals(o.rate_per_s, count, o.seed);
  else if (o.rate_per_s > 0)
    plan.arrivals = load::constantArrivals(o.rate_per_s, count);
  plan.count_max = o.count;
  plan.duration_ns_max = static_cast<uint64_t>(o.seconds * 1e9);
  plan.warm_up = o.warm_up;
  plan.outstanding_max = o.outstanding;
  return plan;
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App cli{"mayfly-bench-load: one run of load on a daemon, or on bwrap and python3"};
  cli.add_option("--socket", o.socket, "the daemon's socket (default: MAYFLY_SOCKET)");
  cli.add_option("--template", o.template_name, "the tasks' template")->capture_default_str();
  cli.add_option("--code", o.code, "each task's program")->capture_default_str();
  cli.add_option("--expect", o.expected, "each task's expected output");
  cli.add_flag("--collect", o.collect, "collect the tasks' files of /task/out");
  cli.add_option("--memory-mib", o.memory_mib, "each task's cap on memory");
  cli.add_option("--disk-mib", o.disk_mib, "each task's cap on the disk, and on one file");
  cli.add_flag("--captured", o.captured,
               "get the output with the result: the first byte's time is unknown");
  cli.add_option("--bwrap", o.bwrap_root, "no tasks: bwrap and an interpreter in this root folder");
  cli.add_option("--interpreter", o.interpreter, "python3 or node")
      ->check(CLI::IsMember({"python3", "node"}))
      ->capture_default_str();
  cli.add_option("--rate", o.rate_per_s, "open loop: requests a second, at constant gaps");
  cli.add_flag("--poisson", o.poisson, "at random gaps");
  cli.add_option("--seed", o.seed, "of the random gaps")->capture_default_str();
  cli.add_option("--burst", o.burst, "open loop: this many at once");
  cli.add_option("--count", o.count, "requests, warm-up included");
  cli.add_option("--seconds", o.seconds, "no request starts later");
  cli.add_option("--warm-up", o.warm_up, "first requests that are not recorded");
  cli.add_option("--outstanding", o.outstanding, "most requests in flight")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  cli.add_option("--pool", o.pool,
                 "wait for this many parked clones before, and measure the refill after");
  CLI11_PARSE(cli, argc, argv);
  if (o.count == 0 && o.seconds <= 0 && o.burst == 0) die("give --count, --seconds or --burst");
  if (!o.bwrap_root.empty() && o.pool) die("--pool is for tasks of a daemon");

  std::unique_ptr<Client> client;
  std::unique_ptr<load::Target> target;
  if (o.bwrap_root.empty()) {
    auto connected = Client::connect(o.socket, {.client_name = "bench"});
    if (!connected) die(connected.error().message);
    client = std::move(*connected);
    load::TaskLoad task;
    task.spec.template_name = o.template_name;
    task.spec.kind = CodeKind::string;
    task.spec.code = o.code;
    task.expected = o.expected;
    task.live = !o.captured;
    task.spec.collect_out_files = o.collect;
    auto bytes = [](uint64_t mib) { return mib << 20; };
    if (o.memory_mib) task.spec.limits.memory_bytes = bytes(*o.memory_mib);
    if (o.disk_mib)
      task.spec.limits.disk_bytes = task.spec.limits.file_size_bytes = bytes(*o.disk_mib);
    target = std::make_unique<load::ClientTarget>(*client, std::move(task));
    if (o.pool) awaitPool(*client, o.template_name, *o.pool);
  } else {
    target = std::make_unique<load::CommandTarget>(
        bench::bwrapCommand(o.bwrap_root,
                            {o.interpreter, o.interpreter == "node" ? "-e" : "-c", o.code}),
        o.expected, o.outstanding);
  }
  uint64_t cpu_before_ns = ownCpuNs();
  auto report = load::drive(planOf(o), *target);
  if (!report) die(report.error().message);
  uint64_t cpu_ns = ownCpuNs() - cpu_before_ns;
  Json out = load::toJson(*report);
  // Of this process; without a daemon it does not include the commands' own time.
  out["client_cpu_ns_per_request"] = report->sent == 0 ? 0 : cpu_ns / report->sent;
  if (o.pool) {
    uint64_t full_ns = awaitPool(*client, o.template_name, *o.pool);
    uint64_t claimed_ns = report->last[static_cast<size_t>(base::Phase::claimed)];
    uint64_t receipt_ns = report->last[static_cast<size_t>(base::Phase::receipt)];
    out["refill"] = {{"clones", *o.pool},
                     {"after_last_claim_ns", full_ns - std::min(full_ns, claimed_ns)},
                     {"after_last_receipt_ns", full_ns - std::min(full_ns, receipt_ns)}};
  }
  std::printf("%s\n", out.dump().c_str());
  return report->errors.empty() ? 0 : 3;
}
