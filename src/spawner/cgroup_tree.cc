// Finds the hierarchies of the host and makes the instance's subtrees in them.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "spawner/cgroup.h"

namespace mayfly::spawner {

using base::Code;
using base::Fd;
using base::FdView;
using base::Result;
using base::Status;
using base::Unit;

namespace {

constexpr int kSweepMsMax = 2'000;
constexpr char kOwnFolder[] = "spawner";

struct Mount {
  std::string path;
  bool v2 = false;
  std::string options;
};

std::vector<Mount> cgroupMounts(const std::string& mountinfo) {
  std::vector<Mount> mounts;
  std::istringstream lines(mountinfo);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string word, path, root;
    words >> word >> word >> word >> root >> path;
    while (words >> word && word != "-") {
    }
    std::string type, source, options;
    words >> type >> source >> options;
    if (root != "/") continue;  // a bind mount of a subtree is not ours to use
    if (type == "cgroup2") mounts.push_back({path, true, ""});
    if (type == "cgroup") mounts.push_back({path, false, "," + options + ","});
  }
  return mounts;
}

Result<Fd> makeFolder(FdView parent, const std::string& name, bool may_exist) {
  if (::mkdirat(parent.get(), name.c_str(), 0755) != 0 && !(may_exist && errno == EEXIST))
    return base::failSys(errno, "mkdir", name);
  return base::openAt(parent, name, O_RDONLY | O_DIRECTORY);
}

bool hasWord(const std::string& text, std::string_view word) {
  std::istringstream words(text);
  for (std::string w; words >> w;)
    if (w == word) return true;
  return false;
}

void killMembers(FdView dir) {
  auto procs = base::readSmallFile(dir, "cgroup.procs", 1u << 20);
  if (!procs) return;
  std::istringstream lines(*procs);
  for (pid_t pid; lines >> pid;)
    if (pid > 1) ::kill(pid, SIGKILL);
}

// Kills and removes everything below `parent`/`name`, then the folder itself. The depth is bounded
// by our structure: instance, template, box, leaf.
bool sweep(FdView parent, const std::string& name, int depth_left) {
  auto dir = base::openAt(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!dir) return dir.error().sys == ENOENT;
  killMembers(dir->view());
  if (depth_left > 0)
    if (DIR* list = ::fdopendir(::dup(dir->get()))) {
      ::rewinddir(list);
      while (const dirent* entry = ::readdir(list))
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
          sweep(dir->view(), entry->d_name, depth_left - 1);
      ::closedir(list);
    }
  return ::unlinkat(parent.get(), name.c_str(), AT_REMOVEDIR) == 0;
}

Status sweepUntilGone(FdView parent, const std::string& name) {
  for (int ms = 0; ms < kSweepMsMax; ms += 5) {
    if (sweep(parent, name, 3)) return Unit{};
    timespec pause{0, 5'000'000};
    ::nanosleep(&pause, nullptr);
  }
  return base::fail(
      Code::failedPrecondition,
      fmt::format("the cgroup '{}' that an earlier daemon left can't be removed", name),
      "see which of its processes do not die (state D)");
}

}  // namespace

Result<CgroupTree> CgroupTree::open(const std::string& instance) {
  MAYFLY_TRY(std::string mountinfo, base::readSmallFile({}, "/proc/self/mountinfo", 1u << 20));
  return openIn(mountinfo, instance);
}

