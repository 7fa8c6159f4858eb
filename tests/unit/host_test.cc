// The host report: how it reads cgroup layouts, kernel names and budgets, and that its table fits a
// terminal. The last tests probe the real host.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "host/report.h"

namespace mayfly::host {
namespace {

constexpr char kHybrid[] =
    "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n"
    "32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 30 0:29 /docker/x /mnt/memory rw - cgroup cgroup rw,memory\n"
    "34 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "35 30 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";

TEST(CgroupLayout, HybridHostHasItsControllersInV1) {
  auto layout = parseCgroupLayout(kHybrid, "hugetlb\n");
  EXPECT_EQ(layout.v2_path, "/sys/fs/cgroup/unified");
  EXPECT_EQ(layout.cpu, CgroupPlace::v1);
  EXPECT_EQ(layout.cpu_path, "/sys/fs/cgroup/cpu,cpuacct");
  EXPECT_EQ(layout.pids, CgroupPlace::v1);
}
TEST(CgroupLayout, BindOfSomebodysSubtreeIsNotUsed) {
  EXPECT_EQ(parseCgroupLayout(kHybrid, "").memory_path, "/sys/fs/cgroup/memory");
}
TEST(CgroupLayout, V2ComesFirstWhereItHasTheController) {
  auto layout = parseCgroupLayout(kHybrid, "cpuset memory pids\n");
  EXPECT_EQ(layout.memory, CgroupPlace::v2);
  EXPECT_EQ(layout.pids, CgroupPlace::v2);
  EXPECT_EQ(layout.cpu, CgroupPlace::v1);  // cpuset is another controller
}
TEST(CgroupLayout, NothingMountedIsNone) {
  auto layout = parseCgroupLayout("24 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "");
  EXPECT_TRUE(layout.v2_path.empty());
  EXPECT_EQ(layout.memory, CgroupPlace::none);
}

TEST(KernelVersion, ReleasesOfDistributionsAreRead) {
  EXPECT_EQ(parseKernelVersion("6.1.0-18-cloud-amd64"), (KernelVersion{6, 1}));
  EXPECT_EQ(parseKernelVersion("6.18.44"), (KernelVersion{6, 18}));
  EXPECT_LT(parseKernelVersion("5.9"), (KernelVersion{5, 14}));
  EXPECT_EQ(parseKernelVersion("six"), (KernelVersion{}));
  EXPECT_EQ(parseKernelVersion(""), (KernelVersion{}));
}

HostBudget roomyHost() {
  HostBudget b;
  b.fds_hard = b.user_namespaces_max = 1'048'576;
  b.pids_max = 4'194'304;
  b.memory_total_bytes = b.memory_available_bytes = 64ull << 40;
  b.ptys_max = 100'000;
  countBoxes(b);
  return b;
}
std::string_view bindsOf(const HostBudget& host, const BoxSettings& settings = {}) {
  return capacityOf(host, settings).binding().what;
}

TEST(HostBudget, TheScarcestPartDecidesAndIsNamed) {
  HostBudget b = roomyHost();
  EXPECT_EQ(bindsOf(b), "the built-in maximum");
  EXPECT_EQ(capacityOf(b, {}).tasks(), kBoxesMax - 64 - 16);
  b.memory_total_bytes = 16ull << 30;
  EXPECT_EQ(bindsOf(b), "memory");
  EXPECT_EQ(capacityOf(b, {}).tasks(), 27u);  // 90 % of 16 GiB, without the parked boxes' 512 MiB
  b = roomyHost();
  b.fds_hard = 20'000;
  countBoxes(b);
  EXPECT_EQ(b.boxes_by_fds, (20'000u - kFdsReserved) / kFdsReckonedPerBox);
  EXPECT_EQ(bindsOf(b), "descriptors");
  b = roomyHost();
  b.pids_max = kPidsReserved + 65 * 7;
  EXPECT_EQ(bindsOf(b), "processes");
  EXPECT_EQ(capacityOf(b, {}).tasks(), 7u);
  b = roomyHost();
  b.user_namespaces_max = 64 + 130;
  countBoxes(b);
  EXPECT_EQ(b.boxes_by_namespaces, 130u);
  EXPECT_EQ(bindsOf(b), "namespaces");
  EXPECT_EQ(capacityOf(b, {}).tasks(), 130u - 64 - 16);
  b = roomyHost();
  b.ptys_max = 2'303;
  EXPECT_EQ(bindsOf(b), "terminals");
  EXPECT_EQ(capacityOf(b, {}).tasks(), 287u);
  b.ptys_max = 0;
  EXPECT_EQ(bindsOf(b), "the built-in maximum") << "boxes without terminals are no fewer";
  BoxSettings few;
  few.boxes_max = 10;
  EXPECT_EQ(bindsOf(roomyHost(), few), "the setting boxes_max");
}
TEST(HostBudget, TheTableSaysHowManyFitAndWhatBinds) {
  HostReport report;
  report.budget = roomyHost();
  report.budget.memory_total_bytes = 16ull << 30;
  report.capacity = capacityOf(report.budget, {});
  EXPECT_NE(renderTable(report).find("Budget of boxes (27 tasks fit; memory binds)"),
            std::string::npos)
      << renderTable(report);
}
TEST(HostBudget, TerminalsAreThreeQuartersOfWhatTheKernelLeavesAndNeverTheReserve) {
  EXPECT_EQ(boxesPtys(4'096, 1'024, 0), 2'303u);
  EXPECT_EQ(boxesPtys(4'096, 1'024, 767), 2'303u);
  EXPECT_EQ(boxesPtys(4'096, 1'024, 1'000), 2'071u);  // others use more than their quarter
  EXPECT_EQ(boxesPtys(4'096, 1'024, 3'500), 0u);
  EXPECT_EQ(boxesPtys(1'024, 1'024, 0), 0u);
  EXPECT_EQ(boxesPtys(0, 1'024, 0), 0u);
}
TEST(HostBudget, TooSmallAHostFitsNoneInsteadOfWrapping) {
  HostBudget b;
  b.fds_hard = 100, b.pids_max = 100, b.memory_total_bytes = b.memory_available_bytes = 1 << 20;
  countBoxes(b);
  EXPECT_EQ(b.boxes_by_fds, 0u);
  EXPECT_EQ(capacityOf(b, {}).tasks(), 0u);
}

HostReport unfit() {
  HostReport report;
  report.lines = {
      {"Walls", "namespaces", "user pid", HostVerdict::ok, "", ""},
      {"Caps", "memory", "no controller", HostVerdict::missing, "caps", "Boot with cgroup v2."},
      {"Caps", "cpu", "no controller", HostVerdict::missing, "caps", "Boot with cgroup v2."},
      {"Filters", "Landlock", "not in this kernel", HostVerdict::missing, "landlock", ""},
      {"Files", "x", std::string("evil\x1b[2J ") + std::string(300, 'y'), HostVerdict::degraded, "",
       "drawback"}};
  return report;
}
TEST(HostReport, LostPromisesAreNamedOnce) {
  EXPECT_EQ(unfit().lostPromises(), (std::vector<std::string>{"caps", "landlock"}));
}
TEST(HostReport, OnlyANamedPromiseIsGivenUp) {
  EXPECT_EQ(unfit().refusals({}).size(), 3u);
  EXPECT_EQ(unfit().refusals({"landlock"}).size(), 2u);
  EXPECT_EQ(unfit().refusals({"landlock", "caps"}).size(), 0u);
  EXPECT_EQ(unfit().refusals({"secrets"}).size(), 3u);
}
TEST(HostReport, TableFitsTheTerminalAndShowsNoControlBytes) {
  for (size_t width : {60, 80}) {
    std::string table = renderTable(unfit(), width);
    EXPECT_EQ(table.find('\x1b'), std::string::npos);
    EXPECT_NE(table.find("costs the promise 'caps': Boot with cgroup v2."), std::string::npos);
    EXPECT_NE(table.find("cannot keep: caps, landlock"), std::string::npos);
    std::istringstream lines(table);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), width) << line;
  }
}
TEST(HostReport, ThisHostIsAskedWholeAndNothingOfTheAskingStays) {
  HostReport report = hostReport();
  for (const char* what :
       {"version", "namespaces", "nested", "cpu", "memory", "processes", "cgroup v2", "seccomp",
        "Landlock", "images (erofs)", "core dumps", "swap"}) {
    auto found = std::find_if(report.lines.begin(), report.lines.end(),
                              [&](const HostLine& l) { return l.what == what; });
    ASSERT_NE(found, report.lines.end()) << what;
    EXPECT_FALSE(found->value.empty()) << what;
  }
  for (const HostLine& line : report.lines) {
    EXPECT_EQ(line.verdict == HostVerdict::missing, !line.costs.empty()) << line.what;
    EXPECT_EQ(line.verdict != HostVerdict::ok, !line.note.empty()) << line.what;
  }
  EXPECT_GT(report.budget.memory_total_bytes, 0u);
  EXPECT_GT(report.budget.fds_hard, 0u);
  std::string own = "/mayfly-doctor-" + std::to_string(::getpid());
  for (const char* hierarchy :
       {"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"})
    EXPECT_NE(::access((hierarchy + own).c_str(), F_OK), 0);
}

}  // namespace
}  // namespace mayfly::host
