// `Vault` and `Session`: mayflyd's face.
#include <fmt/format.h>

#include "base/clock.h"
#include "base/text.h"
#include "broker/describe.h"
#include "edge/convert.h"
#include "vault/server.h"

namespace mayfly::vault {

using base::Code;

namespace {

constexpr size_t kToolsMax = 128, kToolTextBytesMax = 32u << 10, kTenantBytesMax = 128,
                 kTraceBytesMax = 64;
constexpr uint64_t kLifeMsMax = 30ull * 24 * 3'600 * 1'000;

void putError(schema::Error::Builder out, const base::Error& error) { put(out, refusalOf(error)); }

class SessionFace final : public schema::Session::Server {
 public:
  SessionFace(Faces& faces, uint64_t number) : faces_(faces), number_(number) {}
  ~SessionFace() noexcept(false) { faces_.end(number_); }

 protected:
  kj::Promise<void> activate(ActivateContext context) override {
    Hub& hub = faces_.hub;
    const uint64_t task = context.getParams().getTask();
    const uint64_t life_ms = std::min(context.getParams().getExpiresMs(), kLifeMsMax);
    const Session* session = hub.book.find(number_);
    if (session == nullptr || session->epoch <= 1) return finish(context, task, life_ms);
    // An earlier vault has done recorded actions of this task.
    std::vector<std::string> names;
    for (const broker::Grant& each : session->grants) names.push_back(each.name());
    auto [promise, fulfiller] = kj::newPromiseAndFulfiller<std::vector<uint64_t>>();
    auto told =
        std::make_shared<kj::Own<kj::PromiseFulfiller<std::vector<uint64_t>>>>(kj::mv(fulfiller));
    hub.journal.ask<std::vector<uint64_t>>(
        [task, names](Journal& journal) {
          std::vector<uint64_t> counts;
          for (const std::string& name : names)
            counts.push_back(journal.count(task, name).value_or(0));
          return counts;
        },
        [told](std::vector<uint64_t> counts) { (*told)->fulfill(kj::mv(counts)); });
    return promise.then([this, context, task, life_ms,
                         names](std::vector<uint64_t> counts) mutable {
      if (const Session* still = faces_.hub.book.find(number_))
        for (size_t i = 0; i < names.size(); ++i)
          if (const broker::Grant* grant = still->find(names[i]); grant != nullptr && counts[i] > 0)
            faces_.hub.limits.addPastCalls(number_, *grant, counts[i], base::monotonicNs());
      return finish(context, task, life_ms);
    });
  }

  kj::Promise<void> revoke(RevokeContext context) override {
    const std::string name = edge::str(context.getParams().getName());
    const Session* session = faces_.hub.book.find(number_);
    if (name.empty()) {
      faces_.end(number_);
    } else if (session == nullptr || session->find(name) == nullptr) {
      putError(context.getResults().initError(),
               {Code::notFound, fmt::format("the session has no grant '{}'", name), {}, 0});
    } else {
      faces_.hub.revoke(number_, name, "grant.revoked");
    }
    return kj::READY_NOW;
  }

 private:
  kj::Promise<void> finish(ActivateContext& context, uint64_t task, uint64_t life_ms) {
    const uint64_t expires_ns = base::monotonicNs() + life_ms * kMsNs;
    auto active = faces_.hub.book.activate(number_, task, expires_ns);
    if (!active) putError(context.getResults().initError(), active.error());
    return kj::READY_NOW;
  }

  Faces& faces_;
  uint64_t number_;
};

class VaultFace final : public schema::Vault::Server {
 public:
  explicit VaultFace(Faces& faces) : faces_(faces) {}

