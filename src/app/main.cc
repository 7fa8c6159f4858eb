// mayflyd: the daemon. Reads its settings and hands them to the App.
//
// Layer: app. Wiring only.
#include <spdlog/spdlog.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/random.h>
#include <unistd.h>

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <climits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/app.h"
#include "app/log.h"
#include "app/log_sink.h"
#include "app/notify.h"
#include "config/daemon.h"
#include "config/settings.h"
#include "metrics/exposition.h"

namespace {

using namespace mayfly;

std::string executableDir() {
  char path[PATH_MAX];
  ssize_t n = ::readlink("/proc/self/exe", path, sizeof path - 1);
  std::string text(path, n > 0 ? static_cast<size_t>(n) : 0);
  return text.substr(0, text.find_last_of('/'));
}

// Opens stdin, stdout and stderr if needed, so that no socket of ours gets their numbers.
void fillStandardDescriptors() {
  for (int fd = 0; fd < 3; ++fd)
    if (::fcntl(fd, F_GETFD) < 0) (void)!::open("/dev/null", O_RDWR);
}

// Closes every descriptor that our parent left open, so that none goes further; returns `kept` as
// owned.
base::Fd closeInherited(int kept) {
  constexpr int kFirst = 3;
  base::Fd copy(kept >= 0 ? ::fcntl(kept, F_DUPFD_CLOEXEC, kFirst) : -1);
  if (copy && copy.get() > kFirst) ::close_range(kFirst, static_cast<unsigned>(copy.get()) - 1, 0);
  ::close_range(copy ? static_cast<unsigned>(copy.get()) + 1 : kFirst, ~0u, 0);
  return copy;
}

int failed(const base::Error& error) {
  spdlog::critical("{}", app::oneLine(error));
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  fillStandardDescriptors();
  ::umask(022);
  // A freed large message returns its memory to the system at once. The threshold is fixed, because
  // malloc would otherwise raise it to the size of the largest block that it ever freed.
  ::mallopt(M_MMAP_THRESHOLD, 256 << 10);
  ::signal(SIGPIPE, SIG_IGN);  // a write to a task's closed stdin is an errno, not our end

  std::string config_file;
  std::optional<std::string> instance, socket, state_dir, run_dir, log_level, http;
  std::vector<std::string> template_dirs, templates, accept_lost;
  int ready_fd = -1;
  CLI::App cli{"mayflyd: runs untrusted code, each task in a brand-new box"};
  cli.add_option("--config", config_file, "settings (TOML); optional");
  cli.add_option("--instance", instance, "name of this daemon on the host");
  cli.add_option("--socket", socket, "path of the daemon's socket");
  cli.add_option("--state-dir", state_dir, "the folder of the images");
  cli.add_option("--run-dir", run_dir, "the folder of locks and sockets");
  cli.add_option("--templates", template_dirs, "folders of templates");
  cli.add_option("--template", templates, "serve only these templates (default: all)");
  cli.add_option("--accept-lost-promise", accept_lost,
                 "start even if the host cannot keep this promise");
  cli.add_option("--http", http, "address and port of the HTTP server, like 127.0.0.1:9464");
  cli.add_option("--log-level", log_level, "trace, debug, info, warn or error");
  cli.add_option("--ready-fd", ready_fd, "write \"ready\" to this descriptor when serving");
  bool list_settings = false, list_metrics = false;
  cli.add_flag("--list-metrics", list_metrics, "print the table of all metrics");
  cli.add_flag("--list-settings", list_settings, "print every key of settings and manifests");
  CLI11_PARSE(cli, argc, argv);
  if (list_metrics) {
    fmt::print("{}", metrics::metricTable());
    return 0;
  }
  if (list_settings) {
    fmt::print("{}", config::settingsTables());
    return 0;
  }

  app::AppOptions options;
  options.ready = closeInherited(ready_fd);
  const auto log = std::make_shared<app::LogSink>(STDERR_FILENO);
  options.log = log->descriptor();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("mayflyd", log));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");

  if (ready_fd >= 0 && !options.ready)
    return failed(
        base::Error{base::Code::invalidArgument, "--ready-fd is not an open descriptor", {}, 0});
  if (!config_file.empty()) {
    auto loaded = config::loadDaemon(config_file);
    if (!loaded) return failed(loaded.error());
    options.settings = std::move(*loaded);
  }
  config::Daemon& s = options.settings;
  if (instance) s.instance = *instance;
  if (!config::isInstanceName(s.instance))
    return failed(base::Error{base::Code::invalidArgument,
                              "'" + s.instance + "' is not an instance's name",
                              "Use [a-z0-9][a-z0-9-]{0,31}.", 0});
  if (socket) s.socket_path = *socket;
  if (state_dir) s.state_dir = *state_dir;
  if (run_dir) s.run_dir = *run_dir;
  if (log_level) s.log_level = *log_level;
  if (http) s.http.listen = *http;
  if (!template_dirs.empty()) s.template_dirs = template_dirs;
  if (!templates.empty()) s.templates = templates;
  for (std::string& promise : accept_lost) s.accept_lost_promises.push_back(std::move(promise));
  for (const std::string* path : {&s.state_dir, &s.run_dir})
    if (path->empty() || path->front() != '/')
      return failed(base::Error{
          base::Code::invalidArgument, "'" + *path + "' is not an absolute path", {}, 0});
  auto notify = app::connectNotify(::getenv("NOTIFY_SOCKET"));
  if (!notify) return failed(notify.error());
  options.notify = std::move(*notify);
  options.executable_dir = executableDir();
  // A canary that no zygote and no task may ever find: the zygotes' trials look for it.
  uint64_t word = 0;
  if (::getrandom(&word, sizeof word, 0) == sizeof word)
    ::setenv("MAYFLY_CANARY", fmt::format("MAYFLY-CANARY-{:016x}", word).c_str(), 1);
  s.base_dirs = config::defaultTemplateDirs(options.executable_dir);
  if (s.template_dirs.empty()) s.template_dirs = s.base_dirs;
  spdlog::set_level(spdlog::level::from_str(s.log_level));
  auto code = app::run(std::move(options));
  return code ? *code : failed(code.error());
}
