#include "rpc/blob_store.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace mayfly::rpc {

using base::Code;
using base::Error;
using base::humanBytes;

BlobStore::Reservation& BlobStore::Reservation::operator=(Reservation&& other) noexcept {
  if (this == &other) return *this;
  release();
  store_ = std::exchange(other.store_, nullptr);
  uid_ = other.uid_;
  bytes_ = other.bytes_;
  return *this;
}

void BlobStore::Reservation::release() {
  if (auto* store = std::exchange(store_, nullptr)) store->giveBack(uid_, bytes_);
}

void BlobStore::take(uid_t uid, uint64_t bytes) {
  Share& share = shares_[uid];
  share.bytes += bytes;
  ++share.blobs;
  all_.bytes += bytes;
  ++all_.blobs;
}

void BlobStore::giveBack(uid_t uid, uint64_t bytes) {
  auto at = shares_.find(uid);
  at->second.bytes -= bytes;
  if (--at->second.blobs == 0) shares_.erase(at);
  all_.bytes -= bytes;
  --all_.blobs;
}

// The only handle left is ours, so nobody else can make one any more.
bool BlobStore::over(Entry& entry, uint64_t now_ns) const {
  if (entry.content.use_count() > 1) {
    entry.used_ns = std::max(entry.used_ns, now_ns);
    return false;
  }
  return entry.removed || now_ns >= entry.used_ns + ttl_ns();
}

BlobStore::Entries::iterator BlobStore::forget(Entries::iterator at) {
  giveBack(at->first.first, at->second.size_bytes);
  return entries_.erase(at);
}

BlobStore::Entries::iterator BlobStore::find(uid_t uid, const edge::Sha256& hash, uint64_t now_ns) {
  auto at = entries_.find({uid, hash});
  if (at == entries_.end() || !over(at->second, now_ns)) return at;
  forget(at);
  return entries_.end();
}

std::optional<Error> BlobStore::full(uid_t uid, uint64_t bytes, uint64_t now_ns) {
  auto share_at = shares_.find(uid);
  Share share = share_at != shares_.end() ? share_at->second : Share{};
  bool of_user = true;
  Error error{Code::resourceExhausted, {}, {}, 0};
  if (share.blobs >= bounds_.user_blobs_max) {
    error.message =
        fmt::format("you have {} blobs and uploads, as many as a user may", share.blobs);
  } else if (share.bytes + bytes > bounds_.user_bytes_max) {
    error.message = fmt::format(
        "your blobs and uploads have {}; with {} more they are above the {} "
        "of a user",
        humanBytes(share.bytes), humanBytes(bytes), humanBytes(bounds_.user_bytes_max));
  } else if (all_.blobs >= bounds_.store_blobs_max) {
    of_user = false;
    error.message =
        fmt::format("the store holds {} blobs and uploads, as many as it may", all_.blobs);
  } else if (all_.bytes + bytes > bounds_.store_bytes_max) {
    of_user = false;
    error.message =
        fmt::format("the store holds {} of all users; with {} more it is above its {}",
                    humanBytes(all_.bytes), humanBytes(bytes), humanBytes(bounds_.store_bytes_max));
  } else {
    return std::nullopt;
  }
  error.advice =
      "Remove blobs that no task will name again, or wait until unused ones have expired.";
  uint64_t soonest_ns = UINT64_MAX;
  for (const auto& [key, entry] : entries_)
    if (!of_user || key.first == uid) soonest_ns = std::min(soonest_ns, entry.used_ns + ttl_ns());
  if (soonest_ns != UINT64_MAX)
    error.retry_after_ms = static_cast<uint32_t>(
        std::max<uint64_t>(soonest_ns - std::min(soonest_ns, now_ns), 1'000'000) / 1'000'000);
  return error;
}

base::Result<BlobStore::Reservation> BlobStore::reserve(uid_t uid, uint64_t bytes,
                                                        uint64_t now_ns) {
  if (bytes > bounds_.user_bytes_max || bytes > bounds_.store_bytes_max)
    return base::fail(Code::invalidArgument,
                      fmt::format("a blob of {} bytes; one may have at most {}", bytes,
                                  std::min(bounds_.user_bytes_max, bounds_.store_bytes_max)),
                      "Split it, or give it to the task on standard input.");
  if (full(uid, bytes, now_ns)) {
    sweep(now_ns);
    if (auto error = full(uid, bytes, now_ns)) return base::fail(std::move(*error));
  }
  take(uid, bytes);
  Reservation reservation;
  reservation.store_ = this;
  reservation.uid_ = uid;
  reservation.bytes_ = bytes;
  return reservation;
}

void BlobStore::keep(Reservation reservation, const edge::Sha256& hash, Content content,
                     uint64_t now_ns) {
  if (offered(reservation.uid_, hash, now_ns)) return;
  entries_[{reservation.uid_, hash}] = {std::move(content), reservation.bytes_, now_ns, false};
  reservation.store_ = nullptr;
}

std::optional<BlobStore::Blob> BlobStore::use(uid_t uid, const edge::Sha256& hash,
                                              uint64_t now_ns) {
  auto at = find(uid, hash, now_ns);
  if (at == entries_.end() || at->second.removed) return std::nullopt;
  at->second.used_ns = now_ns;
  return Blob{at->second.content, at->second.size_bytes};
}

std::optional<BlobStore::Blob> BlobStore::offered(uid_t uid, const edge::Sha256& hash,
                                                  uint64_t now_ns) {
  auto at = find(uid, hash, now_ns);
  if (at == entries_.end()) return std::nullopt;
  at->second.removed = false;
  return use(uid, hash, now_ns);
}

bool BlobStore::remove(uid_t uid, const edge::Sha256& hash, uint64_t now_ns) {
  auto at = find(uid, hash, now_ns);
  if (at == entries_.end() || at->second.removed) return false;
  at->second.removed = true;
  if (over(at->second, now_ns)) forget(at);
  return true;
}

std::vector<BlobStore::Listed> BlobStore::list(uid_t uid, uint64_t now_ns) {
  std::vector<Listed> all;
  for (auto at = entries_.lower_bound({uid, {}}); at != entries_.end() && at->first.first == uid;) {
    if (over(at->second, now_ns)) {
      at = forget(at);
      continue;
    }
    if (!at->second.removed)
      all.push_back({at->first.second, at->second.size_bytes, at->second.used_ns + ttl_ns()});
    ++at;
  }
  return all;
}

uint64_t BlobStore::sweep(uint64_t now_ns) {
  uint64_t next_ns = now_ns + ttl_ns();
  for (auto at = entries_.begin(); at != entries_.end();) {
    if (over(at->second, now_ns)) {
      at = forget(at);
      continue;
    }
    next_ns = std::min(next_ns, at->second.used_ns + ttl_ns());
    ++at;
  }
  return next_ns;
}

}  // namespace mayfly::rpc
