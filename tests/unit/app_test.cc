#include <fmt/format.h>
#include <gtest/gtest.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <fcntl.h>
#include <malloc.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "app/audit.h"
#include "app/budget.h"
#include "app/door.h"
#include "app/instance.h"
#include "app/log.h"
#include "app/log_sink.h"
#include "app/loop_lag.h"
#include "app/notify.h"
#include "app/remains.h"
#include "app/system_calls.h"
#include "app/templates.h"
#include "base/clock.h"
#include "core/options.h"
#include "sched/accounts.h"

namespace mayfly::app {
namespace {

struct Folder {
  std::string path;
  Folder() {
    char name[] = "/tmp/mayfly-app-test-XXXXXX";
    path = ::mkdtemp(name);
  }
  ~Folder() { (void)!::system(("rm -rf '" + path + "'").c_str()); }
};

// --- who may connect -------------------------------------------------------------------------

TEST(Door, TheSocketsModeIsNoWiderThanWhoMayConnect) {
  struct Case {
    Allowed allowed;
    mode_t mode;
    gid_t group;
  };
  const Case cases[] = {{{}, 0600, 0},
                        {{{0}, {}}, 0600, 0},  // root may anyway
                        {{{}, {77}}, 0660, 77},
                        {{{0}, {77, 77}}, 0660, 77},
                        {{{1000}, {}}, 0666, 0},
                        {{{1000}, {77}}, 0666, 0},
                        {{{}, {77, 78}}, 0666, 0}};
  for (const Case& c : cases) {
    const SocketMode got = socketModeFor(c.allowed);
    EXPECT_EQ(got.mode, c.mode);
    EXPECT_EQ(got.group, c.group);
  }
}

TEST(Door, NamesAreLookedUpOnceAndAnUnknownOneRefusesTheStart) {
  config::Daemon settings;
  settings.uids_allowed = {config::Id{uint32_t{1000}}, config::Id{"root"}};
  settings.gids_allowed = {config::Id{"root"}, config::Id{uint32_t{77}}};
  auto allowed = whoMayConnect(settings);
  ASSERT_TRUE(allowed) << allowed.error().message;
  EXPECT_EQ(allowed->uids, (std::vector<uid_t>{1000, 0}));
  EXPECT_EQ(allowed->gids, (std::vector<gid_t>{0, 77}));
  settings.gids_allowed = {config::Id{"no-such-group-here"}};
  auto refused = whoMayConnect(settings);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message,
            "the setting gids_allowed names 'no-such-group-here', and the host knows no group of "
            "that name");
  settings.gids_allowed = {};
  settings.uids_allowed = {config::Id{"no-such-user-here"}};
  EXPECT_NE(whoMayConnect(settings).error().message.find("no user of that name"),
            std::string::npos);
}

TEST(Door, TheSocketHasItsModeAndGroupBeforeAnybodyCanConnect) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give the socket to a group";
  Folder folder;
  for (const SocketMode& mode : {SocketMode{0600, 0}, SocketMode{0660, 64'011},
                                 SocketMode{0666, 0}}) {  // each replaces the last's leftover
    const std::string path = folder.path + "/door.sock";
    auto listener = listenAt(path, 4, mode);
    ASSERT_TRUE(listener) << listener.error().message;
    struct stat st;
    ASSERT_EQ(::stat(path.c_str(), &st), 0);
    EXPECT_TRUE(S_ISSOCK(st.st_mode));
    EXPECT_EQ(st.st_mode & 07777, mode.mode);
    EXPECT_EQ(st.st_uid, 0u);
    EXPECT_EQ(st.st_gid, mode.group);
    auto second = listenAt(path, 4, mode);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, base::Code::alreadyExists);
  }
}

// --- the service manager -----------------------------------------------------------------------

// A manager's socket at `address`, as NOTIFY_SOCKET names it.
base::Fd managerAt(const std::string& address) {
  base::Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  std::copy(address.begin(), address.end(), at.sun_path);
  if (address[0] == '@') at.sun_path[0] = '\0';
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.size());
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&at), length), 0) << address;
  return fd;
}

TEST(Notify, TheManagerIsToldByAPathAndByAnAbstractName) {
  Folder folder;
  for (const std::string& address : {folder.path + "/notify", "@" + folder.path}) {
    base::Fd manager = managerAt(address);
    auto told = connectNotify(address.c_str());
    ASSERT_TRUE(told) << told.error().message;
    EXPECT_EQ(::write(told->get(), kNotifyReady.data(), kNotifyReady.size()), 7);
    char got[16] = {};
    EXPECT_EQ(::recv(manager.get(), got, sizeof got, MSG_DONTWAIT), 7);
    EXPECT_STREQ(got, "READY=1");
  }
}

TEST(Notify, WithoutAManagerNobodyIsToldAndAWrongAddressRefusesTheStart) {
  Folder folder;
  for (const char* none : {static_cast<const char*>(nullptr), ""}) {
    auto told = connectNotify(none);
    ASSERT_TRUE(told);
    EXPECT_FALSE(*told);
  }
  const std::string nobody = folder.path + "/nobody", longer = "/" + std::string(107, 'x');
  for (const std::string& wrong : {std::string("vsock:2:1"), longer, nobody}) {
    auto told = connectNotify(wrong.c_str());
    ASSERT_FALSE(told) << wrong;
    EXPECT_NE(told.error().message.find("NOTIFY_SOCKET"), std::string::npos) << wrong;
  }
  const std::string longest = "@" + folder.path + std::string(106 - folder.path.size(), 'x');
  base::Fd manager = managerAt(longest);
  EXPECT_TRUE(connectNotify(longest.c_str()));
}

