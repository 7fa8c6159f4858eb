// mayfly-bench-floods SOCKET SECONDS: measures as a client of a loaded daemon how late its tasks
// are killed at their wall time, and how long a `print` takes. Prints one JSON object.
//
// Layer: a client of Mayfly. bench/floods runs it while it floods the daemon.
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "mayfly/client.h"

namespace {

using namespace mayfly;
using Json = nlohmann::ordered_json;

constexpr uint64_t kWallMs = 20;
constexpr size_t kKillsAtOnce = 2;

[[noreturn]] void die(const std::string& text) {
  std::fprintf(stderr, "mayfly-bench-floods: %s\n", text.c_str());
  ::exit(1);
}

TaskSpec python(const char* code) {
  TaskSpec spec;
  spec.template_name = "python";
  spec.kind = CodeKind::string;
  spec.code = code;
  return spec;
}

uint64_t at(const TaskResult& result, base::Phase phase) {
  return result.phases[static_cast<size_t>(phase)];
}

struct Kills {
  std::vector<double> decided_ms, dead_ms;  // after the end of the wall time
};

// Tries until `end_ns`, because a flood of connections may leave no room at first.
std::unique_ptr<Client> connected(const char* socket, uint64_t end_ns) {
  while (true) {
    auto client = Client::connect(socket);
    if (client) return std::move(*client);
    if (base::monotonicNs() >= end_ns) die(client.error().message);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

// Keeps kKillsAtOnce sleeping tasks running, each until it is killed at its wall time.
void kill(const char* socket, uint64_t end_ns, Kills* kills) {
  auto client = connected(socket, end_ns);
  std::vector<std::future<base::Result<TaskResult>>> under_way;
  auto begin = [&] {
    TaskSpec spec = python("import time; time.sleep(60)");
    spec.limits.wall_time_ms = kWallMs;
    return client->runAsync(std::move(spec));
  };
  for (size_t i = 0; i < kKillsAtOnce; ++i) under_way.push_back(begin());
  for (size_t i = 0; base::monotonicNs() < end_ns; i = (i + 1) % kKillsAtOnce) {
    auto result = under_way[i].get();
    if (!result) die(result.error().message);
    if (result->verdict != base::Verdict::wallTime)
      die("a task was not killed at its wall time: " + result->reason);
    const double due_ms = static_cast<double>(at(*result, base::Phase::started)) / 1e6 + kWallMs;
    kills->decided_ms.push_back(static_cast<double>(at(*result, base::Phase::exited)) / 1e6 -
                                due_ms);
    kills->dead_ms.push_back(static_cast<double>(at(*result, base::Phase::reaped)) / 1e6 - due_ms);
    under_way[i] = begin();
  }
  for (auto& each : under_way) (void)each.get();
}

void print(const char* socket, uint64_t end_ns, std::vector<double>* took_ms) {
  auto client = connected(socket, end_ns);
  while (base::monotonicNs() < end_ns) {
    uint64_t began_ns = base::monotonicNs();
    auto result = client->run(python("print(6*7)"));
    if (!result) die(result.error().message);
    if (result->captured[0] != "42\n") die("print: " + result->reason);
    took_ms->push_back(static_cast<double>(base::monotonicNs() - began_ns) / 1e6);
  }
}

Json spread(std::vector<double> values) {
  if (values.empty()) return {{"count", 0}};
  std::sort(values.begin(), values.end());
  auto of = [&](double share) {
    return values[std::min(values.size() - 1,
                           static_cast<size_t>(share * static_cast<double>(values.size())))];
  };
  return {{"count", values.size()},
          {"p50", of(0.5)},
          {"p90", of(0.9)},
          {"p99", of(0.99)},
          {"max", values.back()}};
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc == 3 ? ::atof(argv[2]) : 0;
  if (seconds <= 0) {
    std::fputs("usage: mayfly-bench-floods SOCKET SECONDS\n", stderr);
    return 2;
  }
  const uint64_t end_ns = base::monotonicNs() + static_cast<uint64_t>(seconds * 1e9);
  Kills kills;
  std::vector<double> prints_ms;
  std::thread killing([&] { kill(argv[1], end_ns, &kills); });
  print(argv[1], end_ns, &prints_ms);
  killing.join();
  Json said{{"decided_late_ms", spread(kills.decided_ms)},
            {"dead_late_ms", spread(kills.dead_ms)},
            {"print_ms", spread(prints_ms)}};
  std::puts(said.dump().c_str());
  return 0;
}
