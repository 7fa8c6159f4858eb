// The server against hostile and slow clients: sinks that do not return, messages that are too
// large, unread answers. The C++ client does none of this.
#include <capnp/message.h>
#include <capnp/rpc-twoparty.h>
#include <capnp/rpc.capnp.h>
#include <capnp/serialize.h>
#include <fcntl.h>
#include <kj/async-io.h>
#include <mayfly/mayfly.capnp.h>
#include <poll.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <memory>
#include <mutex>

#include "base/call_filter.h"
#include "edge/message_stream.h"
#include "full_table.h"
#include "rpc/task.h"
#include "rpc_peer.h"

namespace mayfly {
namespace {

using test::appendMessage;
using test::FakeCore;
using test::isEnded;
using test::Peer;
using test::rawConnect;
using test::Sink;
using test::SinkLog;

class RpcTest : public test::RpcFixture {};

TEST_F(RpcTest, ASinkThatDoesNotReturnStopsTheFlowAtTheWindow) {
  start();
  Peer peer(socket_path);
  SinkLog log;
  log.hold = true;
  auto request = peer.submitRequest("flood", "3000000");
  request.setOutput(kj::heap<Sink>(log));
  auto submitted = request.send().wait(peer.io.waitScope);
  ASSERT_EQ(submitted.getError().getCode(), schema::ErrorCode::OK);
  auto waiting = submitted.getTask().waitRequest().send();
  ASSERT_TRUE(peer.until([&] { return log.writes == 1; }));
  // The task's window is full, and no second write comes before the first has returned.
  ASSERT_TRUE(eventually(
      "a full window", [](FakeCore& c) { return c.task(1).sent[0] == sched::kOutputWindowBytes; }));
  for (int i = 0; i < 50; ++i) peer.mayfly.tasksRequest().send().wait(peer.io.waitScope);
  EXPECT_EQ(log.writes, 1u);
  EXPECT_EQ(onCore([](FakeCore& c) { return c.task(1).acknowledged[0]; }), 0u);
  EXPECT_EQ(onCore([](FakeCore& c) { return c.task(1).sent[0]; }), sched::kOutputWindowBytes);
  log.release();
  auto result = waiting.wait(peer.io.waitScope);
  EXPECT_TRUE(log.started);
  EXPECT_EQ(log.out.size(), 3'000'000u);
  for (size_t i = 0; i < log.out.size(); i += 9973)
    ASSERT_EQ(static_cast<unsigned char>(log.out[i]), i % 251);
  EXPECT_EQ(result.getResult().getVerdict(), schema::Verdict::SUCCEEDED);
}

TEST_F(RpcTest, WaitReturnsOnlyAfterTheLastWriteReturned) {
  start();
  Peer peer(socket_path);
  SinkLog log;
  log.hold = true;
  auto request = peer.submitRequest("echo", "x");
  request.setOutput(kj::heap<Sink>(log));
  auto submitted = request.send().wait(peer.io.waitScope);
  bool returned = false;
  auto waiting = submitted.getTask()
                     .waitRequest()
                     .send()
                     .then([&](auto&&) { returned = true; })
                     .eagerlyEvaluate(nullptr);
  ASSERT_TRUE(eventually("the end", [](FakeCore& c) { return c.task(1).ended; }));
  ASSERT_TRUE(peer.until([&] { return log.writes == 1; }));
  for (int i = 0; i < 50; ++i) peer.mayfly.tasksRequest().send().wait(peer.io.waitScope);
  EXPECT_FALSE(returned);
  log.release();
  waiting.wait(peer.io.waitScope);
  EXPECT_EQ(log.err, "err");
}

// Counts lines of the log.
class LineCount final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit LineCount(std::string_view words) : words_(words) {}
  int lines() const { return lines_; }

 private:
  void sink_it_(const spdlog::details::log_msg& line) override {
    if (std::string_view(line.payload.data(), line.payload.size()).find(words_) !=
        std::string_view::npos)
      ++lines_;
  }
  void flush_() override {}

