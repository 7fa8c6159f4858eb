#include "box/seccomp.h"

#include <asm/ioctls.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "box/syscalls.h"

namespace mayfly::box {
namespace {

using base::Code;
using base::fail;
using base::Fd;
using base::Result;
using Program = std::vector<sock_filter>;

// Values that the oldest headers lack.
constexpr uint32_t kPrSchedCore = 62, kPrSetMemoryMerge = 67;
constexpr uint32_t kFSetPipeSize = 1031, kFNotify = 1026;  // F_SETPIPE_SZ, F_NOTIFY
constexpr uint32_t kFOfdLocks[] = {36, 37, 38};            // F_OFD_GETLK, _SETLK, _SETLKW
constexpr uint32_t kPrSetVma = 0x53564d41;
// Without the argument size that their numbers encode.
constexpr uint32_t kTcsetsf2 = 0x542d, kTiocsig = 0x5436, kTiocvhangup = 0x5437;

constexpr uint32_t kAllow = SECCOMP_RET_ALLOW;
constexpr uint32_t error(int number) { return SECCOMP_RET_ERRNO | static_cast<uint32_t>(number); }
constexpr uint32_t kEperm = error(EPERM);

// The low half of an argument: for an int the kernel reads no more. If all 64 bits were compared,
// garbage in the high half would let a refused value through.
constexpr uint32_t low(unsigned argument) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
  return offsetof(seccomp_data, args) + argument * 8;
}

// One guarded call: a sequence of tests, each of which ends the program with a verdict or falls
// through to the next; the last verdict is `otherwise`.
class Guard {
 public:
  Guard(int call, uint32_t otherwise) : call_(call), otherwise_(otherwise) {}

  Guard& load(unsigned argument) { return add(BPF_LD | BPF_W | BPF_ABS, low(argument)); }
  Guard& loadHigh(unsigned argument) { return add(BPF_LD | BPF_W | BPF_ABS, low(argument) + 4); }
  Guard& mask(uint32_t bits) { return add(BPF_ALU | BPF_AND | BPF_K, bits); }
  Guard& shift(uint32_t bits) { return add(BPF_ALU | BPF_LSH | BPF_K, bits); }
  Guard& keep() { return add(BPF_MISC | BPF_TAX, 0); }        // for the next join
  Guard& join() { return add(BPF_ALU | BPF_OR | BPF_X, 0); }  // with the kept value
  Guard& on(uint32_t value, uint32_t verdict) { return when(BPF_JEQ, value, verdict); }
  Guard& over(uint32_t value, uint32_t verdict) { return when(BPF_JGT, value, verdict); }
  Guard& onAnyBit(uint32_t bits, uint32_t verdict) { return when(BPF_JSET, bits, verdict); }

  int call() const { return call_; }  // negative: absent on this architecture
  void emit(Program& out) const {
    out.insert(out.end(), body_.begin(), body_.end());
    out.push_back(BPF_STMT(BPF_RET | BPF_K, otherwise_));
  }

 private:
  Guard& add(uint16_t code, uint32_t k) {
    body_.push_back(BPF_STMT(code, k));
    return *this;
  }
  Guard& when(uint16_t test, uint32_t value, uint32_t verdict) {
    body_.push_back(BPF_JUMP(static_cast<uint16_t>(BPF_JMP | test | BPF_K), value, 0, 1));
    return add(BPF_RET | BPF_K, verdict);
  }

