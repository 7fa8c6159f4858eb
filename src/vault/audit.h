// One JSON line for each decision: allowed, refused with the rule's name, or failed. Never a secret
// or a body.
//
// A line comes at the end of its call, and is written once the answers of that turn of the loop
// have been sent: those wait for no file. While the file takes no lines, the broker allows nothing.
//
// Layer: vault. One write() for the lines of a turn, to a file that is opened for appending.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/observer.h"
#include "base/result.h"

namespace mayfly::vault {

struct AuditLine {
  uint64_t session = 0;  // of the book; not written
  uint64_t time_ms = 0;  // of the decision, since 1970
  uint32_t uid = 0;
  std::string tenant;
  uint64_t task = 0;
  uint32_t epoch = 0;
  std::string trace;  // the submitter's W3C traceparent; empty: not written
  std::string kind;   // http, sql, mint, tool, tunnel, proxy, session
  std::string action;
  std::string target;   // method, host and path; a statement's name. Without a query
  std::string outcome;  // allowed, refused, failed, revoked, replayed
  std::string rule;     // that refused, or how it failed
  int status = 0;       // of HTTP; 0: none
  uint64_t request_bytes = 0, answer_bytes = 0;
  uint64_t duration_us = 0;
  uint64_t refused_before = 0;  // refusals of this task that have no line of their own
};

// Ends with a line feed. Texts of boxes and clients are cut and made printable.
std::string textOf(const AuditLine& line);

class Audit {
 public:
  // `later`: calls flush() once the turn's answers have been sent.
  Audit(base::Fd file, std::function<void()> later)
      : file_(std::move(file)), later_(std::move(later)) {}
  void reopen(base::Fd file);  // the next file, after a rotation
  void write(AuditLine line);
  void flush();
  // Of all lines so far.
  const base::BrokerCounts& counts() const { return counts_; }
  // An error while lines could not be written; tries again.
  base::Status ready();

 private:
  size_t put(const std::string& text);  // how many bytes were written
  void count(const AuditLine& line);

  base::Fd file_;
  std::function<void()> later_;
  static constexpr size_t kOwedMax = 16'384;  // more than calls can be in flight
  static constexpr size_t kTurnLinesMax = 128;
  std::vector<AuditLine> turn_;   // this turn's
  std::deque<std::string> owed_;  // lines that could not be written
  base::BrokerCounts counts_;
};

}  // namespace mayfly::vault
