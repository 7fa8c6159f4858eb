// The source of clones over a socket pair, with a child of our own as the clone.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "spawner/child.h"
#include "spawner/clone_source.h"
#include "wire/zygote.h"

namespace mayfly::spawner {
namespace {

using What = CloneSource::Answer::What;
using base::Fd;

class ForkingSource : public ::testing::Test {
 protected:
  void SetUp() override {
    auto pair = base::makeSeqpacketPair();
    ASSERT_TRUE(pair);
    ASSERT_TRUE(base::setNonblocking(pair->ours.view()));
    zygote_ = std::move(pair->theirs);
    source_ = makeForkingSource(std::move(pair->ours));
  }

  // The zygote's message, and the source's reading of it.
  CloneSource::Answer say(const wire::CloneMade& made, std::vector<int> fds = {}) {
    EXPECT_TRUE(base::sendMessage(zygote_.view(), base::bytesOf(made), fds));
    return source_->receive();
  }

  static Fd pidfdOf(pid_t pid) { return Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

  Fd zygote_;
  std::unique_ptr<CloneSource> source_;
};

TEST_F(ForkingSource, AnAskCarriesItsDescriptorsInTheAgreedOrder) {
  Fd streams[4];
  std::vector<Fd> tasks;
  std::vector<base::Pipe> all;
  for (int i = 0; i < 9; ++i) all.push_back(std::move(*base::makePipe()));
  for (int i = 0; i < 4; ++i) streams[i] = std::move(all[1 + static_cast<size_t>(i)].read);
  for (size_t i = 7; i < 9; ++i) tasks.push_back(std::move(all[i].read));
  CloneSource::Ask ask;
  ask.box = 9;
  ask.rehearse = CloneSource::Rehearse::yes;
  ask.init = all[0].read.view();
  ask.cgroup = all[5].read.view();
  ask.go = all[6].read.view();
  ask.streams = streams;
  ask.tasks = tasks;
  ASSERT_TRUE(source_->ask(ask));
  wire::MakeClone make;
  auto got = base::receiveMessage(zygote_.view(), base::writableBytesOf(make));
  ASSERT_TRUE(got);
  EXPECT_EQ(wire::faultOf(make, got->bytes, got->fds), nullptr);
  EXPECT_EQ(make.box, 9u);
  EXPECT_EQ(make.rehearse, 1u);
  ASSERT_EQ(got->fds, 9u);
  for (size_t i = 0; i < got->fds; ++i) {  // init, streams, cgroup, go, tasks
    const char sent = static_cast<char>('a' + i);
    char read = 0;
    ASSERT_EQ(::write(all[i].write.get(), &sent, 1), 1);
    ASSERT_EQ(::read(got->fd[i].get(), &read, 1), 1);
    EXPECT_EQ(read, sent);
  }
}

TEST_F(ForkingSource, AHelloServesOrRefusesAndAFullSentenceHasNoErrno) {
  EXPECT_EQ(source_->receive().what, What::none);
  EXPECT_EQ(say({}).what, What::ready);
  wire::CloneMade refused;
  refused.error = wire::kRefused;
  strcpy(refused.step, "preload 'x' started a thread");
  auto answer = say(refused);
  EXPECT_EQ(answer.what, What::refused);
  EXPECT_EQ(answer.error, 0);
  EXPECT_EQ(answer.text, "preload 'x' started a thread");
  const std::string full(sizeof refused.step - 1, 'y');
  strcpy(refused.step, full.c_str());
  wire::Event event;
  setText(event, "zygote", "the zygote can't serve: " + say(refused).text);
  EXPECT_EQ(std::string(event.text), "the zygote can't serve: " + full) << "the last line is kept";
  refused.error = ENXIO;
  EXPECT_EQ(say(refused).error, ENXIO);
}

TEST_F(ForkingSource, OnlyAChildOfOursIsAClone) {
  const pid_t child = ::fork();
  if (child == 0)
    for (;;) ::pause();
  Fd pidfd = pidfdOf(child), parent = pidfdOf(::getppid());
  wire::CloneMade made;
  made.box = 4;
  auto answer = say(made, {pidfd.get()});
  EXPECT_EQ(answer.what, What::made);
  EXPECT_EQ(answer.box, 4u);
  EXPECT_TRUE(answer.clone);
  // A template's own code may pass any descriptor.
  auto file = base::openAt({}, "/proc/self/exe", O_RDONLY);
  auto pipe = base::makePipe();
  for (int fd : {file->get(), pipe->read.get(), parent.get(), zygote_.get()})
    EXPECT_EQ(say(made, {fd}).what, What::broken);
  EXPECT_EQ(say(made).what, What::broken) << "a clone without its descriptor";
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(say(made, {pidfd.get()}).what, What::broken) << "one that is reaped already";
}

TEST_F(ForkingSource, AFailedCloneNamesItsStepAndAnythingElseIsBroken) {
  wire::CloneMade failed;
  failed.box = 4;
  failed.error = EAGAIN;
  strcpy(failed.step, "fork clone");
  auto answer = say(failed);
  EXPECT_EQ(answer.what, What::failed);
  EXPECT_EQ(answer.error, EAGAIN);
  EXPECT_EQ(answer.text, "fork clone");
  memset(failed.step, 'x', sizeof failed.step);
  EXPECT_EQ(say(failed).what, What::broken);
  ASSERT_EQ(::send(zygote_.get(), "short", 5, 0), 5);
  EXPECT_EQ(source_->receive().what, What::broken);
}

TEST_F(ForkingSource, TheZygotesEndIsSeenBeforeAndInItsAnswers) {
  EXPECT_TRUE(source_->open());
  zygote_.reset();
  EXPECT_FALSE(source_->open());
  EXPECT_EQ(source_->receive().what, What::ended);
  source_->close();
  EXPECT_FALSE(source_->open());
}

// --- mayfly-restorer -------------------------------------------------------------------

class RestoringSource : public ForkingSource {
 protected:
  void SetUp() override {
    ForkingSource::SetUp();
    auto pair = base::makeSeqpacketPair();
    ASSERT_TRUE(pair);
    ASSERT_TRUE(base::setNonblocking(pair->ours.view()));
    zygote_ = std::move(pair->theirs);
    source_ = makeRestoringSource(std::move(pair->ours), passed_);
  }

