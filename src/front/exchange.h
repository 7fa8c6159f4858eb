// One call of the vault whose body and answer flow: /cap, /sql, the proxy and tunnels.
//
// The vault writes to `Down`, the front to `Up`. Each write returns once its bytes are on their
// way, so neither side can be flooded. If the client goes, `Up` and the right to use `Down` go with
// the exchange. If the vault goes, or ends with an error after it began to answer, the client's
// connection is reset: an answer that is cut off never looks whole.
//
// Layer: front. The loop's thread. Lives no longer than its connection.
#pragma once

#include <kj/refcount.h>

#include <variant>

#include "broker/sni.h"
#include "front/connection.h"

namespace mayfly::front {

class Exchange {
 public:
  Exchange(Connection& connection, schema::Calls::Client calls);
  ~Exchange() noexcept(false);
  KJ_DISALLOW_COPY(Exchange);

  kj::Promise<After> run();

  // The vault's calls. They throw if the vault breaks the protocol.
  kj::Promise<void> onHead(schema::Down::HeadParams::Reader head);
  kj::Promise<void> onWrite(capnp::Data::Reader data);
  kj::Promise<void> onEnd(schema::Error::Reader error);
  void onDropped();

  // Outlives the exchange, as long as the vault has its `Down`.
  struct Link : kj::Refcounted {
    Exchange* to = nullptr;  // null: the exchange is over
  };

 private:
  using Outcome = std::variant<After, Refusal>;
  void finish(Outcome outcome);
  void fail(Refusal refusal);  // a refusal while that is possible, else a reset
  void onReturn(schema::Error::Reader error);
  kj::Promise<void> onAnswered(schema::Answer::Reader answer);
  // Null: the head is none that a client may see.
  std::optional<std::string> headOf(auto head);

  kj::Promise<void> call();
  kj::Promise<void> http();
  kj::Promise<void> sql();
  kj::Promise<void> tunnel();
  void fill(schema::HttpRequest::Builder request);
  kj::Promise<void> upload();
  kj::Promise<void> send(std::string piece);
  kj::Promise<void> endUpload();
  kj::Promise<void> readHello();
  kj::Promise<void> uploadTunnel();

  Connection& c_;
  schema::Calls::Client calls_;
  kj::Own<Link> link_;
  kj::Maybe<schema::Down::Client> down_;  // until the call is sent
  kj::Maybe<schema::Up::Client> up_;
  kj::Own<kj::PromiseFulfiller<Outcome>> done_;
  Answer answer_;
  broker::HelloReader hello_;
  size_t hello_bytes_ = 0;  // of the inbox, that it has seen
  bool returned_ = false, dropped_ = false, ended_ = false;
  kj::Promise<void> tail_ = nullptr;    // the call `end`
  kj::Promise<void> ending_ = nullptr;  // the last bytes
};

}  // namespace mayfly::front
