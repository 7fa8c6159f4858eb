// Where Debian's packages come from: the machine's own apt configuration, moved
// to the release that an image wants.
//
// Layer: image. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mayfly::image {

// How apt-get must be asked for what sourcesFor() reads.
inline constexpr const char* kIndexTargetsFormat =
    "$(SITE)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(SIGNED_BY)|";

// One-line apt sources for `suite` (the archive, its updates, its security
// updates) from the lines of `apt-get indextargets`; `host_release` is the code
// name of the host's own release.
base::Result<std::vector<std::string>> sourcesFor(std::string_view suite,
                                                  std::string_view indextargets,
                                                  std::string_view host_release);

// The options of `apt-config dump` that say how to reach and check an archive:
// proxies, certificates, retries, validity.
std::vector<std::string> fetchOptions(std::string_view apt_config_dump);

// VERSION_CODENAME of an os-release file; empty where it has none.
std::string codename(std::string_view os_release);

}  // namespace mayfly::image
