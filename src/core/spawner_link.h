// The daemon's end of the channel to the spawner.
//
// Fixed-size messages with descriptors (wire/spawner.h). Sending never blocks: messages that the
// socket does not take wait in a bounded queue. A broken connection is reported once, and is fatal
// for the daemon.
//
// Layer: core. Core thread.
#pragma once

#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/post.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "wire/spawner.h"

namespace mayfly::core {

namespace spawner = wire;

inline constexpr size_t kOutboundMessagesMax = 8'192;
inline constexpr size_t kEventsPerTurnMax = 64;
inline constexpr uint32_t kSilentPeriodsMax = 5;
inline constexpr uint32_t kBusyPeriodsMax = 30;

class SpawnerLink {
 public:
  class Handler {
   public:
    virtual ~Handler() = default;
    virtual void onSpawnerEvent(const spawner::Event& event, std::span<base::Fd> fds) = 0;
    virtual void onSpawnerLost(base::Error why) = 0;
  };
  using SharedFd = std::shared_ptr<base::Fd>;

  SpawnerLink(boost::asio::io_context& io, Handler& handler)
      : handler_(handler), socket_(io), watch_timer_(io) {}

  base::Status open(base::Fd socket);  // starts to listen
  // A failure is reported to the handler, once, and never here.
  void send(const spawner::Request& request, std::vector<SharedFd> fds = {});
  // From here on, asks each period whether the spawner lives. One that says nothing is lost after
  // kSilentPeriodsMax periods in which it was not busy either, or after kBusyPeriodsMax: on a host
  // that is short of processors, everything takes long and nothing hangs. Periods are counted, not
  // time: this process may itself have been stopped.
  void watch(uint64_t period_ns, std::function<bool()> busy);
  // It owes an answer for a whole period.
  bool isSilent() const { return owed_periods_ > 1; }
  void close();
  bool isOpen() const { return open_; }

 private:
  struct Out {
    spawner::Request request;
    std::vector<SharedFd> fds;
  };
  void listen();
  void receive();
  void flush();
  void lost(base::Error why);
  base::FdView fd() { return base::FdView(socket_.native_handle()); }

  Handler& handler_;
  boost::asio::posix::stream_descriptor socket_;
  std::deque<Out> out_;
  bool open_ = false;
  bool waiting_to_write_ = false;
  boost::asio::steady_timer watch_timer_;
  uint32_t owed_periods_ = 0;    // since the question that it has not answered
  uint32_t silent_periods_ = 0;  // of them: those at whose end it was not busy
  // Asio's handlers hold it weakly: it is gone once the link is.
  std::shared_ptr<char> alive_ = std::make_shared<char>();
};

}  // namespace mayfly::core