  int call_;
  uint32_t otherwise_;
  Program body_;
};

struct SocketOptions {
  uint32_t level;
  std::vector<uint32_t> names;
};
const SocketOptions kSocketOptions[] = {
    {SOL_SOCKET,
     {SO_REUSEADDR,
      SO_DONTROUTE,
      SO_BROADCAST,
      SO_SNDBUF,
      SO_KEEPALIVE,
      SO_OOBINLINE,
      SO_PRIORITY,
      SO_LINGER,
      SO_REUSEPORT,
      SO_PASSCRED,
      SO_RCVLOWAT,
      SO_RCVTIMEO,
      SO_SNDTIMEO,
      SO_TIMESTAMP,
      SO_TIMESTAMPNS,
      SO_PEEK_OFF,
      SO_INCOMING_CPU,
      63,
      64,
      66,
      67}},  // the last: _NEW times
    {IPPROTO_IP,
     {IP_TOS, IP_TTL, IP_PKTINFO, IP_MTU_DISCOVER, IP_RECVTTL, IP_RECVTOS, IP_BIND_ADDRESS_NO_PORT,
      IP_MULTICAST_IF, IP_MULTICAST_TTL, IP_MULTICAST_LOOP}},
    {IPPROTO_IPV6,
     {IPV6_UNICAST_HOPS, IPV6_MULTICAST_IF, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_LOOP,
      IPV6_MTU_DISCOVER, IPV6_V6ONLY, IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_DONTFRAG,
      IPV6_RECVTCLASS, IPV6_TCLASS}},
    {IPPROTO_TCP,
     {TCP_NODELAY, TCP_MAXSEG, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_SYNCNT,
      TCP_WINDOW_CLAMP, TCP_QUICKACK, TCP_USER_TIMEOUT, TCP_NOTSENT_LOWAT}},
};

// Every guarded call but clone3 is in the base list.
std::vector<Guard> guards(bool loopback) {
  std::vector<Guard> list;
  list.reserve(32);
  auto guard = [&](const char* name, uint32_t otherwise = kAllow) -> Guard& {
    return list.emplace_back(callNumber(name), otherwise);
  };

  guard("mmap").load(3).onAnyBit(MAP_HUGETLB, kEperm);  // the host's huge pages count for no cap
  // Refused: new namespaces; CLONE_PARENT, because the child would be the spawner's and keep the
  // box from dying; and processes (not threads) that share descriptors, because a lock would
  // outlive the process that is named as its owner, and count for nobody.
  guard("clone")
      .load(0)
      .onAnyBit(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                    CLONE_NEWPID | CLONE_NEWNET | CLONE_PARENT,
                kEperm)
      .mask(CLONE_FILES | CLONE_THREAD)
      .on(CLONE_FILES, kEperm);
  guard("clone3", error(ENOSYS));
  // Of the terminal commands (0x54..), only those that a pseudo-terminal implements are allowed.
  // The others type for other users (TIOCSTI), reach consoles and serial lines, or load line
  // disciplines (TIOCSETD).
  guard("ioctl")
      .load(1)
      .mask(0xffff)
      .over(0x545f, kAllow)
      .over(0x5452, kEperm)  // FIOQSIZE...; ..TIOCMIWAIT..
      .over(0x544f, kAllow)
      .over(TIOCGPTPEER, kEperm)  // FIOCLEX..FIOASYNC; TIOCGISO7816..
      .over(kTiocvhangup, kAllow)
      .over(kTiocsig, kEperm)  // TIOCGPKT..TIOCGPTPEER; TIOCVHANGUP
      .over(TIOCSRS485, kAllow)
      .over(kTcsetsf2, kEperm)  // TIOCGPTN..TIOCSIG; TIOCGRS485..
      .over(TIOCSETD, kAllow)
      .over(TIOCNOTTY, kEperm)  // TIOCGETD..TCSETSF2; TIOCSETD
      .over(TIOCSSERIAL, kAllow)
      .over(FIONREAD, kEperm)  // TIOCPKT..TIOCNOTTY; TIOCLINUX..
      .on(TIOCSTI, kEperm);
  // A watch on a folder of the shared image would show the neighbours' accesses. A larger pipe
  // would hold more of a task's output than the daemon reckons with. Locks of open files name no
  // owner for which the spawner could count them (spawner/lock_watch.h).
  Guard& fcntl = guard("fcntl").load(1).on(kFNotify, kEperm).on(kFSetPipeSize, kEperm);
  for (uint32_t command : kFOfdLocks) fcntl.on(command, error(EINVAL));
  // Merged pages leak information between tenants; a core cookie idles the neighbours' hyperthread.
  guard("prctl")
      .load(0)
      .on(kPrSetMemoryMerge, kEperm)
      .on(kPrSchedCore, kEperm)
      .on(kPrSetVma, error(EINVAL))  // names of mappings count for no cap
      .on(PR_SET_SECCOMP, kEperm);
  guard("madvise").load(2).on(MADV_MERGEABLE, kEperm);
  guard("memfd_create").load(1).onAnyBit(MFD_HUGETLB, kEperm);
  guard("personality", kEperm).load(0).on(0, kAllow).on(0xffff'ffff, kAllow);
  // No filters inside a box: the kernel compiles them into memory that no cap counts (4 MiB a
  // process), out of one budget of the host (bpf_jit_limit); without that, no further box could be
  // filtered. A task that wants to confine itself has Landlock, whose rules are charged to it.
  guard("seccomp", kEperm)
      .load(0)
      .on(SECCOMP_SET_MODE_STRICT, kAllow)
      .on(SECCOMP_GET_ACTION_AVAIL, kAllow);
  // RWF_NOWAIT shows whether a page is cached, like mincore.
  guard("preadv2").load(5).onAnyBit(RWF_NOWAIT, error(EOPNOTSUPP));
  // Advice, silently ignored: dropping pages of the image would slow the neighbours, and time them.
  guard("fadvise64").load(3).on(POSIX_FADV_DONTNEED, error(0));
  // Lowering the core limit from 1 to 0 would start the host's piped collector: 1 stops it, 0 does
  // not.
  guard("setrlimit").load(0).on(RLIMIT_CORE, kEperm);
  guard("prlimit64")
      .loadHigh(2)
      .keep()
      .load(2)
      .join()
      .on(0, kAllow)  // only reads
      .load(1)
      .on(RLIMIT_CORE, kEperm);
  // As before Linux 6.6, where a tmpfs has no user attributes: the same calls set access control
  // lists, and those, 64 KiB a file, count for no cap.
  for (const char* name : {"setxattr", "lsetxattr", "fsetxattr"}) guard(name, error(EOPNOTSUPP));
  guard("sync", error(0));  // would flush the whole host; in a box all is in memory

  // Family, type and protocol as one word; SOCK_CLOEXEC and _NONBLOCK do not count.
  auto key = [](uint32_t family, uint32_t type, uint32_t protocol) {
    return family << 24 | type << 16 | protocol;
  };
  for (const char* name : {"socket", "socketpair"}) {
    Guard& g = guard(name, kEperm);
    g.load(2).over(0xffff, kEperm).keep().load(0).over(0xff, kEperm).shift(24).join().keep();
    g.load(1).mask(0xf).shift(16).join();
    for (uint32_t type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET})
      for (uint32_t protocol : {0, PF_UNIX}) g.on(key(AF_UNIX, type, protocol), kAllow);
    if (!loopback || name == std::string_view("socketpair")) continue;
    for (uint32_t family : {AF_INET, AF_INET6}) {
      for (uint32_t protocol : {0, int{IPPROTO_TCP}})
        g.on(key(family, SOCK_STREAM, protocol), kAllow);
      for (uint32_t protocol : {0, int{IPPROTO_UDP}})
        g.on(key(family, SOCK_DGRAM, protocol), kAllow);
    }
  }

  // Urgent data on unix sockets is young code, so attack surface. MSG_MORE keeps an unfinished
  // datagram, up to 64 KiB a socket, in memory that no cap counts.
  for (auto [name, flags] : {std::pair{"sendto", 3u}, {"sendmsg", 2u}, {"sendmmsg", 3u}})
    guard(name).load(flags).onAnyBit(MSG_OOB | MSG_MORE, error(EOPNOTSUPP));

  // Only the options that programs set. Many of the others keep memory for each socket that no cap
  // counts, or use up what all boxes share (filters, keys, groups, flow labels, error queues).
  Guard& options = guard("setsockopt", error(ENOPROTOOPT));
  options.load(2).over(0xffff, error(ENOPROTOOPT)).keep();
  options.load(1).over(0xffff, error(ENOPROTOOPT)).shift(16).join();
  // Silently ignored, as a value beyond the host's maximum is: the data of unaccepted connections
  // is charged to nobody, and the receive buffer's size bounds it.
  options.on(uint32_t{SOL_SOCKET} << 16 | SO_RCVBUF, error(0));
  for (const SocketOptions& known : kSocketOptions)
    for (uint32_t name : known.names) options.on(known.level << 16 | name, kAllow);

  return list;
}

struct Release {
  void operator()(void* context) const { seccomp_release(context); }
};
using Context = std::unique_ptr<void, Release>;

// libseccomp reports -errno.
base::Status lib(int result, const char* call, std::string_view object) {
  if (result < 0) return base::failSys(-result, call, object);
  return base::Unit{};
}

Result<std::vector<int>> extraNumbers(const SeccompSpec& spec) {
  std::vector<int> numbers;
  for (const std::string& name : spec.extra_allow) {
    auto never = neverCalls();
    if (std::find(never.begin(), never.end(), name) != never.end())
      return fail(Code::invalidArgument, "the system call '" + name + "' is refused in every box",
                  "Remove it from the template's list; no template may allow it.");
    int number = callNumber(name);
    if (number == -1)
      return fail(Code::invalidArgument, "no system call is named '" + name + "'",
                  "See `man syscalls` for the names.");
    if (number < 0)
      return fail(Code::invalidArgument,
                  "the system call '" + name + "' does not exist on this architecture",
                  "Remove it from the template's list.");
    numbers.push_back(number);
  }
  return numbers;
}

// The verdict of a program that looks at architecture and number only; kUnclear if it does anything
// else.
constexpr uint32_t kUnclear = 0xffff'ffff;  // neither is a return value of the kernel
constexpr uint32_t kGuard = 0x1234'0000;    // plus the guard's index: the guard decides
uint32_t verdictOf(const Program& program, uint32_t arch, uint32_t number) {
  uint32_t a = 0;
  for (size_t at = 0; at < program.size(); ++at) {  // jumps only go forward
    const sock_filter& op = program[at];
    switch (op.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        if (op.k != offsetof(seccomp_data, arch) && op.k != offsetof(seccomp_data, nr))
          return kUnclear;
        a = op.k == offsetof(seccomp_data, arch) ? arch : number;
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
      case BPF_RET | BPF_K:
        return op.k;
      default:
        return kUnclear;
    }
  }
  return kUnclear;
}

struct Range {
  uint32_t first, verdict;
};

// A binary search over ranges; the number is already loaded.
Program search(std::span<const Range> ranges) {
  if (ranges.size() == 1) return {BPF_STMT(BPF_RET | BPF_K, ranges[0].verdict)};
  size_t middle = ranges.size() / 2;
  Program low_half = search(ranges.first(middle)), high_half = search(ranges.subspan(middle)), out;
  auto skip = static_cast<uint32_t>(low_half.size());
  if (skip <= 255) {
    out.push_back(
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, ranges[middle].first, static_cast<uint8_t>(skip), 0));
  } else {
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, ranges[middle].first, 0, 1));
    out.push_back(BPF_STMT(BPF_JMP | BPF_JA, skip));
  }
  out.insert(out.end(), low_half.begin(), low_half.end());
  out.insert(out.end(), high_half.begin(), high_half.end());
  return out;
}

