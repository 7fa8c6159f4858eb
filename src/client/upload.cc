// The calls for blobs: uploads, in several pieces at a time, and the list of the
// daemon's store.
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <deque>
#include <functional>

#include "base/text.h"
#include "client/connection.h"
#include "edge/sha256.h"

namespace mayfly {

using base::Code;
using base::fail;
using base::FdView;
using base::Result;
using base::Status;
using base::Unit;

namespace {

constexpr size_t kPiecesUnderWayMax = 8;

// Reads exactly `bytes` from `offset`; the range lies within the source.
using Source = std::function<Result<std::string>(uint64_t offset, size_t bytes)>;

// The daemon's object for an upload, for the loop's thread only. Jobs hold it, so it has no
// reference to the connection.
struct RemoteUpload {
  kj::Maybe<schema::Upload::Client> upload;
};

class Uploading {
 public:
  Uploading(Client::Connection& connection, DeadlineMs deadline_ms)
      : connection_(connection),
        deadline_ms_(deadline_ms.value_or(0)),
        bounded_(deadline_ms.has_value()),
        patience_(deadline_ms) {}
  ~Uploading() {
    // The daemon then frees the bytes of an unfinished upload.
    connection_.loop->post([remote = remote_] { remote->upload = nullptr; });
  }

  Result<BlobRef> run(uint64_t size_bytes, const Source& source) {
    uint64_t bytes_max = connection_.server.blob_bytes_max;
    if (bytes_max != 0 && size_bytes > bytes_max)  // checked before reading all for the hash
      return fail(
          Code::invalidArgument,
          fmt::format("upload: {} bytes; a blob may have at most {}", size_bytes, bytes_max),
          "Split it, or give it to the task on standard input.");
    BlobRef blob;
    blob.size_bytes = size_bytes;
    MAYFLY_TRY(blob.sha256, hashOf(size_bytes, source));
    MAYFLY_TRY(bool known, start(blob));
    if (known) return blob;
    std::deque<std::future<Result<Unit>>> under_way;
    for (uint64_t offset = 0; offset < size_bytes;) {
      MAYFLY_TRY(std::string piece,
                 source(offset, std::min<uint64_t>(kPieceBytes, size_bytes - offset)));
      offset += piece.size();
      if (under_way.size() == kPiecesUnderWayMax) {
        MAYFLY_CHECK(await(under_way.front()));
        under_way.pop_front();
      }
      under_way.push_back(write(std::move(piece)));
    }
    for (auto& each : under_way) MAYFLY_CHECK(await(each));
    auto finished = connection_.begin<Unit>([remote = remote_](Wire&) {
      return withUpload(
          *remote, [](schema::Upload::Client& upload) { return upload.finishRequest().send(); });
    });
    MAYFLY_CHECK(await(finished));
    return blob;
  }

 private:
  base::Error late() const { return Client::Connection::late("upload", deadline_ms_); }

  Result<edge::Sha256> hashOf(uint64_t size_bytes, const Source& source) {
    edge::Sha256Sum sum;
    for (uint64_t offset = 0; offset < size_bytes;) {
      if (patience_.left_ms() == 0u) return fail(late());
      MAYFLY_TRY(std::string piece,
                 source(offset, std::min<uint64_t>(kPieceBytes, size_bytes - offset)));
      offset += piece.size();
      sum.add(piece);
    }
    return sum.take();
  }

  // True: the daemon has the blob already.
  Result<bool> start(const BlobRef& blob) {
    auto begun = connection_.begin<bool>([remote = remote_, blob](Wire& wire) {
      auto request = wire.mayfly.uploadRequest();
      request.setSha256(edge::data(edge::view(blob.sha256)));
      request.setSizeBytes(blob.size_bytes);
      return request.send().then([remote](auto&& response) -> Result<bool> {
        MAYFLY_CHECK(edge::get(response.getError()));
        if (!response.getKnown()) remote->upload = response.getUpload();
        return response.getKnown();
      });
    });
    return await(begun);
  }

  std::future<Result<Unit>> write(std::string piece) {
    return connection_.begin<Unit>([remote = remote_, piece = std::move(piece)](Wire&) {
      return withUpload(*remote, [&](schema::Upload::Client& upload) {
        auto request =
            upload.writeRequest(capnp::MessageSize{piece.size() / sizeof(capnp::word) + 16, 0});
        request.setData(edge::data(piece));
        return request.send();
      });
    });
  }