TEST(Log, TaskLineHasWhoHowAndHowMuchAndLeavesOutWhatWasNotReached) {
  base::Phases phases{};
  auto at = [&](base::Phase p, double ms) {
    phases[static_cast<size_t>(p)] = 1'000 + static_cast<uint64_t>(ms * 1e6);
  };
  at(base::Phase::queued, 0);
  at(base::Phase::box, 0.25);
  at(base::Phase::started, 1.5);
  at(base::Phase::exited, 11.5);
  at(base::Phase::reaped, 11.75);
  at(base::Phase::receipt, 12);
  base::Usage usage;
  usage.user_cpu_ns = 2'000'000, usage.system_cpu_ns = 500'000;
  usage.memory_peak_bytes = 4'096, usage.processes_peak = 2, usage.stdout_bytes = 3;
  EXPECT_EQ(
      taskLine({5, "python", "fork", "uid:1000", "a\" verdict=x", "00-ab", base::Launch::stocked},
               base::Verdict::wallTime, usage, phases),
      "task id=5 template=python mechanism=fork user=uid:1000 tenant=\"a\\\" verdict=x\" "
      "trace=00-ab verdict=wallTime launch=stocked queue_ms=0.250 claim_ms=1.250 run_ms=10.000 "
      "kill_ms=0.250 receipt_ms=0.250 whole_ms=12.000 "
      "cpu_ms=2.500 memory_peak=4096 processes_peak=2 stdout=3 stderr=0 disk=0 inodes=0");
  const auto of = [&](base::Verdict v) {
    return taskLine({5, "p", "fork", "u", ""}, v, {}, phases);
  };
  EXPECT_NE(of(base::Verdict::failed).find(" reap_ms=0.250 "), std::string::npos);
  EXPECT_EQ(of(base::Verdict::failed).find(" receipt="), std::string::npos) << "it has one";
  EXPECT_EQ(of(base::Verdict::failed).find(" kill_ms="), std::string::npos) << "nobody killed it";
  usage.fresh_runtime = true;
  EXPECT_TRUE(taskLine({5, "python", "fork", "uid:0", ""}, base::Verdict::failed, usage, {})
                  .ends_with(" fresh_runtime=1"));
}

TEST(Log, ATaskWithoutAReceiptTookUntilItsResult) {
  std::ostringstream said;
  auto before = spdlog::default_logger();
  auto here = std::make_shared<spdlog::logger>(
      "here", std::make_shared<spdlog::sinks::ostream_sink_st>(said));
  here->set_pattern("%l %v");
  spdlog::set_default_logger(here);
  constexpr uint64_t kMinute_ns = 60'000'000'000;
  LogObserver log;
  log.setSlow(kMinute_ns);
  const auto ended = [&](uint64_t ago_ns) {
    said.str("");
    base::Phases phases{};
    phases[static_cast<size_t>(base::Phase::queued)] = base::monotonicNs() - ago_ns;
    phases[static_cast<size_t>(base::Phase::exited)] = base::monotonicNs() - ago_ns + 1;
    log.taskEnded({5, "python", "fork", "uid:0", ""}, base::Verdict::internal, {}, phases);
    return said.str();
  };
  const std::string slow = ended(2 * kMinute_ns), quick = ended(1);
  spdlog::set_default_logger(before);
  EXPECT_TRUE(slow.starts_with("warning slow task id=5 ")) << slow;
  EXPECT_NE(slow.find(" receipt=none "), std::string::npos) << slow;
  EXPECT_TRUE(quick.starts_with("info task id=5 ")) << quick;
}

TEST(Instance, SecondDaemonOfTheSameNameIsRefusedAtOnceAndOthersAreNot) {
  Folder run;
  auto first = lockInstance(run.path + "/deep/run", "a");
  ASSERT_TRUE(first) << first.error().message;
  auto second = lockInstance(run.path + "/deep/run", "a");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, base::Code::alreadyExists);
  EXPECT_NE(second.error().message.find("in use"), std::string::npos);
  EXPECT_TRUE(lockInstance(run.path + "/deep/run", "b"));
  *first = base::Fd();
  EXPECT_TRUE(lockInstance(run.path + "/deep/run", "a"));
}

