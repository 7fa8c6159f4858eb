#include "pool/plan.h"

#include <algorithm>

namespace mayfly::pool {

namespace {
constexpr uint32_t kCurvePoints_max = 64;
// While the budget is short, shares follow the load this often even if no wish changes.
constexpr uint64_t kRecut_ns = 10'000'000'000;
}  // namespace

// A wish of lane `who` for `count` more stocked boxes or parked clones.
struct Plan::Ask {
  size_t who;
  uint32_t Target::*what;
  uint32_t count;
  uint64_t bytes_each;
};

// The rest of the budget.
struct Plan::Left {
  uint64_t bytes;
  uint32_t boxes, parked;

  uint32_t& of(const Ask& ask) { return ask.what == &Target::parked ? parked : boxes; }
};

void Plan::add(base::LaneId id, const DemandOptions& options, uint64_t now_ns) {
  remove(id);
  auto at = std::find_if(entries_.begin(), entries_.end(), [&](auto& e) { return e.id > id; });
  entries_.insert(at, Entry{id,
                            LaneDemand(options, now_ns),
                            RobustMean(o_.clone_first_bytes),
                            o_.clone_first_bytes,
                            {}});
  cut_due_ = true;
}

void Plan::remove(base::LaneId id) {
  if (std::erase_if(entries_, [&](const Entry& e) { return e.id == id; }) > 0) cut_due_ = true;
}

void Plan::setBudget(uint64_t memory_bytes_max, uint32_t boxes_max) {
  if (memory_bytes_max == o_.memory_bytes_max && boxes_max == o_.boxes_max) return;
  o_.memory_bytes_max = memory_bytes_max;
  o_.boxes_max = boxes_max;
  cut_due_ = true;
}

Plan::Entry* Plan::find(base::LaneId id) {
  for (Entry& e : entries_)
    if (e.id == id) return &e;
  return nullptr;
}

const LaneDemand* Plan::demand(base::LaneId id) const {
  for (const Entry& e : entries_)
    if (e.id == id) return &e.demand;
  return nullptr;
}

const Target* Plan::target(base::LaneId id) const {
  for (const Target& t : targets_)
    if (t.id == id) return &t;
  return nullptr;
}

uint64_t Plan::cloneBytes(base::LaneId id) const {
  for (const Entry& e : entries_)
    if (e.id == id) return e.clone_bytes.value();
  return 0;
}

void Plan::onArrival(base::LaneId id, uint64_t now_ns) {
  if (Entry* e = find(id)) {
    e->demand.arrival(now_ns);
    e->changed = true;
  }
}

void Plan::onMade(base::LaneId id, uint64_t make_ns, uint64_t) {
  if (Entry* e = find(id)) {
    e->demand.made(make_ns);
    e->changed = true;
  }
}

void Plan::onMeasured(base::LaneId id, uint64_t clone_bytes) {
  if (Entry* e = find(id)) {
    e->clone_bytes.add(clone_bytes);
    const uint64_t value = e->clone_bytes.value(), was = e->cut_bytes;
    if ((value > was ? value - was : was - value) > was / 32) cut_due_ = true;
  }
}

const std::vector<Target>& Plan::plan(uint64_t now_ns) {
  double load = 0;
  for (const Entry& e : entries_) load += e.load;
  for (Entry& e : entries_) {
    const uint64_t due_ns = e.demand.due_ns();
    if (!e.changed && (due_ns == 0 || now_ns < due_ns)) continue;
    e.changed = false;
    // The makers that the other lanes leave, or the lane's fair share if all together ask for too
    // much.
    e.demand.setMakers(
        std::max(o_.makers - (load - e.load), load > 0 ? o_.makers * e.load / load : o_.makers));
    LaneDemand::Wanted wanted = e.demand.wanted(now_ns);
    load -= e.load;
    e.load = e.demand.load();
    load += e.load;
    if (wanted != e.wanted) cut_due_ = true;
    e.wanted = wanted;
  }
  if (cut_due_ || (tight_ && now_ns >= cut_ns_ + kRecut_ns)) {
    cut();
    cut_due_ = false;
    cut_ns_ = now_ns;
  }
  return targets_;
}

uint64_t Plan::nextDue_ns() const {
  uint64_t next = 0;
  for (const Entry& e : entries_)
    if (uint64_t due = e.demand.due_ns(); due != 0 && (next == 0 || due < next)) next = due;
  return next;
}

void Plan::cut() {
  targets_.clear();
  Left left{o_.memory_bytes_max, o_.boxes_max, std::min(o_.parked_max, o_.boxes_max)};
  std::vector<Ask> parked_min, stocked_min, parked, stocked;
  for (size_t i = 0; i < entries_.size(); ++i) {
    Entry& e = entries_[i];
    const DemandOptions& o = e.demand.options();
    Target t;
    t.id = e.id;
    t.parked_wanted = e.wanted.parked;
    t.stocked_wanted = std::min(e.wanted.reach - e.wanted.parked, o.stocked_max);
    targets_.push_back(t);
    e.cut_bytes = e.clone_bytes.value();
    const uint64_t clone = o_.box_bytes + e.cut_bytes, box = o_.box_bytes;
    const uint32_t parked_first = std::min(t.parked_wanted, o.parked_min);
    const uint32_t stocked_first = std::min(t.stocked_wanted, o.stocked_min);
    parked_min.push_back({i, &Target::parked, parked_first, clone});
    stocked_min.push_back({i, &Target::stocked, stocked_first, box});
    parked.push_back({i, &Target::parked, t.parked_wanted - parked_first, clone});
    stocked.push_back({i, &Target::stocked, 0, box});
  }
  for (auto* asks : {&parked_min, &stocked_min, &parked}) grant(*asks, left);
  // A clone that the budget cut may still get a stocked box.
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Target& t = targets_[i];
    const uint32_t wanted =
        std::min(entries_[i].wanted.reach - t.parked, entries_[i].demand.options().stocked_max);
    stocked[i].count = wanted > t.stocked ? wanted - t.stocked : 0;
  }
  grant(stocked, left);
  tight_ = std::any_of(targets_.begin(), targets_.end(), [](const Target& t) {
    return t.parked < t.parked_wanted || t.stocked < t.stocked_wanted;
  });
}

