// The cgroups of boxes on a made-up tree in a temporary folder: the files that are read and written
// on hosts with v2, with v1 and with both. No root needed.
//
// Our own mkdirat() and unlinkat(), which override libc's, play the kernel's part: a folder made
// below the tree gets its files at once, and can be removed with them.
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "spawner/cgroup.h"

namespace {

namespace fs = std::filesystem;

const std::map<std::string, std::vector<std::string>>& filesOf() {
  static const std::map<std::string, std::vector<std::string>> files = {
      {"v2",
       {"cgroup.procs", "cgroup.kill", "cgroup.events", "cgroup.subtree_control", "cpu.stat",
        "cpu.max", "memory.max", "memory.peak", "memory.oom.group", "memory.events", "pids.max",
        "pids.peak", "pids.events"}},
      {"cpu", {"cgroup.procs", "tasks", "cpu.cfs_quota_us"}},
      {"memory",
       {"cgroup.procs", "tasks", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes",
        "memory.max_usage_in_bytes", "memory.oom_control", "cgroup.event_control"}},
      {"pids", {"cgroup.procs", "tasks", "pids.max", "pids.events"}}};
  return files;
}

std::string tree_root;  // <tree_root>/<hierarchy>/...; empty: there is no tree

// The hierarchy that contains `fd`; empty if none of ours does.
std::string hierarchyOf(int fd) {
  char path[4'096];
  const ssize_t n = ::readlink(fmt::format("/proc/self/fd/{}", fd).c_str(), path, sizeof path - 1);
  if (tree_root.empty() || n <= 0) return {};
  const std::string at(path, static_cast<size_t>(n));
  if (at.rfind(tree_root + "/", 0) != 0) return {};
  const std::string below = at.substr(tree_root.size() + 1);
  return below.substr(0, below.find('/'));
}

void populate(const fs::path& folder, const std::string& hierarchy) {
  for (const std::string& file : filesOf().at(hierarchy)) std::ofstream(folder / file);
}

}  // namespace

extern "C" int mkdirat(int parent, const char* name, mode_t mode) noexcept {
  const int made = static_cast<int>(::syscall(SYS_mkdirat, parent, name, mode));
  const std::string hierarchy = made == 0 ? hierarchyOf(parent) : std::string();
  if (!hierarchy.empty())
    populate(fs::path(fmt::format("/proc/self/fd/{}", parent)) / name, hierarchy);
  return made;
}

extern "C" int unlinkat(int parent, const char* name, int flags) noexcept {
  if (flags == AT_REMOVEDIR && !hierarchyOf(parent).empty()) {
    const fs::path folder = fs::path(fmt::format("/proc/self/fd/{}", parent)) / name;
    std::error_code none;
    bool busy = false;
    for (const auto& entry : fs::directory_iterator(folder, none)) busy |= entry.is_directory();
    if (!busy)
      for (const auto& entry : fs::directory_iterator(folder, none)) ::unlink(entry.path().c_str());
  }
  return static_cast<int>(::syscall(SYS_unlinkat, parent, name, flags));
}

namespace mayfly::spawner {
namespace {

struct Layout {
  const char* name;
  const char* controllers;      // of v2
  std::vector<std::string> v1;  // each a hierarchy
  const char* said;             // by describe()
};
const std::vector<Layout> kLayouts = {
    {"v2", "cpuset cpu io memory pids", {}, "v2: kill cpu memory pids"},
    {"v1", "", {"cpu", "memory", "pids"}, "v2: kill; v1: cpu; v1: memory; v1: pids"},
    {"hybrid", "memory", {"cpu", "pids"}, "v2: kill memory; v1: cpu; v1: pids"},
};

class Cgroups : public ::testing::TestWithParam<Layout> {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/mayfly-cgroup-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    top_ = folder;
    tree_root = top_;
    raise(GetParam());
  }
  void TearDown() override {
    tree_root.clear();
    fs::remove_all(top_);
  }

  void raise(const Layout& layout) {
    mountinfo_ = "22 1 0:21 / /proc rw - proc proc rw\n";
    auto mount = [&](const std::string& hierarchy, const std::string& type,
                     const std::string& options) {
      fs::create_directories(top_ / hierarchy);
      populate(top_ / hierarchy, hierarchy);
      mountinfo_ += fmt::format("30 23 0:26 / {} rw,nosuid shared:9 - {} none rw,{}\n",
                                (top_ / hierarchy).string(), type, options);
    };
    for (const std::string& h : layout.v1) mount(h, "cgroup", h == "cpu" ? "cpu,cpuacct" : h);
    mount("v2", "cgroup2", "nsdelegate");
    std::ofstream(top_ / "v2/cgroup.controllers") << layout.controllers << "\n";
  }

