// The sources of pip's and npm's packages: the machine's own configuration, prepared for a look-up
// inside a root tree, with a template's own indexes of pip. None of it goes into an image or a
// lock.
//
// Layer: image, internal to it. Pure but for the functions that return a Result or a Status.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "config/manifest.h"
#include "image/sandbox.h"
#include "image/workshop.h"

namespace mayfly::image {

// Keys of a pip.conf ("index-url") without sections; a later key wins.
std::map<std::string, std::string> parsePipConfig(std::string_view text);
// The lines of an npmrc that say where packages are and how to reach them.
std::string filterNpmrc(std::string_view text);
// "${NPM_TOKEN}" -> NPM_TOKEN
std::vector<std::string> variablesIn(std::string_view npmrc);

// A tree for looking packages up: its /etc, a home and an output folder for the user nobody.
struct LookUp {
  Sandbox sandbox;
  std::vector<std::string> environment;
  std::string out;  // on the host; kOutFolder inside
};
inline constexpr const char* kOutFolder = "/run/build/out";
inline constexpr uint32_t kLookUpSecondsMax = 1'200;

// For a look-up's user nobody alone: no other user of the machine may read or change them.
base::Status makeOwnFolder(const std::string& path);
base::Status writeOwn(const std::string& path, std::string_view text);

// Copies the tree's /etc to a new folder `etc`, with the host's name resolution and certificates.
base::Status makeEtc(const std::string& tree, const std::string& etc);

// A template's own indexes in pip's settings: its index takes the place of the machine's, the
// further ones come after the machine's. The rest, such as proxies and certificates, stays.
void addIndexes(std::map<std::string, std::string>& settings, const config::ImageRecipe& recipe);

base::Result<LookUp> preparePipLookUp(Workshop& shop, const std::string& tree,
                                      const config::ImageRecipe& recipe);
base::Result<LookUp> prepareNpmLookUp(Workshop& shop, const std::string& tree);

}  // namespace mayfly::image
