// Entries that take turns: the first entry is next; a new one goes to the end.
//
// Layer: sched. Pure. Everything but the search for a ready entry takes constant time.
#pragma once

#include <list>
#include <unordered_map>
#include <utility>

namespace mayfly::sched {

template <class Key, class Entry>
class Turns {
 public:
  using Ring = std::list<std::pair<const Key, Entry>>;
  using Place = typename Ring::iterator;

  // The key's entry; makes one at the end.
  Place get(const Key& key) {
    auto at = places_.find(key);
    if (at != places_.end()) return at->second;
    Place place = ring_.emplace(ring_.end(), std::piecewise_construct, std::forward_as_tuple(key),
                                std::forward_as_tuple());
    places_.emplace(key, place);
    return place;
  }
  Place find(const Key& key) {
    auto at = places_.find(key);
    return at != places_.end() ? at->second : ring_.end();
  }
  const Entry* look(const Key& key) const {
    auto at = places_.find(key);
    return at != places_.end() ? &at->second->second : nullptr;
  }
  void toFront(Place place) { ring_.splice(ring_.begin(), ring_, place); }
  void toBack(Place place) { ring_.splice(ring_.end(), ring_, place); }
  void erase(Place place) {
    places_.erase(place->first);
    ring_.erase(place);
  }
  Place begin() { return ring_.begin(); }
  Place end() { return ring_.end(); }
  auto begin() const { return ring_.begin(); }
  auto end() const { return ring_.end(); }
  bool empty() const { return ring_.empty(); }

 private:
  Ring ring_;
  std::unordered_map<Key, Place> places_;
};

}  // namespace mayfly::sched
