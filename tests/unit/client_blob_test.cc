// The C++ client's blobs, futures and deadlines against the real server over a fake core.
#include <fcntl.h>
#include <mayfly/client.h>

#include "cli/bring.h"
#include "edge/sha256.h"
#include "rpc_fake_core.h"

namespace mayfly {
namespace {

using base::Code;
using test::FakeCore;
using test::kEventTime;

std::array<uint8_t, 32> sha256(std::string_view bytes) {
  edge::Sha256Sum sum;
  sum.add(bytes);
  return sum.take();
}

class ClientBlobs : public test::RpcFixture {
 protected:
  // Of one user.
  void setBlobBytes(uint64_t max) {
    core.account_bounds.setPool(sched::Resource::blobBytes, 1u << 30, max);
  }
  std::unique_ptr<Client> connect(ConnectOptions connect_options = {}) {
    auto client = Client::connect(socket_path, connect_options);
    EXPECT_TRUE(client) << client.error().message;
    return client ? std::move(*client) : nullptr;
  }
  static TaskSpec spec(std::string name) {
    TaskSpec s;
    s.template_name = std::move(name);
    s.kind = CodeKind::string;
    return s;
  }
  // A file without a name, and what is in it.
  static base::Fd fileOf(std::string_view bytes) {
    base::Fd fd(::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    EXPECT_EQ(::write(fd.get(), bytes.data(), bytes.size()), ssize_t(bytes.size()));
    return fd;
  }
  static std::string manyBytes(size_t count) {
    std::string bytes(count, '\0');
    for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>(i * 7 % 253);
    return bytes;
  }
};

TEST_F(ClientBlobs, AFileIsUploadedInPiecesAndReachesTheTask) {
  start();
  auto client = connect();
  std::string bytes = manyBytes(5'000'001);
  base::Fd file = fileOf(bytes);
  auto blob = client->upload(file.view());
  ASSERT_TRUE(blob) << blob.error().message;
  EXPECT_EQ(blob->sha256, sha256(bytes));
  EXPECT_EQ(blob->size_bytes, bytes.size());
  TaskSpec s = spec("hold");
  s.files = {{"big.bin", {}, 0600, *blob}, {"small", "x", 0644, {}}};
  auto task = client->submit(s);
  ASSERT_TRUE(task) << task.error().message;
  onCore([&](FakeCore& c) {
    auto& files = c.task(task->id()).spec.files;
    ASSERT_EQ(files.size(), 2u);
    EXPECT_EQ(files[0].mode, 0600u);
    std::string got(bytes.size(), '?');
    EXPECT_EQ(::pread(files[0].blob->get(), got.data(), got.size(), 0), ssize_t(bytes.size()));
    EXPECT_TRUE(got == bytes);
    EXPECT_FALSE(files[1].blob);
    EXPECT_EQ(files[1].data, "x");
  });
}

TEST_F(ClientBlobs, AFileThatGaveWayBeforeTheSubmitIsUploadedAgain) {
  start();
  auto client = connect(), other = connect();
  const std::string bytes = manyBytes(300'000);
  std::vector<cli::Input> inputs(2);
  inputs[0].file.path = "small";
  inputs[0].file.data = "x";
  inputs[1].file.path = "big";
  inputs[1].large = fileOf(bytes);
  TaskSpec s = spec("hold");
  ASSERT_TRUE(cli::bring(*client, inputs, &s));
  ASSERT_EQ(s.files.size(), 2u);
  ASSERT_TRUE(s.files[1].blob);
  ASSERT_TRUE(other->removeBlob(*s.files[1].blob));
  EXPECT_EQ(client->submit(s).error().code, Code::notFound);
  auto task = cli::submitBrought(*client, inputs, s, {});
  ASSERT_TRUE(task) << task.error().message;
  onCore([&](FakeCore& c) {
    auto& files = c.task(task->id()).spec.files;
    ASSERT_EQ(files.size(), 2u);
    EXPECT_EQ(files[0].data, "x");
    EXPECT_EQ(files[1].blob_bytes, bytes.size());
  });
}

TEST_F(ClientBlobs, NothingIsSentAgainIfTheBlobsAreNotWhatIsMissing) {
  start();
  auto client = connect();
  std::vector<cli::Input> inputs(1);
  inputs[0].file.path = "big";
  inputs[0].large = fileOf(manyBytes(300'000));
  TaskSpec s = spec("hold");
  ASSERT_TRUE(cli::bring(*client, inputs, &s));
  s.template_name = "missing";
  auto task = cli::submitBrought(*client, inputs, s, {});
  ASSERT_FALSE(task);
  EXPECT_EQ(task.error().code, Code::notFound) << task.error().message;
}

TEST_F(ClientBlobs, BytesAreUploadedOnceListedAndRemoved) {
  start();
  auto client = connect();
  std::string bytes = manyBytes(300'000);
  auto first = client->upload(bytes), again = client->upload(bytes), empty = client->upload("");
  ASSERT_TRUE(first && again && empty);
  EXPECT_EQ(first->sha256, again->sha256);
  auto listed = client->blobs();
  ASSERT_TRUE(listed);
  ASSERT_EQ(listed->size(), 2u);
  for (auto& each : *listed) EXPECT_LE(each.expires_ms, options.blob_ttl_ms);
  EXPECT_TRUE(client->removeBlob(*first));
  EXPECT_EQ(client->removeBlob(*first).error().code, Code::notFound);
  EXPECT_EQ(client->blobs()->size(), 1u);
  TaskSpec s = spec("hold");
  s.files = {{"gone", {}, 0644, *first}};
  auto refused = client->submit(s);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::notFound);
  EXPECT_NE(refused.error().message.find("'gone'"), std::string::npos);
}

TEST_F(ClientBlobs, WhatIsTooLargeIsRefusedBeforeItIsRead) {
  setBlobBytes(1000);
  start();
  auto client = connect();
  EXPECT_EQ(client->server().blob_bytes_max, 1000u);
  base::Fd file(::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_EQ(::ftruncate(file.get(), 5ll << 40), 0);  // sparse: to read it would take an hour
  EXPECT_EQ(client->upload(file.view()).error().code, Code::invalidArgument);
  EXPECT_TRUE(client->upload(manyBytes(1000)));
}

TEST_F(ClientBlobs, AFullShareTakesFromUnusedBlobs) {
  setBlobBytes(1000);
  start();
  auto client = connect();
  ASSERT_TRUE(client->upload(manyBytes(900)));
  auto second = client->upload(manyBytes(200));
  ASSERT_TRUE(second) << second.error().message;
  auto left = client->blobs();
  ASSERT_TRUE(left);
  ASSERT_EQ(left->size(), 1u);
  EXPECT_EQ(left->at(0).blob.sha256, second->sha256);
}

TEST_F(ClientBlobs, WhatIsNoRegularFileIsRefusedAndAnAbsentOneNamed) {
  start();
  auto client = connect();
  auto pipe = base::makePipe();
  EXPECT_EQ(client->upload(pipe->read.view()).error().code, Code::invalidArgument);
  auto absent = client->uploadFile("/tmp/mayfly-absent-file");
  ASSERT_FALSE(absent);
  EXPECT_NE(absent.error().message.find("mayfly-absent-file"), std::string::npos);
}

TEST_F(ClientBlobs, AnUploadThatFailsLeavesNothingReserved) {
  setBlobBytes(1'000'000);
  start();
  auto client = connect();
  std::string bytes = manyBytes(1'000'000);
  base::Fd file = fileOf(bytes);
  // No time for it: at whatever point it is given up, its share is free again.
  for (uint64_t deadline_ms = 0; deadline_ms < 4; ++deadline_ms) {
    auto late = client->upload(file.view(), deadline_ms);
    if (late) {
      ASSERT_TRUE(client->removeBlob(*late));
    } else {
      EXPECT_EQ(late.error().code, Code::deadlineExceeded) << late.error().message;
    }
  }
  auto other = client->upload(manyBytes(999'999));
  EXPECT_TRUE(other) << other.error().message;
}

TEST_F(ClientBlobs, ManyThreadsThatUploadTheSameBytesStoreThemOnce) {
  std::string bytes = manyBytes(400'000);
  setBlobBytes(bytes.size());  // no second copy has room
  start();
  std::vector<std::future<base::Result<BlobRef>>> all;
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 8; ++i) clients.push_back(connect());
  for (auto& client : clients)
    all.push_back(
        std::async(std::launch::async, [&, c = client.get()] { return c->upload(bytes); }));
  for (auto& each : all) {
    auto blob = each.get();
    EXPECT_TRUE(blob) << blob.error().message;
  }
  EXPECT_EQ(clients[0]->blobs()->size(), 1u);
}

// --- futures and deadlines ---------------------------------------------------------

TEST_F(ClientBlobs, SubmitAndWaitAsFutures) {
  start();
  auto client = connect();
  std::vector<std::future<base::Result<Task>>> submitted;
  for (int i = 0; i < 20; ++i) submitted.push_back(client->submitAsync(spec("hold")));
  std::vector<Task> tasks;
  for (auto& each : submitted) {
    auto task = each.get();
    ASSERT_TRUE(task) << task.error().message;
    tasks.push_back(std::move(*task));
  }
  std::vector<std::shared_future<base::Result<TaskResult>>> results;
  for (auto& task : tasks) results.push_back(task.waitAsync());
  EXPECT_NE(results[0].wait_for(std::chrono::seconds(0)), std::future_status::ready);
  for (auto& task : tasks) EXPECT_TRUE(task.cancel());
  for (auto& each : results) EXPECT_EQ(each.get()->verdict, base::Verdict::cancelled);
  auto refused = client->submitAsync(spec("missing")).get();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::notFound);
}

TEST_F(ClientBlobs, ATaskWhoseFutureIsDroppedIsCancelled) {
  start();
  auto client = connect();
  { auto dropped = client->submitAsync(spec("hold")); }
  EXPECT_TRUE(
      eventually("cancelled", [](FakeCore& c) { return c.count() == 1 && c.task(1).ended; }));
}

TEST_F(ClientBlobs, FuturesOutliveTheClientAndSayThatItIsGone) {
  start();
  for (int i = 0; i < 50; ++i) {
    auto client = connect();
    auto dropped = client->submitAsync(spec("hold"));
    auto kept = client->submitAsync(spec("hold"));
    auto run = client->runAsync(spec("hold"));
    { auto gone = std::move(dropped); }
    client.reset();
    // The task, where it came in time, keeps the connection.
    auto task = kept.get();
    if (task) {
      task->close();
    } else {
      EXPECT_EQ(task.error().code, Code::unavailable);
    }
    task = base::fail(Code::internal, "dropped");
    auto result = run.get();
    if (!result) {
      EXPECT_EQ(result.error().code, Code::unavailable);
    }
  }
}

TEST_F(ClientBlobs, ARunBeyondItsDeadlineIsGivenUpCancelledAndSilent) {
  start();
  auto client = connect();
  std::atomic<int> heard = 0;
  {
    Callbacks callbacks;
    callbacks.on_output = [&](Stream, std::string_view) { ++heard; };
    callbacks.on_result = [&](const base::Result<TaskResult>& r) {
      EXPECT_EQ(r.error().code, Code::deadlineExceeded);
    };
    auto late = client->run(spec("hold"), callbacks, 30);
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().code, Code::deadlineExceeded);
  }
  EXPECT_TRUE(
      eventually("cancelled", [](FakeCore& c) { return c.count() == 1 && c.task(1).ended; }));
  EXPECT_EQ(heard, 0);
  EXPECT_TRUE(client->run(spec("echo"), {}, 20'000));
}

TEST_F(ClientBlobs, AnswersThatDoNotComeInTimeAreDeadlines) {
  start();
  auto client = connect();
  auto task = client->submit(spec("hold"));
  ASSERT_TRUE(task);
  TaskSpec with_stdin = spec("hold");
  with_stdin.stdin_open = true;
  auto reader = client->submit(with_stdin);
  ASSERT_TRUE(reader);
  EXPECT_EQ(reader->writeStdin("nobody reads it", 20).error().code, Code::deadlineExceeded);
  // The core's thread is busy: whatever needs it waits.
  std::promise<void> busy, go_on;
  std::thread core_thread([&] {
    onCore([&](FakeCore&) {
      busy.set_value();
      go_on.get_future().wait();
    });
  });
  busy.get_future().wait();
  EXPECT_EQ(client->tasks(5).error().code, Code::deadlineExceeded);
  EXPECT_EQ(client->templates(5).error().code, Code::deadlineExceeded);
  EXPECT_EQ(client->kill(1, 5).error().code, Code::deadlineExceeded);
  EXPECT_EQ(client->submit(spec("hold"), {}, 5).error().code, Code::deadlineExceeded);
  EXPECT_EQ(client->submitAsync(spec("hold"), {}, 5).get().error().code, Code::deadlineExceeded);
  EXPECT_EQ(client->run(spec("hold"), {}, 5).error().code, Code::deadlineExceeded);
  EXPECT_EQ(task->wait(5).error().code, Code::deadlineExceeded);
  go_on.set_value();
  core_thread.join();
  // What was given up while it was being submitted does not stay.
  EXPECT_TRUE(eventually("cancelled", [](FakeCore& c) {
    if (c.count() != 5) return false;
    return c.task(3).ended && c.task(4).ended && c.task(5).ended;
  }));
  EXPECT_TRUE(client->tasks());
}

TEST_F(ClientBlobs, ADaemonThatTakesNoConnectionIsADeadline) {
  std::string path = "/tmp/mayfly-unit-silent-" + std::to_string(::getpid());
  base::Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 0), 0);
  ConnectOptions quick;
  quick.call_deadline_ms = 30;
  EXPECT_EQ(Client::connect(path, quick).error().code, Code::deadlineExceeded);   // in the queue
  EXPECT_EQ(Client::connect(path, quick).error().code, Code::resourceExhausted);  // it is full
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace mayfly
