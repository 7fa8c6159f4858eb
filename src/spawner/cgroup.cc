#include "spawner/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

namespace mayfly::spawner {

using base::Code;
using base::Fd;
using base::FdView;
using base::Result;
using base::Status;
using base::Unit;

namespace {

constexpr int kSweepMsMax = 2'000;
constexpr uint32_t kCpuPeriodUs = 100'000;
constexpr uint64_t kSocketBytesMax = 16u << 20;

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
    if (root != "/") continue;  // a bind of somebody's subtree is not ours to use
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

// Kills and removes what is below `parent`/`name`, then that. Depth is bounded by
// how we build: instance, template, box, leaf.
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

// The number behind `key` in "key value" lines.
uint64_t valueOf(const std::string& lines, std::string_view key) {
  size_t at = 0;
  while (at < lines.size()) {
    size_t end = std::min(lines.find('\n', at), lines.size());
    if (lines.compare(at, key.size(), key) == 0 && at + key.size() < end &&
        lines[at + key.size()] == ' ')
      return ::strtoull(lines.c_str() + at + key.size() + 1, nullptr, 10);
    at = end + 1;
  }
  return 0;
}

uint64_t numberIn(const Result<std::string>& text) {
  return text ? ::strtoull(text->c_str(), nullptr, 10) : 0;
}

}  // namespace

Result<CgroupTree> CgroupTree::open(const std::string& instance) {
  MAYFLY_TRY(std::string mountinfo, base::readSmallFile({}, "/proc/self/mountinfo", 1u << 20));
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
      // Another instance that ended just now may have removed the top folder.
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

void CgroupTree::remove() {
  for (Hierarchy& h : all_) {
    h.dir.reset();
    ::unlinkat(h.top.get(), instance_.c_str(), AT_REMOVEDIR);
    h.top.reset();
    ::unlinkat(h.mount.get(), "mayfly", AT_REMOVEDIR);  // stays while another instance lives
  }
}

Result<CgroupSet> CgroupSet::createV2(const CgroupTree& tree, const std::string& name) {
  CgroupSet set;
  set.tree_ = &tree;
  set.name_ = name;
  MAYFLY_CHECK(set.add(tree.v2()));
  return set;
}

Status CgroupSet::add(const Hierarchy& h) {
  if (::mkdirat(h.dir.get(), name_.c_str(), 0755) != 0)
    return base::failSys(errno, "mkdir", h.path + "/" + name_);
  ++made_;
  return Unit{};
}

Status CgroupSet::addV1() {
  const auto& all = tree_->hierarchies();
  while (made_ < all.size()) MAYFLY_CHECK(add(all[made_]));
  return Unit{};
}

Result<CgroupSet> CgroupSet::create(const CgroupTree& tree, const std::string& name) {
  MAYFLY_TRY(CgroupSet set, createV2(tree, name));
  if (auto s = set.addV1(); !s) {
    (void)set.remove();
    return base::fail(std::move(s).error());
  }
  return set;
}

const Hierarchy& CgroupSet::find(Of which) const {
  for (const Hierarchy& h : tree_->hierarchies())
    if ((which == Of::v2 && h.v2) || (which == Of::cpu && h.cpu) ||
        (which == Of::memory && h.memory) || (which == Of::pids && h.pids))
      return h;
  return tree_->v2();  // not reached: the tree has every controller
}

Result<std::string> CgroupSet::read(Of which, const char* file) const {
  if (removed()) return base::failSys(ENOENT, "read", file);
  return base::readSmallFile(find(which).dir.view(), name_ + "/" + file);
}

uint64_t CgroupSet::oomKills() const {
  auto events = read(Of::memory, isV2(Of::memory) ? "memory.events" : "memory.oom_control");
  return events ? valueOf(*events, "oom_kill") : 0;
}

Status CgroupSet::write(Of which, const char* file, std::string_view text) {
  if (removed()) return base::failSys(ENOENT, "write", file);
  return base::writeSmallFile(find(which).dir.view(), name_ + "/" + file, text);
}

Result<Fd> CgroupSet::open(Of which, const char* file, int flags) const {
  if (removed()) return base::failSys(ENOENT, "open", file);
  return base::openAt(find(which).dir.view(), name_ + "/" + file, flags);
}

Result<Fd> CgroupSet::openV2() const {
  return base::openAt(tree_->v2().dir.view(), name_, O_RDONLY | O_DIRECTORY);
}

Status CgroupSet::delegate(uint32_t uid) {
  if (::fchownat(tree_->v2().dir.get(), (name_ + "/cgroup.procs").c_str(), uid, uid, 0) != 0)
    return base::failSys(errno, "chown cgroup.procs of", name_);
  return Unit{};
}

Status CgroupSet::enableChildren() {
  const Hierarchy& h = tree_->v2();
  if (!h.cpu && !h.memory && !h.pids) return Unit{};
  return write(Of::v2, "cgroup.subtree_control",
               fmt::format("{}{}{}", h.cpu ? "+cpu " : "", h.memory ? "+memory " : "",
                           h.pids ? "+pids" : ""));
}

Status CgroupSet::setMemory(uint64_t bytes) {
  std::string value = std::to_string(bytes);
  // What the host does not have (swap, say) needs no cap.
  auto unlessAbsent = [](Status s) { return !s && s.error().sys == ENOENT ? Status(Unit{}) : s; };
  if (isV2(Of::memory)) {
    MAYFLY_CHECK(write(Of::memory, "memory.max", value));
    MAYFLY_CHECK(unlessAbsent(write(Of::memory, "memory.swap.max", "0")));
    return write(Of::memory, "memory.oom.group", "1");
  }
  // The sum with swap is never below the limit: a lower one is set in this order, a higher one in
  // the other.
  auto limit = [&] { return write(Of::memory, "memory.limit_in_bytes", value); };
  auto with_swap = [&] {
    return unlessAbsent(write(Of::memory, "memory.memsw.limit_in_bytes", value));
  };
  if (limit()) {
    MAYFLY_CHECK(with_swap());
  } else {
    MAYFLY_CHECK(with_swap());
    MAYFLY_CHECK(limit());
  }
  // v1 counts the buffers of TCP and UDP apart: what is granted here comes on top of the cap.
  return unlessAbsent(write(Of::memory, "memory.kmem.tcp.limit_in_bytes",
                            std::to_string(std::min(bytes / 4, kSocketBytesMax))));
}

Status CgroupSet::setProcesses(uint32_t count) {
  return write(Of::pids, "pids.max", std::to_string(count));
}

Status CgroupSet::setCpu(uint32_t milli) {
  uint64_t quota_us = std::max<uint64_t>(1'000, uint64_t{milli} * kCpuPeriodUs / 1'000);
  if (isV2(Of::cpu)) return write(Of::cpu, "cpu.max", fmt::format("{} {}", quota_us, kCpuPeriodUs));
  return write(Of::cpu, "cpu.cfs_quota_us",
               std::to_string(quota_us));  // the period is 100 ms by default
}

Result<std::vector<Fd>> CgroupSet::openTasks() const {
  std::vector<Fd> fds;
  for (const Hierarchy& h : tree_->hierarchies()) {
    if (h.v2) continue;
    MAYFLY_TRY(Fd fd, base::openAt(h.dir.view(), name_ + "/tasks", O_WRONLY));
    fds.push_back(std::move(fd));
  }
  return fds;
}

Status CgroupSet::remove() {
  // Backwards: the v2 folder goes last, it says whether anybody is left.
  for (; made_ > 0; --made_) {
    const Hierarchy& h = tree_->hierarchies()[made_ - 1];
    if (::unlinkat(h.dir.get(), name_.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT)
      return base::failSys(errno, "rmdir", h.path + "/" + name_);
  }
  return Unit{};
}

Result<BoxCgroups> BoxCgroups::create(const CgroupTree& tree, const std::string& name,
                                      uint32_t template_uid) {
  BoxCgroups box;
  const Hierarchy& v2 = tree.v2();
  box.split_ = v2.cpu || v2.memory || v2.pids;
  auto build = [&]() -> Status {
    MAYFLY_TRY(box.box_, CgroupSet::createV2(tree, name));
    if (!box.split_) return box.box_.delegate(template_uid);
    MAYFLY_CHECK(box.box_.enableChildren());
    MAYFLY_TRY(box.init_, CgroupSet::createV2(tree, name + "/init"));
    MAYFLY_TRY(box.task_, CgroupSet::createV2(tree, name + "/task"));
    MAYFLY_CHECK(box.init_.delegate(template_uid));
    return box.task_.delegate(template_uid);
  };
  if (auto s = build(); !s) {
    (void)box.remove();
    return base::fail(std::move(s).error());
  }
  return box;
}

Status BoxCgroups::setCaps(const base::Limits& limits) {
  MAYFLY_CHECK(box_.addV1());
  if (split_) {
    MAYFLY_CHECK(init_.addV1());
    MAYFLY_CHECK(task_.addV1());
  }
  MAYFLY_CHECK(capped().setMemory(limits.memory_bytes));
  MAYFLY_CHECK(capped().setProcesses(limits.processes));
  return capped().setCpu(limits.cpu_milli);
}

Status BoxCgroups::changeCaps(const base::Limits& from, const base::Limits& to) {
  if (from.memory_bytes != to.memory_bytes) MAYFLY_CHECK(capped().setMemory(to.memory_bytes));
  if (from.processes != to.processes) MAYFLY_CHECK(capped().setProcesses(to.processes));
  return from.cpu_milli != to.cpu_milli ? capped().setCpu(to.cpu_milli) : Status(Unit{});
}

void BoxCgroups::restartPeak() {
  using Of = CgroupSet::Of;
  if (!capped().isV2(Of::memory)) {
    (void)capped().write(Of::memory, "memory.max_usage_in_bytes", "0");
  } else if (auto peak = capped().open(Of::memory, "memory.peak", O_RDWR)) {
    if (::write(peak->get(), "reset", 5) == 5) peak_ = std::move(*peak);
  }
}

void BoxCgroups::restartCpu() {
  before_ = base_;
  readCpu(&base_.user_ns, &base_.system_ns);
}

void BoxCgroups::undoRestartCpu() { base_ = before_; }

void BoxCgroups::restartCpuBefore(uint64_t used_ns_max) {
  Cpu now;
  readCpu(&now.user_ns, &now.system_ns);
  const uint64_t of_user_ns = std::min(now.user_ns, used_ns_max);
  now.user_ns -= of_user_ns;
  now.system_ns -= std::min(now.system_ns, used_ns_max - of_user_ns);
  base_ = {std::max(base_.user_ns, now.user_ns), std::max(base_.system_ns, now.system_ns)};
}

Status BoxCgroups::kill() { return box_.write(CgroupSet::Of::v2, "cgroup.kill", "1"); }

Result<bool> BoxCgroups::populated() const {
  MAYFLY_TRY(std::string text, box_.read(CgroupSet::Of::v2, "cgroup.events"));
  return text.find("populated 1") != std::string::npos;
}

void BoxCgroups::readCpu(uint64_t* user_ns, uint64_t* system_ns) const {
  auto cpu = box_.read(CgroupSet::Of::v2, "cpu.stat");
  if (!cpu) return;
  *user_ns = valueOf(*cpu, "user_usec") * 1'000;
  *system_ns = valueOf(*cpu, "system_usec") * 1'000;
}

void BoxCgroups::read(wire::Counters* c) const {
  using Of = CgroupSet::Of;
  readCpu(&c->user_cpu_ns, &c->system_cpu_ns);
  // The kernel scales both to the total: one of them may go back a little.
  c->user_cpu_ns -= std::min(c->user_cpu_ns, base_.user_ns);
  c->system_cpu_ns -= std::min(c->system_cpu_ns, base_.system_ns);
  bool v2 = capped().isV2(Of::memory);
  if (char text[32]; peak_) {
    ssize_t n = ::pread(peak_.get(), text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    c->memory_peak_bytes = ::strtoull(text, nullptr, 10);
  } else {
    c->memory_peak_bytes =
        numberIn(capped().read(Of::memory, v2 ? "memory.peak" : "memory.max_usage_in_bytes"));
  }
  c->oom_kills = capped().oomKills();
  if (auto events = capped().read(Of::pids, "pids.events"))
    c->forks_refused = valueOf(*events, "max");
  c->processes_peak = static_cast<uint32_t>(numberIn(capped().read(Of::pids, "pids.peak")));
}

Result<Fd> BoxCgroups::watchMemory() const {
  using Of = CgroupSet::Of;
  if (capped().isV2(Of::memory)) return capped().open(Of::memory, "memory.events", O_RDONLY);
  Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event) return base::failSys(errno, "eventfd", "memory cap");
  MAYFLY_TRY(Fd control, capped().open(Of::memory, "memory.oom_control", O_RDONLY));
  MAYFLY_TRY(Fd registry, capped().open(Of::memory, "cgroup.event_control", O_WRONLY));
  std::string words = fmt::format("{} {}", event.get(), control.get());
  if (::write(registry.get(), words.data(), words.size()) < 0)
    return base::failSys(errno, "write", "cgroup.event_control");
  return event;
}

Result<Fd> BoxCgroups::watchProcesses() const {
  // v1 counts refused forks but gives no event for them: mayflyd's samples see it.
  if (!capped().isV2(CgroupSet::Of::pids)) return Fd();
  return capped().open(CgroupSet::Of::pids, "pids.events", O_RDONLY);
}

Status BoxCgroups::remove() {
  peak_.reset();
  if (split_) {
    MAYFLY_CHECK(task_.remove());
    MAYFLY_CHECK(init_.remove());
  }
  return box_.remove();
}

}  // namespace mayfly::spawner
