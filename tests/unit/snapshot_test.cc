// The store of snapshots: what a key depends on, and that nothing damaged, foreign or leased is
// taken for sound or removed.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "snapshot/store.h"

namespace mayfly::snapshot {
namespace {

namespace fs = std::filesystem;

const std::string kKey(64, 'a'), kOther(64, 'b');

class Store : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/mayfly-snapshot-test-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    state_ = name;
    ASSERT_TRUE(lock(state_));
  }
  void TearDown() override { fs::remove_all(state_); }

  static void write(const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }

  Info publish(const std::string& key, const std::string& name = "node") {
    auto candidate = makeCandidate(state_);
    EXPECT_TRUE(candidate) << candidate.error().message;
    write(*candidate + "/pages-1.img", std::string(100'000, 'p'));
    write(*candidate + "/pstree.img", "tree");
    Info info;
    info.key = key;
    info.template_name = name;
    info.image_digest = std::string(64, 'c');
    auto published = snapshot::publish(state_, *candidate, info);
    EXPECT_TRUE(published) << published.error().message;
    auto found = snapshot::find(state_, name, key);
    EXPECT_TRUE(found) << found.error().message;
    return found ? *found : Info{};
  }

  std::string fault(const Info& info) {
    auto folder = open(state_, info);
    if (!folder) return folder.error().message;
    auto sound = verify(folder->view(), info);
    return sound ? "" : sound.error().message;
  }

  std::string file(const Info& info, const char* name) {
    return folderOf(state_, info.key) + "/" + name;
  }

  std::string state_;
};

TEST_F(Store, APublishedSnapshotIsFoundWithTheChecksumsOfItsFiles) {
  const Info info = publish(kKey);
  ASSERT_EQ(info.files.size(), 2u);
  EXPECT_EQ(info.files[0].name, "pages-1.img");
  EXPECT_EQ(info.files[0].bytes, 100'000u);
  EXPECT_EQ(info.bytes(), 100'004u);
  EXPECT_EQ(info.threads(), 0u);
  EXPECT_EQ(info.memoryLeast(), 100'004u + (24u << 20));
  Info threaded = info;
  threaded.files.push_back({"core-1000.img", 1, ""});
  threaded.files.push_back({"core-1001.img", 1, ""});
  EXPECT_EQ(threaded.threads(), 2u);
  EXPECT_EQ(threaded.processesLeast(), 6u);
  EXPECT_EQ(fault(info), "");
  struct stat st;
  ASSERT_EQ(::stat(folderOf(state_, kKey).c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0755u) << "a box's root reads it by a descriptor";
  ASSERT_EQ(::stat(file(info, "pages-1.img").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0644u);
  auto missing = snapshot::find(state_, "node", kOther);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, base::Code::notFound);
  EXPECT_EQ(missing.error().advice, "Make it: mayfly snapshot build node.");
}

TEST_F(Store, AReplacedSnapshotGoesOnceNobodyUsesIt) {
  const Info old = publish(kKey);
  auto used = open(state_, old);  // by a daemon
  ASSERT_TRUE(used);
  const Info present = publish(kKey);
  EXPECT_EQ(fault(present), "");
  auto left = sweepUnused(state_, present, /*ms_max=*/0);
  ASSERT_TRUE(left) << left.error().message;
  EXPECT_EQ(*left, 1u);
  std::set<std::string> names;
  for (const auto& each : fs::directory_iterator(state_ + "/snapshots"))
    names.insert(each.path().filename().string().substr(0, 5));
  EXPECT_EQ(names, (std::set<std::string>{".old-", "aaaaa", "build"}));
  base::Fd copy(::fcntl(used->get(), F_DUPFD_CLOEXEC, 0));  // as a restorer has it
  used->reset();
  EXPECT_EQ(*sweepUnused(state_, present, 0), 1u);
  copy.reset();
  EXPECT_EQ(*sweepUnused(state_, present, 0), 0u);
  EXPECT_EQ(fault(present), "");
  EXPECT_EQ(std::distance(fs::directory_iterator(state_ + "/snapshots"), {}), 2);
}

TEST_F(Store, TheTimeOfASweepIsOverAlsoWhileAnotherBuildHoldsTheLock) {
  const Info old = publish(kKey);
  auto used = open(state_, old);
  const Info present = publish(kKey);
  used->reset();
  auto held = lock(state_);
  ASSERT_TRUE(held);
  for (uint64_t ms_max : {0, 1}) {
    auto left = sweepUnused(state_, present, ms_max);  // a build may take ten minutes
    ASSERT_TRUE(left) << left.error().message;
    EXPECT_EQ(*left, 1u);
  }
  held->reset();
  EXPECT_EQ(*sweepUnused(state_, present, 0), 0u);
}

TEST_F(Store, OneLeaseDoesNotEndAnother) {
  const Info info = publish(kKey);
  auto first = open(state_, info);
  ASSERT_TRUE(first);
  auto again = leaseAgain(first->view());
  ASSERT_TRUE(again) << again.error().message;
  ASSERT_EQ(::flock(again->get(), LOCK_UN), 0);
  EXPECT_FALSE(remove(state_, "node"));
  auto third = leaseAgain(first->view());
  ASSERT_EQ(::flock(first->get(), LOCK_UN), 0);
  EXPECT_FALSE(remove(state_, "node")) << "the third stands";
  third->reset();
  EXPECT_TRUE(remove(state_, "node"));
}

// What a restorer that runs foreign code could try with its one descriptor.
int opensAsNobody(int folder, const char* path) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setresuid(65'534, 65'534, 65'534) != 0) ::_exit(200);
    const int fd = ::openat(folder, path, O_RDONLY | O_CLOEXEC);
    ::_exit(fd >= 0 ? 0 : errno);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(Store, ADescriptorOfASnapshotLeadsNowhereElse) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to be another user";
  const Info info = publish(kKey);
  ASSERT_EQ(::chmod(state_.c_str(), 0755), 0);
  write(state_ + "/open", "for everybody");
  auto folder = open(state_, info);
  ASSERT_TRUE(folder);
  EXPECT_EQ(opensAsNobody(folder->get(), "pages-1.img"), 0);
  EXPECT_EQ(opensAsNobody(folder->get(), ".."), EACCES);
  EXPECT_EQ(opensAsNobody(folder->get(), "../../open"), EACCES);
  EXPECT_EQ(opensAsNobody(folder->get(), "../../../../etc/passwd"), EACCES);
}

TEST_F(Store, OnlyItsOwnerReachesASnapshotWhateverTheModesOfACopiedState) {
  const Info info = publish(kKey);
  const std::string place = state_ + "/snapshots";
  ASSERT_EQ(::chmod(place.c_str(), 0755), 0);
  ASSERT_TRUE(open(state_, info));
  struct stat st;
  ASSERT_EQ(::stat(place.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);
}

TEST_F(Store, TruncatedFlippedMissingAndForeignFilesAreNamed) {
  Info info = publish(kKey);
  const std::string pages = file(info, "pages-1.img");
  ASSERT_EQ(::truncate(pages.c_str(), 99'999), 0);
  EXPECT_NE(fault(info).find("'pages-1.img' has 99999 bytes, not 100000"), std::string::npos)
      << fault(info);
  std::string flipped(100'000, 'p');
  flipped[54'321] = 'q';
  write(pages, flipped);
  EXPECT_NE(fault(info).find("'pages-1.img' has another checksum"), std::string::npos);
  fs::remove(pages);
  EXPECT_NE(fault(info).find("'pages-1.img' is missing"), std::string::npos);
  fs::create_symlink("/etc/passwd", pages);
  EXPECT_NE(fault(info), "") << "no link is followed";
  fs::remove(pages);
  write(pages, std::string(100'000, 'p'));
  EXPECT_EQ(fault(info), "");
  write(file(info, "core-2.img"), "foreign");
  EXPECT_NE(fault(info).find("'core-2.img'"), std::string::npos);
}

TEST_F(Store, ADamagedOrForeignDescriptionIsNeverTakenForTheSnapshot) {
  const Info info = publish(kKey);
  const std::string path = file(info, "snapshot.json");
  std::ifstream in(path);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  write(path, text.substr(0, text.size() / 2));
  EXPECT_FALSE(snapshot::find(state_, "node", kKey));
  write(path, "");
  EXPECT_FALSE(snapshot::find(state_, "node", kKey));
  write(path, text);
  EXPECT_TRUE(snapshot::find(state_, "node", kKey));
  EXPECT_FALSE(snapshot::find(state_, "python", kKey)) << "another template's";
  fs::rename(folderOf(state_, kKey), folderOf(state_, kOther));
  auto moved = snapshot::find(state_, "node", kOther);
  ASSERT_FALSE(moved) << "a folder under another key";
  EXPECT_NE(moved.error().message.find("holds another snapshot"), std::string::npos);
}

TEST_F(Store, ALeasedSnapshotStaysAndAnUnleasedOneGoes) {
  const Info info = publish(kKey);
  {
    auto folder = open(state_, info);
    ASSERT_TRUE(folder);
    auto refused = remove(state_, "node");
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message.find("is in use"), std::string::npos);
    sweep(state_, "node", kOther);
    EXPECT_TRUE(snapshot::find(state_, "node", kKey));
    auto all = list(state_);
    ASSERT_TRUE(all);
    ASSERT_EQ(all->size(), 1u);
    EXPECT_TRUE(all->front().in_use);
  }
  auto removed = remove(state_, kKey.substr(0, 12));
  ASSERT_TRUE(removed) << removed.error().message;
  EXPECT_EQ(*removed, 1u);
  EXPECT_FALSE(remove(state_, "node")) << "there is none any more";
}

TEST_F(Store, ASweepRemovesKilledBuildsAndOldSnapshotsOfTheTemplateAlone) {
  publish(kKey);
  publish(kOther);
  publish(std::string(64, 'd'), "python");
  ASSERT_TRUE(makeCandidate(state_));
  sweep(state_, "node", kOther);
  EXPECT_FALSE(snapshot::find(state_, "node", kKey));
  EXPECT_TRUE(snapshot::find(state_, "node", kOther));
  EXPECT_TRUE(snapshot::find(state_, "python", std::string(64, 'd')));
  for (const auto& entry : fs::directory_iterator(state_ + "/snapshots"))
    EXPECT_NE(entry.path().filename().string().substr(0, 4), ".new") << entry.path();
}

TEST_F(Store, AServedSnapshotThatIsReplacedStaysWholeUntilNobodyServesIt) {
  const Info info = publish(kKey);
  auto served = open(state_, info);
  ASSERT_TRUE(served);
  publish(kKey);
  EXPECT_TRUE(verify(served->view(), info)) << "the old one, by its descriptor";
  sweep(state_, "node", kKey);
  EXPECT_TRUE(verify(served->view(), info));
  auto other = open(state_, info);
  ASSERT_TRUE(other);
  struct stat one, two;
  ASSERT_EQ(::fstat(served->get(), &one), 0);
  ASSERT_EQ(::fstat(other->get(), &two), 0);
  EXPECT_NE(one.st_ino, two.st_ino) << "the next start serves the new one";
  served->reset();
  sweep(state_, "node", kKey);
  for (const auto& entry : fs::directory_iterator(state_ + "/snapshots"))
    EXPECT_NE(entry.path().filename().string().substr(0, 4), ".old") << entry.path();
}

TEST(Key, DependsOnAllThatASnapshotIsMadeOf) {
  config::Manifest manifest;
  manifest.name = "node";
  manifest.zygote.argv = {"/bin/sh", "a"};
  image::ImageInfo image;
  image.digest = std::string(64, 'a');
  image.runtime_key = "r";
  const Host host{"6.18", "boot", "flags: x"};
  std::set<std::string> keys{keyOf(manifest, image, "program", host)};
  EXPECT_EQ(keyOf(manifest, image, "program", host), *keys.begin());
  const auto differs = [&](const std::string& key, const char* what) {
    EXPECT_TRUE(keys.insert(key).second) << what;
  };
  differs(keyOf(manifest, image, "other", host), "the seccomp program");
  differs(keyOf(manifest, image, "program", {"6.19", "boot", "flags: x"}), "the kernel");
  differs(keyOf(manifest, image, "program", {"6.18", "later", "flags: x"}), "the boot");
  differs(keyOf(manifest, image, "program", {"6.18", "boot", "flags: y"}), "the processor");
  image.digest[0] = 'b';
  differs(keyOf(manifest, image, "program", host), "the image");
  image.runtime_key = "s";
  differs(keyOf(manifest, image, "program", host), "Mayfly's programs");
  manifest.zygote.argv = {"/bin/sh a"};
  differs(keyOf(manifest, image, "program", host), "the zygote's words");
  manifest.loopback = false;
  differs(keyOf(manifest, image, "program", host), "the loopback");
  manifest.name = "other";
  differs(keyOf(manifest, image, "program", host), "the template");
}

TEST(Host, ThisHostHasAKernelABootAndAProcessor) {
  auto host = thisHost();
  ASSERT_TRUE(host) << host.error().message;
  EXPECT_FALSE(host->kernel.empty());
  EXPECT_FALSE(host->boot_id.empty());
  EXPECT_FALSE(host->processor.empty());
}

}  // namespace
}  // namespace mayfly::snapshot
