#include "edge/convert.h"

namespace mayfly::edge {

using base::Code;
using base::Phase;

namespace {

constexpr uint64_t kDefault32 = 0xffffffffu;
constexpr uint64_t kDefault64 = 0xffffffffffffffffu;
static_assert(schema::DEFAULT32 == kDefault32 && schema::DEFAULT64 == kDefault64);

// Enums cross as numbers: schema and base list the same values in the same order.
static_assert(static_cast<int>(schema::Verdict::INTERNAL) ==
              static_cast<int>(base::Verdict::internal));
static_assert(static_cast<int>(schema::Verdict::CANCELLED) ==
              static_cast<int>(base::Verdict::cancelled));
static_assert(static_cast<int>(schema::Verdict::OUTPUT) == static_cast<int>(base::Verdict::output));
static_assert(static_cast<int>(schema::Verdict::QUEUE_TIME) ==
              static_cast<int>(base::Verdict::queueTime));
static_assert(static_cast<int>(schema::Verdict::QUEUE_TIME) + 1 == base::kVerdicts);
static_assert(static_cast<int>(schema::ErrorCode::INTERNAL) == static_cast<int>(Code::internal));
static_assert(static_cast<int>(schema::ErrorCode::UNAVAILABLE) ==
              static_cast<int>(Code::unavailable));
static_assert(static_cast<int>(schema::ErrorCode::PERMISSION_DENIED) ==
              static_cast<int>(Code::permissionDenied));

}  // namespace

void put(schema::Error::Builder out, const base::Error& error) {
  out.setCode(static_cast<schema::ErrorCode>(error.code));
  out.setMessage(text(error.message));
  out.setAdvice(text(error.advice));
  out.setRetryable(error.retryable());
  out.setRetryAfterMs(error.retry_after_ms);
}

base::Status get(schema::Error::Reader in) {
  auto code = static_cast<uint16_t>(in.getCode());
  if (code == 0) return base::Unit{};
  // A newer daemon may know more codes than this side.
  if (code > static_cast<uint16_t>(Code::internal)) code = static_cast<uint16_t>(Code::internal);
  return base::fail(base::Error{static_cast<Code>(code), str(in.getMessage()), str(in.getAdvice()),
                                0, in.getRetryAfterMs()});
}

void put(schema::Limits::Builder out, const base::Limits& limits) {
#define MAYFLY_CAP(member, type, standard, unit, lowest, highest, key, Wire, ...) \
  out.set##Wire(limits.member);
  MAYFLY_CAPS(MAYFLY_CAP)
#undef MAYFLY_CAP
}

base::Limits get(schema::Limits::Reader in) {
  base::Limits limits;
#define MAYFLY_CAP(member, type, standard, unit, lowest, highest, key, Wire, ...) \
  limits.member = in.get##Wire();
  MAYFLY_CAPS(MAYFLY_CAP)
#undef MAYFLY_CAP
  return limits;
}

void put(schema::Usage::Builder out, const base::Usage& usage) {
  out.setWallNs(usage.wall_ns);
  out.setUserCpuNs(usage.user_cpu_ns);
  out.setSystemCpuNs(usage.system_cpu_ns);
  out.setMemoryPeakBytes(usage.memory_peak_bytes);
  out.setProcessesPeak(usage.processes_peak);
  out.setStdoutBytes(usage.stdout_bytes);
  out.setStderrBytes(usage.stderr_bytes);
  out.setDiskBytes(usage.disk_bytes);
  out.setDiskInodes(usage.disk_inodes);
  out.setFreshRuntime(usage.fresh_runtime);
}

base::Usage get(schema::Usage::Reader in) {
  base::Usage usage;
  usage.wall_ns = in.getWallNs();
  usage.user_cpu_ns = in.getUserCpuNs();
  usage.system_cpu_ns = in.getSystemCpuNs();
  usage.memory_peak_bytes = in.getMemoryPeakBytes();
  usage.processes_peak = in.getProcessesPeak();
  usage.stdout_bytes = in.getStdoutBytes();
  usage.stderr_bytes = in.getStderrBytes();
  usage.disk_bytes = in.getDiskBytes();
  usage.disk_inodes = in.getDiskInodes();
  usage.fresh_runtime = in.getFreshRuntime();
  return usage;
}

void put(schema::Phases::Builder out, const base::Phases& phases) {
  auto at = [&](Phase phase) { return phases[static_cast<size_t>(phase)]; };
  out.setQueuedNs(at(Phase::queued));
  out.setBoxNs(at(Phase::box));
  out.setBoxReadyNs(at(Phase::boxReady));
  out.setCloneNs(at(Phase::clone));
  out.setClaimedNs(at(Phase::claimed));
  out.setStartedNs(at(Phase::started));
  out.setFirstByteNs(at(Phase::firstByte));
  out.setExitedNs(at(Phase::exited));
  out.setReapedNs(at(Phase::reaped));
  out.setReceiptNs(at(Phase::receipt));
}

base::Phases get(schema::Phases::Reader in) {
  base::Phases phases{};
  auto at = [&](Phase phase) -> uint64_t& { return phases[static_cast<size_t>(phase)]; };
  at(Phase::queued) = in.getQueuedNs();
  at(Phase::box) = in.getBoxNs();
  at(Phase::boxReady) = in.getBoxReadyNs();
  at(Phase::clone) = in.getCloneNs();
  at(Phase::claimed) = in.getClaimedNs();
  at(Phase::started) = in.getStartedNs();
  at(Phase::firstByte) = in.getFirstByteNs();
  at(Phase::exited) = in.getExitedNs();
  at(Phase::reaped) = in.getReapedNs();
  at(Phase::receipt) = in.getReceiptNs();
  return phases;
}

void put(schema::Receipt::Builder out, const base::Receipt& receipt) {
  out.setBox(receipt.box);
  out.setComplete(receipt.complete);
  out.setReapedNs(receipt.reaped_ns);
  out.setUnpopulatedNs(receipt.unpopulated_ns);
  out.setFdsClosedNs(receipt.fds_closed_ns);
  out.setCgroupsGoneNs(receipt.cgroups_gone_ns);
  out.setUidFreeNs(receipt.uid_free_ns);
  out.setMissing(text(receipt.missing));
  out.setRevokedNs(receipt.revoked_ns);
  out.setBrokerClosedNs(receipt.broker_closed_ns);
  out.setNote(text(receipt.note));
}

base::Receipt get(schema::Receipt::Reader in) {
  base::Receipt receipt;
  receipt.box = in.getBox();
  receipt.complete = in.getComplete();
  receipt.reaped_ns = in.getReapedNs();
  receipt.unpopulated_ns = in.getUnpopulatedNs();
  receipt.fds_closed_ns = in.getFdsClosedNs();
  receipt.cgroups_gone_ns = in.getCgroupsGoneNs();
  receipt.uid_free_ns = in.getUidFreeNs();
  receipt.missing = str(in.getMissing());
  receipt.revoked_ns = in.getRevokedNs();
  receipt.broker_closed_ns = in.getBrokerClosedNs();
  receipt.note = str(in.getNote());
  return receipt;
}

schema::Verdict put(base::Verdict verdict) { return static_cast<schema::Verdict>(verdict); }

base::Verdict get(schema::Verdict verdict) {
  auto number = static_cast<size_t>(verdict);
  return number < base::kVerdicts ? static_cast<base::Verdict>(number) : base::Verdict::internal;
}

base::Error errorOf(const kj::Exception& exception) {
  std::string text(exception.getDescription().begin(), exception.getDescription().end());
  // KJ puts a prefix before the other side's text; it tells people nothing.
  constexpr std::string_view prefix = "remote exception: ";
  if (text.starts_with(prefix)) text.erase(0, prefix.size());
  switch (exception.getType()) {
    case kj::Exception::Type::DISCONNECTED:
      return {base::Code::unavailable, "the connection has ended: " + text, "Connect again.", 0};
    case kj::Exception::Type::OVERLOADED:
      return {base::Code::resourceExhausted, text, "Try again later.", 0};
    case kj::Exception::Type::UNIMPLEMENTED:
      return {base::Code::failedPrecondition, "the other side does not know this call: " + text,
              "Update the older of daemon and client.", 0};
    case kj::Exception::Type::FAILED:
      break;
  }
  return {base::Code::internal, text, {}, 0};
}

}  // namespace mayfly::edge
