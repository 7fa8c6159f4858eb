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

  base::Status ask(const Ask& ask) override { return send(ask, false); }
  bool prepare(const Ask&) override { return false; }

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
    if (answer.what == What::none)
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
  base::Status send(const Ask& ask, bool ahead) {
    wire::MakeClone make;
    make.box = ask.box;
    make.rehearse = ask.rehearse == Rehearse::yes ? 1 : 0;
    make.ahead = ahead ? 1 : 0;
    make.tasks_fds = static_cast<uint32_t>(ask.tasks.size());
    std::vector<int> fds{ask.init.get()};
    for (const base::Fd& fd : ask.streams) fds.push_back(fd.get());
    fds.push_back(ask.cgroup.get());
    fds.push_back(ask.go.get());
    for (const base::Fd& fd : ask.tasks) fds.push_back(fd.get());
    return base::sendMessage(channel_.view(), base::bytesOf(make), fds);
  }

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
  RestoringSource(base::Fd channel, const std::unordered_set<uint64_t>& passed)
      : ChannelSource(std::move(channel)), passed_(passed) {}
  Needs needs() const override { return Needs::wholeBox; }
  uint64_t answerMsMax() const override { return kRestoredMsMax; }
  bool prepare(const Ask& ask) override { return send(ask, true).has_value(); }

 private:
  bool take(const wire::CloneMade& made, base::Received& got, Answer* answer) override {
    if (wire::faultOfRestored(made, got.bytes, got.fds) != nullptr || !isOurChild(got.fd[1]))
      return false;
    Exit exit{CLD_EXITED, 0};  // there is none if it could not be forked
    if (got.fd[0] && !reapRestorer(got.fd[0], got.fd[1], &exit)) return false;
    answer->error = made.error;
    if (made.error != 0) answer->text = made.step;
    if (made.error == 0 && (exit.code != CLD_EXITED || exit.status != 0)) {
      answer->error = EIO;
      answer->text = fmt::format("restore: criu {}", describe(exit));
    }
    answer->again = made.box != 0 && answer->error != 0;
    if (made.box != 0 && made.error == wire::kAheadEnded) answer->what = Answer::What::spoiled;
    answer->clone = std::move(got.fd[1]);
    return true;
  }

  // Whoever restores has ended; that it left no child in the box, mayfly-restorer has seen.
  // Nobody's init or clone is taken for it, whose end others wait for. It may have been reaped as a
  // stray, when another zygote ended at that moment: then nobody knows whether it restored.
  bool reapRestorer(const base::Fd& restorer, const base::Fd& clone, Exit* exit) const {
    const uint64_t key = processKey(restorer);
    if (passed_.contains(key) || (clone && processKey(clone) == key)) return false;
    siginfo_t info{};
    if (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(restorer.get()), &info,
                 WEXITED | WNOHANG | __WALL) != 0) {
      *exit = kEndUnknown;
      return errno == ECHILD;
    }
    *exit = {info.si_code, info.si_status};
    return info.si_pid != 0;
  }

  const std::unordered_set<uint64_t>& passed_;
};

}  // namespace

std::unique_ptr<CloneSource> makeForkingSource(base::Fd channel) {
  return std::make_unique<ForkingSource>(std::move(channel));
}

std::unique_ptr<CloneSource> makeRestoringSource(base::Fd channel,
                                                 const std::unordered_set<uint64_t>& passed) {
  return std::make_unique<RestoringSource>(std::move(channel), passed);
}

}  // namespace mayfly::spawner