  bool isV2(const char* controller) const {
    return std::string(GetParam().controllers).find(controller) != std::string::npos;
  }
  std::string read(const fs::path& below) const {
    std::ifstream in(top_ / below);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  // A file of box 7 of zygote 1, by its controller.
  fs::path fileOf(const char* controller, const char* v2, const char* v1) const {
    const bool split = GetParam().controllers[0] != 0;
    if (isV2(controller)) return fs::path("v2/mayfly/i/t1/b7") / (split ? "task" : "") / v2;
    return fs::path(controller) / "mayfly/i/t1/b7" / (split ? "task" : "") / v1;
  }

  base::Result<CgroupTree> open() { return CgroupTree::openIn(mountinfo_, "i"); }

  fs::path top_;
  std::string mountinfo_;
};

TEST_P(Cgroups, EveryControllerIsFoundOnceAndDelegatedDownwards) {
  auto tree = open();
  ASSERT_TRUE(tree) << tree.error().message;
  EXPECT_EQ(tree->describe(), GetParam().said);
  EXPECT_TRUE(tree->v2().v2);
  for (const char* level : {"v2", "v2/mayfly", "v2/mayfly/i"}) {
    const std::string given = read(fs::path(level) / "cgroup.subtree_control");
    for (const char* c : {"cpu", "memory", "pids"})
      EXPECT_EQ(given.find(std::string("+") + c) != std::string::npos, isV2(c)) << level;
  }
  tree->remove();
  for (const auto& [h, files] : filesOf()) EXPECT_FALSE(fs::exists(top_ / h / "mayfly")) << h;
}

TEST_P(Cgroups, ABoxHasItsCapsInFilesOfTheRightHierarchyAndLeavesNoFolder) {
  auto tree = open();
  ASSERT_TRUE(tree);
  auto zygote = CgroupSet::create(*tree, "t1");
  ASSERT_TRUE(zygote) << zygote.error().message;
  ASSERT_TRUE(zygote->enableChildren());
  auto box = BoxCgroups::create(*tree, "t1/b7", ::geteuid());
  ASSERT_TRUE(box) << box.error().message;
  base::Limits limits;
  limits.memory_bytes = 123'456'512;
  limits.processes = 77;
  limits.cpu_milli = 1'500;
  ASSERT_TRUE(box->setCaps(limits));
  EXPECT_EQ(read(fileOf("memory", "memory.max", "memory.limit_in_bytes")), "123456512");
  EXPECT_EQ(read(fileOf("pids", "pids.max", "pids.max")), "77");
  EXPECT_EQ(read(fileOf("cpu", "cpu.max", "cpu.cfs_quota_us")),
            isV2("cpu") ? "150000 100000" : "150000");
  if (!isV2("memory")) {
    EXPECT_EQ(read(fileOf("memory", "", "memory.memsw.limit_in_bytes")), "123456512");
  }

  base::Limits more = limits;
  more.memory_bytes = 223'456'512;
  ASSERT_TRUE(box->changeCaps(limits, more));
  EXPECT_EQ(read(fileOf("memory", "memory.max", "memory.limit_in_bytes")), "223456512");

  // The clone joins one `tasks` file for each v1 hierarchy.
  auto tasks = box->openTasks();
  ASSERT_TRUE(tasks);
  EXPECT_EQ(tasks->size(), GetParam().v1.size());
  EXPECT_TRUE(box->watchMemory());
  EXPECT_EQ(box->memoryWatchIsEventfd(), !isV2("memory"));
  EXPECT_EQ(static_cast<bool>(*box->watchProcesses()), isV2("pids"));

  ASSERT_TRUE(box->kill());
  EXPECT_EQ(read("v2/mayfly/i/t1/b7/cgroup.kill"), "1");
  ASSERT_TRUE(box->remove());
  EXPECT_TRUE(box->removed());
  ASSERT_TRUE(zygote->remove());
  for (const auto& [h, files] : filesOf()) EXPECT_FALSE(fs::exists(top_ / h / "mayfly/i/t1")) << h;
}

TEST_P(Cgroups, WhatTheKernelCountedIsReadFromWhereItStands) {
  auto tree = open();
  ASSERT_TRUE(tree);
  auto zygote = CgroupSet::create(*tree, "t1");
  ASSERT_TRUE(zygote);
  auto box = BoxCgroups::create(*tree, "t1/b7", ::geteuid());
  ASSERT_TRUE(box && box->setCaps({}));
  auto write = [&](const fs::path& below, const char* text) {
    std::ofstream(top_ / below) << text;
  };
  write("v2/mayfly/i/t1/b7/cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\n");
  write("v2/mayfly/i/t1/b7/cgroup.events", "populated 1\nfrozen 0\n");
  write(fileOf("memory", "memory.peak", "memory.max_usage_in_bytes"), "4096\n");
  // "oom" counts attempts; "oom_kill" counts kills.
  write(fileOf("memory", "memory.events", "memory.oom_control"), "oom 9\noom_kill 2\n");
  write(fileOf("pids", "pids.events", "pids.events"), "max 3\n");
  wire::Counters c;
  box->read(&c);
  EXPECT_EQ(c.user_cpu_ns, 20'000u);
  EXPECT_EQ(c.system_cpu_ns, 10'000u);
  EXPECT_EQ(c.memory_peak_bytes, 4'096u);
  EXPECT_EQ(c.oom_kills, 2u);
  EXPECT_EQ(c.forks_refused, 3u);
  EXPECT_TRUE(*box->populated());
  write("v2/mayfly/i/t1/b7/cgroup.events", "populated 0\nfrozen 0\n");
  EXPECT_FALSE(*box->populated());
  box->restartCpu();
  write("v2/mayfly/i/t1/b7/cpu.stat", "usage_usec 50\nuser_usec 35\nsystem_usec 9\n");
  box->read(&c);
  EXPECT_EQ(c.user_cpu_ns, 15'000u);
  EXPECT_EQ(c.system_cpu_ns, 0u) << "one that goes back a little is no overflow";
}

TEST_P(Cgroups, NoFolderIsAdoptedAndAFailedBoxTakesBackWhatItMade) {
  auto tree = open();
  ASSERT_TRUE(tree);
  auto zygote = CgroupSet::create(*tree, "t1");
  ASSERT_TRUE(zygote);
  EXPECT_FALSE(CgroupSet::create(*tree, "t1"));
  ASSERT_TRUE(BoxCgroups::create(*tree, "t1/b7", ::geteuid()));
  auto twice = BoxCgroups::create(*tree, "t1/b7", ::geteuid());
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().sys, EEXIST);
  EXPECT_TRUE(fs::exists(top_ / "v2/mayfly/i/t1/b7"));
}

TEST_P(Cgroups, WhatADeadDaemonLeftIsKilledAndRemovedAtTheNextStart) {
  {
    auto dead = open();
    ASSERT_TRUE(dead);
    auto zygote = CgroupSet::create(*dead, "t1");
    ASSERT_TRUE(zygote);
    auto box = BoxCgroups::create(*dead, "t1/b7", ::geteuid());
    ASSERT_TRUE(box && box->setCaps({}));
  }
  const pid_t left = ::fork();
  if (left == 0)
    for (;;) ::pause();
  std::ofstream(top_ / "v2/mayfly/i/t1/b7/cgroup.procs") << left << "\n";
  auto tree = open();
  ASSERT_TRUE(tree) << tree.error().message;
  for (const auto& [h, files] : filesOf()) EXPECT_FALSE(fs::exists(top_ / h / "mayfly/i/t1")) << h;
  int status = 0;
  ASSERT_EQ(::waitpid(left, &status, 0), left);
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
}

INSTANTIATE_TEST_SUITE_P(Layouts, Cgroups, ::testing::ValuesIn(kLayouts),
                         [](const auto& param) { return param.param.name; });

TEST(CgroupTree, AHostWithoutV2OrWithoutAControllerIsUnfit) {
  auto none = CgroupTree::openIn("30 23 0:26 / /nowhere rw - cgroup none rw,memory\n", "i");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, base::Code::hostUnfit);
  // A bind mount of a subtree is not a hierarchy of ours.
  auto bind = CgroupTree::openIn("30 23 0:26 /sub /nowhere rw - cgroup2 none rw\n", "i");
  ASSERT_FALSE(bind);
  EXPECT_EQ(bind.error().code, base::Code::hostUnfit);
}

class Unfit : public Cgroups {};
TEST_P(Unfit, AMissingControllerIsNamed) {
  auto tree = open();
  ASSERT_FALSE(tree);
  EXPECT_EQ(tree.error().code, base::Code::hostUnfit);
  EXPECT_NE(tree.error().message.find("pids"), std::string::npos) << tree.error().message;
  EXPECT_EQ(tree.error().message.find("memory"), std::string::npos) << tree.error().message;
}
INSTANTIATE_TEST_SUITE_P(Layouts, Unfit,
                         ::testing::Values(Layout{"WithoutPids", "cpu memory", {}, ""}),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace mayfly::spawner
