// The parts of the core that need no spawner: the task's block, the spool, the watch over a silent
// one.
#include <gtest/gtest.h>
#include <string.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>

#include "core/blob.h"
#include "core/spawner_link.h"
#include "core/spool.h"
#include "wire/spool.h"
#include "wire/zygote.h"

namespace mayfly::core {
namespace {

// Reads a block like the clone: every offset is checked against the size.
struct Decoded {
  wire::TaskBlob head;
  std::vector<std::string> argv, envp;
  std::vector<std::pair<std::string, std::string>> files;
  std::vector<uint32_t> modes;
  std::string code;
};

Decoded decode(const std::string& blob) {
  Decoded d;
  EXPECT_GE(blob.size(), sizeof d.head);
  memcpy(&d.head, blob.data(), sizeof d.head);
  size_t at = d.head.strings_offset;
  for (uint32_t i = 0; i < d.head.argc + d.head.envc; ++i) {
    std::string text(blob.c_str() + at);
    at += text.size() + 1;
    (i < d.head.argc ? d.argv : d.envp).push_back(text);
  }
  EXPECT_LE(at, blob.size());
  d.code = blob.substr(d.head.code_offset, d.head.code_bytes);
  at = d.head.files_offset;
  for (uint32_t i = 0; i < d.head.files; ++i) {
    wire::FileEntry e;
    memcpy(&e, blob.data() + at, sizeof e);
    at += sizeof e;
    EXPECT_LE(e.offset + e.bytes, blob.size());
    d.files.emplace_back(std::string(blob.c_str() + at), blob.substr(e.offset, e.bytes));
    EXPECT_EQ(d.files.back().first.size() + 1, e.path_bytes);
    d.modes.push_back(e.mode);
    at += e.path_bytes;
  }
  return d;
}

std::string write(const sched::TaskSpec& spec,
                  const std::vector<std::pair<std::string, std::string>>& env,
                  int* steps = nullptr) {
  auto w = BlobWriter::create(spec, env);
  EXPECT_TRUE(w);
  for (int n = 1;; ++n) {
    auto done = w->step();
    EXPECT_TRUE(done);
    if (steps != nullptr) *steps = n;
    if (!done || *done) break;
  }
  std::string blob(w->bytes(), '?');
  EXPECT_EQ(::pread(w->fds()[0], blob.data(), blob.size(), 0), static_cast<ssize_t>(blob.size()));
  EXPECT_EQ(::pwrite(w->fds()[0], "x", 1, 0), -1);  // sealed
  return blob;
}

TEST(Blob, ScriptBecomesAFileAndTheFirstArgument) {
  sched::TaskSpec s;
  s.kind = sched::CodeKind::file;
  s.script_name = "a b.py";
  s.code = "print(1)";
  s.args = {"", "-x"};
  s.files = {{"d/data.bin", std::string("\0\1\2", 3), 0755}, {"empty", "", 0644}};
  s.seed = 42;
  Decoded d = decode(write(s, {}));
  EXPECT_EQ(d.argv, (std::vector<std::string>{"a b.py", "", "-x"}));
  ASSERT_EQ(d.files.size(), 3u);
  EXPECT_EQ(d.files[0], (std::pair<std::string, std::string>{"a b.py", "print(1)"}));
  EXPECT_EQ(d.files[1].second, std::string("\0\1\2", 3));
  EXPECT_EQ(d.modes[1], 0755u);
  EXPECT_EQ(d.files[2], (std::pair<std::string, std::string>{"empty", ""}));
  EXPECT_EQ(d.head.has_seed, 1u);
  EXPECT_EQ(d.head.seed, 42u);
  EXPECT_EQ(d.head.code_bytes, 0u);
}

TEST(Blob, CodeTextHasThePlaceholderThatItsRuntimeShows) {
  sched::TaskSpec s;
  s.kind = sched::CodeKind::string;
  s.code = "x = 1";
  s.args = {"a"};
  EXPECT_EQ(decode(write(s, {})).argv, (std::vector<std::string>{"-c", "a"}));
  EXPECT_EQ(decode(write(s, {})).code, "x = 1");
  s.kind = sched::CodeKind::stdinText;
  EXPECT_EQ(decode(write(s, {})).argv[0], "-");
  s.kind = sched::CodeKind::command;
  s.code.clear();
  s.args = {"ls", "-l"};
  EXPECT_EQ(decode(write(s, {})).argv, (std::vector<std::string>{"ls", "-l"}));
}

TEST(Blob, TasksOwnVariableReplacesTheTemplates) {
  sched::TaskSpec s;
  s.kind = sched::CodeKind::command;
  s.args = {"env"};
  s.env = {{"PATH", "/x"}, {"A", "=1=\n"}};
  EXPECT_EQ(decode(write(s, {{"PATH", "/bin"}, {"HOME", "/task"}})).envp,
            (std::vector<std::string>{"HOME=/task", "PATH=/x", "A==1=\n"}));
}

TEST(Blob, LargeInputIsWrittenInBoundedSteps) {
  sched::TaskSpec s;
  s.kind = sched::CodeKind::command;
  s.args = {"x"};
  s.files = {{"big", std::string(3 * kBlobStepBytes, 'z')}};
  int steps = 0;
  Decoded d = decode(write(s, {}, &steps));
  EXPECT_EQ(steps, 4);
  EXPECT_TRUE(d.files[0].second == s.files[0].data);
}

TEST(Blob, FilesOfTheStoreNameADescriptorAndTakeNoRoomInTheBlock) {
  auto one = std::make_shared<base::Fd>(std::move(*base::makeMemfd("one")));
  auto two = std::make_shared<base::Fd>(std::move(*base::makeMemfd("two")));
  sched::TaskSpec s;
  s.kind = sched::CodeKind::file;
  s.script_name = "x.py";
  s.code = "code";
  s.files = {{"a", "", 0600, one, 1ull << 32},
             {"b", "own", 0644, {}, 0},
             {"c", "", 0644, two, 7},
             {"d", "", 0644, one, 1ull << 32}};
  auto w = BlobWriter::create(s, {});
  ASSERT_TRUE(w);
  EXPECT_EQ(one.use_count(), 4);  // this one, two files' and the writer's
  while (!*w->step()) {
  }
  EXPECT_LT(w->bytes(), 1000u);
  std::vector<int> fds = w->fds();
  ASSERT_EQ(fds.size(), 3u);
  EXPECT_EQ(fds[1], one->get());
  EXPECT_EQ(fds[2], two->get());
  std::string block(w->bytes(), '?');
  ASSERT_EQ(::pread(fds[0], block.data(), block.size(), 0), static_cast<ssize_t>(block.size()));
  wire::TaskBlob head;
  memcpy(&head, block.data(), sizeof head);
  size_t at = head.files_offset;
  std::vector<std::pair<uint32_t, uint64_t>> got;
  for (uint32_t i = 0; i < head.files; ++i) {
    wire::FileEntry e;
    memcpy(&e, block.data() + at, sizeof e);
    got.emplace_back(e.fd, e.bytes);
    at += sizeof e + e.path_bytes;
  }
  EXPECT_EQ(got, (std::vector<std::pair<uint32_t, uint64_t>>{
                     {0, 4}, {1, 1ull << 32}, {0, 3}, {2, 7}, {1, 1ull << 32}}));
}

// --- the spool -------------------------------------------------------------------------

struct SpoolFile {
  std::string path, data, skipped;
};

std::string makeSpool(const std::vector<SpoolFile>& files) {
  std::string body(sizeof(wire::SpoolHeader), '\0'), index;
  for (const SpoolFile& f : files) {
    wire::SpoolEntry e;
    e.offset = body.size();
    e.size = f.data.size();
    e.mode = 04755;
    e.path_bytes = static_cast<uint32_t>(f.path.size());
    e.skipped_bytes = static_cast<uint32_t>(f.skipped.size());
    body += f.data;
    index.append(reinterpret_cast<const char*>(&e), sizeof e);
    index += f.path + f.skipped;
  }
  wire::SpoolHeader h;
  h.count = static_cast<uint32_t>(files.size());
  h.index_offset = body.size();
  h.index_bytes = index.size();
  memcpy(body.data(), &h, sizeof h);
  return body + index;
}

base::Result<std::vector<base::OutFile>> parse(const std::string& bytes, base::Limits limits = {}) {
  auto fd = base::makeMemfd("spool");
  EXPECT_EQ(::write(fd->get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  return readSpool(fd->view(), limits);
}

TEST(Spool, FilesAndSkippedNamesAreReadAndSpecialBitsDropped) {
  std::string spool = makeSpool({{"a.csv", "1,2\n", ""}, {"link", "", "symbolic link"}});
  auto files = parse(spool);
  ASSERT_TRUE(files) << files.error().message;
  ASSERT_EQ(files->size(), 2u);
  EXPECT_EQ((*files)[0].path, "a.csv");
  EXPECT_EQ((*files)[0].mode, 0755u);
  EXPECT_EQ(spool.substr((*files)[0].offset, (*files)[0].size_bytes), "1,2\n");
  EXPECT_EQ((*files)[1].skipped, "symbolic link");
}

TEST(Spool, NoteWithoutANameIsReadAndAFileWithoutANameIsRefused) {
  auto files = parse(makeSpool({{"a", "1", ""}, {"", "", "more than 4000 names"}}));
  ASSERT_TRUE(files);
  ASSERT_EQ(files->size(), 2u);
  EXPECT_EQ((*files)[1].skipped, "more than 4000 names");
  EXPECT_FALSE(parse(makeSpool({{"", "1", ""}})));
}

TEST(Spool, EmptySpoolIsNoFiles) {
  auto files = parse("");
  ASSERT_TRUE(files);
  EXPECT_TRUE(files->empty());
}

TEST(Spool, EveryTruncationIsAnErrorAndNeverReadBeyondTheEnd) {
  std::string spool = makeSpool({{"a", "data", ""}, {"b", "more", "why"}});
  for (size_t n = 1; n < spool.size(); ++n) EXPECT_FALSE(parse(spool.substr(0, n))) << n;
}

TEST(Spool, EveryFlippedFieldIsRefusedOrHarmless) {
  std::string good = makeSpool({{"a", "data", ""}, {"b", "more", "why"}});
  for (size_t i = 0; i < good.size(); ++i)
    for (unsigned char v : {0x00, 0x7f, 0xff}) {
      std::string bad = good;
      bad[i] = static_cast<char>(v);
      auto files = parse(bad);
      if (!files) continue;
      for (const base::OutFile& f : *files)
        EXPECT_TRUE(!f.skipped.empty() || f.offset + f.size_bytes <= bad.size());
    }
}

TEST(Spool, MoreThanTheCapsAllowIsRefused) {
  base::Limits l;
  l.out_files = 1;
  EXPECT_FALSE(parse(makeSpool({{"a", "1", ""}, {"b", "2", ""}}), l));
  EXPECT_TRUE(parse(makeSpool({{"a", "1", ""}, {"b", "", "fifo"}}), l));
  l = {};
  l.out_files_bytes = 3;
  EXPECT_FALSE(parse(makeSpool({{"a", "1234", ""}}), l));
}

std::shared_ptr<base::Fd> fileOf(size_t bytes) {
  auto memfd = base::makeMemfd("out");
  EXPECT_TRUE(memfd);
  std::string all(bytes, 'x');
  EXPECT_EQ(::write(memfd->get(), all.data(), all.size()), ssize_t(all.size()));
  return std::make_shared<base::Fd>(std::move(*memfd));
}

TEST(Spool, ItsMemoryIsHeldUntilItsLastCopyIsGone) {
  using sched::Resource;
  sched::AccountBounds bounds;
  bounds.setPool(Resource::outFileBytes, 1 << 20);
  sched::Accounts book(bounds);
  auto user = [&](uint32_t uid) { return book.open(sched::Account::ofPeer(uid)).value(); };
  auto accepts = [&](uint32_t uid) { return book.fits(user(uid), Resource::outFileBytes); };
  auto a = holdSpool(fileOf(512 << 10), book, user(1));
  EXPECT_FALSE(accepts(1));  // a user may have half
  EXPECT_TRUE(accepts(2));
  auto b = holdSpool(fileOf(256 << 10), book, user(2));
  auto c = holdSpool(fileOf(256 << 10), book, user(3));
  EXPECT_EQ(book.usedByAll(Resource::outFileBytes), 1u << 20);
  EXPECT_EQ(book.usedByAll(Resource::spools), 3u);
  EXPECT_FALSE(accepts(4));
  auto copy = a;
  a.reset();
  EXPECT_FALSE(accepts(4));
  char byte = 0;
  EXPECT_EQ(::pread(copy->get(), &byte, 1, 0), 1);
  copy.reset();
  EXPECT_TRUE(accepts(4));
  EXPECT_TRUE(accepts(1));
}

// --- the watch over the spawner ---------------------------------------------------

struct Silence : SpawnerLink::Handler {
  // The periods until a spawner that never answers is lost, if it is busy at the ends of so many.
  explicit Silence(uint32_t busy_periods) {
    boost::asio::io_context io;
    SpawnerLink link(io, *this);
    auto pair = base::makeSeqpacketPair();
    EXPECT_TRUE(link.open(std::move(pair->ours)));
    link.watch(100'000, [this, busy_periods] { return ++looks <= busy_periods; });
    io.run();
  }
  void onSpawnerEvent(const spawner::Event&, std::span<base::Fd>) override {}
  void onSpawnerLost(base::Error why) override { lost = why.message; }

  uint32_t looks = 0;
  std::string lost;
};

TEST(SpawnerLink, ASilentSpawnerIsLostSoonAndABusyOneLater) {
  Silence hung(0), held_up(7), spinning(UINT32_MAX);
  EXPECT_EQ(hung.looks, kSilentPeriodsMax);
  EXPECT_EQ(held_up.looks, 7 + kSilentPeriodsMax);
  EXPECT_EQ(spinning.looks, kBusyPeriodsMax);
  EXPECT_NE(spinning.lost.find("did not answer within 3 ms"), std::string::npos) << spinning.lost;
}

}  // namespace
}  // namespace mayfly::core
