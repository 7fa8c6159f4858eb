#include "rpc/blob_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace mayfly::rpc {

using base::Code;
using base::Error;
using sched::Resource;

// A use count above 1 means that tasks hold the content, which counts as a use. At 1 the store has
// the only handle, so nobody else can copy it.
bool BlobStore::over(Entry& entry, uint64_t now_ns) const {
  if (entry.content.use_count() > 1) {
    entry.used_ns = std::max(entry.used_ns, now_ns);
    return false;
  }
  return entry.removed || now_ns >= entry.used_ns + ttl_ns();
}

BlobStore::Entries::iterator BlobStore::find(const Key& key, uint64_t now_ns) {
  auto at = entries_.find(key);
  if (at == entries_.end() || !over(at->second, now_ns)) return at;
  entries_.erase(at);
  return entries_.end();
}

base::Result<BlobStore::Reservation> BlobStore::take(const sched::AccountRef& user,
                                                     uint64_t bytes) {
  Reservation reservation;
  MAYFLY_TRY(reservation.one_, accounts_.take(user, Resource::blobs));
  MAYFLY_TRY(reservation.bytes_, accounts_.take(user, Resource::blobBytes, bytes));
  return reservation;
}

// Gives back the shares of unused blobs, one by one, until the reservation fits; only then are
// those blobs dropped. The user's own go first, then those of users that hold more than their own
// part.
base::Result<BlobStore::Reservation> BlobStore::takeFromUnused(const sched::AccountRef& user,
                                                               uint64_t bytes, Error refusal) {
  struct Candidate {
    bool of_other;
    uint64_t used_ns;
    Entries::iterator at;
  };
  std::vector<Candidate> unused;
  uint64_t own_bytes = 0, own_blobs = 0;
  for (auto at = entries_.begin(); at != entries_.end(); ++at) {
    if (at->second.content.use_count() != 1) continue;
    const bool of_other = at->first.first != user.user();
    unused.push_back({of_other, at->second.used_ns, at});
    if (of_other) continue;
    own_bytes += at->second.held.bytes();
    ++own_blobs;
  }
  // Whether the user's own share has room once it has given this much back. Looked at first: a
  // refusal by the book costs a text.
  const auto fits = [&](uint64_t given_bytes, uint64_t given_blobs) {
    const auto& most = accounts_.bounds();
    return accounts_.used(user, Resource::blobBytes) - given_bytes + bytes <=
               most.of(Resource::blobBytes).user_max &&
           accounts_.used(user, Resource::blobs) - given_blobs < most.of(Resource::blobs).user_max;
  };
  if (!fits(own_bytes, own_blobs)) return base::fail(std::move(refusal));
  std::sort(unused.begin(), unused.end(), [](const Candidate& a, const Candidate& b) {
    return std::pair(a.of_other, a.used_ns) < std::pair(b.of_other, b.used_ns);
  });
  struct Given {
    Entries::iterator at;
    sched::AccountRef whose;
    uint64_t bytes;
  };
  std::vector<Given> given;
  for (const Candidate& each : unused) {
    Reservation& held = each.at->second.held;
    const sched::AccountRef whose = held.bytes_.whose();
    if (each.of_other && !holdsMoreThanItsOwn(whose)) continue;
    given.push_back({each.at, whose, held.bytes()});
    held.release();
    if (!fits(0, 0)) continue;
    auto reservation = take(user, bytes);
    if (!reservation) continue;
    for (const Given& one : given) entries_.erase(one.at);
    return reservation;
  }
  for (const Given& one : given) {
    Reservation& held = one.at->second.held;
    held.one_ = accounts_.charge(one.whose, Resource::blobs);
    held.bytes_ = accounts_.charge(one.whose, Resource::blobBytes, one.bytes);
  }
  return base::fail(std::move(refusal));
}

bool BlobStore::holdsMoreThanItsOwn(const sched::AccountRef& user) const {
  for (Resource resource : {Resource::blobs, Resource::blobBytes})
    if (accounts_.used(user, resource) > accounts_.bounds().of(resource).user_own) return true;
  return false;
}

base::Result<BlobStore::Reservation> BlobStore::reserve(const sched::AccountRef& user,
                                                        uint64_t bytes, uint64_t now_ns) {
  const sched::ShareBounds& bounds = accounts_.bounds().of(Resource::blobBytes);
  const uint64_t bytes_max = std::min(bounds.user_max, bounds.pool_max);
  if (bytes > bytes_max)
    return base::fail(Code::invalidArgument,
                      fmt::format("a blob of {} bytes; one may have at most {}", bytes, bytes_max),
                      "Split it, or give it to the task on standard input.");
  if (auto reservation = take(user, bytes)) return reservation;
  sweep(now_ns);
  auto reservation = take(user, bytes);
  return reservation ? std::move(reservation)
                     : takeFromUnused(user, bytes, std::move(reservation).error());
}

void BlobStore::keep(Reservation reservation, const edge::Sha256& hash, Content content,
                     uint64_t now_ns) {
  const sched::AccountRef user = reservation.bytes_.whose();
  if (offered(user, hash, now_ns)) return;
  entries_[{user.user(), hash}] = {std::move(content), std::move(reservation), now_ns, false};
}

std::optional<BlobStore::Blob> BlobStore::use(const Key& key, uint64_t now_ns) {
  auto at = find(key, now_ns);
  if (at == entries_.end() || at->second.removed) return std::nullopt;
  at->second.used_ns = now_ns;
  return Blob{at->second.content, at->second.held.bytes()};
}

std::optional<BlobStore::Blob> BlobStore::use(const sched::AccountRef& user,
                                              const edge::Sha256& hash, uint64_t now_ns) {
  return use(Key{user.user(), hash}, now_ns);
}

std::optional<BlobStore::Blob> BlobStore::offered(const sched::AccountRef& user,
                                                  const edge::Sha256& hash, uint64_t now_ns) {
  const Key key{user.user(), hash};
  auto at = find(key, now_ns);
  if (at == entries_.end()) return std::nullopt;
  at->second.removed = false;
  return use(key, now_ns);
}

bool BlobStore::remove(const sched::AccountRef& user, const edge::Sha256& hash, uint64_t now_ns) {
  auto at = find({user.user(), hash}, now_ns);
  if (at == entries_.end() || at->second.removed) return false;
  at->second.removed = true;
  if (over(at->second, now_ns)) entries_.erase(at);
  return true;
}

std::vector<BlobStore::Listed> BlobStore::list(const sched::AccountRef& user, uint64_t now_ns) {
  std::vector<Listed> all;
  for (auto at = entries_.lower_bound({user.user(), {}});
       at != entries_.end() && at->first.first == user.user();) {
    if (over(at->second, now_ns)) {
      at = entries_.erase(at);
      continue;
    }
    if (!at->second.removed)
      all.push_back({at->first.second, at->second.held.bytes(), at->second.used_ns + ttl_ns()});
    ++at;
  }
  return all;
}

uint64_t BlobStore::sweep(uint64_t now_ns) {
  uint64_t next_ns = now_ns + ttl_ns();
  for (auto at = entries_.begin(); at != entries_.end();) {
    if (over(at->second, now_ns)) {
      at = entries_.erase(at);
      continue;
    }
    next_ns = std::min(next_ns, at->second.used_ns + ttl_ns());
    ++at;
  }
  return next_ns;
}

}  // namespace mayfly::rpc