TEST(Instance, NobodyElseMayOpenTheLock) {
  Folder run;
  const std::string path = run.path + "/a.lock";
  ::close(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));  // an older daemon's
  auto lock = lockInstance(run.path, "a");
  ASSERT_TRUE(lock) << lock.error().message;
  struct stat st;
  ASSERT_EQ(::fstat(lock->get(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
}

TEST(UidSlots, NoTwoDaemonsShareOneAndAFreedOneIsTakenAgain) {
  Folder slots;
  std::vector<UidSlot> taken;
  for (uint32_t i = 0; i < kUidSlots; ++i) {
    auto slot = takeUidSlot(slots.path, slots.path + "/proc");
    ASSERT_TRUE(slot);
    EXPECT_EQ(slot->number, i);
    taken.push_back(std::move(*slot));
  }
  EXPECT_EQ(takeUidSlot(slots.path, slots.path + "/proc").error().code,
            base::Code::resourceExhausted);
  taken[7].lock.reset();
  EXPECT_EQ(takeUidSlot(slots.path, slots.path + "/proc")->number, 7u);
}

// A process in the /proc of a folder.
void putProcess(const Folder& top, uint32_t pid, uint32_t uid, char state) {
  const std::string folder = top.path + "/proc/" + std::to_string(pid);
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/status") << fmt::format(
      "Name:\tleft\nUmask:\t0022\nState:\t{} (x)\nTgid:\t{}\nPPid:\t1\nUid:\t{}\t{}\t{}\t{}\n",
      state, pid, uid, uid, uid, uid);
}

TEST(UidSlots, UidsOfAProcessThatAnEarlierDaemonLeftAreNotGivenAway) {
  Folder slots;
  const std::string proc = slots.path + "/proc";
  putProcess(slots, 71, 1'879'048'192u + 65'538, 'D');                // of slot 0
  putProcess(slots, 72, 1'879'048'192u + 64 * 65'536 + 65'538, 'Z');  // of slot 1: it has ended
  auto slot = takeUidSlot(slots.path + "/slots", proc);
  ASSERT_TRUE(slot);
  EXPECT_EQ(slot->number, 1u);
  std::filesystem::remove_all(proc + "/71");
  EXPECT_EQ(takeUidSlot(slots.path + "/slots", proc)->number, 0u);
}

TEST(Remains, WhoRunsOrWaitsForADeviceIsBusy) {
  Folder top;
  const std::string states = "RDSTZ";
  for (uint32_t i = 0; i < states.size(); ++i) putProcess(top, i, 7, states[i]);
  for (uint32_t i = 0; i <= states.size(); ++i)
    EXPECT_EQ(isBusy(i, top.path + "/proc"), i < 2) << i;
}

TEST(Remains, AreNamedByPidNameAndState) {
  Folder top;
  for (uint32_t pid = 1; pid <= 10; ++pid) putProcess(top, pid, 7, 'T');
  const std::string all = describe(childrenOf(1, top.path + "/proc"));
  EXPECT_NE(all.find("process 5 (left, state T)"), std::string::npos) << all;
  EXPECT_NE(all.find(" and 2 more"), std::string::npos) << all;
  EXPECT_TRUE(childrenOf(2, top.path + "/proc").empty());
}

TEST(UidSlots, DaemonsUidLiesInTheLastRangeOfItsOwnSlot) {
  EXPECT_EQ(daemonUid(0), 1'879'048'192u + 63 * 65'536);
  EXPECT_EQ(daemonUid(63), 1'879'048'192u + 63 * 64 * 65'536 + 63 * 65'536);
  EXPECT_LT(daemonUid(63), 1u << 31);
}

TEST(UidSlots, TheBrokersUidsAreOfTheDaemonsRangeAndItsOwn) {
  const BrokerUids uids = brokerUids(5);
  EXPECT_EQ(std::set<uint32_t>({daemonUid(5), uids.front, uids.vault, uids.commands}).size(), 4u);
  for (uint32_t uid : {uids.front, uids.vault, uids.commands}) {
    EXPECT_GT(uid, daemonUid(5));
    EXPECT_LT(uid, daemonUid(5) + 65'536);
  }
}

// A made-up host, a ledger, and the audit's reports.
struct AuditFixture : testing::Test, base::Observer {
  Folder top;
  boost::asio::io_context io;
  sched::Accounts book;
  reap::Ledger ledger{book};
  std::vector<base::AuditFinding> found;
  base::AuditWalk walk;
  int walks = 0;
  std::unique_ptr<Audit> audit;
  uint32_t broker = 0;  // its supervisor

  void auditFound(const base::AuditFinding& f) override { found.push_back(f); }
  void auditEnded(const base::AuditWalk& w) override { walk = w, ++walks; }

  void SetUp() override {
    put("mounts", "22 1 8:1 / / rw - ext4 /dev/vda1 rw\n");
    put("room", "");
    AuditPlaces places;
    places.host_mounts = base::Fd(::open((top.path + "/mounts").c_str(), O_RDONLY | O_CLOEXEC));
    places.spawner_mounts = base::Fd(::open((top.path + "/room").c_str(), O_RDONLY | O_CLOEXEC));
    places.cgroups = {top.path + "/v2/mayfly/one", top.path + "/memory/mayfly/one"};
    places.subtree = "/mayfly/one";
    places.images = "/var/lib/mayfly/images";
    places.proc = top.path + "/proc";
    places.blocks = top.path + "/block";
    places.uid_first = 1'000'000;
    places.uids = 65'536;
    places.self = 10;
    places.spawner = 11;
    places.broker = broker;
    places.commands_uid = 1'000'900;
    audit = std::make_unique<Audit>(io, std::move(places), ledger, *this, 1'000);
    process(11, 0, "/");
  }
  void put(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(top.path + "/" + path).parent_path());
    std::ofstream(top.path + "/" + path) << text;
  }
  void cgroup(const std::string& path) {
    std::filesystem::create_directories(top.path + "/" + path);
  }
  void process(int pid, uint32_t uid, const std::string& cgroup, int parent = 1,
               const std::string& state = "S (sleeping)") {
    const std::string folder = "proc/" + std::to_string(pid);
    put(folder + "/status", "Name:\tp\nState:\t" + state + "\nPPid:\t" + std::to_string(parent) +
                                "\nUid:\t" + std::to_string(uid) + "\t0\t0\t0\n");
    put(folder + "/cgroup", "2:memory:/x\n0::" + cgroup + "\n");
  }
  int doWalk() {
    found.clear();
    int steps = 1;
    while (audit->step()) ++steps;
    return steps;
  }
};

struct BrokeredAudit : AuditFixture {
  BrokeredAudit() { broker = 12; }
};

TEST_F(BrokeredAudit, ProcessesOfTheBrokerAreKnownByTheirParentAndItsCommandsByTheirUid) {
  process(12, 0, "/");              // the supervisor
  process(13, 1'000'901, "/", 12);  // front or vault
  process(14, 1'000'900, "/", 12);  // a command that prints a secret
  process(15, 1'000'900, "/", 14);  // its child
  process(16, 1'000'901, "/", 1);   // a front that lost its supervisor
  doWalk();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].what, "process 16 of uid 1000901 (p) is in no cgroup of this daemon's");
}

TEST_F(AuditFixture, WhatBelongsToABoxOfTheLedgerIsNoFinding) {
  ledger.opened(12, 1, 5);
  for (const char* path :
       {"v2/mayfly/one/t1/b12", "v2/mayfly/one/t1/maker", "v2/mayfly/one/t2/bx",
        "v2/mayfly/one/t2/b", "v2/mayfly/one/t2/b9x", "memory/mayfly/one/t1/b12"})
    cgroup(path);
  process(1, 0, "/");
  process(10, 1'000'000, "/");                        // the daemon
  process(11, 0, "/");                                // its spawner
  process(20, 1'000'001, "/mayfly/one/t1");           // a zygote
  process(21, 1'000'002, "/mayfly/one/t1/b12/task");  // of a box
  process(22, 1'000'002, "/", 11);                    // its collector of output files
  process(23, 1'000'003, "/", 1, "Z (zombie)");       // dead
  process(24, 2'000'000, "/mayfly/other/t1/b7");      // another daemon's
  process(25, 1'000, "/mayfly/one-more/t1/b7");       // the same
  put("proc/26/environ", "x");                        // ends during the look
  doWalk();
  EXPECT_TRUE(found.empty()) << found[0].what;
  EXPECT_EQ(walks, 1);
  EXPECT_EQ(walk.cgroups, 2u);
  EXPECT_EQ(walk.processes, 9u);
  EXPECT_EQ(walk.mounts, 1u);
  EXPECT_EQ(walk.findings, 0u);
}

TEST_F(AuditFixture, EachKindOfStrayIsFoundAndToldOnce) {
  using Kind = base::AuditFinding::Kind;
  cgroup("v2/mayfly/one/t1/b7");
  cgroup("memory/mayfly/one/t3/b8");
  process(30, 1'000'009, "/mayfly/one/t1/b7");
  process(31, 1'065'535, "/user.slice");
  put("block/loop3/loop/backing_file", "/var/lib/mayfly/images/abc.erofs\n");
  put("mounts",
      "22 1 8:1 / / rw - ext4 /dev/vda1 rw\n23 22 0:9 / /mnt/a rw shared:1 - tmpfs disk rw\n"
      "24 22 7:3 / /mnt/b ro - erofs /dev/loop3 ro\n25 22 7:4 / /mnt/c ro - erofs /dev/loop4 ro\n"
      "26 22 0:8 / /mnt/d ro - erofs /var/lib/mayfly/images/def.erofs ro\nnonsense\n");
  ledger.opened(2, 1, 5);
  ledger.overdue(2, "late");
  doWalk();
  std::vector<std::pair<Kind, std::string>> told;
  for (const base::AuditFinding& f : found) told.emplace_back(f.kind, f.what);
  std::sort(told.begin(), told.end());
  const std::vector<std::pair<Kind, std::string>> expected = {
      {Kind::strayCgroup, top.path + "/memory/mayfly/one/t3/b8"},
      {Kind::strayCgroup, top.path + "/v2/mayfly/one/t1/b7"},
      {Kind::strayProcess,
       "process 30 of uid 1000009 (p) is in the cgroup of box 7, which is gone"},
      {Kind::strayProcess, "process 31 of uid 1065535 (p) is in no cgroup of this daemon's"},
      {Kind::strayMount, "mount 23 at '/mnt/a' (tmpfs, disk)"},
      {Kind::strayMount, "mount 24 at '/mnt/b' (erofs, /dev/loop3)"},
      {Kind::strayMount, "mount 26 at '/mnt/d' (erofs, /var/lib/mayfly/images/def.erofs)"},
      {Kind::lostBox, "box 2"}};
  EXPECT_EQ(told, expected);
  EXPECT_EQ(walk.findings, 8u);
  doWalk();
  EXPECT_TRUE(found.empty());  // already known
  EXPECT_EQ(walk.findings, 8u);
  cgroup("v2/mayfly/one/t1/b9");
  doWalk();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].box, 9u);
}

// Its children are the daemon's from then on, until they are reaped.
TEST_F(AuditFixture, TheRemainsOfAKilledSpawnerAreNoFinding) {
  cgroup("v2/mayfly/one/t1/b7");
  process(22, 1'000'002, "/", 10);
  ledger.opened(2, 1, 5);
  ledger.overdue(2, "the spawner ended");
  doWalk();
  EXPECT_EQ(found.size(), 3u);  // while the spawner lives, each is one
  SetUp();
  process(11, 0, "/", 10, "Z (zombie)");
  doWalk();
  EXPECT_TRUE(found.empty()) << found[0].what;
  std::filesystem::remove_all(top.path + "/proc/11");
  doWalk();
  EXPECT_TRUE(found.empty()) << found[0].what;
  process(11, 0, "/", 10);
  audit->stop();
  audit->start();
  EXPECT_EQ(io.run(), 0u) << "a stopped audit does nothing more";
}

// What the spawner makes, one line a mount.
std::string roomOf(const std::vector<std::string>& more) {
  std::string text;
  int id = 100;
  auto add = [&](const std::string& rest) {
    text += std::to_string(id++) + " 64 0:40 / " + rest + "\n";
  };
  add("/ rw,nosuid - tmpfs room rw");
  add("/proc rw - proc proc rw");
  add("/dev rw - tmpfs dev rw");
  for (int slot = 0; slot < 63; ++slot)
    for (const char* kind : {"/devices/", "/devices-without-terminals/"})
      add(kind + std::to_string(slot) + " ro - tmpfs dev rw");
  for (const std::string& rest : more) add(rest);
  return text;
}

TEST_F(AuditFixture, TheSpawnersMountsAreItsOwnFewAndAnImageForEachZygotesCgroup) {
  cgroup("v2/mayfly/one/t7");
  put("room", roomOf({"/img/t7 ro - erofs image ro"}));
  EXPECT_GE(doWalk(), 130 / static_cast<int>(kAuditEntriesPerStep));
  doWalk();
  EXPECT_TRUE(found.empty()) << found[0].what;
  EXPECT_EQ(walk.mounts, 1u + 130u);

  const std::vector<std::string> strays = {
      "/img/t8 ro - erofs image ro",      // its zygote is gone
      "/img/t7 ro - erofs image ro",      // over the other
      "/img/t07x ro - erofs image ro",    // no zygote's
      "/img/t7/lib rw - tmpfs disk rw",   // in an image
      "/src rw - tmpfs disk rw",          // a box's disk
      "/devices/64 ro - tmpfs dev rw",    // no slot
      "/devices/3 ro - tmpfs other rw"};  // over the devices of a slot
  std::vector<std::string> more = {"/img/t7 ro - erofs image ro"};
  more.insert(more.end(), strays.begin(), strays.end());
  put("room", roomOf(more));
  doWalk();
  EXPECT_TRUE(found.empty()) << "one look is not enough";
  doWalk();
  ASSERT_EQ(found.size(), strays.size());
  EXPECT_EQ(found[0].kind, base::AuditFinding::Kind::strayMount);
  EXPECT_EQ(found[0].what, "mount 230 at '/img/t8' (erofs, image) in the spawner's namespace");
  doWalk();
  EXPECT_TRUE(found.empty());  // already known
  EXPECT_EQ(walk.findings, strays.size());

  put("room", roomOf({"/img/t7 ro - erofs image ro"}));
  doWalk();
  EXPECT_EQ(walk.findings, 0u);
}

TEST_F(AuditFixture, AnImageThatGoesBetweenTwoWalksIsNoFinding) {
  put("room", roomOf({"/img/t8 ro - erofs image ro"}));
  doWalk();
  put("room", roomOf({"/img/t9 ro - erofs image ro"}));
  doWalk();
  put("room", roomOf({}));
  doWalk();
  EXPECT_EQ(walk.findings, 0u);
  EXPECT_TRUE(found.empty());
}

TEST_F(AuditFixture, WhatGoesWhileItIsListedIsNoFinding) {
  for (int i = 1; i <= 200; ++i) cgroup("v2/mayfly/one/t1/b" + std::to_string(i));
  audit->step();  // has listed more entries than it has checked
  const size_t looked_at = found.size();
  EXPECT_LE(looked_at, kAuditEntriesPerStep);
  std::filesystem::remove_all(top.path + "/v2/mayfly/one/t1");
  while (audit->step()) {
  }
  EXPECT_EQ(found.size(), looked_at);
}

TEST_F(AuditFixture, AWalkIsManySmallSteps) {
  for (int i = 1; i <= 400; ++i) {
    cgroup("v2/mayfly/one/t1/b" + std::to_string(i));
    process(1'000 + i, 1'000'000, "/mayfly/one/t1/b" + std::to_string(i));
  }
  EXPECT_GE(doWalk(), 800 / static_cast<int>(kAuditEntriesPerStep));
  EXPECT_EQ(found.size(), 800u);
}

// Runs `act` in a child that has put up the daemon's list; returns how the child ended, and what it
// said of refused calls.
struct Confined {
  int status = 0;
  std::string log;
};
template <class Act>
Confined confined(Act act) {
  auto pipe = base::makePipe();
  EXPECT_TRUE(pipe);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || !allowOnlyServing(pipe->write.view()))
      ::_exit(99);
    ::_exit(act());
  }
  pipe->write.reset();
  Confined c;
  char text[512];
  for (ssize_t n; (n = ::read(pipe->read.get(), text, sizeof text)) > 0;)
    c.log.append(text, static_cast<size_t>(n));
  EXPECT_EQ(::waitpid(child, &c.status, 0), child);
  return c;
}
bool refused(long result) { return result == -1 && errno == EPERM; }

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SKIP_WITHOUT_LIST() GTEST_SKIP() << "a sanitizer's build has no list"
#else
#define SKIP_WITHOUT_LIST() (void)0
#endif

