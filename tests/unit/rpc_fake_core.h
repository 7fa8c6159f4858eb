// A core without boxes, on its own thread, and an rpc::Server for it on a real unix socket. A
// task's template name selects the task's behaviour:
//
//   echo   starts, writes its code to stdout and, if output is live, "err" to stderr; succeeds
//   hold   does nothing until the test acts on it
//   flood  writes `code` bytes (a number) to stdout as fast as the window allows; succeeds
//   files  leaves three files, one of them skipped; succeeds; with the code "lost", others were
//   lost
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "base/fd.h"
#include "rpc/server.h"
#include "sched/core.h"

namespace mayfly::test {

using base::Code;
using sched::TaskListener;

inline constexpr auto kEventTime = std::chrono::seconds(20);  // a later event is a failure

struct FakeTask {
  base::TaskId id = 0;
  sched::TaskSpec spec;
  std::shared_ptr<TaskListener> listener;
  uint64_t sent[2] = {}, acknowledged[2] = {};
  uint64_t unacknowledged_max = 0;
  std::string stdin_bytes;
  bool stdin_closed = false, ended = false;
  base::Verdict verdict{};  // once ended
  uint64_t flood_left = 0;
};

// What happened to the sessions of a FakeBroker. Core thread.
struct SessionLog {
  std::vector<std::string> revoked;  // names of grants
  int opened = 0, dropped = 0;
};

class FakeSession final : public sched::Session {
 public:
  FakeSession(std::shared_ptr<SessionLog> log, boost::asio::io_context& io, sched::SessionSpec spec)
      : log_(std::move(log)), io_(io) {
    ++log_->opened;
    for (const auto& wish : spec.grants) grants_.push_back(wish.name);
  }
  ~FakeSession() override { ++log_->dropped; }
  const sched::Env& env() const override { return env_; }
  const std::vector<std::string>& grants() const override { return grants_; }
  base::Status begin(base::TaskId, uint64_t, sched::Doors) override { return base::Unit{}; }
  void leave(Left) override {}
  void end(Left) override {}
  void revoke(const std::string& name, std::function<void(base::Status)> done) override {
    log_->revoked.push_back(name);
    boost::asio::post(io_, [done = std::move(done), name] {
      if (name == "slow")
        done(base::fail(Code::unavailable, "the vault did not answer"));
      else
        done(base::Unit{});
    });
  }

 private:
  std::shared_ptr<SessionLog> log_;
  boost::asio::io_context& io_;
  sched::Env env_ = {{"MAYFLY_BROKER", "http://127.0.0.1:80"}};
  std::vector<std::string> grants_;
};

// Answers by the name of the first grant: "wrong" and "down" are refused, "held" is answered when
// the test says so.
class FakeBroker final : public sched::Broker {
 public:
  explicit FakeBroker(boost::asio::io_context& io) : io_(io) {}
  void open(sched::SessionSpec spec, Opened opened) override {
    const std::string name = spec.grants.empty() ? "" : spec.grants[0].name;
    specs.push_back(spec);
    auto answer = [this, name, spec = std::move(spec), opened = std::move(opened)] {
      if (name == "wrong") return opened(base::fail(Code::notFound, "no action 'wrong'"));
      if (name == "down") return opened(base::fail(Code::unavailable, "the broker is down"));
      opened(std::make_shared<FakeSession>(log, io_, spec));
    };
    if (name == "held")
      held = std::move(answer);
    else
      boost::asio::post(io_, std::move(answer));
  }

  std::vector<sched::SessionSpec> specs;
  std::function<void()> held;
  std::shared_ptr<SessionLog> log = std::make_shared<SessionLog>();

