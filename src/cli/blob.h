// mayfly blob list|remove: the input files that the daemon keeps for this user.
//
// Layer: cli. Blocking.
#pragma once

#include <mayfly/client.h>

#include <string>
#include <string_view>
#include <vector>

#include "cli/options.h"

namespace mayfly::cli {

int blobMain(const std::string& socket, const BlobOptions& options);

std::string blobsTable(const std::vector<BlobInfo>& blobs);
std::string blobsJson(const std::vector<BlobInfo>& blobs);
// The one blob whose hash begins so.
base::Result<BlobRef> blobOf(const std::vector<BlobInfo>& blobs, std::string_view digits);

}  // namespace mayfly::cli
