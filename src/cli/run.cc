#include "cli/run.h"

#include <errno.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "base/fd.h"
#include "base/text.h"
#include "cli/bring.h"
#include "cli/files.h"
#include "cli/program.h"
#include "cli/report.h"

namespace mayfly::cli {

using base::Code;
using base::fail;
using base::Fd;
using base::FdView;
using base::Result;
using base::Status;
using base::Unit;

Wrote writeAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n >= 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      pollfd wait{fd, POLLOUT, 0};
      ::poll(&wait, 1, -1);
    } else if (errno != EINTR) {
      return Wrote::nobodyReads;
    }
  }
  return Wrote::all;
}

int sayError(const base::Error& error, bool json) {
  if (json)
    writeAll(STDOUT_FILENO, errorJson(error));
  else
    writeAll(STDERR_FILENO, errorText(error));
  return kExitMayfly;
}

namespace {

void wake(FdView event) {
  uint64_t one = 1;
  if (::write(event.get(), &one, sizeof one) < 0) return;  // full: the waiter is already awake
}

Result<TaskSpec> specFrom(const RunOptions& options, std::vector<Input>* inputs) {
  TaskSpec spec;
  spec.template_name = options.template_name;
  spec.args = options.args;
  spec.env = options.env;
  spec.limits = options.limits;
  spec.seed = options.seed;
  spec.tenant = options.tenant;
  spec.traceparent = options.traceparent;
  spec.grants = options.grants;
  spec.collect_out_files = !options.out_dir.empty() || options.collect;
  spec.detach = options.detach;
  spec.stdin_open = options.forward_stdin;
  size_t inline_left_bytes = kInlineFilesBytesMax;
  MAYFLY_CHECK(takeProgram(options, &spec, inputs, &inline_left_bytes));
  for (const std::string& each : options.files) {
    MAYFLY_TRY(Input input, openInput(each, &inline_left_bytes));
    inputs->push_back(std::move(input));
  }
  return spec;
}

// Ctrl-C cancels the task; a second one, or one before the submit, exits at once.
class Watch {
 public:
  explicit Watch(const sigset_t& set)
      : signals_(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)),
        stop_event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
        thread_([this] { main(); }) {}
  ~Watch() {
    wake(stop_event_.view());
    thread_.join();
  }
  // The task is submitted: it may run and print before over() names it.
  void asked() {
    std::lock_guard lock(mutex_);
    asked_ = true;
  }
  // `task` must outlive the watch, or be withdrawn with nullptr.
  void over(Task* task) {
    std::lock_guard lock(mutex_);
    task_ = task;
    asked_ = task != nullptr;
    if (task_ != nullptr && cancelled_) cancel();
  }

 private:
  void main() {
    for (;;) {
      pollfd waits[2] = {{signals_.get(), POLLIN, 0}, {stop_event_.get(), POLLIN, 0}};
      if (::poll(waits, 2, -1) < 0) continue;
      if (waits[1].revents != 0) return;
      signalfd_siginfo info;
      if (::read(signals_.get(), &info, sizeof info) != sizeof info) continue;
      std::lock_guard lock(mutex_);
      if (cancelled_ || !asked_) ::_exit(kExitCancelled);
      cancelled_ = true;
      if (task_ != nullptr) cancel();
    }
  }
  // Waits for no answer: the main thread may have stopped serving. The verdict tells.
  void cancel() { (void)task_->cancel(0); }

  Fd signals_, stop_event_;
  std::mutex mutex_;
  Task* task_ = nullptr;
  bool asked_ = false, cancelled_ = false;
  std::thread thread_;
};

// Copies our stdin to the task's until either ends.
class StdinPump {
 public:
  explicit StdinPump(Task& task)
      : stop_event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
        thread_([this, &task] { main(task); }) {}
  ~StdinPump() {
    wake(stop_event_.view());
    thread_.join();
  }

 private:
  void main(Task& task) {
    std::string buffer(64 << 10, '\0');
    for (;;) {
      pollfd waits[2] = {{STDIN_FILENO, POLLIN, 0}, {stop_event_.get(), POLLIN, 0}};
      if (::poll(waits, 2, -1) < 0) continue;
      if (waits[1].revents != 0) return;
      ssize_t n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n <= 0) break;
      auto status = task.writeStdin({buffer.data(), static_cast<size_t>(n)});
      if (status) continue;
      // Not an error here: the task ended or closed its stdin.
      if (status.error().code != Code::failedPrecondition)
        writeAll(STDERR_FILENO, errorText(status.error()));
      break;
    }
    (void)task.closeStdin();
  }

  Fd stop_event_;
  std::thread thread_;
};

