// The client's connection: its loop, and the blocking calls that threads make on it.
//
// Layer: client. A Wire belongs to the loop's thread.
#pragma once

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <mayfly/client.h>
#include <mayfly/mayfly.capnp.h>

#include <chrono>
#include <future>
#include <memory>
#include <optional>

#include "client/loop.h"
#include "edge/convert.h"
#include "edge/message_stream.h"

namespace mayfly {

// The RPC objects of a connection.
struct Wire final : kj::TaskSet::ErrorHandler {
  Wire(kj::Own<kj::AsyncIoStream> s, kj::Timer& t);
  void taskFailed(kj::Exception&&) override {}  // every call hands its failure to its caller

  kj::Timer& timer;
  kj::Own<kj::AsyncIoStream> stream;
  edge::MessageStream messages;
  capnp::TwoPartyVatNetwork network;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc;
  schema::Mayfly::Client mayfly;
  kj::TaskSet calls;
};

inline constexpr size_t kPieceBytes = schema::CHUNK_BYTES_MAX / 4;  // of one write

// The time left of a deadline that several calls share.
class Patience {
 public:
  explicit Patience(DeadlineMs deadline_ms) {
    if (deadline_ms) end_ = Clock::now() + std::chrono::milliseconds(*deadline_ms);
  }
  DeadlineMs left_ms() const {
    if (!end_) return std::nullopt;
    auto left = std::chrono::ceil<std::chrono::milliseconds>(*end_ - Clock::now()).count();
    return left > 0 ? static_cast<uint64_t>(left) : 0;
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::optional<Clock::time_point> end_;
};

struct Client::Connection {
  // Dropping the last reference waits for the loop's end. If the loop itself drops it (with a
  // result that nobody took), another thread waits.
  static std::shared_ptr<Connection> make();
  ~Connection();
  ConnectOptions options;
  ServerInfo server;
  std::unique_ptr<Wire> wire;  // made and destroyed on the loop's thread
  std::unique_ptr<client::Loop> loop;

  uint64_t deadlineMs(DeadlineMs own) const { return own.value_or(options.call_deadline_ms); }

  // Runs `start(wire)` on the loop; it returns a promise of a Result<T>. An exception of KJ becomes
  // an error. If the loop ends first, the future is broken.
  template <class T, class Start>
  std::future<base::Result<T>> begin(Start start) {
    auto answer = std::make_shared<std::promise<base::Result<T>>>();
    auto future = answer->get_future();
    loop->post([this, answer = std::move(answer), start = std::move(start)]() mutable {
      wire->calls.add(
          kj::evalNow([&] { return start(*wire); })
              .then([answer](base::Result<T> result) { answer->set_value(std::move(result)); },
                    [answer](kj::Exception&& e) {
                      answer->set_value(base::fail(edge::errorOf(e)));
                    }));
    });
    return future;
  }

  // begin(), then blocks until the answer or the deadline.
  template <class T, class Start>
  base::Result<T> call(const char* what, DeadlineMs deadline_ms, Start start) {
    if (loop->onThread()) return base::fail(onOwnThread(what));
    auto future = begin<T>(std::move(start));
    return await(what, future, deadline_ms);
  }

  template <class T>
  base::Result<T> await(const char* what, std::future<base::Result<T>>& future,
                        DeadlineMs deadline_ms) {
    if (!loop->await(future, deadline_ms)) return base::fail(late(what, deadline_ms.value_or(0)));
    try {
      return future.get();
    } catch (const std::future_error&) {  // the loop ended during the call
      return base::fail(closed(what));
    }
  }

  // Waits for a future that is always set: with an error if the loop ends first.
  template <class T>
  base::Result<T> take(std::future<base::Result<T>> future) {
    loop->await(future, std::nullopt);
    return future.get();
  }

  static base::Error onOwnThread(const char* what);
  static base::Error closed(const char* what);
  static base::Error late(const char* what, uint64_t deadline_ms);
};

// Conversions, convert.cc.
void put(schema::TaskSpec::Builder out, const TaskSpec& spec);
capnp::MessageSize sizeHint(const TaskSpec& spec);
TaskResult get(schema::TaskResult::Reader in);
TemplateInfo get(schema::TemplateInfo::Reader in);
TaskInfo get(schema::TaskInfo::Reader in);
ServerInfo get(schema::ServerInfo::Reader in);
DetachedTask get(schema::DetachedTask::Reader in);
BlobInfo get(schema::BlobInfo::Reader in);

}  // namespace mayfly
