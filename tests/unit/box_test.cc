// The seccomp program, loaded for real: each check runs in a forked child under
// no_new_privs and the filter, and reports by its exit status.
#include "box/seccomp.h"

#include <asm/ioctls.h>
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <string>

#include "box/syscalls.h"

namespace mayfly::box {
namespace {

std::vector<sock_filter> read(const base::Fd& file) {
  struct stat st {};
  EXPECT_EQ(::fstat(file.get(), &st), 0);
  std::vector<sock_filter> program(static_cast<size_t>(st.st_size) / sizeof(sock_filter));
  EXPECT_EQ(::pread(file.get(), program.data(), static_cast<size_t>(st.st_size), 0), st.st_size);
  return program;
}

constexpr int kNoLoad = 254;  // exit code of a child that could not load the program

// The raw wait status of a child that loads the program and returns `body()`.
int under(const SeccompSpec& spec, const std::function<int()>& body) {
  auto file = buildSeccomp(spec);
  EXPECT_TRUE(file) << file.error().message;
  auto program = read(*file);
  pid_t pid = ::fork();
  if (pid == 0) {
    rlimit none{0, 0};
    ::setrlimit(RLIMIT_CORE, &none);
    sock_fprog prog{static_cast<unsigned short>(program.size()), program.data()};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) != 0)
      ::_exit(kNoLoad);
    ::_exit(body());
  }
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == kNoLoad)
      << "the kernel refuses the program";
  return status;
}

// The errno of a call in the box, 0 if it succeeds, -signal if it kills.
int answer(const std::function<long()>& call, const SeccompSpec& spec = {}) {
  int status = under(spec, [&] { return call() == -1 ? errno : 0; });
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// A flags word with garbage in its high half: the kernel reads only the low half.
constexpr unsigned long kGarbage = 0xdead'beef'0000'0000;

TEST(Seccomp, EveryCallOfTheNeverListIsRefusedWithEperm) {
  for (std::string_view name : neverCalls()) {
    int number = callNumber(name);
    if (number < 0) continue;  // absent on this architecture: no call to make
    int expected = name == "clone3" ? ENOSYS : EPERM;
    EXPECT_EQ(answer([&] { return ::syscall(number, 0, 0, 0, 0, 0, 0); }), expected) << name;
  }
}

TEST(Seccomp, NeverAndBaseListShareNoCall) {
  for (std::string_view never : neverCalls())
    for (std::string_view base : baseCalls()) EXPECT_NE(never, base);
}

TEST(Seccomp, EveryNameOfTheListsIsKnown) {
  for (std::string_view name : baseCalls()) EXPECT_NE(callNumber(name), -1) << name;
  for (std::string_view name : neverCalls()) EXPECT_NE(callNumber(name), -1) << name;
}

TEST(Seccomp, UnknownAndUnlistedCallsDoNotExist) {
  EXPECT_EQ(answer([] { return ::syscall(1000); }), ENOSYS);
  EXPECT_EQ(answer([] { return ::syscall(SYS_inotify_init1, 0); }), ENOSYS);
  EXPECT_EQ(answer([] { return ::syscall(SYS_mq_open, "/x", O_CREAT, 0600, nullptr); }), ENOSYS);
  EXPECT_EQ(answer([] { return ::syscall(SYS_io_setup, 1, nullptr); }), ENOSYS);
}

TEST(Seccomp, TemplateMayAddACall) {
  SeccompSpec spec{.extra_allow = {"inotify_init1"}};
  EXPECT_EQ(answer([] { return ::syscall(SYS_inotify_init1, 0); }, spec), 0);
}

TEST(Seccomp, TemplateMayNotNameARefusedOrUnknownCall) {
  for (const char* name : {"ptrace", "clone3", "io_uring_setup", "unshare", "no_such_call", ""}) {
    auto built = buildSeccomp({.extra_allow = {name}});
    ASSERT_FALSE(built) << name;
    EXPECT_EQ(built.error().code, base::Code::invalidArgument);
    EXPECT_NE(built.error().message.find(name), std::string::npos);
  }
}

#ifdef __x86_64__
TEST(Seccomp, X32CallsAreKilled) {
  EXPECT_EQ(answer([] { return ::syscall(0x40000000 | SYS_getpid); }), -SIGSYS);
}
TEST(Seccomp, X32FormOfAGuardedCallIsKilled) {
  EXPECT_EQ(answer([] { return ::syscall(0x40000000 | SYS_socket, AF_UNIX, SOCK_STREAM, 0); }),
            -SIGSYS);
}
TEST(Seccomp, I386CallsAreKilledWhateverTheirNumber) {
  // 20 is getpid there; 41 and 359 (dup, socket) collide with numbers that the guards know.
  for (int number : {20, 41, 359, 16, 56}) {
    EXPECT_EQ(answer([&] {
                long result = number;
                asm volatile("int $0x80" : "+a"(result) : "b"(0), "c"(0), "d"(0) : "memory");
                return result;
              }),
              -SIGSYS)
        << number;
  }
}
#endif

TEST(Seccomp, CloneMakesProcessesButNoNamespaces) {
  EXPECT_EQ(answer([] {
              long pid = ::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
              if (pid == 0) ::_exit(0);
              return pid;
            }),
            0);
  for (unsigned long flag : {CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC,
                             CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET}) {
    EXPECT_EQ(answer([&] { return ::syscall(SYS_clone, flag | SIGCHLD, 0, 0, 0, 0); }), EPERM)
        << flag;
    EXPECT_EQ(answer([&] { return ::syscall(SYS_clone, kGarbage | flag | SIGCHLD, 0, 0, 0, 0); }),
              EPERM);
  }
}
TEST(Seccomp, CloneCannotMakeASiblingThatOnlyTheSpawnerCouldReap) {
  EXPECT_EQ(answer([] { return ::syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0); }), EPERM);
}

