#include "vault/curl_loop.h"

#include <unistd.h>

#include <utility>

#include <boost/asio/post.hpp>

namespace mayfly::vault {

using Descriptor = boost::asio::posix::stream_descriptor;

// libcurl's socket: registered with the host until libcurl closes it, so that a kept connection
// costs no registration for each transfer; watched while libcurl wants that.
struct CurlLoop::Socket {
  explicit Socket(boost::asio::io_context& io, curl_socket_t number) : fd(number), wait(io) {
    wait.assign(number);
  }
  ~Socket() { release(); }
  void release() {
    if (wait.is_open()) wait.release();
  }

  curl_socket_t fd;
  Descriptor wait;
  int wanted = 0;  // CURL_POLL_IN, CURL_POLL_OUT
  bool reading = false, writing = false;
};

CurlLoop::CurlLoop(edge::AsioPort& port, uint32_t connections_max)
    : port_(port), io_(port.host()), timer_(io_), multi_(::curl_multi_init()) {
  if (multi_ == nullptr) throw std::bad_alloc();
  ::curl_multi_setopt(multi_, CURLMOPT_SOCKETFUNCTION, &CurlLoop::onSocket);
  ::curl_multi_setopt(multi_, CURLMOPT_SOCKETDATA, this);
  ::curl_multi_setopt(multi_, CURLMOPT_TIMERFUNCTION, &CurlLoop::onTimer);
  ::curl_multi_setopt(multi_, CURLMOPT_TIMERDATA, this);
  ::curl_multi_setopt(multi_, CURLMOPT_PIPELINING, CURLPIPE_NOTHING);
  ::curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, static_cast<long>(connections_max));
}

CurlLoop::~CurlLoop() {
  *self_ = nullptr;
  for (auto& [easy, done] : done_) ::curl_multi_remove_handle(multi_, easy);
  ::curl_multi_cleanup(multi_);
}

base::Status CurlLoop::add(CURL* easy, Done done) {
  ::curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, &CurlLoop::onClose);
  ::curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, this);
  const CURLMcode code = ::curl_multi_add_handle(multi_, easy);
  if (code != CURLM_OK)
    return base::fail(base::Code::internal,
                      std::string("curl_multi_add_handle: ") + ::curl_multi_strerror(code));
  done_[easy] = std::move(done);
  return base::Unit{};
}

void CurlLoop::remove(CURL* easy) {
  if (done_.erase(easy) > 0) ::curl_multi_remove_handle(multi_, easy);
}

void CurlLoop::end(CURL* easy, CURLcode code) {
  auto at = done_.find(easy);
  if (at == done_.end() || !at->second) return;
  // A marker of this handle's life: a later one may have the same address.
  auto done = std::make_shared<Done>(std::move(at->second));
  at->second = [done](CURLcode result) { (*done)(result); };
  boost::asio::post(io_, [this, alive = self_, easy, code, done = std::weak_ptr<Done>(done)] {
    if (*alive == nullptr || done.expired()) return;
    auto still = done_.find(easy);
    if (still == done_.end() || !still->second) return;
    Done told = std::exchange(still->second, nullptr);
    told(code);
  });
}

int CurlLoop::onSocket(CURL*, curl_socket_t fd, int what, void* self, void*) {
  static_cast<CurlLoop*>(self)->watch(fd, what);
  return 0;
}

// Of the transfer that opened the connection, which may be long over.
int CurlLoop::onClose(void* self, curl_socket_t fd) {
  static_cast<CurlLoop*>(self)->drop(fd);
  return ::close(fd);
}

void CurlLoop::drop(curl_socket_t fd) {
  const auto at = sockets_.find(fd);
  if (at == sockets_.end()) return;
  at->second->release();
  sockets_.erase(at);
}

void CurlLoop::watch(curl_socket_t fd, int what) {
  if (what == CURL_POLL_REMOVE) {
    if (const auto at = sockets_.find(fd); at != sockets_.end()) at->second->wanted = 0;
    return;
  }
  auto& socket = sockets_[fd];
  if (!socket) socket = std::make_shared<Socket>(io_, fd);
  socket->wanted = what;
  await(socket);
}

void CurlLoop::await(const std::shared_ptr<Socket>& socket) {
  const auto start = [&](Descriptor::wait_type type, int wanted, int event, bool Socket::*waits) {
    if ((socket->wanted & wanted) == 0 || std::exchange((*socket).*waits, true)) return;
    socket->wait.async_wait(
        type, [this, self = self_, socket, wanted, event, waits](boost::system::error_code failed) {
          (*socket).*waits = false;
          // Closed meanwhile: the number may be another socket's.
          if (*self == nullptr || !socket->wait.is_open()) return;
          if ((socket->wanted & wanted) == 0) return;
          port_.inTurn([&] { act(socket->fd, failed ? CURL_CSELECT_ERR : event); });
          if (*self != nullptr && socket->wait.is_open()) await(socket);
        });
  };
  start(Descriptor::wait_read, CURL_POLL_IN, CURL_CSELECT_IN, &Socket::reading);
  start(Descriptor::wait_write, CURL_POLL_OUT, CURL_CSELECT_OUT, &Socket::writing);
}

int CurlLoop::onTimer(CURLM*, long ms, void* self) {
  auto& loop = *static_cast<CurlLoop*>(self);
  loop.due_.reset();
  if (ms < 0) return 0;
  loop.due_ = Clock::now() + std::chrono::milliseconds(ms);
  if (ms == 0)
    loop.actSoon();
  else
    loop.arm();
  return 0;
}

// libcurl asks for "at once" with each new transfer: that takes no timer.
void CurlLoop::actSoon() {
  if (std::exchange(soon_, true)) return;
  port_.atTurnEnd([this, alive = self_] {
    if (*alive == nullptr) return;
    soon_ = false;
    act(CURL_SOCKET_TIMEOUT, 0);
  });
}

// Most times are bounds that no transfer reaches. A timer that fires too early is set again, so a
// later time costs nothing now.
void CurlLoop::arm() {
  if (!due_ || (armed_ && *armed_ <= *due_)) return;
  armed_ = due_;
  timer_.expires_at(*due_);
  timer_.async_wait([this, alive = self_](boost::system::error_code failed) {
    if (failed || *alive == nullptr) return;
    armed_.reset();
    if (!due_ || Clock::now() < *due_) return arm();
    due_.reset();
    act(CURL_SOCKET_TIMEOUT, 0);
  });
}

void CurlLoop::act(curl_socket_t fd, int events) {
  int running = 0;
  ::curl_multi_socket_action(multi_, fd, events, &running);
  takeDone();
}

// A `done` may remove other transfers, and destroy the loop.
void CurlLoop::takeDone() {
  const auto alive = self_;
  int left = 0;
  while (*alive != nullptr) {
    CURLMsg* message = ::curl_multi_info_read(multi_, &left);
    if (message == nullptr) return;
    if (message->msg != CURLMSG_DONE) continue;
    CURL* easy = message->easy_handle;
    const CURLcode code = message->data.result;
    auto at = done_.find(easy);
    if (at == done_.end() || !at->second) continue;
    Done done = std::move(at->second);
    at->second = nullptr;
    done(code);
  }
}

}  // namespace mayfly::vault
