// Layer: image. See needs.h.
#include "image/needs.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/call_filter.h"
#include "base/fd.h"
#include "base/text.h"
#include "image/elf.h"
#include "image/sandbox.h"

namespace mayfly::image {
namespace {

using Json = nlohmann::json;

constexpr size_t kMissingMax = 64;
constexpr size_t kFilesMax = 2'000'000;
constexpr int kDepthMax = 100;
constexpr uint32_t kExamineSecondsMax = 300;
constexpr rlim_t kDataBytesMax = 1ull << 30;
constexpr size_t kNameBytesMax = 255;
constexpr size_t kPathBytesMax = 600;

struct Row {
  std::string_view library, package;
};
// Libraries that wheels and npm's binary packages expect of their system. The names are Debian
// 13's: in older releases, those with "t64" lack it.
constexpr Row kPackages[] = {
    {"libEGL.so.1", "libegl1"},
    {"libGL.so.1", "libgl1"},
    {"libICE.so.6", "libice6"},
    {"libSM.so.6", "libsm6"},
    {"libX11.so.6", "libx11-6"},
    {"libXcursor.so.1", "libxcursor1"},
    {"libXext.so.6", "libxext6"},
    {"libXfixes.so.3", "libxfixes3"},
    {"libXi.so.6", "libxi6"},
    {"libXrandr.so.2", "libxrandr2"},
    {"libXrender.so.1", "libxrender1"},
    {"libasound.so.2", "libasound2t64"},
    {"libatk-1.0.so.0", "libatk1.0-0t64"},
    {"libatk-bridge-2.0.so.0", "libatk-bridge2.0-0t64"},
    {"libatomic.so.1", "libatomic1"},
    {"libblas.so.3", "libblas3"},
    {"libbz2.so.1.0", "libbz2-1.0"},
    {"libcairo.so.2", "libcairo2"},
    {"libcrypto.so.3", "libssl3t64"},
    {"libcups.so.2", "libcups2t64"},
    {"libcurl.so.4", "libcurl4t64"},
    {"libdbus-1.so.3", "libdbus-1-3"},
    {"libdrm.so.2", "libdrm2"},
    {"libexpat.so.1", "libexpat1"},
    {"libffi.so.8", "libffi8"},
    {"libfontconfig.so.1", "libfontconfig1"},
    {"libfreetype.so.6", "libfreetype6"},
    {"libgbm.so.1", "libgbm1"},
    {"libgcc_s.so.1", "libgcc-s1"},
    {"libgdk_pixbuf-2.0.so.0", "libgdk-pixbuf-2.0-0"},
    {"libgfortran.so.5", "libgfortran5"},
    {"libgio-2.0.so.0", "libglib2.0-0t64"},
    {"libglib-2.0.so.0", "libglib2.0-0t64"},
    {"libgmodule-2.0.so.0", "libglib2.0-0t64"},
    {"libgmp.so.10", "libgmp10"},
    {"libgobject-2.0.so.0", "libglib2.0-0t64"},
    {"libgomp.so.1", "libgomp1"},
    {"libgssapi_krb5.so.2", "libgssapi-krb5-2"},
    {"libgthread-2.0.so.0", "libglib2.0-0t64"},
    {"libgtk-3.so.0", "libgtk-3-0t64"},
    {"libkrb5.so.3", "libkrb5-3"},
    {"liblapack.so.3", "liblapack3"},
    {"liblz4.so.1", "liblz4-1"},
    {"liblzma.so.5", "liblzma5"},
    {"libmagic.so.1", "libmagic1t64"},
    {"libmariadb.so.3", "libmariadb3"},
    {"libmpfr.so.6", "libmpfr6"},
    {"libncurses.so.6", "libncurses6"},
    {"libncursesw.so.6", "libncursesw6"},
    {"libnspr4.so", "libnspr4"},
    {"libnss3.so", "libnss3"},
    {"libnssutil3.so", "libnss3"},
    {"libnuma.so.1", "libnuma1"},
    {"libodbc.so.2", "libodbc2"},
    {"libopenblas.so.0", "libopenblas0-pthread"},
    {"libpango-1.0.so.0", "libpango-1.0-0"},
    {"libpangocairo-1.0.so.0", "libpangocairo-1.0-0"},
    {"libpangoft2-1.0.so.0", "libpangoft2-1.0-0"},
    {"libportaudio.so.2", "libportaudio2"},
    {"libpq.so.5", "libpq5"},
    {"libpython3.13.so.1.0", "libpython3.13"},
    {"libquadmath.so.0", "libquadmath0"},
    {"libreadline.so.8", "libreadline8t64"},
    {"libsasl2.so.2", "libsasl2-2"},
    {"libsmime3.so", "libnss3"},
    {"libsndfile.so.1", "libsndfile1"},
    {"libsodium.so.23", "libsodium23"},
    {"libsqlite3.so.0", "libsqlite3-0"},
    {"libssl.so.3", "libssl3t64"},
    {"libstdc++.so.6", "libstdc++6"},
    {"libtbb.so.12", "libtbb12"},
    {"libtinfo.so.6", "libtinfo6"},
    {"libudev.so.1", "libudev1"},
    {"libusb-1.0.so.0", "libusb-1.0-0"},
    {"libuuid.so.1", "libuuid1"},
    {"libxcb.so.1", "libxcb1"},
    {"libxkbcommon.so.0", "libxkbcommon0"},
    {"libxml2.so.2", "libxml2"},
    {"libxslt.so.1", "libxslt1.1"},
    {"libyaml-0.so.2", "libyaml-0-2"},
    {"libz.so.1", "zlib1g"},
    {"libzmq.so.5", "libzmq5"},
    {"libzstd.so.1", "libzstd1"},
};

bool endsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// A name like "libz.so", "libz.so.1", "_x.abi3.so" or "addon.node".
bool isLibraryName(std::string_view name) {
  return endsWith(name, ".so") || name.find(".so.") != std::string_view::npos ||
         endsWith(name, ".node");
}

// The libraries and programs of a tree.
class Census {
 public:
  void visit(base::FdView folder, const std::string& path, int depth);
  std::vector<Missing> missing() const;

