// Errors as values: Result<T> and the Error it carries.
//
// An error names what failed, on which object, why, and what to do. It is
// returned or logged, never both; nothing is thrown across a room's edge.
//
// Layer: base. No threads, no state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace mayfly::base {

// Kinds of failure: the same words in the schema, the command line and the clients. Numbers are
// stable: they cross the wire.
enum class Code : uint16_t {
  invalidArgument = 1,     // this request can never succeed
  notFound = 2,            // the named template, task, file... does not exist
  alreadyExists = 3,       //
  resourceExhausted = 4,   // others hold too much of a resource (queue, connections, bytes); retry
                           // later. A request that can never fit is an invalidArgument
  unavailable = 5,         // not now: starting, stopping, template not ready; retry later
  failedPrecondition = 6,  // the object is not in the state that the call needs
  permissionDenied = 7,    //
  cancelled = 8,           //
  deadlineExceeded = 9,    //
  hostUnfit = 10,          // the host cannot keep a promise
  internal = 11,           // a fault of Mayfly itself
};

// Suggested wait when a bound that clients share is reached.
inline constexpr uint32_t kRetryMs = 100;

std::string_view name(Code code);  // "invalidArgument" ...

struct Error {
  Code code = Code::internal;
  std::string message;          // what failed, on which object, why
  std::string advice;           // what to do; empty if nothing helps
  int sys = 0;                  // errno of the failed system call; else 0
  uint32_t retry_after_ms = 0;  // do not retry sooner; 0: unknown

  // The same call can succeed later.
  bool retryable() const { return code == Code::resourceExhausted || code == Code::unavailable; }
  // Puts the caller's context in front: "cannot publish template 'python': ...".
  Error&& in(std::string_view context) && {
    message = std::string(context) + ": " + message;
    return std::move(*this);
  }
};

template <class T>
using Result = tl::expected<T, Error>;
using Unit = tl::monostate;
using Status = Result<Unit>;

inline tl::unexpected<Error> fail(Code code, std::string message, std::string advice = {},
                                  uint32_t retry_after_ms = 0) {
  return tl::unexpected<Error>(
      Error{code, std::move(message), std::move(advice), 0, retry_after_ms});
}
inline tl::unexpected<Error> fail(Error error) { return tl::unexpected<Error>(std::move(error)); }

// The error of a failed system call: "open '/x': No such file or directory".
Error sysError(int err, std::string_view call, std::string_view object);
inline tl::unexpected<Error> failSys(int err, std::string_view call, std::string_view object) {
  return tl::unexpected<Error>(sysError(err, call, object));
}

}  // namespace mayfly::base

// Yields the value, or returns the error from the calling function.
#define MAYFLY_CONCAT_(a, b) a##b
#define MAYFLY_CONCAT(a, b) MAYFLY_CONCAT_(a, b)
#define MAYFLY_TRY(decl, expr)                             \
  auto MAYFLY_CONCAT(try_, __LINE__) = (expr);             \
  if (!MAYFLY_CONCAT(try_, __LINE__))                      \
    return tl::unexpected<::mayfly::base::Error>(          \
        std::move(MAYFLY_CONCAT(try_, __LINE__)).error()); \
  decl = std::move(*MAYFLY_CONCAT(try_, __LINE__))
#define MAYFLY_CHECK(expr)                                                                \
  do {                                                                                    \
    auto check_ = (expr);                                                                 \
    if (!check_) return tl::unexpected<::mayfly::base::Error>(std::move(check_).error()); \
  } while (0)