 private:
  boost::asio::io_context& io_;
};

class FakeCore final : public sched::Core {
 public:
  // --- sched::Core
  base::Result<base::TaskId> submit(sched::TaskSpec spec,
                                    std::shared_ptr<TaskListener> l) override {
    if (spec.template_name == "missing")
      return base::fail(Code::notFound, "no template 'missing'", "See `mayfly templates`.");
    base::TaskId id = next_++;
    FakeTask& t = tasks_[id];
    t.id = id;
    t.spec = std::move(spec);
    t.listener = std::move(l);
    t.stdin_bytes = t.spec.stdin_data;
    if (t.spec.template_name == "hold") {
      changed();
      return id;
    }
    boost::asio::post(*io_, [this, id] { act(tasks_.at(id)); });
    changed();
    return id;
  }
  base::Status writeStdin(base::TaskId id, std::string data) override {
    FakeTask& t = tasks_.at(id);
    if (t.stdin_bytes.size() + data.size() > stdin_bytes_max)
      return base::fail(Code::invalidArgument, "stdin is longer than the input cap");
    t.stdin_bytes += data;
    changed();
    return base::Unit{};
  }
  base::Status closeStdin(base::TaskId id) override {
    tasks_.at(id).stdin_closed = true;
    changed();
    return base::Unit{};
  }
  void acknowledgeOutput(base::TaskId id, sched::Stream stream, uint64_t bytes) override {
    FakeTask& t = tasks_.at(id);
    t.acknowledged[static_cast<int>(stream)] += bytes;
    if (t.spec.template_name == "flood") act(t);
    changed();
  }
  base::Status cancel(base::TaskId id, const sched::AccountRef& asks, sched::Cancel how) override {
    auto it = tasks_.find(id);
    if (it == tasks_.end() || it->second.ended || !asks.sees(it->second.spec.account.id()))
      return base::fail(Code::notFound, "no task " + std::to_string(id));
    cancels.push_back(how);
    end(it->second, base::Verdict::cancelled);
    return base::Unit{};
  }
  void ownerGone(sched::OwnerId owner) override {
    owners_gone.push_back(owner);
    for (auto& [id, t] : tasks_)
      if (t.spec.owner == owner && !t.ended) end(t, base::Verdict::clientGone);
    changed();
  }
  std::string restartedSince(base::TaskId id) const override {
    return id == id_of_an_earlier_run ? "noon" : "";
  }
  std::vector<sched::TaskInfo> tasks(const sched::AccountRef& asks) const override {
    std::vector<sched::TaskInfo> all;
    for (auto& [id, t] : tasks_)
      if (!t.ended && asks.sees(t.spec.account.id()))
        all.push_back({id, t.spec.template_name, "running", 1, 2, 77, t.spec.owner});
    return all;
  }
  std::optional<sched::TaskInfo> info(base::TaskId id) const override {
    auto it = tasks_.find(id);
    if (it == tasks_.end() || it->second.ended) return std::nullopt;
    return sched::TaskInfo{id, it->second.spec.template_name, "running", 1, 2,
                           77, it->second.spec.owner};
  }
  std::vector<sched::TemplateInfo> templates() const override {
    ++templates_calls;
    changed();
    std::vector<sched::TemplateInfo> all(templates_count);
    for (auto& t : all) {
      t.name = "python";
      t.mechanism = "fork";
      t.state = "ready";
      t.description = std::string(300, 'd');
      t.boxes = 5;
      t.pool.parked = 3;
    }
    return all;
  }

  sched::Accounts& accounts() override {
    if (!book_) book_.emplace(account_bounds);
    return *book_;
  }

  sched::Broker* broker() override {
    if (has_broker && !broker_) broker_.emplace(*io_);
    return broker_ ? &*broker_ : nullptr;
  }

