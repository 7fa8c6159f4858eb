#include "vault/tunnel_run.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>

#include <boost/asio/buffer.hpp>

#include "base/clock.h"
#include "broker/address.h"
#include "config/policy_text.h"

namespace mayfly::vault {

using base::Code;
using broker::Refusal;

namespace {

constexpr size_t kTunnelWindowBytes = 64u << 10;

}  // namespace

TunnelRun::TunnelRun(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line, broker::Grant grant,
                     std::string host, uint16_t port, schema::Down::Client down)
    : Run(hub, std::move(ticket), std::move(line)),
      ask_(std::move(grant)),
      host_(std::move(host)),
      port_(port),
      flow_(std::make_shared<Flow>(kj::mv(down), hub.tasks, *this)),
      socket_(hub.io),
      progress_ns_(begun_ns_) {}

std::shared_ptr<TunnelRun> TunnelRun::start(Hub& hub, std::shared_ptr<Ticket> ticket,
                                            AuditLine line, broker::Grant grant, std::string host,
                                            uint16_t port, schema::Down::Client down) {
  std::shared_ptr<TunnelRun> run(new TunnelRun(hub, std::move(ticket), std::move(line),
                                               std::move(grant), std::move(host), port,
                                               kj::mv(down)));
  hub.add(run);
  return run;  // nothing is connected before the box's first bytes
}

// Connects once the greeting is whole.
broker::Decision<base::Unit> TunnelRun::readHello(std::string_view bytes) {
  using State = broker::HelloReader::State;
  if (hello_.state() == State::done) return base::Unit{};
  const State state = hello_.feed(bytes);
  if (state == State::more) return base::Unit{};
  if (state == State::done && hello_.name() == config::lowered(host_) && !hello_.encrypted())
    return connect();
  return broker::refuse({Code::permissionDenied,
                         403,
                         ask_.rule() + ".modes",
                         "the TLS greeting of the tunnel is none for its host",
                         {},
                         0});
}

broker::Decision<base::Unit> TunnelRun::connect() {
  TransferSpec spec{"CONNECT", fmt::format("http://{}:{}/", host_, port_), {}};
  spec.host = host_;
  spec.port = port_;
  spec.session = session();
  spec.uid = line_.uid;
  spec.tls = false;  // the box's own TLS goes through
  spec.connect_only = true;
  spec.connect_ms_max = rules().connect_ms_max;
  spec.allows = [policy = ask_.policy, named = &rules().allow_addresses](
                    const config::Address& address) { return broker::isAllowed(address, *named); };
  auto started = Transfer::start(hub_.curl, hub_.resolver, std::move(spec), *this);
  if (!started) return broker::refuse(refusalOf(started.error(), ask_.rule()));
  connecting_ = std::move(*started);
  return base::Unit{};
}

void TunnelRun::onEnd(Failure failure, const std::string& why) {
  const auto alive = shared_from_this();
  base::Fd socket = connecting_->takeSocket();
  connecting_.reset();
  if (isDone()) return;
  if (failure != Failure::none || !socket)
    return fail({failure == Failure::address ? Code::permissionDenied : Code::unavailable,
                 static_cast<uint16_t>(failure == Failure::address ? 403 : 502),
                 ask_.rule() + "." + std::string(name(failure)),
                 fmt::format("{}:{}: {}", host_, port_, why),
                 {},
                 0});
  boost::system::error_code failed;
  if (!base::setNonblocking(socket.view()) || socket_.assign(socket.get(), failed))
    return fail({Code::internal, 502, ask_.rule(), "a socket cannot be watched", {}, 0});
  socket.release();
  writeSome();
  readSome();
}

broker::Decision<kj::Promise<void>> TunnelRun::onUp(std::string_view bytes) {
  if (isDone()) return broker::refuse({Code::cancelled, 502, {}, "the tunnel is closed", {}, 0});
  if (up_ended_ || up_wait_ != nullptr)
    return broker::refuse(
        {Code::invalidArgument,
         400,
         {},
         up_ended_ ? "the box has closed its side" : "an earlier write still waits",
         {},
         0});
  progress_ns_ = base::monotonicNs();
  line_.request_bytes += bytes.size();
  auto spent = ticket_->spend(bytes.size(), progress_ns_);
  std::optional<Refusal> refusal;
  if (!spent) refusal = spent.error();
  if (line_.request_bytes > rules().request_bytes_max)
    refusal = {Code::invalidArgument,
               413,
               ask_.rule() + ".request_max",
               "the tunnel has carried as many bytes as it may",
               {},
               0};
  if (!refusal)
    if (auto read = readHello(bytes); !read) refusal = std::move(read).error();
  if (refusal) {
    fail(*refusal, "refused");
    return broker::refuse(std::move(*refusal));
  }
  up_.append(bytes);
  writeSome();
  kj::Promise<void> room = kj::READY_NOW;
  if (!isDone() && up_.size() >= kTunnelWindowBytes) {
    auto paf = kj::newPromiseAndFulfiller<void>();
    up_wait_ = kj::mv(paf.fulfiller);
    room = kj::mv(paf.promise);
  }
  if (*spent == 0) return kj::mv(room);
  return hub_.timer.afterDelay(*spent * kj::NANOSECONDS).then([room = kj::mv(room)]() mutable {
    return kj::mv(room);
  });
}

void TunnelRun::onUpEnd() {
  up_ended_ = true;
  if (!writing_ && socket_.is_open() && up_.empty()) ::shutdown(socket_.native_handle(), SHUT_WR);
}

void TunnelRun::onUpDropped() {
  if (!isDone()) fail({Code::cancelled, 502, "box", "the box gave the tunnel up", {}, 0});
}

void TunnelRun::writeSome() {
  if (writing_ || up_.empty() || !socket_.is_open()) return;
  writing_ = true;
  auto piece = std::make_shared<std::string>(std::exchange(up_, {}));
  auto writeRest = [run = std::weak_ptr<TunnelRun>(self()), piece](auto&& again,
                                                                   size_t at) -> void {
    auto alive = run.lock();
    if (!alive || !alive->socket_.is_open()) return;
    alive->socket_.async_write_some(
        boost::asio::buffer(piece->data() + at, piece->size() - at),
        [run, piece, again, at](boost::system::error_code failed, size_t n) {
          auto still = run.lock();
          if (!still || still->isDone()) return;
          if (failed)
            return still->fail({Code::unavailable,
                                502,
                                still->ask_.rule() + ".cut",
                                "the upstream closed the tunnel",
                                {},
                                0});
          still->progress_ns_ = base::monotonicNs();
          if (at + n < piece->size()) return again(again, at + n);
          still->writing_ = false;
          KJ_IF_MAYBE (wait, still->up_wait_) {
            auto own = kj::mv(*wait);
            still->up_wait_ = nullptr;
            own->fulfill();
          }
          if (!still->up_.empty()) return still->writeSome();
          if (still->up_ended_) ::shutdown(still->socket_.native_handle(), SHUT_WR);
        });
  };
  writeRest(writeRest, 0);
}

void TunnelRun::readSome() {
  if (reading_ || down_ended_ || !socket_.is_open() || flow_->full() ||
      base::monotonicNs() < paused_until_ns_)
    return;
  reading_ = true;
  socket_.async_read_some(
      boost::asio::buffer(buffer_),
      [run = std::weak_ptr<TunnelRun>(self())](boost::system::error_code failed, size_t n) {
        auto alive = run.lock();
        if (!alive || alive->isDone()) return;
        alive->reading_ = false;
        if (!failed) return alive->onRead(n);
        alive->down_ended_ = true;
        alive->ended();
      });
}

void TunnelRun::onRead(size_t bytes) {
  progress_ns_ = base::monotonicNs();
  line_.answer_bytes += bytes;
  auto spent = ticket_->spend(bytes, progress_ns_);
  if (!spent) return fail(std::move(spent).error(), "refused");
  if (line_.answer_bytes > rules().response_bytes_max)
    return fail({Code::invalidArgument,
                 413,
                 ask_.rule() + ".response_max",
                 "the tunnel has carried as many bytes as it may",
                 {},
                 0},
                "refused");
  paused_until_ns_ = progress_ns_ + *spent;
  flow_->write({buffer_, bytes});
  readSome();
}

void TunnelRun::onRoom() { readSome(); }

void TunnelRun::onGone() {
  if (!isDone()) fail({Code::cancelled, 502, "box", "the box has closed the tunnel", {}, 0});
}

void TunnelRun::ended() {
  flow_->end();
  closeAll();
  done("allowed", {}, 200);
}

void TunnelRun::closeAll() {
  connecting_.reset();
  boost::system::error_code ignored;
  if (socket_.is_open()) socket_.close(ignored);
  KJ_IF_MAYBE (wait, up_wait_) {
    auto own = kj::mv(*wait);
    up_wait_ = nullptr;
    own->fulfill();
  }
}

void TunnelRun::fail(Refusal why, std::string_view outcome) {
  if (isDone()) return;
  const auto alive = shared_from_this();
  closeAll();
  flow_->fail(why);
  done(outcome, why.rule, why.http_status);
}

void TunnelRun::stop(const Refusal& why) { fail(why, "revoked"); }

void TunnelRun::look(uint64_t now_ns) {
  if (isDone()) return;
  readSome();
  const auto over = [&](uint64_t since_ns, uint64_t bound_ms) {
    return (now_ns - std::min(now_ns, since_ns)) / kMsNs >= bound_ms;
  };
  if (over(progress_ns_, rules().idle_ms_max) || over(begun_ns_, rules().time_ms_max))
    fail({Code::deadlineExceeded, 504, ask_.rule() + ".time", "the tunnel's time is over", {}, 0});
}

}  // namespace mayfly::vault
