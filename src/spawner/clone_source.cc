#include "spawner/clone_source.h"

#include <errno.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/wait.h>

#include <vector>

#include "spawner/child.h"
#include "wire/zygote.h"

namespace mayfly::spawner {

namespace {

// The part that both sources share: requests, and answers that a template's own code may have
// written.
class ChannelSource : public CloneSource {
 public:
  explicit ChannelSource(base::Fd channel) : channel_(std::move(channel)) {}

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
    if (!got || !take(made, *got, &answer)) {
      answer.what = What::broken;
      return answer;
    }
    const bool well = answer.error == 0 && answer.text.empty();
    answer.what =
        made.box == 0 ? (well ? What::ready : What::refused) : (well ? What::made : What::failed);
    answer.box = made.box;
    if (answer.error == wire::kRefused) answer.error = 0;
    return answer;
  }

  bool open() const override {
    pollfd ended{channel_.get(), 0, 0};
    return channel_ && ::poll(&ended, 1, 0) == 0;
  }
  void close() override { channel_.reset(); }
  Needs needs() const override { return Needs::init; }
  uint64_t answerMsMax() const override { return kAnswerMsMax; }

 protected:
  // Checks the message; sets the answer's error, text and clone. False: no source sends it.
  virtual bool take(const wire::CloneMade& made, base::Received& got, Answer* answer) = 0;

 private:
  base::Fd channel_;
};

class ForkingSource : public ChannelSource {
 public:
  using ChannelSource::ChannelSource;

 private:
  bool take(const wire::CloneMade& made, base::Received& got, Answer* answer) override {
    if (wire::faultOf(made, got.bytes, got.fds) != nullptr || !isOurChild(got.fd[0])) return false;
    answer->error = made.error;
    if (made.error != 0) answer->text = made.step;
    answer->clone = std::move(got.fd[0]);
    return true;
  }
};

class RestoringSource : public ChannelSource {
 public:
  using ChannelSource::ChannelSource;
  Needs needs() const override { return Needs::wholeBox; }
  uint64_t answerMsMax() const override { return kRestoredMsMax; }

 private:
  bool take(const wire::CloneMade& made, base::Received& got, Answer* answer) override {
    if (wire::faultOfRestored(made, got.bytes, got.fds) != nullptr || !isOurChild(got.fd[0]) ||
        !isOurChild(got.fd[1]))
      return false;
    answer->error = made.error;
    if (made.error != 0) answer->text = made.step;
    answer->clone = std::move(got.fd[1]);
    if (!got.fd[0]) return true;
    siginfo_t info{};
    // Whoever restores has ended: nothing of it stays in the box.
    if (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(got.fd[0].get()), &info,
                 WEXITED | WNOHANG | __WALL) != 0 ||
        info.si_pid == 0)
      return false;
    if (made.error == 0 && (info.si_code != CLD_EXITED || info.si_status != 0)) {
      answer->error = EIO;
      answer->text = fmt::format("restore: criu {}", describe({info.si_code, info.si_status}));
    }
    return true;
  }
};

}  // namespace

std::unique_ptr<CloneSource> makeForkingSource(base::Fd channel) {
  return std::make_unique<ForkingSource>(std::move(channel));
}

std::unique_ptr<CloneSource> makeRestoringSource(base::Fd channel) {
  return std::make_unique<RestoringSource>(std::move(channel));
}

}  // namespace mayfly::spawner
