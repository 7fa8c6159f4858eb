#include "hostile/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iterator>

#include "base/result.h"
#include "edge/convert.h"

namespace mayfly::hostile {

namespace {

int leftMs(std::chrono::steady_clock::time_point until) {
  auto left = until - std::chrono::steady_clock::now();
  return static_cast<int>(
      std::max<int64_t>(0, std::chrono::ceil<std::chrono::milliseconds>(left).count()));
}

auto untilMs(int ms) { return std::chrono::steady_clock::now() + std::chrono::milliseconds(ms); }

constexpr capnp::ReaderOptions kOptions{1u << 30, 64};

}  // namespace

std::string bytesOf(capnp::MessageBuilder& message) {
  auto words = capnp::messageToFlatArray(message);
  auto bytes = words.asBytes();
  return {reinterpret_cast<const char*>(bytes.begin()), bytes.size()};
}

Raw::Raw(const std::string& socket) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket.copy(address.sun_path, sizeof address.sun_path - 1);
  if (::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return;
  alive_ = ::fcntl(fd_.get(), F_SETFL, O_NONBLOCK) == 0;
}

bool Raw::send(std::string_view bytes) {
  while (alive_ && !bytes.empty()) bytes.remove_prefix(sendSome(bytes, kAnswerMs));
  return alive_;
}

size_t Raw::sendSome(std::string_view bytes, int ms) {
  auto until = untilMs(ms);
  while (alive_) {
    ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n >= 0) return static_cast<size_t>(n);
    if (errno != EAGAIN && errno != EINTR) {
      alive_ = false;
      break;
    }
    pollfd room{fd_.get(), POLLOUT, 0};
    if (::poll(&room, 1, leftMs(until)) <= 0) break;
  }
  return 0;
}

Question Raw::bootstrap() {
  capnp::MallocMessageBuilder message;
  message.initRoot<wire::Message>().initBootstrap().setQuestionId(0);
  send(bytesOf(message));
  return 0;
}

bool Raw::finish(Question question) {
  capnp::MallocMessageBuilder message;
  auto finish = message.initRoot<wire::Message>().initFinish();
  finish.setQuestionId(question);
  finish.setReleaseResultCaps(false);
  return send(bytesOf(message));
}

void Raw::returnTo(Question question) {
  capnp::MallocMessageBuilder message;
  auto answer = message.initRoot<wire::Message>().initReturn();
  answer.setAnswerId(question);
  answer.initResults();
  send(bytesOf(message));
}

void Raw::take(kj::Array<capnp::word> words) {
  auto reader = std::make_unique<capnp::FlatArrayMessageReader>(words.asPtr(), kOptions);
  auto message = reader->getRoot<wire::Message>();
  if (message.isReturn()) {
    Question id = message.getReturn().getAnswerId();
    answers_[id] = Held{kj::mv(words), std::move(reader)};
  } else if (message.isCall()) {
    if (return_writes) returnTo(message.getCall().getQuestionId());
  } else if (message.isAbort()) {
    last_words_ = edge::str(message.getAbort().getReason());
  }
}

bool Raw::read(int ms) {
  auto until = untilMs(ms);
  do {
    pollfd more{fd_.get(), POLLIN, 0};
    if (::poll(&more, 1, leftMs(until)) <= 0) return true;
    char buffer[256 << 10];
    ssize_t n = ::recv(fd_.get(), buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n <= 0) return alive_ = false;
    in_.append(buffer, static_cast<size_t>(n));
    size_t at = 0;
    while (in_.size() - at >= 8) {
      capnp::word head[512];  // holds any segment table of the daemon's
      size_t there = (in_.size() - at) / 8;
      memcpy(head, in_.data() + at, std::min(there, std::size(head)) * 8);
      size_t words = capnp::expectedSizeInWordsFromPrefix(
          kj::arrayPtr(head, std::min(there, std::size(head))));
      if (words > there) break;
      auto message = kj::heapArray<capnp::word>(words);
      memcpy(message.begin(), in_.data() + at, words * 8);
      at += words * 8;
      take(kj::mv(message));
    }
    in_.erase(0, at);
    return alive_;
  } while (leftMs(until) > 0);
  return alive_;
}

Answer Raw::answer(Question question, unsigned error_at, int ms) {
  auto until = untilMs(ms);
  while (!answers_.contains(question)) {
    if (!read(leftMs(until))) return {"ended", last_words_, 0, false};
    if (leftMs(until) == 0) return {"timeout", {}, 0, false};
  }
  auto message = answers_.at(question).reader->getRoot<wire::Message>().getReturn();
  if (message.isException())
    return {"exception", edge::str(message.getException().getReason()), 0, false};
  if (!message.isResults()) return {"canceled", {}, 0, false};
  auto pointers = message.getResults().getContent().getAs<capnp::AnyStruct>().getPointerSection();
  if (error_at >= pointers.size()) return {"ok", {}, 0, false};
  auto error = pointers[error_at].getAs<schema::Error>();
  if (error.getCode() == schema::ErrorCode::OK) return {"ok", {}, 0, false};
  return {std::string(base::name(static_cast<base::Code>(error.getCode()))),
          edge::str(error.getMessage()), error.getRetryAfterMs(), error.getRetryable()};
}

capnp::AnyPointer::Reader Raw::results(Question question) {
  return answers_.at(question)
      .reader->getRoot<wire::Message>()
      .getReturn()
      .getResults()
      .getContent();
}

bool Raw::ends(int ms) {
  auto until = untilMs(ms);
  while (leftMs(until) > 0)
    if (!read(leftMs(until))) return true;
  return false;
}

}  // namespace mayfly::hostile