// If not all wishes fit, the misses saved per byte decide; a lane's next few count together if only
// together they save much.
void Plan::grant(const std::vector<Ask>& asks, Left& left) {
  auto give = [&](const Ask& ask, uint32_t count) {
    count = std::min({count, left.boxes, left.of(ask)});
    if (ask.bytes_each > 0)
      count = static_cast<uint32_t>(std::min<uint64_t>(count, left.bytes / ask.bytes_each));
    targets_[ask.who].*ask.what += count;
    left.bytes -= count * ask.bytes_each;
    left.boxes -= count;
    if (ask.what == &Target::parked) left.parked -= count;
  };
  uint64_t bytes = 0, boxes = 0;
  for (const Ask& ask : asks) {
    bytes += ask.count * ask.bytes_each;
    boxes += ask.count;
  }
  if (bytes <= left.bytes && boxes <= left.boxes && (asks.empty() || boxes <= left.of(asks[0]))) {
    for (const Ask& ask : asks) give(ask, ask.count);
    return;
  }
  struct Piece {
    double saved_per_byte;
    const Ask* ask;
    uint32_t count;
  };
  std::vector<Piece> pieces;
  for (const Ask& ask : asks) {
    const Target& t = targets_[ask.who];
    const LaneDemand& demand = entries_[ask.who].demand;
    const uint32_t have = ask.what == &Target::parked ? t.parked : t.parked + t.stocked;
    const uint32_t step = ask.count / kCurvePoints_max + 1;
    // The lower convex hull of the miss chance over the number held: each of its pieces saves less
    // than the one before.
    std::vector<std::pair<uint32_t, double>> hull{{0, demand.empty(have)}};
    for (uint32_t n = 0; n < ask.count;) {
      n = std::min(ask.count, n + step);
      const double empty = demand.empty(have + n);
      auto slope = [](auto& a, auto& b) { return (b.second - a.second) / (b.first - a.first); };
      std::pair<uint32_t, double> next{n, empty};
      while (hull.size() >= 2 &&
             slope(hull[hull.size() - 2], hull.back()) >= slope(hull.back(), next))
        hull.pop_back();
      hull.push_back(next);
    }
    for (size_t i = 1; i < hull.size(); ++i) {
      const uint32_t count = hull[i].first - hull[i - 1].first;
      const double bytes_all = static_cast<double>(std::max<uint64_t>(1, ask.bytes_each)) * count;
      pieces.push_back({(hull[i - 1].second - hull[i].second) / bytes_all, &ask, count});
    }
  }
  std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
    return a.saved_per_byte > b.saved_per_byte;
  });
  for (const Piece& piece : pieces) give(*piece.ask, piece.count);
}

}  // namespace mayfly::pool
