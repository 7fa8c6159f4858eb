// `Calls`: the front's face. Every text is checked again here; the front is trusted with which door
// a call came through, and with nothing else.
#include <capnp/common.h>
#include <fmt/format.h>

#include "base/clock.h"
#include "base/text.h"
#include "broker/describe.h"
#include "broker/journal_key.h"
#include "broker/sql_params.h"
#include "config/policy_text.h"
#include "edge/convert.h"
#include "vault/http_run.h"
#include "vault/server.h"
#include "vault/sql_run.h"
#include "vault/tool_run.h"
#include "vault/tunnel_run.h"

namespace mayfly::vault {

using base::Code;
using broker::Decision;
using broker::Refusal;

namespace {

Refusal noSuchAction(std::string_view kind, std::string_view name) {
  return {Code::notFound,
          404,
          std::string(kind),
          fmt::format("this task has no {} action '{}'", kind, base::printable(name, 60)),
          broker::kAskBroker,
          0};
}

std::string stepOf(std::string text) {
  text.resize(std::min(text.size(), broker::kStepBytesMax));
  return text;
}

// Nanoseconds. The session may have been active a moment ago.
uint64_t lifeOf(const Session& session, uint64_t now_ns) {
  return session.expires_ns - std::min(now_ns, session.expires_ns);
}

capnp::MessageSize sizeOf(const Flow::Whole& whole) {
  size_t bytes = whole.body.size();
  for (const broker::Header& each : whole.head.headers)
    bytes += each.name.size() + each.value.size() + kHeaderOverheadBytes;
  return {bytes / sizeof(capnp::word) + 32, 1};
}

void putWhole(schema::Answer::Builder out, const Flow::Whole& whole) {
  out.setStatus(whole.head.status);
  out.setBodyBytes(whole.head.bytes);
  put(out.initHeaders(static_cast<unsigned>(whole.head.headers.size())), whole.head.headers);
  out.setData(edge::data(whole.body));
}

struct Request {
  std::string method, target;
  std::vector<broker::Header> headers;
  int64_t body_bytes = 0;
  std::string step;

  explicit Request(schema::HttpRequest::Reader in)
      : method(edge::str(in.getMethod())),
        target(edge::str(in.getTarget())),
        body_bytes(in.getBodyBytes()) {
    for (auto each : in.getHeaders()) {
      headers.push_back({edge::str(each.getName()), edge::str(each.getValue())});
      const std::string& name = headers.back().name;
      if (config::lowered(name) == broker::kStepHeader) step = stepOf(headers.back().value);
    }
  }
  broker::HttpAsk ask() const { return {method, target, headers, body_bytes}; }
  // For the audit: without the query.
  std::string told(std::string_view where) const {
    return fmt::format("{} {}{}", method, where, target.substr(0, target.find('?')));
  }
};

broker::ParamValue valueOf(schema::Param::Value::Reader in) {
  using Value = schema::Param::Value;
  switch (in.which()) {
    case Value::NULL_:
      return std::monostate{};
    case Value::BOOL:
      return in.getBool();
    case Value::INTEGER:
      return in.getInteger();
    case Value::NUMBER:
      return in.getNumber();
    case Value::TEXT:
      return edge::str(in.getText());
    case Value::INTEGERS: {
      std::vector<int64_t> all;
      for (int64_t each : in.getIntegers()) all.push_back(each);
      return all;
    }
    case Value::TEXTS: {
      std::vector<std::string> all;
      for (auto each : in.getTexts()) all.push_back(edge::str(each));
      return all;
    }
  }
  return std::monostate{};
}

class CallsFace final : public schema::Calls::Server {
 public:
  explicit CallsFace(Faces& faces) : faces_(faces), hub_(faces.hub) {}

 protected:
  kj::Promise<void> describe(DescribeContext context) override {
    auto session = active(context.getParams().getSession());
    if (!session) return refuse(context, session.error());
    const uint64_t now_ns = base::monotonicNs();
    if (const uint64_t ns = (*session)->describes.take(now_ns))
      return refuse(context, {Code::resourceExhausted, 429, "session.describe",
                              "this task asks too often what it has", "Ask once, and keep it.",
                              static_cast<uint32_t>(ns / kMsNs) + 1});
    const std::string json =
        broker::describe({(*session)->task, lifeOf(**session, now_ns) / kMsNs, kBrokerUrl},
                         (*session)->grants, (*session)->tools_text);
    context.getResults().setJson(edge::text(json));
    return kj::READY_NOW;
  }

  kj::Promise<void> http(HttpContext context) override {
    auto params = context.getParams();
    auto started = startHttp(params);
    if (!started) return refuse(context, started.error());
    return answer(kj::mv(context), *started);
  }

  kj::Promise<void> proxy(ProxyContext context) override {
    auto params = context.getParams();
    auto started = startProxy(params);
    if (!started) return refuse(context, started.error());
    return answer(kj::mv(context), *started);
  }

