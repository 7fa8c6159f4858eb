// Debian's packages: the packages that a list of names resolves to, and their files.
//
// Uses the machine's own apt, with its sources set to the image's release, and with lists and an
// empty system of its own: the host's apt does not change.
//
//   apt/<suite>/         its lists and settings
//   resolved/<key>.json  the last resolution of a list of names
//
// Layer: image, internal to it. Blocks; needs the network if files are missing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "image/lock.h"
#include "image/workshop.h"

namespace mayfly::image {

enum class Fresh : uint8_t { no, yes };  // yes: resolve or make again, whatever is cached

class Apt {
 public:
  // Does nothing before its first call.
  Apt(Workshop& shop, std::string suite);

  // The essential packages, `packages` and all their dependencies; by name.
  base::Result<std::vector<Deb>> resolve(const std::vector<std::string>& packages, Fresh fresh);
  // These packages alone.
  base::Result<std::vector<Deb>> candidates(const std::vector<std::string>& packages, Fresh fresh);
  // Afterwards each package's file is an artifact and matches its hash.
  base::Status fetch(const std::vector<Deb>& debs);

 private:
  base::Status update();
  base::Status run(std::vector<std::string> argv, uint32_t seconds_max, std::string* output);
  template <class Ask>
  base::Result<std::vector<Deb>> remembered(std::string_view what,
                                            const std::vector<std::string>& packages, Fresh fresh,
                                            Ask ask);
  base::Result<std::vector<Deb>> ask(const std::vector<std::string>& packages);
  base::Result<std::vector<Deb>> show(const std::vector<std::string>& names);

  Workshop& shop_;
  const std::string suite_, folder_;
  base::Fd lock_;  // of the lists; held from the first look-up on
  bool updated_ = false;
};

base::Result<std::string> hostArchitecture();  // Debian's name for it

}  // namespace mayfly::image
