// libFuzzer on all that the broker's front does with a box's bytes: first its parsers alone, then a
// real connection of a door, with a vault that plays its part (tests/unit/front_rig.h).
//
// Finds: a crash, a sanitizer's finding, a request that is read differently when its bytes come in
// other pieces, an answer that is no HTTP, a connection that does not end.
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>

#include <string>
#include <string_view>

#include "front/answer.h"
#include "front/json.h"
#include "front/route.h"
#include "front_rig.h"

namespace {

using namespace mayfly;
using namespace mayfly::front;

constexpr int kEndMs = 20'000;  // a connection that has not ended by then never will

void require(bool truth) {
  if (!truth) abort();
}

Options bounds() {
  Options options;
  options.sweep_time = Options::Time(50);
  options.head_time = options.stall_time = Options::Time(2'000);
  options.idle_time = options.linger_time = Options::Time(500);
  options.head_bytes_max = 2u << 10;
  options.headers_max = 10;
  options.target_bytes_max = 256;
  options.json_bytes_max = 1u << 10;
  options.buffer_bytes_per_door_max = 256u << 10;
  return options;
}
const Options kOptions = bounds();

// All requests of `bytes`, one after the other, as one text; the bytes come `step` at a time.
std::string readAll(std::string_view bytes, size_t step) {
  std::string out;
  size_t begin = 0, end = 0;
  for (;;) {
    HeadScanner scanner(kOptions);
    RequestParser parser(kOptions);
    bool in_body = false;
    std::string body;
    for (bool done = false; !done;) {
      const std::string_view unread = bytes.substr(begin, end - begin);
      bool waits = true;
      if (!in_body) {
        auto size = scanner.look(unread);
        if (!size) return out + "refused " + std::to_string(size.error().status);
        if (*size > 0) {
          require(*size <= kOptions.head_bytes_max);
          auto head = parser.head(unread.substr(0, *size));
          if (!head) return out + "refused " + std::to_string(head.error().status);
          require(head->fields.size() <= kOptions.headers_max);
          require(head->target.size() <= kOptions.target_bytes_max);
          out += head->method + " " + head->target + "\n";
          for (const Field& field : head->fields) {
            require(isToken(field.name) && field.value.find_first_of("\r\n\0", 0, 3) == std::string::npos);
            out += field.name + ":" + field.value + "\n";
          }
          if (auto route = routeOf(*head)) out += route->name + route->target + route->host;
          begin += *size;
          in_body = true;
          waits = false;
        }
      } else {
        auto used = parser.body(unread, body);
        if (!used) return out + "refused " + std::to_string(used.error().status);
        require(*used <= unread.size());
        begin += *used;
      }
      done = in_body && parser.done();
      if (done || !waits) continue;
      if (end == bytes.size()) return out + "unfinished";
      end += std::min(step, bytes.size() - end);
    }
    out += body + "\n";
    (void)paramsOf(body);
    (void)checkObject(body);
  }
}

FrontRig& rig() {
  static auto* it = new FrontRig(kOptions);  // serves until the process ends
  return *it;
}
const FrontRig::Ends& door() {
  static const FrontRig::Ends ends = rig().openDoor(1, 1'000);
  return ends;
}

void talk(const uint8_t* data, size_t size) {
  base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  door().path.copy(address.sun_path, sizeof address.sun_path - 1);
  while (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    if (errno != EINTR) abort();
  ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
  static char buffer[64 << 10];
  std::string answer;
  bool writing = true;
  for (;;) {
    if (writing && size == 0) {
      writing = false;
      ::shutdown(fd.get(), SHUT_WR);
    }
    pollfd p{fd.get(), static_cast<short>(writing ? POLLIN | POLLOUT : POLLIN), 0};
    const int ready = ::poll(&p, 1, kEndMs);
    if (ready < 0 && errno == EINTR) continue;  // the fuzzer's own alarm
    require(ready > 0);
    if (writing && (p.revents & POLLOUT) != 0) {
      const ssize_t n = ::send(fd.get(), data, size, MSG_NOSIGNAL);
      if (n > 0) {
        data += n;
        size -= static_cast<size_t>(n);
      } else if (errno != EAGAIN) {
        writing = false;
      }
    }
    if ((p.revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
      const ssize_t n = ::recv(fd.get(), buffer, sizeof buffer, 0);
      if (n == 0 || (n < 0 && errno != EAGAIN)) break;
      if (n > 0 && answer.size() < 16) answer.append(buffer, std::min<size_t>(n, 16));
    }
  }
  require(std::string_view("HTTP/1.1 ").starts_with(answer.substr(0, 9)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t step = 1 + data[0] % 64;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  require(readAll(bytes, bytes.size() + 1) == readAll(bytes, step));
  talk(data + 1, size - 1);
  return 0;
}
