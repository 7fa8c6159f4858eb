// The client's connection: a KJ loop on its own thread, and the blocking calls
// that other threads make to it.
//
// Layer: client. Members named *_ of Wire belong to the loop's thread.
#pragma once

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <mayfly/client.h>
#include <mayfly/mayfly.capnp.h>

#include <chrono>
#include <future>
#include <memory>

#include "edge/convert.h"
#include "edge/loop.h"
#include "edge/message_stream.h"

namespace mayfly {

// The RPC objects. Loop's thread only.
struct Wire final : kj::TaskSet::ErrorHandler {
  explicit Wire(kj::Own<kj::AsyncIoStream> s);
  void taskFailed(kj::Exception&&) override {}  // every call hands its failure to its caller

  kj::Own<kj::AsyncIoStream> stream;
  edge::MessageStream messages;
  capnp::TwoPartyVatNetwork network;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc;
  schema::Mayfly::Client mayfly;
  kj::TaskSet calls;
};

struct Client::Connection {
  ~Connection();
  ConnectOptions options;
  ServerInfo server;
  std::unique_ptr<Wire> wire;         // made and destroyed on the loop's thread
  std::unique_ptr<edge::Loop> loop;

  // Runs `start(wire)` on the loop: it returns a promise of T. Blocks until that resolves, or for
  // `timeout_ms`. What KJ throws becomes an error.
  template <class T, class Start>
  base::Result<T> call(const char* what, std::optional<uint64_t> timeout_ms, Start start) {
    auto answer = std::make_shared<std::promise<base::Result<T>>>();
    auto future = answer->get_future();
    if (loop->onThread()) return base::fail(onOwnThread(what));
    if (!loop->post([this, answer, start = std::move(start)]() mutable {
          wire->calls.add(kj::evalNow([&] { return start(*wire); })
                              .then([answer](base::Result<T> result) {
                                answer->set_value(std::move(result));
                              }, [answer](kj::Exception&& e) {
                                answer->set_value(base::fail(edge::errorOf(e)));
                              }));
        }))
      return base::fail(closed(what));
    return await(what, future, timeout_ms);
  }

  template <class T>
  base::Result<T> await(const char* what, std::future<base::Result<T>>& future,
                        std::optional<uint64_t> timeout_ms) {
    if (timeout_ms &&
        future.wait_for(std::chrono::milliseconds(*timeout_ms)) != std::future_status::ready)
      return base::fail(late(what, *timeout_ms));
    try {
      return future.get();
    } catch (const std::future_error&) {  // the loop ended with the call under way
      return base::fail(closed(what));
    }
  }

  static base::Error onOwnThread(const char* what);
  static base::Error closed(const char* what);
  static base::Error late(const char* what, uint64_t timeout_ms);
};

// Conversions, convert.cc.
void put(schema::TaskSpec::Builder out, const TaskSpec& spec);
capnp::MessageSize sizeHint(const TaskSpec& spec);
TaskResult get(schema::TaskResult::Reader in);
TemplateInfo get(schema::TemplateInfo::Reader in);
TaskInfo get(schema::TaskInfo::Reader in);
ServerInfo get(schema::ServerInfo::Reader in);

}  // namespace mayfly
