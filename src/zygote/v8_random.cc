// Layer: zygote. See v8_random.h.
#include "zygote/v8_random.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "zygote/raw.h"

namespace mayfly::zygote {
namespace {

constexpr size_t kIsolateStepsMax = 65'536;  // the isolate draws some words at its start
constexpr size_t kRefillsMax = 16'384;       // of Math.random: a million calls of preloads
constexpr size_t kDrawnAhead = 64;
constexpr size_t kLineBytes = 1'024;

struct State {
  uint64_t s0, s1;
};
// v8::base::RandomNumberGenerator
struct Generator {
  int64_t initial_seed;
  State state;
};

constexpr int kGeneratorsMax = 8;

State* math_state = nullptr;
// The isolate's, and others that V8 seeds from the same number, such as the one of its addresses.
State* generators[kGeneratorsMax];
int generators_count = 0;

uint64_t murmur(uint64_t h) {
  h ^= h >> 33;
  h *= 0xff51afd7ed558ccdull;
  h ^= h >> 33;
  h *= 0xc4ceb9fe1a85ec53ull;
  h ^= h >> 33;
  return h;
}

void step(State* s) {
  uint64_t a = s->s0;
  const uint64_t b = s->s1;
  s->s0 = b;
  a ^= a << 23;
  a ^= a >> 17;
  a ^= b;
  a ^= b >> 26;
  s->s1 = a;
}

// The states that Math.random has after each refill, sorted by the first word; each word is kept
// inverted, so that the search does not find this list.
State* known = nullptr;

int compare(const void* a, const void* b) {
  const uint64_t x = static_cast<const State*>(a)->s0, y = static_cast<const State*>(b)->s0;
  return x < y ? -1 : x > y ? 1 : 0;
}

int listKnownStates(uint64_t seed) {
  known = static_cast<State*>(malloc(kRefillsMax * sizeof *known));
  if (known == nullptr) return -ENOMEM;
  State s{murmur(seed), murmur(~seed)};
  for (size_t i = 0; i < kRefillsMax; ++i) {
    for (size_t n = 0; n < kDrawnAhead; ++n) step(&s);
    known[i] = {~s.s0, ~s.s1};
  }
  qsort(known, kRefillsMax, sizeof *known, compare);
  return 0;
}

bool isKnown(const State& s) {
  const State inverted{~s.s0, ~s.s1};
  const auto* found =
      static_cast<const State*>(bsearch(&inverted, known, kRefillsMax, sizeof *known, compare));
  return found != nullptr && found->s1 == inverted.s1;
}

bool isOfSeed(const Generator& g, int64_t seed) {
  if (g.initial_seed != seed) return false;
  State s{murmur(static_cast<uint64_t>(seed)), 0};
  s.s1 = murmur(~s.s0);
  for (size_t i = 0; i < kIsolateStepsMax; ++i, step(&s))
    if (s.s0 == g.state.s0 && s.s1 == g.state.s1) return true;
  return false;
}

// A copy is searched, so that no memory of this search's own is found.
void searchBlock(uintptr_t start, const uint64_t* words, size_t count, int64_t seed, int* found) {
  for (size_t i = 0; i + 1 < count; ++i) {
    const State pair{words[i], words[i + 1]};
    if (pair.s0 != 0 && isKnown(pair)) {
      auto* state = reinterpret_cast<State*>(start + i * sizeof *words);
      if (state != math_state) ++*found;  // at a block's end it is in the next one, too
      math_state = state;
    }
    if (i + 2 >= count || words[i] != static_cast<uint64_t>(seed)) continue;
    const Generator g{seed, {words[i + 1], words[i + 2]}};
    if (!isOfSeed(g, seed)) continue;
    auto* state = reinterpret_cast<State*>(start + (i + 1) * sizeof *words);
    if (generators_count < kGeneratorsMax) generators[generators_count] = state;
    ++generators_count;
  }
}

bool overlaps(uintptr_t from, uintptr_t to, const void* at) {
  const auto address = reinterpret_cast<uintptr_t>(at);
  return address >= from && address < to;
}

// One mapping, in blocks that overlap by the size of what is searched.
int searchMapping(uintptr_t from, uintptr_t to, int64_t seed, int* found) {
  constexpr size_t kWords = 32'768, kOverlap = 2;
  static uint64_t words[kWords];
  for (uintptr_t at = from; at + kOverlap * sizeof *words < to;
       at += (kWords - kOverlap) * sizeof *words) {
    const size_t bytes = to - at < sizeof words ? to - at : sizeof words;
    iovec local{words, bytes}, remote{reinterpret_cast<void*>(at), bytes};
    const ssize_t n = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
    if (n <= 0) return n < 0 && errno != EFAULT ? -errno : 0;
    // Words of an earlier block must not be taken for the present one's.
    size_t count = static_cast<size_t>(n) / sizeof *words;
    searchBlock(at, words, count, seed, found);
    if (count < kWords) break;
  }
  memset(words, 0, sizeof words);
  return 0;
}

// Private memory without a file, but for stacks (copies of the state may lie there) and what this
// search uses itself.
int search(int64_t seed, int* found) {
  FILE* maps = fopen("/proc/self/maps", "re");
  if (maps == nullptr) return -errno;
  char line[kLineBytes];
  int result = 0, here = 0;
  while (result == 0 && fgets(line, sizeof line, maps) != nullptr) {
    unsigned long long from, to, inode;
    char rights[5];
    if (sscanf(line, "%llx-%llx %4s %*x %*s %llu", &from, &to, rights, &inode) != 4) continue;
    if (rights[0] != 'r' || rights[1] != 'w' || rights[3] != 'p' || inode != 0) continue;
    if (strstr(line, "[stack") != nullptr || strstr(line, "[v") != nullptr) continue;
    if (overlaps(from, to, &here)) continue;
    result = searchMapping(from, to, seed, found);
  }
  fclose(maps);
  return result;
}

}  // namespace

int findV8Generators(int64_t random_seed) {
  if (random_seed == 0) return -EINVAL;
  int r = listKnownStates(static_cast<uint64_t>(random_seed));
  int found = 0;  // states of Math.random
  generators_count = 0;
  math_state = nullptr;
  if (r == 0) r = search(random_seed, &found);
  if (known != nullptr) {
    memset(known, 0, kRefillsMax * sizeof *known);
    free(known);
    known = nullptr;
  }
  if (r != 0) return r;
  return found == 1 && generators_count >= 1 && generators_count <= kGeneratorsMax ? 0 : -ENXIO;
}

int seedV8Generators() {
  if (math_state == nullptr || generators_count == 0) return -EINVAL;
  State fresh[1 + kGeneratorsMax];
  if (int r = fillRandom(fresh, sizeof fresh); r != 0) return r;
  // All zeros is the one state that a generator cannot leave.
  for (State& s : fresh)
    if (s.s0 == 0 && s.s1 == 0) s.s0 = 1;
  *math_state = fresh[0];
  for (int i = 0; i < generators_count; ++i) *generators[i] = fresh[1 + i];
  memset(fresh, 0, sizeof fresh);
  return 0;
}

}  // namespace mayfly::zygote
