// The sources of Debian's packages: the machine's own apt configuration, set to the release that an
// image wants.
//
// Layer: image. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mayfly::image {

// The format in which apt-get must list the lines for sourcesFor().
inline constexpr const char* kIndexTargetsFormat =
    "$(SITE)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(SIGNED_BY)|";

// One-line apt sources for `suite` (the archive, its updates, its security
// updates) from the lines of `apt-get indextargets`; `host_release` is the code
// name of the host's own release.
base::Result<std::vector<std::string>> sourcesFor(std::string_view suite,
                                                  std::string_view indextargets,
                                                  std::string_view host_release);

// The options of `apt-config dump` for reaching and checking an archive: proxies, certificates,
// retries, validity.
std::vector<std::string> fetchOptions(std::string_view apt_config_dump);

// VERSION_CODENAME of an os-release file; empty if it has none.
std::string codename(std::string_view os_release);

}  // namespace mayfly::image
