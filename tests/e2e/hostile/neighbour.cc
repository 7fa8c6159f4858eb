// good_neighbour SOCKET: another client, beside hostile_client. It runs one task after another on
// one connection, each with stdin, live output and a file, with a short pause in between, until its
// standard input closes. Then it prints one JSON object. If any data of a task is lost or altered,
// it exits with 1.
#include <mayfly/client.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>

namespace {

using namespace mayfly;
using Clock = std::chrono::steady_clock;
constexpr size_t kOutputBytes = 300'000;  // more than the daemon holds of a stream
constexpr int kPauseMs = 30;              // a neighbour, not a load

std::string faultOf(Client& client, const std::string& word, uint64_t* incomplete) {
  TaskSpec spec;
  spec.template_name = "python";
  spec.kind = CodeKind::string;
  spec.code =
      "import sys\nw = sys.stdin.read()\nopen('out/f', 'w').write(w * 1000)\n"
      "print(w + 'x' * " +
      std::to_string(kOutputBytes) + ", end='')";
  spec.stdin_open = true;
  spec.collect_out_files = true;
  std::string printed;
  Callbacks callbacks;
  callbacks.on_output = [&](Stream, std::string_view bytes) { printed += bytes; };
  auto task = client.submit(std::move(spec), callbacks, 120'000);
  if (!task) return std::string(base::name(task.error().code)) + ": " + task.error().message;
  if (auto status = task->writeStdin(word); !status) return "stdin: " + status.error().message;
  if (auto status = task->closeStdin(); !status) return "stdin: " + status.error().message;
  auto result = task->wait(120'000);
  if (!result) return "wait: " + result.error().message;
  if (result->verdict != base::Verdict::succeeded)
    return std::string(base::name(result->verdict)) + ": " + result->reason;
  if (printed != word + std::string(kOutputBytes, 'x')) return "its output is not what it printed";
  if (!result->receipt.complete) ++*incomplete;
  auto file = task->readFile(0, 0);
  if (!file) return "file: " + file.error().message;
  if (file->size() != word.size() * 1'000) return "its file is not whole";
  return {};
}

bool stdinClosesWithin(int ms) {
  pollfd in{STDIN_FILENO, POLLIN, 0};
  return ::poll(&in, 1, ms) > 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  auto client = mayfly::Client::connect(argv[1]);
  std::string fault = client ? "" : client.error().message;
  uint64_t tasks = 0, incomplete = 0;
  int64_t slowest_ms = 0;
  puts("connected");
  fflush(stdout);
  while (fault.empty() && (tasks == 0 || !stdinClosesWithin(kPauseMs))) {
    auto began = Clock::now();
    fault = faultOf(**client, "word " + std::to_string(tasks) + "\n", &incomplete);
    slowest_ms = std::max<int64_t>(
        slowest_ms,
        std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - began).count());
    ++tasks;
  }
  nlohmann::ordered_json said{{"tasks", tasks},
                              {"slowestMs", slowest_ms},
                              {"incompleteReceipts", incomplete},
                              {"fault", fault}};
  puts(said.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace).c_str());
  return fault.empty() ? 0 : 1;
}
