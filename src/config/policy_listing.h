// The policy's parser, which can also list the keys that it reads.
//
// Layer: config, internal to it.
#pragma once

#include "config/policy.h"

namespace mayfly::config {

base::Result<Policy> parsePolicyListing(std::string_view text, std::string_view file,
                                        std::vector<Setting>* asked);

}  // namespace mayfly::config
