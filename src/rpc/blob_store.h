// Which blobs are kept, for whom and for how long: the store's bounds, its users'
// shares, reservations of uploads that are under way, and what is over.
//
// A blob belongs to one user: another one's is neither used nor known of, not even
// where the bytes are the same. A reservation counts as a blob of its full size
// from the start, so nothing is ever written that may not be kept. What tasks still
// hold is counted until they let go of it.
//
// Layer: rpc. Pure: time is an argument, a content is a handle. Core thread.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "edge/sha256.h"

namespace mayfly::rpc {

struct BlobBounds {
  uint64_t user_bytes_max = 512u << 20;  // also of one blob
  uint64_t store_bytes_max = 1u << 30;
  uint32_t user_blobs_max = 1'024;
  uint32_t store_blobs_max = 4'096;  // each is a descriptor
  uint64_t ttl_ms = 600'000;         // since its last use
};

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

  // A user's share that an upload takes before its bytes come. Gives it back when it is destroyed,
  // unless keep() took it. Not to outlive the store.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept { *this = std::move(other); }
    Reservation& operator=(Reservation&& other) noexcept;
    ~Reservation() { release(); }
    explicit operator bool() const { return store_ != nullptr; }
    uint64_t bytes() const { return bytes_; }
    void release();

   private:
    friend class BlobStore;
    BlobStore* store_ = nullptr;
    uid_t uid_ = 0;
    uint64_t bytes_ = 0;
  };

  explicit BlobStore(const BlobBounds& bounds) : bounds_(bounds) {}
  BlobStore(const BlobStore&) = delete;

  // invalidArgument: beyond what one blob may have. resourceExhausted: no room at the moment.
  base::Result<Reservation> reserve(uid_t uid, uint64_t bytes, uint64_t now_ns);
  // Its bytes are there. Where the same blob is kept already, that one stays.
  void keep(Reservation reservation, const edge::Sha256& hash, Content content, uint64_t now_ns);

  // Both begin its time to live anew. offered() also brings back one that was removed and that
  // tasks still hold.
  std::optional<Blob> use(uid_t uid, const edge::Sha256& hash, uint64_t now_ns);
  std::optional<Blob> offered(uid_t uid, const edge::Sha256& hash, uint64_t now_ns);

  // false: this user has no such blob.
  bool remove(uid_t uid, const edge::Sha256& hash, uint64_t now_ns);
  std::vector<Listed> list(uid_t uid, uint64_t now_ns);

  // Forgets what is over. Returns when the next blob can be; at most a time to live from now.
  uint64_t sweep(uint64_t now_ns);

  uint64_t bytes() const { return all_.bytes; }
  uint32_t blobs() const { return all_.blobs; }

 private:
  using Key = std::pair<uid_t, edge::Sha256>;
  struct Entry {
    Content content;
    uint64_t size_bytes = 0;
    uint64_t used_ns = 0;
    bool removed = false;  // only tasks know it still
  };
  using Entries = std::map<Key, Entry>;
  struct Share {
    uint64_t bytes = 0;
    uint32_t blobs = 0;
  };

  uint64_t ttl_ns() const { return bounds_.ttl_ms * 1'000'000; }
  bool over(Entry& entry, uint64_t now_ns) const;
  Entries::iterator find(uid_t uid, const edge::Sha256& hash, uint64_t now_ns);
  Entries::iterator forget(Entries::iterator at);
  std::optional<base::Error> full(uid_t uid, uint64_t bytes, uint64_t now_ns);
  void take(uid_t uid, uint64_t bytes);
  void giveBack(uid_t uid, uint64_t bytes);

  BlobBounds bounds_;
  Entries entries_;
  std::unordered_map<uid_t, Share> shares_;  // of those who have any
  Share all_;
};

}  // namespace mayfly::rpc
