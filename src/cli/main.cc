// The command line: `mayfly VERB`. Parses the arguments and calls the verb's function.
//
// Layer: cli. `mayfly --help` is its documentation.
#include <errno.h>
#include <fmt/format.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cli/bench.h"
#include "cli/blob.h"
#include "cli/broker.h"
#include "cli/doctor.h"
#include "cli/options.h"
#include "cli/plan.h"
#include "cli/pool_replay.h"
#include "cli/report.h"
#include "cli/run.h"
#include "cli/task.h"
#include "cli/template.h"
#include "cli/top.h"
#include "image/cli_image.h"

namespace mayfly::cli {
namespace {

constexpr int kFailed = 1;

int say(const base::Error& error) {
  fmt::print(stderr, "{}", errorText(error));
  return kExitMayfly;
}

base::Result<std::unique_ptr<Client>> connect(const std::string& socket) {
  ConnectOptions options;
  options.client_name = "mayfly";
  return Client::connect(socket, options);
}

int ps(const std::string& socket, const PsOptions& options) {
  auto client = connect(socket);
  if (!client) return say(client.error());
  auto tasks = (*client)->tasks();
  if (!tasks) return say(tasks.error());
  fmt::print("{}", options.json ? tasksJson(*tasks) : tasksTable(*tasks));
  return 0;
}

int templates(const std::string& socket, const TemplatesOptions& options) {
  auto client = connect(socket);
  if (!client) return say(client.error());
  auto all = (*client)->templates();
  if (!all) return say(all.error());
  fmt::print("{}", options.json ? templatesJson(*all) : templatesTable(*all));
  return 0;
}

int kill(const std::string& socket, const KillOptions& options) {
  auto client = connect(socket);
  if (!client) return say(client.error());
  int code = 0;
  for (uint64_t id : options.ids) {
    auto status = (*client)->kill(id);
    if (status) continue;
    fmt::print(stderr, "{}", errorText(status.error()));
    code = kFailed;
  }
  return code;
}

// A program of its own, because it starts a spawner.
int snapshot(const SnapshotOptions& options) {
  char self[4'096];
  const ssize_t n = ::readlink("/proc/self/exe", self, sizeof self - 1);
  std::string program(self, n > 0 ? static_cast<size_t>(n) : 0);
  program = program.substr(0, program.find_last_of('/') + 1) + "mayfly-snapshot";
  std::vector<char*> argv{program.data()};
  std::vector<std::string> words = options.args;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execv(program.c_str(), argv.data());
  return say(base::sysError(errno, "execv", program));
}

int version(const std::string& socket, const VersionOptions& options) {
  if (options.ours_only) {
    fmt::print("mayfly {}\n", MAYFLY_VERSION);
    return 0;
  }
  auto client = connect(socket);
  std::string daemon = client ? (*client)->server().version : "";
  if (options.json) {
    nlohmann::ordered_json json{{"client", MAYFLY_VERSION}, {"daemon", nullptr}};
    if (client) json["daemon"] = daemon;
    fmt::print("{}\n", json.dump(2));
  } else {
    fmt::print("mayfly {}\n", MAYFLY_VERSION);
    if (client)
      fmt::print("mayflyd {} (instance '{}', protocol {})\n", base::printable(daemon),
                 base::printable((*client)->server().instance), (*client)->server().protocol);
    else
      fmt::print("mayflyd: {}\n", base::printable(client.error().message));
  }
  return 0;
}

int main(const std::vector<std::string>& args) {
  const char* from_environment = ::getenv("MAYFLY_SOCKET");
  std::string socket =
      from_environment != nullptr && *from_environment != '\0' ? from_environment : kDefaultSocket;
  Options options = parseCommandLine(args, socket);
  if (auto* it = std::get_if<SayAndExit>(&options.verb)) {
    fmt::print(it->code == 0 ? stdout : stderr, "{}", it->text);
    return it->code;
  }
  if (auto* it = std::get_if<RunOptions>(&options.verb)) return runTask(options.socket, *it);
  if (auto* it = std::get_if<TaskOptions>(&options.verb)) return taskMain(options.socket, *it);
  if (auto* it = std::get_if<BlobOptions>(&options.verb)) return blobMain(options.socket, *it);
  if (auto* it = std::get_if<PsOptions>(&options.verb)) return ps(options.socket, *it);
  if (auto* it = std::get_if<TemplatesOptions>(&options.verb))
    return templates(options.socket, *it);
  if (auto* it = std::get_if<KillOptions>(&options.verb)) return kill(options.socket, *it);
  if (auto* it = std::get_if<DoctorOptions>(&options.verb)) return doctorMain(*it);
  if (auto* it = std::get_if<ImageOptions>(&options.verb)) return image::imageMain(it->args);
  if (auto* it = std::get_if<TemplateOptions>(&options.verb)) return templateMain(it->args);
  if (auto* it = std::get_if<BrokerOptions>(&options.verb)) return brokerMain(it->args);
  if (auto* it = std::get_if<SnapshotOptions>(&options.verb)) return snapshot(*it);
  if (auto* it = std::get_if<TopWords>(&options.verb)) return topMain(it->args);
  if (auto* it = std::get_if<PoolOptions>(&options.verb)) return poolMain(it->args);
  if (auto* it = std::get_if<BenchOptions>(&options.verb))
    return benchMain(options.socket, it->args);
  if (auto* it = std::get_if<PlanVerbOptions>(&options.verb))
    return it->trace ? traceMain(it->args) : planMain(options.socket, it->args);
  return version(options.socket, std::get<VersionOptions>(options.verb));
}

}  // namespace
}  // namespace mayfly::cli

int main(int argc, char** argv) {
  return mayfly::cli::main(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
}
