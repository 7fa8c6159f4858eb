// Layer: image. See hash.h.
#include "image/hash.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

namespace mayfly::image {

std::string Hash::hex() {
  unsigned char digest[crypto_hash_sha256_BYTES];
  crypto_hash_sha256_final(&state_, digest);
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (unsigned char byte : digest) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

base::Result<std::string> hashFile(const std::string& path) {
  MAYFLY_TRY(base::Fd fd, base::openAt(base::FdView(AT_FDCWD), path, O_RDONLY));
  Hash hash;
  std::vector<char> buffer(1u << 20);
  for (;;) {
    const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return base::failSys(errno, "read", path);
    if (n == 0) return hash.hex();
    hash.bytes({buffer.data(), static_cast<size_t>(n)});
  }
}

}  // namespace mayfly::image
