#include "spawner/clone_source.h"

#include <errno.h>
#include <poll.h>

#include <vector>

#include "spawner/child.h"
#include "wire/zygote.h"

namespace mayfly::spawner {

namespace {

class ForkingSource : public CloneSource {
 public:
  explicit ForkingSource(base::Fd channel) : channel_(std::move(channel)) {}

  base::Status ask(const Ask& ask) override {
    wire::MakeClone make;
    make.box = ask.box;
    make.rehearse = ask.rehearse == Rehearse::yes ? 1 : 0;
    make.tasks_fds = static_cast<uint32_t>(ask.tasks.size());
    std::vector<int> fds{ask.init.get()};
    for (const base::Fd& fd : ask.streams) fds.push_back(fd.get());
    fds.push_back(ask.cgroup.get());
    fds.push_back(ask.go.get());
    for (const base::Fd& fd : ask.tasks) fds.push_back(fd.get());
    return base::sendMessage(channel_.view(), base::bytesOf(make), fds);
  }

  base::FdView answers() const override { return channel_.view(); }

  Answer receive() override {
    using What = Answer::What;
    wire::CloneMade made;
    auto got = base::receiveMessage(channel_.view(), base::writableBytesOf(made));
    Answer answer;
    if (!got && got.error().sys == EAGAIN) return answer;
    if (isEnd(got)) {
      answer.what = What::ended;
      return answer;
    }
    // A template's own code may have written the message.
    if (!got || wire::faultOf(made, got->bytes, got->fds) != nullptr || !isOurChild(got->fd[0])) {
      answer.what = What::broken;
      return answer;
    }
    const bool well = made.error == 0;
    answer.what =
        made.box == 0 ? (well ? What::ready : What::refused) : (well ? What::made : What::failed);
    answer.box = made.box;
    answer.error = made.error == wire::kRefused ? 0 : made.error;
    answer.text = made.step;
    answer.clone = std::move(got->fd[0]);
    return answer;
  }

  bool open() const override {
    pollfd ended{channel_.get(), 0, 0};
    return channel_ && ::poll(&ended, 1, 0) == 0;
  }
  void close() override { channel_.reset(); }

 private:
  base::Fd channel_;
};

}  // namespace

std::unique_ptr<CloneSource> makeForkingSource(base::Fd channel) {
  return std::make_unique<ForkingSource>(std::move(channel));
}

}  // namespace mayfly::spawner
