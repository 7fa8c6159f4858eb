// Debian's packages: which ones a list of names means, and their files.
//
// The machine's own apt, with its sources moved to the image's release, its own
// lists and an empty system of its own: nothing of the host's apt changes.
//
//   apt/<suite>/         its lists and settings
//   resolved/<key>.json  which packages a list of names stood for when it was last asked
//
// Layer: image, internal to it. Blocks; needs the network where files are missing.
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

enum class Fresh : uint8_t { no, yes };  // yes: asked or made anew, whatever is cached

class Apt {
 public:
  // Touches nothing until it is asked something.
  Apt(Workshop& shop, std::string suite);

  // The essential packages, `packages` and all that they depend on; by name.
  base::Result<std::vector<Deb>> resolve(const std::vector<std::string>& packages, Fresh fresh);
  // These packages alone.
  base::Result<std::vector<Deb>> candidates(const std::vector<std::string>& packages, Fresh fresh);
  // Afterwards each one's file is an artifact, and is the one that the hash names.
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
  base::Fd lock_;  // of the lists; held from the first question on
  bool updated_ = false;
};

base::Result<std::string> hostArchitecture();  // Debian's name for it

}  // namespace mayfly::image