// libseccomp's decisions by number and the guards' by argument, as one program. libseccomp's tree
// is rewritten as ranges, which halves the instructions that every clone has to load. Between two
// neighbouring constants a tree of comparisons has one verdict, so the ranges lose nothing.
Result<Program> join(const Program& tree, const std::vector<Guard>& guarded) {
  const uint32_t native = seccomp_arch_native();
  std::vector<uint32_t> bounds{0};
  for (const Guard& guard : guarded)
    if (guard.call() >= 0)
      bounds.insert(bounds.end(),
                    {static_cast<uint32_t>(guard.call()), static_cast<uint32_t>(guard.call()) + 1});
  for (const sock_filter& op : tree)
    if (BPF_CLASS(op.code) == BPF_JMP && BPF_OP(op.code) != BPF_JA) {
      bounds.push_back(op.k);
      if (op.k != 0xffff'ffff) bounds.push_back(op.k + 1);
    }
  std::sort(bounds.begin(), bounds.end());
  std::vector<Range> ranges;
  const uint32_t foreign = verdictOf(tree, ~native, 0);
  for (uint32_t number : bounds) {
    uint32_t verdict = verdictOf(tree, native, number);
    if (verdict == kUnclear || verdictOf(tree, ~native, number) != foreign)
      return fail(Code::internal,
                  "libseccomp's program looks at more than architecture and number");
    for (size_t i = 0; i < guarded.size(); ++i)
      if (static_cast<uint32_t>(guarded[i].call()) == number)
        verdict = kGuard + static_cast<uint32_t>(i);
    if (ranges.empty() || ranges.back().verdict != verdict) ranges.push_back({number, verdict});
  }
  Program out{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
              BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, native, 1, 0), BPF_STMT(BPF_RET | BPF_K, foreign),
              BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  Program found = search(ranges);
  out.insert(out.end(), found.begin(), found.end());
  std::vector<size_t> starts;
  for (const Guard& guard : guarded) {
    starts.push_back(out.size());
    guard.emit(out);
  }
  for (size_t at = 0; at < starts.front(); ++at)
    if (out[at].code == (BPF_RET | BPF_K) && out[at].k >= kGuard &&
        out[at].k < kGuard + starts.size())
      out[at] =
          BPF_STMT(BPF_JMP | BPF_JA, static_cast<uint32_t>(starts[out[at].k - kGuard] - at - 1));
  return out;
}

// The instructions that libseccomp makes of the lists, for the call numbers.
Result<Program> numbers(const SeccompSpec& spec) {
  MAYFLY_TRY(std::vector<int> extra, extraNumbers(spec));
  Context context(seccomp_init(SCMP_ACT_ERRNO(ENOSYS)));
  if (!context) return fail(Code::internal, "seccomp_init: out of memory");
  scmp_filter_ctx ctx = context.get();
  MAYFLY_CHECK(lib(seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS),
                   "seccomp_attr_set", "SCMP_FLTATR_ACT_BADARCH"));
  MAYFLY_CHECK(lib(seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2), "seccomp_attr_set",
                   "SCMP_FLTATR_CTL_OPTIMIZE"));

  for (std::string_view name : baseCalls())
    if (int number = callNumber(name); number >= 0) extra.push_back(number);
  std::sort(extra.begin(), extra.end());
  extra.erase(std::unique(extra.begin(), extra.end()), extra.end());
  for (int number : extra)
    MAYFLY_CHECK(lib(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, number, 0), "seccomp_rule_add",
                     "call " + std::to_string(number)));
  for (std::string_view name : neverCalls())
    if (int number = callNumber(name); number >= 0)
      MAYFLY_CHECK(
          lib(seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), number, 0), "seccomp_rule_add", name));

  MAYFLY_TRY(Fd file, base::makeMemfd("mayfly-seccomp-numbers"));
  MAYFLY_CHECK(lib(seccomp_export_bpf(ctx, file.get()), "seccomp_export_bpf", "the allow-list"));
  off_t bytes = ::lseek(file.get(), 0, SEEK_END);
  if (bytes <= 0 || bytes % sizeof(sock_filter) != 0)
    return fail(Code::internal, "seccomp_export_bpf: the program is empty or cut");
  Program out(static_cast<size_t>(bytes) / sizeof(sock_filter));
  if (::pread(file.get(), out.data(), static_cast<size_t>(bytes), 0) != bytes)
    return base::failSys(errno, "pread", "the exported seccomp program");
  return out;
}

}  // namespace

