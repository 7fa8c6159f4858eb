// One connection of a box: reads requests, one after the other, and answers each.
//
//   head -> pass and slot of the gate -> body and call of the vault -> answer -> head ...
//
// While a request is under way the connection goes on reading, so a client that has gone is noticed
// at once and the vault's call is dropped with it.
//
// Layer: front. The loop's thread. The shared parts are borrowed.
#pragma once

#include <kj/async-io.h>

#include <optional>
#include <string>

#include "front/answer.h"
#include "front/gate.h"
#include "front/inbox.h"
#include "front/json.h"
#include "front/options.h"
#include "front/outbox.h"
#include "front/request.h"
#include "front/route.h"
#include "front/vault_link.h"

namespace mayfly::front {

enum class Transport : uint8_t { local, tcp };  // local: the unix door

// What the connections of one door share.
struct DoorContext {
  edge::AsioPort& port;
  VaultLink& vault;
  const Options& options;
  Gate::Queue queue;
  BufferPurse buffers;
  uint64_t session;
  uint64_t refused = 0;  // requests
};

class Connection {
 public:
  Connection(DoorContext& door, base::Fd socket, Transport transport);
  ~Connection() noexcept(false);
  KJ_DISALLOW_COPY(Connection);

  kj::Promise<void> run();
  // Ends what has taken too long.
  void sweep(kj::TimePoint now);

 private:
  friend class Exchange;
  enum class Head : uint8_t { whole, refused, ended };

  kj::Promise<After> serveAll();
  kj::Promise<After> serveOne(Head head);
  kj::Promise<Head> awaitHead();
  kj::Promise<Head> readHead();
  kj::Promise<After> begin();
  kj::Promise<After> dispatch();
  kj::Promise<After> unary();
  kj::Promise<After> describe(schema::Calls::Client calls);
  kj::Promise<After> mint(schema::Calls::Client calls);
  kj::Promise<After> tool(schema::Calls::Client calls);
  // Reads the body into body_. False: refusal_ says why not.
  kj::Promise<bool> collect();
  kj::Promise<bool> collectMore();
  // Runs the call; ends early if the client goes.
  kj::Promise<After> unlessGone(kj::Promise<After> answer);
  kj::Promise<After> untilGone();
  kj::Promise<After> watch();

  kj::Promise<After> refuse(Refusal refusal);
  kj::Promise<After> reply(uint16_t status, std::string_view type, std::string body,
                           std::vector<Field> fields = {});
  kj::Promise<void> close(After after);
  kj::Promise<void> untilTaken();
  kj::Promise<void> linger();
  kj::Promise<void> drain();
  bool growForBody();
  bool charge(size_t bytes);
  void reset();
  void wait(Options::Time time);
  void waitForBody();
  void stopWaiting() { read_by_.reset(); }
  kj::TimePoint now() const { return door_.port.timer().now(); }

  DoorContext& door_;
  Transport transport_;
  kj::Own<kj::AsyncIoStream> stream_;
  Inbox inbox_;
  Outbox outbox_;
  kj::Own<kj::PromiseFulfiller<After>> end_;  // ends the connection, whatever it does

  // The request that is under way.
  HeadScanner scanner_;
  RequestParser parser_;
  Request request_;
  Route route_;
  std::optional<Refusal> refusal_;
  std::string body_;
  size_t charge_ = 0;  // of a large head and of body_, taken from the door's purse
  kj::Own<Gate::Queue::Slot> slot_;
  bool answering_ = false;  // the answer has begun
  bool orderly_ = false;    // the end needs no reset

  enum class Waiting : uint8_t { idle, request, turn, tunnel };
  Waiting waiting_ = Waiting::idle;
  std::optional<kj::TimePoint> read_by_;
  kj::Duration body_waited_ = 0 * kj::NANOSECONDS;
  size_t body_bytes_ = 0;
};

// The refusal for an error of the vault's, and for its silence.
Refusal refusalOf(schema::Error::Reader error);
Refusal vaultLost();

}  // namespace mayfly::front
