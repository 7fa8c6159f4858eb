// Blobs as the clients see them: uploads under way, whole ones in the store, and
// their end when nobody uses them.
//
// Bytes go into a memfd as they come, and into the hash; what is whole and has the
// hash that was told is sealed and kept. Who uploads what another connection of the
// same user is uploading waits a little for that one.
//
// Layer: rpc. Core thread.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>
#include <mayfly/mayfly.capnp.h>

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "rpc/blob_store.h"
#include "rpc/server.h"
#include "sched/core.h"

namespace mayfly::rpc {

struct ConnectionState;
class UploadCalls;

// For another's upload of the same bytes, before one's own is begun.
inline constexpr uint32_t kOthersUploadMsMax = 10'000;
inline constexpr uint32_t kOthersUploadWaitsMax = 256;

// A blob of the submitting user's; none: there is none.
using FindBlob = std::function<std::optional<BlobStore::Blob>(const edge::Sha256&)>;
base::Result<sched::InputFile> inputFileFrom(schema::InputFile::Reader in, const FindBlob& find);

// Lives as long as the hub: Cap'n Proto's last objects go with the loop.
class Blobs {
 public:
  Blobs(const Options& options, kj::Timer& timer);
  Blobs(const Blobs&) = delete;
  void stop() { watch_ = nullptr; }  // before the loop ends

  struct Begun {
    bool known = false;
    kj::Maybe<schema::Upload::Client> upload;  // null where it is known
  };
  kj::Promise<base::Result<Begun>> begin(kj::Own<ConnectionState> connection, uid_t uid,
                                         capnp::Data::Reader hash, uint64_t size_bytes);
  std::optional<BlobStore::Blob> use(uid_t uid, const edge::Sha256& hash);
  base::Status remove(uid_t uid, capnp::Data::Reader hash);
  void list(uid_t uid, schema::Mayfly::BlobsResults::Builder out);

 private:
  friend class UploadCalls;
  using Key = std::pair<uid_t, edge::Sha256>;
  struct UnderWay {
    uint32_t uploads = 0;
    std::vector<kj::Own<kj::PromiseFulfiller<void>>> waiting;  // <= kOthersUploadWaitsMax
  };

  kj::Promise<base::Result<Begun>> attempt(kj::Own<ConnectionState> connection, Key key,
                                           uint64_t size_bytes, kj::TimePoint wait_until);
  base::Result<Begun> make(kj::Own<ConnectionState> connection, Key key, uint64_t size_bytes);
  void ended(UploadCalls& upload, const Key& key);
  kj::Promise<void> watch();
  uint64_t now_ns() const;

  const Options& options_;
  kj::Timer& timer_;
  BlobStore store_;
  std::set<UploadCalls*> uploads_;  // that are not whole
  std::map<Key, UnderWay> under_way_;
  kj::Promise<void> watch_;
};

}  // namespace mayfly::rpc