base::Result<base::Fd> buildSeccomp(const SeccompSpec& spec) {
  MAYFLY_TRY(Program tree, numbers(spec));
  MAYFLY_TRY(Program program, join(tree, guards(spec.loopback)));
  if (program.size() > kSeccompInstructionsMax)
    return fail(Code::internal, "the seccomp program has " + std::to_string(program.size()) +
                                    " instructions; the kernel takes " +
                                    std::to_string(kSeccompInstructionsMax));
  MAYFLY_TRY(Fd file, base::makeMemfd("mayfly-seccomp"));
  auto bytes = std::as_bytes(std::span(program));
  if (::write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
    return base::failSys(errno, "write", "the seccomp program");
  if (::lseek(file.get(), 0, SEEK_SET) != 0)
    return base::failSys(errno, "lseek", "the seccomp program");
  MAYFLY_CHECK(base::sealMemfd(file.view()));
  return file;
}

base::Result<std::string> readSeccomp(base::FdView program) {
  std::string bytes(kSeccompInstructionsMax * sizeof(sock_filter), '\0');
  const ssize_t n = ::pread(program.get(), bytes.data(), bytes.size(), 0);
  if (n < 0) return base::failSys(errno, "pread", "a seccomp program");
  bytes.resize(static_cast<size_t>(n));
  return bytes;
}

}  // namespace mayfly::box
