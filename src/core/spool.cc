#include "core/spool.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "wire/spool.h"

namespace mayfly::core {
namespace {

base::Status readAll(base::FdView fd, char* to, size_t bytes, uint64_t offset) {
  while (bytes > 0) {
    ssize_t n = ::pread(fd.get(), to, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return base::failSys(n < 0 ? errno : EIO, "pread", "the spool of output files");
    to += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<size_t>(n);
  }
  return base::Unit{};
}

}  // namespace

base::Result<std::vector<base::OutFile>> readSpool(base::FdView spool, const base::Limits& limits) {
  struct stat st;
  if (::fstat(spool.get(), &st) != 0) return base::failSys(errno, "fstat", "the spool");
  uint64_t bytes = static_cast<uint64_t>(st.st_size);
  if (bytes == 0) return std::vector<base::OutFile>{};
  wire::SpoolHeader header;
  if (bytes >= sizeof header)
    MAYFLY_CHECK(readAll(spool, reinterpret_cast<char*>(&header), sizeof header, 0));
  MAYFLY_CHECK(wire::checkHeader(header, bytes));
  std::string index(header.index_bytes, '\0');
  MAYFLY_CHECK(readAll(spool, index.data(), index.size(), header.index_offset));
  return wire::readIndex(header, index, limits);
}

std::shared_ptr<base::Fd> holdSpool(std::shared_ptr<base::Fd> spool, sched::Accounts& accounts,
                                    const sched::AccountRef& account) {
  struct Held {
    std::shared_ptr<base::Fd> spool;
    sched::Share bytes, one;
  };
  struct stat st;
  if (::fstat(spool->get(), &st) != 0) return spool;
  base::Fd* fd = spool.get();
  auto held = std::make_shared<Held>(std::move(spool),
                                     accounts.charge(account, sched::Resource::outFileBytes,
                                                     static_cast<uint64_t>(st.st_blocks) * 512),
                                     accounts.charge(account, sched::Resource::spools));
  return {std::move(held), fd};
}

}  // namespace mayfly::core
