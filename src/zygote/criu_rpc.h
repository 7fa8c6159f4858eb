// The few messages of criu's own protocol (images/rpc.proto of CRIU 4.1, in protobuf's encoding)
// that a restore takes. `criu swrk` reads requests from a SEQPACKET socket, and may be told to wait
// for an answer at certain points.
//
// Layer: zygote. Allocates nothing.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace mayfly::zygote {

inline constexpr size_t kCriuMessageMax = 1'024;

// A message as it grows; too much is dropped and makes it unsound.
class CriuMessage {
 public:
  void number(unsigned field, uint64_t value);
  void text(unsigned field, const char* value);
  void message(unsigned field, const CriuMessage& value);

  const unsigned char* bytes() const { return bytes_; }
  size_t size() const { return size_; }
  bool sound() const { return sound_; }

 private:
  void add(unsigned char byte);
  void varint(uint64_t value);
  void add(unsigned field, const void* bytes, size_t size);

  unsigned char bytes_[kCriuMessageMax] = {};
  size_t size_ = 0;
  bool sound_ = true;
};

// A descriptor of criu's own that takes the place of what was open under a name at the dump.
struct CriuInherited {
  int fd;
  const char* name;
};
// Restores from the folder of images; waits before it makes the first process.
CriuMessage restoreRequest(const char* folder, const CriuInherited* inherited, size_t count);
// Lets it go on from one such point.
CriuMessage goOn();

// criu waits, or goes on at once if it was told before, at: pre-restore, post-restore, pre-resume,
// post-resume.
inline constexpr int kCriuPoints = 4;

// Whether this message of criu's says that all is restored; it is the last one.
bool saysRestored(const unsigned char* bytes, size_t size);

}  // namespace mayfly::zygote
