// libFuzzer on a task's request alone: one message that holds a TaskSpec is copied,
// checked and hashed as the server does, thousands of times a second.
#include <capnp/serialize.h>
#include <kj/exception.h>
#include <string.h>

#include "checking_core.h"
#include "edge/message_stream.h"
#include "rpc/detached.h"
#include "rpc/task.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mayfly;
  static const pool::TemplateSpec tmpl = fuzz::templateSpec();
  static kj::EventLoop loop;
  static kj::WaitScope scope(loop);
  auto words = kj::heapArray<capnp::word>(size / sizeof(capnp::word));
  memcpy(words.begin(), data, words.size() * sizeof(capnp::word));
  // Malformed input throws; in the server, the RPC system answers it.
  (void)kj::runCatchingExceptions([&] {
    capnp::FlatArrayMessageReader message(words, edge::readerOptions());
    auto in = message.getRoot<schema::TaskSpec>();
    auto no_blobs = [](const edge::Sha256&) { return std::nullopt; };
    if (auto spec = rpc::specFrom(in, no_blobs)) (void)sched::checkSpec(*spec, tmpl);
    (void)rpc::hashOf(in).wait(scope);
  });
  return 0;
}