  // A child that has ended with `code`, and is not reaped.
  static Fd ended(int code) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(code);
    siginfo_t info{};
    ::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT);
    return pidfdOf(child);
  }
  static pid_t living() {
    const pid_t child = ::fork();
    if (child == 0)
      for (;;) ::pause();
    return child;
  }
  static void kill(pid_t child) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
  }

  std::unordered_set<uint64_t> passed_;
};

TEST_F(RestoringSource, ACloneIsMadeOnceTheProcessThatRestoredItHasEndedWell) {
  EXPECT_EQ(say({}).what, What::ready);
  const pid_t clone = living();
  Fd restorer = ended(0), pidfd = pidfdOf(clone);
  wire::CloneMade made;
  made.box = 4;
  auto answer = say(made, {restorer.get(), pidfd.get()});
  EXPECT_EQ(answer.what, What::made);
  EXPECT_EQ(answer.box, 4u);
  EXPECT_TRUE(answer.clone);
  EXPECT_FALSE(isOurChild(restorer)) << "the source reaps it";
  kill(clone);
}

TEST_F(RestoringSource, ARestoreThatEndedBadlyIsNoSuccessWhateverTheMessageSays) {
  const pid_t clone = living();
  Fd restorer = ended(1), pidfd = pidfdOf(clone);
  wire::CloneMade made;
  made.box = 4;
  auto answer = say(made, {restorer.get(), pidfd.get()});
  EXPECT_EQ(answer.what, What::failed);
  EXPECT_EQ(answer.error, EIO);
  EXPECT_EQ(answer.text, "restore: criu exited with 1");
  EXPECT_TRUE(answer.again) << "the task gets another box";
  EXPECT_TRUE(answer.clone) << "the box reaps what was restored";
  kill(clone);
}

TEST_F(RestoringSource, AFailureComesWithWhatThereIs) {
  wire::CloneMade failed;
  failed.box = 4;
  failed.error = EIO;
  strcpy(failed.step, "Error (criu/image.c:1): no");
  Fd restorer = ended(1);
  auto answer = say(failed, {restorer.get()});
  EXPECT_EQ(answer.what, What::failed);
  EXPECT_EQ(answer.text, "Error (criu/image.c:1): no");
  EXPECT_FALSE(answer.clone);
  EXPECT_FALSE(isOurChild(restorer));
  EXPECT_TRUE(answer.again);
  EXPECT_EQ(say(failed).what, What::failed) << "it was not even forked";
  wire::CloneMade refused;
  refused.error = wire::kRefused;
  strcpy(refused.step, "the image has no criu");
  answer = say(refused);
  EXPECT_EQ(answer.what, What::refused);
  EXPECT_FALSE(answer.again);
}

