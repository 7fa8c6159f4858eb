// Layer: image. See lock.h.
#include "image/lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "base/text.h"
#include "image/hash.h"
#include "image/store.h"
#include "image/within.h"
#include "image/workshop.h"

namespace mayfly::image {
namespace {

using base::Code;
using OrderedJson = nlohmann::ordered_json;

constexpr size_t kLockBytesMax = 8u << 20;
constexpr int kVersion = 1;

// A lock's texts go into command lines and paths: they are checked like a stranger's.
bool isPlain(std::string_view text, std::string_view more) {
  constexpr std::string_view allowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-~:!";
  return !text.empty() && text.size() <= 400 && text.front() != '-' &&
         std::all_of(text.begin(), text.end(), [&](char c) {
           return allowed.find(c) != std::string_view::npos ||
                  more.find(c) != std::string_view::npos;
         });
}
bool isPlainPath(std::string_view text) {
  if (!isPlain(text, "/@") || text.front() == '/') return false;
  while (true) {
    const std::string_view part = text.substr(0, text.find('/'));
    if (part.empty() || part == "." || part == "..") return false;
    if (part.size() == text.size()) return true;
    text.remove_prefix(part.size() + 1);
  }
}

class Parser {
 public:
  explicit Parser(std::string_view file) : file_(file) {}
  bool failed() const { return failed_; }
  base::Error error() const {
    return {Code::invalidArgument,
            fmt::format("{}: is damaged at '{}'", file_, base::printable(at_, 100)),
            "Restore it, or make it again: mayfly template build NAME --update.", 0, 0};
  }
  void fail(std::string_view at) {
    if (!failed_) at_ = at;
    failed_ = true;
  }
  std::string string(const OrderedJson& json, const char* key, bool (*good)(std::string_view)) {
    if (!json.is_object() || !json.contains(key) || !json[key].is_string()) {
      fail(key);
      return {};
    }
    std::string value = json[key].get<std::string>();
    if (!good(value)) fail(value);
    return value;
  }
  std::vector<std::string> strings(const OrderedJson& json, const char* key) {
    std::vector<std::string> all;
    if (!json.is_object() || !json.contains(key) || !json[key].is_array()) {
      fail(key);
      return all;
    }
    for (const OrderedJson& one : json[key]) {
      if (one.is_string())
        all.push_back(one.get<std::string>());
      else
        fail(key);
    }
    return all;
  }
  // The entries of a list of objects.
  template <class Read>
  auto list(const OrderedJson& json, const char* key, Read read) {
    std::vector<decltype(read(json))> all;
    if (!json.is_object() || !json.contains(key) || !json[key].is_array()) {
      fail(key);
      return all;
    }
    for (const OrderedJson& one : json[key]) all.push_back(read(one));
    return all;
  }