// The answer to a terminal command: the filter's EPERM, or the kernel's, for which a pipe is no
// terminal.
TEST(Seccomp, OfTheTerminalsCommandsOnlyThoseOfPseudoTerminalsPass) {
  auto met = [](unsigned long request) {
    return answer([&] {
      int fds[2];
      return ::pipe(fds) != 0 ? -1L : ::syscall(SYS_ioctl, fds[0], request, 0);
    });
  };
  for (unsigned long request :
       {0x5400ul | 0x1d /* TIOCCONS */, 0x541eul /* TIOCGSERIAL */, 0x541ful,
        0x542eul /* TIOCGRS485 */, 0x542ful, 0x5437ul /* TIOCVHANGUP */, 0x5453ul,
        0x5457ul /* TIOCSLCKTRMIOS */, 0x545cul /* TIOCMIWAIT */, 0x80285442ul /* TIOCGISO7816 */,
        0xc0285443ul, 0x8004541dul, 0x40045423ul})
    EXPECT_EQ(met(request), EPERM) << std::hex << request;
  for (unsigned long request :
       {TCGETS,   TCSETS,    TCSETSW,   TCSETSF,   TCSBRK,     TCXONC,     TCFLSH,
        TIOCEXCL, TIOCSCTTY, TIOCGPGRP, TIOCSPGRP, TIOCGWINSZ, TIOCSWINSZ, TIOCMGET,
        TIOCPKT,  TIOCNOTTY, TIOCGETD,  TIOCGSID,  0x5409,     0x5425,     0x5427})
    EXPECT_EQ(met(request), ENOTTY) << std::hex << request;
  for (unsigned long request :
       {0x802c542aul /* TCGETS2 */, 0x402c542dul /* TCSETSF2 */, 0x80045430ul /* TIOCGPTN */,
        0x40045431ul /* TIOCSPTLCK */, 0x80045432ul /* TIOCGDEV */, 0x40045436ul /* TIOCSIG */,
        0x80045438ul /* TIOCGPKT */, 0x80045439ul, 0x80045440ul, 0x5441ul /* TIOCGPTPEER */})
    EXPECT_EQ(met(request), ENOTTY) << std::hex << request;
  for (unsigned long request : {0x5450ul /* FIONCLEX */, 0x5451ul})
    EXPECT_EQ(met(request), 0) << std::hex << request;
}

