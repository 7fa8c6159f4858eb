// The templates that the daemon serves, and the state each is in.
//
// Decides which zygote to start when; the engine acts. Clones are made on demand;
// a pool of parked clones will stand behind the same interface.
//
// Layer: pool. Pure: time is an argument. Core thread.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "pool/template_spec.h"
#include "pool/zygote_fsm.h"

namespace mayfly::pool {

// Ids 1..63: the last uid range of a daemon's slot is the daemon's own.
inline constexpr uint32_t kTemplatesMax = 63;

struct Order {
  base::TemplateId id = 0;
  ZygoteFsm::Do act = ZygoteFsm::Do::nothing;
};

class TemplateRegistry {
 public:
  base::Result<base::TemplateId> add(TemplateSpec spec);

  size_t size() const { return entries_.size(); }
  const TemplateSpec* find(std::string_view name, base::TemplateId* id = nullptr) const;
  const TemplateSpec* get(base::TemplateId id) const;

  std::string_view state(base::TemplateId id) const;  // starting, ready, unhealthy, missingImage
  std::string_view stateText(base::TemplateId id) const;
  bool ready(base::TemplateId id) const;
  // Whether a task may be queued for it; the typed refusal if not.
  base::Status accepts(base::TemplateId id, uint64_t now_ns) const;
  // Every template has been ready or has failed at least once.
  bool settled() const;

  // What is due now; call again at nextDue_ns() (0: nothing is planned).
  std::vector<Order> due(uint64_t now_ns);
  uint64_t nextDue_ns() const;

  void onReady(base::TemplateId id, uint64_t now_ns);
  ZygoteFsm::Do onDied(base::TemplateId id, uint64_t now_ns, std::string why);
  void onRetired(base::TemplateId id);

 private:
  struct Entry {
    TemplateSpec spec;
    ZygoteFsm fsm;
    bool settled = false;
  };
  const Entry* entry(base::TemplateId id) const {
    return id >= 1 && id <= entries_.size() ? &entries_[id - 1] : nullptr;
  }
  Entry* entry(base::TemplateId id) {
    return id >= 1 && id <= entries_.size() ? &entries_[id - 1] : nullptr;
  }
  std::vector<Entry> entries_;  // index = id - 1
};

}  // namespace mayfly::pool