void sayFiles(const TaskResult& result, const std::vector<Written>& written) {
  for (size_t i = 0; i < written.size(); ++i)
    if (!written[i].written)
      writeAll(STDERR_FILENO, fmt::format("mayfly: output file '{}' was not saved: {}\n",
                                          base::printable(result.out_files[i].path),
                                          base::printable(written[i].why_not)));
  if (!result.out_files_note.empty())
    writeAll(STDERR_FILENO, fmt::format("mayfly: output files{}: {}\n{}",
                                        result.out_files_lost ? " were lost" : "",
                                        base::printable(result.out_files_note, 1000),
                                        result.out_files_lost ? "  Run the task again.\n" : ""));
}

void sayTruncated(const TaskResult& result) {
  for (Stream stream : {Stream::out, Stream::err})
    if (std::string line = truncatedLine(result, stream); !line.empty())
      writeAll(STDERR_FILENO, "mayfly: " + line + "\n");
}

// Prints the id on stdout: a script needs nothing else to come back.
int runDetached(Client& client, const std::vector<Input>& inputs, TaskSpec spec,
                const RunOptions& options) {
  auto task = submitBrought(client, inputs, std::move(spec), {});
  if (!task) return sayError(task.error(), options.json);
  writeAll(STDOUT_FILENO, options.json ? detachedJson(task->id(), task->existing())
                                       : fmt::format("{}\n", task->id()));
  if (task->existing() && !options.json && !options.quiet)
    writeAll(STDERR_FILENO, "mayfly: this key's first run is returned; nothing new runs\n");
  return 0;
}

}  // namespace

int tellEnd(Task& task, const TaskResult& result, std::string_view out, std::string_view err,
            const Telling& how) {
  std::vector<Written> written;
  if (how.out_dir) written = writeOutFiles(how.out_dir, task, result.out_files);
  if (how.json) {
    writeAll(STDOUT_FILENO, resultJson(result, out, err, written));
  } else {
    sayFiles(result, written);
    sayTruncated(result);
    if (!how.quiet || result.verdict != base::Verdict::succeeded)
      writeAll(STDERR_FILENO, "mayfly: " + verdictLine(result) + "\n");
  }
  const int code = exitCode(result);
  return code == 0 && how.out_dir && result.out_files_lost ? kExitMayfly : code;
}

int runTask(const std::string& socket, const RunOptions& options) {
  // Before any thread starts, so that all threads have the same mask.
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  for (int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, number);

  std::vector<Input> inputs;
  auto spec = specFrom(options, &inputs);
  if (!spec) return sayError(spec.error(), options.json);
  Fd out_dir;
  if (!options.out_dir.empty()) {
    auto opened = openOutDir(options.out_dir);
    if (!opened) return sayError(std::move(opened).error().in("--out"), options.json);
    out_dir = std::move(*opened);
  }
  sigprocmask(SIG_BLOCK, &set, nullptr);
  Watch watch(set);

  ConnectOptions connect;
  connect.client_name = "mayfly run";
  // The main thread does nothing but wait, and serves; where another one writes stdin, neither has
  // to wait for the other.
  if (!options.forward_stdin) connect.served_by = ServedBy::caller;
  auto client = Client::connect(socket, connect);
  if (!client) return sayError(client.error(), options.json);
  if (auto brought = bring(**client, inputs, &*spec); !brought)
    return sayError(brought.error(), options.json);

  if (spec->detach) return runDetached(**client, inputs, std::move(*spec), options);

  std::string kept[2];
  std::atomic<bool> unread = false;
  Callbacks callbacks;
  callbacks.on_output = [&](Stream stream, std::string_view bytes) {
    if (options.json) {
      kept[static_cast<int>(stream)] += bytes;  // bounded by the task's cap on output
      return;
    }
    int fd = stream == Stream::out ? STDOUT_FILENO : STDERR_FILENO;
    if (unread || writeAll(fd, bytes) == Wrote::all) return;
    unread = true;
    ::kill(::getpid(), SIGTERM);  // ends through Watch: this thread must not make calls
  };
  watch.asked();
  auto task = submitBrought(**client, inputs, std::move(*spec), callbacks);
  if (!task) return sayError(task.error(), options.json);
  inputs.clear();

  watch.over(&*task);
  std::optional<StdinPump> pump;
  if (options.forward_stdin) pump.emplace(*task);
  Result<TaskResult> result = task->wait();
  pump.reset();
  watch.over(nullptr);
  if (!result) return sayError(result.error(), options.json);

  int code =
      tellEnd(*task, *result, kept[0], kept[1], {options.json, options.quiet, out_dir.view()});
  task->close();
  return unread ? kExitPipe : code;
}

}  // namespace mayfly::cli
