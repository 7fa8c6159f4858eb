#include "vault/http_run.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/clock.h"
#include "broker/address.h"
#include "broker/journal_key.h"
#include "vault/sigv4.h"

namespace mayfly::vault {

using base::Code;
using broker::Refusal;

namespace {

constexpr size_t kUpWindowBytes = 128u << 10;
constexpr size_t kReplayableBytes = 64u << 10;    // of a body: kept for a kept connection that died
constexpr size_t kSwallowedBytesMax = 64u << 10;  // of a redirect's own body

Refusal upstreamRefusal(Failure failure, const std::string& why, const broker::HttpCall& call,
                        const std::string& rule) {
  const std::string text = fmt::format("{}: {}", call.authority(), why);
  switch (failure) {
    case Failure::address:
      return {Code::permissionDenied,
              403,
              rule + ".addresses",
              text,
              "The operator can name the address in the policy.",
              0};
    case Failure::time:
      return {Code::deadlineExceeded, 504, rule + ".time", text, {}, 0};
    default:
      return {Code::unavailable, 502, rule + "." + std::string(name(failure)), text, {}, 0};
  }
}

}  // namespace

HttpRun::HttpRun(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line, Ask ask,
                 schema::Down::Client down)
    : Run(hub, std::move(ticket), std::move(line)),
      ask_(std::move(ask)),
      flow_(std::make_shared<Flow>(kj::mv(down), hub.tasks, *this)),
      whole_(ask_.call.write || (auth() != nullptr && hashesBody(*auth(), ask_.call))),
      progress_ns_(begun_ns_) {}

std::shared_ptr<HttpRun> HttpRun::start(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line,
                                        Ask ask, schema::Down::Client down) {
  std::shared_ptr<HttpRun> run(
      new HttpRun(hub, std::move(ticket), std::move(line), std::move(ask), kj::mv(down)));
  hub.add(run);
  // A body that is none has no end of its own that must be waited for.
  if (run->ask_.body_bytes == 0) {
    run->body_ended_ = true;
    run->beginning_ = run->flow_->beginning();
  }
  if (!run->whole_)
    run->send();
  else if (run->body_ended_)
    run->bodyWhole();
  return run;
}

const config::Auth* HttpRun::auth() const {
  const config::HttpAction* http = ask_.grant.http();
  return http == nullptr ? nullptr : &http->auth;
}

bool HttpRun::scrubs() const {
  const config::HttpAction* http = ask_.grant.http();
  return http != nullptr && http->scrub && http->auth.kind != config::Auth::Kind::none;
}

// --- the body ----------------------------------------------------------------------

broker::Decision<kj::Promise<void>> HttpRun::onUp(std::string_view bytes) {
  if (isDone()) return broker::refuse({Code::cancelled, 502, {}, "the call has ended", {}, 0});
  // Else what follows the announced length would be the next request on the upstream's connection,
  // and one that no rule has seen.
  if (body_ended_ || (ask_.body_bytes >= 0 &&
                      bytes.size() > static_cast<uint64_t>(ask_.body_bytes) - body_came_)) {
    Refusal refusal{Code::invalidArgument,
                    400,
                    rule("request"),
                    "the body is longer than its announced length",
                    {},
                    0};
    if (!body_ended_) fail(refusal, "refused");
    return broker::refuse(std::move(refusal));
  }
  if (!up_waits_.empty())
    return broker::refuse({Code::invalidArgument, 400, {}, "an earlier write still waits", {}, 0});
  body_came_ += bytes.size();
  line_.request_bytes = body_came_;
  progress_ns_ = base::monotonicNs();
  std::optional<Refusal> refusal;
  uint64_t wait_ns = 0;
  if (body_came_ > ask_.call.rules->request_bytes_max)
    refusal = {Code::invalidArgument,
               413,
               rule("request_max"),
               fmt::format("the body has more than {} bytes", ask_.call.rules->request_bytes_max),
               {},
               0};
  else if (auto spent = ticket_->spend(bytes.size(), progress_ns_); spent)
    wait_ns = *spent;
  else
    refusal = std::move(spent).error();
  if (!refusal && whole_) {
    const uint64_t held_max = hub_.book.policy()->bounds.held_bytes_max;
    if (hub_.held.take(session(), line_.uid, bytes.size(), held_max))
      held_ += bytes.size();
    else
      refusal = {Code::resourceExhausted, 429,
                 "bounds.held_max",       "too many bodies wait in the broker",
                 "Try again later.",      1'000};
  }
  if (refusal) {
    fail(*refusal, "refused");
    return broker::refuse(std::move(*refusal));
  }
  body_.append(bytes);
  if (wants_body_ && transfer_) {
    wants_body_ = false;
    transfer_->resume();
  }
  kj::Promise<void> room = kj::READY_NOW;
  if (!whole_ && !isDone() && body_.size() - body_at_ >= kUpWindowBytes) {
    auto paf = kj::newPromiseAndFulfiller<void>();
    up_waits_.add(kj::mv(paf.fulfiller));
    room = kj::mv(paf.promise);
  }
  if (wait_ns == 0) return kj::mv(room);
  return hub_.timer.afterDelay(wait_ns * kj::NANOSECONDS).then([room = kj::mv(room)]() mutable {
    return kj::mv(room);
  });
}

void HttpRun::releaseUp() {
  auto waits = kj::mv(up_waits_);
  up_waits_ = {};
  for (auto& each : waits) each->fulfill();
}

void HttpRun::onUpEnd() {
  if (isDone() || std::exchange(body_ended_, true)) return;
  progress_ns_ = base::monotonicNs();
  if (ask_.body_bytes > 0 && body_came_ != static_cast<uint64_t>(ask_.body_bytes))
    return fail({Code::invalidArgument,
                 400,
                 rule("request"),
                 "the body is shorter than its announced length",
                 {},
                 0},
                "refused");
  if (whole_) return bodyWhole();
  if (wants_body_ && transfer_) {
    wants_body_ = false;
    transfer_->resume();
  }
}

void HttpRun::onUpDropped() {
  if (!isDone()) fail({Code::cancelled, 502, "box", "the box gave the call up", {}, 0});
}

size_t HttpRun::onWanted(char* to, size_t size) {
  if (aborted_) return Transfer::kAbort;
  const size_t n = std::min(size, body_.size() - body_at_);
  if (n == 0 && body_ended_) return 0;
  if (n == 0) {
    wants_body_ = true;
    return Transfer::kPause;
  }
  body_.copy(to, n, body_at_);
  body_at_ += n;
  progress_ns_ = base::monotonicNs();
  if (!whole_ && body_at_ > kReplayableBytes) {
    body_dropped_ += body_at_;
    body_.erase(0, body_at_);
    body_at_ = 0;
  }
  if (body_.size() - body_at_ < kUpWindowBytes / 2) releaseUp();
  return n;
}

bool HttpRun::onRewind() {
  if (body_dropped_ > 0) return false;
  body_at_ = 0;
  return true;
}

void HttpRun::bodyWhole() {
  if (!ask_.call.write) return send();
  record();
}

// --- the journal -------------------------------------------------------------------

void HttpRun::record() {
  broker::JournalHash hash(line_.task, ask_.step, grant(), ask_.call.method, ask_.call.url());
  hash.body(body_);
  const broker::JournalKey sum = hash.finish();
  const std::string key(sum.begin(), sum.end());
  hub_.record(key, ask_.grant.rule(), line_,
              [self = std::static_pointer_cast<HttpRun>(shared_from_this()),
               key](broker::Decision<std::optional<Outcome>> asked) {
                self->onRecorded(key, std::move(asked));
              });
}

void HttpRun::onRecorded(const std::string& key, broker::Decision<std::optional<Outcome>> asked) {
  if (asked && !*asked) key_ = key;
  if (isDone()) return settle(Failure::connect);  // revoked meanwhile; nothing was sent
  if (!asked) return fail(std::move(asked).error(), "refused");
  if (*asked) return replay(**asked);
  send();
}

void HttpRun::replay(const Outcome& outcome) {
  if (!outcome.body_kept)
    return fail({Code::failedPrecondition,
                 409,
                 rule("outcome_max"),
                 fmt::format("this action was done already, with status {}; its answer was not "
                             "kept",
                             outcome.status),
                 {},
                 0},
                "replayed");
  std::vector<broker::Header> headers;
  for (const auto& [name, value] : outcome.headers) headers.push_back({name, value});
  headers.push_back({"mayfly-replayed", "1"});
  flow_->head(static_cast<uint16_t>(outcome.status), std::move(headers),
              static_cast<int64_t>(outcome.body.size()));
  flow_->write(outcome.body);
  flow_->end();
  line_.answer_bytes = outcome.body.size();
  done("replayed", {}, outcome.status);
  finishWhole();
}

void HttpRun::settle(Failure failure) {
  if (key_.empty()) return;
  const bool unsent = failure == Failure::address || failure == Failure::resolve ||
                      failure == Failure::connect || failure == Failure::tls;
  hub_.journal.ask<base::Status>([key = std::exchange(key_, {}), unsent](
                                     Journal& j) { return unsent ? j.forget(key) : j.lose(key); },
                                 [](base::Status) {});
}

// --- the transfer ------------------------------------------------------------------

void HttpRun::send() {
  if (auto sent = sendNow(); !sent) {
    settle(Failure::connect);
    fail(refusalOf(sent.error(), rule("secret")));
  }
}

base::Status HttpRun::sendNow() {
  const config::HttpRules& rules = *ask_.call.rules;
  const bool hashes = auth() != nullptr && hashesBody(*auth(), ask_.call);
  MAYFLY_TRY(Rendered rendered,
             render(ask_.call, auth(), hub_.secrets, {hashes ? sha256Hex(body_) : std::string()},
                    wallMs() / 1'000));
  if (scrubs()) patterns_ = hub_.patternsFor(grant(), rendered.used, rendered.forms);
  TransferSpec spec{ask_.call.method, std::move(rendered.url), std::move(rendered.headers)};
  spec.host = ask_.call.host;
  spec.port = ask_.call.port;
  spec.session = session();
  spec.uid = line_.uid;
  spec.tls = ask_.call.tls;
  spec.body_bytes = whole_ ? static_cast<int64_t>(body_.size()) : ask_.body_bytes;
  const std::string& method = ask_.call.method;
  if (spec.body_bytes == 0 && (method == "POST" || method == "PUT" || method == "PATCH"))
    spec.headers.push_back("content-length: 0");
  spec.fresh = ask_.call.write;
  spec.connect_ms_max = rules.connect_ms_max;
  spec.time_ms_max = rules.time_ms_max;
  if (!rules.ca.empty()) {
    MAYFLY_TRY(spec.ca, hub_.secrets.find(rules.ca));
  }
  // The grant keeps the policy, which has them.
  spec.allows = [named = &rules.allow_addresses](const config::Address& address) {
    return broker::isAllowed(address, *named);
  };
  MAYFLY_TRY(transfer_, Transfer::start(hub_.curl, hub_.resolver, std::move(spec), *this));
  return base::Unit{};
}

TransferEvents::Take HttpRun::abort(Refusal why) {
  aborted_ = std::move(why);
  return Take::abort;
}

TransferEvents::Take HttpRun::onHead(int status, Headers headers, int64_t bytes) {
  progress_ns_ = base::monotonicNs();
  status_ = status;
  const auto* http = ask_.grant.http();
  auto location = std::find_if(headers.begin(), headers.end(),
                               [](const auto& each) { return each.first == "location"; });
  if (http != nullptr && location != headers.end() && redirects_ < http->redirects_max) {
    redirect_ = broker::decideRedirect(ask_.grant, ask_.call, static_cast<uint16_t>(status),
                                       location->second);
    if (redirect_) return Take::taken;
  }
  std::vector<broker::Header> came;
  came.reserve(headers.size());
  for (auto& [name, value] : headers) came.push_back({std::move(name), std::move(value)});
  auto decided = broker::decideAnswer(ask_.grant, ask_.call, came);
  if (!decided) return abort(std::move(decided).error());
  if (patterns_ && !patterns_->empty()) {
    std::erase_if(*decided, [this](const broker::Header& each) {
      return broker::scrubbed(patterns_, each.name) != each.name;
    });
    for (broker::Header& each : *decided) each.value = broker::scrubbed(patterns_, each.value);
    scrubber_.emplace(patterns_);
  }
  if (bytes >= 0 && static_cast<uint64_t>(bytes) > ask_.call.rules->response_bytes_max &&
      ask_.call.method != "HEAD")
    return abort({Code::unavailable,
                  502,
                  rule("response_max"),
                  fmt::format("the answer has {} bytes; allowed are {}", bytes,
                              ask_.call.rules->response_bytes_max),
                  {},
                  0});
  if (!key_.empty()) {
    outcome_.status = status;
    for (const broker::Header& each : *decided)
      outcome_.headers.emplace_back(each.name, each.value);
  }
  // A length would show the box the end of a recorded answer before its outcome is on disk.
  flow_->head(static_cast<uint16_t>(status), std::move(*decided), key_.empty() ? bytes : -1);
  return Take::taken;
}

TransferEvents::Take HttpRun::onData(std::string_view bytes) {
  const uint64_t now_ns = base::monotonicNs();
  if (redirect_) {
    line_.answer_bytes += bytes.size();
    return line_.answer_bytes > kSwallowedBytesMax ? Take::abort : Take::taken;
  }
  if (flow_->full() || now_ns < paused_until_ns_) {
    paused_ = true;
    return Take::later;
  }
  progress_ns_ = now_ns;
  line_.answer_bytes += bytes.size();
  if (line_.answer_bytes > ask_.call.rules->response_bytes_max)
    return abort(
        {Code::unavailable,
         502,
         rule("response_max"),
         fmt::format("the answer has more than {} bytes", ask_.call.rules->response_bytes_max),
         {},
         0});
  auto spent = ticket_->spend(bytes.size(), now_ns);
  if (!spent) return abort(std::move(spent).error());
  if (*spent > 0) paused_until_ns_ = now_ns + *spent;
  if (scrubber_)
    give(scrubber_->write(bytes));
  else
    give(bytes);
  return Take::taken;
}

void HttpRun::give(std::string_view bytes) {
  if (bytes.empty()) return;
  if (!key_.empty() && outcome_.body_kept) {
    const config::HttpAction* http = ask_.grant.http();
    if (outcome_.body.size() + bytes.size() > http->outcome_bytes_max) {
      outcome_.body_kept = false;
      outcome_.body.clear();
    } else {
      outcome_.body += bytes;
    }
  }
  flow_->write(bytes);
}

void HttpRun::onRoom() {
  if (paused_ && transfer_ && base::monotonicNs() >= paused_until_ns_) {
    paused_ = false;
    transfer_->resume();
  }
}

void HttpRun::onGone() {
  if (!isDone()) fail({Code::cancelled, 502, "box", "the box takes no more of the answer", {}, 0});
}

void HttpRun::onEnd(Failure failure, const std::string& why) {
  const auto self = shared_from_this();  // the transfer goes with it, or with the next one
  if (aborted_) {
    settle(Failure::upstream);
    return fail(std::move(*aborted_));
  }
  if (redirect_) {
    ask_.call = std::move(*redirect_);
    redirect_.reset();
    ++redirects_;
    line_.answer_bytes = 0;
    ask_.body_bytes = 0;
    body_.clear();
    body_at_ = 0;
    body_ended_ = true;
    return send();
  }
  if (failure != Failure::none) {
    settle(failure);
    return fail(upstreamRefusal(failure, why, ask_.call, ask_.grant.rule()));
  }
  if (scrubber_) give(scrubber_->finish());
  if (key_.empty()) return ended();
  // The end is told once the outcome is on disk.
  hub_.journal.ask<base::Status>(
      [key = std::exchange(key_, {}), outcome = std::move(outcome_),
       now_ms = wallMs()](Journal& journal) { return journal.finish(key, outcome, now_ms); },
      [this, self](base::Status) { ended(); });
}

void HttpRun::ended() {
  if (isDone()) return;
  flow_->end();
  done("allowed", {}, status_);
  finishWhole();
}

void HttpRun::finishWhole() {
  hub_.held.give(session(), line_.uid, std::exchange(held_, 0));
  releaseUp();
}

void HttpRun::fail(Refusal why, std::string_view outcome) {
  if (isDone()) return;
  const auto self = shared_from_this();
  transfer_.reset();
  settle(Failure::upstream);
  flow_->fail(why);
  done(outcome, why.rule, flow_->begun() ? status_ : why.http_status);
  finishWhole();
}

void HttpRun::stop(const Refusal& why) { fail(why, "revoked"); }

void HttpRun::look(uint64_t now_ns) {
  if (isDone()) return;
  const config::HttpRules& rules = *ask_.call.rules;
  if (paused_ && !flow_->full()) onRoom();
  const bool answering = flow_->begun();
  const uint64_t quiet_ms = (now_ns - std::min(now_ns, progress_ns_)) / kMsNs;
  const bool waits_for_answer = !answering && body_ended_;
  const uint64_t bound = waits_for_answer ? rules.answer_ms_max : rules.idle_ms_max;
  if (quiet_ms >= bound)
    return fail({Code::deadlineExceeded,
                 504,
                 rule(waits_for_answer ? "answer_time" : "idle_time"),
                 fmt::format("nothing moved for {} ms", quiet_ms),
                 {},
                 0});
  if ((now_ns - begun_ns_) / kMsNs >= rules.time_ms_max)
    fail({Code::deadlineExceeded,
          504,
          rule("time"),
          fmt::format("the call took longer than {} ms", rules.time_ms_max),
          {},
          0});
}

}  // namespace mayfly::vault
