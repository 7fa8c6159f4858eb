// Which blobs are kept, for whom and for how long: reservations of uploads that are
// under way, and what is over. How much each user may keep is in the book of accounts.
//
// A blob belongs to one user: another one's is neither used nor known of, not even
// where the bytes are the same. A reservation counts as a blob of its full size
// from the start, so nothing is ever written that may not be kept. What tasks still
// hold is counted until they let go of it.
//
// Layer: rpc. Time is an argument, a content is a handle. Core thread.
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

  // What an upload holds of its user's share before its bytes come.
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

  // invalidArgument: beyond what one blob may have. resourceExhausted: no room at the moment.
  base::Result<Reservation> reserve(const sched::AccountRef& user, uint64_t bytes, uint64_t now_ns);
  // Its bytes are there. Where the same blob is kept already, that one stays.
  void keep(Reservation reservation, const edge::Sha256& hash, Content content, uint64_t now_ns);

  // Both begin its time to live anew. offered() also brings back one that was removed and that
  // tasks still hold.
  std::optional<Blob> use(const sched::AccountRef& user, const edge::Sha256& hash, uint64_t now_ns);
  std::optional<Blob> offered(const sched::AccountRef& user, const edge::Sha256& hash,
                              uint64_t now_ns);

  // false: this user has no such blob.
  bool remove(const sched::AccountRef& user, const edge::Sha256& hash, uint64_t now_ns);
  std::vector<Listed> list(const sched::AccountRef& user, uint64_t now_ns);

  // Forgets what is over. Returns when the next blob can be; at most a time to live from now.
  uint64_t sweep(uint64_t now_ns);

  size_t kept() const { return entries_.size(); }

 private:
  using Key = std::pair<sched::AccountId, edge::Sha256>;  // of a user, not of a tenant
  struct Entry {
    Content content;
    Reservation held;
    uint64_t used_ns = 0;
    bool removed = false;  // only tasks know it still
  };
  using Entries = std::map<Key, Entry>;

  uint64_t ttl_ns() const { return ttl_ms_ * 1'000'000; }
  bool over(Entry& entry, uint64_t now_ns) const;
  Entries::iterator find(const Key& key, uint64_t now_ns);
  std::optional<Blob> use(const Key& key, uint64_t now_ns);
  base::Result<Reservation> take(const sched::AccountRef& user, uint64_t bytes);
  uint32_t soonestMs(const sched::AccountRef& user, uint64_t bytes, uint64_t now_ns) const;

  sched::Accounts& accounts_;
  uint64_t ttl_ms_;
  Entries entries_;
};

}  // namespace mayfly::rpc
