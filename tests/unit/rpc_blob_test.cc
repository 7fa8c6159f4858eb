// Blobs over the real RPC: uploads, the ways they end, and tasks that name blobs.
#include <fcntl.h>

#include "edge/sha256.h"
#include "rpc_peer.h"

namespace mayfly {
namespace {

using schema::ErrorCode;
using test::FakeCore;

std::string sha256(std::string_view bytes) {
  edge::Sha256Sum sum;
  sum.add(bytes);
  return std::string(edge::view(sum.take()));
}

struct Peer : test::Peer {
  using test::Peer::Peer;

  template <class Promise>
  auto wait(Promise&& promise) {
    return promise.wait(io.waitScope);
  }
  auto uploadRequest(std::string_view hash, uint64_t bytes) {
    auto request = mayfly.uploadRequest();
    request.setSha256(edge::data(hash));
    request.setSizeBytes(bytes);
    return request;
  }
  // An upload that must begin.
  schema::Upload::Client begin(std::string_view hash, uint64_t bytes) {
    auto begun = wait(uploadRequest(hash, bytes).send());
    EXPECT_EQ(begun.getError().getCode(), ErrorCode::OK) << begun.getError().getMessage().cStr();
    EXPECT_FALSE(begun.getKnown());
    return begun.getUpload();
  }
  ErrorCode refused(std::string_view hash, uint64_t bytes, bool retryable = false) {
    auto begun = wait(uploadRequest(hash, bytes).send());
    EXPECT_EQ(begun.getError().getRetryable(), retryable);
    EXPECT_FALSE(begun.hasUpload());
    return begun.getError().getCode();
  }
  ErrorCode write(schema::Upload::Client& upload, std::string_view bytes) {
    auto request = upload.writeRequest();
    request.setData(edge::data(bytes));
    return wait(request.send()).getError().getCode();
  }
  ErrorCode finish(schema::Upload::Client& upload) {
    return wait(upload.finishRequest().send()).getError().getCode();
  }
  void put(std::string_view bytes) {
    auto upload = begin(sha256(bytes), bytes.size());
    if (!bytes.empty()) {
      EXPECT_EQ(write(upload, bytes), ErrorCode::OK);
    }
    EXPECT_EQ(finish(upload), ErrorCode::OK);
  }
  std::vector<std::pair<std::string, uint64_t>> blobs() {
    auto response = wait(mayfly.blobsRequest().send());
    std::vector<std::pair<std::string, uint64_t>> all;
    for (auto each : response.getBlobs()) {
      all.emplace_back(edge::str(each.getSha256()), each.getSizeBytes());
      expires_ms = each.getExpiresMs();
    }
    return all;
  }
  ErrorCode remove(std::string_view hash) {
    auto request = mayfly.removeBlobRequest();
    request.setSha256(edge::data(hash));
    return wait(request.send()).getError().getCode();
  }
  auto submitRequest(std::string_view blob, std::string_view data = {}) {
    auto request = mayfly.submitRequest();
    auto spec = request.initSpec();
    spec.setTemplate("hold");
    spec.getCode().setString(edge::data("x"));
    auto file = spec.initFiles(1)[0];
    file.setPath("d/input");
    if (!blob.empty()) file.setBlob(edge::data(blob));
    if (!data.empty()) file.setData(edge::data(data));
    return request;
  }