  template <class Send>
  static kj::Promise<Result<Unit>> withUpload(RemoteUpload& remote, Send send) {
    KJ_IF_MAYBE (upload, remote.upload) {
      return send(*upload).then(
          [](auto&& response) -> Result<Unit> { return edge::get(response.getError()); });
    }
    return Result<Unit>(fail(Code::internal, "upload: the daemon gave no upload"));
  }

  template <class T>
  Result<T> await(std::future<Result<T>>& answer) {
    auto got = connection_.await(
        "upload", answer, bounded_ ? patience_.left_ms() : connection_.options.call_deadline_ms);
    if (!got && got.error().code == Code::deadlineExceeded && bounded_) return fail(late());
    return got;
  }

  Client::Connection& connection_;
  uint64_t deadline_ms_;
  bool bounded_;
  Patience patience_;
  std::shared_ptr<RemoteUpload> remote_ = std::make_shared<RemoteUpload>();
};

}  // namespace

Result<BlobRef> Client::upload(std::string_view bytes, DeadlineMs deadline_ms) {
  if (connection_->loop->onThread()) return fail(Connection::onOwnThread("upload"));
  return Uploading(*connection_, deadline_ms)
      .run(bytes.size(), [bytes](uint64_t offset, size_t wanted) -> Result<std::string> {
        return std::string(bytes.substr(offset, wanted));
      });
}

Result<BlobRef> Client::upload(FdView file, DeadlineMs deadline_ms) {
  if (connection_->loop->onThread()) return fail(Connection::onOwnThread("upload"));
  struct stat status;
  if (::fstat(file.get(), &status) != 0) return base::failSys(errno, "fstat", "a file to upload");
  if (!S_ISREG(status.st_mode))
    return fail(Code::invalidArgument, "upload: only a regular file can be read twice",
                "Copy it to a file first.");
  return Uploading(*connection_, deadline_ms)
      .run(static_cast<uint64_t>(status.st_size),
           [file](uint64_t offset, size_t wanted) -> Result<std::string> {
             std::string piece(wanted, '\0');
             for (size_t got = 0; got < wanted;) {
               ssize_t n = ::pread(file.get(), piece.data() + got, wanted - got,
                                   static_cast<off_t>(offset + got));
               if (n < 0 && errno == EINTR) continue;
               if (n < 0) return base::failSys(errno, "pread", "a file to upload");
               if (n == 0)
                 return fail(Code::failedPrecondition, "upload: the file became shorter meanwhile");
               got += static_cast<size_t>(n);
             }
             return piece;
           });
}

Result<BlobRef> Client::uploadFile(const std::string& path, DeadlineMs deadline_ms) {
  MAYFLY_TRY(base::Fd file, base::openAt(FdView(), path, O_RDONLY));
  auto blob = upload(file.view(), deadline_ms);
  if (!blob) return fail(std::move(blob).error().in("'" + base::printable(path) + "'"));
  return blob;
}

Result<std::vector<BlobInfo>> Client::blobs(DeadlineMs deadline_ms) {
  return connection_->call<std::vector<BlobInfo>>(
      "blobs", connection_->deadlineMs(deadline_ms), [](Wire& wire) {
        return wire.mayfly.blobsRequest().send().then(
            [](auto&& response) -> Result<std::vector<BlobInfo>> {
              MAYFLY_CHECK(edge::get(response.getError()));
              std::vector<BlobInfo> all;
              for (auto each : response.getBlobs()) all.push_back(get(each));
              return all;
            });
      });
}

Status Client::removeBlob(const BlobRef& blob, DeadlineMs deadline_ms) {
  return connection_->call<Unit>(
      "removeBlob", connection_->deadlineMs(deadline_ms), [blob](Wire& wire) {
        auto request = wire.mayfly.removeBlobRequest();
        request.setSha256(edge::data(edge::view(blob.sha256)));
        return request.send().then(
            [](auto&& response) -> Result<Unit> { return edge::get(response.getError()); });
      });
}

}  // namespace mayfly
