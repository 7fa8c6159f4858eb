// A call of a box that is in flight: what ends it, and what is told of it.
//
// Layer: vault. The loop's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "broker/refusal.h"
#include "vault/audit.h"

namespace mayfly::vault {

struct Hub;
class Ticket;

inline constexpr uint64_t kMsNs = 1'000'000;

class Run : public std::enable_shared_from_this<Run> {
 public:
  Run(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line);
  virtual ~Run() noexcept(false) = default;
  Run(const Run&) = delete;

  uint64_t session() const { return session_; }
  const std::string& grant() const { return grant_; }  // its name

  // Ends it: when this returns, no upstream connection works for it. The box is told `why`.
  virtual void stop(const broker::Refusal& why) = 0;
  // Four times a second: ends what is over its time.
  virtual void look(uint64_t now_ns) = 0;

 protected:
  // The last that a run does: its line is written, its shares are given back, and the hub forgets
  // it. Later calls do nothing.
  void done(std::string_view outcome, std::string_view rule, int status);
  bool isDone() const { return done_; }

  Hub& hub_;
  std::shared_ptr<Ticket> ticket_;
  AuditLine line_;
  uint64_t begun_ns_;

 private:
  uint64_t session_;
  std::string grant_;
  bool done_ = false;
};

}  // namespace mayfly::vault