 private:
  std::string file_, at_;
  bool failed_ = false;
};

bool isName(std::string_view s) { return isPlain(s, "@/"); }
bool isVersion(std::string_view s) { return isPlain(s, ""); }
bool isFileName(std::string_view s) { return isPlain(s, "") && s.front() != '.'; }
bool isIntegrity(std::string_view s) { return isPlain(s, "=/") && s.rfind("sha", 0) == 0; }

Deb readDeb(Parser& p, const OrderedJson& json) {
  return {p.string(json, "name", isVersion), p.string(json, "version", isVersion),
          p.string(json, "architecture", isVersion), p.string(json, "sha256", isDigest)};
}
OrderedJson debJson(const Deb& d) {
  return {{"name", d.name},
          {"version", d.version},
          {"architecture", d.architecture},
          {"sha256", d.sha256}};
}
OrderedJson debsJson(const std::vector<Deb>& debs) {
  OrderedJson list = OrderedJson::array();
  for (const Deb& d : debs) list.push_back(debJson(d));
  return list;
}

Wheel readWheel(Parser& p, const OrderedJson& json) {
  Wheel w{p.string(json, "name", isName), p.string(json, "version", isVersion),
          p.string(json, "file", isFileName), p.string(json, "sha256", isDigest), false};
  w.own = json.is_object() && json.contains("own") && json["own"] == true;
  return w;
}

NpmPackage readNpm(Parser& p, const OrderedJson& json) {
  NpmPackage n;
  n.path = p.string(json, "path", isPlainPath);
  n.name = p.string(json, "name", isName);
  n.version = p.string(json, "version", isVersion);
  n.integrity = p.string(json, "integrity", isIntegrity);
  n.sha256 = p.string(json, "sha256", isDigest);
  n.wished = json.is_object() && json.contains("wished") && json["wished"] == true;
  if (json.is_object() && json.contains("bin") && json["bin"].is_object()) {
    for (const auto& [command, file] : json["bin"].items()) {
      if (!isFileName(command) || !file.is_string() || !isPlainPath(file.get<std::string>()))
        p.fail(command);
      else
        n.bin.emplace_back(command, file.get<std::string>());
    }
  }
  return n;
}

std::string dump(const OrderedJson& json) {
  return json.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

}  // namespace

std::string debsText(const std::vector<Deb>& debs) { return dump(debsJson(debs)); }

base::Result<std::vector<Deb>> parseDebs(std::string_view text, std::string_view file) {
  const OrderedJson json = {{"packages", OrderedJson::parse(text, nullptr, false)}};
  Parser p(file);
  auto debs = p.list(json, "packages", [&](const OrderedJson& one) { return readDeb(p, one); });
  if (p.failed()) return base::fail(p.error());
  return debs;
}

base::Result<Lock> parseLock(std::string_view text, std::string_view file) {
  const OrderedJson json = OrderedJson::parse(text, nullptr, false);
  Parser p(file);
  if (!json.is_object() || !json.contains("mayfly_lock")) p.fail("mayfly_lock");
  if (p.failed()) return base::fail(p.error());
  if (json["mayfly_lock"] != kVersion) {
    return base::fail(Code::invalidArgument,
                      fmt::format("{}: has a version that this Mayfly does not know", file),
                      "Make it again: mayfly template build NAME --update.");
  }
  Lock lock;
  lock.suite = p.string(json, "suite", isVersion);
  lock.architecture = p.string(json, "architecture", isVersion);
  const auto section = [&](const char* key) -> const OrderedJson& {
    static const OrderedJson none = OrderedJson::object();
    if (json.contains(key) && json[key].is_object()) return json[key];
    p.fail(key);
    return none;
  };
  const OrderedJson &debian = section("debian"), &pip = section("pip"), &npm = section("npm");
  lock.debian_wishes = p.strings(debian, "wishes");
  lock.debian = p.list(debian, "packages", [&](const OrderedJson& one) { return readDeb(p, one); });
  lock.pip_wishes = p.strings(pip, "wishes");
  if (pip.contains("index")) lock.pip_index = p.string(pip, "index", isDigest);
  lock.tools = p.list(pip, "tools", [&](const OrderedJson& one) { return readDeb(p, one); });
  lock.pip = p.list(pip, "packages", [&](const OrderedJson& one) { return readWheel(p, one); });
  lock.npm_wishes = p.strings(npm, "wishes");
  lock.npm = p.list(npm, "packages", [&](const OrderedJson& one) { return readNpm(p, one); });
  if (p.failed()) return base::fail(p.error());
  return lock;
}

std::string lockText(const Lock& lock) {
  OrderedJson pip = OrderedJson::array(), npm = OrderedJson::array();
  for (const Wheel& w : lock.pip) {
    OrderedJson one = {
        {"name", w.name}, {"version", w.version}, {"file", w.file}, {"sha256", w.sha256}};
    if (w.own) one["own"] = true;
    pip.push_back(std::move(one));
  }
  for (const NpmPackage& n : lock.npm) {
    OrderedJson one = {{"path", n.path},
                       {"name", n.name},
                       {"version", n.version},
                       {"integrity", n.integrity},
                       {"sha256", n.sha256}};
    if (n.wished) one["wished"] = true;
    for (const auto& [command, file] : n.bin) one["bin"][command] = file;
    npm.push_back(std::move(one));
  }
  OrderedJson json;
  json["mayfly_lock"] = kVersion;
  json["suite"] = lock.suite;
  json["architecture"] = lock.architecture;
  json["debian"] = {{"wishes", lock.debian_wishes}, {"packages", debsJson(lock.debian)}};
  json["pip"] = {{"wishes", lock.pip_wishes}, {"tools", debsJson(lock.tools)}, {"packages", pip}};
  if (!lock.pip_index.empty()) json["pip"]["index"] = lock.pip_index;
  json["npm"] = {{"wishes", lock.npm_wishes}, {"packages", npm}};
  return dump(json);
}

base::Status checkLock(Lock lock, std::string_view whose) {
  for (NpmPackage& n : lock.npm)
    if (n.sha256.empty()) n.sha256 = std::string(64, '0');  // not downloaded yet
  auto same = parseLock(lockText(lock), whose);
  if (same) return base::Unit{};
  return base::fail(Code::failedPrecondition, same.error().message,
                    "Names, versions and paths of packages must be plain.");
}

base::Result<std::optional<Lock>> readLock(const std::string& folder) {
  const std::string file = folder + "/" + kLockFile;
  auto text = base::readSmallFile(base::FdView(AT_FDCWD), file, kLockBytesMax);
  if (!text) {
    if (text.error().sys == ENOENT) return std::optional<Lock>();
    return base::fail(std::move(text).error());
  }
  MAYFLY_TRY(Lock lock, parseLock(*text, file));
  return std::optional<Lock>(std::move(lock));
}

base::Status writeLock(const std::string& folder, const Lock& lock) {
  const std::string file = folder + "/" + kLockFile, made = file + ".new";
  ::unlink(made.c_str());
  auto status = writeText(made, lockText(lock));
  if (status && ::rename(made.c_str(), file.c_str()) != 0)
    status = base::failSys(errno, "rename", file);
  if (status) return base::Unit{};
  ::unlink(made.c_str());
  base::Error error = std::move(status).error();
  error.advice = "The lock is beside the manifest; its folder must be writable.";
  return base::fail(std::move(error));
}

base::Result<std::vector<std::string>> pipWishes(const config::ImageRecipe& recipe) {
  std::vector<std::string> wishes = recipe.pip;
  for (const config::ImageFile& wheel : recipe.wheels) {
    auto path = sourceFile(wheel.folder, wheel.source);
    if (!path) return base::fail(std::move(path).error().in("'image.pip' of the manifest"));
    MAYFLY_TRY(std::string digest, hashFile(*path));
    wishes.push_back(fmt::format("{} sha256:{}", wheel.source, digest));
  }
  return wishes;
}

std::string indexDigest(const config::ImageRecipe& recipe) {
  if (recipe.pip_index.empty() && recipe.pip_extra_index.empty()) return {};
  Hash hash;
  hash.field("mayfly pip indexes");
  hash.field(recipe.pip_index);
  for (const std::string& url : recipe.pip_extra_index) hash.field(url);
  return hash.hex();
}

base::Result<std::vector<Section>> stale(const Lock& lock, const config::ImageRecipe& recipe,
                                         std::string_view architecture) {
  MAYFLY_TRY(std::vector<std::string> pip, pipWishes(recipe));
  std::vector<Section> sections;
  const bool debian = lock.suite != recipe.suite || lock.architecture != architecture ||
                      lock.debian_wishes != recipe.packages;
  if (debian) sections.push_back(Section::debian);
  // A changed Python or Node may need other builds of the same packages.
  const bool moved = !pip.empty() && lock.pip_index != indexDigest(recipe);
  if (lock.pip_wishes != pip || moved || (debian && !pip.empty())) sections.push_back(Section::pip);
  if (lock.npm_wishes != recipe.npm || (debian && !recipe.npm.empty()))
    sections.push_back(Section::npm);
  return sections;
}

}  // namespace mayfly::image
