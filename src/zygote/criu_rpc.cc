// Layer: zygote. See criu_rpc.h.
#include "zygote/criu_rpc.h"

#include <string.h>

namespace mayfly::zygote {
namespace {

// Of rpc.proto.
enum : unsigned { kType = 1, kOpts = 2, kNotifySuccess = 3, kSuccess = 2 };
enum : uint64_t { kRestore = 2, kNotify = 6 };
enum : unsigned {
  kImagesDirFd = 1,
  kLogLevel = 9,
  kNotifyScripts = 12,
  kRstSibling = 26,
  kInheritFd = 27,
  kManageCgroupsMode = 34,
  kUnprivileged = 67,
  kImagesDir = 68,
  kLogToStderr = 71,
};
enum : unsigned { kInheritKey = 1, kInheritedFd = 2 };
constexpr uint64_t kIgnoreCgroups = 0, kErrorsOnly = 1;
enum : unsigned { kVarint = 0, kBytes = 2 };  // protobuf's kinds of fields

}  // namespace

void CriuMessage::add(unsigned char byte) {
  if (size_ == sizeof bytes_)
    sound_ = false;
  else
    bytes_[size_++] = byte;
}

void CriuMessage::varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) add(static_cast<unsigned char>(value | 0x80));
  add(static_cast<unsigned char>(value));
}

void CriuMessage::number(unsigned field, uint64_t value) {
  varint(field << 3 | kVarint);
  varint(value);
}

void CriuMessage::add(unsigned field, const void* bytes, size_t size) {
  varint(field << 3 | kBytes);
  varint(size);
  for (size_t i = 0; i < size; ++i) add(static_cast<const unsigned char*>(bytes)[i]);
}

void CriuMessage::text(unsigned field, const char* value) { add(field, value, strlen(value)); }

void CriuMessage::message(unsigned field, const CriuMessage& value) {
  sound_ = sound_ && value.sound_;
  add(field, value.bytes_, value.size_);
}

CriuMessage restoreRequest(const char* folder, const CriuInherited* inherited, size_t count) {
  CriuMessage options;
  options.number(kImagesDirFd, UINT64_MAX);  // -1: there is a path
  options.number(kLogLevel, kErrorsOnly);
  options.number(kNotifyScripts, 1);
  options.number(kRstSibling, 1);
  for (size_t i = 0; i < count; ++i) {
    CriuMessage one;
    one.text(kInheritKey, inherited[i].name);
    one.number(kInheritedFd, static_cast<uint64_t>(inherited[i].fd));
    options.message(kInheritFd, one);
  }
  options.number(kManageCgroupsMode, kIgnoreCgroups);
  options.number(kUnprivileged, 1);
  options.text(kImagesDir, folder);
  options.number(kLogToStderr, 1);
  CriuMessage request;
  request.number(kType, kRestore);
  request.message(kOpts, options);
  return request;
}

CriuMessage goOn() {
  CriuMessage answer;
  answer.number(kType, kNotify);
  answer.number(kNotifySuccess, 1);
  return answer;
}

// Every message of criu's begins with its type and its success, each of one byte.
bool saysRestored(const unsigned char* bytes, size_t size) {
  return size >= 4 && bytes[0] == (kType << 3 | kVarint) && bytes[1] == kRestore &&
         bytes[2] == (kSuccess << 3 | kVarint) && bytes[3] == 1;
}

}  // namespace mayfly::zygote
