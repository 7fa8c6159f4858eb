#include "client/loop.h"

#include <kj/common.h>
#include <kj/exception.h>
#include <pthread.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "edge/asio_port.h"
#include "edge/convert.h"

namespace mayfly::client {

using base::Status;
using base::Unit;

namespace {

constexpr uint32_t kLastEventsMax = 100'000;

}  // namespace

struct Loop::Host {
  boost::asio::io_context io{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work{io.get_executor()};
};

Loop::Loop(ServedBy who, std::function<void()> teardown)
    : who_(who), teardown_(std::move(teardown)), host_(std::make_unique<Host>()) {}

base::Result<std::unique_ptr<Loop>> Loop::start(ServedBy who,
                                                std::function<void(edge::AsioPort&)> setup,
                                                std::function<void()> teardown) {
  std::unique_ptr<Loop> loop(new Loop(who, std::move(teardown)));
  Status begun = Unit{};
  if (who == ServedBy::caller) {
    begun = loop->begin(setup);
  } else {
    std::promise<Status> promise;
    auto ready = promise.get_future();
    loop->thread_ = std::thread([self = loop.get(), &setup, &promise] {
      pthread_setname_np(pthread_self(), "mayfly-client");
      Status status = self->begin(setup);
      const bool serves = status.has_value();
      promise.set_value(std::move(status));  // `setup` and `promise` are gone afterwards
      if (serves) self->host_->io.run();
    });
    begun = ready.get();
  }
  if (!begun) {
    loop->stopped_ = true;
    if (loop->thread_.joinable()) loop->thread_.join();
    return base::fail(std::move(begun).error());
  }
  return loop;
}

Loop::~Loop() { stop(); }

Status Loop::begin(const std::function<void(edge::AsioPort&)>& setup) {
  KJ_IF_MAYBE (fault, kj::runCatchingExceptions([&] {
                 // Every call hands its failure to its caller, so no fault is left to report.
                 port_ = kj::heap<edge::AsioPort>(host_->io, edge::TurnBounds{},
                                                  [](kj::Exception&&) {});
                 setup(*port_);
               })) {
    auto error = edge::errorOf(*fault);
    (void)kj::runCatchingExceptions([&] { port_ = nullptr; });
    return base::fail(std::move(error));
  }
  return Unit{};
}

// Sends the requests of the last jobs before the connection ends.
void Loop::end() {
  (void)kj::runCatchingExceptions([this] {
    port_->finish(kLastEventsMax);
    teardown_();
    port_->finish(kLastEventsMax);
    port_ = nullptr;
  });
  ended_ = true;
  host_->io.stop();
}

bool Loop::post(Job job) {
  if (stopped_) return false;
  boost::asio::post(host_->io, [job = kj::mv(job)]() mutable {
    // A job belongs to one call; its exception must not end the loop for all others.
    (void)kj::runCatchingExceptions([&] { job(); });
  });
  return true;
}

void Loop::stop() {
  if (stopped_.exchange(true)) return;
  boost::asio::post(host_->io, [this] { end(); });
  if (thread_.joinable())
    thread_.join();
  else
    while (!ended_ && host_->io.run_one() > 0) {
    }
}

bool Loop::servedHere() const {
  return who_ == ServedBy::caller && std::this_thread::get_id() == maker_;
}

bool Loop::onThread() const {
  return servedHere() ? serving_ : std::this_thread::get_id() == thread_.get_id();
}

bool Loop::serveUntil(const std::function<bool()>& is, DeadlineMs deadline_ms) {
  serving_ = true;
  KJ_DEFER(serving_ = false);
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(deadline_ms.value_or(0));
  while (!is())
    if ((deadline_ms ? host_->io.run_one_until(end) : host_->io.run_one()) == 0) return is();
  return true;
}

}  // namespace mayfly::client
