// A call's answer on its way to the box, through the front's `Down`.
//
// The bytes that the front has not passed on yet are counted: the upstream pauses above a window.
//
// Layer: vault. The loop's thread.
#pragma once

#include <broker/broker.capnp.h>
#include <kj/async.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "broker/http_rules.h"
#include "broker/refusal.h"

namespace mayfly::vault {

namespace schema = broker::schema;

inline constexpr size_t kHeaderOverheadBytes = 32;  // in a message: two pointers, two ends of words
void put(schema::Error::Builder out, const broker::Refusal& refusal);
void put(capnp::List<schema::Header>::Builder out, const std::vector<broker::Header>& headers);
broker::Refusal refusalOf(const base::Error& error, std::string rule = {});

class FlowEvents {
 public:
  virtual ~FlowEvents() noexcept(false) = default;
  virtual void onRoom() = 0;  // there is room again after full() was true
  virtual void onGone() = 0;  // the box or the front takes nothing more
};

class Flow : public std::enable_shared_from_this<Flow> {
 public:
  static constexpr size_t kWindowBytes = 256u << 10;

  // `tasks` and `events` outlive the flow's use; events end with `detach`.
  Flow(schema::Down::Client down, kj::TaskSet& tasks, FlowEvents& events)
      : down_(kj::mv(down)), tasks_(tasks), events_(&events) {}

  struct Head {
    uint16_t status;
    std::vector<broker::Header> headers;
    int64_t bytes;
  };
  // How an answer begins: whole, or with more to come through `down`, or not at all.
  struct Whole {
    Head head;
    std::string body;
  };
  struct Begun {};
  using Beginning = std::variant<Begun, Whole, broker::Refusal>;
  // Call at most once, before all others: a whole answer, or a refusal, then goes to the promise.
  kj::Promise<Beginning> beginning();

  // Goes to the front at the end of the turn, with what has come by then.
  void head(uint16_t status, std::vector<broker::Header> headers, int64_t bytes);
  void write(std::string_view bytes);
  void end();
  void fail(const broker::Refusal& refusal);
  bool full() const { return unsent_ >= kWindowBytes; }
  bool begun() const { return begun_; }  // the head was sent
  void detach() { events_ = nullptr; }

 private:
  void track(kj::Promise<void> call, size_t bytes);
  void last(const broker::Refusal* refusal);
  enum class More : uint8_t { follows, none };
  void sendHeld(More more);
  void sendHead(const Head& head, const std::string& body, More more);
  bool tell(Beginning beginning);  // false: nobody waits for it

  kj::Maybe<schema::Down::Client> down_;
  kj::TaskSet& tasks_;
  FlowEvents* events_;
  kj::Own<kj::PromiseFulfiller<Beginning>> beginning_;  // null: nobody waits for it
  std::optional<Head> held_;                            // not yet sent
  std::string held_body_;                               // what goes with it
  size_t unsent_ = 0;
  bool begun_ = false, was_full_ = false;
};

// What a call of the vault takes from the box, through `Up`.
class UpEvents {
 public:
  virtual ~UpEvents() noexcept(false) = default;
  // Resolves when more may come.
  virtual broker::Decision<kj::Promise<void>> onUp(std::string_view bytes) = 0;
  virtual void onUpEnd() = 0;
  virtual void onUpDropped() = 0;  // the box gave the call up, or the call has ended
};
schema::Up::Client upFor(std::weak_ptr<UpEvents> events);

}  // namespace mayfly::vault
