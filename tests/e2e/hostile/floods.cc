// Too many of things of which one would be fine. Some attacks then keep what they hold and wait
// until the test closes the program's standard input.
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "edge/convert.h"
#include "hostile/cases.h"

namespace mayfly::hostile {

namespace {

using M = schema::Mayfly;
using T = schema::Task;
using Spec = schema::TaskSpec::Builder;

void raiseOpenFiles() {
  rlimit files;
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
}

void python(Spec spec, std::string_view code) {
  spec.setTemplate("python");
  spec.getCode().setString(edge::data(code));
}

void shell(Spec spec, const char* command) {
  spec.setTemplate("shell");
  spec.getCode().setCommand();
  auto args = spec.initArgs(3);
  args.set(0, "sh");
  args.set(1, "-c");
  args.set(2, command);
}

// Sends each connection its bytes, until the daemon has taken no more from any for a while.
uint64_t pushAll(std::vector<Raw>& all, const std::vector<std::string_view>& bytes) {
  constexpr int kQuietMs = 3000;  // longer than a busy machine keeps the daemon waiting
  std::vector<std::string_view> rests = bytes;
  uint64_t taken_bytes = 0;
  for (bool more = true; more;) {
    std::vector<pollfd> waits;
    std::vector<size_t> whose;
    for (size_t i = 0; i < all.size(); ++i) {
      if (rests[i].empty() || !all[i].alive()) continue;
      waits.push_back({all[i].fd(), POLLOUT, 0});
      whose.push_back(i);
    }
    if (waits.empty() || ::poll(waits.data(), waits.size(), kQuietMs) <= 0) break;
    for (size_t k = 0; k < waits.size(); ++k) {
      if (waits[k].revents == 0) continue;
      size_t taken = all[whose[k]].sendSome(rests[whose[k]], 0);
      rests[whose[k]].remove_prefix(taken);
      taken_bytes += taken;
    }
  }
  return taken_bytes;
}

std::string templatesCall(Raw& raw, Question question) {
  return raw.callBytes<M::TemplatesParams>(question, 0, capnp::typeId<M>(), 1, [](auto) {});
}

}  // namespace

int calls(const std::string& socket, uint32_t count) {
  Raw raw(socket);
  raw.bootstrap();
  std::string bytes;
  for (uint32_t i = 0; i < count; ++i) bytes += templatesCall(raw, raw.next());
  std::map<std::string, uint64_t> by_code;
  uint32_t read = 1;
  std::string_view rest = bytes;
  while (raw.alive() && read <= count) {
    if (!rest.empty()) rest.remove_prefix(raw.sendSome(rest, 0));
    if (!raw.read(rest.empty() ? kAnswerMs : 0)) break;
    // Answers are read only once all calls are sent.
    while (rest.empty() && read <= count) {
      Answer got = raw.answer(read, 1);
      ++by_code[got.code];
      ++read;
      if (got.code == "ended" || got.code == "timeout") read = count + 1;
    }
  }
  for (const auto& [code, number] : by_code) say("calls: " + code, "value", number);
  for (uint32_t i = 1; i <= count; ++i) raw.finish(i);
  // The connection still works.
  Question after = raw.submit([](Spec spec) { python(spec, "print('after')"); });
  say("after", raw.answer(raw.wait(after), 1));
  return 0;
}

int bootstraps(const std::string& socket, uint32_t count) {
  Raw raw(socket);
  std::string bytes;
  for (uint32_t i = 0; i < count; ++i) {
    capnp::MallocMessageBuilder message;
    message.initRoot<wire::Message>().initBootstrap().setQuestionId(i);
    bytes += bytesOf(message);
  }
  const size_t each_bytes = bytes.size() / count;
  std::string_view rest = bytes;
  // Reads all answers, so that only its calls fill the daemon.
  while (raw.alive() && !rest.empty()) {
    rest.remove_prefix(raw.sendSome(rest, 0));
    raw.read(rest.empty() ? 0 : 1);
    raw.forgetAnswers();
  }
  say("bootstraps: sent", "value", (bytes.size() - rest.size()) / each_bytes);
  say("bootstraps: ended", "value", raw.ends(kAnswerMs) ? 1 : 0);
  return 0;
}

int connections(const std::string& socket, uint32_t count) {
  raiseOpenFiles();
  std::vector<Raw> all;
  uint64_t opened = 0;
  for (uint32_t i = 0; i < count; ++i) {
    all.emplace_back(socket);
    opened += all.back().alive();
    if (!all.back().alive()) continue;
    all.back().bootstrap();
    all.back().call<M, M::HelloParams>(0, 0, [](M::HelloParams::Builder p) { p.setProtocol(1); });
  }
  say("connections: opened", "value", opened);
  std::map<std::string, uint64_t> by_code;
  for (Raw& each : all) ++by_code[each.alive() ? each.answer(1, 1).code : std::string("ended")];
  for (const auto& [code, number] : by_code) say("connections: " + code, "value", number);
  awaitTest();
  return 0;
}

// Tasks that print without end, and no reader.
int unread(const std::string& socket, uint32_t clients, uint32_t tasks) {
  raiseOpenFiles();
  std::vector<Raw> all;
  for (uint32_t i = 0; i < clients; ++i) {
    all.emplace_back(socket);
    all.back().bootstrap();
    for (uint32_t k = 0; k < tasks; ++k)
      all.back().submitLive([](Spec spec) {
        shell(spec, "exec tr '\\0' x </dev/zero");
        spec.initLimits().setMemoryBytes(16 << 20);
        spec.getLimits().setWallTimeMs(20'000);
      });
  }
  say("unread: clients", "value", all.size());
  awaitTest();
  return 0;
}

// Calls of a hundred bytes with far larger answers, and no reader.
int unread_answers(const std::string& socket, uint32_t clients, uint32_t calls_each) {
  raiseOpenFiles();
  std::vector<Raw> all;
  std::vector<std::string> bytes(clients);
  for (uint32_t i = 0; i < clients; ++i) {
    all.emplace_back(socket);
    all.back().bootstrap();
    for (uint32_t k = 0; k < calls_each; ++k)
      bytes[i] += templatesCall(all.back(), all.back().next());
  }
  say("unread answers: bytes of calls taken", "value", pushAll(all, {bytes.begin(), bytes.end()}));
  awaitTest();
  return 0;
}

int half_messages(const std::string& socket, uint32_t clients) {
  raiseOpenFiles();
  std::vector<Raw> all;
  std::string message((8u << 20) - 8, '\0');
  uint32_t words = (8u << 20) / 8;
  memcpy(message.data() + 4, &words, 4);
  for (uint32_t i = 0; i < clients; ++i) all.emplace_back(socket);
  uint64_t taken_bytes = 0;
  for (Raw& raw : all) taken_bytes += raw.sendSome(message.substr(0, 1 << 10), kAnswerMs);
  std::string_view rest = std::string_view(message).substr(1 << 10);
  taken_bytes += pushAll(all, std::vector<std::string_view>(clients, rest));
  say("half messages: bytes taken", "value", taken_bytes);
  awaitTest();
  return 0;
}

// Large calls on the answer of a call that does not return: Cap'n Proto holds their messages.
int promises(const std::string& socket, uint32_t clients) {
  raiseOpenFiles();
  std::vector<Raw> all;
  std::vector<std::string> bytes(clients);
  for (uint32_t i = 0; i < clients; ++i) {
    all.emplace_back(socket);
    Raw& raw = all.back();
    raw.bootstrap();
    Question task = raw.submit([](Spec spec) { shell(spec, "exec sleep 600"); });
    Question waits = raw.wait(task);
    for (int k = 0; k < 4; ++k)
      bytes[i] += raw.callBytes<T::WriteStdinParams>(
          raw.next(), waits, capnp::typeId<T>(), 2,
          [](T::WriteStdinParams::Builder p) { p.initData(6'000'000); });
  }
  say("promises: bytes taken", "value", pushAll(all, {bytes.begin(), bytes.end()}));
  awaitTest();
  return 0;
}

// Results with files that are never closed, until the daemon refuses the next task.
int spools(const std::string& socket, uint32_t count) {
  Raw raw(socket);
  raw.bootstrap();
  std::vector<Question> kept;
  Answer refused;
  while (kept.size() < count) {
    Question task = raw.submit([](Spec spec) {
      python(spec, "open('out/f', 'wb').write(bytes(8 << 20))");
      spec.setCollectOutFiles(true);
    });
    refused = raw.answer(task, 1);
    if (refused.code != "ok") break;
    kept.push_back(task);
    raw.answer(raw.wait(task), 1);
  }
  say("spools: kept", "value", kept.size());
  say("spools: the next", refused);
  awaitTest();
  for (Question each : kept) raw.answer(raw.close(each), 1);
  say("spools: after", raw.answer(raw.submit([](Spec spec) {
    python(spec, "");
    spec.setCollectOutFiles(true);
  }),
                                  1));
  return 0;
}

// Everything at random, and given up at random.
int cancels(const std::string& socket, uint32_t seed, uint32_t ms) {
  std::mt19937 random(seed);
  auto below = [&](uint32_t n) { return random() % n; };
  struct Peer {
    Raw raw;
    std::vector<Question> questions, tasks;
  };
  std::vector<std::unique_ptr<Peer>> peers;
  uint64_t actions = 0, hung_up = 0;
  auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
  while (std::chrono::steady_clock::now() < end) {
    ++actions;
    if (peers.empty() || (peers.size() < 16 && below(20) == 0)) {
      peers.push_back(std::make_unique<Peer>(Peer{Raw(socket), {}, {}}));
      peers.back()->raw.bootstrap();
      continue;
    }
    auto& peer = peers[below(static_cast<uint32_t>(peers.size()))];
    Raw& raw = peer->raw;
    auto some = [&](std::vector<Question>& of) {
      return of[below(static_cast<uint32_t>(of.size()))];
    };
    auto ask = [&](Question question) { peer->questions.push_back(question); };
    uint32_t what = below(100);
    if (what < 15 && peer->tasks.size() < 32) {
      auto fill = [&](Spec spec) {
        static const char* const programs[] = {"",
                                               "print(1)",
                                               "import time; time.sleep(0.05)",
                                               "print('x' * 300000)",
                                               "1/0",
                                               "import sys; print(len(sys.stdin.read()))"};
        python(spec, programs[below(6)]);
        spec.setStdinOpen(below(2) == 0);
      };
      Question task = below(2) == 0 ? raw.submit(fill) : raw.submitLive(fill);
      peer->tasks.push_back(task);
    } else if (what < 30 && !peer->tasks.empty()) {
      ask(raw.wait(some(peer->tasks)));
    } else if (what < 40 && !peer->tasks.empty()) {
      ask(raw.call<T, T::CancelParams>(some(peer->tasks), 1, [](auto) {}));
    } else if (what < 50 && !peer->tasks.empty()) {
      ask(raw.call<T, T::WriteStdinParams>(
          some(peer->tasks), 2,
          [&](T::WriteStdinParams::Builder p) { p.initData(below(100'000)); }));
    } else if (what < 55 && !peer->tasks.empty()) {
      ask(raw.call<T, T::CloseStdinParams>(some(peer->tasks), 3, [](auto) {}));
    } else if (what < 65 && !peer->tasks.empty()) {
      ask(raw.close(some(peer->tasks)));
    } else if (what < 80 && !peer->questions.empty()) {
      size_t at = below(static_cast<uint32_t>(peer->questions.size()));
      raw.finish(peer->questions[at]);
      peer->questions.erase(peer->questions.begin() + static_cast<long>(at));
    } else if (what < 85 && !peer->tasks.empty()) {
      size_t at = below(static_cast<uint32_t>(peer->tasks.size()));
      raw.finish(peer->tasks[at]);
      peer->tasks.erase(peer->tasks.begin() + static_cast<long>(at));
    } else if (what < 90) {
      ask(raw.call<M, M::TasksParams>(0, 3, [](auto) {}));
    } else if (what < 98) {
      raw.return_writes = below(4) != 0;
      raw.read(static_cast<int>(below(3)));
      raw.forgetAnswers();
    } else {
      if (below(2) == 0) raw.sendSome(std::string_view("\0\0\0\0\7\0\0\0half", 12), 0);
      peer = std::move(peers.back());
      peers.pop_back();
      ++hung_up;
    }
    std::erase_if(peers, [](auto& each) { return !each->raw.alive(); });
  }
  say("cancels: actions", "value", actions);
  say("cancels: connections dropped", "value", hung_up);
  return 0;
}

}  // namespace mayfly::hostile
