// Layer: builder. See refresh.h.
#include "builder/refresh.h"

#include <errno.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <optional>

#include "base/clock.h"
#include "base/folder.h"
#include "base/text.h"
#include "builder/driver.h"
#include "config/manifest.h"
#include "wire/offer_check.h"

namespace mayfly::builder {

using base::Code;
using base::Fd;

namespace {

constexpr size_t kEntriesMax = 10'000;
constexpr uint64_t kAnswerNsMax = 120 * kSecondNs;  // beside the zygote's own time to start

// The daemon's socket; none if no daemon listens there any more.
base::Result<std::optional<Fd>> connectTo(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return base::fail(Code::invalidArgument, "the path of the socket is too long: " + path);
  memcpy(address.sun_path, path.data(), path.size());
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return base::failSys(errno, "socket", path);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
    return std::optional(std::move(fd));
  if (errno == ECONNREFUSED || errno == ENOENT) return std::optional<Fd>();
  return base::failSys(errno, "connect", path);
}

base::Status offerAt(const Fd& socket, const wire::Offer& offer, const Fd& folder,
                     uint64_t deadline_ns) {
  MAYFLY_CHECK(base::sendMessage(socket.view(), base::bytesOf(offer), {{folder.get()}}));
  MAYFLY_CHECK(awaitReadable(socket.view(), deadline_ns, "the daemon's answer"));
  wire::OfferAnswer answer;
  MAYFLY_TRY(base::Received got,
             base::receiveMessage(socket.view(), base::writableBytesOf(answer)));
  if (got.bytes == 0) return base::fail(Code::unavailable, "the daemon has ended");
  if (const char* fault = wire::faultOf(answer, got.bytes, got.fds))
    return base::fail(Code::internal, fault);
  if (answer.code == 0) return base::Unit{};
  return base::fail(static_cast<Code>(answer.code),
                    base::printable(answer.text, sizeof answer.text),
                    base::printable(answer.advice, sizeof answer.advice));
}

base::Result<std::vector<Daemon>> offerToAll(const RefreshOptions& o, const snapshot::Info& info,
                                             uint64_t start_ms_max) {
  std::vector<Daemon> daemons;
  auto names = base::namesIn(o.run_dir, kEntriesMax);
  if (!names) {
    if (names.error().sys == ENOENT) return daemons;  // no daemon has run here
    return base::fail(std::move(names).error());
  }
  wire::Offer offer;
  info.template_name.copy(offer.template_name, sizeof offer.template_name - 1);
  info.key.copy(offer.key, sizeof offer.key - 1);
  offer.memory_least_bytes = info.memoryLeast();
  offer.processes_least = info.processesLeast();
  MAYFLY_TRY(Fd folder, snapshot::open(o.build.state_dir, info));
  MAYFLY_CHECK(snapshot::verify(folder.view(), info));
  constexpr std::string_view kSuffix = wire::kOfferSocketSuffix;
  for (const std::string& name : *names) {
    if (name.size() <= kSuffix.size() || !name.ends_with(kSuffix)) continue;
    const std::string path = o.run_dir + "/" + name;
    auto socket = connectTo(path);
    if (socket && !*socket) continue;
    Daemon one{name.substr(0, name.size() - kSuffix.size()), base::Unit{}};
    MAYFLY_TRY(Fd of_daemon, snapshot::leaseAgain(folder.view()));
    one.outcome = socket ? offerAt(**socket, offer, of_daemon,
                                   base::monotonicNs() + start_ms_max * 1'000'000 + kAnswerNsMax)
                         : base::Status(base::fail(std::move(socket).error()));
    daemons.push_back(std::move(one));
  }
  return daemons;
}

}  // namespace

base::Result<RefreshResult> refresh(const std::string& template_name, const RefreshOptions& o) {
  BuildOptions build_options = o.build;
  build_options.present = BuildOptions::Present::replace;
  build_options.outcome = BuildOptions::Outcome::publish;
  MAYFLY_TRY(
      config::Manifest manifest,
      config::findManifest(build_options.template_dirs, template_name, build_options.base_dirs));
  RefreshResult result;
  MAYFLY_TRY(result.built, build(template_name, build_options));
  MAYFLY_TRY(result.daemons, offerToAll(o, result.built.info, manifest.zygote.start_ms_max));
  MAYFLY_TRY(result.still_used,
             snapshot::sweepUnused(build_options.state_dir, result.built.info, o.drain_ms));
  return result;
}

}  // namespace mayfly::builder
