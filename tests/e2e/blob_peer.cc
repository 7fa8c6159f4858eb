// A client of the raw protocol for test_blobs.py: executes commands from stdin, one a line, and
// answers each by one line of JSON. On command it lies about its data.
//
//   upload SHA256 SIZE            -> {"upload": N, "known": false}
//   write N COUNT BYTE            COUNT bytes of the value BYTE, in chunks
//   finish N | close N
//   blobs | remove SHA256
//   run SHA256 PATH CODE...       a python task with that blob at /task/PATH
//
// Usage: mayfly-blob-peer SOCKET [UID]; with UID it becomes that user before it connects.
#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <mayfly/mayfly.capnp.h>
#include <sodium.h>
#include <stdlib.h>
#include <unistd.h>

#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace {

using namespace mayfly;
using Json = nlohmann::json;

std::string fromHex(const std::string& hex) {
  std::string bytes(hex.size() / 2, '\0');
  size_t size = 0;
  sodium_hex2bin(reinterpret_cast<unsigned char*>(bytes.data()), bytes.size(), hex.data(),
                 hex.size(), nullptr, &size, nullptr);
  bytes.resize(size);
  return bytes;
}

std::string toHex(capnp::Data::Reader data) {
  std::string hex(data.size() * 2 + 1, '\0');
  sodium_bin2hex(hex.data(), hex.size(), data.begin(), data.size());
  hex.pop_back();
  return hex;
}

capnp::Data::Reader dataOf(const std::string& bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}

template <class Reader>
std::string text(Reader reader) {
  return {reinterpret_cast<const char*>(reader.begin()), reader.size()};
}

class Peer {
 public:
  explicit Peer(const std::string& path)
      : io_(kj::setupAsyncIo()),
        stream_(io_.provider->getNetwork()
                    .parseAddress("unix:" + path)
                    .wait(io_.waitScope)
                    ->connect()
                    .wait(io_.waitScope)),
        client_(*stream_),
        mayfly_(client_.bootstrap().castAs<schema::Mayfly>()) {}

  Json obey(const std::string& line) {
    std::istringstream words(line);
    std::string verb, hash;
    words >> verb;
    if (verb == "upload") {
      uint64_t size = 0;
      words >> hash >> size;
      auto request = mayfly_.uploadRequest();
      request.setSha256(dataOf(fromHex(hash)));
      request.setSizeBytes(size);
      auto response = request.send().wait(io_.waitScope);
      Json json = errorOf(response.getError());
      json["known"] = response.getKnown();
      if (response.hasUpload()) {
        json["upload"] = ++last_;
        uploads_.emplace(last_, response.getUpload());
      }
      return json;
    }
    if (verb == "write" || verb == "finish" || verb == "close") {
      int number = 0;
      uint64_t count = 0;
      int byte = 0;
      words >> number >> count >> byte;
      auto& upload = uploads_.at(number);
      if (verb == "finish")
        return errorOf(upload.finishRequest().send().wait(io_.waitScope).getError());
      if (verb == "close")
        return errorOf(upload.closeRequest().send().wait(io_.waitScope).getError());
      while (count > 0) {
        std::string chunk(std::min<uint64_t>(count, schema::CHUNK_BYTES_MAX),
                          static_cast<char>(byte));
        count -= chunk.size();
        auto request = upload.writeRequest();
        request.setData(dataOf(chunk));
        Json json = errorOf(request.send().wait(io_.waitScope).getError());
        if (json["code"] != 0) return json;
      }
      return errorOf({});
    }
    if (verb == "blobs") {
      auto response = mayfly_.blobsRequest().send().wait(io_.waitScope);
      Json json = errorOf(response.getError());
      json["blobs"] = Json::object();
      for (auto each : response.getBlobs())
        json["blobs"][toHex(each.getSha256())] = each.getSizeBytes();
      return json;
    }
    if (verb == "remove") {
      words >> hash;
      auto request = mayfly_.removeBlobRequest();
      request.setSha256(dataOf(fromHex(hash)));
      return errorOf(request.send().wait(io_.waitScope).getError());
    }
    if (verb == "run") {
      std::string path, code;
      words >> hash >> path;
      std::getline(words, code);
      auto request = mayfly_.submitRequest();
      auto spec = request.initSpec();
      spec.setTemplate("python");
      spec.getCode().setString(dataOf(code.substr(code.find_first_not_of(' '))));
      auto file = spec.initFiles(1)[0];
      file.setPath(path);
      file.setBlob(dataOf(fromHex(hash)));
      auto submitted = request.send().wait(io_.waitScope);
      Json json = errorOf(submitted.getError());
      if (json["code"] != 0) return json;
      auto result = submitted.getTask().waitRequest().send().wait(io_.waitScope);
      json["verdict"] = static_cast<int>(result.getResult().getVerdict());
      json["stdout"] = text(result.getResult().getStdout());
      json["stderr"] = text(result.getResult().getStderr());
      return json;
    }
    return {{"code", -1}, {"message", "unknown command: " + line}};
  }

 private:
  static Json errorOf(schema::Error::Reader error) {
    return {{"code", static_cast<int>(error.getCode())},
            {"message", text(error.getMessage())},
            {"retryable", error.getRetryable()},
            {"retryAfterMs", error.getRetryAfterMs()}};
  }

  kj::AsyncIoContext io_;
  kj::Own<kj::AsyncIoStream> stream_;
  capnp::TwoPartyClient client_;
  schema::Mayfly::Client mayfly_;
  std::map<int, schema::Upload::Client> uploads_;
  int last_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 64;
  auto uid = static_cast<uid_t>(argc > 2 ? ::strtoul(argv[2], nullptr, 10) : ::geteuid());
  if (::setresuid(uid, uid, uid) != 0) return 77;
  Peer peer(argv[1]);
  for (std::string line; std::getline(std::cin, line);)
    std::cout << peer.obey(line).dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
}
