// libFuzzer on the checks of every message that the spawner, mayflyd, the front, a maker, a zygote
// or a clone receives. The first byte says which message, the second how many descriptors came.
//
// Finds: a sanitizer's finding, and a message that passes the check although a property that its
// receiver relies on does not hold.
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "wire/check.h"
#include "wire/door_check.h"
#include "wire/zygote.h"

namespace {

using namespace mayfly::wire;

void require(bool truth) {
  if (!truth) abort();
}

template <class Message>
void answer(const uint8_t* data, size_t size, size_t fds, size_t fds_max) {
  Message m;
  memcpy(static_cast<void*>(&m), data, std::min(size, sizeof m));
  if (faultOf(m, size, fds) != nullptr) return;
  require(size == sizeof m && fds <= fds_max);
  if constexpr (requires { m.step; }) {
    require(strnlen(m.step, sizeof m.step) < sizeof m.step);
    require(m.error >= 0 && m.error <= kErrnoMax);
  }
  if constexpr (requires { m.blob_fds; }) require(fds == size_t{1} + m.blob_fds);
  if constexpr (requires { m.tasks_fds; }) require(fds == size_t{kCloneFds} + m.tasks_fds);
}

void request(const uint8_t* data, size_t size, size_t fds) {
  Request r;
  memcpy(static_cast<void*>(&r), data, std::min(size, sizeof r));
  if (check(r, size, fds).fault != Checked::Fault::none) return;
  require(size == sizeof r && r.op <= kOpMax && fds <= 2);
  const bool of_box = r.op != Op::publish && r.op != Op::retire && r.op != Op::ping;
  if (of_box) require(r.box != 0 && r.box <= kBoxIdMax);
  if (r.op == Op::publish) {
    require(fds == 2 && strlen(r.digest) == 64 && r.zygote[0][0] == '/');
    for (const auto& arg : r.zygote) require(strnlen(arg, sizeof arg) < sizeof arg);
  }
  if (r.op == Op::make || r.op == Op::clone || r.op == Op::claim)
    require(r.limits.disk_bytes > 0 && r.limits.disk_inodes + 8 > 8 && r.limits.memory_bytes > 0);
}

void event(const uint8_t* data, size_t size, size_t fds) {
  Event e;
  memcpy(static_cast<void*>(&e), data, std::min(size, sizeof e));
  if (check(e, size, fds).fault != Checked::Fault::none) return;
  require(e.kind >= Kind::hello && e.kind <= kKindMax);
  require(strnlen(e.step, sizeof e.step) < sizeof e.step);
  require(strnlen(e.text, sizeof e.text) < sizeof e.text);
}

void doorRequest(const uint8_t* data, size_t size, size_t fds) {
  DoorRequest r;
  memcpy(static_cast<void*>(&r), data, std::min(size, sizeof r));
  if (check(r, size, fds).fault != Checked::Fault::none) return;
  require(size == sizeof r && r.session != 0);
  if (r.kind == DoorRequest::Kind::open)
    require(fds == 2 && r.connections_max > 0 && r.connections_max <= kDoorConnectionsMax);
  else
    require(r.kind == DoorRequest::Kind::close && fds == 0);
}

void doorEvent(const uint8_t* data, size_t size, size_t fds) {
  DoorEvent e;
  memcpy(static_cast<void*>(&e), data, std::min(size, sizeof e));
  if (check(e, size, fds).fault != Checked::Fault::none) return;
  require(size == sizeof e && fds == 0 && e.session != 0 && e.kind == DoorEvent::Kind::closed);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const uint8_t which = data[0];
  const size_t fds = data[1];
  data += 2, size -= 2;
  switch (which % 12) {
    case 0:
      request(data, size, fds);
      break;
    case 1:
      event(data, size, fds);
      break;
    case 2:
      answer<MakeInit>(data, size, fds, 4);
      break;
    case 3:
      answer<InitMade>(data, size, fds, 1);
      break;
    case 4:
      answer<InitReady>(data, size, fds, kInitDoorFds);
      break;
    case 5:
      answer<MakeClone>(data, size, fds, kCloneFds + kTasksFdsMax);
      break;
    case 6:
      answer<CloneMade>(data, size, fds, 1);
      break;
    case 7:
      answer<CloneReady>(data, size, fds, 0);
      break;
    case 8:
      answer<Claim>(data, size, fds, 1 + kBlobFdsMax);
      break;
    case 9:
      doorRequest(data, size, fds);
      break;
    case 10:
      doorEvent(data, size, fds);
      break;
    default:
      answer<Started>(data, size, fds, 0);
  }
  return 0;
}
