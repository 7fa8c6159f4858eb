#include "load/command_target.h"

#include <errno.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

extern char** environ;

namespace mayfly::load {

CommandTarget::CommandTarget(std::vector<std::string> argv, std::string expected, uint32_t workers)
    : argv_(std::move(argv)), expected_(std::move(expected)) {
  for (uint32_t i = 0; i < workers; ++i) workers_.emplace_back([this] { work(); });
}

CommandTarget::~CommandTarget() {
  {
    std::lock_guard lock(mutex_);
    over_ = true;
  }
  wanted_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void CommandTarget::begin(const Ticket&, Done done) {
  {
    std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(done));
  }
  wanted_.notify_one();
}

void CommandTarget::work() {
  for (;;) {
    std::unique_lock lock(mutex_);
    wanted_.wait(lock, [this] { return over_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    Done done = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    done(runOnce());
  }
}

Outcome CommandTarget::runOnce() const {
  Outcome outcome;
  std::vector<char*> argv;
  for (const std::string& word : argv_) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  auto pipe = base::makePipe();
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  if (pipe) ::posix_spawn_file_actions_adddup2(&actions, pipe->write.get(), STDOUT_FILENO);
  pid_t pid = -1;
  int failed =
      pipe ? ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ) : EMFILE;
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    outcome.error = "notStarted";
    outcome.ended_ns = base::monotonicNs();
    return outcome;
  }
  pipe->write.reset();
  std::string said;
  char buffer[4'096];
  for (ssize_t n; (n = ::read(pipe->read.get(), buffer, sizeof buffer)) > 0;) {
    if (said.empty()) outcome.first_byte_ns = base::monotonicNs();
    said.append(buffer, static_cast<size_t>(n));
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  outcome.ended_ns = base::monotonicNs();
  if (status != 0)
    outcome.error = "failed";
  else if (said != expected_)
    outcome.error = "wrongOutput";
  return outcome;
}

}  // namespace mayfly::load
