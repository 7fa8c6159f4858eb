#include "rpc/grants.h"

#include <fmt/format.h>

#include <charconv>
#include <utility>

#include "base/text.h"
#include "edge/convert.h"
#include "rpc/calls.h"
#include "rpc/hub.h"

namespace mayfly::rpc {

using base::Code;
using base::fail;
using base::Result;
using base::Status;
using base::Unit;

namespace {

// A callback that may be copied, for a promise that is fulfilled once.
template <class T>
std::pair<kj::Promise<T>, std::function<void(T)>> promised() {
  auto paf = kj::newPromiseAndFulfiller<T>();
  auto once = std::make_shared<kj::Own<kj::PromiseFulfiller<T>>>(kj::mv(paf.fulfiller));
  return {kj::mv(paf.promise), [once](T value) { (*once)->fulfill(std::move(value)); }};
}

Status checkSessionSizes(schema::TaskSpec::Reader in) {
  const auto within = [](const char* what, size_t bytes, size_t max) -> Status {
    if (bytes <= max) return Unit{};
    return fail(Code::invalidArgument,
                fmt::format("{} has {} bytes; at most {}", what, bytes, max));
  };
  const auto grants = in.getGrants();
  const auto tools = in.getTools();
  if (grants.size() > sched::kGrantsMax)
    return fail(Code::invalidArgument,
                fmt::format("grants: {}; at most {}", grants.size(), sched::kGrantsMax));
  if (tools.size() > sched::kToolsMax)
    return fail(Code::invalidArgument,
                fmt::format("tools: {}; at most {}", tools.size(), sched::kToolsMax));
  for (auto wish : grants) {
    MAYFLY_CHECK(within("the name of a grant", wish.getName().size(), sched::kGrantNameBytesMax));
    MAYFLY_CHECK(
        within("the narrowing of a grant", wish.getNarrowing().size(), sched::kNarrowingBytesMax));
  }
  for (auto tool : tools) {
    MAYFLY_CHECK(within("the name of a tool", tool.getName().size(), sched::kToolNameBytesMax));
    MAYFLY_CHECK(within("the description of a tool", tool.getDescription().size(),
                        sched::kToolDescriptionBytesMax));
    MAYFLY_CHECK(
        within("the schema of a tool", tool.getSchemaJson().size(), sched::kToolSchemaBytesMax));
  }
  return Unit{};
}

// As Account::ofPeer writes it; a user without a uid has the overflow uid.
uint32_t uidOf(const sched::AccountRef& account) {
  constexpr std::string_view kPrefix = "uid:";
  std::string_view name = account.userName();
  uint32_t uid = 65'534;
  if (!name.starts_with(kPrefix)) return uid;
  name.remove_prefix(kPrefix.size());
  std::from_chars(name.data(), name.data() + name.size(), uid);
  return uid;
}

class GrantImpl final : public schema::Grant::Server {
 public:
  GrantImpl(ConnectionState& connection, TaskState& task, std::string name)
      : connection_(kj::addRef(connection)),
        handle_(connection),
        task_(kj::addRef(task)),
        name_(std::move(name)) {}

 protected:
  kj::Promise<void> revoke(RevokeContext context) override {
    if (auto error = overloaded(*connection_)) return refuse(context, *error);
    return task_->revoke(name_).then(
        [context, task = kj::addRef(*task_), call = Call(*connection_)](Status status) mutable {
          answer(context, status);
        });
  }

 private:
  kj::Own<ConnectionState> connection_;
  Handle handle_;
  kj::Own<TaskState> task_;
  std::string name_;
};

}  // namespace

// --- tools -----------------------------------------------------------------------------

struct TaskTools::State final : kj::TaskSet::ErrorHandler {
  State(kj::Timer& t, schema::ToolBox::Client b) : timer(t), box(kj::mv(b)), calls(*this) {}
  void taskFailed(kj::Exception&&) override {}  // each call hands on its own failure

