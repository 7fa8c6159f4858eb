#include "cli/task.h"

#include <signal.h>
#include <unistd.h>

#include "base/fd.h"
#include "cli/files.h"
#include "cli/report.h"
#include "cli/run.h"

namespace mayfly::cli {

namespace {

constexpr int kFailed = 1;

int info(Task& task, const TaskOptions& options) {
  auto got = task.info();
  if (!got) return sayError(got.error(), options.json);
  writeAll(STDOUT_FILENO, options.json ? taskJson(*got) : tasksTable({*got}));
  return 0;
}

// The result stays: a later wait gets the same one.
int wait(Task& task, const TaskOptions& options) {
  base::Fd out_dir;
  if (!options.out_dir.empty()) {
    auto opened = openOutDir(options.out_dir);
    if (!opened) return sayError(std::move(opened).error().in("--out"), options.json);
    out_dir = std::move(*opened);
  }
  auto result = task.wait();
  if (!result) return sayError(result.error(), options.json);
  bool read = true;
  if (!options.json) {
    read = writeAll(STDOUT_FILENO, result->captured[0]) == Wrote::all;
    writeAll(STDERR_FILENO, result->captured[1]);
  }
  int code = tellEnd(task, *result, result->captured[0], result->captured[1],
                     {options.json, options.quiet, out_dir.view()});
  return read ? code : kExitPipe;
}

}  // namespace

int taskMain(const std::string& socket, const TaskOptions& options) {
  ::signal(SIGPIPE, SIG_IGN);
  ConnectOptions connect;
  connect.client_name = "mayfly task";
  auto client = Client::connect(socket, connect);
  if (!client) return sayError(client.error(), options.json);
  if (options.verb == TaskVerb::list) {
    auto all = (*client)->detached();
    if (!all) return sayError(all.error(), options.json);
    writeAll(STDOUT_FILENO, options.json ? detachedListJson(*all) : detachedTable(*all));
    return 0;
  }
  auto task = options.id ? (*client)->find(*options.id) : (*client)->find(options.key);
  if (!task) return sayError(task.error(), options.json);
  switch (options.verb) {
    case TaskVerb::info:
      return info(*task, options);
    case TaskVerb::wait:
      return wait(*task, options);
    case TaskVerb::cancel: {
      auto status = task->cancel();
      if (status) return 0;
      sayError(status.error(), false);
      return kFailed;
    }
    case TaskVerb::list:
    case TaskVerb::close:
      break;
  }
  task->close();
  // Sent after the close on the same connection: its answer proves that the daemon got the close.
  auto told = (*client)->templates();
  return told ? 0 : sayError(told.error(), false);
}

}  // namespace mayfly::cli
