#include "spawner/lock_watch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "spawner/child.h"
#include "spawner/helper.h"

namespace mayfly::spawner {

using base::BoxId;
using base::Fd;

namespace {

constexpr uint64_t kPeriodMs = 100;
constexpr uint64_t kOneAWord = 8;  // bytes that the child writes for each box

uint64_t kernelBytes() {
  auto text = base::readSmallFile({}, "/proc/meminfo");
  size_t at = text ? text->find("SUnreclaim:") : std::string::npos;
  return at == std::string::npos ? 0 : ::strtoull(text->c_str() + at + 11, nullptr, 10) << 10;
}

// Runs in the child.
int lookAtAll(const std::string& instance) {
  Fd file(::open("/proc/locks", O_RDONLY | O_CLOEXEC));
  std::string text(kLocksTextBytesMax, '\0');
  size_t size = 0;
  for (ssize_t n;
       size < text.size() && (n = ::read(file.get(), text.data() + size, text.size() - size)) > 0;)
    size += static_cast<size_t>(n);
  const bool cut = size == text.size();
  text.resize(size);
  std::unordered_map<BoxId, uint32_t> by_box;
  for (auto [pid, locks] : locksByPid(text))
    if (auto cgroup = base::readSmallFile({}, fmt::format("/proc/{}/cgroup", pid)))
      if (BoxId box = boxOf(*cgroup, instance); box != 0) by_box[box] += locks;
  for (BoxId box : tooMany(by_box, cut))
    if (::write(kHelperFd, &box, kOneAWord) != kOneAWord) return 1;
  return 0;
}

}  // namespace

// A line is "1: POSIX ADVISORY WRITE 2345 00:2d:17 0 EOF"; "->" after the number marks a waiting
// lock.
std::unordered_map<uint32_t, uint32_t> locksByPid(const std::string& text) {
  std::unordered_map<uint32_t, uint32_t> by_pid;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    long pid = 0;
    if (::sscanf(line.c_str(), "%*s POSIX %*s %*s %ld", &pid) == 1 && pid > 0)
      ++by_pid[static_cast<uint32_t>(pid)];
  }
  return by_pid;
}

BoxId boxOf(const std::string& cgroup, const std::string& instance) {
  const std::string words = "/mayfly/" + instance + "/t";
  size_t at = cgroup.find(words);
  at = at == std::string::npos ? at : cgroup.find("/b", at + words.size());
  return at == std::string::npos ? 0 : ::strtoull(cgroup.c_str() + at + 2, nullptr, 10);
}

std::vector<BoxId> tooMany(const std::unordered_map<BoxId, uint32_t>& by_box, bool cut) {
  std::vector<BoxId> boxes;
  auto largest = by_box.end();
  for (auto it = by_box.begin(); it != by_box.end(); ++it) {
    if (it->second > kLocksMax) boxes.push_back(it->first);
    if (largest == by_box.end() || it->second > largest->second) largest = it;
  }
  if (boxes.empty() && cut && largest != by_box.end() && largest->second > kLocksOfTheLargestMin)
    boxes.push_back(largest->first);
  return boxes;
}

void LockWatch::runTimer(bool tasks_run) {
  const uint64_t now = base::monotonicNs();
  if (!tasks_run || now < next_ns_) return;
  next_ns_ = now + kPeriodMs * kMsNs;
  if (child_) return;
  const uint64_t bytes = kernelBytes();
  least_bytes_ = std::min(least_bytes_, bytes);
  if (bytes < least_bytes_ + kGrownBytes) return;
  least_bytes_ = bytes;
  look();
}

// After a failure, the next look comes once the memory has grown further.
void LockWatch::look() {
  auto said = base::makePipe();
  if (!said || !base::setNonblocking(said->read.view())) return;
  auto child = startHelper("the look at locks", {said->write.view()},
                           [this] { return lookAtAll(instance_); });
  if (!child) return;
  if (!poller_.watch(child->view(), EPOLLIN, Source::lockWatch, 0)) return signalKill(*child);
  child_ = std::move(*child);
  said_ = std::move(said->read);
}

void LockWatch::onEvent() {
  if (!child_ || reap(child_, poller_).code == 0) return;
  BoxId box = 0;
  while (::read(said_.get(), &box, kOneAWord) == kOneAWord) told_(box);
  said_.reset();
}

}  // namespace mayfly::spawner