 protected:
  kj::Promise<void> open(OpenContext context) override {
    auto opened = openSession(context.getParams().getSpec());
    auto results = context.getResults();
    if (!opened) {
      putError(results.initError(), opened.error());
      return kj::READY_NOW;
    }
    const Session& session = **opened;
    // From here on the session ends with its capability.
    schema::Session::Client face = kj::heap<SessionFace>(faces_, session.number);
    auto env = broker::environmentOf(session.grants, kBrokerUrl);
    if (!env) {
      putError(results.initError(), env.error());
      return kj::READY_NOW;
    }
    results.setSession(kj::mv(face));
    results.setNumber(session.number);
    results.setConnectionsMax(faces_.hub.book.policy()->bounds.connections_per_task_max);
    auto pairs = results.initEnv(static_cast<unsigned>(env->size()));
    for (unsigned i = 0; i < env->size(); ++i) {
      pairs[i].setName(edge::text((*env)[i].first));
      pairs[i].setValue(edge::text((*env)[i].second));
    }
    auto names = results.initGrants(static_cast<unsigned>(session.grants.size()));
    for (unsigned i = 0; i < session.grants.size(); ++i)
      names.set(i, edge::text(session.grants[i].name()));
    return kj::READY_NOW;
  }

  kj::Promise<void> status(StatusContext context) override {
    auto results = context.getResults();
    results.setSessions(static_cast<uint32_t>(faces_.hub.book.size()));
    results.setCalls(static_cast<uint32_t>(faces_.hub.running()));
    results.setPolicySha256(edge::data(faces_.policy_sha256));
    results.setLoadedNs(faces_.loaded_ns);
    const base::BrokerCounts& counts = faces_.hub.audit.counts();
    auto decisions = results.initDecisions(3 * base::BrokerCounts::kKinds);
    for (unsigned i = 0; i < base::BrokerCounts::kKinds; ++i) {
      decisions.set(3 * i, counts.kinds[i].allowed);
      decisions.set(3 * i + 1, counts.kinds[i].refused);
      decisions.set(3 * i + 2, counts.kinds[i].failed);
    }
    auto took = results.initTook(base::BrokerCounts::kKinds * (base::kBuckets + 1));
    unsigned at = 0;
    for (const base::BrokerCounts::Kind& kind : counts.kinds) {
      for (uint64_t bucket : kind.took.counts) took.set(at++, bucket);
      took.set(at++, kind.took.sum_ns);
    }
    return kj::READY_NOW;
  }

 private:
  base::Result<Session*> openSession(schema::SessionSpec::Reader spec) {
    Book::Wishes wishes;
    wishes.who.uid = spec.getUid();
    wishes.who.tenant = edge::str(spec.getTenant());
    wishes.task = spec.getTask();
    wishes.epoch = spec.getEpoch();
    wishes.trace = base::printable(edge::view(spec.getTrace()), kTraceBytesMax);
    if (spec.getGrants().size() > broker::kGrantsMax || spec.getToolNames().size() > kToolsMax ||
        wishes.who.tenant.size() > kTenantBytesMax)
      return base::fail(Code::invalidArgument, "too many grants or tools, or too long a tenant");
    for (auto wish : spec.getGrants())
      wishes.grants.emplace_back(edge::str(wish.getName()), edge::str(wish.getNarrowing()));
    for (auto tool : spec.getToolNames()) {
      wishes.tools.push_back({edge::str(tool.getName()), edge::str(tool.getDescription()),
                              edge::str(tool.getSchemaJson())});
      const ToolInfo& last = wishes.tools.back();
      if (last.name.empty() ||
          last.name.size() + last.description.size() + last.schema_json.size() > kToolTextBytesMax)
        return base::fail(Code::invalidArgument, "a tool's texts are empty or too long");
    }
    if (!wishes.tools.empty() && !spec.hasTools())
      return base::fail(Code::invalidArgument, "tools are named, but nobody serves them");
    std::vector<broker::ToolText> texts;
    for (const ToolInfo& each : wishes.tools)
      texts.push_back({each.name, each.description, each.schema_json});
    MAYFLY_TRY(wishes.tools_text, broker::describeTools(kBrokerUrl, texts));
    for (ToolInfo& each : wishes.tools) each = {std::move(each.name), {}, {}};
    MAYFLY_TRY(Session * session, faces_.hub.book.open(std::move(wishes)));
    if (!session->tools.empty()) faces_.tools.insert_or_assign(session->number, spec.getTools());
    return session;
  }

  Faces& faces_;
};

}  // namespace

schema::Vault::Client vaultFace(Faces& faces) { return kj::heap<VaultFace>(faces); }

}  // namespace mayfly::vault
