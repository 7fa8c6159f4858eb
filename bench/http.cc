// mayfly-bench-http: the two ends of a GET, to measure what lies between them.
//
//   serve   an upstream on 127.0.0.1; prints its port. /hello answers 64 bytes; /stream sends
//           events as a model API does, each with the time at which it was sent
//   relay   passes bytes on to a port of 127.0.0.1, and does nothing else; prints its own port.
//           Two of them are what any two processes between the ends cost at the least
//   get     GETs through 127.0.0.1:PORT or a unix socket, one after the other on each connection;
//           prints its times as JSON
//
// Linked statically: `get` also runs in a box, whose image has none of our libraries. Both clocks
// are the host's monotonic one.
//
// Layer: bench. Blocking calls; a thread for each connection, so that nothing but the measured path
// takes part.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "load/histogram.h"

namespace {

using namespace mayfly;
using base::monotonicNs;
using load::Histogram;

constexpr size_t kReadBytes = 16u << 10, kAnswerBytesMax = 1u << 20;
constexpr int kBacklog = 512;
constexpr int kEvents = 8;  // of an answer of /stream
constexpr long kEventGapNs = 4'000'000;
constexpr std::string_view kEventBegin = "data: ";
constexpr size_t kEventDigits = 20;
constexpr int kSilenceSMax = 30;

struct Options {
  uint16_t port = 0;
  std::string local, path = "/hello";
  bool fresh = false;
  uint64_t count = 0, warm_up = 0;
  double seconds = 0;
  unsigned connections = 1;
};

[[noreturn]] void die(const std::string& text) {
  std::fprintf(stderr, "mayfly-bench-http: %s\n", text.c_str());
  ::exit(1);
}

bool sendAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

// Appends what is there; false at the end.
bool receive(int fd, std::string& to) {
  const size_t before = to.size();
  to.resize(before + kReadBytes);
  const ssize_t n = ::recv(fd, to.data() + before, kReadBytes, 0);
  to.resize(before + static_cast<size_t>(std::max<ssize_t>(n, 0)));
  return n > 0;
}

sockaddr_in loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
  address.sin_port = ::htons(port);
  return address;
}

void noDelay(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// --- serve -------------------------------------------------------------------------

bool sendEvents(int fd) {
  if (!sendAll(fd,
               "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
               "Transfer-Encoding: chunked\r\n\r\n"))
    return false;
  for (int i = 0; i < kEvents; ++i) {
    if (i > 0) {
      const timespec gap{0, kEventGapNs};
      ::nanosleep(&gap, nullptr);
    }
    char event[64];
    const int n = std::snprintf(event, sizeof event, "1c\r\ndata: %020llu\n\n\r\n",
                                static_cast<unsigned long long>(monotonicNs()));
    if (!sendAll(fd, {event, static_cast<size_t>(n)})) return false;
  }
  return sendAll(fd, "0\r\n\r\n");
}

void serveOne(int fd) {
  static const std::string hello =
      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 64\r\n\r\n" +
      std::string("{\"text\": \"") + std::string(52, 'x') + "\"}";
  noDelay(fd);
  std::string in;
  for (;;) {
    const size_t end = in.find("\r\n\r\n");
    if (end == std::string::npos) {
      if (in.size() > kAnswerBytesMax || !receive(fd, in)) break;
      continue;
    }
    const bool streams = in.starts_with("GET /stream ");
    in.erase(0, end + 4);
    if (!(streams ? sendEvents(fd) : sendAll(fd, hello))) break;
  }
  ::close(fd);
}

// Listens on a free port, prints it; calls `serve_one` with each connection, on its own thread.
template <class ServeOne>
[[noreturn]] void listenOn(ServeOne serve_one) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address = loopback(0);
  socklen_t bytes = sizeof address;
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener, kBacklog) != 0 ||
      ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &bytes) != 0)
    die(std::string("cannot listen: ") + ::strerror(errno));
  std::printf("%u\n", ::ntohs(address.sin_port));
  std::fflush(stdout);
  for (;;) {
    const int fd = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd >= 0) std::thread(serve_one, fd).detach();
  }
}