  kj::Timer& timer;
  schema::ToolBox::Client box;
  uint32_t under_way = 0;
  kj::TaskSet calls;
};

TaskTools::TaskTools(kj::Timer& timer, schema::ToolBox::Client box)
    : state_(std::make_unique<State>(timer, kj::mv(box))) {}
TaskTools::~TaskTools() = default;

void TaskTools::end() {
  // Dropping a call may drop the last reference to what asked for it.
  const auto ended = std::move(state_);
}

void TaskTools::call(std::string name, std::string json, Done done) {
  // In a later event: the caller may be in the middle of its own call.
  const auto refused = [&](Code code, std::string why) {
    if (state_)
      state_->calls.add(
          kj::evalLater([done, code, why = std::move(why)] { done(fail(code, why)); }));
    else
      done(fail(code, why));
  };
  if (!state_) return refused(Code::cancelled, "the task has ended");
  if (json.size() > sched::kToolJsonBytesMax)
    return refused(Code::invalidArgument,
                   fmt::format("the arguments of tool '{}' have {} bytes; at most {}",
                               base::printable(name, 64), json.size(), sched::kToolJsonBytesMax));
  if (state_->under_way >= sched::kToolCallsMax)
    return refused(
        Code::resourceExhausted,
        fmt::format("{} calls of this task's tools have not returned", sched::kToolCallsMax));
  ++state_->under_way;
  auto request = state_->box.callRequest(
      capnp::MessageSize{(name.size() + json.size()) / sizeof(capnp::word) + 16, 0});
  request.setName(edge::text(name));
  request.setJson(edge::text(json));
  auto answered = request.send().then(
      [](auto&& response) -> Result<std::string> {
        MAYFLY_CHECK(edge::get(response.getError()));
        if (response.getJson().size() > sched::kToolJsonBytesMax)
          return fail(Code::resourceExhausted,
                      fmt::format("the tool's answer has {} bytes; at most {}",
                                  response.getJson().size(), sched::kToolJsonBytesMax));
        return edge::str(response.getJson());
      },
      [](kj::Exception&& e) -> Result<std::string> { return fail(edge::errorOf(e)); });
  auto late =
      state_->timer.afterDelay(sched::kToolTimeMsMax * kj::MILLISECONDS)
          .then([]() -> Result<std::string> {
            return fail(Code::deadlineExceeded,
                        fmt::format("the tool did not answer within {} ms", sched::kToolTimeMsMax));
          });
  state_->calls.add(answered.exclusiveJoin(kj::mv(late))
                        .then([this, done = std::move(done)](Result<std::string> result) {
                          --state_->under_way;
                          done(std::move(result));
                        }));
}

// --- sessions ---------------------------------------------------------------------------

Result<SessionWish> sessionFrom(Hub& hub, const sched::AccountRef& account,
                                schema::Mayfly::SubmitParams::Reader params) {
  const auto in = params.getSpec();
  SessionWish wish;
  if (in.getGrants().size() == 0 && in.getTools().size() == 0) return wish;
  MAYFLY_CHECK(checkSessionSizes(in));
  if (in.getTools().size() > 0 && in.getDetach().getLeaseMs() > 0)
    return fail(Code::invalidArgument, "detach: `tools`; nobody may be there to answer");
  sched::SessionSpec& spec = wish.spec;
  spec.uid = uidOf(account);
  spec.tenant = edge::str(in.getTenant());
  spec.template_name = base::printable(edge::view(in.getTemplate()), 80);
  for (auto each : in.getGrants())
    spec.grants.push_back({edge::str(each.getName()), edge::str(each.getNarrowing())});
  for (auto each : in.getTools())
    spec.tools.push_back({edge::str(each.getName()), edge::str(each.getDescription()),
                          edge::str(each.getSchemaJson())});
  if (!spec.tools.empty() && params.hasToolBox())
    spec.tool_box = wish.tools = std::make_shared<TaskTools>(hub.timer, params.getToolBox());
  MAYFLY_CHECK(sched::checkSession(spec));
  if (hub.core.broker() == nullptr)
    return fail(Code::failedPrecondition,
                "this daemon has no broker: it serves no grants and no tools",
                "Set `broker_policy` in its settings.");
  return wish;
}

kj::Promise<Result<SessionPtr>> openSession(Hub& hub, sched::SessionSpec spec) {
  auto [promise, done] = promised<Result<SessionPtr>>();
  hub.core.broker()->open(std::move(spec), std::move(done));
  return kj::mv(promise);
}

void putGrants(schema::Mayfly::SubmitResults::Builder out, ConnectionState& connection,
               TaskState& task) {
  const auto& names = task.grants();
  if (names.empty()) return;
  auto list = out.initGrants(static_cast<unsigned>(names.size()));
  for (unsigned i = 0; i < names.size(); ++i)
    list.set(i, kj::heap<GrantImpl>(connection, task, names[i]));
}

kj::Promise<Status> TaskState::revoke(const std::string& grant) {
  if (!session_ || ended_) return Status(Unit{});
  renew();
  auto [promise, done] = promised<Status>();
  session_->revoke(grant, std::move(done));
  return kj::mv(promise);
}

const std::vector<std::string>& TaskState::grants() const {
  static const std::vector<std::string> none;
  return session_ ? session_->grants() : none;
}

void TaskState::setTools(std::shared_ptr<TaskTools> tools) { tools_ = std::move(tools); }

void TaskState::endTools() {
  if (tools_) std::exchange(tools_, nullptr)->end();
}

}  // namespace mayfly::rpc
