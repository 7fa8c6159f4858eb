// Leaves this process no place in its table of descriptors until the end of the scope.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

namespace mayfly::test {

class FullTable {
 public:
  FullTable() {
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
    const int lowest = ::dup(0);
    EXPECT_GE(lowest, 0);
    ::close(lowest);
    const rlimit full{static_cast<rlim_t>(lowest), before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &full), 0);
    EXPECT_LT(::dup(0), 0);
  }
  ~FullTable() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  FullTable(const FullTable&) = delete;

 private:
  rlimit before_{};
};

}  // namespace mayfly::test
