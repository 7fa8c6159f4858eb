// Stands between a library and its server, and lets no more of the server's bytes through than its
// owner allows.
//
// libpq holds a row whole, and allocates whatever size the server announces, up to 2 GB. What it
// has not been given takes no memory: so its owner allows some bytes, and again some after each
// row.
//
// The library's descriptor becomes one end of a socket pair. The kernel holds some bytes on the
// way: of an allowance, at least kOnItsWayBytes must be for those that the library has not read
// yet.
//
// Layer: vault. The loop's thread. No KJ.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include "base/result.h"

namespace mayfly::vault {

class MeteredSocket : public std::enable_shared_from_this<MeteredSocket> {
 public:
  static constexpr size_t kPieceBytes = 64u << 10;
  static constexpr size_t kOnItsWayBytes = 512u << 10;

  // Takes the place of the connected socket `fd`, which nobody watches now. `over`: called once,
  // when the server sends more than is allowed; nothing is passed on any more.
  static base::Result<std::shared_ptr<MeteredSocket>> replace(boost::asio::io_context& io, int fd,
                                                              std::function<void()> over);
  // Of the server's bytes that come from now on.
  void allow(uint64_t bytes) { left_ = bytes; }
  // Sends the library's last words, if the server takes them at once. No callback follows.
  void close();

 private:
  using Descriptor = boost::asio::posix::stream_descriptor;
  enum class Way : uint8_t { down, up };  // down: from the server
  struct Flow {
    Descriptor& from;
    Descriptor& to;
    std::string piece;
    size_t sent = 0;  // of the piece
  };
  enum class Step : uint8_t { more, waits };

  MeteredSocket(boost::asio::io_context& io, std::function<void()> over)
      : server_(io), library_(io), over_(std::move(over)) {}
  void pump(Way way);
  Step take(Way way);
  Step give(Way way);
  void await(Descriptor& descriptor, Descriptor::wait_type what, Way way);
  Flow& flow(Way way) { return way == Way::down ? down_ : up_; }

  Descriptor server_, library_;  // the latter: our end of the pair
  Flow down_{server_, library_, {}}, up_{library_, server_, {}};
  uint64_t left_ = 0;
  std::function<void()> over_;  // empty: called, or closed
};

}  // namespace mayfly::vault