  kj::Promise<void> tunnel(TunnelContext context) override {
    auto params = context.getParams();
    auto started = startTunnel(params);
    if (!started) return refuse(context, started.error());
    context.getResults().setUp(
        upFor(std::static_pointer_cast<UpEvents>(std::shared_ptr<TunnelRun>(*started))));
    return kj::READY_NOW;
  }

  kj::Promise<void> sql(SqlContext context) override {
    auto params = context.getParams();
    auto started = startSql(params);
    if (!started) return refuse(context, started.error());
    return kj::READY_NOW;
  }

  kj::Promise<void> mint(MintContext context) override {
    auto params = context.getParams();
    auto minted = makeCredential(params.getSession(), edge::str(params.getName()));
    if (!minted) return refuse(context, minted.error());
    auto results = context.getResults();
    results.setCredential(edge::text(minted->first));
    results.setAudience(edge::text(minted->second.audience));
    results.setScope(edge::text(minted->second.scope));
    const uint64_t now_ns = base::monotonicNs();
    results.setExpiresMs((minted->second.expires_ns - std::min(now_ns, minted->second.expires_ns)) /
                         kMsNs);
    return kj::READY_NOW;
  }

  kj::Promise<void> tool(ToolContext context) override {
    auto params = context.getParams();
    const std::string name = edge::str(params.getName());
#if CAPNP_VERSION < 1000000  // 1.x: in the schema (src/edge/CMakeLists.txt)
    context.allowCancellation();
#endif
    auto session = active(params.getSession());
    if (!session) return refuse(context, session.error());
    AuditLine line = hub_.lineFor(**session, "tool", name);
    auto tools = faces_.tools.find((*session)->number);
    if ((*session)->findTool(name) == nullptr || tools == faces_.tools.end())
      return refuse(context, hub_.refused(std::move(line), noSuchAction("tools", name)));
    auto ticket = hub_.ticketForTool(**session);
    if (!ticket) return refuse(context, hub_.refused(std::move(line), ticket.error()));
    return ToolRun::start(hub_, std::move(*ticket), std::move(line), tools->second, name,
                          edge::view(params.getJson()))
        .then([context](ToolRun::Answer answer) mutable {
          if (answer)
            context.getResults().setJson(edge::text(*answer));
          else
            put(context.getResults().initError(), answer.error());
        });
  }

 private:
  template <class Context>
  kj::Promise<void> refuse(Context& context, const Refusal& refusal) {
    put(context.getResults().initError(), refusal);
    return kj::READY_NOW;
  }

  // Dropped with the call, `up` gives the run up.
  template <class Context>
  kj::Promise<void> answer(Context context, const std::shared_ptr<HttpRun>& run) {
    auto up = upFor(std::static_pointer_cast<UpEvents>(run));
    context.releaseParams();
    KJ_IF_MAYBE (beginning, run->takeBeginning()) {
#if CAPNP_VERSION < 1000000  // 1.x: in the schema (src/edge/CMakeLists.txt)
      context.allowCancellation();
#endif
      return beginning->then([context, up = kj::mv(up)](Flow::Beginning began) mutable {
        if (auto* refusal = std::get_if<Refusal>(&began)) {
          put(context.getResults().initError(), *refusal);
        } else if (auto* whole = std::get_if<Flow::Whole>(&began)) {
          putWhole(context.getResults(sizeOf(*whole)).initAnswer(), *whole);
        } else {
          context.getResults().setUp(kj::mv(up));
        }
      });
    }
    context.getResults().setUp(kj::mv(up));
    return kj::READY_NOW;
  }

  Decision<Session*> active(uint64_t number) {
    return hub_.book.active(number, base::monotonicNs());
  }

  Decision<std::shared_ptr<HttpRun>> startHttp(HttpParams::Reader params) {
    auto session = active(params.getSession());
    if (!session) return broker::refuse(session.error());
    const std::string name = edge::str(params.getRequest().getAction());
    const Request request(params.getRequest());
    AuditLine line = hub_.lineFor(**session, "http", name);
    line.target = request.told("/cap/" + name);
    const broker::Grant* grant = (*session)->find(name);
    if (grant == nullptr || grant->http() == nullptr)
      return broker::refuse(hub_.refused(std::move(line), noSuchAction("http", name)));
    line.target = request.told(grant->http()->upstream.host);
    return startRun(**session, *grant, broker::decideHttp(*grant, request.ask()), request,
                    std::move(line), params.getDown());
  }

  Decision<std::shared_ptr<HttpRun>> startProxy(ProxyParams::Reader params) {
    auto session = active(params.getSession());
    if (!session) return broker::refuse(session.error());
    const Request request(params.getRequest());
    const std::string authority = edge::str(params.getAuthority());
    AuditLine line = hub_.lineFor(**session, "proxy", {});
    line.target = request.told(authority);
    auto call = broker::decideProxy((*session)->grants, authority, request.ask());
    if (!call) return broker::refuse(hub_.refused(std::move(line), call.error()));
    const broker::Grant* grant = (*session)->find(call->action->name);
    line.action = grant->name();
    return startRun(**session, *grant, std::move(call), request, std::move(line), params.getDown());
  }

