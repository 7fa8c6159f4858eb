// Reads the name out of a TLS greeting (ClientHello), as its bytes arrive.
//
// Layer: broker. Pure. Holds at most kHelloBytesMax.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mayfly::broker {

inline constexpr size_t kHelloBytesMax = 16u << 10;  // of the greeting itself
inline constexpr size_t kHelloRecordsMax = 64;

class HelloReader {
 public:
  enum class State : uint8_t { more, done, refused };

  // Takes the next bytes. Bytes behind the greeting are not looked at.
  State feed(std::string_view bytes);
  State state() const { return state_; }

  // done: the one name, lower case.
  const std::string& name() const { return name_; }
  // done: an encrypted greeting is inside, which may name another host than `name`.
  bool encrypted() const { return encrypted_; }
  // refused: the end of a sentence that begins with "the connection".
  const char* fault() const { return fault_; }

 private:
  State refuse(const char* fault);
  bool takeRecord(std::string_view& bytes);
  State parse();
  State parseExtensions(std::string_view extensions);
  State parseServerName(std::string_view body);

  State state_ = State::more;
  std::string header_;     // of the record that is being read
  std::string handshake_;  // the records' contents
  size_t left_ = 0;        // bytes of the record to come
  size_t records_ = 0;
  std::string name_;
  bool encrypted_ = false;
  const char* fault_ = "";
};

}  // namespace mayfly::broker