// --- relay -------------------------------------------------------------------------

void relayOne(int near, uint16_t to) {
  const int far = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = loopback(to);
  if (::connect(far, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    die(std::string("cannot connect: ") + ::strerror(errno));
  noDelay(near);
  noDelay(far);
  pollfd ends[2] = {{near, POLLIN, 0}, {far, POLLIN, 0}};
  std::string bytes;
  for (bool alive = true; alive && ::poll(ends, 2, -1) > 0;)
    for (int i = 0; i < 2 && alive; ++i)
      if (ends[i].revents != 0) {
        bytes.clear();
        alive = receive(ends[i].fd, bytes) && sendAll(ends[1 - i].fd, bytes);
      }
  ::close(near);
  ::close(far);
}

// --- get ---------------------------------------------------------------------------

struct Times {
  Histogram whole;  // from the request (with --new: from the connect) to the answer's last byte
  Histogram first;  // to the body's first byte
  Histogram event;  // of /stream: from the sending of each event to its arrival
  uint64_t failed = 0, began_ns = UINT64_MAX, ended_ns = 0;
  std::string why;  // of the first failure
};

int connectTo(const Options& o) {
  int fd, failed;
  if (o.local.empty()) {
    fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in address = loopback(o.port);
    failed = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
    noDelay(fd);
  } else {
    fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    o.local.copy(address.sun_path, sizeof address.sun_path - 1);
    failed = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }
  if (failed != 0) die(std::string("cannot connect: ") + ::strerror(errno));
  const timeval silence{kSilenceSMax, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence);
  return fd;
}

// An answer as it arrives.
class Answer {
 public:
  std::string text;  // all of it

  // After more bytes; whether it is whole.
  bool isWhole() {
    if (body_at_ == 0 && !readHead()) return false;
    return chunked_ ? std::string_view(text).ends_with("\r\n0\r\n\r\n")
                    : text.size() >= body_at_ + length_;
  }
  bool hasBody() const { return body_at_ != 0 && text.size() > body_at_; }
  bool isOk() const { return text.starts_with("HTTP/1.1 200 "); }
  // The times in the events that came since the last call.
  std::vector<uint64_t> newEvents() {
    std::vector<uint64_t> out;
    for (;;) {
      const size_t at = text.find(kEventBegin, events_at_);
      if (at == std::string::npos || text.size() < at + kEventBegin.size() + kEventDigits)
        return out;
      out.push_back(::strtoull(text.c_str() + at + kEventBegin.size(), nullptr, 10));
      events_at_ = at + kEventBegin.size() + kEventDigits;
    }
  }

 private:
  bool readHead() {
    const size_t end = text.find("\r\n\r\n");
    if (end == std::string::npos) return false;
    body_at_ = end + 4;
    events_at_ = body_at_;
    const std::string head = text.substr(0, end + 2);
    if (const char* at = ::strcasestr(head.c_str(), "\r\ncontent-length:"))
      length_ = ::strtoull(at + 17, nullptr, 10);
    else
      chunked_ = ::strcasestr(head.c_str(), "\r\ntransfer-encoding: chunked") != nullptr;
    return true;
  }

  size_t body_at_ = 0, length_ = 0, events_at_ = 0;
  bool chunked_ = false;
};

// False: the connection is of no more use.
bool getOnce(const Options& o, int fd, uint64_t since_ns, bool recorded, Times& times) {
  const std::string request = "GET " + o.path +
                              " HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\n" +
                              "Accept: */*\r\n\r\n";
  Answer answer;
  uint64_t first_ns = 0;
  bool whole = false, alive = sendAll(fd, request);
  while (alive && !whole) {
    alive = receive(fd, answer.text);
    const uint64_t now_ns = monotonicNs();
    whole = answer.isWhole();
    if (first_ns == 0 && answer.hasBody()) first_ns = now_ns;
    for (uint64_t sent_ns : answer.newEvents())
      if (recorded) times.event.record(now_ns - std::min(now_ns, sent_ns));
  }
  const uint64_t ended_ns = monotonicNs();
  if (!whole || !answer.isOk()) {
    if (times.failed++ == 0)
      times.why = whole ? answer.text.substr(0, 1'000) : "the answer broke off";
    return false;
  }
  if (!recorded) return true;
  times.whole.record(ended_ns - since_ns);
  times.first.record(first_ns - since_ns);
  times.began_ns = std::min(times.began_ns, since_ns);
  times.ended_ns = ended_ns;
  return true;
}

void getMany(const Options& o, uint64_t until_ns, Times& times) {
  int fd = o.fresh ? -1 : connectTo(o);
  for (uint64_t i = 0; o.count == 0 || i < o.count + o.warm_up; ++i) {
    const uint64_t since_ns = monotonicNs();
    if (until_ns != 0 && since_ns >= until_ns) break;
    if (o.fresh) fd = connectTo(o);
    const bool good = getOnce(o, fd, since_ns, i >= o.warm_up, times);
    if (o.fresh) ::close(fd);
    if (!good) break;
  }
  if (!o.fresh) ::close(fd);
}

int get(const Options& o) {
  std::vector<Times> all(o.connections);
  std::vector<std::thread> threads;
  const uint64_t until_ns =
      o.seconds > 0 ? monotonicNs() + static_cast<uint64_t>(o.seconds * 1e9) : 0;
  // One connection needs no thread, and so is not started on another processor.
  for (unsigned i = 1; i < o.connections; ++i)
    threads.emplace_back([&, i] { getMany(o, until_ns, all[i]); });
  getMany(o, until_ns, all[0]);
  for (std::thread& each : threads) each.join();
  Times sum = all[0];
  for (unsigned i = 1; i < o.connections; ++i) {
    sum.whole.add(all[i].whole);
    sum.first.add(all[i].first);
    sum.event.add(all[i].event);
    sum.failed += all[i].failed;
    if (sum.why.empty()) sum.why = all[i].why;
    sum.began_ns = std::min(sum.began_ns, all[i].began_ns);
    sum.ended_ns = std::max(sum.ended_ns, all[i].ended_ns);
  }
  const uint64_t count = sum.whole.count();
  nlohmann::ordered_json out = {{"count", count}, {"failed", sum.failed}, {"why", sum.why}};
  out["per_s"] = count == 0 ? 0.0
                            : static_cast<double>(count) * 1e9 /
                                  static_cast<double>(sum.ended_ns - sum.began_ns);
  out["whole"] = toJson(sum.whole);
  out["first"] = toJson(sum.first);
  if (sum.event.count() != 0) out["event"] = toJson(sum.event);
  std::printf("%s\n", out.dump().c_str());
  return sum.failed == 0 && count != 0 ? 0 : 3;
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App cli{"mayfly-bench-http: the two ends of a GET"};
  cli.require_subcommand(1);
  CLI::App* server = cli.add_subcommand("serve", "an upstream on 127.0.0.1; prints its port");
  CLI::App* relay =
      cli.add_subcommand("relay", "bytes to a port of 127.0.0.1; prints its own port");
  relay->add_option("--to", o.port, "the port")->required();
  CLI::App* client = cli.add_subcommand("get", "GETs, one after the other on each connection");
  client->add_option("--port", o.port, "connect to 127.0.0.1 and this port");
  client->add_option("--local", o.local, "connect to this unix socket");
  client->add_option("--path", o.path, "of the request")->capture_default_str();
  client->add_flag("--new", o.fresh, "a new connection for each request");
  client->add_option("--count", o.count, "requests of each connection");
  client->add_option("--warm-up", o.warm_up, "requests before them that are not recorded");
  client->add_option("--seconds", o.seconds, "no request starts later");
  client->add_option("--connections", o.connections, "at a time")->check(CLI::Range(1, 1'000));
  CLI11_PARSE(cli, argc, argv);
  if (*server) listenOn(serveOne);
  if (*relay) listenOn([to = o.port](int fd) { relayOne(fd, to); });
  if ((o.port == 0) == o.local.empty()) die("give --port or --local");
  if (o.count == 0 && o.seconds <= 0) die("give --count or --seconds");
  return get(o);
}
