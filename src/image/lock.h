// A template's lock: every package of its image, by name, version and hash. It lies beside the
// manifest as manifest.lock and belongs under version control: with it, the same template gives the
// same image everywhere.
//
// It names no host: the manifest, or each machine's own configuration, says where packages come
// from.
//
// Layer: image. Pure but for readLock() and writeLock().
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "config/manifest.h"

namespace mayfly::image {

struct Deb {
  std::string name, version, architecture, sha256;
  bool operator==(const Deb&) const = default;
};
struct Wheel {
  std::string name, version, file, sha256;
  bool own = false;  // from a template's folder, not from an index
  bool operator==(const Wheel&) const = default;
};
struct NpmPackage {
  std::string path;  // "node_modules/a/node_modules/b"
  std::string name, version, integrity, sha256;
  std::vector<std::pair<std::string, std::string>> bin;  // command -> file in the package
  bool wished = false;                                   // the manifest names it
  bool operator==(const NpmPackage&) const = default;
};

// A section is valid as long as the manifest's wishes do not change.
struct Lock {
  std::string suite, architecture;
  std::vector<std::string> debian_wishes, pip_wishes, npm_wishes;
  std::string pip_index;  // a hash of the template's own indexes; empty: it has none
  std::vector<Deb> debian;
  std::vector<Deb> tools;  // the packages that install pip's; not in the image
  std::vector<Wheel> pip;
  std::vector<NpmPackage> npm;
};

inline constexpr const char* kLockFile = "manifest.lock";

// `file` is used in messages only.
base::Result<Lock> parseLock(std::string_view text, std::string_view file);
std::string lockText(const Lock& lock);
// Whether parseLock() would accept it: an index's answer is trusted no more than a file. Tarballs
// may lack their sha256.
base::Status checkLock(Lock lock, std::string_view whose);
// Nothing if there is no file.
base::Result<std::optional<Lock>> readLock(const std::string& folder);
base::Status writeLock(const std::string& folder, const Lock& lock);

std::string debsText(const std::vector<Deb>& debs);  // a list alone, for the cache
base::Result<std::vector<Deb>> parseDebs(std::string_view text, std::string_view file);

// The recipe's wishes to pip; its own wheels with their hashes.
base::Result<std::vector<std::string>> pipWishes(const config::ImageRecipe& recipe);

// The lock's pip_index for the recipe.
std::string indexDigest(const config::ImageRecipe& recipe);

enum class Section : uint8_t { debian, pip, npm };
// The sections that do not match the recipe's wishes; empty: the lock fits.
base::Result<std::vector<Section>> stale(const Lock& lock, const config::ImageRecipe& recipe,
                                         std::string_view architecture);

}  // namespace mayfly::image