  std::string words_;
  std::atomic<int> lines_ = 0;
};

TEST_F(RpcTest, AcceptingGoesOnOnceTheTableOfDescriptorsHasRoom) {
  if (base::kSanitized) GTEST_SKIP() << "UBSan's check of dynamic types opens descriptors itself";
  auto refused = std::make_shared<LineCount>("accept");
  spdlog::default_logger()->sinks().push_back(refused);
  start();
  Peer before(socket_path);
  before.mayfly.tasksRequest().send().wait(before.io.waitScope);
  base::Fd late(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket_path.copy(address.sun_path, sizeof address.sun_path - 1);
  {
    test::FullTable full;
    ASSERT_EQ(::connect(late.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_TRUE(before.until([&] { return refused->lines() > 1; }));
    before.mayfly.tasksRequest().send().wait(before.io.waitScope);  // who is in, is served
  }
  Peer after(socket_path, before);
  bool answered = false;
  auto asked = after.mayfly.tasksRequest()
                   .send()
                   .then([&](auto&&) { answered = true; })
                   .eagerlyEvaluate(nullptr);
  EXPECT_TRUE(after.until([&] { return answered; }));
  stopServer();
  spdlog::default_logger()->sinks().pop_back();
}

TEST_F(RpcTest, OneSlowSinkDoesNotHoldUpAnotherTask) {
  start();
  Peer peer(socket_path);
  SinkLog slow, quick;
  slow.hold = true;
  auto first = peer.submitRequest("flood", "1000000");
  first.setOutput(kj::heap<Sink>(slow));
  auto held = first.send().wait(peer.io.waitScope);
  auto second = peer.submitRequest("flood", "1000000");
  second.setOutput(kj::heap<Sink>(quick));
  auto task = second.send().wait(peer.io.waitScope).getTask();
  task.waitRequest().send().wait(peer.io.waitScope);
  EXPECT_EQ(quick.out.size(), 1'000'000u);
  EXPECT_LE(slow.out.size(), sched::kOutputWindowBytes);
}

TEST_F(RpcTest, ASinkThatFailsCancelsItsTask) {
  start();
  Peer peer(socket_path);
  SinkLog log;
  log.fail = true;
  auto request = peer.submitRequest("flood", "3000000");
  request.setOutput(kj::heap<Sink>(log));
  auto task = request.send().wait(peer.io.waitScope).getTask();
  auto result = task.waitRequest().send().wait(peer.io.waitScope);
  EXPECT_EQ(result.getResult().getVerdict(), schema::Verdict::CANCELLED);
  EXPECT_EQ(log.writes, 1u);
}

TEST_F(RpcTest, WhoWaitsForTheResultGivesTheTaskItsGraceAndCloseDoesNot) {
  start();
  Peer peer(socket_path);
  auto& scope = peer.io.waitScope;
  auto cancelled = peer.submitRequest("hold").send().wait(scope);
  auto killed = peer.submitRequest("hold").send().wait(scope);
  auto closed = peer.submitRequest("hold").send().wait(scope);
  cancelled.getTask().cancelRequest().send().wait(scope);
  auto kill = peer.mayfly.killRequest();
  kill.setId(killed.getId());
  kill.send().wait(scope);
  closed.getTask().closeRequest().send().wait(scope);
  using sched::Cancel;
  EXPECT_EQ(onCore([](FakeCore& c) { return c.cancels; }),
            (std::vector<Cancel>{Cancel::soft, Cancel::soft, Cancel::atOnce}));
}

TEST_F(RpcTest, TheResultTellsOfAnEndWithinTheGrace) {
  start();
  Peer peer(socket_path);
  auto task = peer.submitRequest("hold").send().wait(peer.io.waitScope).getTask();
  onCore([](FakeCore& c) {
    c.end(c.task(1), base::Verdict::wallTime, [](sched::TaskResult& r) {
      r.in_grace = true;
      r.exit_code = 3;
      r.limits.grace_ms = 7;
    });
  });
  auto result = task.waitRequest().send().wait(peer.io.waitScope);
  EXPECT_TRUE(result.getResult().getInGrace());
  EXPECT_EQ(result.getResult().getExitCode(), 3);
  EXPECT_EQ(result.getResult().getLimits().getGraceMs(), 7u);
}

TEST_F(RpcTest, AClientThatDiesWithAWriteOutstandingIsGoneToTheCore) {
  start();
  {
    Peer peer(socket_path);
    SinkLog log;
    log.hold = true;
    auto request = peer.submitRequest("flood", "3000000");
    request.setOutput(kj::heap<Sink>(log));
    auto task = request.send().wait(peer.io.waitScope).getTask();
    auto waiting = task.waitRequest().send();
    ASSERT_TRUE(peer.until([&] { return log.writes == 1; }));
  }
  EXPECT_TRUE(eventually("owner gone", [](FakeCore& c) { return c.owners_gone.size() == 1; }));
  EXPECT_TRUE(onCore([](FakeCore& c) { return c.task(1).ended; }));
  EXPECT_EQ(onCore([](FakeCore& c) { return c.task(1).verdict; }), base::Verdict::clientGone);
}

TEST_F(RpcTest, CloseEndsTheTaskAndItsWaits) {
  start();
  Peer peer(socket_path);
  auto task = peer.submitRequest("hold").send().wait(peer.io.waitScope).getTask();
  auto waiting = task.waitRequest().send();
  task.closeRequest().send().wait(peer.io.waitScope);
  EXPECT_EQ(waiting.wait(peer.io.waitScope).getError().getCode(), schema::ErrorCode::CANCELLED);
  EXPECT_TRUE(eventually("cancelled", [](FakeCore& c) { return c.task(1).ended; }));
  // Later calls get an answer, but no service.
  task.closeRequest().send().wait(peer.io.waitScope);
  EXPECT_EQ(task.waitRequest().send().wait(peer.io.waitScope).getError().getCode(),
            schema::ErrorCode::CANCELLED);
  auto read = task.readFileRequest();
  read.setBytesMax(1);
  EXPECT_EQ(read.send().wait(peer.io.waitScope).getError().getCode(),
            schema::ErrorCode::FAILED_PRECONDITION);
  auto write = task.writeStdinRequest();
  write.setData(edge::data("x"));
  EXPECT_EQ(write.send().wait(peer.io.waitScope).getError().getCode(),
            schema::ErrorCode::FAILED_PRECONDITION);
}

TEST_F(RpcTest, WaitMayBeCalledAgainButNotWithoutBound) {
  start();
  Peer peer(socket_path);
  auto task = peer.submitRequest("hold").send().wait(peer.io.waitScope).getTask();
  std::vector<capnp::RemotePromise<schema::Task::WaitResults>> waits;
  for (uint32_t i = 0; i < rpc::kWaitsPerTaskMax; ++i) waits.push_back(task.waitRequest().send());
  EXPECT_EQ(task.waitRequest().send().wait(peer.io.waitScope).getError().getCode(),
            schema::ErrorCode::RESOURCE_EXHAUSTED);
  waits.pop_back();  // a dropped wait makes room
  auto again = task.waitRequest().send();
  onCore([](FakeCore& c) { c.end(c.task(1), base::Verdict::succeeded); });
  EXPECT_EQ(again.wait(peer.io.waitScope).getError().getCode(), schema::ErrorCode::OK);
  for (auto& each : waits)
    EXPECT_EQ(each.wait(peer.io.waitScope).getResult().getVerdict(), schema::Verdict::SUCCEEDED);
}

TEST_F(RpcTest, StdinIsBoundedPerCallAndByWhatIsUntaken) {
  start();
  Peer peer(socket_path);
  auto request = peer.submitRequest("hold");
  request.getSpec().setStdinOpen(true);
  auto task = request.send().wait(peer.io.waitScope).getTask();
  auto write = [&](size_t bytes) {
    std::string data(bytes, 'x');
    auto call = task.writeStdinRequest();
    call.setData(edge::data(data));
    return call.send();
  };
  EXPECT_EQ(write(schema::CHUNK_BYTES_MAX + 1).wait(peer.io.waitScope).getError().getCode(),
            schema::ErrorCode::INVALID_ARGUMENT);
  auto first = write(schema::CHUNK_BYTES_MAX);
  auto second = write(1).wait(peer.io.waitScope);
  EXPECT_EQ(second.getError().getCode(), schema::ErrorCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(second.getError().getRetryable());
  onCore([](FakeCore& c) { c.task(1).listener->onStdinAccepted(schema::CHUNK_BYTES_MAX); });
  EXPECT_EQ(first.wait(peer.io.waitScope).getError().getCode(), schema::ErrorCode::OK);
}

TEST_F(RpcTest, ANewerProtocolIsRefusedInWordsAndStillToldWhatTheDaemonSpeaks) {
  start();
  Peer peer(socket_path);
  auto hello = peer.mayfly.helloRequest();
  hello.setClient("new");
  hello.setProtocol(schema::PROTOCOL_VERSION + 1);
  auto answer = hello.send().wait(peer.io.waitScope);
  EXPECT_EQ(answer.getError().getCode(), schema::ErrorCode::FAILED_PRECONDITION);
  EXPECT_EQ(answer.getInfo().getProtocol(), schema::PROTOCOL_VERSION);
}

TEST_F(RpcTest, CallsBeyondTheMaximumAreRefused) {
  options.calls_per_connection_max = 3;
  start();
  Peer peer(socket_path);
  auto task = peer.submitRequest("hold").send().wait(peer.io.waitScope).getTask();
  auto a = task.waitRequest().send(), b = task.waitRequest().send(), c = task.waitRequest().send();
  EXPECT_EQ(peer.mayfly.templatesRequest().send().wait(peer.io.waitScope).getError().getCode(),
            schema::ErrorCode::RESOURCE_EXHAUSTED);
  onCore([](FakeCore& fake) { fake.end(fake.task(1), base::Verdict::succeeded); });
  a.wait(peer.io.waitScope);
  b.wait(peer.io.waitScope);
  c.wait(peer.io.waitScope);
  EXPECT_EQ(peer.mayfly.templatesRequest().send().wait(peer.io.waitScope).getError().getCode(),
            schema::ErrorCode::OK);
}

TEST_F(RpcTest, CountsBeyondTheBoundAreRefusedBeforeTheyAreCopied) {
  start();
  Peer peer(socket_path);
  auto request = peer.submitRequest("hold");
  request.getSpec().initArgs(sched::kArgsMax + 1);
  EXPECT_EQ(request.send().wait(peer.io.waitScope).getError().getCode(),
            schema::ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(onCore([](FakeCore& c) { return c.count(); }), 0u);
}

// --- raw bytes --------------------------------------------------------------------

TEST_F(RpcTest, ATooLargeMessageIsRefusedOnItsSegmentTable) {
  start();
  Peer other(socket_path);
  for (std::vector<uint32_t> words : {
           std::vector<uint32_t>{0, (8u << 20) / 8 + 1},         // one segment, a word too long
           std::vector<uint32_t>{1, 0xffffffff, 0xffffffff, 0},  // a sum beyond 32 bits
           std::vector<uint32_t>{512, 0},                        // 513 segments
           std::vector<uint32_t>{0xffffffff, 0},                 // 2^32 segments
       }) {
    base::Fd fd = rawConnect(socket_path);
    ASSERT_EQ(::write(fd.get(), words.data(), words.size() * 4), ssize_t(words.size() * 4));
    EXPECT_TRUE(isEnded(fd.view()));
  }
  EXPECT_EQ(other.mayfly.templatesRequest().send().wait(other.io.waitScope).getTemplates().size(),
            1u);
}

TEST_F(RpcTest, HalfAMessageAndNonsenseEndTheirConnectionOnly) {
  start();
  Peer other(socket_path);
  {
    base::Fd fd = rawConnect(socket_path);
    uint32_t words[] = {0, 1000, 1, 2};
    ASSERT_EQ(::write(fd.get(), words, sizeof words), ssize_t(sizeof words));
    ::shutdown(fd.get(), SHUT_WR);
    EXPECT_TRUE(isEnded(fd.view()));
  }
  {
    base::Fd fd = rawConnect(socket_path);
    std::string nonsense(64, '\0');
    nonsense[4] = 2;  // two words of a root that is not a message
    nonsense[8] = '\xff';
    ASSERT_EQ(::write(fd.get(), nonsense.data(), 24), 24);
    ::shutdown(fd.get(), SHUT_WR);
    EXPECT_TRUE(isEnded(fd.view()));
  }
  EXPECT_EQ(other.mayfly.templatesRequest().send().wait(other.io.waitScope).getTemplates().size(),
            1u);
}

TEST_F(RpcTest, AClientThatNeverReadsIsNotReadFrom) {
  constexpr uint64_t kCalls = 2'000;
  options.unsent_bytes_per_connection_max = 1u << 20;
  core.templates_count = 100;  // ~60 KB an answer: 120 MB if all were made
  start();
  base::Fd fd = rawConnect(socket_path);
  std::string bytes;
  {
    capnp::MallocMessageBuilder message;
    message.initRoot<capnp::rpc::Message>().initBootstrap().setQuestionId(0);
    appendMessage(bytes, message);
  }
  for (uint32_t i = 1; i <= kCalls; ++i) {
    capnp::MallocMessageBuilder message;
    auto call = message.initRoot<capnp::rpc::Message>().initCall();
    call.setQuestionId(i);
    call.initTarget().initPromisedAnswer().setQuestionId(0);
    call.setInterfaceId(capnp::typeId<schema::Mayfly>());
    call.setMethodId(1);  // templates
    call.initParams().getContent().initAs<schema::Mayfly::TemplatesParams>();
    call.initSendResultsTo().setCaller();
    appendMessage(bytes, message);
  }
  std::jthread writer, reader;
  auto hang_up = kj::defer([&] { ::shutdown(fd.get(), SHUT_RDWR); });  // ends both
  writer = std::jthread([&] {
    for (std::string_view rest = bytes; !rest.empty();) {
      ssize_t n = ::send(fd.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
      if (n <= 0) break;
      rest.remove_prefix(static_cast<size_t>(n));
    }
  });
  ASSERT_TRUE(eventually("a call", [](FakeCore& c) { return c.templates_calls > 0; }));
  // The server has had many turns, and made only as many answers as the bound and a few calls
  // allow.
  Peer other(socket_path);
  for (int i = 0; i < 200; ++i) other.mayfly.tasksRequest().send().wait(other.io.waitScope);
  uint64_t made = onCore([](FakeCore& c) { return c.templates_calls; });
  EXPECT_LT(made, kCalls / 4);
  // Once the client reads, the server resumes, and every call is answered.
  reader = std::jthread([&] {
    std::vector<char> buffer(1 << 20);
    while (::read(fd.get(), buffer.data(), buffer.size()) > 0) {
    }
  });
  EXPECT_TRUE(eventually("all calls", [](FakeCore& c) { return c.templates_calls == kCalls; }));
}

// --- the message stream ---------------------------------------------------------------

TEST(MessageStream, MessagesOfEverySizeAndSegmentationPassBothWays) {
  auto io = kj::setupAsyncIo();
  auto pipe = io.provider->newTwoWayPipe();
  edge::MessageStream a(*pipe.ends[0]), b(*pipe.ends[1]);
  for (size_t bytes : {0u, 1u, 1000u, 32'760u, 32'768u, 40'000u, 3'000'000u}) {
    for (bool many : {false, true}) {
      capnp::MallocMessageBuilder message(many ? 16 : 1 << 16,
                                          many ? capnp::AllocationStrategy::FIXED_SIZE
                                               : capnp::AllocationStrategy::GROW_HEURISTICALLY);
      auto spec = message.initRoot<schema::TaskSpec>();
      std::string text(bytes, 'q');
      spec.setTemplate("t");
      spec.getCode().setString(edge::data(text));
      spec.initArgs(3).set(1, "arg");
      // Two at once, so that the second lies in the first's buffer.
      auto written = a.writeMessage(message).then([&] { return a.writeMessage(message); });
      for (int i = 0; i < 2; ++i) {
        auto got = b.readMessage(edge::readerOptions()).wait(io.waitScope);
        auto read = got->getRoot<schema::TaskSpec>();
        ASSERT_EQ(edge::view(read.getCode().getString()), text);
        ASSERT_EQ(edge::view(read.getArgs()[1]), "arg");
      }
      written.wait(io.waitScope);
    }
  }
  pipe.ends[0]->shutdownWrite();
  EXPECT_TRUE(b.tryReadMessage(edge::readerOptions(), nullptr).wait(io.waitScope) == nullptr);
  b.onReadEnd().wait(io.waitScope);
}

TEST(MessageStream, ManyPointersToOneObjectAreBounded) {
  auto io = kj::setupAsyncIo();
  auto pipe = io.provider->newTwoWayPipe();
  edge::MessageStream a(*pipe.ends[0]), b(*pipe.ends[1]);
  // A list of 1000 Data, each a pointer to the same 64 KiB: 8 KB + 64 KB on the wire, 64 MB read.
  std::vector<uint64_t> words{0, 0, 0};
  constexpr uint64_t kCount = 1'000, kDataWords = 8'192;
  words[0] = (1 + kCount + kDataWords) << 32;    // one segment
  words[1] = 1 | (kCount << 35) | (6ull << 32);  // root: a list of pointers
  words.resize(2);
  for (uint64_t i = 0; i < kCount; ++i) {
    uint64_t offset = kCount - 1 - i;
    words.push_back(1 | offset << 2 | 2ull << 32 | (kDataWords * 8) << 35);
  }
  words.resize(words.size() + kDataWords);
  auto written = pipe.ends[0]->write(words.data(), words.size() * 8);
  auto got = b.readMessage(edge::readerOptions()).wait(io.waitScope);
  written.wait(io.waitScope);
  auto list = got->getRoot<capnp::AnyPointer>().getAs<capnp::List<capnp::Data>>();
  ASSERT_EQ(list.size(), kCount);
  uint64_t read = 0;
  auto failure = kj::runCatchingExceptions([&] {
    for (auto data : list) read += data.size();
  });
  EXPECT_TRUE(failure != nullptr);
  EXPECT_LE(read, 3 * edge::kMessageBytesMax);
}

}  // namespace
}  // namespace mayfly