  // --- core thread
  FakeBroker& fakeBroker() { return *broker_; }
  FakeTask& task(base::TaskId id) { return tasks_.at(id); }
  size_t count() const { return tasks_.size(); }
  void forgetEnded() {
    std::erase_if(tasks_, [](const auto& each) { return each.second.ended; });
  }
  void output(FakeTask& t, sched::Stream stream, std::string_view bytes) {
    int i = static_cast<int>(stream);
    t.sent[i] += bytes.size();
    t.unacknowledged_max = std::max(t.unacknowledged_max, t.sent[i] - t.acknowledged[i]);
    t.listener->onOutput(stream, bytes);
  }
  void end(FakeTask& t, base::Verdict verdict, std::function<void(sched::TaskResult&)> more = {}) {
    t.ended = true;
    t.verdict = verdict;
    sched::TaskResult r;
    r.task = t.id;
    r.template_name = t.spec.template_name;
    r.verdict = verdict;
    r.receipt.complete = true;
    r.receipt.reaped_ns = 5;
    r.phases[0] = 1;
    r.phases[9] = 10;
    if (more) more(r);
    t.listener->onResult(std::move(r));
    changed();
  }

  bool has_broker = false;
  sched::AccountBounds account_bounds;  // read when the server starts
  std::vector<sched::OwnerId> owners_gone;
  std::vector<sched::Cancel> cancels;  // of tasks that ran
  mutable uint64_t templates_calls = 0;
  size_t templates_count = 1;
  uint64_t stdin_bytes_max = 64u << 20;
  base::TaskId id_of_an_earlier_run = UINT64_MAX;

