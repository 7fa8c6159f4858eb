// One request to an upstream, by libcurl: its request's body is pulled, its answer pushed, and
// either side may pause.
//
// The peer's address is checked before each socket is opened and again before the request is sent,
// also on a kept connection that another action has opened. libcurl resolves no name: when it needs
// one, the transfer stops before anything is sent, asks the resolver, and begins again with its
// answer. Nothing comes from the environment: no proxy, no .netrc, no cookies. A redirect is an
// answer like any other.
//
// Layer: vault. One thread. No KJ.
#pragma once

#include <curl/curl.h>
#include <sys/socket.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/asio/steady_timer.hpp>

#include "base/fd.h"
#include "base/result.h"
#include "config/network.h"
#include "vault/curl_loop.h"
#include "vault/resolver.h"
#include "vault/secret.h"

namespace mayfly::vault {

using Headers = std::vector<std::pair<std::string, std::string>>;

enum class Failure : uint8_t {
  none,
  address,  // every address of the host is a forbidden one
  resolve,  // the host's name has no address
  connect,
  tls,
  time,
  cut,       // the answer ended before its length
  upstream,  // anything else that the upstream did wrong
};
std::string_view name(Failure failure);

struct TransferSpec {
  std::string method;
  MaybeSecret url;                   // may hold a secret in its query
  std::vector<MaybeSecret> headers;  // "name: value"
  std::string host;                  // of the URL, without brackets
  uint16_t port = 443;
  uint64_t session = 0;  // whose lookup of the host's name it is
  uint32_t uid = 0;
  bool tls = true;
  int64_t body_bytes = 0;     // -1: of unknown length
  bool connect_only = false;  // a TCP connection for others to use
  bool fresh = false;         // a new connection, so that nothing is ever sent twice
  uint64_t connect_ms_max = 10'000, time_ms_max = 600'000;
  SecretRef ca;  // PEM; null: the host's
  std::function<bool(const config::Address&)> allows;
};

class TransferEvents {
 public:
  virtual ~TransferEvents() noexcept(false) = default;
  enum class Take : uint8_t {
    taken,
    later,  // not now: the same bytes come again after `resume`
    abort,  // the transfer ends; onEnd() follows
  };
  // The final head; those of 1xx are dropped. bytes: the body's; -1: unknown. Not `later`.
  virtual Take onHead(int status, Headers headers, int64_t bytes) = 0;
  virtual Take onData(std::string_view bytes) = 0;
  // Fills up to `size` bytes: their number, 0 at the body's end, kPause or kAbort.
  virtual size_t onWanted(char* to, size_t size) = 0;
  // A kept connection had died, and the request is sent again on a new one. False: the body's
  // beginning is not there any more.
  virtual bool onRewind() = 0;
  // The last event. The transfer may be destroyed from within.
  virtual void onEnd(Failure failure, const std::string& why) = 0;
};

class Transfer {
 public:
  static constexpr size_t kPause = CURL_READFUNC_PAUSE, kAbort = CURL_READFUNC_ABORT;
  static constexpr size_t kHeadBytesMax = 64u << 10, kHeadersMax = 256;

  // Events begin in a later turn. `events` outlives the transfer.
  static base::Result<std::unique_ptr<Transfer>> start(CurlLoop& loop, Resolver& resolver,
                                                       TransferSpec spec, TransferEvents& events);
  // Its connection is closed unless the answer was whole. Not from within onHead, onData, onWanted.
  ~Transfer();

  // After onData returned false or onWanted kPause. May call them at once.
  void resume();
  // connect_only, after its end without a failure: the connection.
  base::Fd takeSocket() { return std::move(socket_); }

 private:
  Transfer(CurlLoop& loop, Resolver& resolver, TransferSpec spec, TransferEvents& events);
  base::Status prepare();
  base::Status add();
  void set();
  void setTls();
  static int beforeLookup(void*, void*, void* self);
  void lookUp();
  void onAddresses(const Resolver::Addresses& found);
  static curl_socket_t openSocket(void* self, curlsocktype, curl_sockaddr* address);
  static int beforeRequest(void* self, char* peer, char*, int, int);
  static size_t onHeader(char* bytes, size_t size, size_t count, void* self);
  static size_t onBody(char* bytes, size_t size, size_t count, void* self);
  static size_t onRead(char* to, size_t size, size_t count, void* self);
  static int onSeek(void* self, curl_off_t offset, int origin);
  bool takeHeader(std::string_view line);
  void finished(CURLcode code);
  void keepSocket();

  CurlLoop& loop_;
  Resolver& resolver_;
  TransferSpec spec_;
  TransferEvents& events_;
  std::vector<curl_slist> list_;  // libcurl reads the headers where they are locked
  CURL* easy_;
  bool added_ = false;
  bool needs_name_ = false, asked_ = false;
  std::string name_;  // the host's addresses, as libcurl reads them
  curl_slist name_list_{};
  std::optional<boost::asio::steady_timer> lookup_timer_;
  std::shared_ptr<const void> alive_;  // during the lookup; its end ends that
  bool address_refused_ = false, address_allowed_ = false;
  bool head_told_ = false, in_head_ = false;
  size_t head_bytes_ = 0;
  Headers head_;
  base::Fd socket_;
  std::string fault_;  // why we ended it; empty: libcurl did
};

// The session cache of TLS, for all transfers of a process.
class TlsSessions {
 public:
  TlsSessions();
  ~TlsSessions();
  static CURLSH* share();  // null before there is one
};

inline constexpr const char* kHostCaFile = "/etc/ca.pem";  // in the vault's root

}  // namespace mayfly::vault
