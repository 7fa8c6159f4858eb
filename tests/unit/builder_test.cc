// The builder's waits: a clone that says nothing, or the wrong thing, has not run.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "builder/build.h"
#include "builder/driver.h"
#include "wire/zygote.h"

namespace mayfly::builder {
namespace {

uint64_t soon() { return base::monotonicNs() + 20 * kSecondNs; }

TEST(Receive, ACloneThatEndsWithoutItsStartedIsAnError) {
  auto pair = base::makeSeqpacketPair();
  ASSERT_TRUE(pair);
  pair->theirs.reset();
  auto started = receive<wire::Started>(pair->ours.view(), soon(), "the start");
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().message, "the start: it ended before");
}

TEST(Receive, AnotherMessageIsNotTakenForStarted) {
  auto pair = base::makeSeqpacketPair();
  ASSERT_TRUE(pair);
  wire::CloneReady ready;  // of the same size
  ASSERT_TRUE(base::sendMessage(pair->theirs.view(), base::bytesOf(ready), {}));
  auto started = receive<wire::Started>(pair->ours.view(), soon(), "the start");
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().message, "the start: broken");
  wire::Started said;
  said.at_ns = 7;
  ASSERT_TRUE(base::sendMessage(pair->theirs.view(), base::bytesOf(said), {}));
  auto good = receive<wire::Started>(pair->ours.view(), soon(), "the start");
  ASSERT_TRUE(good) << good.error().message;
  EXPECT_EQ(good->at_ns, 7u);
}

TEST(Receive, SilenceEndsAtTheDeadline) {
  auto pair = base::makeSeqpacketPair();
  ASSERT_TRUE(pair);
  auto late = receive<wire::Started>(pair->ours.view(), base::monotonicNs(), "the start");
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, base::Code::deadlineExceeded);
}

TEST(ReadAll, ReadsToTheEndAndNoFurtherThanItsBound) {
  auto pipe = base::makePipe();
  ASSERT_TRUE(pipe);
  const std::string text(50'000, 'x');
  ASSERT_EQ(::write(pipe->write.get(), text.data(), text.size()),
            static_cast<ssize_t>(text.size()));
  pipe->write.reset();
  auto read = readAll(pipe->read.view(), 60'000, soon(), "the output");
  ASSERT_TRUE(read);
  EXPECT_EQ(*read, text);
  auto other = base::makePipe();
  ASSERT_TRUE(other);
  ASSERT_EQ(::write(other->write.get(), text.data(), 10), 10);
  EXPECT_FALSE(readAll(other->read.view(), 9, soon(), "the output"));
}

TEST(ReadAll, WhoWritesMuchOnOneStreamWaitsForNoOther) {
  auto out = base::makePipe(), err = base::makePipe();
  ASSERT_TRUE(out && err);
  constexpr size_t kMuch = 300'000;  // more than a pipe holds
  ::signal(SIGPIPE, SIG_IGN);
  std::thread writer([&] {
    const std::string text(kMuch, 'e');
    for (size_t done = 0; done < kMuch;) {
      const ssize_t n = ::write(err->write.get(), text.data() + done, kMuch - done);
      if (n <= 0) break;
      done += static_cast<size_t>(n);
    }
    err->write.reset();
    EXPECT_EQ(::write(out->write.get(), "out", 3), 3);
    out->write.reset();
  });
  auto read = readAllOf({out->read.view(), err->read.view()}, kMuch, soon(), "the output");
  out->read.reset();
  err->read.reset();
  writer.join();
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ((*read)[0], "out");
  EXPECT_EQ((*read)[1].size(), kMuch);
}

TEST(Build, ATemplateOfAnotherMechanismHasNoSnapshot) {
  BuildOptions options;
  options.template_dirs = {std::string(MAYFLY_SOURCE_DIR) + "/templates"};
  options.state_dir = "/nosuch";
  auto built = build("shell", options);
  ASSERT_FALSE(built);
  const bool root = ::geteuid() == 0;
  EXPECT_NE(built.error().message.find(root ? "has mechanism \"exec\"" : "needs root"),
            std::string::npos)
      << built.error().message;
}

}  // namespace
}  // namespace mayfly::builder