TEST(Seccomp, TerminalInjectionIsRefusedWhateverTheHighHalfSays) {
  for (unsigned long request : {TIOCSTI, TIOCLINUX, TIOCSETD}) {
    EXPECT_EQ(answer([&] { return ::syscall(SYS_ioctl, 0, request, 0); }), EPERM);
    EXPECT_EQ(answer([&] { return ::syscall(SYS_ioctl, 0, kGarbage | request, 0); }), EPERM);
  }
  int count = 0;
  EXPECT_EQ(answer([&] {
              int fds[2];
              if (::pipe(fds) != 0) return -1L;
              return ::syscall(SYS_ioctl, fds[0], FIONREAD, &count);
            }),
            0);
}

struct SocketCase {
  int family, type, protocol, with_loopback, without;
};
TEST(Seccomp, SocketsAreUnixTcpAndUdpOnly) {
  const SocketCase cases[] = {
      {AF_UNIX, SOCK_STREAM, 0, 0, 0},
      {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, 0, 0},
      {AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, 0, 0},
      {AF_UNIX, SOCK_RAW, 0, EPERM, EPERM},
      {AF_INET, SOCK_STREAM, 0, 0, EPERM},
      {AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP, 0, EPERM},
      {AF_INET, SOCK_DGRAM, IPPROTO_UDP, 0, EPERM},
      {AF_INET6, SOCK_DGRAM, 0, 0, EPERM},
      {AF_INET6, SOCK_STREAM, IPPROTO_TCP, 0, EPERM},
      {AF_INET, SOCK_RAW, IPPROTO_ICMP, EPERM, EPERM},
      {AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW, EPERM, EPERM},
      {AF_INET, SOCK_DGRAM, IPPROTO_ICMP, EPERM, EPERM},
      {AF_INET, SOCK_STREAM, 262, EPERM, EPERM},  // MPTCP
      {AF_INET, SOCK_STREAM, 132, EPERM, EPERM},  // SCTP
      {AF_INET, SOCK_SEQPACKET, 132, EPERM, EPERM},
      {AF_INET, 6, 0, EPERM, EPERM},   // DCCP
      {AF_INET, 10, 0, EPERM, EPERM},  // SOCK_PACKET
  };
  for (const SocketCase& c : cases) {
    auto call = [&] { return ::syscall(SYS_socket, c.family, c.type, c.protocol); };
    EXPECT_EQ(answer(call), c.with_loopback) << c.family << " " << c.type << " " << c.protocol;
    EXPECT_EQ(answer(call, {.loopback = false}), c.without) << c.family << " " << c.type;
  }
  for (int family = 0; family < 64; ++family) {
    if (family == AF_UNIX || family == AF_INET || family == AF_INET6) continue;
    EXPECT_EQ(answer([&] { return ::syscall(SYS_socket, family, SOCK_DGRAM, 0); }), EPERM)
        << family;
    EXPECT_EQ(answer([&] { return ::syscall(SYS_socket, family, SOCK_RAW, 0); }), EPERM) << family;
  }
}
TEST(Seccomp, GarbageInTheHighHalvesCannotSmuggleASocketThrough) {
  EXPECT_EQ(
      answer([] { return ::syscall(SYS_socket, kGarbage | AF_NETLINK, kGarbage | SOCK_RAW, 0); }),
      EPERM);
  EXPECT_EQ(answer([] { return ::syscall(SYS_socket, 0x100 | AF_UNIX, SOCK_STREAM, 0); }), EPERM);
  EXPECT_EQ(answer([] { return ::syscall(SYS_socket, AF_INET, SOCK_DGRAM, 0x10000); }), EPERM);
  EXPECT_EQ(answer([] {
              return ::syscall(SYS_socket, kGarbage | AF_UNIX, kGarbage | SOCK_STREAM, kGarbage);
            }),
            0);
}
TEST(Seccomp, SocketpairsAreUnixOnly) {
  int fds[2];
  for (int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET})
    EXPECT_EQ(answer([&] { return ::syscall(SYS_socketpair, AF_UNIX, type, 0, fds); }), 0);
  EXPECT_EQ(answer([&] { return ::syscall(SYS_socketpair, AF_INET, SOCK_STREAM, 0, fds); }), EPERM);
  EXPECT_EQ(answer([&] { return ::syscall(SYS_socketpair, AF_TIPC, SOCK_STREAM, 0, fds); }), EPERM);
}
int setOption(int level, int name, int type = SOCK_STREAM, int family = AF_INET) {
  return answer([=] {
    int fd = ::socket(family, type, 0), value = 1;
    return fd < 0 ? -1L : ::syscall(SYS_setsockopt, fd, level, name, &value, sizeof value);
  });
}
TEST(Seccomp, SocketsTakeTheOptionsThatProgramsSet) {
  for (int name : {SO_REUSEADDR, SO_REUSEPORT, SO_KEEPALIVE, SO_BROADCAST, SO_SNDBUF, SO_RCVBUF})
    EXPECT_EQ(setOption(SOL_SOCKET, name), 0) << name;
  for (int name : {TCP_NODELAY, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_QUICKACK})
    EXPECT_EQ(setOption(IPPROTO_TCP, name), 0) << name;
  EXPECT_EQ(setOption(IPPROTO_IPV6, IPV6_V6ONLY, SOCK_STREAM, AF_INET6), 0);
  EXPECT_EQ(setOption(IPPROTO_IP, IP_TTL, SOCK_DGRAM), 0);
}
TEST(Seccomp, SocketsTakeNoOtherOption) {
  // Descriptor -1: what the filter lets through is EBADF.
  const int status = under({}, [] {
    int taken = 0;
    for (int level : {SOL_SOCKET, int{IPPROTO_IP}, int{IPPROTO_IPV6}, int{IPPROTO_TCP},
                      int{IPPROTO_UDP}, 282 /* SOL_TLS */, SOL_SOCKET + 0x10000, -1})
      for (int name = -1; name < 300; ++name) {
        const bool passes = ::syscall(SYS_setsockopt, -1, level, name, nullptr, 0) != 0;
        if (level == SOL_SOCKET && name == SO_RCVBUF) {
          if (passes) return 201;  // it is not taken, and told as well
        } else if (!passes || (errno != EBADF && errno != ENOPROTOOPT)) {
          return 202;
        } else {
          taken += errno == EBADF ? 1 : 0;
        }
      }
    return taken;
  });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 53) << "options are allowed that this test does not know, or less";
  struct Named {
    int level, name;
  };
  for (Named o : {Named{SOL_SOCKET, SO_ATTACH_FILTER},
                  {SOL_SOCKET, SO_ATTACH_BPF},
                  {SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF},
                  {SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF},
                  {SOL_SOCKET, SO_TIMESTAMPING},
                  {SOL_SOCKET, SO_ZEROCOPY},
                  {IPPROTO_TCP, TCP_ULP},
                  {IPPROTO_TCP, TCP_MD5SIG},
                  {IPPROTO_TCP, TCP_DEFER_ACCEPT},
                  {IPPROTO_TCP, TCP_LINGER2},
                  {IPPROTO_TCP, TCP_FASTOPEN},
                  {IPPROTO_IP, IP_OPTIONS},
                  {IPPROTO_IP, IP_RECVERR},
                  {IPPROTO_IP, IP_ADD_MEMBERSHIP},
                  {IPPROTO_IPV6, 6},   // IPV6_2292PKTOPTIONS
                  {IPPROTO_IPV6, 32},  // IPV6_FLOWLABEL_MGR
                  {IPPROTO_IPV6, IPV6_RECVERR},
                  {IPPROTO_IPV6, IPV6_JOIN_GROUP},
                  {IPPROTO_IPV6, IPV6_HOPOPTS}})
    EXPECT_EQ(answer([=] { return ::syscall(SYS_setsockopt, -1, o.level, o.name, nullptr, 0); }),
              ENOPROTOOPT)
        << o.level << " " << o.name;
}
TEST(Seccomp, NoMessageIsUrgentOrLeftHalfBegun) {
  for (int flag : {int{MSG_OOB}, int{MSG_MORE}, MSG_MORE | MSG_NOSIGNAL}) {
    EXPECT_EQ(answer([=] { return ::syscall(SYS_sendto, -1, "x", 1, flag, nullptr, 0); }),
              EOPNOTSUPP);
    msghdr message{};
    EXPECT_EQ(answer([&] { return ::syscall(SYS_sendmsg, -1, &message, flag); }), EOPNOTSUPP);
    EXPECT_EQ(answer([&] { return ::syscall(SYS_sendmmsg, -1, &message, 0, flag); }), EOPNOTSUPP);
  }
  EXPECT_EQ(answer([] { return ::syscall(SYS_sendto, -1, "x", 1, MSG_NOSIGNAL, nullptr, 0); }),
            EBADF);
}
TEST(Seccomp, FilesTakeNoAttributesAndPipesKeepTheirSize) {
  for (int call : {SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr})
    EXPECT_EQ(answer([=] { return ::syscall(call, 0, 0, 0, 0, 0); }), EOPNOTSUPP);
  EXPECT_EQ(answer([] { return ::syscall(SYS_fcntl, 0, F_SETPIPE_SZ, 1 << 20); }), EPERM);
  EXPECT_EQ(answer([] { return ::syscall(SYS_fcntl, -1, F_GETPIPE_SZ); }), EBADF);
}
TEST(Seccomp, LocksHaveAnOwnerThatCanBeFound) {
  for (int command : {F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW})
    EXPECT_EQ(answer([=] { return ::syscall(SYS_fcntl, 0, command, nullptr); }), EINVAL);
  EXPECT_EQ(answer([] { return ::syscall(SYS_fcntl, -1, F_SETLK, nullptr); }), EBADF);
  EXPECT_EQ(answer([] { return ::syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0); }), EPERM);
}

