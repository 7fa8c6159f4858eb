#include "rpc/blobs.h"

#include <errno.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "base/text.h"
#include "edge/convert.h"
#include "rpc/calls.h"

namespace mayfly::rpc {

using base::Code;
using base::fail;
using base::Result;
using base::Status;
using base::Unit;

namespace {

Result<edge::Sha256> hashFrom(const char* call, capnp::Data::Reader in) {
  if (auto hash = edge::sha256From(edge::view(in))) return *hash;
  return fail(Code::invalidArgument,
              fmt::format("{}: sha256 has {} bytes, not 32", call, in.size()),
              "Give the hash's bytes, not its hexadecimal digits.");
}

Status writeAt(base::FdView fd, std::string_view bytes, uint64_t offset) {
  while (!bytes.empty()) {
    ssize_t n = ::pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return base::failSys(n < 0 ? errno : EIO, "pwrite", "the memfd of a blob");
    bytes.remove_prefix(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return Unit{};
}

}  // namespace

class UploadCalls final : public schema::Upload::Server {
 public:
  UploadCalls(Blobs& blobs, kj::Own<ConnectionState> connection, Blobs::Key key,
              BlobStore::Reservation reservation, base::Fd memfd)
      : blobs_(blobs),
        connection_(kj::mv(connection)),
        handle_(*connection_),
        key_(key),
        reservation_(std::move(reservation)),
        memfd_(std::move(memfd)) {
    renew();
    ++connection_->uploads;
    blobs_.uploads_.insert(this);
    ++blobs_.under_way_[key_].uploads;
  }
  ~UploadCalls() noexcept(false) { end(State::closed); }

  uint64_t idleEnd_ns() const { return idle_end_ns_; }
  void expire() { end(State::expired); }

 protected:
  kj::Promise<void> write(WriteContext context) override {
    answer(context, store(edge::view(context.getParams().getData())));
    return kj::READY_NOW;
  }
  kj::Promise<void> finish(FinishContext context) override {
    answer(context, finishNow());
    return kj::READY_NOW;
  }
  kj::Promise<void> close(CloseContext) override {
    end(State::closed);
    return kj::READY_NOW;
  }

 private:
  enum class State : uint8_t { open, finished, failed, closed, expired };

  void renew() {
    idle_end_ns_ = blobs_.now_ns() + uint64_t{blobs_.options_.upload_idle_ms} * 1'000'000;
  }

  Status open(const char* call) const {
    switch (state_) {
      case State::open:
        return Unit{};
      case State::expired:
        return fail(Code::notFound,
                    fmt::format("{}: nothing was written for {} ms, and the upload was given up",
                                call, blobs_.options_.upload_idle_ms),
                    "Begin it anew.");
      default:
        return fail(Code::failedPrecondition,
                    fmt::format("{}: the upload {}", call,
                                state_ == State::finished ? "is finished"
                                : state_ == State::failed ? "has failed"
                                                          : "was closed"));
    }
  }

  Status store(std::string_view bytes) {
    MAYFLY_CHECK(open("write"));
    if (bytes.empty() || bytes.size() > schema::CHUNK_BYTES_MAX)
      return fail(Code::invalidArgument, fmt::format("write: {} bytes in one call; 1 to {}",
                                                     bytes.size(), schema::CHUNK_BYTES_MAX));
    if (bytes.size() > reservation_.bytes() - written_bytes_)
      return fail(Code::invalidArgument,
                  fmt::format("write: {} bytes after {} are more than the {} that were told",
                              bytes.size(), written_bytes_, reservation_.bytes()));
    if (auto written = writeAt(memfd_.view(), bytes, written_bytes_); !written) {
      end(State::failed);
      return written;
    }
    sum_.add(bytes);
    written_bytes_ += bytes.size();
    renew();
    return Unit{};
  }

  Status finishNow() {
    MAYFLY_CHECK(open("finish"));
    if (written_bytes_ != reservation_.bytes()) {
      auto error =
          fail(Code::invalidArgument, fmt::format("finish: {} bytes were told and {} written",
                                                  reservation_.bytes(), written_bytes_));
      end(State::failed);
      return error;
    }
    if (edge::Sha256 hash = sum_.take(); hash != key_.second) {
      end(State::failed);
      return fail(Code::invalidArgument, fmt::format("finish: the bytes have the hash {}, not {}",
                                                     edge::hex(hash), edge::hex(key_.second)));
    }
    if (auto sealed = base::sealMemfd(memfd_.view()); !sealed) {
      end(State::failed);
      return sealed;
    }
    blobs_.store_.keep(std::move(reservation_), key_.second,
                       std::make_shared<const base::Fd>(std::move(memfd_)), blobs_.now_ns());
    end(State::finished);
    return Unit{};
  }

  void end(State state) {
    if (state_ != State::open) return;
    state_ = state;
    reservation_.release();
    memfd_.reset();
    --connection_->uploads;
    blobs_.ended(*this, key_);
  }

  Blobs& blobs_;
  kj::Own<ConnectionState> connection_;
  Handle handle_;
  Blobs::Key key_;
  BlobStore::Reservation reservation_;
  base::Fd memfd_;
  edge::Sha256Sum sum_;
  uint64_t written_bytes_ = 0;
  uint64_t idle_end_ns_ = 0;
  State state_ = State::open;
};

Blobs::Blobs(const Options& options, sched::Accounts& accounts, kj::Timer& timer)
    : options_(options), timer_(timer), store_(accounts, options.blob_ttl_ms), watch_(watch()) {}

uint64_t Blobs::now_ns() const {
  return static_cast<uint64_t>((timer_.now() - kj::origin<kj::TimePoint>()) / kj::NANOSECONDS);
}

// Sleeps no longer than a new blob or upload lives, so one that begins during the sleep does not
// expire late.
kj::Promise<void> Blobs::watch() {
  uint64_t now = now_ns();
  uint64_t next = std::min(store_.sweep(now), now + uint64_t{options_.upload_idle_ms} * 1'000'000);
  std::vector<UploadCalls*> idle;
  for (UploadCalls* upload : uploads_) {
    if (upload->idleEnd_ns() <= now)
      idle.push_back(upload);
    else
      next = std::min(next, upload->idleEnd_ns());
  }
  for (UploadCalls* upload : idle) upload->expire();
  return timer_.atTime(kj::origin<kj::TimePoint>() + static_cast<int64_t>(next) * kj::NANOSECONDS)
      .then([this] { return watch(); });
}

kj::Promise<Result<Blobs::Begun>> Blobs::begin(kj::Own<ConnectionState> connection,
                                               capnp::Data::Reader hash_in, uint64_t size_bytes) {
  auto hash = hashFrom("upload", hash_in);
  if (!hash) return Result<Begun>(fail(std::move(hash).error()));
  const Key key{connection->account.user(), *hash};
  return attempt(kj::mv(connection), key, size_bytes,
                 timer_.now() + kOthersUploadMsMax * kj::MILLISECONDS);
}

kj::Promise<Result<Blobs::Begun>> Blobs::attempt(kj::Own<ConnectionState> connection, Key key,
                                                 uint64_t size_bytes, kj::TimePoint wait_until) {
  if (auto blob = store_.offered(connection->account, key.second, now_ns())) {
    if (blob->size_bytes == size_bytes) return Result<Begun>(Begun{true, nullptr});
    return Result<Begun>(
        fail(Code::invalidArgument, fmt::format("upload: the bytes of this hash are {}, not {}",
                                                blob->size_bytes, size_bytes)));
  }
  auto under_way = under_way_.find(key);
  if (under_way == under_way_.end() || timer_.now() >= wait_until)
    return make(kj::mv(connection), key, size_bytes);
  auto& waiting = under_way->second.waiting;
  if (waiting.size() >= kOthersUploadWaitsMax)
    std::erase_if(waiting, [](auto& each) { return !each->isWaiting(); });
  if (waiting.size() >= kOthersUploadWaitsMax) return make(kj::mv(connection), key, size_bytes);
  auto paf = kj::newPromiseAndFulfiller<void>();
  waiting.push_back(kj::mv(paf.fulfiller));
  return paf.promise.exclusiveJoin(timer_.atTime(wait_until))
      .then([this, connection = kj::mv(connection), key, size_bytes, wait_until]() mutable {
        return attempt(kj::mv(connection), key, size_bytes, wait_until);
      });
}

Result<Blobs::Begun> Blobs::make(kj::Own<ConnectionState> connection, Key key,
                                 uint64_t size_bytes) {
  if (connection->uploads >= options_.uploads_per_connection_max)
    return fail(
        Code::resourceExhausted,
        fmt::format("upload: {} uploads of this connection are not finished", connection->uploads),
        "Finish or close some first.");
  auto reservation = store_.reserve(connection->account, size_bytes, now_ns());
  if (!reservation) return fail(std::move(reservation).error().in("upload"));
  MAYFLY_TRY(base::Fd memfd, base::makeMemfd("blob"));
  Begun begun;
  begun.upload = schema::Upload::Client(kj::heap<UploadCalls>(
      *this, kj::mv(connection), key, std::move(*reservation), std::move(memfd)));
  return begun;
}

void Blobs::ended(UploadCalls& upload, const Key& key) {
  uploads_.erase(&upload);
  auto at = under_way_.find(key);
  auto waiting = std::move(at->second.waiting);
  at->second.waiting.clear();
  if (--at->second.uploads == 0) under_way_.erase(at);
  for (auto& each : waiting) each->fulfill();
}

std::optional<BlobStore::Blob> Blobs::use(const sched::AccountRef& user, const edge::Sha256& hash) {
  return store_.use(user, hash, now_ns());
}

Status Blobs::remove(const sched::AccountRef& user, capnp::Data::Reader hash_in) {
  MAYFLY_TRY(edge::Sha256 hash, hashFrom("removeBlob", hash_in));
  if (store_.remove(user, hash, now_ns())) return Unit{};
  return fail(Code::notFound, "removeBlob: you have no blob " + edge::hex(hash));
}

void Blobs::list(const sched::AccountRef& user, schema::Mayfly::BlobsResults::Builder out) {
  uint64_t now = now_ns();
  auto all = store_.list(user, now);
  auto list = out.initBlobs(static_cast<unsigned>(all.size()));
  for (unsigned i = 0; i < all.size(); ++i) {
    list[i].setSha256(edge::data(edge::view(all[i].hash)));
    list[i].setSizeBytes(all[i].size_bytes);
    list[i].setExpiresMs(static_cast<uint32_t>((all[i].expires_ns - now) / 1'000'000));
  }
}

Result<sched::InputFile> inputFileFrom(schema::InputFile::Reader in, const FindBlob& find) {
  sched::InputFile file;
  file.path = edge::str(in.getPath());
  file.data = edge::str(in.getData());
  file.mode = in.getMode();
  if (in.getBlob().size() == 0) return file;
  std::string what = "input file '" + base::printable(file.path, 80) + "'";
  auto hash = hashFrom(what.c_str(), in.getBlob());
  if (!hash) return fail(std::move(hash).error());
  if (!file.data.empty())
    return fail(Code::invalidArgument, what + " has both a blob and data of its own");
  auto blob = find(*hash);
  if (!blob)
    return fail(Code::notFound, fmt::format("{}: you have no blob {}", what, edge::hex(*hash)),
                "Upload it, and submit the task again.");
  file.blob = std::move(blob->content);
  file.blob_bytes = blob->size_bytes;
  return file;
}

}  // namespace mayfly::rpc
