// hostile_client SOCKET ATTACK [NUMBERS]: attacks that no client of ours makes. See
// tests/e2e/test_bad_input.py and docs/SPECIFICATION.md.
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "hostile/cases.h"

namespace mayfly::hostile {

namespace {
void print(const nlohmann::ordered_json& json) {
  puts(json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace).c_str());
  fflush(stdout);
}
}  // namespace

void say(const std::string& name, const Answer& answer) {
  print({{"name", name},
         {"code", answer.code},
         {"text", answer.text.substr(0, 400)},
         {"textBytes", answer.text.size()},
         {"retryable", answer.retryable},
         {"retryAfterMs", answer.retry_after_ms}});
}

void say(const std::string& name, const std::string& key, uint64_t value) {
  print({{"name", name}, {key, value}});
}

void awaitTest() {
  char byte;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
}

}  // namespace mayfly::hostile

int main(int argc, char** argv) {
  using namespace mayfly::hostile;
  ::signal(SIGPIPE, SIG_IGN);
  if (argc < 3) return 2;
  std::string socket = argv[1], attack = argv[2];
  auto number = [&](int at) {
    return argc > at + 3 ? static_cast<uint32_t>(strtoul(argv[at + 3], nullptr, 10)) : 0u;
  };
  if (attack == "submissions") return submissions(socket);
  if (attack == "wire") return wire_attacks(socket);
  if (attack == "calls") return calls(socket, number(0));
  if (attack == "bootstraps") return bootstraps(socket, number(0));
  if (attack == "connections") return connections(socket, number(0));
  if (attack == "unread") return unread(socket, number(0), number(1));
  if (attack == "unread-answers") return unread_answers(socket, number(0), number(1));
  if (attack == "half-messages") return half_messages(socket, number(0));
  if (attack == "promises") return promises(socket, number(0));
  if (attack == "spools") return spools(socket, number(0));
  if (attack == "cancels") return cancels(socket, number(0), number(1));
  return 2;
}