 private:
  friend class RpcFixture;
  void act(FakeTask& t) {
    if (t.ended) return;
    if (t.spec.template_name == "echo") {
      t.listener->onStarted();
      if (t.spec.live_output) {
        output(t, sched::Stream::out, t.spec.code);
        output(t, sched::Stream::err, "err");
      }
      end(t, base::Verdict::succeeded, [&](sched::TaskResult& r) {
        if (!t.spec.live_output) r.captured[0] = t.spec.code, r.truncated[1] = true;
      });
    } else if (t.spec.template_name == "flood") {
      if (t.sent[0] == 0) {
        t.listener->onStarted();
        t.flood_left = std::stoull(t.spec.code);
      }
      while (t.flood_left > 0 && t.sent[0] - t.acknowledged[0] < sched::kOutputWindowBytes) {
        uint64_t room = sched::kOutputWindowBytes - (t.sent[0] - t.acknowledged[0]);
        std::string bytes(std::min<uint64_t>({room, t.flood_left, 10'000}), 0);
        for (size_t i = 0; i < bytes.size(); ++i)
          bytes[i] = static_cast<char>((t.sent[0] + i) % 251);
        t.flood_left -= bytes.size();
        output(t, sched::Stream::out, bytes);
      }
      if (t.flood_left == 0) end(t, base::Verdict::succeeded);
    } else if (t.spec.template_name == "files") {
      end(t, base::Verdict::succeeded, [lost = t.spec.code == "lost"](sched::TaskResult& r) {
        auto spool = base::makeMemfd("spool");
        std::string big(3'000'000, 'b');
        std::string all = "headerhello" + big;
        ASSERT_EQ(::write(spool->get(), all.data(), all.size()), ssize_t(all.size()));
        r.spool = std::make_shared<base::Fd>(std::move(*spool));
        r.out_files = {{"a.txt", 5, 0644, 6, ""},
                       {"link", 0, 0777, 0, "symbolic link"},
                       {"big", big.size(), 0600, 11, ""}};
        r.out_files_note = "a note";
        r.out_files_lost = lost;
      });
    }
  }
  void changed() const {
    std::lock_guard lock(mutex_);
    ++changes_;
    condition_.notify_all();
  }

  boost::asio::io_context* io_ = nullptr;
  base::TaskId next_ = 1;
  std::optional<sched::Accounts> book_;
  std::optional<FakeBroker> broker_;
  std::map<base::TaskId, FakeTask> tasks_;
  mutable std::mutex mutex_;
  mutable std::condition_variable condition_;
  mutable uint64_t changes_ = 0;
};

// Counts the server's reports. Core thread.
struct Told : base::Observer {
  std::map<std::string, uint64_t> answered, refused;  // by method; by user and code
  std::map<std::string, uint64_t> calls_refused;      // by method and code
  int opened = 0, ended = 0, messages_refused = 0;
  uint64_t received_bytes = 0, sent_bytes = 0;
  void connectionOpened(std::string_view) override { ++opened; }
  void connectionEnded(std::string_view) override { ++ended; }
  void connectionRefused(std::string_view user, std::string_view code) override {
    ++refused[std::string(user) + " " + std::string(code)];
  }
  void messageRefused() override { ++messages_refused; }
  void callRefused(std::string_view method, std::string_view code) override {
    ++calls_refused[std::string(method) + " " + std::string(code)];
  }
  void callAnswered(std::string_view method, uint64_t) override { ++answered[std::string(method)]; }
  void messageReceived(uint64_t bytes) override { received_bytes += bytes; }
  void messageSent(uint64_t bytes) override { sent_bytes += bytes; }
};

class RpcFixture : public ::testing::Test {
 protected:
  void SetUp() override {
    options.instance = "unit";
    options.version = "1.2.3";
    core.io_ = &io_;
  }
  // Runs `f(core)` on the core thread and returns its result.
  template <class F>
  auto onCore(F f) {
    auto job = std::make_shared<std::packaged_task<decltype(f(core))()>>([&] { return f(core); });
    auto done = job->get_future();
    boost::asio::post(io_, [job] { (*job)(); });
    return done.get();
  }
  // Runs `f(server)` on the core thread.
  template <class F>
  void onServer(F f) {
    onCore([&](FakeCore&) { f(*server_); });
  }
  void start() {
    char folder[] = "/tmp/mayfly-unit-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    ASSERT_EQ(::chmod(folder, 0755), 0);
    socket_path = folder_ + "/socket";
    base::Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    socket_path.copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::chmod(socket_path.c_str(), 0666), 0);
    ASSERT_EQ(::listen(listener.get(), 64), 0);
    thread_ = std::thread([this] { io_.run(); });
    onCore([&](FakeCore&) {
      auto made = rpc::Server::start(core, io_, std::move(listener), options, told);
      ASSERT_TRUE(made) << made.error().message;
      server_ = std::move(*made);
    });
  }
  // Posts a handler to the core's thread, without waiting for it.
  void post(std::function<void()> f) { boost::asio::post(io_, std::move(f)); }
  void stopServer() {
    if (server_) onCore([&](FakeCore&) { server_.reset(); });
  }
  void TearDown() override {
    if (!thread_.joinable()) return;
    stopServer();
    work_.reset();
    thread_.join();
    ::unlink(socket_path.c_str());
    ::rmdir(folder_.c_str());
  }
  // Waits until `is(core)`; checks again after each call of the core. Fails after kEventTime.
  ::testing::AssertionResult eventually(const char* what, std::function<bool(FakeCore&)> is) {
    for (;;) {
      uint64_t seen;
      {
        std::lock_guard lock(core.mutex_);
        seen = core.changes_;
      }
      if (onCore(is)) return ::testing::AssertionSuccess();
      std::unique_lock lock(core.mutex_);
      if (!core.condition_.wait_for(lock, kEventTime, [&] { return core.changes_ != seen; }))
        return ::testing::AssertionFailure() << what << ": has not come";
    }
  }

  // Runs `f` on a thread with another uid.
  template <class F>
  void asUser(uid_t uid, F f) {
    std::thread([&] {
      ASSERT_EQ(::syscall(SYS_setresuid, -1, uid, -1), 0);  // sets this thread's uid only
      f();
    }).join();
  }

  rpc::Options options;
  Told told;
  FakeCore core;
  std::string socket_path;

 private:
  std::string folder_;
  boost::asio::io_context io_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{
      io_.get_executor()};
  std::unique_ptr<rpc::Server> server_;
  std::thread thread_;
};

}  // namespace mayfly::test