TEST(Seccomp, PersonalityMayBeReadAndReset) {
  EXPECT_EQ(answer([] { return ::syscall(SYS_personality, 0xffffffffu); }), 0);
  EXPECT_EQ(answer([] { return ::syscall(SYS_personality, ~0ul); }), 0);
  EXPECT_EQ(answer([] { return ::syscall(SYS_personality, 0); }), 0);
  EXPECT_EQ(answer([] { return ::syscall(SYS_personality, ADDR_NO_RANDOMIZE); }), EPERM);
  EXPECT_EQ(answer([] { return ::syscall(SYS_personality, READ_IMPLIES_EXEC); }), EPERM);
}

TEST(Seccomp, CoreLimitCannotBeLoweredToWakeTheHostsCollector) {
  rlimit none{0, 0};
  EXPECT_EQ(answer([&] { return ::syscall(SYS_setrlimit, RLIMIT_CORE, &none); }), EPERM);
  EXPECT_EQ(answer([&] { return ::syscall(SYS_setrlimit, kGarbage | RLIMIT_CORE, &none); }), EPERM);
  EXPECT_EQ(answer([&] { return ::syscall(SYS_prlimit64, 0, RLIMIT_CORE, &none, nullptr); }),
            EPERM);
  EXPECT_EQ(answer([&] { return ::syscall(SYS_prlimit64, 0, RLIMIT_CORE, nullptr, &none); }), 0);
  EXPECT_EQ(answer([&] { return ::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, &none); }), 0);
  rlimit few{8, 8};
  EXPECT_EQ(answer([&] { return ::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &few, nullptr); }), 0);
  EXPECT_EQ(answer([&] { return ::syscall(SYS_setrlimit, RLIMIT_NOFILE, &few); }), 0);
}

