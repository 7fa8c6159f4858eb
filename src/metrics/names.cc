// The closed sets of labels, and a task's time in parts.
#include "base/result.h"
#include "base/text.h"
#include "metrics/snapshot.h"

namespace mayfly::metrics {

using base::Phase;
using base::Verdict;

std::string_view name(Outcome outcome) {
  constexpr std::string_view names[kOutcomes] = {"succeeded", "failed",   "capped",
                                                 "stopped",   "unserved", "internal"};
  return names[static_cast<size_t>(outcome) % kOutcomes];
}

Outcome outcomeOf(Verdict verdict) {
  switch (verdict) {
    case Verdict::succeeded:
      return Outcome::succeeded;
    case Verdict::failed:
    case Verdict::signaled:
      return Outcome::failed;
    case Verdict::wallTime:
    case Verdict::cpuTime:
    case Verdict::memory:
    case Verdict::processes:
    case Verdict::output:
    case Verdict::disk:
      return Outcome::capped;
    case Verdict::cancelled:
    case Verdict::clientGone:
    case Verdict::daemonStopping:
      return Outcome::stopped;
    case Verdict::queueTime:
      return Outcome::unserved;
    case Verdict::internal:
      break;
  }
  return Outcome::internal;
}

std::string_view name(Part part) {
  constexpr std::string_view names[kParts] = {"queue", "claim", "start",   "first_byte", "run",
                                              "kill",  "reap",  "receipt", "whole"};
  return names[static_cast<size_t>(part) % kParts];
}

namespace {

// Whether Mayfly killed the task, and did not only clear up behind it.
bool wasKilled(Verdict verdict) {
  const Outcome outcome = outcomeOf(verdict);
  return outcome == Outcome::capped || outcome == Outcome::stopped;
}

struct Ends {
  Phase from, to;
};

Ends endsOf(Part part) {
  switch (part) {
    case Part::queue:
      return {Phase::queued, Phase::box};
    case Part::claim:
      return {Phase::box, Phase::started};
    case Part::start:
      return {Phase::queued, Phase::started};
    case Part::firstByte:
      return {Phase::started, Phase::firstByte};
    case Part::run:
      return {Phase::started, Phase::exited};
    case Part::kill:
    case Part::reap:
      return {Phase::exited, Phase::reaped};
    case Part::receipt:
      return {Phase::reaped, Phase::receipt};
    case Part::whole:
      break;
  }
  return {Phase::queued, Phase::receipt};
}

}  // namespace

bool partOf(const base::Phases& phases, Verdict verdict, Part part, uint64_t* ns) {
  if (part == Part::kill && !wasKilled(verdict)) return false;
  if (part == Part::reap && wasKilled(verdict)) return false;
  const Ends ends = endsOf(part);
  const uint64_t from = phases[static_cast<size_t>(ends.from)];
  const uint64_t to = phases[static_cast<size_t>(ends.to)];
  if (from == 0 || to == 0 || to < from) return false;
  *ns = to - from;
  return true;
}

uint64_t tookNs(const base::Phases& phases, uint64_t now_ns) {
  const uint64_t from = phases[static_cast<size_t>(Phase::queued)];
  const uint64_t receipt = phases[static_cast<size_t>(Phase::receipt)];
  const uint64_t to = receipt != 0 ? receipt : now_ns;
  return from != 0 && to >= from ? to - from : 0;
}

std::string_view codeName(size_t code) {
  return code == 0 || code >= kCodes ? std::string_view("other")
                                     : base::name(static_cast<base::Code>(code));
}

size_t codeOf(std::string_view text) {
  for (size_t code = 1; code < kCodes; ++code)
    if (codeName(code) == text) return code;
  return 0;
}

}  // namespace mayfly::metrics
