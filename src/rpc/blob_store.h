// The store of blobs: each user's blobs, their expiry, and the reservations of
// unfinished uploads. The book of accounts bounds what each user may store.
//
// A blob belongs to one user. No other user can use it or learn of it, even if both
// uploaded the same bytes. A reservation counts as a blob of its full size from the
// start, so no byte is written that may not be kept. A blob that tasks hold stays
// counted until they release it. Where a bound refuses a new blob, blobs that no task
// holds give way, the one unused for longest first.
//
// Layer: rpc. Time is an argument. Core thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "edge/sha256.h"
#include "sched/accounts.h"

namespace mayfly::rpc {

class BlobStore {
 public:
  using Content = std::shared_ptr<const base::Fd>;
  struct Blob {
    Content content;
    uint64_t size_bytes = 0;
  };
  struct Listed {
    edge::Sha256 hash{};
    uint64_t size_bytes = 0;
    uint64_t expires_ns = 0;
  };

  // An upload's part of its user's share, taken before the bytes come.
  class Reservation {
   public:
    explicit operator bool() const { return static_cast<bool>(bytes_); }
    uint64_t bytes() const { return bytes_.amount(); }
    void release() { one_.reset(), bytes_.reset(); }

   private:
    friend class BlobStore;
    sched::Share one_, bytes_;
  };

  // `ttl_ms`: how long a blob is kept after its last use. The book outlives the store.
  BlobStore(sched::Accounts& accounts, uint64_t ttl_ms) : accounts_(accounts), ttl_ms_(ttl_ms) {}
  BlobStore(const BlobStore&) = delete;

  // invalidArgument: larger than any blob may be. resourceExhausted: no room, because tasks hold
  // blobs or uploads are under way.
  base::Result<Reservation> reserve(const sched::AccountRef& user, uint64_t bytes, uint64_t now_ns);
  // Stores a finished upload. If the user already has this blob, the old one stays.
  void keep(Reservation reservation, const edge::Sha256& hash, Content content, uint64_t now_ns);

  // Both restart the blob's time to live. offered() also revives a removed blob that tasks still
  // hold.
  std::optional<Blob> use(const sched::AccountRef& user, const edge::Sha256& hash, uint64_t now_ns);
  std::optional<Blob> offered(const sched::AccountRef& user, const edge::Sha256& hash,
                              uint64_t now_ns);

  // Returns false if the user has no such blob.
  bool remove(const sched::AccountRef& user, const edge::Sha256& hash, uint64_t now_ns);
  std::vector<Listed> list(const sched::AccountRef& user, uint64_t now_ns);

  // Drops expired and removed blobs that no task holds. Returns the earliest time at which another
  // can expire, at most one time to live from now.
  uint64_t sweep(uint64_t now_ns);

  size_t kept() const { return entries_.size(); }

 private:
  using Key = std::pair<sched::AccountId, edge::Sha256>;  // the id of a user, not of a tenant
  struct Entry {
    Content content;
    Reservation held;
    uint64_t used_ns = 0;
    bool removed = false;  // by the user; only tasks still hold the blob
  };
  using Entries = std::map<Key, Entry>;

  uint64_t ttl_ns() const { return ttl_ms_ * 1'000'000; }
  bool over(Entry& entry, uint64_t now_ns) const;
  Entries::iterator find(const Key& key, uint64_t now_ns);
  std::optional<Blob> use(const Key& key, uint64_t now_ns);
  base::Result<Reservation> take(const sched::AccountRef& user, uint64_t bytes);
  base::Result<Reservation> takeFromUnused(const sched::AccountRef& user, uint64_t bytes,
                                           base::Error refusal);
  bool holdsMoreThanItsOwn(const sched::AccountRef& user) const;

  sched::Accounts& accounts_;
  uint64_t ttl_ms_;
  Entries entries_;
};

}  // namespace mayfly::rpc