Result<CgroupTree> CgroupTree::openIn(const std::string& mountinfo, const std::string& instance) {
  CgroupTree tree;
  tree.instance_ = instance;
  auto mounts = cgroupMounts(mountinfo);
  auto v2 = std::find_if(mounts.begin(), mounts.end(), [](const Mount& m) { return m.v2; });
  if (v2 == mounts.end())
    return base::fail(Code::hostUnfit, "no cgroup v2 hierarchy is mounted",
                      "mount one: mount -t cgroup2 none /sys/fs/cgroup/unified");
  bool have_cpu = false, have_memory = false, have_pids = false;
  auto add = [&](const Mount& mount, bool cpu, bool memory, bool pids) -> Status {
    MAYFLY_TRY(Fd root, base::openAt({}, mount.path, O_RDONLY | O_DIRECTORY));
    Fd top, dir;
    for (int attempt = 1; !dir; ++attempt) {
      MAYFLY_TRY(top, makeFolder(root.view(), "mayfly", true));
      MAYFLY_CHECK(sweepUntilGone(top.view(), instance));
      auto made = makeFolder(top.view(), instance, false);
      // Another instance that has just ended may have removed the top folder.
      if (!made && (made.error().sys != ENOENT || attempt == 10))
        return base::fail(std::move(made).error());
      if (made) dir = std::move(*made);
    }
    if (mount.v2 && (cpu || memory || pids)) {
      std::string names =
          fmt::format("{}{}{}", cpu ? "+cpu " : "", memory ? "+memory " : "", pids ? "+pids" : "");
      for (FdView level : {root.view(), top.view(), dir.view()})
        if (auto s = base::writeSmallFile(level, "cgroup.subtree_control", names); !s)
          return base::fail(
              std::move(s).error().in("cannot delegate " + names + " below " + mount.path));
    }
    tree.all_.push_back({std::move(root), std::move(top), std::move(dir),
                         mount.path + "/mayfly/" + instance, mount.v2, cpu, memory, pids});
    return Unit{};
  };
  auto controllers = base::readSmallFile({}, v2->path + "/cgroup.controllers");
  if (controllers) {
    have_cpu = hasWord(*controllers, "cpu");
    have_memory = hasWord(*controllers, "memory");
    have_pids = hasWord(*controllers, "pids");
  }
  MAYFLY_CHECK(add(*v2, have_cpu, have_memory, have_pids));
  for (const Mount& mount : mounts) {
    if (mount.v2) continue;
    auto offers = [&](const char* name) { return mount.options.find(name) != std::string::npos; };
    bool cpu = !have_cpu && offers(",cpu,"), memory = !have_memory && offers(",memory,"),
         pids = !have_pids && offers(",pids,");
    if (!cpu && !memory && !pids) continue;
    have_cpu |= cpu, have_memory |= memory, have_pids |= pids;
    MAYFLY_CHECK(add(mount, cpu, memory, pids));
  }
  if (!have_cpu || !have_memory || !have_pids)
    return base::fail(
        Code::hostUnfit,
        fmt::format("the host has no cgroup controller for{}{}{}", have_cpu ? "" : " cpu",
                    have_memory ? "" : " memory", have_pids ? "" : " pids"),
        "mount the v1 hierarchies or boot with cgroup v2");
  return tree;
}

std::string CgroupTree::describe() const {
  std::string text;
  for (const Hierarchy& h : all_)
    text += fmt::format("{}{}:{}{}{}{}", text.empty() ? "" : "; ", h.v2 ? "v2" : "v1",
                        h.v2 ? " kill" : "", h.cpu ? " cpu" : "", h.memory ? " memory" : "",
                        h.pids ? " pids" : "");
  return text;
}

Result<Fd> CgroupTree::enter() {
  MAYFLY_TRY(Fd own, makeFolder(v2().dir.view(), kOwnFolder, false));
  MAYFLY_CHECK(base::writeSmallFile(own.view(), "cgroup.procs", "0"));
  entered_ = true;
  return base::openAt(v2().dir.view(), "cgroup.kill", O_WRONLY);
}

void CgroupTree::remove() {
  if (entered_) {
    (void)base::writeSmallFile(v2().mount.view(), "cgroup.procs", "0");
    ::unlinkat(v2().dir.get(), kOwnFolder, AT_REMOVEDIR);
  }
  for (Hierarchy& h : all_) {
    h.dir.reset();
    ::unlinkat(h.top.get(), instance_.c_str(), AT_REMOVEDIR);
    h.top.reset();
    ::unlinkat(h.mount.get(), "mayfly", AT_REMOVEDIR);  // stays while another instance lives
  }
}

}  // namespace mayfly::spawner
