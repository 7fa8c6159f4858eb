// The spawner's readings of kernel memory that no cap counts, and its signal to a task.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>

#include "base/fd.h"
#include "spawner/child.h"
#include "spawner/lock_watch.h"
#include "spawner/net_charge.h"

namespace mayfly::spawner {
namespace {

TEST(NetCharge, SocketsInUseAreThoseOfTheNamespace) {
  const Sockets v4 = socketsIn(
      "sockets: used 3\nTCP: inuse 4711 orphan 9 tw 8 alloc 7 mem 6\nUDP: inuse 5 mem 0\n");
  EXPECT_EQ(v4.tcp, 4'711u);
  EXPECT_EQ(v4.udp, 5u);
  const Sockets v6 = socketsIn("TCP6: inuse 12\nUDP6: inuse 3\nUDPLITE6: inuse 0\n");
  EXPECT_EQ(v6.tcp, 12u);
  EXPECT_EQ(v6.udp, 3u);
  EXPECT_EQ(socketsIn("").tcp, 0u);
}

TEST(NetCharge, FewSocketsCountForNothing) {
  EXPECT_EQ(netCharge(1), 0u);
  EXPECT_EQ(netCharge(0), 0u) << "a process that is gone";
}

constexpr unsigned kSecondsMax = 60;

// A task that leads its session, as in a box: it runs `body`, then tells by a byte that it is
// ready.
struct Task {
  template <class Body>
  explicit Task(Body body) {
    auto pipe = base::makePipe();
    pid = ::fork();
    if (pid == 0) {
      ::setsid();
      ::alarm(kSecondsMax);  // a test that fails ends
      body();
      (void)!::write(pipe->write.get(), "r", 1);
      for (;;) ::pause();
    }
    pidfd = base::Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    pipe->write.reset();
    char byte;
    EXPECT_EQ(::read(pipe->read.get(), &byte, 1), 1);
  }
  ~Task() {
    if (!status) ::kill(-pid, SIGKILL), end();
  }
  int end() {
    int said = 0;
    ::waitpid(pid, &said, 0);
    return *(status = said);
  }
  pid_t pid;
  base::Fd pidfd;
  std::optional<int> status;
};

TEST(Term, TheDefaultActionEndsTheTaskAndAHandlerMaySaveItsState) {
  Task plain([] {});
  EXPECT_TRUE(signalTerm(plain.pidfd));
  const int killed = plain.end();
  EXPECT_TRUE(WIFSIGNALED(killed) && WTERMSIG(killed) == SIGTERM);
  Task saves([] { ::signal(SIGTERM, [](int) { ::_exit(7); }); });
  EXPECT_TRUE(signalTerm(saves.pidfd));
  const int exited = saves.end();
  EXPECT_TRUE(WIFEXITED(exited) && WEXITSTATUS(exited) == 7);
}

// As a shell that waits for a program, and runs its trap only then.
TEST(Term, ItReachesTheProgramsThatTheTaskWaitsFor) {
  Task shell([] {
    ::signal(SIGCHLD, [](int) { ::_exit(9); });
    if (::fork() == 0) {
      ::alarm(kSecondsMax);
      for (;;) ::pause();
    }
    ::signal(SIGTERM, SIG_IGN);
  });
  EXPECT_TRUE(signalTerm(shell.pidfd));
  const int exited = shell.end();
  EXPECT_TRUE(WIFEXITED(exited) && WEXITSTATUS(exited) == 9);
}

TEST(Term, AStoppedTaskIsWokenForIt) {
  Task stopped([] { ::signal(SIGTERM, [](int) { ::_exit(5); }); });
  ::kill(stopped.pid, SIGSTOP);
  int status = 0;
  ::waitpid(stopped.pid, &status, WUNTRACED);
  ASSERT_TRUE(WIFSTOPPED(status));
  EXPECT_TRUE(signalTerm(stopped.pidfd));
  EXPECT_EQ(WEXITSTATUS(stopped.end()), 5);
}

TEST(Term, WhoHasEndedIsNotAskedAndSaysSo) {
  Task ends([] {});
  ::kill(ends.pid, SIGKILL);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(ends.pid), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(signalTerm(ends.pidfd)) << "it is a zombie, not yet reaped";
  ends.end();
  EXPECT_FALSE(signalTerm(ends.pidfd));
  EXPECT_FALSE(signalTerm(base::Fd()));
}

TEST(LockWatch, LocksAreCountedByTheirOwner) {
  const auto by_pid = locksByPid(
      "1: POSIX  ADVISORY  WRITE 2345 00:2d:17 0 EOF\n"
      "1: -> POSIX  ADVISORY  WRITE 2346 00:2d:17 0 EOF\n"
      "2: FLOCK  ADVISORY  WRITE 2345 00:2d:18 0 EOF\n"
      "3: OFDLCK ADVISORY  READ  -1 00:2d:18 0 EOF\n"
      "4: POSIX  ADVISORY  READ  2345 00:2d:19 4 5\n"
      "5: POSIX  ADVISORY  READ  0 00:2d:19 4 5\n"
      "6: POSIX  ADV");
  ASSERT_EQ(by_pid.size(), 1u);
  EXPECT_EQ(by_pid.at(2'345), 2u);
}

TEST(LockWatch, AProcessIsOfABoxOfThisInstanceOrOfNone) {
  const std::string v1 = "8:pids:/mayfly/a/t3/b77\n0::/mayfly/a/t3/b77\n";
  EXPECT_EQ(boxOf(v1, "a"), 77u);
  EXPECT_EQ(boxOf("0::/mayfly/a/t3/b78/task\n", "a"), 78u);
  EXPECT_EQ(boxOf(v1, "b"), 0u);
  EXPECT_EQ(boxOf("0::/mayfly/a/t3/zygote\n", "a"), 0u);
  EXPECT_EQ(boxOf("0::/user.slice\n", "a"), 0u);
}

TEST(LockWatch, WhoHasTooManyEndsOrTheLargestWhereMoreWereNotLookedAt) {
  EXPECT_TRUE(tooMany({}, true).empty());
  EXPECT_TRUE(tooMany({{1, kLocksMax}, {2, 5}}, false).empty());
  EXPECT_EQ(tooMany({{1, kLocksMax + 1}, {2, 5}}, false), std::vector<base::BoxId>{1});
  EXPECT_EQ(tooMany({{1, 1'500}, {2, 1'600}}, true), std::vector<base::BoxId>{2});
  EXPECT_TRUE(tooMany({{1, 100}, {2, 200}}, true).empty());
}

}  // namespace
}  // namespace mayfly::spawner