TEST(SystemCalls, WhatServingNeedsIsAllowed) {
  SKIP_WITHOUT_LIST();
  const Confined c = confined([] {
    auto pipe = base::makePipe();
    auto file = base::makeMemfd("unit");
    char text[8];
    if (!pipe || !file || ::write(pipe->write.get(), "word", 4) != 4 ||
        ::read(pipe->read.get(), text, 4) != 4 || ::ftruncate(file->get(), 4096) != 0 ||
        !base::sealMemfd(file->view()) || !base::setNonblocking(pipe->read.view()))
      return 1;
    if (!base::readSmallFile({}, "/proc/self/mountinfo", 1 << 20)) return 2;
    if (std::filesystem::is_empty("/proc")) return 3;
    std::vector<std::string> large(64, std::string(1 << 20, 'x'));  // maps and unmaps memory
    large.clear();
    ::malloc_trim(0);
    return ::getpid() > 0 && ::geteuid() != static_cast<uid_t>(-EPERM) && large.empty() ? 0 : 4;
  });
  EXPECT_TRUE(WIFEXITED(c.status)) << WTERMSIG(c.status);
  EXPECT_EQ(WEXITSTATUS(c.status), 0);
  EXPECT_EQ(c.log, "");
}

TEST(SystemCalls, EachOtherOneFailsAndIsNamedInTheLogOnce) {
  SKIP_WITHOUT_LIST();
  const Confined c = confined([] {
    for (int i = 0; i < 3; ++i)
      if (!refused(::socket(AF_UNIX, SOCK_STREAM, 0))) return 1;
    if (!refused(::open("/tmp/mayfly-unit-made", O_WRONLY | O_CREAT | O_CLOEXEC, 0600))) return 2;
    if (!refused(::open("/proc/self/comm", O_RDWR | O_CLOEXEC))) return 3;
    const size_t size = 4096;
    constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;
    if (::mmap(nullptr, size, PROT_READ | PROT_EXEC, kAnonymous, -1, 0) != MAP_FAILED) return 4;
    void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, kAnonymous, -1, 0);
    if (data == MAP_FAILED || !refused(::mprotect(data, size, PROT_READ | PROT_EXEC))) return 5;
    if (!refused(::syscall(SYS_fork)) || !refused(::syscall(SYS_vfork))) return 6;
    if (!refused(::kill(::getppid(), 0)) || !refused(::syscall(SYS_tgkill, 1, 1, 0))) return 7;
    if (!refused(::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0))) return 8;
    if (!refused(::fcntl(0, F_SETOWN, 1)) || !refused(::ioctl(0, TIOCGWINSZ, data))) return 9;
    if (!refused(::unlink("/tmp/mayfly-unit-none"))) return 10;
    if (!refused(::syscall(5'000))) return 11;
    return 0;
  });
  EXPECT_TRUE(WIFEXITED(c.status)) << WTERMSIG(c.status);
  EXPECT_EQ(WEXITSTATUS(c.status), 0);
  const std::string socket_line =
      "mayflyd: error: refused itself the system call socket, which is not in its list: a defect, "
      "or somebody who took it over\n";
  EXPECT_EQ(c.log.substr(0, socket_line.size()), socket_line) << c.log;
  EXPECT_EQ(c.log.find(" socket,", socket_line.size()), std::string::npos) << c.log;
  for (const char* name : {"openat", "mmap", "mprotect", "fork", "vfork", "kill", "tgkill", "prctl",
                           "fcntl", "ioctl", "unlink", "of an unknown number"})
    EXPECT_NE(c.log.find(std::string("call ") + name + ","), std::string::npos) << name;
}

TEST(SystemCalls, AnExploitsCallEndsTheDaemon) {
  SKIP_WITHOUT_LIST();
  const Confined c = confined([] {
    char program[] = "/bin/true";
    char* const arguments[] = {program, nullptr};
    ::execve(program, arguments, nullptr);
    return 0;
  });
  EXPECT_TRUE(WIFSIGNALED(c.status) && WTERMSIG(c.status) == SIGSYS) << c.status;
  size_t ends = 0;
  const auto numberOf = [](const walls::KnownCall& call) {
    const int number = ::seccomp_syscall_resolve_name(std::string(call.name).c_str());
    EXPECT_NE(number, __NR_SCMP_ERROR) << call.name;  // a slip of the pen would allow nothing
    return number;
  };
  for (const walls::KnownCall& call : knownCalls()) numberOf(call);
  for (const walls::KnownCall& call : walls::endingCalls()) {
    const int number = numberOf(call);
    if (call.on != walls::OnCall::end || number < 0) continue;
    const Confined each = confined([&] { return static_cast<int>(::syscall(number, 0, 0, 0, 0)); });
    EXPECT_TRUE(WIFSIGNALED(each.status) && WTERMSIG(each.status) == SIGSYS) << call.name;
    ++ends;
  }
  EXPECT_GT(ends, 20u);
}

// A signal that is blocked or ignored does not let a refused call through.
TEST(SystemCalls, ADeafProcessIsEnded) {
  SKIP_WITHOUT_LIST();
  const Confined c = confined([] {
    sigset_t all;
    ::sigfillset(&all);
    ::sigprocmask(SIG_BLOCK, &all, nullptr);
    ::socket(AF_UNIX, SOCK_STREAM, 0);
    return 0;
  });
  EXPECT_TRUE(WIFSIGNALED(c.status) && WTERMSIG(c.status) == SIGSYS) << c.status;
}

// Both are full before long, and neither is ever waited for.
TEST(LogSink, LinesThatNobodyReadsAreDroppedCountedAndToldOf) {
  auto pipe = base::makePipe();
  auto sockets = base::makeSeqpacketPair();
  ASSERT_TRUE(pipe && sockets);
  for (auto [write, read] : {std::pair{pipe->write.get(), pipe->read.get()},
                             std::pair{sockets->ours.get(), sockets->theirs.get()}}) {
    spdlog::logger log("unit", std::make_shared<LogSink>(write));
    log.set_pattern("%l %v");
    constexpr int kLines = 20'000;
    for (int i = 0; i < kLines; ++i) log.info("line {} {}", i, std::string(60, '.'));
    ASSERT_TRUE(base::setNonblocking(base::FdView(read)));
    std::string all;
    auto readAll = [&] {
      char buffer[65'536];
      for (ssize_t n; (n = ::read(read, buffer, sizeof buffer)) > 0;)
        all.append(buffer, static_cast<size_t>(n));
    };
    readAll();
    const auto kept = std::count(all.begin(), all.end(), '\n');
    EXPECT_GT(kept, 10);
    EXPECT_LT(kept, kLines);
    EXPECT_EQ(all.rfind("line " + std::to_string(kept - 1) + " "), all.rfind("line "));
    all.clear();
    log.info("after");
    readAll();
    EXPECT_EQ(all, "warning " + std::to_string(kLines - kept) +
                       " lines of this log were dropped: nobody read them in time\ninfo after\n");
    // The descriptor's own flags are others' as well.
    EXPECT_EQ(::fcntl(write, F_GETFL) & O_NONBLOCK, 0);
  }
}

TEST(LoopLag, ToldAsLongAsTheLoopWasHeldUp) {
  struct : base::Observer {
    std::vector<std::chrono::nanoseconds> late;
    void loopLag(uint64_t late_ns) override { late.emplace_back(late_ns); }
  } told;
  boost::asio::io_context io;
  LoopLag lag(io, told);
  constexpr std::chrono::milliseconds kHeld{30};
  lag.start();
  std::this_thread::sleep_for(LoopLag::kPeriod + kHeld);
  io.run_one();
  ASSERT_EQ(told.late.size(), 1u);
  EXPECT_GE(told.late[0], kHeld);
  io.run_one();  // reported again
  EXPECT_EQ(told.late.size(), 2u);
}

TEST(Budget, FollowsFromTheHostAndTheSettingsLowerIt) {
  host::HostBudget host;
  host.fds_hard = 20'000;
  host.pids_max = 32'768;
  host.memory_total_bytes = 100ull << 30;
  host.boxes_by_fds = 1'218;
  host.boxes_by_namespaces = 9'999;
  config::Daemon settings;
  sched::Budget b = deriveBudget(host, settings);
  EXPECT_EQ(b.boxes_max + b.parked_max + b.stocked_max, 1'218u);
  EXPECT_EQ(b.parked_max, 64u);
  EXPECT_EQ(b.stocked_max, 16u);
  EXPECT_EQ(b.memory_bytes_max, (100ull << 30) / 100 * 90 - settings.parked_memory_bytes);
  EXPECT_LT(b.pids_max, 32'768u);
  EXPECT_LE(b.fds_max, 20'000u);
  EXPECT_LT(b.queue_tasks_per_owner_max, settings.queue_max);
  host.boxes_by_fds = 2'436;
  settings.parked_max = 4'096;
  EXPECT_EQ(deriveBudget(host, settings).parked_max, 2'180u);
  host.boxes_by_fds = 1'218;
  settings.parked_max = 64;
  settings.boxes_max = 10;
  b = deriveBudget(host, settings);
  EXPECT_EQ(b.boxes_max + b.parked_max + b.stocked_max, 10u);
  EXPECT_GE(b.boxes_max, 1u);
  settings.boxes_max = 1;
  EXPECT_EQ(deriveBudget(host, settings).boxes_max, 1u);
  settings.parked_max = settings.stocked_max = 0;
  settings.boxes_max = 5'000;
  EXPECT_EQ(deriveBudget(host, settings).boxes_max, 1'218u);
}

// `mayfly doctor` computes with the host's part alone.
TEST(Budget, TheDoctorReckonsLikeTheDaemon) {
  for (uint64_t fds : {1'024ull, 20'000ull, 1'048'576ull}) {
    host::HostBudget host;
    host.fds_hard = fds;
    host.pids_max = 32'768;
    host.memory_total_bytes = 100ull << 30;
    host.user_namespaces_max = 30'000;
    host.ptys_max = 2'303;
    host::countBoxes(host);
    const config::Daemon settings;
    const host::Capacity doctors = host::capacityOf(host, {});
    const sched::Budget daemons = deriveBudget(host, settings);
    EXPECT_EQ(doctors.tasks(), host::capacityOf(host, boxSettings(settings)).tasks());
    EXPECT_EQ(doctors.memory_bytes_max, daemons.memory_bytes_max);
    EXPECT_EQ(doctors.fds_max, daemons.fds_max);
    EXPECT_LE(doctors.tasks(), daemons.boxes_max);
    using sched::Resource;
    const sched::AccountBounds accounts = deriveAccountBounds(host, settings);
    EXPECT_EQ(doctors.client_fds, settings.connections_max + accounts.of(Resource::blobs).pool_max +
                                      accounts.of(Resource::spools).pool_max);
  }
}

TEST(Budget, TasksHaveFewerTerminalsRatherThanWaitForEachOther) {
  host::HostBudget host;
  host.fds_hard = 1'048'576;
  host.pids_max = 4'194'304;
  host.memory_total_bytes = 100ull << 30;
  host.boxes_by_fds = host.boxes_by_namespaces = 4'096;
  host.ptys_max = 2'303;
  config::Daemon settings;
  EXPECT_EQ(deriveBudget(host, settings).ptys_max, 2'303u);
  EXPECT_EQ(grantPtys(deriveBudget(host, settings), 8), 8u);
  EXPECT_EQ(grantPtys(deriveBudget(host, settings), 0), 0u);
  settings.ptys_max = 100;
  EXPECT_EQ(deriveBudget(host, settings).ptys_max, 100u);
  EXPECT_EQ(grantPtys(deriveBudget(host, settings), 8), 6u);  // so that 16 tasks fit
  settings.boxes_max = 5;
  EXPECT_EQ(grantPtys(deriveBudget(host, settings), 64),
            100 / deriveBudget(host, settings).boxes_max);
  settings.boxes_max = 0;
  settings.ptys_max = 5;
  EXPECT_EQ(grantPtys(deriveBudget(host, settings), 8), 0u);
  host.ptys_max = 0;  // the kernel has none
  settings.ptys_max = 0;
  EXPECT_EQ(grantPtys(deriveBudget(host, settings), 8), 0u);
}

TEST(Budget, TooFewDescriptorsAreRefusedInWordsThatNameTheLimit) {
  host::HostBudget host;
  config::Daemon settings;
  for (uint64_t fds : {0, 100, 256, 400}) {
    host.fds_hard = fds;
    auto refused = checkOpenFiles(host, settings);
    ASSERT_FALSE(refused) << fds;
    EXPECT_NE(refused.error().message.find("RLIMIT_NOFILE"), std::string::npos);
    EXPECT_NE(refused.error().message.find("is " + std::to_string(fds) + ";"), std::string::npos);
  }
  host.fds_hard = 512;
  host.boxes_by_namespaces = host.boxes_by_fds = 100;
  EXPECT_TRUE(checkOpenFiles(host, settings));
  EXPECT_GE(deriveBudget(host, settings).fds_max, core::kFdsPerBox);
}

TEST(Budget, BlobsTakeAShareOfTheHostAndNotMore) {
  host::HostBudget host;
  host.fds_hard = 1'048'576;
  host.memory_total_bytes = 100ull << 30;
  config::Daemon settings;
  using sched::Resource;
  sched::AccountBounds b = deriveAccountBounds(host, settings);
  EXPECT_EQ(b.of(Resource::blobBytes).pool_max, 1ull << 30);
  EXPECT_EQ(b.of(Resource::blobBytes).user_max, 512ull << 20);
  EXPECT_EQ(b.of(Resource::blobs).pool_max, sched::AccountBounds().of(Resource::blobs).pool_max);
  settings.blob_store_bytes_max = 1 << 20;
  b = deriveAccountBounds(host, settings);
  EXPECT_EQ(b.of(Resource::blobBytes).user_max, 1u << 20);  // no blob could be larger
  host.fds_hard = 4'096;
  host.memory_total_bytes = 2ull << 30;
  b = deriveAccountBounds(host, config::Daemon{});
  EXPECT_EQ(b.of(Resource::blobBytes).pool_max, 256ull << 20);
  EXPECT_EQ(b.of(Resource::outFileBytes).pool_max, 256ull << 20);
  EXPECT_EQ(b.of(Resource::blobs).pool_max, 512u);
  EXPECT_EQ(b.of(Resource::blobs).user_max, 512u);
  // The boxes get the remaining descriptors.
  EXPECT_LE(deriveBudget(host, config::Daemon{}).fds_max, 4'096u - 512u);
}

// --- every setting that bounds a holding or a time changes what the core or the edge is told
// --------

TEST(Settings, EachReachesWhatItIsPromisedFor) {
  host::HostBudget host;
  host.fds_hard = 1'048'576;
  host.pids_max = 4'194'304;
  host.memory_total_bytes = 1'000ull << 30;
  host.boxes_by_fds = host.boxes_by_namespaces = 4'096;
  host.ptys_max = 3'072;
  using sched::Resource;
  using Told = std::function<uint64_t(const core::EngineOptions&, const rpc::Options&)>;
  const auto pool = [](Resource r) -> Told {
    return [r](const auto& e, const auto&) { return e.accounts.of(r).pool_max; };
  };
  const auto user = [](Resource r) -> Told {
    return [r](const auto& e, const auto&) { return e.accounts.of(r).user_max; };
  };
#define ENGINE(member) \
  [](const core::EngineOptions& e, const rpc::Options&) -> uint64_t { return e.member; }
#define EDGE(member) \
  [](const core::EngineOptions&, const rpc::Options& e) -> uint64_t { return e.member; }
  struct Case {
    const char* text;
    Told told;
    uint64_t want;
  };
  const Case cases[] = {
      {"boxes_max = 40\nparked_max = 0\nstocked_max = 0", ENGINE(budget.boxes_max), 40},
      {"ptys_max = 7", ENGINE(budget.ptys_max), 7},
      {"parked_max = 3", ENGINE(budget.parked_max), 3},
      {"stocked_max = 2", ENGINE(budget.stocked_max), 2},
      {"parked_memory = \"3MiB\"", ENGINE(parked_memory_bytes_max), 3u << 20},
      {"queue_max = 64", pool(Resource::queuedTasks), 64},
      {"tasks_max = 77", pool(Resource::openTasks), 77},
      {"detached_per_user_max = 5", user(Resource::detachedTasks), 5},
      {"connections_max = 33", pool(Resource::connections), 33},
      {"in_flight_max = \"17MiB\"", pool(Resource::requestBytes), 17u << 20},
      {"output_held_max = \"18MiB\"", pool(Resource::outputBytes), 18u << 20},
      {"out_files_held_max = \"19MiB\"", pool(Resource::outFileBytes), 19u << 20},
      {"blob_user_max = \"2MiB\"", user(Resource::blobBytes), 2u << 20},
      {"blob_store_max = \"600MiB\"", pool(Resource::blobBytes), 600u << 20},
      {"receipt_time = \"1s\"\ncollect_time = \"1s\"", ENGINE(bounds.receipt_ns), 2'000'000'000},
      {"collect_time = \"7s\"", ENGINE(collect_ms_max), 7'000},
      {"blob_ttl = \"3s\"", EDGE(blob_ttl_ms), 3'000},
      {"upload_idle = \"4s\"", EDGE(upload_idle_ms), 4'000},
      {"detach_lease_max = \"5s\"", EDGE(detach_lease_ms_max), 5'000},
      {"result_lease = \"6s\"", EDGE(result_lease_ms), 6'000},
      {"connection_idle = \"8s\"", EDGE(connection_idle_ms), 8'000},
      {"message_time = \"9s\"", EDGE(message_ms_max), 9'000},
  };
#undef ENGINE
#undef EDGE
  for (const Case& c : cases) {
    auto settings = config::parseDaemon(c.text, "d.toml");
    ASSERT_TRUE(settings) << settings.error().message;
    const auto told = [&](const config::Daemon& s) {
      return c.told(engineOptions(host, s), edgeOptions(s));
    };
    EXPECT_EQ(told(*settings), c.want) << c.text;
    EXPECT_NE(told(config::Daemon{}), c.want) << c.text << ": the default shows nothing";
  }
}

TEST(Settings, EachKeyOfAManifestThatTheDaemonReadsReachesItsTemplate) {
  const std::string least =
      "name = 'x'\ndescription = 'x'\nmechanism = 'exec'\n[image]\n[zygote]\nargv = ['/x']\n";
  using Told = std::function<uint64_t(const pool::TemplateSpec&)>;
  struct Case {
    const char* text;  // of [zygote] and the tables that follow
    Told told;
    uint64_t want;
  };
  using Spec = pool::TemplateSpec;
  const auto variable = [](const Spec& s, std::string_view name) -> uint64_t {
    for (const auto& [n, value] : s.env)
      if (n == name) return std::stoull(value);
    return 0;
  };
  const Case cases[] = {
      {"memory = \"100MiB\"", [](const Spec& s) { return s.zygote_memory_bytes; }, 100u << 20},
      {"start_time = \"7s\"", [](const Spec& s) { return s.start_ns_max; }, 7'000'000'000},
      {"renew_clones = 5", [](const Spec& s) -> uint64_t { return s.renewal.clones; }, 5},
      {"renew_after = \"3s\"", [](const Spec& s) { return s.renewal.after_ns; }, 3'000'000'000},
      {"tenants_max = 4", [](const Spec& s) -> uint64_t { return s.tenants_max; }, 4},
      {"[task]\ncpus_env = [\"THREADS\"]", [](const Spec& s) { return s.cpus_env.size(); }, 1},
      {"[task.env]\nANSWER = \"42\"", [&](const Spec& s) { return variable(s, "ANSWER"); }, 42},
      {"[pool]\nmin = 3", [](const Spec& s) -> uint64_t { return s.parked_min; }, 3},
      {"[pool]\nmax = 9", [](const Spec& s) -> uint64_t { return s.parked_max; }, 9},
      {"[network]\nloopback = false", [](const Spec& s) -> uint64_t { return s.loopback; }, 0},
      {"[terminal]\nptys = 2", [](const Spec& s) -> uint64_t { return s.ptys; }, 2},
      {"[limits.default]\ngrace = \"1s\"", [](const Spec& s) { return s.defaults.grace_ms; },
       1'000},
      {"[limits.maximum]\ngrace = \"2s\"", [](const Spec& s) { return s.maximum.grace_ms; }, 2'000},
  };
  auto plain = config::parseManifest(least, "m.toml");
  ASSERT_TRUE(plain) << plain.error().message;
  for (const Case& c : cases) {
    auto manifest = config::parseManifest(least + c.text, "m.toml");
    ASSERT_TRUE(manifest) << c.text << ": " << manifest.error().message;
    EXPECT_EQ(c.told(toSpec(*manifest)), c.want) << c.text;
    EXPECT_NE(c.told(toSpec(*plain)), c.want) << c.text << ": the default shows nothing";
  }
  const std::string forks =
      "name = 'x'\ndescription = 'x'\nmechanism = 'fork'\n[image]\n[zygote]\nargv = ['/x']\n"
      "without_trial = true\n";
  for (bool modules : {false, true}) {
    auto manifest = config::parseManifest(forks + (modules ? "[task]\nmodules = true" : ""), "m");
    ASSERT_TRUE(manifest) << manifest.error().message;
    EXPECT_EQ(toSpec(*manifest).runs_modules, modules);
  }
}

TEST(Templates, TasksEnvironmentIsFixedUnlessTheManifestSaysOtherwise) {
  config::Manifest m;
  m.mechanism = config::Mechanism::exec;
  m.task_env = {{"A", "1"}, {"PATH", "/opt/bin"}};
  auto spec = toSpec(m);
  auto value = [&](std::string_view name) {
    std::string found;
    for (const auto& [n, v] : spec.env)
      if (n == name) found += v;
    return found;
  };
  EXPECT_EQ(value("PATH"), "/opt/bin");
  EXPECT_EQ(value("HOME"), "/task");
  EXPECT_EQ(value("A"), "1");
  EXPECT_TRUE(spec.runs_commands);
  EXPECT_FALSE(spec.runs_code);
}

}  // namespace
}  // namespace mayfly::app
