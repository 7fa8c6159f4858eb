// The parsers of both files, which can also list the keys that they read.
//
// Layer: config, internal to it.
#pragma once

#include "config/daemon.h"
#include "config/manifest.h"
#include "config/settings.h"

namespace mayfly::config {

// `asked`: gets every key in reading order, each with its default.
base::Result<Daemon> parseDaemonListing(std::string_view text, std::string_view file,
                                        std::vector<Setting>* asked);
base::Result<Manifest> parseManifestListing(std::string_view text, std::string_view file,
                                            std::vector<Setting>* asked,
                                            const Manifest* base = nullptr);

}  // namespace mayfly::config