  uint32_t expires_ms = 0;  // of the last blob listed
};

class BlobRpc : public test::RpcFixture {};

TEST_F(BlobRpc, WhatIsUploadedReachesTheCoreAsOneSealedFileForManyTasks) {
  start();
  Peer peer(socket_path);
  std::string bytes;
  for (int i = 0; i < 3'000'000; ++i) bytes += static_cast<char>(i % 251);
  std::string hash = sha256(bytes);
  auto upload = peer.begin(hash, bytes.size());
  for (size_t at = 0; at < bytes.size(); at += schema::CHUNK_BYTES_MAX)
    EXPECT_EQ(peer.write(upload, std::string_view(bytes).substr(at, schema::CHUNK_BYTES_MAX)),
              ErrorCode::OK);
  EXPECT_EQ(peer.finish(upload), ErrorCode::OK);
  EXPECT_EQ(peer.blobs(), (std::vector<std::pair<std::string, uint64_t>>{{hash, bytes.size()}}));
  EXPECT_GT(peer.expires_ms, options.blob_ttl_ms - test::kEventTime / std::chrono::milliseconds(1));
  EXPECT_LE(peer.expires_ms, options.blob_ttl_ms);
  auto first = peer.wait(peer.submitRequest(hash).send());
  auto second = peer.wait(peer.submitRequest(hash).send());
  ASSERT_EQ(second.getError().getCode(), ErrorCode::OK);
  onCore([&](FakeCore& c) {
    const sched::InputFile& file = c.task(1).spec.files.at(0);
    EXPECT_EQ(file.path, "d/input");
    EXPECT_EQ(file.data, "");
    EXPECT_EQ(file.blob_bytes, bytes.size());
    EXPECT_EQ(file.blob, c.task(2).spec.files.at(0).blob);
    std::string got(bytes.size() + 1, '?');
    EXPECT_EQ(::pread(file.blob->get(), got.data(), got.size(), 0), ssize_t(bytes.size()));
    got.pop_back();
    EXPECT_TRUE(got == bytes);
    EXPECT_EQ(::pwrite(file.blob->get(), "x", 1, 0), -1);
    EXPECT_EQ(::ftruncate(file.blob->get(), 1), -1);
    EXPECT_EQ(::fcntl(file.blob->get(), F_GET_SEALS),
              F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
  });
}

TEST_F(BlobRpc, AKnownBlobIsNotUploadedAgain) {
  start();
  Peer peer(socket_path);
  peer.put("hello");
  Peer other(socket_path, peer);  // same user
  auto known = other.wait(other.uploadRequest(sha256("hello"), 5).send());
  EXPECT_EQ(known.getError().getCode(), ErrorCode::OK);
  EXPECT_TRUE(known.getKnown());
  EXPECT_FALSE(known.hasUpload());
  EXPECT_EQ(other.refused(sha256("hello"), 6), ErrorCode::INVALID_ARGUMENT);
}

TEST_F(BlobRpc, AnEmptyBlobNeedsNoWrite) {
  start();
  Peer peer(socket_path);
  peer.put("");
  EXPECT_EQ(peer.wait(peer.submitRequest(sha256("")).send()).getError().getCode(), ErrorCode::OK);
}

TEST_F(BlobRpc, BytesOfAnotherHashOrSizeAreNeverKept) {
  start();
  Peer peer(socket_path);
  auto lied = peer.begin(sha256("hello"), 5);
  EXPECT_EQ(peer.write(lied, "HELLO"), ErrorCode::OK);
  EXPECT_EQ(peer.finish(lied), ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(peer.write(lied, "x"), ErrorCode::FAILED_PRECONDITION);
  EXPECT_EQ(peer.finish(lied), ErrorCode::FAILED_PRECONDITION);
  auto few = peer.begin(sha256("hello"), 6);
  EXPECT_EQ(peer.write(few, "hello"), ErrorCode::OK);
  EXPECT_EQ(peer.finish(few), ErrorCode::INVALID_ARGUMENT);
  auto many = peer.begin(sha256("hello"), 5);
  EXPECT_EQ(peer.write(many, "hel"), ErrorCode::OK);
  EXPECT_EQ(peer.write(many, "lo!"), ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(peer.write(many, "lo"), ErrorCode::OK);  // the refused write stored nothing
  EXPECT_EQ(peer.finish(many), ErrorCode::OK);
  EXPECT_EQ(peer.write(many, "x"), ErrorCode::FAILED_PRECONDITION);
  EXPECT_EQ(peer.blobs().size(), 1u);
}

TEST_F(BlobRpc, WritesOfNoByteOrOfMoreThanAChunkAreRefused) {
  start();
  Peer peer(socket_path);
  auto upload = peer.begin(sha256("x"), 3 << 20);
  EXPECT_EQ(peer.write(upload, ""), ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(peer.write(upload, std::string(schema::CHUNK_BYTES_MAX + 1, 'x')),
            ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(peer.write(upload, std::string(schema::CHUNK_BYTES_MAX, 'x')), ErrorCode::OK);
}

TEST_F(BlobRpc, WhatCanNeverBeABlobIsRefusedAtOnce) {
  start();
  Peer peer(socket_path);
  EXPECT_EQ(peer.refused("short", 5), ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(peer.refused("", 5), ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(peer.refused(std::string(64, 'a'), 5), ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(peer.refused(sha256("x"), 5ull << 30), ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(peer.refused(sha256("x"), UINT64_MAX), ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(peer.remove("short"), ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(peer.remove(sha256("x")), ErrorCode::NOT_FOUND);
}

TEST_F(BlobRpc, UploadsReserveTheirSizeAndGiveItBackHoweverTheyEnd) {
  core.account_bounds.setPool(sched::Resource::blobBytes, 1000, 1000);
  start();
  Peer peer(socket_path);
  {
    auto upload = peer.begin(sha256("a"), 1000);
    EXPECT_EQ(peer.refused(sha256("b"), 1, true), ErrorCode::RESOURCE_EXHAUSTED);
    peer.wait(upload.closeRequest().send());
    peer.wait(upload.closeRequest().send());
    EXPECT_EQ(peer.write(upload, "x"), ErrorCode::FAILED_PRECONDITION);
  }
  {
    auto failed = peer.begin(sha256("a"), 1000);
    EXPECT_EQ(peer.finish(failed), ErrorCode::INVALID_ARGUMENT);
  }
  { auto released = peer.begin(sha256("a"), 1000); }
  {
    Peer other(socket_path, peer);
    auto dropped = other.begin(sha256("a"), 1000);
    EXPECT_EQ(other.write(dropped, "x"), ErrorCode::OK);
    EXPECT_EQ(peer.refused(sha256("b"), 1, true), ErrorCode::RESOURCE_EXHAUSTED);
  }
  // The server notices the end of the other connection asynchronously.
  for (;;) {
    auto begun = peer.wait(peer.uploadRequest(sha256("b"), 1000).send());
    if (begun.getError().getCode() == ErrorCode::OK) break;
    ASSERT_EQ(begun.getError().getCode(), ErrorCode::RESOURCE_EXHAUSTED);
  }
}

TEST_F(BlobRpc, UploadsOfOneConnectionAreBounded) {
  options.uploads_per_connection_max = 2;
  start();
  Peer peer(socket_path);
  auto one = peer.begin(sha256("1"), 1), two = peer.begin(sha256("2"), 1);
  EXPECT_EQ(peer.refused(sha256("3"), 1, true), ErrorCode::RESOURCE_EXHAUSTED);
  Peer other(socket_path, peer);
  other.put("3");
  EXPECT_EQ(peer.write(one, "1"), ErrorCode::OK);
  EXPECT_EQ(peer.finish(one), ErrorCode::OK);
  peer.put("4");
}

TEST_F(BlobRpc, AnIdleUploadIsGivenUpAndABlobThatNobodyUsesExpires) {
  options.upload_idle_ms = 20;
  options.blob_ttl_ms = 30;
  start();
  Peer peer(socket_path);
  auto idle = peer.begin(sha256("a"), 10);
  auto at_once = [&](auto is) {
    auto deadline = std::chrono::steady_clock::now() + test::kEventTime;
    while (!is())
      if (std::chrono::steady_clock::now() > deadline) return false;
    return true;
  };
  // A refused write renews nothing.
  EXPECT_TRUE(at_once([&] { return peer.write(idle, "") == ErrorCode::NOT_FOUND; }));
  EXPECT_EQ(peer.finish(idle), ErrorCode::NOT_FOUND);
  auto upload = peer.begin(sha256("b"), 1);
  EXPECT_EQ(peer.write(upload, "b"), ErrorCode::OK);
  EXPECT_EQ(peer.finish(upload), ErrorCode::OK);
  EXPECT_TRUE(at_once([&] { return peer.blobs().empty(); }));
  EXPECT_EQ(peer.wait(peer.submitRequest(sha256("b")).send()).getError().getCode(),
            ErrorCode::NOT_FOUND);
}

TEST_F(BlobRpc, SecondUploadOfTheSameBytesWaitsForTheFirst) {
  start();
  Peer peer(socket_path), other(socket_path, peer);
  auto first = peer.begin(sha256("same"), 4);
  bool returned = false;
  auto second = other.uploadRequest(sha256("same"), 4)
                    .send()
                    .then([&](auto&& response) {
                      returned = true;
                      EXPECT_TRUE(response.getKnown());
                    })
                    .eagerlyEvaluate(nullptr);
  other.wait(other.mayfly.blobsRequest().send());  // by this answer the server has the upload call
  EXPECT_FALSE(returned);
  EXPECT_EQ(peer.write(first, "same"), ErrorCode::OK);
  EXPECT_FALSE(returned);
  EXPECT_EQ(peer.finish(first), ErrorCode::OK);
  other.wait(kj::mv(second));
}

TEST_F(BlobRpc, SecondUploadTakesOverWhereTheFirstComesToNothing) {
  start();
  Peer peer(socket_path), other(socket_path, peer), third(socket_path, peer);
  auto first = peer.begin(sha256("same"), 4);
  auto second = other.uploadRequest(sha256("same"), 4).send();
  other.wait(other.mayfly.blobsRequest().send());  // the server has this upload before the third
  auto waits = third.uploadRequest(sha256("same"), 4).send();
  third.wait(third.mayfly.blobsRequest().send());
  EXPECT_EQ(peer.write(first, "lies"), ErrorCode::OK);
  EXPECT_EQ(peer.finish(first), ErrorCode::INVALID_ARGUMENT);
  auto begun = other.wait(kj::mv(second));
  EXPECT_EQ(begun.getError().getCode(), ErrorCode::OK);
  EXPECT_FALSE(begun.getKnown());
  auto upload = begun.getUpload();
  EXPECT_EQ(other.write(upload, "same"), ErrorCode::OK);
  EXPECT_EQ(other.finish(upload), ErrorCode::OK);
  EXPECT_TRUE(third.wait(kj::mv(waits)).getKnown());
}

TEST_F(BlobRpc, ATaskThatNamesNoBlobOfItsUsersIsRefusedAndTheFileNamed) {
  start();
  Peer peer(socket_path);
  auto missing = peer.wait(peer.submitRequest(sha256("absent")).send());
  EXPECT_EQ(missing.getError().getCode(), ErrorCode::NOT_FOUND);
  std::string text = missing.getError().getMessage().cStr();
  EXPECT_NE(text.find("'d/input'"), std::string::npos) << text;
  EXPECT_NE(missing.getError().getAdvice().size(), 0u);
  peer.put("there");
  EXPECT_EQ(peer.wait(peer.submitRequest(sha256("there"), "data").send()).getError().getCode(),
            ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(peer.wait(peer.submitRequest("no hash").send()).getError().getCode(),
            ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(onCore([](FakeCore& c) { return c.count(); }), 0u);
}

TEST_F(BlobRpc, ARemovedBlobStaysWithTheTasksThatNameIt) {
  start();
  Peer peer(socket_path);
  peer.put("kept");
  ASSERT_EQ(peer.wait(peer.submitRequest(sha256("kept")).send()).getError().getCode(),
            ErrorCode::OK);
  EXPECT_EQ(peer.remove(sha256("kept")), ErrorCode::OK);
  EXPECT_EQ(peer.remove(sha256("kept")), ErrorCode::NOT_FOUND);
  EXPECT_TRUE(peer.blobs().empty());
  EXPECT_EQ(peer.wait(peer.submitRequest(sha256("kept")).send()).getError().getCode(),
            ErrorCode::NOT_FOUND);
  onCore([](FakeCore& c) {
    char text[4];
    EXPECT_EQ(::pread(c.task(1).spec.files.at(0).blob->get(), text, sizeof text, 0), 4);
  });
}

TEST_F(BlobRpc, ARepeatedKeyGivesItsTaskThoughTheBlobIsGone) {
  start();
  Peer peer(socket_path);
  peer.put("once");
  auto submit = [&](const char* path) {
    auto request = peer.submitRequest(sha256("once"));
    request.getSpec().getFiles()[0].setPath(path);
    auto detach = request.getSpec().initDetach();
    detach.setLeaseMs(60'000);
    detach.setKey("job");
    return peer.wait(request.send());
  };
  auto first = submit("f");
  ASSERT_EQ(first.getError().getCode(), ErrorCode::OK);
  EXPECT_EQ(peer.remove(sha256("once")), ErrorCode::OK);
  auto again = submit("f");
  EXPECT_EQ(again.getError().getCode(), ErrorCode::OK);
  EXPECT_TRUE(again.getExisting());
  EXPECT_EQ(again.getId(), first.getId());
  EXPECT_EQ(submit("g").getError().getCode(), ErrorCode::ALREADY_EXISTS);
}

TEST_F(BlobRpc, BoundsAreTold) {
  options.uploads_per_connection_max = 7;
  start();
  Peer peer(socket_path);
  auto request = peer.mayfly.helloRequest();
  request.setProtocol(schema::PROTOCOL_VERSION);
  auto info = peer.wait(request.send());
  auto bounds = info.getInfo().getBounds();
  const sched::AccountBounds& accounts = core.account_bounds;
  const sched::ShareBounds& bytes = accounts.of(sched::Resource::blobBytes);
  EXPECT_EQ(bounds.getBlobBytesMax(), bytes.user_max);
  EXPECT_EQ(bounds.getBlobStoreBytesMax(), bytes.pool_max);
  EXPECT_EQ(bounds.getBlobsPerUserMax(), accounts.of(sched::Resource::blobs).user_max);
  EXPECT_EQ(bounds.getAccounts().size(), sched::kResources);
  for (unsigned i = 0; i < sched::kResources; ++i) {
    auto told_of = bounds.getAccounts()[i];
    const sched::ShareBounds& its = accounts.of(static_cast<sched::Resource>(i));
    EXPECT_EQ(edge::view(told_of.getResource()), sched::name(static_cast<sched::Resource>(i)));
    EXPECT_EQ(told_of.getAllMax(), its.pool_max);
    EXPECT_EQ(told_of.getUserMax(), its.user_max);
    EXPECT_EQ(told_of.getUserOwn(), its.user_own);
    EXPECT_EQ(told_of.getTenantMax(), its.tenant_max);
  }
  EXPECT_EQ(bounds.getBlobTtlMs(), options.blob_ttl_ms);
  EXPECT_EQ(bounds.getUploadsPerConnectionMax(), 7u);
  EXPECT_EQ(bounds.getUploadIdleMs(), options.upload_idle_ms);
}

}  // namespace
}  // namespace mayfly
