// mayfly-bench-first-task RUNS ROOT: one small task compared with the cheapest cold start, taking
// turns; raw samples as one JSON object on stdout.
//
//   mayfly  Client::run of print(6*7) with template `python`: submit to receipt
//   bwrap   bwrap --unshare-all and python3 -c 'print(6*7)' in ROOT, the same image
//
// Layer: a client of Mayfly. bench/run calls it and makes the table.
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "mayfly/client.h"

extern char** environ;

namespace {

using namespace mayfly;
using Json = nlohmann::ordered_json;

constexpr int kWarmUps = 5;
constexpr int kRunsMax = 100'000;
constexpr char kCode[] = "print(6*7)";
constexpr char kAnswer[] = "42\n";

[[noreturn]] void die(const std::string& text) {
  std::fprintf(stderr, "bench: %s\n", text.c_str());
  ::exit(1);
}

Json viaMayfly(Client& client) {
  uint64_t first_byte_ns = 0;
  std::string said;
  Callbacks callbacks;
  callbacks.on_output = [&](Stream, std::string_view bytes) {
    if (first_byte_ns == 0) first_byte_ns = base::monotonicNs();
    said += bytes;
  };
  TaskSpec spec;
  spec.template_name = "python";
  spec.kind = CodeKind::string;
  spec.code = kCode;
  uint64_t began = base::monotonicNs();
  auto result = client.run(std::move(spec), std::move(callbacks));
  uint64_t ended = base::monotonicNs();
  if (!result) die(result.error().message);
  if (result->verdict != base::Verdict::succeeded || !result->receipt.complete || said != kAnswer)
    die("the task did not do its work: " + result->reason + " " + result->receipt.missing + said);
  Json phases;
  for (size_t i = 0; i < base::kPhases; ++i) {
    uint64_t at = result->phases[i];
    phases[std::string(base::name(static_cast<base::Phase>(i)))] = at > began ? at - began : 0;
  }
  return {
      {"receipt_ns", ended - began}, {"first_byte_ns", first_byte_ns - began}, {"phases", phases}};
}

uint64_t viaBwrap(const std::string& root) {
  std::vector<std::string> words = {"bwrap",
                                    "--unshare-all",
                                    "--die-with-parent",
                                    "--ro-bind",
                                    root,
                                    "/",
                                    "--proc",
                                    "/proc",
                                    "--dev",
                                    "/dev",
                                    "--tmpfs",
                                    "/tmp",
                                    "python3",
                                    "-c",
                                    kCode};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  auto pipe = base::makePipe();
  if (!pipe) die(pipe.error().message);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, pipe->write.get(), STDOUT_FILENO);
  pid_t pid = -1;
  uint64_t began = base::monotonicNs();
  int failed = ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) die(std::string("posix_spawn bwrap: ") + ::strerror(failed));
  pipe->write.reset();
  std::string said;
  char buffer[256];
  for (ssize_t n; (n = ::read(pipe->read.get(), buffer, sizeof buffer)) > 0;)
    said.append(buffer, static_cast<size_t>(n));
  int status = 0;
  ::waitpid(pid, &status, 0);
  uint64_t ended = base::monotonicNs();
  if (status != 0 || said != kAnswer) die("bwrap did not do its work: " + said);
  return ended - began;
}

}  // namespace

int main(int argc, char** argv) {
  int runs = argc == 3 ? ::atoi(argv[1]) : 0;
  if (runs < 1 || runs > kRunsMax) die("usage: mayfly-bench-first-task RUNS ROOT");
  const char* socket = ::getenv("MAYFLY_SOCKET");
  auto client = Client::connect(socket ? socket : kDefaultSocket, {.client_name = "bench"});
  if (!client) die(client.error().message);
  for (int i = 0; i < kWarmUps; ++i) {
    viaMayfly(**client);
    viaBwrap(argv[2]);
  }
  Json mayfly = Json::array(), bwrap = Json::array();
  for (int i = 0; i < runs; ++i) {
    mayfly.push_back(viaMayfly(**client));
    bwrap.push_back(viaBwrap(argv[2]));
  }
  std::printf("%s\n", Json{{"mayfly", mayfly}, {"bwrap", bwrap}}.dump().c_str());
  return 0;
}