 private:
  struct Provided {
    bool any_version = false;  // one that defines no versions, or a link
    std::set<std::string> versions;
  };
  struct Needing {
    std::string path;
    Elf elf;
  };

  void visitFile(base::FdView folder, const std::string& name, const std::string& path,
                 const struct stat& st);
  void provide(const std::string& name, const Elf& elf);

  size_t files_ = 0;
  std::map<std::string, Provided> provided_;  // by the library's name
  std::vector<Needing> needing_;
};

void Census::visit(base::FdView folder, const std::string& path, int depth) {
  const int copy = ::openat(folder.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* dir = copy >= 0 ? ::fdopendir(copy) : nullptr;
  if (!dir) {
    if (copy >= 0) ::close(copy);
    return;
  }
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(dir)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != ".." && ++files_ <= kFilesMax) names.emplace_back(name);
  }
  ::closedir(dir);
  std::sort(names.begin(), names.end());  // the first file that is named is always the same
  for (const std::string& name : names) {
    struct stat st;
    if (::fstatat(folder.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (S_ISREG(st.st_mode)) {
      visitFile(folder, name, path + "/" + name, st);
    } else if (S_ISLNK(st.st_mode) && isLibraryName(name)) {
      if (::fstatat(folder.get(), name.c_str(), &st, 0) == 0 && S_ISREG(st.st_mode))
        provided_[name].any_version = true;
    } else if (S_ISDIR(st.st_mode) && depth < kDepthMax) {
      const base::Fd inner(
          ::openat(folder.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (inner) visit(inner.view(), path + "/" + name, depth + 1);
    }
  }
}

void Census::visitFile(base::FdView folder, const std::string& name, const std::string& path,
                       const struct stat& st) {
  const bool library = isLibraryName(name);
  if ((!library && (st.st_mode & 0111) == 0) || st.st_size < 64) return;
  const base::Fd fd(
      ::openat(folder.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat now;
  char magic[4];
  if (!fd || ::fstat(fd.get(), &now) != 0 || !S_ISREG(now.st_mode) || now.st_size < 64 ||
      ::pread(fd.get(), magic, sizeof magic, 0) != 4 ||
      std::string_view(magic, 4) !=
          "\x7f"
          "ELF")
    return;
  const auto size = static_cast<size_t>(now.st_size);
  void* map = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (map == MAP_FAILED) return;
  std::optional<Elf> elf = readElf({static_cast<const char*>(map), size});
  ::munmap(map, size);
  if (!elf) return;
  provide(name, *elf);
  if (!elf->soname.empty() && elf->soname != name) provide(elf->soname, *elf);
  needing_.push_back({path, std::move(*elf)});
}

void Census::provide(const std::string& name, const Elf& elf) {
  Provided& provided = provided_[name];
  if (elf.versions.empty()) provided.any_version = true;
  provided.versions.insert(elf.versions.begin(), elf.versions.end());
}

std::vector<Missing> Census::missing() const {
  std::map<std::pair<std::string, std::string>, Missing> found;
  const auto note = [&](const std::string& library, const std::string& version,
                        const std::string& path) {
    const auto at = found.find({library, version});
    if (at != found.end()) {
      ++at->second.files;
    } else if (found.size() < kMissingMax) {
      found.emplace(std::pair(library, version), Missing{library, version, path, 1, {}});
    }
  };
  for (const auto& [path, elf] : needing_) {
    // A package may bring the same for other systems, such as Alpine: nobody loads that one here.
    if (std::any_of(elf.needs.begin(), elf.needs.end(), [](const std::string& library) {
          return library.rfind("libc.musl", 0) == 0 || library.rfind("ld-musl", 0) == 0;
        }))
      continue;
    for (const std::string& library : elf.needs)
      if (provided_.count(library.substr(library.find_last_of('/') + 1)) == 0)
        note(library, {}, path);
    for (const auto& [library, version] : elf.needed_versions) {
      const auto at = provided_.find(library);
      if (at != provided_.end() && !at->second.any_version &&
          at->second.versions.count(version) == 0)
        note(library, version, path);
    }
  }
  std::vector<Missing> all;
  for (auto& [key, one] : found) all.push_back(std::move(one));
  return all;
}

// Of the sandbox's process: it has no program to execute, so it drops the builder's files first.
[[noreturn]] void examineInside() {
  ::close_range(3, ~0u, 0);
  const rlimit data{kDataBytesMax, kDataBytesMax}, none{0, 0};
  // A sanitizer's memory is no part of the bound.
  if (!base::kSanitized && ::setrlimit(RLIMIT_DATA, &data) != 0) ::_exit(126);
  if (::setrlimit(RLIMIT_CORE, &none) != 0) ::_exit(126);
  std::string text;
  for (const Missing& missing : findMissing("/")) text += missingLine(missing) + "\n";
  for (size_t at = 0; at < text.size();) {
    const ssize_t n = ::write(1, text.data() + at, text.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) ::_exit(126);
    at += static_cast<size_t>(n);
  }
  ::_exit(0);
}

}  // namespace

std::vector<Missing> findMissing(const std::string& tree) {
  const base::Fd root(::open(tree.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) return {};
  Census census;
  census.visit(root.view(), "", 0);
  return census.missing();
}

std::string debianPackage(std::string_view library, std::string_view suite) {
  for (const Row& row : kPackages) {
    if (row.library != library) continue;
    std::string package(row.package);
    const bool older = suite == "bookworm" || suite == "bullseye";
    if (older && endsWith(package, "t64")) package.resize(package.size() - 3);
    return package;
  }
  return {};
}

std::string missingLine(const Missing& missing) {
  const Json json = {{"library", base::printable(missing.library, kNameBytesMax)},
                     {"version", base::printable(missing.version, kNameBytesMax)},
                     {"file", base::printable(missing.file, kPathBytesMax)},
                     {"files", missing.files}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::optional<Missing> parseMissingLine(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  Missing missing;
  const auto text = [&](const char* key, size_t bytes_max) {
    return json.is_object() && json.contains(key) && json[key].is_string()
               ? base::printable(json[key].get<std::string>(), bytes_max)
               : std::string();
  };
  missing.library = text("library", kNameBytesMax);
  missing.version = text("version", kNameBytesMax);
  missing.file = text("file", kPathBytesMax);
  if (missing.library.empty() || missing.file.empty() || !json.contains("files") ||
      !json["files"].is_number_unsigned())
    return std::nullopt;
  missing.files = static_cast<uint32_t>(
      std::min<uint64_t>(json["files"].get<uint64_t>(), std::numeric_limits<uint32_t>::max()));
  return missing;
}

base::Result<std::vector<Missing>> examine(Workshop& shop, const std::string& tree,
                                           std::string_view suite) {
  std::vector<Missing> all;
  Command look;
  look.argv = {"missing-libraries"};  // for the log: the builder's own code runs
  look.seconds_max = kExamineSecondsMax;
  look.enter = [enter = enterSandbox({tree, Inside::examine, {}})] {
    enter();
    examineInside();
  };
  look.on_line = [&](std::string_view line) {
    auto missing = parseMissingLine(line);
    if (!missing || all.size() >= kMissingMax) return;
    missing->package = debianPackage(missing->library, suite);
    all.push_back(std::move(*missing));
  };
  MAYFLY_CHECK(shop.run(std::move(look)));
  return all;
}

}  // namespace mayfly::image
