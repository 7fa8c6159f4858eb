#include "app/run_state.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>

#include "app/instance.h"

namespace mayfly::app {
namespace {

using base::Code;
using base::fail;
using base::FdView;

constexpr char kMagic[8] = {'M', 'F', 'L', 'Y', 'I', 'D', 'S', '1'};
constexpr const char* kIds = "ids";
using Sum = std::array<uint8_t, 16>;
constexpr off_t kSectorBytes = 512;

struct Header {
  char magic[8];
  sched::IdKey key;
  Sum sum;
};
struct Slot {
  uint64_t next_block;
  Sum sum;
};
static_assert(sizeof(Header) == 56 && sizeof(Slot) == 24);

Sum sumOf(const Header& header) {
  Sum sum;
  crypto_generichash(sum.data(), sum.size(), reinterpret_cast<const unsigned char*>(&header),
                     offsetof(Header, sum), nullptr, 0);
  return sum;
}

Sum sumOf(const sched::IdKey& key, int slot, uint64_t next_block) {
  const std::array<uint64_t, 2> input{static_cast<uint64_t>(slot), next_block};
  Sum sum;
  crypto_generichash(sum.data(), sum.size(), reinterpret_cast<const unsigned char*>(input.data()),
                     sizeof input, key.data(), key.size());
  return sum;
}

off_t placeOf(int slot) { return (slot + 1) * kSectorBytes; }

template <class T>
base::Status writeAt(FdView file, const std::string& path, const T& value, off_t at) {
  const ssize_t n = ::pwrite(file.get(), &value, sizeof value, at);
  if (n == sizeof value) return base::Unit{};
  return base::failSys(n < 0 ? errno : EIO, "write", path);
}

base::Status writeSlot(FdView file, const std::string& path, const sched::IdKey& key, int slot,
                       uint64_t next_block) {
  return writeAt(file, path, Slot{next_block, sumOf(key, slot, next_block)}, placeOf(slot));
}

// A complete file under its name, or none.
base::Status make(FdView folder) {
  const std::string part = std::string(kIds) + ".new";
  MAYFLY_TRY(base::Fd file, base::openAt(folder, part, O_RDWR | O_CREAT | O_TRUNC, 0600));
  Header header{};
  memcpy(header.magic, kMagic, sizeof kMagic);
  if (::getrandom(header.key.data(), header.key.size(), 0) !=
      static_cast<ssize_t>(header.key.size()))
    return base::failSys(errno, "getrandom", "the key of the task ids");
  header.sum = sumOf(header);
  MAYFLY_CHECK(writeAt(file.view(), part, header, 0));
  MAYFLY_CHECK(writeSlot(file.view(), part, header.key, 0, 0));
  MAYFLY_CHECK(writeSlot(file.view(), part, header.key, 1, 0));
  if (::ftruncate(file.get(), 3 * kSectorBytes) != 0)
    return base::failSys(errno, "ftruncate", part);
  if (::fsync(file.get()) != 0) return base::failSys(errno, "fsync", part);
  if (::renameat(folder.get(), part.c_str(), folder.get(), kIds) != 0)
    return base::failSys(errno, "rename", part);
  if (::fsync(folder.get()) != 0) return base::failSys(errno, "fsync", "its folder");
  return base::Unit{};
}

}  // namespace

base::Result<RunState> lockRunState(const std::string& state_dir, const std::string& instance) {
  const std::string all = state_dir + "/instances", path = all + "/" + instance;
  MAYFLY_CHECK(makeFolders(all));
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    return base::failSys(errno, "mkdir", path);
  MAYFLY_TRY(base::Fd folder,
             base::openAt(FdView(AT_FDCWD), path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  if (::fchmod(folder.get(), 0700) != 0) return base::failSys(errno, "fchmod", path);
  if (::flock(folder.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return base::failSys(errno, "flock", path);
    return fail(Code::alreadyExists,
                "another daemon of the name '" + instance + "' keeps its state in '" + path + "'",
                "Stop it, or choose another name (--instance) or folder (--state-dir).");
  }
  return RunState{std::move(folder), path};
}

base::Result<IdFile> IdFile::open(const RunState& state) {
  const std::string path = state.path + "/" + kIds;
  // O_DSYNC: a write returns when the disk has it.
  auto open = [&] {
    return base::openAt(state.folder.view(), kIds, O_RDWR | O_DSYNC | O_NOFOLLOW);
  };
  auto file = open();
  if (!file && file.error().sys == ENOENT) {
    if (auto made = make(state.folder.view()); !made)
      return fail(std::move(made).error().in("cannot make '" + path + "'"));
    file = open();
  }
  if (!file) return fail(std::move(file).error().in("the task ids in '" + state.path + "'"));
  IdFile ids(std::move(*file), path);
  MAYFLY_CHECK(ids.load());
  return ids;
}

base::Status IdFile::load() {
  std::array<char, 3 * kSectorBytes + 1> bytes;
  const ssize_t n = ::pread(file_.get(), bytes.data(), bytes.size(), 0);
  if (n < 0) return base::failSys(errno, "read", path_);
  Header header;
  Slot slots[2];
  memcpy(&header, bytes.data(), sizeof header);
  std::optional<uint64_t> next[2];
  const bool whole = n == 3 * kSectorBytes && memcmp(header.magic, kMagic, sizeof kMagic) == 0 &&
                     header.sum == sumOf(header);
  for (int i = 0; i < 2 && whole; ++i) {
    memcpy(&slots[i], bytes.data() + placeOf(i), sizeof slots[i]);
    if (slots[i].sum == sumOf(header.key, i, slots[i].next_block)) next[i] = slots[i].next_block;
  }
  if (!next[0] && !next[1])
    return fail(Code::failedPrecondition,
                "'" + path_ + "' is damaged: " +
                    (whole ? "neither of its two counters is valid"
                           : "it is no whole file of task ids, or of another version of Mayfly"),
                "Delete it to begin with a new key: then a new id equals an old one by chance only "
                "(1 in 2^53 for each pair).");
  key_ = header.key;
  if (next[0] && next[1]) {
    next_ = std::max(*next[0], *next[1]);
    slot_ = *next[0] <= *next[1] ? 0 : 1;
  } else {
    // The torn slot may have held the next number, and ids of that block may be given.
    next_ = (next[0] ? *next[0] : *next[1]) + 1;
    slot_ = next[0] ? 1 : 0;
  }
  return base::Unit{};
}

base::Result<uint64_t> IdFile::reserve() {
  const uint64_t block = next_;
  if (auto written = writeSlot(file_.view(), path_, key_, slot_, block + 1); !written)
    return fail(std::move(written).error().in("cannot reserve task ids"));
  next_ = block + 1;
  slot_ = 1 - slot_;
  return block;
}

}  // namespace mayfly::app
