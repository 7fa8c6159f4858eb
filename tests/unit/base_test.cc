#include <gtest/gtest.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/markup.h"
#include "base/text.h"

namespace mayfly::base {
namespace {

TEST(Printable, ControlBytesAndEscapesNeverReachTheTerminalRaw) {
  EXPECT_EQ(printable("a\x1b[31mb\r\n\x07"), "a\\x1b[31mb\\x0d\\x0a\\x07");
}
TEST(Printable, BidirectionalOverrideIsShownAsBytes) {
  EXPECT_EQ(printable("x\xe2\x80\xaey"), "x\\xe2\\x80\\xaey");
}
TEST(Printable, InvalidUtf8IsShownAsBytesAndValidIsKept) {
  EXPECT_EQ(printable("\xc3\xa9\xff\xc0\x80"), "\xc3\xa9\\xff\\xc0\\x80");
}
TEST(Printable, LongTextIsCut) { EXPECT_EQ(printable("abcdef", 3), "abc..."); }
TEST(Markup, NothingOfATextIsTakenForATagAndNoControlByteIsLeft) {
  EXPECT_EQ(markupText("<a href=\"x\">&\x1b\n"), "&lt;a href=&quot;x&quot;&gt;&amp;\\x1b\\x0a");
  EXPECT_EQ(markupText("<<<<", 2), "&lt;&lt;...") << "the input is cut, never an entity";
}
TEST(Utf8, SurrogatesAndOverlongFormsAreRefused) {
  EXPECT_TRUE(isUtf8("h\xc3\xa9"));
  EXPECT_FALSE(isUtf8("\xed\xa0\x80"));
  EXPECT_FALSE(isUtf8("\xc0\xaf"));
}
TEST(Nearest, IsTheWordThatAMistypedOneMeans) {
  constexpr std::string_view kKnown[] = {"run",       "task",     "ps",       "kill",
                                         "templates", "template", "--memory", "--timeout"};
  const auto near = [&](std::string_view word) { return nearest(word, kKnown); };
  EXPECT_EQ(near("rum"), "run");
  EXPECT_EQ(near("tsak"), "task") << "two neighbours swapped are one edit";
  EXPECT_EQ(near("templats"), "templates");
  EXPECT_EQ(near("temp"), "templates") << "a beginning names the first that begins so";
  EXPECT_EQ(near("--memroy"), "--memory");
  EXPECT_EQ(near("--time"), "--timeout");
  EXPECT_EQ(near("fly"), "");
  EXPECT_EQ(near(""), "");
  EXPECT_EQ(near(std::string(10'000, 'x')), "");
}
TEST(Human, UnitsAreBinaryAndShort) {
  EXPECT_EQ(humanBytes(512), "512 B");
  EXPECT_EQ(humanBytes(1536), "1.5 KiB");
  EXPECT_EQ(humanBytes(64ull << 20), "64 MiB");
  EXPECT_EQ(humanNanos(1500000), "1.50 ms");
}
TEST(Fd, AssignmentClosesTheOldDescriptor) {
  auto pipe = makePipe();
  ASSERT_TRUE(pipe);
  int old = pipe->read.get();
  pipe->read = Fd();
  EXPECT_EQ(::write(old, "x", 1), -1);
  EXPECT_EQ(errno, EBADF);
}
TEST(Message, CarriesBytesAndDescriptors) {
  auto pair = makeSeqpacketPair();
  auto pipe = makePipe();
  ASSERT_TRUE(pair && pipe);
  int value = 42, got = 0, fds[] = {pipe->write.get()};
  ASSERT_TRUE(sendMessage(pair->ours.view(), bytesOf(value), fds));
  auto received = receiveMessage(pair->theirs.view(), writableBytesOf(got));
  ASSERT_TRUE(received);
  EXPECT_EQ(received->bytes, sizeof value);
  EXPECT_EQ(got, 42);
  ASSERT_EQ(received->fds, 1u);
  EXPECT_EQ(::write(received->fd[0].get(), "y", 1), 1);
}
TEST(Message, LongerThanTheProtocolIsAnErrorAndLeaksNoDescriptor) {
  auto pair = makeSeqpacketPair();
  ASSERT_TRUE(pair);
  char big[64] = {}, small[8];
  ASSERT_TRUE(sendMessage(pair->ours.view(), bytesOf(big), {}));
  EXPECT_FALSE(receiveMessage(pair->theirs.view(), writableBytesOf(small)));
}
TEST(SysError, NamesTheCallTheObjectAndTheReason) {
  EXPECT_EQ(sysError(2, "open", "/x").message, "open '/x': No such file or directory");
}

}  // namespace
}  // namespace mayfly::base
