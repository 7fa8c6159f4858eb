// The templates that the daemon serves, the lanes of each, and their states.
//
// A lane is a zygote with its pool. Most templates have one lane for all tasks. If tenants must not
// share a zygote, each tenant has a lane of its own: a tenant's first task takes over the
// template's spare lane, which has served no task, and another spare is opened. A tenant's lane
// that is unused for a while is closed, and sooner if another tenant needs its place.
//
// Decides which zygote to start and when; the engine acts.
//
// Layer: pool. Pure: time is an argument. Core thread.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "pool/template_spec.h"
#include "pool/zygote_fsm.h"

namespace mayfly::pool {

inline constexpr uint32_t kTemplatesServedMax = 63;  // a daemon's uid ranges, besides its own
// Of all templates. The remaining ranges are for successors and for draining zygotes.
inline constexpr uint32_t kTenantLanesMax = 40;
inline constexpr uint64_t kTenantKept_ns = 1'000'000'000;    // before another tenant may replace it
inline constexpr uint64_t kTenantIdle_ns = 600'000'000'000;  // then a tenant's lane is closed

struct Order {
  enum class Act : uint8_t { publish, retire };
  base::LaneId lane = 0;
  Act act = Act::publish;
};

struct Lane {
  base::TemplateId tmpl = 0;
  std::string tenant;  // empty: a lane for all, or the spare one
  bool spare = false;
  uint32_t tasks = 0;    // not ended
  uint64_t used_ns = 0;  // the end of its last task
  ZygoteFsm fsm;
};

class TemplateRegistry {
 public:
  // Opens the template's first lane; takeOpened() names it.
  base::Result<base::TemplateId> add(TemplateSpec spec, uint64_t now_ns);

  // --- templates ---
  size_t size() const { return templates_.size(); }
  const TemplateSpec* find(std::string_view name, base::TemplateId* id = nullptr) const;
  const TemplateSpec* get(base::TemplateId id) const;
  std::string_view state(base::TemplateId id) const;  // starting, ready, unhealthy, missingImage
  std::string_view stateText(base::TemplateId id) const;
  uint32_t renewals(base::TemplateId id) const;  // of the open lanes
  // What a clone takes before its task runs: see TemplateSpec.
  void setLeast(base::TemplateId id, uint64_t memory_bytes, uint32_t processes);
  // Every template has been ready or has failed at least once.
  bool settled() const;

  // --- lanes ---
  // The lane for the tenant's task, or the typed refusal. May open lanes and close one.
  base::Result<base::LaneId> laneFor(base::TemplateId id, std::string_view tenant, uint64_t now_ns);
  std::vector<base::LaneId> takeOpened() { return std::exchange(opened_, {}); }
  std::vector<base::LaneId> takeClosed() { return std::exchange(closed_, {}); }
  const Lane* lane(base::LaneId id) const;
  const TemplateSpec& specOf(base::LaneId id) const;  // of an open lane
  bool ready(base::LaneId id) const;
  bool unhealthy(base::LaneId id) const;
  bool probing(base::LaneId id) const;  // see ZygoteFsm
  base::Status accepts(base::LaneId id, uint64_t now_ns) const;
  void taskBegan(base::LaneId id);
  void taskEnded(base::LaneId id, uint64_t now_ns);

  // The orders due now; call again at nextDue_ns() (0: nothing is planned). `may_renew`: whether
  // the lane may have one more zygote now.
  std::vector<Order> due(uint64_t now_ns, const std::function<bool(base::LaneId)>& may_renew);
  uint64_t nextDue_ns() const;

  void onReady(base::LaneId id, uint64_t now_ns);  // its zygote serves, or its successor does
  bool onClone(base::LaneId id, uint64_t now_ns);  // whether nextDue_ns() may have changed
  ZygoteFsm::Do onDied(base::LaneId id, uint64_t now_ns, std::string why);
  void onSuccessorDied(base::LaneId id, uint64_t now_ns, std::string why);
  // See ZygoteFsm.
  void askRenewal(base::LaneId id, uint64_t now_ns);
  void withdrawRenewal(base::LaneId id, uint64_t now_ns);

 private:
  struct Template {
    TemplateSpec spec;
    bool settled = false;
  };
  base::LaneId open(base::TemplateId id, bool spare, uint64_t now_ns);
  void close(base::LaneId id);
  base::Status accepts(const Lane& lane, uint64_t now_ns) const;
  base::Result<base::LaneId> laneOfTenant(base::TemplateId id, std::string_view tenant,
                                          uint64_t now_ns);
  Lane* find(base::LaneId id);
  const Lane* shown(base::TemplateId id) const;

  std::vector<Template> templates_;  // index = id - 1
  std::map<base::LaneId, Lane> lanes_;
  base::LaneId next_lane_ = 1;
  std::vector<base::LaneId> opened_, closed_;
};

}  // namespace mayfly::pool