TEST_F(RestoringSource, OneThatWasReapedAsAStrayIsNoProofOfARestore) {
  const pid_t clone = living(), restorer = living();
  Fd reaped = pidfdOf(restorer), pidfd = pidfdOf(clone);
  kill(restorer);
  wire::CloneMade made;
  made.box = 4;
  auto answer = say(made, {reaped.get(), pidfd.get()});
  EXPECT_EQ(answer.what, What::failed) << "another zygote's end must not end this one";
  EXPECT_TRUE(answer.again);
  EXPECT_TRUE(answer.clone);
  kill(clone);
}

TEST_F(RestoringSource, ADeadInitOrCloneIsNotReapedInThePlaceOfTheProcessThatRestored) {
  Fd init = ended(0);
  const pid_t clone = living();
  Fd pidfd = pidfdOf(clone);
  passed_.insert(processKey(init));
  wire::CloneMade made;
  made.box = 4;
  EXPECT_EQ(say(made, {init.get(), pidfd.get()}).what, What::broken);
  EXPECT_TRUE(isOurChild(init)) << "its end is still there for its box";
  Fd both = ended(0);
  EXPECT_EQ(say(made, {both.get(), both.get()}).what, What::broken);
  EXPECT_TRUE(isOurChild(both));
  kill(clone);
}

TEST_F(RestoringSource, ABoxIsPreparedByARequestThatHasNoAnswer) {
  CloneSource::Ask ask;
  base::Pipe pipe = std::move(*base::makePipe());
  const Fd streams[4] = {std::move(*base::makePipe()).read, std::move(*base::makePipe()).read,
                         std::move(*base::makePipe()).read, std::move(*base::makePipe()).read};
  ask.box = 9;
  ask.init = ask.cgroup = ask.go = pipe.read.view();
  ask.streams = streams;
  for (const bool ahead : {true, false}) {
    ASSERT_TRUE(ahead ? source_->prepare(ask) : source_->ask(ask).has_value());
    wire::MakeClone make;
    auto got = base::receiveMessage(zygote_.view(), base::writableBytesOf(make));
    ASSERT_TRUE(got);
    EXPECT_EQ(wire::faultOf(make, got->bytes, got->fds), nullptr);
    EXPECT_EQ(make.ahead, ahead ? 1u : 0u);
    EXPECT_EQ(make.box, 9u);
  }
  EXPECT_EQ(source_->receive().what, What::none);
  EXPECT_FALSE(makeForkingSource(std::move(pipe.write))->prepare(ask)) << "a fork needs nothing";
}

TEST_F(RestoringSource, WhatWasPreparedAndEndedIsReapedAndSpoilsItsBox) {
  wire::CloneMade ended_ahead;
  ended_ahead.box = 4;
  ended_ahead.error = wire::kAheadEnded;
  Fd criu = ended(1);
  const auto answer = say(ended_ahead, {criu.get()});
  EXPECT_EQ(answer.what, What::spoiled);
  EXPECT_EQ(answer.box, 4u);
  EXPECT_FALSE(isOurChild(criu)) << "the source reaps it";
  EXPECT_EQ(say(ended_ahead, {criu.get()}).what, What::spoiled) << "its box's end was faster";
}

TEST_F(RestoringSource, OneThatStillRunsOrIsNoChildOfOursIsBroken) {
  const pid_t clone = living(), restorer = living();
  Fd one = pidfdOf(restorer), other = pidfdOf(clone), parent = pidfdOf(::getppid());
  wire::CloneMade made;
  made.box = 4;
  EXPECT_EQ(say(made, {one.get(), other.get()}).what, What::broken) << "it runs";
  Fd well = ended(0);
  EXPECT_EQ(say(made, {well.get(), parent.get()}).what, What::broken);
  auto file = base::openAt({}, "/proc/self/exe", O_RDONLY);
  EXPECT_EQ(say(made, {file->get(), other.get()}).what, What::broken);
  EXPECT_EQ(say(made, {other.get()}).what, What::broken) << "one descriptor";
  kill(clone);
  kill(restorer);
}

}  // namespace
}  // namespace mayfly::spawner
