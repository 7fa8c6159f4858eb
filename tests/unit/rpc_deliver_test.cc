// Server::deliver: at the daemon's stop, what has ended reaches its clients.
#include "rpc_peer.h"

namespace mayfly {
namespace {

using test::FakeCore;
using test::Peer;
using test::Sink;
using test::SinkLog;

constexpr uint64_t kLongMs = 60'000;

class DeliverTest : public test::RpcFixture {
 protected:
  // Begins; the future is ready when the server has called back.
  std::future<void> deliver(uint64_t ms_max) {
    auto done = std::make_shared<std::promise<void>>();
    onServer([&](rpc::Server& server) { server.deliver(ms_max, [done] { done->set_value(); }); });
    return done->get_future();
  }
  static bool isReady(std::future<void>& done) {
    return done.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }
};

TEST_F(DeliverTest, WhereNothingIsOnItsWayItIsDoneAtOnce) {
  start();
  Peer idle(socket_path);
  EXPECT_EQ(idle.mayfly.tasksRequest().send().wait(idle.io.waitScope).getError().getCode(),
            schema::ErrorCode::OK);
  EXPECT_EQ(deliver(kLongMs).wait_for(test::kEventTime), std::future_status::ready);
}

TEST_F(DeliverTest, AnEndedTasksOutputAndVerdictReachAClientThatReadsSlowly) {
  start();
  Peer peer(socket_path);
  SinkLog log;
  log.hold = true;
  auto request = peer.submitRequest("echo", "the last words");
  request.setOutput(kj::heap<Sink>(log));
  auto submitted = request.send();
  auto wait = submitted.getTask().waitRequest().send();
  ASSERT_TRUE(peer.until([&] { return log.writes == 1; }));  // the core has told the result
  auto done = deliver(kLongMs);
  // Nothing but the client's reading can end it.
  for (int i = 0; i < 50; ++i) {
    EXPECT_FALSE(isReady(done));
    peer.io.provider->getTimer().afterDelay(1 * kj::MILLISECONDS).wait(peer.io.waitScope);
  }
  log.release();
  auto result = wait.wait(peer.io.waitScope);
  EXPECT_EQ(result.getResult().getVerdict(), schema::Verdict::SUCCEEDED);
  EXPECT_EQ(log.out, "the last words");
  EXPECT_TRUE(peer.until([&] { return isReady(done); }));
}

TEST_F(DeliverTest, AClientThatAsksForTheFilesOfItsResultGetsThem) {
  start();
  Peer peer(socket_path);
  auto task = peer.submitRequest("files").send().getTask();
  auto wait = task.waitRequest().send();
  auto result = wait.wait(peer.io.waitScope);
  auto done = deliver(kLongMs);
  uint64_t bytes = 0;
  for (bool end = false; !end;) {
    auto read = task.readFileRequest();
    read.setIndex(2);
    read.setOffset(bytes);
    read.setBytesMax(100'000);
    auto piece = read.send().wait(peer.io.waitScope);
    ASSERT_EQ(piece.getError().getCode(), schema::ErrorCode::OK);
    bytes += piece.getData().size();
    end = piece.getEnd();
    EXPECT_FALSE(isReady(done)) << bytes;
  }
  EXPECT_EQ(bytes, 3'000'000u);
  EXPECT_TRUE(peer.until([&] { return isReady(done); })) << "then it is quiet";
}

TEST_F(DeliverTest, AClientThatDoesNotReadHoldsNothingUpForLongerThanTheBound) {
  start();
  Peer peer(socket_path);
  SinkLog log;
  log.hold = true;
  auto request = peer.submitRequest("echo", "unread");
  request.setOutput(kj::heap<Sink>(log));
  auto submitted = request.send();
  ASSERT_TRUE(peer.until([&] { return log.writes == 1; }));
  auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(deliver(50).wait_for(test::kEventTime), std::future_status::ready);
  EXPECT_GE(std::chrono::steady_clock::now() - began, std::chrono::milliseconds(50));
}

}  // namespace
}  // namespace mayfly
