#include "vault/hub.h"

#include <time.h>

#include <set>

#include "base/clock.h"
#include "broker/journal_key.h"
#include "edge/convert.h"
#include "vault/log.h"

namespace mayfly::vault {

namespace {

constexpr uint32_t kKeptConnectionsMax = 64;
constexpr uint64_t kJournalLookNs = 60'000'000'000;

}  // namespace

uint64_t wallMs() {
  timespec t;
  ::clock_gettime(CLOCK_REALTIME, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000 + static_cast<uint64_t>(t.tv_nsec) / 1'000'000;
}

// --- Run ----------------------------------------------------------------------------

Run::Run(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line)
    : hub_(hub),
      ticket_(std::move(ticket)),
      line_(std::move(line)),
      begun_ns_(base::monotonicNs()),
      session_(ticket_->call().subject.session),
      grant_(ticket_->call().action) {}

void Run::done(std::string_view outcome, std::string_view rule, int status) {
  if (std::exchange(done_, true)) return;
  line_.outcome = outcome;
  line_.rule = rule;
  line_.status = status;
  line_.duration_us = (base::monotonicNs() - begun_ns_) / 1'000;
  hub_.audit.write(std::move(line_));
  ticket_.reset();
  hub_.forget(*this);
}

// --- Hub ----------------------------------------------------------------------------

Hub::Hub(edge::AsioPort& port, base::Fd audit_file, Journal kept, uint64_t first_session)
    : io(port.host()),
      timer(port.timer()),
      curl(port, kKeptConnectionsMax),
      resolver(io),
      audit(std::move(audit_file), [this] { afterAnswers([this] { audit.flush(); }); }),
      journal(io, std::move(kept)),
      book(first_session),
      limits(config::PolicyBounds{}),
      databases(io, resolver, secrets),
      tasks(*this),
      port_(port) {}

Hub::~Hub() noexcept(false) {
  const broker::Refusal why{base::Code::unavailable, 503, "", "the broker ends", "", 0};
  while (!runs_.empty()) {
    auto run = runs_.begin()->second;
    run->stop(why);
    runs_.erase(run.get());
  }
  audit.flush();
  *self_ = nullptr;
}

// They are sent at the end of KJ's turn.
void Hub::afterAnswers(std::function<void()> what) {
  port_.afterTurn([self = self_, what = std::move(what)] {
    if (*self != nullptr) what();
  });
}

void Hub::taskFailed(kj::Exception&& e) { say("error", edge::errorOf(e).message); }

AuditLine Hub::lineFor(const Session& session, std::string_view kind,
                       std::string_view action) const {
  AuditLine line;
  line.session = session.number;
  line.time_ms = wallMs();
  line.uid = session.who.uid;
  line.tenant = session.who.tenant;
  line.task = session.task;
  line.epoch = session.epoch;
  line.trace = session.trace;
  line.kind = kind;
  line.action = action;
  return line;
}

broker::Refusal Hub::refused(AuditLine line, broker::Refusal refusal) {
  line.outcome = "refused";
  line.rule = refusal.rule;
  line.status = refusal.http_status;
  if (Session* session = book.find(line.session)) {
    if (session->refusals.take(base::monotonicNs()) != 0 || !audit.ready()) {
      ++session->untold;
      return refusal;
    }
    line.refused_before = std::exchange(session->untold, 0);
  }
  audit.write(std::move(line));
  return refusal;
}

broker::Decision<std::shared_ptr<Ticket>> Hub::ticketFor(const Session& session,
                                                         const broker::Grant& grant) {
  if (auto ready = audit.ready(); !ready) return broker::refuse(refusalOf(ready.error(), "audit"));
  auto call = limits.begin({session.number, session.who.uid, session.who.tenant}, grant,
                           base::monotonicNs());
  if (!call) return broker::refuse(std::move(call).error());
  return std::make_shared<Ticket>(limits, std::move(*call));
}

broker::Decision<std::shared_ptr<Ticket>> Hub::ticketForTool(const Session& session) {
  if (auto ready = audit.ready(); !ready) return broker::refuse(refusalOf(ready.error(), "audit"));
  auto call = limits.beginTool({session.number, session.who.uid, session.who.tenant},
                               book.policy()->tools.task, base::monotonicNs());
  if (!call) return broker::refuse(std::move(call).error());
  return std::make_shared<Ticket>(limits, std::move(*call));
}

void Hub::add(std::shared_ptr<Run> run) {
  Run* key = run.get();
  runs_[key] = std::move(run);
}

void Hub::forget(Run& run) {
  auto at = runs_.find(&run);
  if (at == runs_.end()) return;
  afterAnswers([kept = std::move(at->second)] {});
  runs_.erase(at);
}

std::shared_ptr<const broker::ScrubPatterns> Hub::patternsFor(const std::string& action,
                                                              const std::vector<SecretRef>& used,
                                                              const std::vector<SecretRef>& forms) {
  Patterns& known = patterns_[action];
  if (known.patterns && known.of == used) return known.patterns;
  std::vector<std::string_view> secret_texts;
  for (const auto* list : {&used, &forms})
    for (const SecretRef& each : *list) secret_texts.push_back(each->reveal());
  known.of = used;
  known.patterns = std::make_shared<const broker::ScrubPatterns>(secret_texts);
  return known.patterns;
}

void Hub::record(const std::string& key, const std::string& rule, const AuditLine& of, Asked then) {
  journal.ask<base::Result<Recorded>>(
      [key, task = of.task, epoch = of.epoch, action = of.action,
       now_ms = wallMs()](Journal& kept) { return kept.begin(key, task, epoch, action, now_ms); },
      [rule, epoch = of.epoch, then = std::move(then)](base::Result<Recorded> recorded) {
        if (!recorded) {
          say("error", recorded.error().message);
          return then(
              broker::refuse({base::Code::unavailable, 503, rule + ".write",
                              "the broker cannot record this action, so it does not do it",
                              "The operator finds the reason in the broker's log.", 1'000}));
        }
        if (recorded->state == Recorded::State::begun) return then(std::nullopt);
        const bool done = recorded->state == Recorded::State::done;
        auto verdict = broker::decideWrite(
            rule,
            broker::WriteRecord{recorded->epoch,
                                done ? broker::WriteState::done : broker::WriteState::begun},
            epoch, epoch, recorded->state == Recorded::State::underWay);
        if (!verdict) return then(broker::refuse(std::move(verdict).error()));
        then(std::move(recorded->outcome));
      });
}

void Hub::revoke(uint64_t session, std::string_view grant, std::string_view why) {
  if (const Session* ending = grant.empty() ? book.find(session) : nullptr;
      ending != nullptr && ending->untold > 0) {
    AuditLine line = lineFor(*ending, "session", {});
    line.outcome = "refused";
    line.refused_before = ending->untold;
    audit.write(line);
  }
  book.revoke(session, grant);
  mint.revoke(session, grant);
  const broker::Refusal refusal{base::Code::permissionDenied,        403, std::string(why),
                                "the grant of this call is no more", "",  0};
  std::vector<std::shared_ptr<Run>> ending;
  for (const auto& [key, run] : runs_)
    if (run->session() == session && (grant.empty() || run->grant() == grant))
      ending.push_back(run);
  for (const auto& run : ending) run->stop(refusal);
  if (grant.empty()) limits.forget(session);
}

void Hub::look() {
  const uint64_t now_ns = base::monotonicNs();
  for (uint64_t session : book.expire(now_ns)) revoke(session, {}, "session.expired");
  std::vector<std::shared_ptr<Run>> all;
  for (const auto& [key, run] : runs_) all.push_back(run);
  for (const auto& run : all) run->look(now_ns);
  mint.expire(now_ns);
  databases.look(now_ns);
  if (now_ns < expire_journal_ns_ || !book.policy()) return;
  expire_journal_ns_ = now_ns + kJournalLookNs;
  const auto bounds = book.policy()->bounds;
  const uint64_t now_ms = wallMs();
  journal.ask<base::Status>(
      [bounds, now_ms](Journal& kept) {
        return kept.expire(now_ms - std::min(now_ms, bounds.journal_keep_ms),
                           bounds.journal_bytes_max);
      },
      [](base::Status status) {
        if (!status) say("error", status.error().message);
      });
}

}  // namespace mayfly::vault
