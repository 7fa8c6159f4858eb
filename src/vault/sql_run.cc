#include "vault/sql_run.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/clock.h"
#include "broker/journal_key.h"

namespace mayfly::vault {

using base::Code;
using broker::Refusal;

namespace {

constexpr size_t kPieceBytes = 64u << 10;  // of rows, before they are sent on
constexpr uint64_t kGraceMs = 2'000;       // beyond the statement's own time
constexpr int kServerLooks = 140'000;  // the first version that looks whether its client has gone
constexpr uint64_t kLookMs = 500;      // how often it does

uint32_t oidOf(config::SqlParam::Type type) {
  using enum config::SqlParam::Type;
  switch (type) {
    case boolean:
      return 16;
    case integer:
      return 20;
    case number:
      return 701;
    case text:
      return 25;
    case integers:
      return 1016;
    case texts:
      return 1009;
  }
  return 25;
}

std::vector<broker::Header> headersOf(RowFormat format) {
  return {{"content-type", format == RowFormat::json ? "application/json"
                                                     : "text/csv; charset=utf-8; header=present"}};
}

}  // namespace

SqlRun::SqlRun(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line, Ask ask,
               schema::Down::Client down)
    : Run(hub, std::move(ticket), std::move(line)),
      ask_(std::move(ask)),
      flow_(std::make_shared<Flow>(kj::mv(down), hub.tasks, *this)),
      writer_(ask_.format),
      rows_max_(
          std::min(action().rows_max, ask_.grant.narrowing.rows.value_or(action().rows_max))) {}

std::shared_ptr<SqlRun> SqlRun::start(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line,
                                      Ask ask, schema::Down::Client down) {
  std::shared_ptr<SqlRun> run(
      new SqlRun(hub, std::move(ticket), std::move(line), std::move(ask), kj::mv(down)));
  hub.add(run);
  if (run->action().read_only)
    run->acquire();
  else
    run->record();
  return run;
}

void SqlRun::record() {
  std::string bound;  // each value behind its length
  for (const auto& each : ask_.params)
    bound += each ? fmt::format("{}:{}", each->size(), *each) : std::string("null:");
  broker::JournalHash hash(line_.task, ask_.step, grant(), "sql", bound);
  const broker::JournalKey sum = hash.finish();
  const std::string key(sum.begin(), sum.end());
  hub_.record(key, ask_.grant.rule(), line_,
              [run = self(), key](broker::Decision<std::optional<Outcome>> asked) {
                if (asked && !*asked) run->key_ = key;
                if (run->isDone()) return run->settle(false);  // revoked meanwhile
                if (!asked) return run->fail(std::move(asked).error(), "refused");
                if (*asked) return run->replay(**asked);
                run->acquire();
              });
}

void SqlRun::acquire() {
  const config::Database* database = ask_.grant.policy->findDatabase(action().database);
  if (database == nullptr)
    return fail({Code::internal, 502, rule("database"), "the policy has no such database", {}, 0});
  hub_.databases.acquire(
      ask_.grant.policy, *database, {session(), line_.uid, shared_from_this()},
      [run = std::weak_ptr<SqlRun>(self())](base::Result<std::unique_ptr<SqlPools::Lease>> lease) {
        if (auto alive = run.lock(); alive && !alive->isDone())
          alive->onLease(std::move(lease));
        else if (lease)
          (*lease)->giveBack();
      });
}

void SqlRun::onLease(base::Result<std::unique_ptr<SqlPools::Lease>> lease) {
  if (!lease) return fail(refusalOf(lease.error(), rule("database")));
  lease_ = std::move(*lease);
  std::string begin = fmt::format(
      "BEGIN {}; SET LOCAL statement_timeout = {}; "
      "SET LOCAL idle_in_transaction_session_timeout = {}",
      action().read_only ? "READ ONLY" : "READ WRITE", action().time_ms_max,
      action().time_ms_max + kGraceMs);
  // A call that ends early closes its connection; an older server sees that at the statement's end.
  if ((*lease_)->serverVersion() >= kServerLooks)
    begin += fmt::format("; SET LOCAL client_connection_check_interval = {}", kLookMs);
  (*lease_)->runScript(begin, then(&SqlRun::query));
}

PgConnection::Done SqlRun::then(void (SqlRun::*next)()) {
  return [run = std::weak_ptr<SqlRun>(self()), next](base::Status status) {
    auto alive = run.lock();
    if (!alive || alive->isDone()) return;
    if (status) return (alive.get()->*next)();
    if (alive->refusal_) return alive->fail(std::move(*alive->refusal_), "refused");
    alive->fail(refusalOf(status.error(), alive->rule("statement")));
  };
}

void SqlRun::query() {
  std::vector<PgParam> params;
  for (size_t i = 0; i < ask_.params.size(); ++i)
    params.push_back({oidOf(action().params[i].type), ask_.params[i]});
  (*lease_)->run(action().statement, params, action().bytes_max, this, then(&SqlRun::commit));
}

base::Status SqlRun::onColumns(std::vector<ColumnOf> columns) {
  return writer_.begin(std::move(columns));
}

base::Status SqlRun::tooMuch(const char* key, std::string what) {
  refusal_ = {Code::invalidArgument,     413, rule(key), "the answer has more than " + what,
              "Ask for less at a time.", 0};
  return base::fail(refusal_->error());
}

base::Status SqlRun::onLargeRow() {
  return tooMuch("bytes_max", fmt::format("{} bytes", action().bytes_max));
}

base::Status SqlRun::onRow(const std::vector<Cell>& cells, bool& more) {
  writer_.row(cells);
  const uint64_t bytes = line_.answer_bytes + writer_.pending();
  if (writer_.rows() > rows_max_) return tooMuch("rows_max", fmt::format("{} rows", rows_max_));
  if (bytes > action().bytes_max) return onLargeRow();
  if (!action().read_only || writer_.pending() < kPieceBytes) return base::Unit{};
  if (!flow_->begun()) flow_->head(200, headersOf(ask_.format), -1);
  MAYFLY_CHECK(give());
  more = !flow_->full();
  return base::Unit{};
}

base::Status SqlRun::give() {
  const std::string text = writer_.take();
  line_.answer_bytes += text.size();
  auto spent = ticket_->spend(text.size(), base::monotonicNs());
  if (!spent) {
    refusal_ = std::move(spent).error();
    return base::fail(refusal_->error());
  }
  flow_->write(text);
  return base::Unit{};
}

void SqlRun::commit() {
  committing_ = true;
  (*lease_)->runScript("COMMIT", then(&SqlRun::committed));
}

void SqlRun::committed() {
  giveBack(std::move(lease_));
  writer_.end();
  if (!flow_->begun()) {
    const std::string whole = writer_.take();
    line_.answer_bytes = whole.size();
    if (!key_.empty()) {
      Outcome outcome;
      outcome.status = 200;
      for (const broker::Header& each : headersOf(ask_.format))
        outcome.headers.emplace_back(each.name, each.value);
      outcome.body = whole;
      hub_.journal.ask<base::Status>(
          [key = std::exchange(key_, {}), outcome = std::move(outcome),
           now_ms = wallMs()](Journal& journal) { return journal.finish(key, outcome, now_ms); },
          [run = self(), whole](base::Status) {
            if (run->isDone()) return;
            run->flow_->head(200, headersOf(run->ask_.format), static_cast<int64_t>(whole.size()));
            run->flow_->write(whole);
            run->ended();
          });
      return;
    }
    flow_->head(200, headersOf(ask_.format), static_cast<int64_t>(whole.size()));
    flow_->write(whole);
  } else if (auto given = give(); !given) {
    return fail(std::move(*refusal_), "refused");
  }
  ended();
}

void SqlRun::ended() {
  flow_->end();
  done("allowed", {}, 200);
}

void SqlRun::replay(const Outcome& outcome) {
  if (!outcome.body_kept)
    return fail({Code::failedPrecondition,
                 409,
                 rule("outcome"),
                 "this statement was run already; its answer was not kept",
                 {},
                 0},
                "replayed");
  std::vector<broker::Header> headers{{"mayfly-replayed", "1"}};
  for (const auto& [name, value] : outcome.headers) headers.push_back({name, value});
  flow_->head(static_cast<uint16_t>(outcome.status), headers,
              static_cast<int64_t>(outcome.body.size()));
  flow_->write(outcome.body);
  flow_->end();
  line_.answer_bytes = outcome.body.size();
  done("replayed", {}, outcome.status);
}

// A state that one task left in the connection is none of the next one's.
void SqlRun::giveBack(std::unique_ptr<SqlPools::Lease> lease) {
  if (!lease) return;
  auto kept = std::make_shared<std::unique_ptr<SqlPools::Lease>>(std::move(lease));
  (**kept)->runScript("DISCARD ALL", [kept](base::Status status) {
    auto own = std::move(*kept);
    if (status) own->giveBack();
  });
}

void SqlRun::settle(bool doubt) {
  if (key_.empty()) return;
  hub_.journal.ask<base::Status>(
      [key = std::exchange(key_, {}), doubt](Journal& journal) {
        return doubt ? journal.lose(key) : journal.forget(key);
      },
      [](base::Status) {});
}

void SqlRun::fail(Refusal why, std::string_view outcome) {
  if (isDone()) return;
  const auto alive = shared_from_this();
  // Without its COMMIT, the server rolls the transaction back; only a lost COMMIT leaves a doubt.
  settle(committing_ && why.code != Code::failedPrecondition && why.code != Code::invalidArgument);
  lease_.reset();
  flow_->fail(why);
  done(outcome, why.rule, why.http_status);
}

void SqlRun::stop(const Refusal& why) { fail(why, "revoked"); }

void SqlRun::look(uint64_t now_ns) {
  const uint64_t bound_ms = action().time_ms_max + kGraceMs;
  if (isDone() || (now_ns - begun_ns_) / kMsNs < bound_ms) return;
  fail({Code::deadlineExceeded,
        504,
        rule("time_max"),
        fmt::format("the call took longer than {} ms", bound_ms),
        {},
        0});
}

void SqlRun::onRoom() {
  if (lease_) (*lease_)->resume();
}

void SqlRun::onGone() {
  if (!isDone()) fail({Code::cancelled, 502, "box", "the box takes no more of the answer", {}, 0});
}

}  // namespace mayfly::vault
