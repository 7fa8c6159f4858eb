#include "vault/transfer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <optional>

namespace mayfly::vault {

using base::Code;
using base::Result;

namespace {

constexpr long kBufferBytes = 60 << 10;  // glibc frees a block of 64 KiB at more cost
constexpr long kCaCacheSeconds = 3'600;
constexpr long kNamesKeptSeconds = 5;
constexpr size_t kStop = 0;  // from a callback with bytes: not all were taken, so an error

CURLSH* tls_sessions = nullptr;

std::optional<config::Address> addressOf(const sockaddr& peer) {
  config::Address out{};
  if (peer.sa_family == AF_INET6) {
    const auto& in6 = reinterpret_cast<const sockaddr_in6&>(peer);
    ::memcpy(out.data(), &in6.sin6_addr, out.size());
    return out;
  }
  if (peer.sa_family != AF_INET) return std::nullopt;
  const auto& in4 = reinterpret_cast<const sockaddr_in&>(peer);
  out[10] = out[11] = 0xff;
  ::memcpy(out.data() + 12, &in4.sin_addr, 4);
  return out;
}

std::optional<config::Address> addressOf(const char* text) {
  sockaddr_in6 in6{};
  sockaddr_in in4{};
  if (::inet_pton(AF_INET, text, &in4.sin_addr) == 1) {
    in4.sin_family = AF_INET;
    return addressOf(reinterpret_cast<const sockaddr&>(in4));
  }
  const std::string plain(text, ::strcspn(text, "%"));  // without a zone
  if (::inet_pton(AF_INET6, plain.c_str(), &in6.sin6_addr) != 1) return std::nullopt;
  in6.sin6_family = AF_INET6;
  return addressOf(reinterpret_cast<const sockaddr&>(in6));
}

Failure failureOf(CURLcode code) {
  switch (code) {
    case CURLE_OK:
      return Failure::none;
    case CURLE_COULDNT_RESOLVE_HOST:
      return Failure::resolve;
    case CURLE_COULDNT_CONNECT:
      return Failure::connect;
    case CURLE_OPERATION_TIMEDOUT:
      return Failure::time;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
      return Failure::tls;
    case CURLE_PARTIAL_FILE:
    case CURLE_HTTP2_STREAM:
      return Failure::cut;
    default:
      return Failure::upstream;
  }
}

std::string lowered(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

}  // namespace

std::string_view name(Failure failure) {
  constexpr std::array<std::string_view, 8> kNames = {"none", "address", "resolve", "connect",
                                                      "tls",  "time",    "cut",     "upstream"};
  return kNames[static_cast<size_t>(failure)];
}

TlsSessions::TlsSessions() {
  tls_sessions = ::curl_share_init();
  ::curl_share_setopt(tls_sessions, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
}
TlsSessions::~TlsSessions() {
  ::curl_share_cleanup(tls_sessions);
  tls_sessions = nullptr;
}
CURLSH* TlsSessions::share() { return tls_sessions; }

Transfer::Transfer(CurlLoop& loop, Resolver& resolver, TransferSpec spec, TransferEvents& events)
    : loop_(loop),
      resolver_(resolver),
      spec_(std::move(spec)),
      events_(events),
      easy_(::curl_easy_init()) {}

Transfer::~Transfer() {
  if (added_) loop_.remove(easy_);
  ::curl_easy_cleanup(easy_);
}

Result<std::unique_ptr<Transfer>> Transfer::start(CurlLoop& loop, Resolver& resolver,
                                                  TransferSpec spec, TransferEvents& events) {
  std::unique_ptr<Transfer> self(new Transfer(loop, resolver, std::move(spec), events));
  MAYFLY_CHECK(self->prepare());
  return self;
}

base::Status Transfer::prepare() {
  if (easy_ == nullptr) return base::fail(Code::resourceExhausted, "libcurl has no memory");
  list_.resize(spec_.headers.size());
  for (size_t i = 0; i < list_.size(); ++i) {
    list_[i].data = revealForCurl(spec_.headers[i]);
    list_[i].next = i + 1 < list_.size() ? &list_[i + 1] : nullptr;
  }
  set();
  return add();
}

base::Status Transfer::add() {
  MAYFLY_CHECK(loop_.add(easy_, [this](CURLcode code) { finished(code); }));
  added_ = true;
  return base::Unit{};
}

void Transfer::set() {
  const auto option = [this](CURLoption which, auto value) {
    ::curl_easy_setopt(easy_, which, value);
  };
  option(CURLOPT_URL, revealForCurl(spec_.url));
  option(CURLOPT_PROTOCOLS_STR, spec_.tls ? "https" : "http");
  option(CURLOPT_PATH_AS_IS, 1L);
  option(CURLOPT_PROXY, "");
  option(CURLOPT_NOPROXY, "*");
  option(CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
  option(CURLOPT_FOLLOWLOCATION, 0L);
  option(CURLOPT_NOSIGNAL, 1L);
  option(CURLOPT_BUFFERSIZE, kBufferBytes);
  option(CURLOPT_DNS_CACHE_TIMEOUT, kNamesKeptSeconds);
  option(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_2TLS));
  option(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(spec_.connect_ms_max));
  option(CURLOPT_TIMEOUT_MS,
         static_cast<long>(spec_.connect_only ? spec_.connect_ms_max : spec_.time_ms_max));
  if (spec_.tls) setTls();
  if (!config::parseAddress(spec_.host)) {
    option(CURLOPT_RESOLVER_START_FUNCTION, &Transfer::beforeLookup);
    option(CURLOPT_RESOLVER_START_DATA, this);
  }
  option(CURLOPT_OPENSOCKETFUNCTION, &Transfer::openSocket);
  option(CURLOPT_OPENSOCKETDATA, this);
  if (spec_.fresh || spec_.connect_only) option(CURLOPT_FRESH_CONNECT, 1L);
  if (spec_.connect_only) return option(CURLOPT_CONNECT_ONLY, 1L);

  option(CURLOPT_PREREQFUNCTION, &Transfer::beforeRequest);
  option(CURLOPT_PREREQDATA, this);
  option(CURLOPT_HEADERFUNCTION, &Transfer::onHeader);
  option(CURLOPT_HEADERDATA, this);
  option(CURLOPT_WRITEFUNCTION, &Transfer::onBody);
  option(CURLOPT_WRITEDATA, this);
  option(CURLOPT_READFUNCTION, &Transfer::onRead);
  option(CURLOPT_READDATA, this);
  option(CURLOPT_SEEKFUNCTION, &Transfer::onSeek);
  option(CURLOPT_SEEKDATA, this);
  if (spec_.body_bytes != 0) {
    option(CURLOPT_UPLOAD, 1L);
    option(CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(spec_.body_bytes));
  } else if (spec_.method == "HEAD") {
    option(CURLOPT_NOBODY, 1L);
  } else {
    option(CURLOPT_HTTPGET, 1L);
  }
  option(CURLOPT_CUSTOMREQUEST, spec_.method.c_str());
  option(CURLOPT_HTTPHEADER, list_.empty() ? nullptr : list_.data());
}

void Transfer::setTls() {
  const auto option = [this](CURLoption which, auto value) {
    ::curl_easy_setopt(easy_, which, value);
  };
  option(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  option(CURLOPT_SSL_VERIFYPEER, 1L);
  option(CURLOPT_SSL_VERIFYHOST, 2L);
  option(CURLOPT_SHARE, tls_sessions);
  option(CURLOPT_CAPATH, static_cast<char*>(nullptr));
  if (spec_.ca) {
    curl_blob blob{
        spec_.ca->reveal().empty() ? nullptr : const_cast<char*>(spec_.ca->reveal().data()),
        spec_.ca->reveal().size(), CURL_BLOB_COPY};
    option(CURLOPT_CAINFO, static_cast<char*>(nullptr));
    option(CURLOPT_CAINFO_BLOB, &blob);
  } else {
    option(CURLOPT_CAINFO, kHostCaFile);
    option(CURLOPT_CA_CACHE_TIMEOUT, kCaCacheSeconds);
  }
}

// libcurl has neither a kept connection nor the name's addresses, and would start a thread for it.
int Transfer::beforeLookup(void*, void*, void* self) {
  auto& transfer = *static_cast<Transfer*>(self);
  transfer.needs_name_ = !transfer.asked_;
  return 1;
}

void Transfer::lookUp() {
  loop_.remove(easy_);
  added_ = false;
  asked_ = true;
  alive_ = std::make_shared<char>();
  lookup_timer_.emplace(loop_.io(), std::chrono::milliseconds(spec_.connect_ms_max));
  lookup_timer_->async_wait(
      [this, alive = std::weak_ptr<const void>(alive_)](boost::system::error_code failed) {
        if (failed || alive.expired()) return;
        alive_.reset();
        events_.onEnd(Failure::time, "its name was not resolved in time");
      });
  resolver_.resolve(spec_.host, {spec_.session, spec_.uid, alive_},
                    [this](const Resolver::Addresses& found) { onAddresses(found); });
}

// libcurl keeps them as if it had resolved the name itself.
void Transfer::onAddresses(const Resolver::Addresses& found) {
  lookup_timer_.reset();
  alive_.reset();
  if (!found) return events_.onEnd(Failure::resolve, found.error().message);
  if (found->empty()) return events_.onEnd(Failure::resolve, "its name has no address");
  name_ = "+" + spec_.host + ":" + std::to_string(spec_.port) + ":";
  for (const config::Address& each : *found) {
    if (name_.back() != ':') name_ += ',';
    name_ += "[" + config::formatAddress(each) + "]";
  }
  name_list_.data = name_.data();
  ::curl_easy_setopt(easy_, CURLOPT_RESOLVE, &name_list_);
  if (auto added = add(); !added) events_.onEnd(Failure::resolve, added.error().message);
}

curl_socket_t Transfer::openSocket(void* self, curlsocktype, curl_sockaddr* address) {
  auto& transfer = *static_cast<Transfer*>(self);
  const auto peer = addressOf(address->addr);
  if (!peer || !transfer.spec_.allows(*peer)) {
    transfer.address_refused_ = true;
    return CURL_SOCKET_BAD;
  }
  transfer.address_allowed_ = true;
  const int fd = ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  if (fd < 0) return CURL_SOCKET_BAD;
  transfer.loop_.opened(fd);
  return fd;
}

// A kept connection was opened by the rules of the action that opened it.
int Transfer::beforeRequest(void* self, char* peer, char*, int, int) {
  auto& transfer = *static_cast<Transfer*>(self);
  const auto address = addressOf(peer);
  if (address && transfer.spec_.allows(*address)) return CURL_PREREQFUNC_OK;
  transfer.address_refused_ = true;
  transfer.address_allowed_ = false;
  return CURL_PREREQFUNC_ABORT;
}

size_t Transfer::onHeader(char* bytes, size_t size, size_t count, void* self) {
  auto& transfer = *static_cast<Transfer*>(self);
  return transfer.takeHeader({bytes, size * count}) ? size * count : kStop;
}

bool Transfer::takeHeader(std::string_view line) {
  if (head_told_) return true;  // a trailer: dropped
  if (line.starts_with("HTTP/")) {
    in_head_ = true;
    head_.clear();
    head_bytes_ = 0;
  }
  head_bytes_ += line.size();
  if (!in_head_ || head_bytes_ > kHeadBytesMax || head_.size() > kHeadersMax) {
    fault_ = "its answer has too large a head";
    return false;
  }
  const std::string_view text = trimmed(line);
  if (!text.empty()) {
    const size_t colon = text.find(':');
    if (line.starts_with("HTTP/")) return true;
    if (colon == std::string_view::npos || colon == 0) return true;  // no header: dropped
    head_.emplace_back(lowered(trimmed(text.substr(0, colon))), trimmed(text.substr(colon + 1)));
    return true;
  }
  in_head_ = false;
  long status = 0;
  ::curl_easy_getinfo(easy_, CURLINFO_RESPONSE_CODE, &status);
  if (status < 200) {
    if (status != 101) return true;
    fault_ = "it switched protocols";
    return false;
  }
  if (status > 999) {
    fault_ = "its status is none";
    return false;
  }
  head_told_ = true;
  const bool empty = status == 204 || status == 304;
  int64_t bytes = empty ? 0 : -1;
  for (const auto& [name, value] : head_)
    if (!empty && name == "content-length" && !value.empty() && value.size() < 18 &&
        std::all_of(value.begin(), value.end(), [](char c) { return c >= '0' && c <= '9'; }))
      bytes = std::stoll(value);
  return events_.onHead(static_cast<int>(status), std::move(head_), bytes) ==
         TransferEvents::Take::taken;
}

size_t Transfer::onBody(char* bytes, size_t size, size_t count, void* self) {
  auto& transfer = *static_cast<Transfer*>(self);
  if (!transfer.head_told_) return kStop;
  switch (transfer.events_.onData({bytes, size * count})) {
    case TransferEvents::Take::taken:
      return size * count;
    case TransferEvents::Take::later:
      return CURL_WRITEFUNC_PAUSE;
    case TransferEvents::Take::abort:
      break;
  }
  return kStop;
}

size_t Transfer::onRead(char* to, size_t size, size_t count, void* self) {
  return static_cast<Transfer*>(self)->events_.onWanted(to, size * count);
}

int Transfer::onSeek(void* self, curl_off_t offset, int origin) {
  if (offset != 0 || origin != SEEK_SET) return CURL_SEEKFUNC_CANTSEEK;
  return static_cast<Transfer*>(self)->events_.onRewind() ? CURL_SEEKFUNC_OK : CURL_SEEKFUNC_FAIL;
}

void Transfer::resume() {
  if (!added_) return;
  const CURLcode code = ::curl_easy_pause(easy_, CURLPAUSE_CONT);
  if (code != CURLE_OK) loop_.end(easy_, code);  // onData has said `abort`
}

void Transfer::finished(CURLcode code) {
  if (std::exchange(needs_name_, false)) return lookUp();
  if (spec_.connect_only && code == CURLE_OK) keepSocket();
  loop_.remove(easy_);  // closes a connection that is connected only
  added_ = false;
  if (code == CURLE_OK) return events_.onEnd(Failure::none, {});
  if (address_refused_ && !address_allowed_)
    return events_.onEnd(Failure::address, "its address is one that this action may not reach");
  events_.onEnd(failureOf(code), fault_.empty() ? ::curl_easy_strerror(code) : fault_);
}

void Transfer::keepSocket() {
  curl_socket_t fd = CURL_SOCKET_BAD;
  if (::curl_easy_getinfo(easy_, CURLINFO_ACTIVESOCKET, &fd) == CURLE_OK && fd != CURL_SOCKET_BAD)
    socket_ = base::Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
}

}  // namespace mayfly::vault
