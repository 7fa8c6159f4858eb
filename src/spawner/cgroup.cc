#include "spawner/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace mayfly::spawner {

using base::Fd;
using base::Result;
using base::Status;
using base::Unit;

namespace {

constexpr uint32_t kCpuPeriodUs = 100'000;
constexpr uint64_t kSocketBytesMax = 16u << 20;

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
  // A resource that the host lacks (swap, say) needs no cap.
  auto unlessAbsent = [](Status s) { return !s && s.error().sys == ENOENT ? Status(Unit{}) : s; };
  if (isV2(Of::memory)) {
    MAYFLY_CHECK(write(Of::memory, "memory.max", value));
    MAYFLY_CHECK(unlessAbsent(write(Of::memory, "memory.swap.max", "0")));
    return write(Of::memory, "memory.oom.group", "1");
  }
  // The kernel keeps the sum with swap at or above the memory limit: to lower both, set the limit
  // first; to raise both, the sum.
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
  // v1 counts the buffers of TCP and UDP apart: they come on top of the memory cap.
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
  // In reverse order: the v2 folder goes last, because it tells whether processes are left.
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

Status BoxCgroups::liftCpu() {
  return capped().setCpu(1'000 *
                         static_cast<uint32_t>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN))));
}

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
  // The kernel scales both values to the total, so one of them may go back a little.
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

uint64_t BoxCgroups::memoryBytes() const {
  using Of = CgroupSet::Of;
  return numberIn(capped().read(
      Of::memory, capped().isV2(Of::memory) ? "memory.current" : "memory.usage_in_bytes"));
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
  // v1 counts refused forks but gives no event for them; mayflyd's samples show them.
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
