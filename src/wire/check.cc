#include "wire/check.h"

#include <string.h>

#include <string_view>

namespace mayfly::wire {

namespace {

using Fault = Checked::Fault;

constexpr uint64_t kBytesMax = uint64_t{1} << 50;  // of memory or disk
constexpr uint32_t kProcessesMax = 1u << 22;       // more than the kernel has pids

constexpr Checked kSound{};
constexpr Checked content(const char* what) { return {Fault::content, what}; }

struct Shape {
  bool known = false;
  uint32_t flags = 0;  // the flags that it may have
  bool of_box = false;
};

Shape shapeOf(Op op) {
  switch (op) {
    case Op::publish:
      return {true, kLoopback | kDoors | kRestore | kDump, false};
    case Op::retire:
    case Op::ping:
      return {true, 0, false};
    case Op::make:
      return {true, kStock | kRehearse, true};
    case Op::clone:
      return {true, kRehearse, true};
    case Op::claim:
      return {true, kCapsStand, true};
    case Op::end:
      return {true, kCollect, true};
    case Op::sample:
    case Op::terminate:
      return {true, 0, true};
  }
  return {};
}

size_t fdsOf(const Request& r) {
  if (r.op == Op::publish) return (r.flags & (kRestore | kDump)) != 0 ? 3 : 2;
  return r.op == Op::end && (r.flags & kCollect) != 0 ? 1 : 0;
}

// For a disk, the kernel reads 0 as "no limit".
Checked checkCaps(const base::Limits& l) {
  auto inside = [](uint64_t value, uint64_t max) { return value > 0 && value <= max; };
  if (!inside(l.memory_bytes, kBytesMax)) return content("the memory cap is out of range");
  if (!inside(l.disk_bytes, kBytesMax) || !inside(l.disk_inodes, kBytesMax))
    return content("a disk cap is out of range");
  if (!inside(l.processes, kProcessesMax)) return content("the process cap is out of range");
  return l.cpu_milli > 0 ? kSound : content("the cpu cap is 0");
}

Checked checkPublish(const Request& r) {
  if (r.zygote_id == 0) return content("zygote 0 does not exist");
  if ((r.flags & (kLoopback | kDoors)) == kDoors) return content("doors without a loopback");
  if ((r.flags & (kRestore | kDump)) == (kRestore | kDump))
    return content("a snapshot that is both made and restored");
  for (const auto& arg : r.zygote)
    if (::strnlen(arg, sizeof arg) == sizeof arg) return content("a zygote argument is too long");
  if (r.zygote[0][0] != '/') return content("the zygote's program must be an absolute path");
  const std::string_view digest(r.digest, ::strnlen(r.digest, sizeof r.digest));
  if (digest.size() != 64 || digest.find_first_not_of("0123456789abcdef") != std::string_view::npos)
    return content("an image's digest is 64 hexadecimal digits");
  if (r.limits.memory_bytes == 0 || r.limits.memory_bytes > kBytesMax)
    return content("the zygote's memory cap is out of range");
  return kSound;
}

template <size_t N>
void endText(char (&text)[N]) {
  text[N - 1] = '\0';
}

}  // namespace

Checked check(const Request& r, size_t bytes, size_t fds) {
  if (bytes != sizeof r) return {Fault::language, "size"};
  if (r.magic != kSpawnerMagic) return {Fault::language, "magic"};
  if (r.version != kSpawnerVersion) return {Fault::language, "version"};
  const Shape shape = shapeOf(r.op);
  if (!shape.known) return {Fault::language, "unknown request"};
  if ((r.flags & ~shape.flags) != 0) return content("a flag that the request cannot have");
  if (fds != fdsOf(r)) return content("a wrong number of descriptors");
  if (shape.of_box && (r.box == 0 || r.box > kBoxIdMax))
    return content("the box's id is out of range");
  switch (r.op) {
    case Op::publish:
      return checkPublish(r);
    case Op::make:
    case Op::clone:
    case Op::claim:
      return checkCaps(r.limits);
    default:
      return kSound;
  }
}

Checked check(Event& e, size_t bytes, size_t fds) {
  if (bytes != sizeof e) return {Fault::language, "size"};
  if (e.magic != kSpawnerMagic) return {Fault::language, "magic"};
  if (e.version != kSpawnerVersion) return {Fault::language, "version"};
  if (e.kind < Kind::hello || e.kind > kKindMax) return {Fault::language, "unknown event"};
  if (e.cap > Cap::processes || e.collect > CollectState::failed)
    return {Fault::language, "unknown word"};
  if (fds > (e.kind == Kind::boxMade ? 6u : e.kind == Kind::hello ? 1u : 0u))
    return {Fault::language, "descriptors"};
  endText(e.step);
  endText(e.text);
  return kSound;
}

}  // namespace mayfly::wire
