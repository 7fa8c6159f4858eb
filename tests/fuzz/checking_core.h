// A core without boxes that checks a task like the real one and ends it at once.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pool/template_spec.h"
#include "sched/core.h"
#include "sched/validate.h"

namespace mayfly::fuzz {

inline base::Limits limits(uint64_t of) {
  base::Limits l;
  l.cpu_milli = static_cast<uint32_t>(1'000 * of);
  l.cpu_time_ms = l.wall_time_ms = 1'000 * of;
  l.memory_bytes = (64ull << 20) * of;
  l.processes = l.open_files = static_cast<uint32_t>(64 * of);
  l.file_size_bytes = l.disk_bytes = l.output_bytes = l.input_bytes = l.out_files_bytes =
      (8ull << 20) * of;
  l.disk_inodes = 1'000 * of;
  l.out_files = static_cast<uint32_t>(100 * of);
  return l;
}

inline pool::TemplateSpec templateSpec() {
  pool::TemplateSpec t;
  t.name = "python";
  t.runs_code = t.runs_modules = true;
  t.runs_commands = true;
  t.defaults = limits(1);
  t.maximum = limits(4);
  return t;
}

inline constexpr std::chrono::milliseconds kWallTime{500};

// A session that calls each of its tools once and grants all that it is asked for.
class GrantingSession final : public sched::Session {
 public:
  GrantingSession(boost::asio::io_context& io, const sched::SessionSpec& spec) : io_(io) {
    for (const auto& wish : spec.grants) grants_.push_back(wish.name);
    for (const auto& tool : spec.tools) spec.tool_box->call(tool.name, "{}", [](auto) {});
  }
  const sched::Env& env() const override { return env_; }
  const std::vector<std::string>& grants() const override { return grants_; }
  base::Status begin(base::TaskId, uint64_t, sched::Doors) override { return base::Unit{}; }
  void leave(Left) override {}
  void end(Left) override {}
  void revoke(const std::string&, std::function<void(base::Status)> done) override {
    boost::asio::post(io_, [done = std::move(done)] { done(base::Unit{}); });
  }

 private:
  boost::asio::io_context& io_;
  sched::Env env_ = {{"MAYFLY_BROKER", "http://127.0.0.1:80"}};
  std::vector<std::string> grants_;
};

class GrantingBroker final : public sched::Broker {
 public:
  explicit GrantingBroker(boost::asio::io_context& io) : io_(io) {}
  void open(sched::SessionSpec spec, Opened opened) override {
    boost::asio::post(io_, [this, spec = std::move(spec), opened = std::move(opened)] {
      opened(std::make_shared<GrantingSession>(io_, spec));
    });
  }

 private:
  boost::asio::io_context& io_;
};

class CheckingCore final : public sched::Core {
 public:
  explicit CheckingCore(boost::asio::io_context& io)
      : io_(io), broker_(io), template_(templateSpec()) {}

  base::Result<base::TaskId> submit(sched::TaskSpec spec,
                                    std::shared_ptr<sched::TaskListener> listener) override {
    if (spec.template_name != template_.name)
      return base::fail(base::Code::notFound, "there is no such template");
    if (spec.session) sched::joinEnv(spec.env, spec.session->env());
    MAYFLY_TRY(base::Limits in_force, sched::checkSpec(spec, template_));
    base::TaskId id = next_++;
    Task& task = tasks_[id];
    task.spec = std::move(spec);
    task.listener = std::move(listener);
    task.limits = in_force;
    // A task whose stdin stays open runs until the client ends it, or its wall time is over.
    if (!task.spec.stdin_open) {
      boost::asio::post(io_, [this, id] { end(id, base::Verdict::succeeded); });
    } else {
      auto timer = std::make_shared<boost::asio::steady_timer>(io_, kWallTime);
      timer->async_wait([this, id, timer](auto) { end(id, base::Verdict::wallTime); });
    }
    return id;
  }
  base::Status writeStdin(base::TaskId id, std::string data) override {
    auto at = tasks_.find(id);
    if (at == tasks_.end()) return base::fail(base::Code::notFound, "no such task");
    at->second.listener->onStdinAccepted(data.size());
    return base::Unit{};
  }
  base::Status closeStdin(base::TaskId id) override {
    boost::asio::post(io_, [this, id] { end(id, base::Verdict::failed); });
    return base::Unit{};
  }
  void acknowledgeOutput(base::TaskId, sched::Stream, uint64_t) override {}
  base::Status cancel(base::TaskId id, const sched::AccountRef& asks,
                      sched::Cancel /*how*/) override {
    auto at = tasks_.find(id);
    if (at == tasks_.end() || !asks.sees(at->second.spec.account.id()))
      return base::fail(base::Code::notFound, "no such task");
    end(id, base::Verdict::cancelled);
    return base::Unit{};
  }
  void ownerGone(sched::OwnerId owner) override {
    std::vector<base::TaskId> its;
    for (auto& [id, task] : tasks_)
      if (task.spec.owner == owner) its.push_back(id);
    for (base::TaskId id : its) end(id, base::Verdict::clientGone);
  }
  std::vector<sched::TaskInfo> tasks(const sched::AccountRef&) const override {
    std::vector<sched::TaskInfo> all;
    for (auto& [id, task] : tasks_)
      all.push_back({id, task.spec.template_name, "running", 1, 2, 3, task.spec.owner});
    return all;
  }
  std::optional<sched::TaskInfo> info(base::TaskId id) const override {
    for (auto& each : tasks({}))
      if (each.task == id) return each;
    return std::nullopt;
  }
  std::vector<sched::TemplateInfo> templates() const override {
    sched::TemplateInfo t;
    t.name = template_.name;
    t.state = "ready";
    t.defaults = template_.defaults;
    t.maximum = template_.maximum;
    return {t};
  }

  sched::Accounts& accounts() override { return book_; }
  sched::Broker* broker() override { return &broker_; }

 private:
  static sched::AccountBounds bounds() {
    using sched::Resource;
    sched::AccountBounds b;
    b.setPool(Resource::openTasks, 64);
    b.setPool(Resource::calls, 64);
    b.setPool(Resource::detachedTasks, 64, 8);
    b.setPool(Resource::requestBytes, 256u << 10);
    b.setPool(Resource::blobBytes, 1u << 20);
    return b;
  }
  struct Task {
    sched::TaskSpec spec;
    std::shared_ptr<sched::TaskListener> listener;
    base::Limits limits;
  };

  void end(base::TaskId id, base::Verdict verdict) {
    auto at = tasks_.find(id);
    if (at == tasks_.end()) return;
    Task task = std::move(at->second);
    tasks_.erase(at);
    task.listener->onStarted();
    if (task.spec.live_output) task.listener->onOutput(sched::Stream::out, std::string(5'000, 'o'));
    sched::TaskResult result;
    result.task = id;
    result.template_name = task.spec.template_name;
    result.verdict = verdict;
    result.limits = task.limits;
    if (!task.spec.live_output) result.captured[0] = std::string(5'000, 'o');
    if (task.spec.collect_out_files) result.out_files = {{"a", 5, 0644, 0, "not kept"}};
    task.listener->onResult(std::move(result));
  }

  boost::asio::io_context& io_;
  GrantingBroker broker_;
  pool::TemplateSpec template_;
  sched::Accounts book_{bounds()};  // outlives the tasks' accounts
  base::TaskId next_ = 1;
  std::map<base::TaskId, Task> tasks_;
};

}  // namespace mayfly::fuzz
