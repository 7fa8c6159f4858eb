#include "pool/template_registry.h"

#include <algorithm>
#include <string>

#include "base/text.h"

namespace mayfly::pool {

base::Result<base::TemplateId> TemplateRegistry::add(TemplateSpec spec) {
  if (entries_.size() >= kTemplatesMax)
    return base::fail(base::Code::resourceExhausted,
                      "cannot serve template '" + base::printable(spec.name) + "': a daemon serves " +
                          std::to_string(kTemplatesMax) + " templates at most");
  if (find(spec.name) != nullptr)
    return base::fail(base::Code::alreadyExists,
                      "template '" + base::printable(spec.name) + "' is there twice");
  ZygoteFsm fsm(spec.start_ns_max);
  entries_.push_back(Entry{std::move(spec), std::move(fsm), false});
  Entry& e = entries_.back();
  if (e.spec.image_digest.empty()) {
    e.fsm.retired();
    e.settled = true;
  }
  return static_cast<base::TemplateId>(entries_.size());
}

const TemplateSpec* TemplateRegistry::find(std::string_view name, base::TemplateId* id) const {
  for (size_t i = 0; i < entries_.size(); ++i)
    if (entries_[i].spec.name == name) {
      if (id != nullptr) *id = static_cast<base::TemplateId>(i + 1);
      return &entries_[i].spec;
    }
  return nullptr;
}

const TemplateSpec* TemplateRegistry::get(base::TemplateId id) const {
  const Entry* e = entry(id);
  return e != nullptr ? &e->spec : nullptr;
}

std::string_view TemplateRegistry::state(base::TemplateId id) const {
  const Entry* e = entry(id);
  if (e == nullptr) return "unknown";
  if (e->spec.image_digest.empty()) return "missingImage";
  switch (e->fsm.state()) {
    case ZygoteState::waiting:
    case ZygoteState::starting:
      return "starting";
    case ZygoteState::ready:
      return "ready";
    case ZygoteState::unhealthy:
      return "unhealthy";
    case ZygoteState::retired:
      break;
  }
  return "retired";
}

std::string_view TemplateRegistry::stateText(base::TemplateId id) const {
  const Entry* e = entry(id);
  if (e == nullptr) return {};
  return e->spec.image_digest.empty() ? std::string_view(e->spec.missing_image_text)
                                      : e->fsm.text();
}

bool TemplateRegistry::ready(base::TemplateId id) const {
  const Entry* e = entry(id);
  return e != nullptr && e->fsm.state() == ZygoteState::ready;
}

base::Status TemplateRegistry::accepts(base::TemplateId id, uint64_t now_ns) const {
  const Entry* e = entry(id);
  if (e == nullptr) return base::fail(base::Code::notFound, "there is no such template");
  if (e->spec.image_digest.empty())
    return base::fail(base::Code::failedPrecondition,
                      e->spec.missing_image_text.empty()
                          ? "template '" + e->spec.name + "' has no image"
                          : e->spec.missing_image_text,
                      "Build it with `mayfly image build " + e->spec.name +
                          "` and start the daemon again.");
  if (e->fsm.state() == ZygoteState::unhealthy) {
    uint64_t due_ns = std::max(e->fsm.due_ns(), now_ns);
    return base::fail(base::Code::unavailable,
                      "template '" + e->spec.name + "' is unhealthy: " + std::string(e->fsm.text()),
                      "The daemon's log shows what its zygote said.",
                      static_cast<uint32_t>((due_ns - now_ns) / 1'000'000));
  }
  if (e->fsm.state() == ZygoteState::retired)
    return base::fail(base::Code::unavailable, "template '" + e->spec.name + "' is being retired");
  return base::Unit{};
}

bool TemplateRegistry::settled() const {
  return std::all_of(entries_.begin(), entries_.end(), [](const Entry& e) { return e.settled; });
}

std::vector<Order> TemplateRegistry::due(uint64_t now_ns) {
  std::vector<Order> orders;
  for (size_t i = 0; i < entries_.size(); ++i) {
    auto act = entries_[i].fsm.tick(now_ns);
    if (act != ZygoteFsm::Do::nothing)
      orders.push_back(Order{static_cast<base::TemplateId>(i + 1), act});
  }
  return orders;
}

uint64_t TemplateRegistry::nextDue_ns() const {
  uint64_t next = 0;
  for (const Entry& e : entries_)
    if (uint64_t d = e.fsm.due_ns(); d != 0 && (next == 0 || d < next)) next = d;
  return next;
}

void TemplateRegistry::onReady(base::TemplateId id, uint64_t now_ns) {
  if (Entry* e = entry(id)) {
    e->fsm.ready(now_ns);
    e->settled = true;
  }
}

ZygoteFsm::Do TemplateRegistry::onDied(base::TemplateId id, uint64_t now_ns, std::string why) {
  Entry* e = entry(id);
  if (e == nullptr) return ZygoteFsm::Do::nothing;
  auto act = e->fsm.died(now_ns, std::move(why));
  // A template that never came up counts as settled only once the breaker is open.
  if (e->fsm.state() == ZygoteState::unhealthy) e->settled = true;
  return act;
}

void TemplateRegistry::onRetired(base::TemplateId id) {
  if (Entry* e = entry(id)) {
    e->fsm.retired();
    e->settled = true;
  }
}

}  // namespace mayfly::pool
