// KJ as a guest of Asio: the bounds of a turn, timers, sockets, and the port's end.
#include <capnp/common.h>  // its version is KJ's
#include <gtest/gtest.h>
#include <kj/debug.h>
#include <sys/socket.h>

#include <functional>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/fd.h"
#include "edge/asio_port.h"
#include "edge/asio_stream.h"
#include "edge/gathering_stream.h"

namespace mayfly::edge {
namespace {

constexpr auto kLong = std::chrono::hours(1);
constexpr auto kEventTime = std::chrono::seconds(20);  // a later event is a failure

struct Rig {
  explicit Rig(TurnBounds bounds = {})
      : port(std::in_place, host, bounds,
             [this](kj::Exception&& e) { faults.push_back(e.getDescription().cStr()); }) {}
  // Runs the host until `is()`. Returns false after kEventTime.
  template <class Is>
  bool until(Is is) {
    const auto end = std::chrono::steady_clock::now() + kEventTime;
    while (!is() && std::chrono::steady_clock::now() < end) {
      host.restart();
      host.run_one_for(std::chrono::milliseconds(100));
    }
    return is();
  }
  template <class T>
  T get(kj::Promise<T> promise) {
    std::optional<T> got;
    auto waiting =
        promise.then([&](T value) { got = std::move(value); })
            .eagerlyEvaluate([](kj::Exception&& e) { ADD_FAILURE() << e.getDescription().cStr(); });
    EXPECT_TRUE(until([&] { return got.has_value(); }));
    return got.value_or(T{});
  }