  Decision<std::shared_ptr<HttpRun>> startRun(const Session& session, const broker::Grant& grant,
                                              Decision<broker::HttpCall> call,
                                              const Request& request, AuditLine line,
                                              schema::Down::Client down) {
    if (!call) return broker::refuse(hub_.refused(std::move(line), call.error()));
    auto ticket = hub_.ticketFor(session, grant);
    if (!ticket) return broker::refuse(hub_.refused(std::move(line), ticket.error()));
    return HttpRun::start(hub_, std::move(*ticket), std::move(line),
                          {grant, std::move(*call), request.body_bytes, request.step},
                          kj::mv(down));
  }

  Decision<std::shared_ptr<TunnelRun>> startTunnel(TunnelParams::Reader params) {
    auto session = active(params.getSession());
    if (!session) return broker::refuse(session.error());
    const std::string host = edge::str(params.getHost());
    AuditLine line = hub_.lineFor(**session, "tunnel", {});
    line.target = fmt::format("CONNECT {}:{}", host, params.getPort());
    auto grant = broker::decideTunnel((*session)->grants, host, params.getPort());
    if (!grant) return broker::refuse(hub_.refused(std::move(line), grant.error()));
    line.action = (*grant)->name();
    auto ticket = hub_.ticketFor(**session, **grant);
    if (!ticket) return broker::refuse(hub_.refused(std::move(line), ticket.error()));
    return TunnelRun::start(hub_, std::move(*ticket), std::move(line), **grant, host,
                            params.getPort(), params.getDown());
  }

  Decision<std::shared_ptr<SqlRun>> startSql(SqlParams::Reader params) {
    auto session = active(params.getSession());
    if (!session) return broker::refuse(session.error());
    const std::string name = edge::str(params.getName());
    AuditLine line = hub_.lineFor(**session, "sql", name);
    line.target = name;
    const broker::Grant* grant = (*session)->find(name);
    if (grant == nullptr || grant->sql() == nullptr)
      return broker::refuse(hub_.refused(std::move(line), noSuchAction("sql", name)));
    std::vector<std::pair<std::string, broker::ParamValue>> given;
    for (auto each : params.getParams())
      given.emplace_back(edge::str(each.getName()), valueOf(each.getValue()));
    auto bound = broker::checkParams(
        *grant, {(*session)->who.tenant, (*session)->who.uid, (*session)->task}, given);
    if (!bound) return broker::refuse(hub_.refused(std::move(line), bound.error()));
    auto ticket = hub_.ticketFor(**session, *grant);
    if (!ticket) return broker::refuse(hub_.refused(std::move(line), ticket.error()));
    const bool csv = params.getCsv() || grant->sql()->format == config::SqlFormat::csv;
    return SqlRun::start(hub_, std::move(*ticket), std::move(line),
                         {*grant, std::move(*bound), csv ? RowFormat::csv : RowFormat::json,
                          stepOf(edge::str(params.getStep()))},
                         params.getDown());
  }

  Decision<std::pair<std::string, MintedFor>> makeCredential(uint64_t number,
                                                             const std::string& name) {
    auto session = active(number);
    if (!session) return broker::refuse(session.error());
    AuditLine line = hub_.lineFor(**session, "mint", name);
    const broker::Grant* grant = (*session)->find(name);
    if (grant == nullptr || grant->mint() == nullptr)
      return broker::refuse(hub_.refused(std::move(line), noSuchAction("mint", name)));
    auto ticket = hub_.ticketFor(**session, *grant);
    if (!ticket) return broker::refuse(hub_.refused(std::move(line), ticket.error()));
    const config::MintAction& action = *grant->mint();
    const uint64_t now_ns = base::monotonicNs();
    const uint64_t life_ms =
        std::min({action.time_ms_max, grant->narrowing.time_ms.value_or(action.time_ms_max),
                  lifeOf(**session, now_ns) / kMsNs});
    MintedFor what{(*session)->number, name, action.audience, action.scope, (*session)->task};
    what.issued_s = wallMs() / 1'000;
    what.expires_s = (wallMs() + life_ms) / 1'000;
    what.expires_ns = now_ns + life_ms * kMsNs;
    auto made =
        hub_.mint.make(what, action.live_max, hub_.book.policy()->bounds.minted_max, now_ns);
    if (!made)
      return broker::refuse(
          hub_.refused(std::move(line), refusalOf(made.error(), grant->rule() + ".live_max")));
    line.outcome = "allowed";
    line.status = 200;
    line.target = action.audience;
    hub_.audit.write(line);
    return std::pair{std::move(*made), what};
  }

  Faces& faces_;
  Hub& hub_;
};

}  // namespace

schema::Calls::Client callsFace(Faces& faces) { return kj::heap<CallsFace>(faces); }

}  // namespace mayfly::vault
