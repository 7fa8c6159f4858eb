#include "spawner/outbox.h"

#include <errno.h>
#include <fcntl.h>

namespace mayfly::spawner {

void Outbox::send(const wire::Event& event, std::span<const int> fds) {
  if (broken_) return;
  if (waiting_.empty()) {
    auto sent = base::sendMessage(daemon_, base::bytesOf(event), fds);
    if (sent) return;
    if (sent.error().sys != EAGAIN) return close();
  }
  Outgoing out{event, {}};
  for (int fd : fds) out.fds.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  waiting_.push_back(std::move(out));
  if (waiting_.size() > kEventsMax) return close();
  poller_.change(daemon_, EPOLLIN | EPOLLOUT, Source::daemon, 0);
}

void Outbox::flush() {
  if (broken_ || waiting_.empty()) return;
  while (!waiting_.empty()) {
    std::vector<int> fds;
    for (const base::Fd& fd : waiting_.front().fds) fds.push_back(fd.get());
    auto sent = base::sendMessage(daemon_, base::bytesOf(waiting_.front().event), fds);
    if (!sent && sent.error().sys == EAGAIN) return;
    if (!sent) return close();
    waiting_.pop_front();
  }
  poller_.change(daemon_, EPOLLIN, Source::daemon, 0);
}

}  // namespace mayfly::spawner
