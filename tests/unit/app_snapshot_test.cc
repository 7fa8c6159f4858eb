// The socket at which root offers snapshots: what is taken, what is refused, who may come.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <vector>

#include "app/snapshot_door.h"
#include "wire/offer_check.h"

namespace mayfly::app {
namespace {

constexpr auto kPatience = std::chrono::seconds(20);  // a bound, never a wait

struct SnapshotDoorTest : testing::Test {
  std::string folder, path;
  boost::asio::io_context io;
  std::unique_ptr<SnapshotDoor> door;
  std::vector<std::string> offered;
  std::optional<SnapshotDoor::Answer> pending;
  size_t folders = 0;

  void SetUp() override {
    char name[] = "/tmp/mayfly-door-test-XXXXXX";
    folder = ::mkdtemp(name);
    path = folder + "/x.snap";
    auto listener = listenForSnapshots(path);
    ASSERT_TRUE(listener) << listener.error().message;
    door = std::make_unique<SnapshotDoor>(
        io, std::move(*listener),
        [this](const wire::Offer& offer, base::Fd given, SnapshotDoor::Answer answer) {
          offered.push_back(std::string(offer.template_name) + " " + offer.key);
          folders += given ? 1 : 0;
          pending = std::move(answer);
        });
  }
  void TearDown() override {
    door.reset();
    (void)!::system(("rm -rf '" + folder + "'").c_str());
  }

  template <class P>
  void until(P done) {
    const auto give_up = std::chrono::steady_clock::now() + kPatience;
    while (!done()) {
      ASSERT_LT(std::chrono::steady_clock::now(), give_up) << "the awaited event did not come";
      io.restart();
      io.run_one_for(std::chrono::milliseconds(100));
    }
  }
  base::Fd connect() {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path.data(), path.size());
    base::Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_TRUE(base::setNonblocking(fd.view()));
    return fd;
  }
  static wire::Offer sound() {
    wire::Offer offer;
    strcpy(offer.template_name, "node");
    strcpy(offer.key, "k");
    return offer;
  }
  void send(const base::Fd& to, const wire::Offer& offer) {
    base::Fd some(::open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_TRUE(base::sendMessage(to.view(), base::bytesOf(offer), {{some.get()}}));
  }
  wire::OfferAnswer answerOf(const base::Fd& from) {
    wire::OfferAnswer answer;
    until([&] {
      auto got = base::receiveMessage(from.view(), base::writableBytesOf(answer));
      if (!got) return false;
      EXPECT_EQ(faultOf(answer, got->bytes, got->fds), nullptr);
      return true;
    });
    return answer;
  }
  bool closed(const base::Fd& peer) {
    bool end = false;
    until([&] {
      char byte;
      const ssize_t n = ::recv(peer.get(), &byte, 1, 0);
      end = n == 0 || (n < 0 && errno == ECONNRESET);
      return end;
    });
    return end;
  }
};

TEST_F(SnapshotDoorTest, AnOfferIsTakenAndAnsweredWhenItServes) {
  base::Fd peer = connect();
  send(peer, sound());
  until([&] { return pending.has_value(); });
  EXPECT_EQ(offered, std::vector<std::string>{"node k"});
  EXPECT_EQ(folders, 1u);
  char byte;
  EXPECT_EQ(::recv(peer.get(), &byte, 1, MSG_PEEK), -1);  // no answer before
  (*pending)(base::Unit{});
  EXPECT_EQ(answerOf(peer).code, 0);
}

TEST_F(SnapshotDoorTest, ARefusalIsToldInWords) {
  base::Fd peer = connect();
  send(peer, sound());
  until([&] { return pending.has_value(); });
  (*pending)(base::fail(base::Code::failedPrecondition, std::string(4'000, 'w'), "Do this."));
  const wire::OfferAnswer answer = answerOf(peer);
  EXPECT_EQ(answer.code, static_cast<int32_t>(base::Code::failedPrecondition));
  EXPECT_EQ(strlen(answer.text), sizeof answer.text - 1);
  EXPECT_STREQ(answer.advice, "Do this.");
}

TEST_F(SnapshotDoorTest, AnOfferOfAnotherBuildIsRefusedAndASecondOneEndsTheConnection) {
  base::Fd other = connect();
  wire::Offer old = sound();
  old.version = 99;
  send(other, old);
  EXPECT_EQ(answerOf(other).code, static_cast<int32_t>(base::Code::invalidArgument));
  base::Fd twice = connect();
  send(twice, sound());
  send(twice, sound());
  EXPECT_TRUE(closed(twice));
  EXPECT_EQ(offered.size(), 1u);
}

TEST_F(SnapshotDoorTest, WithoutAFreeDescriptorItPausesAndThenServes) {
  base::Fd peer = connect();
  send(peer, sound());
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const int lowest_free = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ::close(lowest_free);
  const rlimit none{static_cast<rlim_t>(lowest_free), before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  size_t handlers = 0;
  io.restart();
  for (constexpr size_t kTurns = 1'000; handlers < kTurns && io.poll_one() != 0;) ++handlers;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_LE(handlers, 2u) << "it spins";
  EXPECT_TRUE(offered.empty());
  until([&] { return pending.has_value(); });
  EXPECT_EQ(offered, std::vector<std::string>{"node k"});
}

TEST_F(SnapshotDoorTest, AnAnswerForAPeerThatIsGoneHarmsNobody) {
  base::Fd peer = connect();
  send(peer, sound());
  until([&] { return pending.has_value(); });
  peer.reset();
  io.restart();
  io.poll();
  (*pending)(base::Unit{});
  base::Fd next = connect();
  pending.reset();
  send(next, sound());
  until([&] { return pending.has_value(); });
  door.reset();  // an answer after the door's end, too
  (*pending)(base::Unit{});
}

TEST_F(SnapshotDoorTest, ConnectionsAreFew) {
  std::vector<base::Fd> peers;
  for (size_t i = 0; i < SnapshotDoor::kConnectionsMax; ++i) {
    peers.push_back(connect());
    io.restart();
    io.poll();
  }
  base::Fd one_more = connect();
  EXPECT_TRUE(closed(one_more));
  peers.pop_back();
  io.restart();
  io.poll();
  peers.push_back(connect());
  send(peers.back(), sound());
  until([&] { return pending.has_value(); });
}

TEST_F(SnapshotDoorTest, OnlyRootReachesIt) {
  struct stat st;
  ASSERT_EQ(::stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to be another user";
  // Even if the mode let somebody in.
  ASSERT_EQ(::chmod(path.c_str(), 0666), 0);
  ASSERT_EQ(::chmod(folder.c_str(), 0755), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setresuid(65'534, 65'534, 65'534) != 0) ::_exit(2);
    base::Fd peer = connect();
    ::fcntl(peer.get(), F_SETFL, 0);
    char byte;
    ::_exit(::recv(peer.get(), &byte, 1, 0) == 0 ? 0 : 1);  // closed at once
  }
  int status = 0;
  until([&] { return ::waitpid(child, &status, WNOHANG) == child; });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(SnapshotDoorTest, ADeadDaemonsSocketIsReplacedAndNoOtherFile) {
  door.reset();
  EXPECT_TRUE(listenForSnapshots(path));
  const std::string file = folder + "/file";
  base::Fd made(::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  EXPECT_FALSE(listenForSnapshots(file));
  EXPECT_FALSE(listenForSnapshots(folder + "/" + std::string(200, 'x')));
}

}  // namespace
}  // namespace mayfly::app
