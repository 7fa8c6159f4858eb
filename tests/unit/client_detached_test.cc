// The C++ client's detached tasks against the real server over a fake core.
#include <mayfly/client.h>

#include "rpc/task.h"
#include "rpc_fake_core.h"

namespace mayfly {
namespace {

using base::Code;
using test::FakeCore;

class ClientDetached : public test::RpcFixture {
 protected:
  std::unique_ptr<Client> connect() {
    auto client = Client::connect(socket_path);
    EXPECT_TRUE(client) << client.error().message;
    return client ? std::move(*client) : nullptr;
  }
  static TaskSpec spec(std::string name, std::string key = {}) {
    TaskSpec s;
    s.template_name = std::move(name);
    s.kind = CodeKind::string;
    s.code = "code";
    s.detach = Detach{60'000, std::move(key)};
    return s;
  }
  bool ended(base::TaskId id) {
    return onCore([id](FakeCore& c) { return c.task(id).ended; });
  }
};

TEST_F(ClientDetached, ATaskOutlivesItsHandleAndItsClientAndIsFoundByIdAndKey) {
  start();
  uint64_t id = 0;
  {
    auto client = connect();
    auto task = client->submit(spec("hold", "nightly"));
    ASSERT_TRUE(task) << task.error().message;
    EXPECT_FALSE(task->existing());
    id = task->id();
  }
  auto client = connect();
  auto by_key = client->find("nightly");
  ASSERT_TRUE(by_key) << by_key.error().message;
  EXPECT_EQ(by_key->id(), id);
  EXPECT_TRUE(by_key->existing());
  auto info = by_key->info();
  ASSERT_TRUE(info) << info.error().message;
  EXPECT_EQ(info->state, "running");
  EXPECT_TRUE(info->yours);
  EXPECT_FALSE(ended(id));
  auto by_id = client->findAsync(id).get();
  ASSERT_TRUE(by_id) << by_id.error().message;
  onCore([&](FakeCore& c) { c.end(c.task(id), base::Verdict::succeeded); });
  for (Task* task : {&*by_key, &*by_id}) {
    auto result = task->wait();
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_EQ(result->verdict, base::Verdict::succeeded);
  }
  EXPECT_EQ(by_id->info()->state, "done");
}

TEST_F(ClientDetached, ARepeatedKeyRunsNothingASecondTime) {
  start();
  auto client = connect();
  auto first = client->submit(spec("hold", "k")), second = client->submit(spec("hold", "k"));
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->id(), second->id());
  EXPECT_TRUE(second->existing());
  EXPECT_EQ(onCore([](FakeCore& c) { return c.count(); }), 1u);
  auto other = client->submit(spec("echo", "k"));
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, Code::alreadyExists);
}

TEST_F(ClientDetached, CloseForgetsItForEverybody) {
  start();
  auto client = connect();
  auto task = client->submit(spec("hold", "k"));
  ASSERT_TRUE(task);
  uint64_t id = task->id();
  task->close();
  auto gone = client->find("k");
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code, Code::notFound);
  EXPECT_EQ(client->find(id).error().code, Code::notFound);
  EXPECT_TRUE(ended(id));
  EXPECT_EQ(client->find(std::string()).error().code, Code::invalidArgument);
}

TEST_F(ClientDetached, ALetGoHandleEndsItsWaitAndLeavesNoneBehind) {
  start();
  auto client = connect();
  auto task = client->submit(spec("hold", "k"));
  ASSERT_TRUE(task);
  // Each would wait at the daemon, which serves so many at a time, if letting go did not end it.
  for (uint32_t i = 0; i < 2 * rpc::kWaitsPerTaskMax; ++i) {
    auto found = client->find("k");
    ASSERT_TRUE(found) << found.error().message;
    auto waits = found->waitAsync();
    found->release();
    EXPECT_EQ(waits.get().error().code, Code::cancelled);
  }
  auto last = client->find("k");
  onCore([&](FakeCore& c) { c.end(c.task(last->id()), base::Verdict::succeeded); });
  EXPECT_TRUE(last->wait());
}

TEST_F(ClientDetached, ItsFilesAreReadByWhoeverFindsIt) {
  start();
  TaskSpec s = spec("files", "k");
  s.collect_out_files = true;
  uint64_t id = connect()->submit(s)->id();
  auto client = connect();
  auto task = client->find(id);
  ASSERT_TRUE(task);
  ASSERT_EQ(task->wait()->out_files.size(), 3u);
  EXPECT_EQ(*task->readFile(0, 0), "hello");
}

TEST_F(ClientDetached, WhatADetachedTaskCannotHaveIsRefused) {
  start();
  auto client = connect();
  TaskSpec open = spec("hold");
  open.stdin_open = true;
  EXPECT_EQ(client->submit(open).error().code, Code::invalidArgument);
  Callbacks live;
  live.on_output = [](Stream, std::string_view) {};
  EXPECT_EQ(client->submit(spec("hold"), live).error().code, Code::invalidArgument);
  TaskSpec no_lease = spec("hold", "k");
  no_lease.detach->lease_ms = 0;
  EXPECT_EQ(client->submit(no_lease).error().code, Code::invalidArgument);
  EXPECT_GT(client->server().detached_per_user_max, 0u);
  EXPECT_GT(client->server().detach_lease_ms_max, 0u);
}

}  // namespace
}  // namespace mayfly