TEST(Seccomp, HugePagesOutsideEveryCapAreRefused) {
  EXPECT_EQ(answer([] {
              return ::syscall(SYS_mmap, 0, 1 << 21, PROT_READ,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
            }),
            EPERM);
  EXPECT_EQ(answer([] { return ::syscall(SYS_memfd_create, "x", MFD_HUGETLB); }), EPERM);
  EXPECT_EQ(answer([] { return ::syscall(SYS_memfd_create, "x", MFD_CLOEXEC); }), 0);
}

TEST(Seccomp, NothingTellsOfTheNeighboursThroughSharedPages) {
  EXPECT_EQ(answer([] { return ::syscall(SYS_madvise, 0, 4096, MADV_MERGEABLE); }), EPERM);
  EXPECT_EQ(answer([] { return ::syscall(SYS_prctl, 67 /* PR_SET_MEMORY_MERGE */, 1, 0, 0, 0); }),
            EPERM);
  EXPECT_EQ(answer([] { return ::syscall(SYS_prctl, 62 /* PR_SCHED_CORE */, 1, 0, 0, 0); }), EPERM);
  EXPECT_EQ(answer([] { return ::syscall(SYS_fcntl, 0, 1026 /* F_NOTIFY */, 1); }), EPERM);
  EXPECT_EQ(answer([] { return ::syscall(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0); }), 0);
  char byte;
  iovec iov{&byte, 1};
  auto preadv2 = [&](unsigned long flags) {
    return answer([&, flags] {
      int fd = ::open("/proc/self/exe", O_RDONLY);
      return ::syscall(SYS_preadv2, fd, &iov, 1, 0, 0, flags);
    });
  };
  EXPECT_EQ(preadv2(RWF_NOWAIT), EOPNOTSUPP);
  EXPECT_EQ(preadv2(0), 0);
}

// Filters take memory that no cap counts, out of one budget for the whole host.
TEST(Seccomp, TaskCannotPileUpFilters) {
  sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  sock_fprog prog{1, &allow};
  for (unsigned long flags :
       {0ul, 1ul, static_cast<unsigned long>(SECCOMP_FILTER_FLAG_NEW_LISTENER), kGarbage})
    EXPECT_EQ(answer([&] { return ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog); }),
              EPERM);
  EXPECT_EQ(
      answer([&] { return ::syscall(SYS_seccomp, kGarbage | SECCOMP_SET_MODE_FILTER, 0, &prog); }),
      EPERM);
  EXPECT_EQ(
      answer([&] { return ::syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog); }),
      EPERM);
  unsigned action = SECCOMP_RET_ERRNO;
  EXPECT_EQ(answer([&] { return ::syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action); }),
            0);
}
TEST(Seccomp, TaskMayFenceItselfInByLandlock) {
  EXPECT_NE(answer([] { return ::syscall(444 /* landlock_create_ruleset */, nullptr, 0, 1); }),
            EPERM);
}

