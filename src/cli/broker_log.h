// mayfly broker log: the broker's decisions, from its audit file; a table, or the lines as they
// are.
//
// Layer: cli. Reads files; needs no daemon. Ends with its reader, or with a signal.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/audit_tail.h"

namespace mayfly::cli {

// Empty: each line matches.
struct LogFilter {
  std::optional<uint64_t> task;
  std::optional<uint32_t> user;
  std::optional<std::string> tenant;  // "": tasks without one
  std::optional<std::string> action;
  std::string trace;  // empty: any
  std::vector<std::string> outcomes;
  bool any() const {
    return task || user || tenant || action || !trace.empty() || !outcomes.empty();
  }
};
struct LogOptions {
  std::string file;  // empty: see auditFileOf()
  std::string config, instance, state_dir;
  LogFilter filter;
  bool follow = false, json = false;
  std::optional<uint32_t> lines;  // the last ones only
};
// The words behind `mayfly broker log`.
void addLogOptions(CLI::App& app, LogOptions& to);

// The audit file of the daemon that the options name. An error if its settings name no policy.
base::Result<std::string> auditFileOf(const LogOptions& options);

// What is to be printed of the audit's lines. Texts are made printable, except with `json`.
class LogPrinter {
 public:
  explicit LogPrinter(const LogOptions& options) : options_(options) {}

  std::string header() const;  // empty with `json`
  // False: nobody takes it.
  using Put = std::function<bool(std::string_view)>;
  // Puts all that the file has at present. False if `put` said so.
  base::Result<bool> take(AuditTail& tail, const Put& put);
  // What is wrong with the lines so far; the first few by name, the others by number.
  std::string takeComplaints(AuditTail& tail);

 private:
  struct Held {
    std::string line, place;
  };
  std::string show(const Held& held);  // with its line end; empty: it does not match, or is damaged
  void complain(const std::string& text);

  const LogOptions& options_;
  bool first_ = true;  // of take()
  uint32_t complaints_ = 0, untold_ = 0;
  std::string told_;
};

// The exit code.
int brokerLog(const LogOptions& options);

}  // namespace mayfly::cli
