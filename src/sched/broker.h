// The interface between the core and the broker outside the boxes (docs/decisions/0020-broker.md).
//
// A session belongs to one task. It is opened when the task is submitted, begins at the claim, and
// ends with the task. The core knows no more of it than this header says.
//
// Layer: sched. Core thread. Nothing here blocks; every callback comes in a later turn of the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "base/task.h"

namespace mayfly::sched {

// Bounds on what a submission may ask for.
inline constexpr size_t kGrantsMax = 64;
inline constexpr size_t kGrantNameBytesMax = 64;
inline constexpr size_t kNarrowingBytesMax = 1'024;
inline constexpr size_t kToolsMax = 128;
inline constexpr size_t kToolNameBytesMax = 64;
inline constexpr size_t kToolDescriptionBytesMax = 4'096;
inline constexpr size_t kToolSchemaBytesMax = 16'384;
// Bounds on each call of a tool.
inline constexpr size_t kToolJsonBytesMax = 1u << 20;  // arguments, and an answer
inline constexpr uint32_t kToolCallsMax = 16;          // of one task at a time
inline constexpr uint64_t kToolTimeMsMax = 60'000;

using Env = std::vector<std::pair<std::string, std::string>>;

struct GrantWish {
  std::string name;
  std::string narrowing;  // empty: the policy's own bounds
};

struct Tool {
  std::string name, description, schema_json;
};

// The submitting client's functions.
class ToolBox {
 public:
  using Done = std::function<void(base::Result<std::string> json)>;
  virtual ~ToolBox() = default;
  // `done` is called once, in a later turn, unless the tool box is gone by then.
  virtual void call(std::string name, std::string json, Done done) = 0;
};

struct SessionSpec {
  uint32_t uid = 0;
  std::string tenant, template_name;
  std::string trace;  // W3C traceparent; empty: none
  std::vector<GrantWish> grants;
  std::vector<Tool> tools;
  std::shared_ptr<ToolBox> tool_box;  // null: no tools

  bool empty() const { return grants.empty() && tools.empty(); }
};

// Names and sizes; the broker checks the rest.
base::Status checkSession(const SessionSpec& spec);

// A box's two sockets: bound, and listening only once a task with a session has the box.
struct Doors {
  base::Fd local;  // wire::kDoorPath
  base::Fd tcp;    // 127.0.0.1, wire::kDoorPort
};

// How a session ended, or left a box.
struct SessionEnd {
  uint64_t revoked_ns = 0;        // no call works any more; 0: it was not to be revoked
  uint64_t broker_closed_ns = 0;  // no socket of the box is open outside
  std::string note;               // what had to be restarted for it; empty: nothing
};

class Session {
 public:
  using Left = std::function<void(SessionEnd)>;
  virtual ~Session() = default;  // ends it

  virtual const Env& env() const = 0;  // the task's variables; never a secret
  virtual const std::vector<std::string>& grants() const = 0;
  // The task gets the box of these doors: calls are answered from now on, for `expires_ms`.
  virtual base::Status begin(base::TaskId task, uint64_t expires_ms, Doors doors) = 0;
  // The box is lost before the task has started; another `begin` may follow. `left` is called once
  // no socket of the box is open any more.
  virtual void leave(Left left) = 0;
  // Revokes every grant, then closes the doors. `left` is called once both are confirmed.
  virtual void end(Left left) = 0;
  // Revokes one grant; `done` is called once no call under it works any more.
  virtual void revoke(const std::string& name, std::function<void(base::Status)> done) = 0;
};

class Broker {
 public:
  using Opened = std::function<void(base::Result<std::shared_ptr<Session>>)>;
  virtual ~Broker() = default;
  // notFound, permissionDenied, invalidArgument: a grant that this user cannot have. unavailable:
  // the broker is down.
  virtual void open(SessionSpec spec, Opened opened) = 0;
};

// The variable that every task with a session has.
inline constexpr const char* kBrokerVariable = "MAYFLY_BROKER";
// Joins a session's variables to the task's. The task's own variable of a name wins, so a submitter
// can send one program elsewhere; but MAYFLY_BROKER is always the session's.
void joinEnv(Env& task, const Env& session);

}  // namespace mayfly::sched
