#include "base/observer.h"

namespace mayfly::base {

namespace {

template <class Enum, size_t kCount>
std::string_view nameOf(Enum value, const std::array<std::string_view, kCount>& names) {
  return names[static_cast<size_t>(value) % kCount];
}

}  // namespace

std::string_view name(Launch launch) {
  return nameOf<Launch, kLaunches>(launch, {"none", "parked", "stocked", "made"});
}

std::string_view name(ClaimKind kind) {
  return nameOf<ClaimKind, kClaimKinds>(kind, {"parked", "waited", "made"});
}

std::string_view name(MakeStep step) {
  return nameOf<MakeStep, kMakeSteps>(step, {"box", "clone", "park", "whole"});
}

std::string_view name(SizeReason reason) {
  return nameOf<SizeReason, kSizeReasons>(
      reason, {"unused", "minimum", "forecast", "bursts", "maximum", "budget"});
}

std::string_view name(RefusedBy by) {
  return nameOf<RefusedBy, kRefusedBys>(
      by, {"request", "unknownTemplate", "stopping", "notServing", "quarantine", "connection",
           "tenant", "user", "host", "other"});
}

std::string_view name(AuditFinding::Kind kind) {
  return nameOf<AuditFinding::Kind, kAuditKinds>(
      kind, {"strayCgroup", "strayProcess", "strayMount", "lostBox"});
}

}  // namespace mayfly::base
