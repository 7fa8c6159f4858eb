#include "app/own_process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <string.h>

namespace mayfly::app {

namespace {

constexpr size_t kListBytes = 16 << 10;
constexpr size_t kEntryLengthAt = 16;  // of struct linux_dirent64: d_reclen

void readClock(clockid_t clock, double* seconds) {
  timespec t{};
  if (::clock_gettime(clock, &t) == 0)
    *seconds = static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

}  // namespace

base::Result<OwnProcess> OwnProcess::open(int spawner) {
  OwnProcess own;
  if (const int failed = ::clock_getcpuclockid(spawner, &own.spawner_clock_); failed != 0)
    return base::failSys(failed, "clock_getcpuclockid", "the spawner");
  own.statm_ = base::Fd(::open("/proc/self/statm", O_RDONLY | O_CLOEXEC));
  if (!own.statm_) return base::failSys(errno, "open", "/proc/self/statm");
  own.fds_ = base::Fd(::open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!own.fds_) return base::failSys(errno, "open", "/proc/self/fd");
  own.page_bytes_ = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  rlimit most{};
  if (::getrlimit(RLIMIT_NOFILE, &most) == 0) own.fds_max_ = static_cast<uint32_t>(most.rlim_cur);
  return own;
}

// Linux 6.2 and newer say it as the folder's size; older ones list it.
uint32_t OwnProcess::openFds() const {
  struct stat st {};
  if (::fstat(fds_.get(), &st) == 0 && st.st_size > 0) return static_cast<uint32_t>(st.st_size);
  if (::lseek(fds_.get(), 0, SEEK_SET) < 0) return 0;
  uint32_t count = 0;
  alignas(8) char list[kListBytes];
  for (;;) {
    const long n = ::syscall(SYS_getdents64, fds_.get(), list, sizeof list);
    if (n <= 0) break;
    for (long at = 0; at < n; ++count) {
      uint16_t length = 0;
      ::memcpy(&length, list + at + kEntryLengthAt, sizeof length);
      if (length == 0) return count;
      at += length;
    }
  }
  return count > 2 ? count - 2 : 0;  // "." and ".."
}

metrics::Process OwnProcess::read() {
  metrics::Process p;
  readClock(CLOCK_PROCESS_CPUTIME_ID, &p.cpu_s);
  readClock(spawner_clock_, &spawner_cpu_s_);
  p.spawner_cpu_s = spawner_cpu_s_;
  char text[128] = {};
  unsigned long long all = 0, resident = 0;
  if (::pread(statm_.get(), text, sizeof text - 1, 0) > 0 &&
      ::sscanf(text, "%llu %llu", &all, &resident) == 2)
    p.resident_bytes = resident * page_bytes_;
  p.open_fds = openFds();
  p.fds_max = fds_max_;
  return p;
}

}  // namespace mayfly::app
