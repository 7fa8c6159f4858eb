// All that the vault's calls share.
//
// Layer: vault. The loop's thread.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "broker/limits.h"
#include "broker/scrub.h"
#include "vault/audit.h"
#include "vault/book.h"
#include "vault/curl_loop.h"
#include "vault/flow.h"
#include "vault/journal.h"
#include "vault/mint.h"
#include "vault/resolver.h"
#include "vault/run.h"
#include "vault/secret.h"
#include "vault/sql_pool.h"

namespace mayfly::vault {

// A call's shares of every quota, until it is dropped.
class Ticket {
 public:
  Ticket(broker::Limits& limits, broker::Limits::Call call)
      : limits_(limits), call_(std::move(call)) {}
  ~Ticket() { limits_.end(call_); }
  Ticket(const Ticket&) = delete;

  const broker::Limits::Call& call() const { return call_; }
  // Nanoseconds to wait before the next bytes.
  broker::Decision<uint64_t> spend(uint64_t bytes, uint64_t now_ns) {
    return limits_.spend(call_, bytes, now_ns);
  }

 private:
  broker::Limits& limits_;
  broker::Limits::Call call_;
};

struct Hub : kj::TaskSet::ErrorHandler {
  Hub(edge::AsioPort& port, base::Fd audit_file, Journal kept, uint64_t first_session);
  ~Hub() noexcept(false);

  boost::asio::io_context& io;
  kj::Timer& timer;
  CurlLoop curl;
  Resolver resolver;
  SecretStore secrets;
  Audit audit;
  JournalThread journal;
  Mint mint;
  Book book;
  broker::Limits limits;
  SqlPools databases;
  kj::TaskSet tasks;       // of promises that belong to no call alone
  broker::HeldBytes held;  // bodies that wait in whole

  // --- calls
  // A line of the audit with what is known of the session.
  AuditLine lineFor(const Session& session, std::string_view kind, std::string_view action) const;
  broker::Decision<std::shared_ptr<Ticket>> ticketFor(const Session& session,
                                                      const broker::Grant& grant);
  broker::Decision<std::shared_ptr<Ticket>> ticketForTool(const Session& session);
  // Writes the line of a decision against a call, and gives the refusal back. Refusals cost no
  // ticket, so a task that is refused again and again has some lines, and then a number: else it
  // would rotate the lines of others away.
  broker::Refusal refused(AuditLine line, broker::Refusal refusal);
  void add(std::shared_ptr<Run> run);
  void forget(Run& run);  // destroyed in a later turn
  // Once the answers of this turn have been sent: no box waits for it.
  void afterAnswers(std::function<void()> what);
  size_t running() const { return runs_.size(); }
  // Records a write as begun, on disk, then asks whether it may be done. `then`: nothing: do it.
  // Else its recorded outcome, or a refusal.
  using Asked = std::function<void(broker::Decision<std::optional<Outcome>>)>;
  void record(const std::string& key, const std::string& rule, const AuditLine& of, Asked then);
  std::shared_ptr<const broker::ScrubPatterns> patternsFor(const std::string& action,
                                                           const std::vector<SecretRef>& used,
                                                           const std::vector<SecretRef>& forms);
  // A secret has changed or gone: what was made of its old value is wiped once no call uses it.
  void dropPatterns() { patterns_.clear(); }

  // --- ends
  // When this returns, no upstream connection works for the grant (empty: the whole session).
  void revoke(uint64_t session, std::string_view grant, std::string_view why);
  // Called by a timer: what is over its time.
  void look();

 private:
  void taskFailed(kj::Exception&& e) override;

  struct Patterns {
    std::vector<SecretRef> of;
    std::shared_ptr<const broker::ScrubPatterns> patterns;
  };
  edge::AsioPort& port_;
  std::unordered_map<Run*, std::shared_ptr<Run>> runs_;
  std::map<std::string, Patterns> patterns_;
  uint64_t expire_journal_ns_ = 0;
  std::shared_ptr<Hub*> self_ = std::make_shared<Hub*>(this);  // null: destroyed
};

uint64_t wallMs();  // since 1970

}  // namespace mayfly::vault
