#include "edge/loop.h"

#include <kj/debug.h>
#include <pthread.h>

#include <future>

namespace mayfly::edge {

using base::Code;
using base::Status;

base::Result<std::unique_ptr<Loop>> Loop::start(const char* name,
                                                std::function<void(kj::AsyncIoContext&)> setup,
                                                std::function<void()> teardown) {
  std::unique_ptr<Loop> loop(new Loop);
  auto promise = std::make_shared<std::promise<Status>>();
  auto ready = promise->get_future();
  loop->thread_ = std::thread([self = loop.get(), name, setup = std::move(setup),
                               teardown = std::move(teardown), promise]() mutable {
    self->main(name, std::move(setup), std::move(teardown),
               [promise](Status status) { promise->set_value(std::move(status)); });
  });
  Status status = ready.get();
  if (!status) {
    loop->thread_.join();
    return base::fail(std::move(status).error());
  }
  return loop;
}

Loop::~Loop() { stop(); }

bool Loop::post(Job job) {
  kj::Own<kj::CrossThreadPromiseFulfiller<void>> wake;
  {
    std::lock_guard lock(mutex_);
    if (stopped_) return false;
    jobs_.push_back(kj::mv(job));
    wake = kj::mv(wake_);
  }
  if (wake.get() != nullptr) wake->fulfill();
  return true;
}

void Loop::stop() {
  kj::Own<kj::CrossThreadPromiseFulfiller<void>> wake;
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    wake = kj::mv(wake_);
  }
  if (wake.get() != nullptr) wake->fulfill();
  if (thread_.joinable()) thread_.join();
}

kj::Promise<void> Loop::serve() {
  auto paf = kj::newPromiseAndCrossThreadFulfiller<void>();
  std::vector<Job> jobs;
  bool stopped;
  {
    std::lock_guard lock(mutex_);
    jobs.swap(jobs_);
    stopped = stopped_;
    // Jobs that come while these run find no `wake_` missing: they fulfil the new promise.
    if (!stopped) wake_ = kj::mv(paf.fulfiller);
  }
  for (auto& job : jobs) {
    // A job is one client's business; what it throws must not end the loop for all others.
    (void)kj::runCatchingExceptions([&] { job(); });
  }
  if (stopped) return kj::READY_NOW;
  return paf.promise.then([this] { return serve(); });
}

void Loop::main(const char* name, std::function<void(kj::AsyncIoContext&)> setup,
                std::function<void()> teardown, std::function<void(Status)> ready) {
  pthread_setname_np(pthread_self(), name);
  bool announced = false;
  auto failure = kj::runCatchingExceptions([&] {
    auto io = kj::setupAsyncIo();
    setup(io);
    auto serving = serve();
    announced = true;
    ready(base::Unit{});
    serving.wait(io.waitScope);
    io.waitScope.poll();  // what the last jobs answered goes out before the connections end
    teardown();
    setup = nullptr;
  });
  KJ_IF_MAYBE (e, failure) {
    if (!announced) ready(base::fail(errorOf(*e)));
  }
  std::vector<Job> rest;
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    rest.swap(jobs_);
    wake_ = nullptr;
  }
}

base::Error errorOf(const kj::Exception& exception) {
  std::string text(exception.getDescription().begin(), exception.getDescription().end());
  // The far side's text arrives with a prefix that says nothing to people.
  constexpr std::string_view prefix = "remote exception: ";
  if (text.starts_with(prefix)) text.erase(0, prefix.size());
  switch (exception.getType()) {
    case kj::Exception::Type::DISCONNECTED:
      return {Code::unavailable, "the connection has ended: " + text, "Connect again.", 0};
    case kj::Exception::Type::OVERLOADED:
      return {Code::resourceExhausted, text, "Try again later.", 0};
    case kj::Exception::Type::UNIMPLEMENTED:
      return {Code::failedPrecondition, "the other side does not know this call: " + text,
              "Update the older of daemon and client.", 0};
    case kj::Exception::Type::FAILED:
      break;
  }
  return {Code::internal, text, {}, 0};
}

}  // namespace mayfly::edge
