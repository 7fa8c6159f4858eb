#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "app/audit.h"
#include "app/budget.h"
#include "app/instance.h"
#include "app/log.h"
#include "app/templates.h"

namespace mayfly::app {
namespace {

struct Folder {
  std::string path;
  Folder() {
    char name[] = "/tmp/mayfly-app-test-XXXXXX";
    path = ::mkdtemp(name);
  }
  ~Folder() { (void)!::system(("rm -rf '" + path + "'").c_str()); }
};

TEST(Log, TaskLineHasWhoHowAndHowMuchAndLeavesOutWhatWasNotReached) {
  base::Phases phases{};
  auto at = [&](base::Phase p, double ms) {
    phases[static_cast<size_t>(p)] = 1'000 + static_cast<uint64_t>(ms * 1e6);
  };
  at(base::Phase::queued, 0);
  at(base::Phase::box, 0.25);
  at(base::Phase::started, 1.5);
  at(base::Phase::exited, 11.5);
  at(base::Phase::receipt, 12);
  base::Usage usage;
  usage.user_cpu_ns = 2'000'000, usage.system_cpu_ns = 500'000;
  usage.memory_peak_bytes = 4'096, usage.processes_peak = 2, usage.stdout_bytes = 3;
  EXPECT_EQ(
      taskLine({5, "python", "fork", 1000, "a\" verdict=x"}, base::Verdict::wallTime, usage,
               phases),
      "task id=5 template=python mechanism=fork user=1000 tenant=\"a\\\" verdict=x\" "
      "verdict=wallTime queue_ms=0.250 claim_ms=1.250 run_ms=10.000 reap_ms=0.500 whole_ms=12.000 "
      "cpu_ms=2.500 memory_peak=4096 processes_peak=2 stdout=3 stderr=0 disk=0 inodes=0");
  usage.fresh_runtime = true;
  EXPECT_TRUE(taskLine({5, "python", "fork", 0, ""}, base::Verdict::failed, usage, {})
                  .ends_with(" fresh_runtime=1"));
}

TEST(Instance, SecondDaemonOfTheSameNameIsRefusedAtOnceAndOthersAreNot) {
  Folder run;
  auto first = lockInstance(run.path + "/deep/run", "a");
  ASSERT_TRUE(first) << first.error().message;
  auto second = lockInstance(run.path + "/deep/run", "a");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, base::Code::alreadyExists);
  EXPECT_NE(second.error().message.find("in use"), std::string::npos);
  EXPECT_TRUE(lockInstance(run.path + "/deep/run", "b"));
  *first = base::Fd();
  EXPECT_TRUE(lockInstance(run.path + "/deep/run", "a"));
}

TEST(UidSlots, NoTwoDaemonsShareOneAndAFreedOneIsTakenAgain) {
  Folder slots;
  std::vector<UidSlot> taken;
  for (uint32_t i = 0; i < kUidSlots; ++i) {
    auto slot = takeUidSlot(slots.path);
    ASSERT_TRUE(slot);
    EXPECT_EQ(slot->number, i);
    taken.push_back(std::move(*slot));
  }
  EXPECT_EQ(takeUidSlot(slots.path).error().code, base::Code::resourceExhausted);
  taken[7].lock.reset();
  EXPECT_EQ(takeUidSlot(slots.path)->number, 7u);
}

TEST(UidSlots, DaemonsUidLiesInTheLastRangeOfItsOwnSlot) {
  EXPECT_EQ(daemonUid(0), 1'879'048'192u + 63 * 65'536);
  EXPECT_EQ(daemonUid(63), 1'879'048'192u + 63 * 64 * 65'536 + 63 * 65'536);
  EXPECT_LT(daemonUid(63), 1u << 31);
}

TEST(Audit, BoxesAreFoundByTheirCgroupsAndNothingElseIs) {
  Folder top;
  for (const char* path : {"t1/b12", "t1/maker", "t2/b7", "t2/bx", "t2/b", "t2/b9x"})
    std::filesystem::create_directories(top.path + "/" + path);
  std::ofstream(top.path + "/cgroup.procs") << "1";
  auto boxes = boxesOnHost(top.path);
  std::sort(boxes.begin(), boxes.end());
  EXPECT_EQ(boxes, (std::vector<base::BoxId>{7, 12}));
  EXPECT_TRUE(boxesOnHost(top.path + "/none").empty());
}

TEST(Budget, FollowsFromTheHostAndTheSettingsLowerIt) {
  box::HostBudget host;
  host.fds_hard = 20'000;
  host.pids_max = 32'768;
  host.memory_total_bytes = 100ull << 30;
  host.boxes_by_fds = 1'218;
  host.boxes_by_namespaces = 9'999;
  config::Daemon settings;
  sched::Budget b = deriveBudget(host, settings);
  EXPECT_EQ(b.boxes_max + b.parked_max + b.stocked_max, 1'218u);
  EXPECT_EQ(b.parked_max, 64u);
  EXPECT_EQ(b.stocked_max, 16u);
  EXPECT_EQ(b.memory_bytes_max, (100ull << 30) / 100 * 90 - settings.parked_memory_bytes);
  EXPECT_LT(b.pids_max, 32'768u);
  EXPECT_LE(b.fds_max, 20'000u);
  EXPECT_LT(b.queue_tasks_per_owner_max, b.queue_tasks_max);
  host.boxes_by_fds = 2'436;
  settings.parked_max = 4'096;
  EXPECT_EQ(deriveBudget(host, settings).parked_max, 2'180u);
  host.boxes_by_fds = 1'218;
  settings.parked_max = 64;
  settings.boxes_max = 10;
  b = deriveBudget(host, settings);
  EXPECT_EQ(b.boxes_max + b.parked_max + b.stocked_max, 10u);
  EXPECT_GE(b.boxes_max, 1u);
  settings.boxes_max = 1;
  EXPECT_EQ(deriveBudget(host, settings).boxes_max, 1u);
  settings.parked_max = settings.stocked_max = 0;
  settings.boxes_max = 5'000;
  EXPECT_EQ(deriveBudget(host, settings).boxes_max, 1'218u);
}

TEST(Budget, TasksHaveFewerTerminalsRatherThanWaitForEachOther) {
  box::HostBudget host;
  host.fds_hard = 1'048'576;
  host.pids_max = 4'194'304;
  host.memory_total_bytes = 100ull << 30;
  host.boxes_by_fds = host.boxes_by_namespaces = 4'096;
  host.ptys_max = 2'303;
  config::Daemon settings;
  EXPECT_EQ(deriveBudget(host, settings).ptys_max, 2'303u);
  EXPECT_EQ(grantPtys(deriveBudget(host, settings), 8), 8u);
  EXPECT_EQ(grantPtys(deriveBudget(host, settings), 0), 0u);
  settings.ptys_max = 100;
  EXPECT_EQ(deriveBudget(host, settings).ptys_max, 100u);
  EXPECT_EQ(grantPtys(deriveBudget(host, settings), 8), 6u);  // so that 16 tasks fit
  settings.boxes_max = 5;
  EXPECT_EQ(grantPtys(deriveBudget(host, settings), 64),
            100 / deriveBudget(host, settings).boxes_max);
  settings.boxes_max = 0;
  settings.ptys_max = 5;
  EXPECT_EQ(grantPtys(deriveBudget(host, settings), 8), 0u);
  host.ptys_max = 0;  // the kernel has none
  settings.ptys_max = 0;
  EXPECT_EQ(grantPtys(deriveBudget(host, settings), 8), 0u);
}

TEST(Budget, BlobsTakeAShareOfTheHostAndNotMore) {
  box::HostBudget host;
  host.fds_hard = 1'048'576;
  host.memory_total_bytes = 100ull << 30;
  config::Daemon settings;
  rpc::BlobBounds b = deriveBlobBounds(host, settings);
  EXPECT_EQ(b.store_bytes_max, 1ull << 30);
  EXPECT_EQ(b.user_bytes_max, 512ull << 20);
  EXPECT_EQ(b.store_blobs_max, rpc::BlobBounds{}.store_blobs_max);
  settings.blob_store_bytes_max = 1 << 20;
  settings.blob_ttl_ms = 7;
  b = deriveBlobBounds(host, settings);
  EXPECT_EQ(b.user_bytes_max, 1u << 20);  // no blob could be larger
  EXPECT_EQ(b.ttl_ms, 7u);
  host.fds_hard = 4'096;
  host.memory_total_bytes = 2ull << 30;
  b = deriveBlobBounds(host, config::Daemon{});
  EXPECT_EQ(b.store_bytes_max, 256ull << 20);
  EXPECT_EQ(b.store_blobs_max, 512u);
  EXPECT_EQ(b.user_blobs_max, 512u);
  // The boxes' descriptors are what is left.
  EXPECT_LE(deriveBudget(host, config::Daemon{}).fds_max, 4'096u - 512u);
}

TEST(Templates, TasksEnvironmentIsFixedUnlessTheManifestSaysOtherwise) {
  config::Manifest m;
  m.mechanism = config::Mechanism::exec;
  m.task_env = {{"A", "1"}, {"PATH", "/opt/bin"}};
  auto spec = toSpec(m);
  auto value = [&](std::string_view name) {
    std::string found;
    for (const auto& [n, v] : spec.env)
      if (n == name) found += v;
    return found;
  };
  EXPECT_EQ(value("PATH"), "/opt/bin");
  EXPECT_EQ(value("HOME"), "/task");
  EXPECT_EQ(value("A"), "1");
  EXPECT_TRUE(spec.runs_commands);
  EXPECT_FALSE(spec.runs_code);
}

}  // namespace
}  // namespace mayfly::app
