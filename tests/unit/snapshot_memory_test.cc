// What a dump of a zygote and a restore need to know of threads and of criu's protocol.
#include <errno.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "zygote/criu_rpc.h"
#include "zygote/memory_file.h"
#include "zygote/other_threads.h"

namespace mayfly::zygote {
namespace {

std::string textOf(const CriuMessage& message) {
  return {reinterpret_cast<const char*>(message.bytes()), message.size()};
}

bool restored(std::string_view bytes) {
  return saysRestored(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
}

TEST(CriuRpc, ARequestHasTheFieldsOfTheProtocol) {
  const CriuInherited inherited[] = {{3, "pipe:[7]"}, {10, "run/memory"}};
  const std::string options = std::string(
      "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"  // images_dir_fd: -1
      "\x48\x01"                                      // log_level
      "\x60\x01"                                      // notify_scripts
      "\xd0\x01\x01"                                  // rst_sibling
      "\xda\x01\x0c\x0a\x08pipe:[7]\x10\x03"          // inherit_fd
      "\xda\x01\x0e\x0a\x0arun/memory\x10\x0a"
      "\x90\x02\x00"      // manage_cgroups_mode: IGNORE
      "\x98\x04\x01"      // unprivileged
      "\xa2\x04\x04/img"  // images_dir
      "\xb8\x04\x01",     // log_to_stderr
      11 + 2 + 2 + 3 + 15 + 17 + 3 + 3 + 7 + 3);
  const CriuMessage request = restoreRequest("/img", inherited, 2);
  ASSERT_TRUE(request.sound());
  EXPECT_EQ(textOf(request),
            "\x08\x02\x12" + std::string(1, static_cast<char>(options.size())) + options);
  EXPECT_EQ(textOf(goOn()), std::string("\x08\x06\x18\x01"));
}

TEST(CriuRpc, WhatDoesNotFitIsNotSound) {
  const std::string name(kCriuMessageMax, 'x');
  const CriuInherited inherited[] = {{3, name.c_str()}};
  EXPECT_FALSE(restoreRequest("/img", inherited, 1).sound());
  CriuMessage message;
  message.text(1, std::string(kCriuMessageMax - 3, 'x').c_str());
  EXPECT_TRUE(message.sound());
  message.number(2, 0);
  EXPECT_FALSE(message.sound());
}

TEST(CriuRpc, OnlyTheLastMessageSaysThatAllIsRestored) {
  using namespace std::string_view_literals;
  EXPECT_TRUE(restored("\x08\x02\x10\x01\x22\x03\x08\xe8\x07"sv));
  EXPECT_FALSE(restored("\x08\x06\x10\x01\x2a\x0d\x0a\x0bpre-restore"sv)) << "it waits";
  EXPECT_FALSE(restored("\x08\x02\x10\x00"sv)) << "it failed";
  EXPECT_FALSE(restored("\x08\x01\x10\x01"sv)) << "of a dump";
  EXPECT_FALSE(restored("\x10\x01\x08\x02"sv));
  EXPECT_FALSE(restored("\x08\x02\x10"sv));
  EXPECT_FALSE(restored(""sv));
}

#ifndef __SANITIZE_THREAD__  // it has a thread of its own

// A thread that sleeps, runs a moment when it is told to, and sleeps again.
class Sleeper {
 public:
  ~Sleeper() {
    tell(-1);
    thread_.join();
  }
  void run() {
    const int wanted = done_ + 1;
    tell(wanted);
    while (done_ < wanted) std::this_thread::yield();
  }

 private:
  void tell(int word) {
    const std::lock_guard lock(mutex_);
    word_ = word;
    changed_.notify_one();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  int word_ = 0;
  std::atomic<int> done_{0};
  std::thread thread_{[this] {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return word_ != done_; });
      if (word_ < 0) return;
      done_ = word_;
    }
  }};
};

// A look that finds all asleep: they may still be on their way there.
OtherThreads lookAsleep() {
  OtherThreads look;
  do EXPECT_EQ(lookAtOtherThreads(&look), 0);
  while (!look.asleep);
  return look;
}

TEST(OtherThreads, AThreadThatRanMeanwhileIsSeen) {
  Sleeper first, second;
  first.run();
  second.run();
  const OtherThreads before = lookAsleep();
  EXPECT_EQ(before.count, 2u);
  EXPECT_EQ(lookAsleep(), before) << "none ran";
  second.run();
  EXPECT_NE(lookAsleep(), before);
}

TEST(OtherThreads, OneThatCameOrWentIsSeen) {
  Sleeper first;
  first.run();
  const OtherThreads before = lookAsleep();
  {
    Sleeper second;
    second.run();
    EXPECT_NE(lookAsleep(), before);
  }
  EXPECT_NE(lookAsleep().count, 2u);
}

TEST(OtherThreads, OneThatRunsIsNotAsleep) {
  std::atomic<bool> over = false, runs = false;
  std::thread busy([&] {
    while (!over) runs = true;
  });
  while (!runs) std::this_thread::yield();
  OtherThreads look;
  EXPECT_EQ(lookAtOtherThreads(&look), 0);
  EXPECT_FALSE(look.asleep);
  over = true;
  busy.join();
}

#endif

TEST(MemoryFile, WhoGetsItReadsAndCannotWrite) {
  MemoryFile file;
  const int made = createMemoryFile(&file);
  if (made == -EPERM) GTEST_SKIP() << "a file system of one's own needs root";
  ASSERT_EQ(made, 0);
  ASSERT_EQ(pwrite(file.write, "abc", 3, 0), 3);
  char text[4] = {};
  EXPECT_EQ(pread(file.read, text, sizeof text, 0), 3);
  EXPECT_STREQ(text, "abc");
  EXPECT_EQ(pwrite(file.read, "x", 1, 0), -1);
  EXPECT_EQ(mmap(nullptr, 4'096, PROT_READ | PROT_WRITE, MAP_SHARED, file.read, 0), MAP_FAILED);
  EXPECT_EQ(holdMemory(file.read, 4'096), 0);
  EXPECT_EQ(holdMemory(file.read, 0), 0) << "nothing to hold";
  EXPECT_EQ(copyBytes(file.read, file.write, 4), -EIO) << "it has three";
  close(file.read);
  close(file.write);
}

TEST(MemoryFile, OneWithHolesIsNotWhole) {
  MemoryFile file;
  const int made = createMemoryFile(&file);
  if (made == -EPERM) GTEST_SKIP() << "a file system of one's own needs root";
  ASSERT_EQ(made, 0);
  const auto whole = [&] {
    struct stat st;
    EXPECT_EQ(fstat(file.write, &st), 0);
    return isWhole(st);
  };
  EXPECT_FALSE(whole()) << "empty";
  ASSERT_EQ(pwrite(file.write, "abc", 3, 0), 3);
  EXPECT_TRUE(whole());
  ASSERT_EQ(ftruncate(file.write, off_t{1} << 40), 0);
  EXPECT_FALSE(whole());
  struct stat folder;
  ASSERT_EQ(stat("/", &folder), 0);
  EXPECT_FALSE(isWhole(folder));
  close(file.read);
  close(file.write);
}

}  // namespace
}  // namespace mayfly::zygote
