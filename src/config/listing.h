// The parsers, which say what they ask for.
//
// Layer: config, internal to it.
#pragma once

#include "config/daemon.h"
#include "config/manifest.h"
#include "config/settings.h"

namespace mayfly::config {

// `asked`: gets every key in the order of asking, with what the values are before it is read.
base::Result<Daemon> parseDaemonListing(std::string_view text, std::string_view file,
                                        std::vector<Setting>* asked);
base::Result<Manifest> parseManifestListing(std::string_view text, std::string_view file,
                                            std::vector<Setting>* asked,
                                            const Manifest* base = nullptr);

}  // namespace mayfly::config