  std::vector<std::string> faults;
  boost::asio::io_context host{1};
  std::optional<AsioPort> port;
};

// Counts its events, and never ends.
kj::Promise<void> flood(uint64_t& events) {
  return kj::evalLater([&events] {
    ++events;
    return flood(events);
  });
}

std::pair<base::Fd, base::Fd> sockets() {
  int fds[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  return {base::Fd(fds[0]), base::Fd(fds[1])};
}

TEST(AsioPort, AHandlerOfTheHostWaitsForOneTurnOfAFloodAtMost) {
  constexpr uint32_t kEvents = 16;
  Rig rig({kEvents, kLong});
  uint64_t events = 0;
  auto flooding = flood(events).eagerlyEvaluate(nullptr);
  ASSERT_TRUE(rig.until([&] { return events >= 10 * kEvents; }));
  for (int i = 0; i < 100; ++i) {
    const uint64_t before = events;
    bool ran = false;
    boost::asio::post(rig.host, [&] { ran = true; });
    ASSERT_TRUE(rig.until([&] { return ran; }));
    EXPECT_LE(events - before, kEvents);
  }
}

TEST(AsioPort, OfManyHandlersThatAreReadyTogetherOneHasItsTurnAtOnce) {
  Rig rig({256, kLong, kLong});
  uint64_t events = 0, seen = 0;
  std::vector<kj::Promise<void>> all;
  for (int i = 0; i < 20; ++i)
    boost::asio::post(rig.host, [&] {
      rig.port->inTurn(
          [&] { all.push_back(kj::evalLater([&events] { ++events; }).eagerlyEvaluate(nullptr)); });
    });
  boost::asio::post(rig.host, [&] { seen = events; });
  ASSERT_TRUE(rig.until([&] { return events == 20; }));
  EXPECT_EQ(seen, 1u);
}

TEST(AsioPort, HandlersApartHaveTheirTurnsAtOnceUntilThoseTookATurnsTime) {
  using std::chrono::nanoseconds;
  for (const auto time_max : {nanoseconds(kLong), nanoseconds(1)}) {
    Rig rig({256, time_max, nanoseconds(0)});
    uint64_t events = 0, seen = 0;
    std::vector<kj::Promise<void>> all;
    const auto one = [&] {
      rig.port->inTurn(
          [&] { all.push_back(kj::evalLater([&events] { ++events; }).eagerlyEvaluate(nullptr)); });
    };
    for (int i = 0; i < 20; ++i) boost::asio::post(rig.host, one);
    boost::asio::post(rig.host, [&] { seen = events; });
    ASSERT_TRUE(rig.until([&] { return events == 20 && seen > 0; }));
    EXPECT_EQ(seen, time_max == nanoseconds(1) ? 1u : 20u);
    // After the host's next poll, the next one has.
    rig.host.poll();
    one();
    EXPECT_EQ(events, 21u);
  }
}

TEST(AsioPort, WhatIsForAfterATurnComesAfterItsEnd) {
  Rig rig({256, kLong});
  std::string order;
  auto event = kj::evalLater([&] {
                 rig.port->afterTurn([&] {
                   order += "after ";
                   rig.port->afterTurn([&] { order += "the next"; });
                 });
                 rig.port->atTurnEnd([&] { order += "end "; });
                 order += "event ";
               }).eagerlyEvaluate(nullptr);
  ASSERT_TRUE(rig.until([&] { return order.ends_with("next"); }));
  EXPECT_EQ(order, "event end after the next");
}

TEST(AsioPort, ATimerAndADescriptorOfTheHostWaitForTwoTurnsAtMost) {
  constexpr uint32_t kEvents = 16;
  Rig rig({kEvents, kLong});
  uint64_t events = 0;
  auto flooding = flood(events).eagerlyEvaluate(nullptr);
  auto [ours, theirs] = sockets();
  boost::asio::posix::stream_descriptor descriptor(rig.host, ours.get());
  ours.release();
  for (int i = 0; i < 100; ++i) {
    bool rang = false, readable = false;
    uint64_t before = events;
    boost::asio::steady_timer timer(rig.host, std::chrono::steady_clock::now());
    timer.async_wait([&](boost::system::error_code) { rang = true; });
    ASSERT_TRUE(rig.until([&] { return rang; }));
    EXPECT_LE(events - before, 2 * kEvents);

    ASSERT_EQ(::write(theirs.get(), "x", 1), 1);
    before = events;
    descriptor.async_wait(boost::asio::posix::descriptor_base::wait_read,
                          [&](boost::system::error_code) { readable = true; });
    ASSERT_TRUE(rig.until([&] { return readable; }));
    EXPECT_LE(events - before, 2 * kEvents);
    char byte;
    ASSERT_EQ(::read(descriptor.native_handle(), &byte, 1), 1);
  }
}

TEST(AsioPort, AFewEventsBeginWhenTheTurnsTimeIsOver) {
  constexpr uint32_t kFew = 8;
  Rig rig({.events_max = 1'000'000, .time_max = {}, .events_per_clock = kFew});
  uint64_t events = 0;
  auto flooding = flood(events).eagerlyEvaluate(nullptr);
  for (int i = 0; i < 100; ++i) {
    const uint64_t before = events;
    bool ran = false;
    boost::asio::post(rig.host, [&] { ran = true; });
    ASSERT_TRUE(rig.until([&] { return ran; }));
    EXPECT_LE(events - before, kFew);
  }
}

TEST(AsioPort, WhatTheHostFulfilsRunsWithoutAnotherWakeUp) {
  Rig rig;
  auto paf = kj::newPromiseAndFulfiller<int>();
  boost::asio::post(rig.host, [&] { paf.fulfiller->fulfill(7); });
  EXPECT_EQ(rig.get(kj::mv(paf.promise)), 7);
}

TEST(AsioPort, EventsThatAHandlerMakesRunWithIt) {
  Rig rig;
  std::string order;
  auto paf = kj::newPromiseAndFulfiller<void>();
  auto waiting = paf.promise.then([&] { order += "event "; }).eagerlyEvaluate(nullptr);
  boost::asio::post(rig.host, [&] {
    rig.port->inTurn([&] { paf.fulfiller->fulfill(); });
    order += "handler's end ";
  });
  boost::asio::post(rig.host, [&] { order += "next"; });
  ASSERT_TRUE(rig.until([&] { return order.ends_with("next"); }));
  EXPECT_EQ(order, "event handler's end next");
}

TEST(AsioPort, WhatIsForATurnsEndComesAfterItsEventsAndBeforeTheHostsNextHandler) {
  Rig rig({256, kLong});
  std::string order;
  auto first = kj::evalLater([&] {
                 rig.port->atTurnEnd([&] {
                   order += "end ";
                   // It may go on: its events are the turn's, too.
                   rig.port->atTurnEnd([&] { order += "second end "; });
                 });
                 order += "1 ";
               }).then([&] {
                   order += "2 ";
                 }).eagerlyEvaluate(nullptr);
  boost::asio::post(rig.host, [&] { order += "host"; });
  ASSERT_TRUE(rig.until([&] { return order.ends_with("host"); }));
  EXPECT_EQ(order, "1 2 end second end host");
  order.clear();
  rig.port->atTurnEnd([&] { order += "alone"; });
  EXPECT_TRUE(rig.until([&] { return order == "alone"; }));
}

TEST(AsioPort, AFloodDoesNotHoldUpATurnsEnd) {
  Rig rig({16, kLong});
  uint64_t events = 0, at = 0;
  auto flooding = flood(events).eagerlyEvaluate(nullptr);
  ASSERT_TRUE(rig.until([&] { return events >= 100; }));
  const uint64_t before = events;
  boost::asio::post(rig.host, [&] { rig.port->atTurnEnd([&] { at = events; }); });
  ASSERT_TRUE(rig.until([&] { return at > 0; }));
  EXPECT_LE(at - before, 64u);
}

TEST(AsioPort, EventsThatTheHostDestroysDoNotStopTheLoop) {
  Rig rig;
  for (int i = 0; i < 3; ++i) {
    bool ran = false;
    {
      auto dropped = kj::evalLater([&] { ran = true; }).eagerlyEvaluate(nullptr);
    }
    rig.host.restart();
    rig.host.poll();
    EXPECT_FALSE(ran);
    EXPECT_EQ(rig.get(kj::evalLater([i] { return i; })), i);
  }
}

TEST(AsioPort, TimersRingInTheirOrderAndDroppedOnesNever) {
  Rig rig;
  std::string rung;
  auto add = [&](int ms, char name) {
    return rig.port->timer()
        .afterDelay(ms * kj::MILLISECONDS)
        .then([&rung, name] { rung += name; })
        .eagerlyEvaluate(nullptr);
  };
  auto c = add(30, 'c'), a = add(10, 'a'), b = add(20, 'b');
  { auto dropped = add(5, 'x'); }
  auto past = rig.port->timer()
                  .atTime(rig.port->timer().now() - 1 * kj::SECONDS)
                  .then([&] { rung += 'p'; })
                  .eagerlyEvaluate(nullptr);
  EXPECT_TRUE(rig.until([&] { return rung.size() == 4; }));
  EXPECT_EQ(rung, "pabc");
}

// Since 1.0, KJ ends the process for an error handler that throws, and nothing else throws there.
#if CAPNP_VERSION < 1000000
TEST(AsioPort, AnExceptionThatNothingCatchesIsToldAndTheLoopGoesOn) {
  struct Rude final : kj::TaskSet::ErrorHandler {
    void taskFailed(kj::Exception&& e) override { kj::throwFatalException(kj::mv(e)); }
  } rude;
  Rig rig;
  kj::TaskSet tasks(rude);
  tasks.add(KJ_EXCEPTION(FAILED, "nobody's"));
  EXPECT_TRUE(rig.until([&] { return !rig.faults.empty(); }));
  EXPECT_NE(rig.faults.at(0).find("nobody's"), std::string::npos);
  EXPECT_EQ(rig.get(kj::evalLater([] { return 1; })), 1);
}
#endif

TEST(AsioPort, TheHostRunsOnWhenThePortHasGone) {
  Rig rig;
  {
    uint64_t events = 0;
    auto flooding = flood(events).eagerlyEvaluate(nullptr);
    auto timer = rig.port->timer().afterDelay(1 * kj::MILLISECONDS).eagerlyEvaluate(nullptr);
    auto [ours, theirs] = sockets();
    auto stream = asioStream(*rig.port, std::move(ours));
    char byte;
    auto reading = stream->tryRead(&byte, 1, 1).ignoreResult().eagerlyEvaluate(nullptr);
    ASSERT_TRUE(rig.until([&] { return events > 100; }));
  }
  rig.port.reset();
  rig.host.restart();
  rig.host.run();  // the handlers in its queue find no port
}

// --- sockets -----------------------------------------------------------------------

TEST(AsioStream, BytesOfAnySizePassWholeAndTheirEndIsSeen) {
  Rig rig;
  auto [a, b] = sockets();
  auto one = asioStream(*rig.port, std::move(a));
  auto other = asioStream(*rig.port, std::move(b));
  std::string sent;
  for (size_t i = 0; i < 3'000'000; ++i) sent += static_cast<char>(i * 31 % 251);
  std::vector<kj::ArrayPtr<const kj::byte>> pieces;
  for (size_t at = 0, size = 0; at < sent.size(); at += size) {
    size = std::min<size_t>(sent.size() - at, at % 5 == 0 ? 0 : at % 70'001);
    if (size == 0 && at % 5 == 0) pieces.push_back(nullptr), size = 1;
    pieces.push_back(kj::arrayPtr(reinterpret_cast<const kj::byte*>(sent.data()) + at, size));
  }
  auto writing = one->write(kj::arrayPtr(pieces.data(), pieces.size()))
                     .then([&] { one->shutdownWrite(); })
                     .eagerlyEvaluate(nullptr);
  std::string got(sent.size() + 1, 0);
  EXPECT_EQ(rig.get(other->tryRead(got.data(), got.size(), got.size())), sent.size());
  got.resize(sent.size());
  EXPECT_TRUE(got == sent);
}

TEST(AsioStream, OneReadTakesABoundedNumberOfBytesAndThenTheHostHasItsTurn) {
  Rig rig({1'000'000, kLong});
  auto [a, b] = sockets();
  int room = 4 << 20;
  ::setsockopt(b.get(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
  ASSERT_TRUE(base::setNonblocking(b.view()));
  std::string sent(3 << 20, 'x');
  ssize_t there = ::write(b.get(), sent.data(), sent.size());
  auto stream = asioStream(*rig.port, std::move(a));
  std::string got(sent.size(), 0);
  bool done = false;
  int turns = 0;  // of the host, from the first byte to the last
  std::function<void()> look = [&] {
    ++turns;
    if (!done) boost::asio::post(rig.host, look);
  };
  auto reading = stream->tryRead(got.data(), static_cast<size_t>(there), got.size())
                     .then([&](size_t) { done = true; })
                     .eagerlyEvaluate(nullptr);
  look();
  ASSERT_TRUE(rig.until([&] { return done; }));
  EXPECT_GE(turns, there / static_cast<ssize_t>(kSocketBytesPerCallMax) / 2);
}

TEST(AsioStream, APeerThatHangsUpIsNoticedThoughNothingIsRead) {
  Rig rig;
  auto [ours, theirs] = sockets();
  auto stream = asioStream(*rig.port, std::move(ours));
  bool gone = false;
  auto first = stream->whenWriteDisconnected().eagerlyEvaluate(nullptr);
  auto second = stream->whenWriteDisconnected().then([&] { gone = true; }).eagerlyEvaluate(nullptr);
  ASSERT_EQ(::write(theirs.get(), "unread", 6), 6);
  rig.host.poll();
  EXPECT_FALSE(gone);
  theirs.reset();
  EXPECT_TRUE(rig.until([&] { return gone; }));
}

// Asio reuses its record of a closed socket for the next one, with the first one's unreported
// events.
TEST(AsioStream, AHangUpOfASocketThatIsClosedIsNotTheNextSockets) {
  Rig rig;
  auto [first_ours, first_theirs] = sockets();
  auto [other_ours, other_theirs] = sockets();
  auto [next_ours, next_theirs] = sockets();
  auto first = asioStream(*rig.port, std::move(first_ours));
  auto first_end = first->whenWriteDisconnected().eagerlyEvaluate(nullptr);
  boost::asio::posix::stream_descriptor other(rig.host, other_ours.get());
  other_ours.release();
  kj::Own<kj::AsyncIoStream> next;
  kj::Promise<void> next_end = nullptr;
  bool told = false;
  // Runs in the same poll of all descriptors, before the handler of the first one's hang-up.
  other.async_wait(boost::asio::posix::descriptor_base::wait_read, [&](auto) {
    first_end = nullptr;
    first = nullptr;
    next = asioStream(*rig.port, std::move(next_ours));
    next_end = next->whenWriteDisconnected().then([&] { told = true; }).eagerlyEvaluate(nullptr);
  });
  rig.host.poll();  // begins the waits for all of them
  ASSERT_EQ(::write(other_theirs.get(), "x", 1), 1);
  first_theirs.reset();
  ASSERT_TRUE(rig.until([&] { return next.get() != nullptr; }));
  for (int i = 0; i < 10; ++i) {
    rig.host.restart();
    rig.host.poll();
  }
  EXPECT_FALSE(told);
  next_theirs.reset();
  EXPECT_TRUE(rig.until([&] { return told; }));
}

TEST(AsioStream, AWriteToWhomHasGoneFailsAsDisconnected) {
  Rig rig;
  auto [ours, theirs] = sockets();
  auto stream = asioStream(*rig.port, std::move(ours));
  theirs.reset();
  auto type = stream->write("x", 1).then([] { return kj::Exception::Type::FAILED; },
                                         [](kj::Exception&& e) { return e.getType(); });
  EXPECT_EQ(rig.get(kj::mv(type)), kj::Exception::Type::DISCONNECTED);
}

// --- GatheringStream -----------------------------------------------------------------

// Each call of the kernel is a record of its own.
std::pair<base::Fd, base::Fd> recordSockets() {
  int fds[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
  return {base::Fd(fds[0]), base::Fd(fds[1])};
}

std::string receiveNow(const base::Fd& socket) {
  std::string text(1 << 20, 0);
  const ssize_t n = ::recv(socket.get(), text.data(), text.size(), MSG_DONTWAIT);
  text.resize(static_cast<size_t>(n > 0 ? n : 0));
  return text;
}

TEST(GatheringStream, TheWritesOfATurnAreOneCallInTheirOrder) {
  Rig rig;
  auto [ours, theirs] = recordSockets();
  auto stream = gatheringStream(*rig.port, asioStream(*rig.port, std::move(ours)));
  const auto bytes = [](const char* text) { return kj::StringPtr(text).asBytes(); };
  const std::vector<kj::ArrayPtr<const kj::byte>> pieces{bytes("c"), bytes("d")};
  for (const char* round : {"1", "2"}) {
    bool ended = false;
    auto writing = kj::evalLater([&] { return stream->write("a", 1); })
                       .then([&] { return stream->write("b", 1); })
                       .then([&] { return stream->write(kj::arrayPtr(pieces.data(), 2)); })
                       .then([&] { return stream->write(round, 1); })
                       .then([&] { ended = true; })
                       .eagerlyEvaluate(nullptr);
    ASSERT_TRUE(rig.until([&] { return ended; }));
    std::string got;
    EXPECT_TRUE(rig.until([&] { return !got.empty() || !(got = receiveNow(theirs)).empty(); }));
    EXPECT_EQ(got, std::string("abcd") + round);
  }
}

TEST(GatheringStream, ADelayedWriteGoesWithTheNextOneOrAfterAWhile) {
  Rig rig;
  auto [ours, theirs] = recordSockets();
  auto stream = gatheringStream(*rig.port, asioStream(*rig.port, std::move(ours)));
  const auto write = [&](const std::string& text) {
    EXPECT_TRUE(rig.get(stream->write(text.data(), text.size()).then([] { return true; })));
  };
  const auto next = [&] {
    std::string got;
    EXPECT_TRUE(rig.until([&] { return !got.empty() || !(got = receiveNow(theirs)).empty(); }));
    return got;
  };
  stream->delayNext();
  write("a");
  for (int i = 0; i < 10; ++i) rig.host.poll();
  EXPECT_EQ(receiveNow(theirs), "");
  write("b");
  EXPECT_EQ(next(), "ab");
  stream->delayNext();
  write("c");
  EXPECT_EQ(next(), "c");
  stream->delayNext();
  const std::string much(kDelayedBytesMax + 1, 'd');
  write(much);
  EXPECT_EQ(next(), much);
  stream->delayNext();
  write("e");
  stream->shutdownWrite();
  EXPECT_EQ(next(), "e") << "what is delayed goes before the end";
}

TEST(GatheringStream, ManyBytesWaitForTheSocketAndPassWhole) {
  Rig rig;
  auto [ours, theirs] = sockets();
  auto stream = gatheringStream(*rig.port, asioStream(*rig.port, std::move(ours)));
  auto other = asioStream(*rig.port, std::move(theirs));
  std::string sent;
  for (size_t i = 0; i < 3'000'000; ++i) sent += static_cast<char>(i * 31 % 251);
  size_t taken = 0;
  std::function<kj::Promise<void>()> writeNext = [&]() -> kj::Promise<void> {
    if (taken == sent.size()) {
      stream->shutdownWrite();  // what is held goes first
      return kj::READY_NOW;
    }
    const size_t size = std::min<size_t>(sent.size() - taken, 10'000);
    auto written = stream->write(sent.data() + taken, size);
    taken += size;
    return written.then([&] { return writeNext(); });
  };
  auto writing = writeNext().eagerlyEvaluate(nullptr);
  for (int i = 0; i < 1'000; ++i) rig.host.poll();
  EXPECT_LT(taken, 1'500'000u);  // the socket's memory and a bounded number of bytes
  std::string got(sent.size() + 1, 0);
  EXPECT_EQ(rig.get(other->tryRead(got.data(), got.size(), got.size())), sent.size());
  got.resize(sent.size());
  EXPECT_TRUE(got == sent);
}

TEST(GatheringStream, AFailureShowsAtALaterWriteAndAtThoseThatWait) {
  Rig rig;
  auto [ours, theirs] = sockets();
  auto stream = gatheringStream(*rig.port, asioStream(*rig.port, std::move(ours)));
  theirs.reset();
  const auto typeOf = [&](size_t bytes) {
    const std::string text(bytes, 'x');
    return rig.get(stream->write(text.data(), text.size())
                       .then([] { return kj::Exception::Type::FAILED; },
                             [](kj::Exception&& e) { return e.getType(); }));
  };
  EXPECT_EQ(typeOf(kGatheredBytesMax + 1), kj::Exception::Type::DISCONNECTED);
  EXPECT_EQ(typeOf(1), kj::Exception::Type::DISCONNECTED);
}

TEST(GatheringStream, AWriteThatFailsEndsTheReadingOnBothSides) {
  Rig rig;
  auto [ours, theirs] = sockets();
  auto stream = gatheringStream(*rig.port, asioStream(*rig.port, std::move(ours)));
  char got[8];
  auto reading = stream->tryRead(got, 1, sizeof got);
  ::shutdown(theirs.get(), SHUT_RD);  // it lives, and takes nothing more
  auto writing = stream->write("x", 1).eagerlyEvaluate([](kj::Exception&&) {});
  EXPECT_EQ(rig.get(kj::mv(reading)), 0u);
  EXPECT_EQ(::recv(theirs.get(), got, sizeof got, MSG_DONTWAIT), 0);
}

TEST(GatheringStream, ItsEndInTheMiddleOfATurnHarmsNobody) {
  Rig rig;
  auto [ours, theirs] = sockets();
  auto stream = gatheringStream(*rig.port, asioStream(*rig.port, std::move(ours)));
  auto writing = stream->write("x", 1).eagerlyEvaluate(nullptr);
  stream = nullptr;
  for (int i = 0; i < 10; ++i) rig.host.poll();
  EXPECT_EQ(receiveNow(theirs), "");
}

}  // namespace
}  // namespace mayfly::edge
