// The blob calls: uploads, the store behind them, and the expiry of both.
//
// Each chunk of an upload goes into a memfd and into a running hash. If the finished
// upload has the announced size and hash, its memfd is sealed and stored. While one
// connection uploads a blob, the same user's other uploads of it wait.
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

// For how long, and how many at once, uploads wait for an earlier upload of the same blob. Beyond
// either bound they begin.
inline constexpr uint32_t kOthersUploadMsMax = 10'000;
inline constexpr uint32_t kOthersUploadWaitsMax = 256;

// Finds a blob of the submitting user.
using FindBlob = std::function<std::optional<BlobStore::Blob>(const edge::Sha256&)>;
base::Result<sched::InputFile> inputFileFrom(schema::InputFile::Reader in, const FindBlob& find);

// Lives as long as the hub: Cap'n Proto may destroy the last uploads only with the loop.
class Blobs {
 public:
  Blobs(const Options& options, sched::Accounts& accounts, kj::Timer& timer);
  Blobs(const Blobs&) = delete;
  void stop() { watch_ = nullptr; }  // call before the loop ends

  struct Begun {
    bool known = false;
    kj::Maybe<schema::Upload::Client> upload;  // null if `known`
  };
  kj::Promise<base::Result<Begun>> begin(kj::Own<ConnectionState> connection,
                                         capnp::Data::Reader hash, uint64_t size_bytes);
  std::optional<BlobStore::Blob> use(const sched::AccountRef& user, const edge::Sha256& hash);
  base::Status remove(const sched::AccountRef& user, capnp::Data::Reader hash);
  void list(const sched::AccountRef& user, schema::Mayfly::BlobsResults::Builder out);

 private:
  friend class UploadCalls;
  using Key = std::pair<sched::AccountId, edge::Sha256>;  // the id of a user
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
  std::set<UploadCalls*> uploads_;  // open ones
  std::map<Key, UnderWay> under_way_;
  kj::Promise<void> watch_;
};

}  // namespace mayfly::rpc
