// The book of sessions: which tasks may call, with which grants, until when.
//
// A session is opened, activated once, and ends: revoked, expired, or with its link. A number is
// never given twice. A call takes a ticket, which holds its shares of every quota until it is
// dropped.
//
// Layer: vault. Time is an argument.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/limits.h"
#include "broker/narrow.h"
#include "broker/refusal.h"
#include "config/policy.h"

namespace mayfly::vault {

struct ToolInfo {
  std::string name, description, schema_json;
};

inline constexpr uint64_t kDescribesPerMinute = 600, kDescribesAtOnce = 60;
inline constexpr uint64_t kRefusalsPerMinute = 120, kRefusalsAtOnce = 60;

struct Session {
  uint64_t number = 0;
  broker::Applicant who;
  uint64_t task = 0;
  uint32_t epoch = 0;
  std::string trace;  // the submitter's W3C traceparent; empty: none
  std::vector<std::pair<std::string, std::string>> wishes;  // what was asked for, and not revoked
  std::vector<broker::Grant> grants;                        // of the policy in force
  std::vector<ToolInfo> tools;
  std::string tools_text;   // of broker::describeTools()
  uint64_t expires_ns = 0;  // 0: not active yet
  // What costs no ticket: `GET /`, and lines of the audit about refusals.
  broker::TokenBucket describes{kDescribesPerMinute, kDescribesAtOnce, 0};
  broker::TokenBucket refusals{kRefusalsPerMinute, kRefusalsAtOnce, 0};
  uint64_t untold = 0;  // refusals without a line, since the last line of one

  const broker::Grant* find(std::string_view grant) const;
  const ToolInfo* findTool(std::string_view name) const;
};

class Book {
 public:
  explicit Book(uint64_t first_number) : next_(first_number) {}

  // From now on. Sessions that live get their grants anew; one that the policy no longer gives is
  // gone. Returns those: session and grant.
  std::vector<std::pair<uint64_t, std::string>> setPolicy(
      std::shared_ptr<const config::Policy> policy);
  const std::shared_ptr<const config::Policy>& policy() const { return policy_; }

  struct Wishes {
    broker::Applicant who;
    uint64_t task = 0;
    uint32_t epoch = 1;
    std::vector<std::pair<std::string, std::string>> grants;
    std::vector<ToolInfo> tools;
    std::string tools_text = {};
    std::string trace = {};
  };
  base::Result<Session*> open(Wishes wishes);
  // failedPrecondition: it is active, or an epoch of the task's that is not older is.
  base::Status activate(uint64_t number, uint64_t task, uint64_t expires_ns);
  // Calls of the grant are refused from now on. An empty name: the whole session is gone.
  void revoke(uint64_t number, std::string_view grant);
  // Those that are over their time, and now gone.
  std::vector<uint64_t> expire(uint64_t now_ns);

  Session* find(uint64_t number);
  // An active session, or why there is none.
  broker::Decision<Session*> active(uint64_t number, uint64_t now_ns);
  size_t size() const { return all_.size(); }

 private:
  std::shared_ptr<const config::Policy> policy_;
  uint64_t next_;
  std::map<uint64_t, Session> all_;
  std::map<uint64_t, uint32_t> epochs_;  // of active tasks
};

}  // namespace mayfly::vault
