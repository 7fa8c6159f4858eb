// A template's lock: every package that its image is made of, by name, version and
// hash. It lies beside the manifest as manifest.lock and belongs under version
// control: with it, the same template gives the same image everywhere.
//
// It names no host: where packages come from is each machine's own affair.
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

// A section holds for as long as the manifest wishes the same.
struct Lock {
  std::string suite, architecture;
  std::vector<std::string> debian_wishes, pip_wishes, npm_wishes;
  std::vector<Deb> debian;
  std::vector<Deb> tools;  // what installs pip's packages; not in the image
  std::vector<Wheel> pip;
  std::vector<NpmPackage> npm;
};

inline constexpr const char* kLockFile = "manifest.lock";

// `file` is used in messages only.
base::Result<Lock> parseLock(std::string_view text, std::string_view file);
std::string lockText(const Lock& lock);
// Whether parseLock() would take it: what an index answered is no more to be trusted
// than a file. Tarballs may lack their sha256.
base::Status checkLock(Lock lock, std::string_view whose);
// Nothing where there is no file.
base::Result<std::optional<Lock>> readLock(const std::string& folder);
base::Status writeLock(const std::string& folder, const Lock& lock);

std::string debsText(const std::vector<Deb>& debs);  // a list alone, for the cache
base::Result<std::vector<Deb>> parseDebs(std::string_view text, std::string_view file);

// What the recipe wishes of pip, its own wheels with their hashes.
base::Result<std::vector<std::string>> pipWishes(const config::ImageRecipe& recipe);

enum class Section : uint8_t { debian, pip, npm };
// The sections that the lock does not hold as the recipe wishes; empty: it fits.
base::Result<std::vector<Section>> stale(const Lock& lock, const config::ImageRecipe& recipe,
                                         std::string_view architecture);

}  // namespace mayfly::image