// A separate interpreter: the program's verdict on a call whose arguments are all 0.
uint32_t verdict(const std::vector<sock_filter>& program, uint32_t arch, uint32_t nr) {
  uint32_t a = 0, x = 0;
  for (size_t at = 0; at < program.size(); ++at) {
    const sock_filter& op = program[at];
    switch (op.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        a = op.k == 0 ? nr : op.k == 4 ? arch : 0;
        break;
      case BPF_ALU | BPF_AND | BPF_K:
        a &= op.k;
        break;
      case BPF_ALU | BPF_LSH | BPF_K:
        a <<= op.k;
        break;
      case BPF_ALU | BPF_OR | BPF_X:
        a |= x;
        break;
      case BPF_MISC | BPF_TAX:
        x = a;
        break;
      case BPF_JMP | BPF_JA:
        at += op.k;
        break;
      case BPF_JMP | BPF_JEQ | BPF_K:
        at += a == op.k ? op.jt : op.jf;
        break;
      case BPF_JMP | BPF_JGE | BPF_K:
        at += a >= op.k ? op.jt : op.jf;
        break;
      case BPF_JMP | BPF_JGT | BPF_K:
        at += a > op.k ? op.jt : op.jf;
        break;
      case BPF_JMP | BPF_JSET | BPF_K:
        at += a & op.k ? op.jt : op.jf;
        break;
      case BPF_RET | BPF_K:
        return op.k;
      default:
        ADD_FAILURE() << "instruction " << op.code;
        return 0;
    }
  }
  ADD_FAILURE() << "the program runs off its end";
  return 0;
}
TEST(Seccomp, EveryNumberGetsTheVerdictOfItsList) {
  auto built = buildSeccomp({.extra_allow = {"inotify_init1"}});
  ASSERT_TRUE(built);
  auto program = read(*built);
  const uint32_t native = 0xc000003e, i386 = 0x40000003;
  const uint32_t eperm = SECCOMP_RET_ERRNO | EPERM, enosys = SECCOMP_RET_ERRNO | ENOSYS;
  std::vector<uint32_t> expected(2048, enosys);
  expected[SYS_inotify_init1] = SECCOMP_RET_ALLOW;
  for (std::string_view name : baseCalls())
    if (callNumber(name) >= 0) expected[static_cast<size_t>(callNumber(name))] = SECCOMP_RET_ALLOW;
  for (std::string_view name : neverCalls())
    if (callNumber(name) >= 0) expected[static_cast<size_t>(callNumber(name))] = eperm;
  // With all arguments 0 these guards refuse: families, and calls that are answered without effect.
  expected[SYS_socket] = expected[SYS_socketpair] = eperm;
  expected[SYS_sync] = SECCOMP_RET_ERRNO;
  expected[SYS_setsockopt] = SECCOMP_RET_ERRNO | ENOPROTOOPT;
  expected[SYS_setxattr] = expected[SYS_lsetxattr] = expected[SYS_fsetxattr] =
      SECCOMP_RET_ERRNO | EOPNOTSUPP;
  expected[SYS_clone3] = enosys;
  for (uint32_t nr = 0; nr < expected.size(); ++nr) {
    EXPECT_EQ(verdict(program, native, nr), expected[nr]) << nr;
    EXPECT_EQ(verdict(program, native, 0x40000000 | nr), uint32_t{SECCOMP_RET_KILL_PROCESS}) << nr;
    EXPECT_EQ(verdict(program, i386, nr), uint32_t{SECCOMP_RET_KILL_PROCESS}) << nr;
  }
  EXPECT_EQ(verdict(program, native, 0x3fffffff), enosys);
  EXPECT_NE(verdict(program, native, 0xfffffffe), uint32_t{SECCOMP_RET_ALLOW});
  EXPECT_NE(verdict(program, native, 0xffffffff), uint32_t{SECCOMP_RET_ALLOW});
}

TEST(Seccomp, ProgramIsSmallSealedAndOneForAll) {
  auto one = buildSeccomp({});
  auto two = buildSeccomp({});
  ASSERT_TRUE(one && two);
  auto a = read(*one), b = read(*two);
  EXPECT_LT(a.size(), 600u);
  RecordProperty("instructions", static_cast<int>(a.size()));
  ASSERT_EQ(a.size(), b.size());
  EXPECT_TRUE(
      std::equal(a.begin(), a.end(), b.begin(), [](const sock_filter& x, const sock_filter& y) {
        return x.code == y.code && x.jt == y.jt && x.jf == y.jf && x.k == y.k;
      }));
  EXPECT_EQ(::write(one->get(), "x", 1), -1);
  EXPECT_EQ(::ftruncate(one->get(), 0), -1);
}

}  // namespace
}  // namespace mayfly::box
