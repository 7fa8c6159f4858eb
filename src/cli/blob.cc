#include "cli/blob.h"

#include <fmt/format.h>
#include <stdio.h>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cli/report.h"
#include "cli/run.h"

namespace mayfly::cli {

using base::Code;
using base::fail;
using base::printable;

namespace {

constexpr int kFailed = 1;
constexpr size_t kDigitsMin = 8;

std::string hex(const BlobRef& blob) {
  std::string text;
  for (uint8_t byte : blob.sha256) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace

base::Result<BlobRef> blobOf(const std::vector<BlobInfo>& blobs, std::string_view digits) {
  if (digits.size() < kDigitsMin)
    return fail(Code::invalidArgument,
                fmt::format("'{}' is too short: give at least the first {} digits of a blob's hash",
                            printable(digits, 80), kDigitsMin));
  const BlobInfo* found = nullptr;
  for (const BlobInfo& each : blobs) {
    if (!hex(each.blob).starts_with(digits)) continue;
    if (found != nullptr)
      return fail(Code::invalidArgument,
                  fmt::format("'{}' begins the hashes of several blobs", printable(digits, 80)));
    found = &each;
  }
  if (found == nullptr)
    return fail(Code::notFound, fmt::format("you have no blob '{}'", printable(digits, 80)),
                "`mayfly blob list` shows yours.");
  return found->blob;
}

std::string blobsTable(const std::vector<BlobInfo>& blobs) {
  if (blobs.empty()) return "no blobs\n";
  std::string text = fmt::format("{:<64}  {:>10}  {}\n", "SHA256", "SIZE", "UNUSED IT LASTS");
  uint64_t bytes = 0;
  for (const BlobInfo& each : blobs) {
    bytes += each.blob.size_bytes;
    text += fmt::format("{}  {:>10}  {} s\n", hex(each.blob),
                        base::humanBytes(each.blob.size_bytes), each.expires_ms / 1'000);
  }
  return text + fmt::format("{} of {}\n",
                            blobs.size() == 1 ? "1 blob" : fmt::format("{} blobs", blobs.size()),
                            base::humanBytes(bytes));
}

std::string blobsJson(const std::vector<BlobInfo>& blobs) {
  nlohmann::ordered_json json;
  json["blobs"] = nlohmann::ordered_json::array();
  for (const BlobInfo& each : blobs)
    json["blobs"].push_back({{"sha256", hex(each.blob)},
                             {"sizeBytes", each.blob.size_bytes},
                             {"expiresMs", each.expires_ms}});
  return json.dump(2) + "\n";
}

int blobMain(const std::string& socket, const BlobOptions& options) {
  ConnectOptions connect;
  connect.client_name = "mayfly blob";
  auto client = Client::connect(socket, connect);
  if (!client) return sayError(client.error(), options.json);
  auto blobs = (*client)->blobs();
  if (!blobs) return sayError(blobs.error(), options.json);
  if (options.verb == BlobVerb::list) {
    fmt::print("{}", options.json ? blobsJson(*blobs) : blobsTable(*blobs));
    return 0;
  }
  int code = 0;
  const auto remove = [&](const BlobRef& blob) {
    auto removed = (*client)->removeBlob(blob);
    // A blob that ended meanwhile is as gone as it was asked to be.
    if (removed || (options.all && removed.error().code == Code::notFound)) return;
    sayError(removed.error(), false);
    code = kFailed;
  };
  if (options.all)
    for (const BlobInfo& each : *blobs) remove(each.blob);
  for (const std::string& digits : options.hashes) {
    auto blob = blobOf(*blobs, digits);
    if (blob) {
      remove(*blob);
    } else {
      sayError(blob.error(), false);
      code = kFailed;
    }
  }
  return code;
}

}  // namespace mayfly::cli
