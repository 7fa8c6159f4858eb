#include "core/zygotes.h"

#include <string.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/text.h"

namespace mayfly::core {

using base::monotonicNs;
using spawner::Event;
using spawner::Kind;

// Living zygotes: from this number on no successor is started, so that the spawner's uid ranges
// suffice.
constexpr size_t kZygotesOfRenewalMax = 48;
constexpr ptrdiff_t kZygotesOfLaneMax = 4;  // serving, starting, or draining

Zygotes::Zygotes(Context& context, Boxes& boxes) : x_(context), boxes_(boxes), timer_(context.io) {}

Zygotes::~Zygotes() {
  for (auto& [id, z] : zygotes_)
    if (z.log) z.log->close();
}

void Zygotes::addTemplate(base::TemplateId id, base::Fd seccomp, base::Fd snapshot) {
  seccomp_[id] = std::make_shared<base::Fd>(std::move(seccomp));
  if (!snapshot) return;
  snapshots_[id] = std::make_shared<Snapshot>();
  snapshots_[id]->folder = std::make_shared<base::Fd>(std::move(snapshot));
}

// --- a new snapshot ---------------------------------------------------------------------

void Zygotes::refresh(base::TemplateId id, NewSnapshot snapshot, Refreshed done) {
  if (snapshots_.count(id) == 0)
    return done(base::fail(base::Code::failedPrecondition,
                           "template '" + x_.registry.get(id)->name + "' restores no clones"));
  if (auto earlier = fresh_.extract(id))
    earlier.mapped().done(base::fail(base::Code::cancelled, "a newer snapshot has come"));
  auto fresh = std::make_shared<Snapshot>();
  *fresh = {std::make_shared<base::Fd>(std::move(snapshot.folder)), ++last_snapshot_,
            snapshot.memory_least_bytes, snapshot.processes_least};
  fresh_[id] = {std::move(fresh), std::move(done)};
  run();
}

// A successor tries the fresh snapshot, and so does a lane that is unhealthy with the one that has
// served; what must serve at once uses that one.
std::shared_ptr<Zygotes::Snapshot> Zygotes::snapshotFor(base::LaneId id,
                                                        base::TemplateId tmpl) const {
  auto at = snapshots_.find(tmpl);
  if (at == snapshots_.end()) return nullptr;
  auto fresh = fresh_.find(tmpl);
  const bool tries = lanes_.at(id).serving != 0 || x_.registry.probing(id);
  return tries && fresh != fresh_.end() ? fresh->second.snapshot : at->second;
}

// Asks for the renewal of each zygote that serves from another snapshot than a successor would, and
// for another try of unhealthy lanes if there is a fresh one.
void Zygotes::renewOutdated() {
  for (const auto& [id, lane] : lanes_) {
    if (x_.registry.unhealthy(id) && fresh_.count(x_.registry.lane(id)->tmpl) != 0)
      x_.registry.askRenewal(id, monotonicNs());
    auto at = zygotes_.find(lane.serving);
    if (at == zygotes_.end() || lane.successor != 0 || !x_.registry.ready(id)) continue;
    if (at->second.snapshot != snapshotFor(id, at->second.tmpl))
      x_.registry.askRenewal(id, monotonicNs());
  }
}

// renewOutdated() asks again where there is still a reason.
void Zygotes::withdrawRenewals(base::TemplateId id) {
  for (const auto& [lane_id, lane] : lanes_) {
    const pool::Lane* known = x_.registry.lane(lane_id);
    if (known != nullptr && known->tmpl == id) x_.registry.withdrawRenewal(lane_id, monotonicNs());
  }
}

// The zygote serves. Its snapshot is what later ones start from, also if a newer one came before it
// served.
void Zygotes::keepServed(base::TemplateId id, const Zygote& by) {
  if (by.snapshot == nullptr || by.snapshot->failed) return;
  std::shared_ptr<Snapshot>& known = snapshots_.at(id);
  if (by.snapshot->number <= known->number) return;
  known = by.snapshot;
  x_.registry.setLeast(id, known->memory_least_bytes, known->processes_least);
}

// The zygote is the first that serves from the fresh snapshot, or it could not.
void Zygotes::settleFresh(base::TemplateId id, const Zygote& by, base::Status outcome) {
  auto at = fresh_.find(id);
  if (at == fresh_.end() || by.snapshot != at->second.snapshot) return;
  Fresh fresh = std::move(fresh_.extract(at).mapped());
  if (!outcome) {
    fresh.snapshot->failed = true;
    withdrawRenewals(id);
  }
  fresh.done(std::move(outcome));
}

uint32_t Zygotes::countOf(base::TemplateId id) const {
  return static_cast<uint32_t>(std::count_if(zygotes_.begin(), zygotes_.end(),
                                             [id](const auto& z) { return z.second.tmpl == id; }));
}

void Zygotes::closeLane(base::LaneId id) {
  auto lane = lanes_.extract(id);
  if (!lane) return;
  for (base::ZygoteId zygote : {lane.mapped().serving, lane.mapped().successor})
    if (zygote != 0) drain(zygote);
}

// --- starting ---------------------------------------------------------------------------

bool Zygotes::mayRenew(base::LaneId id) const {
  auto of_lane = std::count_if(zygotes_.begin(), zygotes_.end(),
                               [id](const auto& z) { return z.second.lane == id; });
  return of_lane < kZygotesOfLaneMax && zygotes_.size() < kZygotesOfRenewalMax;
}

void Zygotes::run() {
  if (!x_.serving()) return;
  renewOutdated();
  auto may_renew = [this](base::LaneId id) { return mayRenew(id); };
  for (const pool::Order& order : x_.registry.due(monotonicNs(), may_renew)) {
    if (x_.registry.lane(order.lane) == nullptr) continue;
    if (order.act == pool::Order::Act::publish) {
      publish(order.lane);
    } else {
      const OfLane& lane = lanes_[order.lane];
      retire(lane.successor != 0 ? lane.successor : lane.serving);
    }
  }
  x_.events.onLanesChanged();
  arm();
}

void Zygotes::arm() {
  const uint64_t next_ns = x_.registry.nextDue_ns();
  if (next_ns == 0 || x_.stopping != Context::Stopping::no) {
    timer_.cancel();
    return;
  }
  timer_.expires_at(timePoint(next_ns));
  timer_.async_wait([this](boost::system::error_code failed) {
    if (!failed) run();
  });
}

// Starts the lane's zygote, or the successor of the one that serves.
void Zygotes::publish(base::LaneId id) {
  const pool::TemplateSpec& s = x_.registry.specOf(id);
  const base::TemplateId tmpl = x_.registry.lane(id)->tmpl;
  const base::ZygoteId zygote = next_zygote_++;
  OfLane& lane = lanes_[id];
  Zygote& z = zygotes_[zygote];
  z.tmpl = tmpl;
  z.lane = id;
  z.snapshot = snapshotFor(id, tmpl);
  (lane.serving == 0 ? lane.serving : lane.successor) = zygote;
  auto pipe = base::makePipe();
  if (!pipe) return gone(zygote, std::move(pipe).error().message);
  z.log = std::make_shared<LogPump>(
      x_.io, [this, name = s.name](std::string_view line) { x_.observer.zygoteSaid(name, line); });
  if (auto opened = z.log->open(std::move(pipe->read)); !opened)
    return gone(zygote, std::move(opened).error().message);

  spawner::Request r;
  r.op = spawner::Op::publish;
  r.zygote_id = zygote;
  r.flags = s.loopback ? spawner::kLoopback : 0u;
  if (x_.options.broker != nullptr) r.flags |= spawner::kDoors | spawner::kLoopback;
  r.ptys = s.ptys;
  r.limits = s.maximum;
  r.limits.memory_bytes = s.zygote_memory_bytes;
  memcpy(r.digest, s.image_digest.data(), std::min(s.image_digest.size(), sizeof r.digest - 1));
  for (size_t i = 0; i < s.zygote.size(); ++i)
    memcpy(r.zygote[i], s.zygote[i].data(), std::min(s.zygote[i].size(), sizeof r.zygote[i] - 1));
  std::vector<SpawnerLink::SharedFd> fds{seccomp_.at(tmpl),
                                         std::make_shared<base::Fd>(std::move(pipe->write))};
  if (z.snapshot) {
    r.flags |= spawner::kRestore;
    fds.push_back(z.snapshot->folder);
  }
  x_.link.send(r, std::move(fds));
  if (lane.serving == zygote) x_.events.onTemplateChanged(tmpl);
}

// --- serving ----------------------------------------------------------------------------

bool Zygotes::promote(base::ZygoteId id) {
  auto at = zygotes_.find(id);
  if (at == zygotes_.end() || at->second.draining) return false;  // its lane was closed meanwhile
  keepServed(at->second.tmpl, at->second);
  settleFresh(at->second.tmpl, at->second, base::Unit{});
  OfLane& lane = lanes_.at(at->second.lane);
  if (lane.successor == id) {
    drain(std::exchange(lane.serving, std::exchange(lane.successor, 0)));
    x_.observer.zygoteRenewed(x_.registry.get(at->second.tmpl)->name);
  }
  return true;
}

void Zygotes::refuse(base::ZygoteId id, std::string fault) {
  auto at = zygotes_.find(id);
  if (at == zygotes_.end()) return;
  at->second.fault = std::move(fault);
  retire(id);
}

// --- ending -----------------------------------------------------------------------------

void Zygotes::retire(base::ZygoteId id) {
  auto at = zygotes_.find(id);
  if (at == zygotes_.end() || std::exchange(at->second.retiring, true)) return;
  spawner::Request r;
  r.op = spawner::Op::retire;
  r.zygote_id = id;
  x_.link.send(r);
}

void Zygotes::drain(base::ZygoteId id) {
  auto at = zygotes_.find(id);
  if (at == zygotes_.end()) return;
  at->second.draining = true;
  boxDropped(id);
}

void Zygotes::boxDropped(base::ZygoteId id) {
  auto at = zygotes_.find(id);
  if (at != zygotes_.end() && at->second.draining && boxes_.ofZygote(id) == 0) retire(id);
}

void Zygotes::stop() { timer_.cancel(); }

void Zygotes::retireAll() {
  for (auto& [id, z] : zygotes_) retire(id);
}

// --- events of the spawner --------------------------------------------------------------

void Zygotes::onSpawnerEvent(const Event& e) {
  auto at = zygotes_.find(e.zygote_id);
  if (at == zygotes_.end()) return;
  const Zygote& z = at->second;
  if (e.kind == Kind::zygoteReady) {
    if (!z.draining && x_.stopping == Context::Stopping::no)
      x_.events.onZygoteReady({e.zygote_id, z.tmpl, z.lane});
    return;
  }
  const std::string text = base::printable(e.text, sizeof e.text);
  std::string why = text;
  if (e.kind == Kind::zygoteFailed) {
    why = "step '" + base::printable(e.step) + "'";
    if (e.sys != 0) {
      const char* error = ::strerrordesc_np(e.sys);
      why += ": " + std::string(error != nullptr ? error : "unknown error");
    }
    if (!text.empty()) why += ": " + text;
  }
  gone(e.zygote_id, std::move(why));
}

// It failed to start, or ended, asked or not.
void Zygotes::gone(base::ZygoteId id, std::string why) {
  auto node = zygotes_.extract(id);
  Zygote& z = node.mapped();
  if (z.log) z.log->close();  // its last lines are shown before the reason
  if (!z.fault.empty()) why = "it is unfit: " + z.fault;
  if (!z.draining)
    settleFresh(
        z.tmpl, z,
        base::fail(base::Code::failedPrecondition, "no zygote serves from the new snapshot: " + why,
                   "The daemon goes on with the one that it has."));
  using Was = CoreEvents::ZygoteEnd::Was;
  CoreEvents::ZygoteEnd end{{id, z.tmpl, z.lane}, Was::draining, std::move(why)};
  if (auto lane = lanes_.find(z.lane); lane != lanes_.end() && !z.draining) {
    if (lane->second.successor == id) {
      lane->second.successor = 0;
      end.was = Was::successor;
    } else {
      lane->second.serving = std::exchange(lane->second.successor, 0);
      end.was = Was::serving;
    }
  }
  x_.events.onZygoteGone(end);
}

}  // namespace mayfly::core
