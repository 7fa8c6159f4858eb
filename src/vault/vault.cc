#include "vault/vault.h"

#include <capnp/rpc-twoparty.h>
#include <curl/curl.h>
#include <errno.h>
#include <fmt/format.h>
#include <kj/debug.h>
#include <malloc.h>
#include <signal.h>
#include <sodium.h>
#include <string.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <optional>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/clock.h"
#include "edge/asio_port.h"
#include "edge/asio_stream.h"
#include "edge/convert.h"
#include "edge/gathering_stream.h"
#include "edge/message_stream.h"
#include "edge/sha256.h"
#include "vault/introspection.h"
#include "vault/log.h"
#include "vault/server.h"
#include "vault/transfer.h"
#include "wire/broker_check.h"

namespace mayfly::vault {

using base::Code;

namespace {

// All that it does are KJ's events: what a call needs is done in one turn.
constexpr edge::TurnBounds kTurn{
    .events_max = 1'024, .time_max = std::chrono::milliseconds(1), .events_per_clock = 8};
constexpr auto kLookTime = std::chrono::milliseconds(250);
constexpr uint64_t kNumberMask = 0xffff'ffff'ff00'0000;  // of the first session, drawn at random

// One Cap'n Proto link, on which we serve.
struct RpcLink {
  RpcLink(edge::AsioPort& port, base::Fd socket, capnp::Capability::Client face,
          std::function<void()> on_end)
      : stream(edge::gatheringStream(port, edge::asioStream(port, std::move(socket)))),
        messages(*stream),
        network(messages, capnp::rpc::twoparty::Side::SERVER, edge::readerOptions()),
        rpc(capnp::makeRpcServer(network, kj::mv(face))),
        watch(network.onDisconnect()
                  .then([on_end = std::move(on_end)] { on_end(); })
                  .eagerlyEvaluate([](kj::Exception&&) {})) {}

  kj::Own<kj::AsyncIoStream> stream;
  edge::MessageStream messages;
  capnp::TwoPartyVatNetwork network;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc;
  kj::Promise<void> watch;
};

class Vault {
 public:
  Vault(base::Fd supervisor, base::Fd daemon, base::Fd audit, Journal journal)
      : port_(io_, kTurn, [](kj::Exception&& e) { say("error", edge::errorOf(e).message); }),
        hub_(port_, std::move(audit), std::move(journal), firstNumber()),
        introspection_(hub_),
        faces_{hub_, {}, {}, 0},
        supervisor_(io_, supervisor.get()),
        look_(io_),
        daemon_(std::in_place, port_, std::move(daemon), vaultFace(faces_),
                [this] { stop("the daemon's link has ended"); }) {
    supervisor.release();
    awaitMessage();
    awaitLook();
  }

  void run() { io_.run(); }
  void finish() {
    hub_.audit.flush();
    hub_.secrets.keepOnly({});
  }

 private:
  using Descriptor = boost::asio::posix::stream_descriptor;

  static uint64_t firstNumber() {
    uint64_t number;
    ::randombytes_buf(&number, sizeof number);
    return (number & kNumberMask) | 1;
  }

  void stop(const std::string& why) {
    say("info", "ends: " + why);
    io_.stop();
  }

  void awaitLook() {
    look_.expires_after(kLookTime);
    look_.async_wait([this](boost::system::error_code failed) {
      if (failed) return;
      hub_.look();
      awaitLook();
    });
  }

  void awaitMessage() {
    supervisor_.async_wait(Descriptor::wait_read, [this](boost::system::error_code failed) {
      if (failed) return stop("the supervisor's link: " + failed.message());
      for (;;) {
        wire::SecretMessage message;
        auto got = base::receiveMessage(base::FdView(supervisor_.native_handle()),
                                        base::writableBytesOf(message));
        if (!got && got.error().code == Code::unavailable) return awaitMessage();
        if (!got || got->bytes == 0) return stop("the supervisor's link has ended");
        const wire::Checked checked = wire::check(message, got->bytes, got->fds);
        if (checked.fault != wire::Checked::Fault::none)
          return stop(std::string("the supervisor's message: ") + checked.what);
        take(message, std::move(got->fd[0]));
      }
    });
  }

  void take(const wire::SecretMessage& message, base::Fd fd) {
    using enum wire::SecretMessage::Kind;
    switch (message.kind) {
      case policy:
        return takePolicy(fd.view(), message.text);
      case secret:
        return takeSecret(message.name, fd.view());
      case failed:
        return hub_.secrets.fail(message.name, message.text);
      case audit:
        return hub_.audit.reopen(std::move(fd));
      case wire::SecretMessage::Kind::front:
        front_.reset();  // its calls end
        front_.emplace(port_, std::move(fd), callsFace(faces_),
                       [this, link = front_link_ = message.link] { frontLost(link); });
        return;
    }
  }

  // The front has died, or the link alone has broken: then the supervisor makes another. Closed on
  // our side, so that the front sees that, too.
  void frontLost(uint64_t link) {
    boost::asio::post(io_, [this, link] {
      if (link != front_link_ || !front_) return;
      front_.reset();
      wire::VaultNote note;
      note.kind = wire::VaultNote::Kind::frontLost;
      note.link = link;
      tell(note);
    });
  }

  void tell(const wire::VaultNote& note) {
    (void)base::sendMessage(base::FdView(supervisor_.native_handle()), base::bytesOf(note), {});
  }

  void takeSecret(const std::string& name, base::FdView fd) {
    auto value = Secret::readFrom(fd, config::kSecretBytesMax);
    if (value) {
      hub_.dropPatterns();
      return hub_.secrets.set(name, std::make_shared<const Secret>(std::move(*value)));
    }
    say("warn", fmt::format("secret '{}': {}", name, value.error().message));
    hub_.secrets.fail(name, value.error().message);
  }

  void takePolicy(base::FdView fd, const std::string& file) {
    auto text = readPolicy(fd);
    auto policy = text ? config::parsePolicy(*text, file)
                       : base::Result<config::Policy>(base::fail(text.error()));
    wire::VaultNote note;
    note.kind = wire::VaultNote::Kind::policyLoaded;
    if (policy) {
      if (auto listens = introspection_.listen(policy->introspection); !listens)
        policy = base::fail(std::move(listens).error());
    }
    if (!policy) {
      note.kind = wire::VaultNote::Kind::policyRefused;
      const std::string why = policy.error().message;
      why.copy(note.text, sizeof note.text - 1);
      say("error", why);
    } else {
      load(std::move(*policy), *text);
    }
    tell(note);
  }

  void load(config::Policy policy, const std::string& text) {
    std::set<std::string> names;
    for (const config::SecretSource& each : policy.secrets) names.insert(each.name);
    hub_.dropPatterns();
    hub_.secrets.keepOnly(names);
    hub_.limits.setBounds(policy.bounds);
    auto gone = hub_.book.setPolicy(std::make_shared<const config::Policy>(std::move(policy)));
    for (const auto& [session, grant] : gone) hub_.revoke(session, grant, "policy.changed");
    edge::Sha256Sum sum;
    sum.add(text);
    faces_.policy_sha256 = std::string(edge::view(sum.take()));
    faces_.loaded_ns = base::monotonicNs();
  }

  static base::Result<std::string> readPolicy(base::FdView fd) {
    std::string text(config::kPolicyFileBytesMax + 1, '\0');
    size_t size = 0;
    while (size < text.size()) {
      const ssize_t n = ::read(fd.get(), text.data() + size, text.size() - size);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return base::failSys(errno, "read", "the policy");
      if (n == 0) break;
      size += static_cast<size_t>(n);
    }
    if (size > config::kPolicyFileBytesMax)
      return base::fail(Code::invalidArgument, "the policy is too large");
    text.resize(size);
    return text;
  }

  boost::asio::io_context io_{1};
  edge::AsioPort port_;
  Hub hub_;
  Introspection introspection_;
  Faces faces_;
  Descriptor supervisor_;
  boost::asio::steady_timer look_;
  std::optional<RpcLink> daemon_, front_;
  uint64_t front_link_ = 0;
};

base::Status prepareLibraries() {
  if (::sodium_init() < 0) return base::fail(Code::internal, "libsodium cannot begin");
  if (::curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
    return base::fail(Code::internal, "libcurl cannot begin");
  return base::Unit{};
}

}  // namespace

int runVault(base::Fd supervisor, base::Fd daemon, base::Fd audit, const RoomOptions& options) {
  ::signal(SIGPIPE, SIG_IGN);
  // The supervisor ends this process; a terminal's signals are not for it.
  for (int signal : {SIGHUP, SIGINT, SIGUSR1, SIGUSR2}) ::signal(signal, SIG_IGN);
  openLog();
  const auto failed = [](const base::Error& error) {
    say("error", "cannot start: " + error.message);
    return 1;
  };
  if (auto ready = prepareLibraries(); !ready) return failed(ready.error());
  TlsSessions tls_sessions;
  if (auto entered = enterRoom(options); !entered) return failed(entered.error());
  auto journal = Journal::open(kJournalFile);
  if (!journal) return failed(journal.error());
  for (const base::Fd* link : {&supervisor, &daemon})
    if (auto set = base::setNonblocking(link->view()); !set) return failed(set.error());
  try {
    Vault vault(std::move(supervisor), std::move(daemon), std::move(audit), std::move(*journal));
    // Loop, timers and threads are there; nothing has been read yet.
    if (auto walled = allowOnlyServing(base::FdView(STDERR_FILENO)); !walled)
      return failed(walled.error());
    vault.run();
    vault.finish();
    ::_exit(0);  // waits for no name that is being resolved
  } catch (const std::exception& e) {
    say("error", std::string("ends: ") + e.what());
  } catch (const kj::Exception& e) {
    say("error", "ends: " + edge::errorOf(e).message);
  }
  ::_exit(1);
}

}  // namespace mayfly::vault
