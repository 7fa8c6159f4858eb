// Layer: config. See manifest.h.
#include "config/manifest.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/fd.h"
#include "base/text.h"
#include "config/limits.h"
#include "config/reader.h"
#include "config/units.h"

namespace mayfly::config {
namespace {

using base::Code;

constexpr size_t kPackagesMax = 200;
constexpr size_t kRunMax = 50;
constexpr size_t kFilesMax = 100;
constexpr size_t kPreloadMax = 500;
constexpr size_t kEnvMax = 64;
constexpr size_t kSyscallsMax = 200;
constexpr size_t kTemplatesMax = 64;

bool all(std::string_view text, std::string_view allowed) {
  return text.find_first_not_of(allowed) == std::string_view::npos;
}
constexpr std::string_view kLower = "abcdefghijklmnopqrstuvwxyz";
constexpr std::string_view kWord =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";

bool isPackage(std::string_view s) {  // as Debian policy names them
  return s.size() >= 2 && s.size() <= 100 && s.front() != '-' && s.front() != '.' &&
         all(s, "abcdefghijklmnopqrstuvwxyz0123456789+-.");
}
// "a.b" as Python's, "A::B" as Perl's.
bool isModule(std::string_view s) {
  return !s.empty() && s.size() <= 200 && s.front() != '.' && s.front() != ':' && s.back() != '.' &&
         s.back() != ':' && s.find("..") == std::string_view::npos &&
         all(s, std::string(kWord) + ".:");
}
bool isEnvName(std::string_view s) {
  return !s.empty() && s.size() <= 200 && !(s.front() >= '0' && s.front() <= '9') && all(s, kWord);
}
// No "..", no ".", no empty part: the path means what it says.
bool isPlainPath(std::string_view path, bool absolute) {
  if (path.size() > 1'000 || path.empty() || (path.front() == '/') != absolute) return false;
  if (absolute) path.remove_prefix(1);
  while (true) {
    const size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (part.empty() || part == "." || part == "..") return false;
    if (slash == std::string_view::npos) return true;
    path.remove_prefix(slash + 1);
  }
}

void readImage(Reader::Table t, ImageRecipe& out) {
  if (!t.present()) return;
  t.string("suite", out.suite);
  if (out.suite.empty() || !all(out.suite, kLower))
    t.complain("suite", "must be the code name of a Debian release, e.g. \"trixie\"");
  t.strings("packages", kPackagesMax, out.packages);
  for (const std::string& p : out.packages) {
    if (!isPackage(p))
      t.complain("packages",
                 fmt::format("holds '{}', which is no package name", base::printable(p, 60)));
  }
  std::sort(out.packages.begin(), out.packages.end());
  out.packages.erase(std::unique(out.packages.begin(), out.packages.end()), out.packages.end());
  t.strings("run", kRunMax, out.run);
  std::vector<std::pair<std::string, std::string>> files;
  t.stringTable("files", kFilesMax, files);
  for (auto& [target, source] : files) {
    if (!isPlainPath(target, true))
      t.complain("files",
                 fmt::format("'{}' is no absolute path in the image", base::printable(target, 80)));
    if (!isPlainPath(source, false))
      t.complain("files", fmt::format("'{}' is no path inside the template's folder",
                                      base::printable(source, 80)));
    out.files.push_back({std::move(source), std::move(target)});
  }
  t.finish();
}

void readEnv(Reader::Table& t, std::vector<std::pair<std::string, std::string>>& out) {
  t.stringTable("env", kEnvMax, out);
  for (const auto& [name, value] : out) {
    if (!isEnvName(name)) {
      t.complain("env", fmt::format("'{}' is no name of an environment variable",
                                    base::printable(name, 60)));
    }
  }
}

void readZygote(Reader::Table t, ZygoteSpec& out) {
  t.strings("argv", kZygoteArgsMax, out.argv);
  if (out.argv.empty()) {
    t.complain("argv", "is required: the zygote's program and its arguments");
  } else if (!isPlainPath(out.argv[0], true)) {
    t.complain("argv", "must begin with the absolute path of a program in the image");
  }
  for (const std::string& arg : out.argv) {
    if (arg.size() > kZygoteArgBytesMax) {
      t.complain("argv", fmt::format("holds '{}', which is longer than {} bytes",
                                     base::printable(arg, 80), kZygoteArgBytesMax));
    }
  }
  t.string("trial", out.trial);
  if (!out.trial.empty() && !isPlainPath(out.trial, false))
    t.complain("trial", "must be a plain path in the template's folder");
  t.strings("preload", kPreloadMax, out.preload);
  for (const std::string& module : out.preload) {
    if (!isModule(module))
      t.complain("preload",
                 fmt::format("holds '{}', which is no module name", base::printable(module, 60)));
  }
  readEnv(t, out.env);
  t.quantity("memory", 16ull << 20, 64ull << 30, parseBytes, formatBytes, out.memory_bytes);
  t.quantity("start_time", 100, 600'000, parseDurationMs, formatDurationMs, out.start_ms_max);
  t.finish();
}

void readLimits(Reader::Table t, base::Limits& out) {
  for (const LimitField& field : limitFields()) {
    uint64_t value = field.get(out);
    t.quantity(
        field.key, field.lowest, field.highest, [&](std::string_view s) { return field.parse(s); },
        [&](uint64_t v) { return field.format(v); }, value);
    field.set(out, value);
  }
  t.finish();
}

}  // namespace

std::string_view name(Mechanism mechanism) {
  return mechanism == Mechanism::exec ? "exec" : "fork";
}

bool isTemplateName(std::string_view s) {
  return !s.empty() && s.size() <= 32 && s.front() >= 'a' && s.front() <= 'z' && s.back() != '-' &&
         all(s, "abcdefghijklmnopqrstuvwxyz0123456789-");
}

base::Result<Manifest> parseManifest(std::string_view text, std::string_view file) {
  Reader reader(text, file);
  Manifest m;
  Reader::Table root = reader.root();
  root.string("name", m.name);
  if (!isTemplateName(m.name)) {
    root.complain("name",
                  "is required: lower-case letters, digits and '-', a letter first, at most 32");
  }
  root.string("description", m.description);
  if (m.description.empty() || m.description.size() > 200) {
    root.complain("description", "is required: one line of at most 200 bytes");
  }
  std::string mechanism;
  root.string("mechanism", mechanism);
  if (mechanism == "exec") {
    m.mechanism = Mechanism::exec;
  } else if (mechanism == "restore") {
    root.complain("mechanism",
                  "'restore' is not available in this version; use \"fork\" or \"exec\"");
  } else if (mechanism != "fork") {
    root.complain("mechanism", "is required: \"fork\" or \"exec\"");
  }
  Reader::Table image = root.table("image");
  if (!image.present()) root.complain("image", "is required: a table with the image's recipe");
  readImage(image, m.image);
  readZygote(root.table("zygote"), m.zygote);
  Reader::Table task = root.table("task");
  readEnv(task, m.task_env);
  task.finish();
  Reader::Table parked = root.table("pool");
  parked.count("min", 0, 4'096, m.parked_min);
  parked.count("max", 0, 4'096, m.parked_max);
  if (m.parked_min > m.parked_max) parked.complain("min", "must not be above max");
  parked.finish();
  Reader::Table network = root.table("network");
  network.boolean("loopback", m.loopback);
  network.finish();
  Reader::Table seccomp = root.table("seccomp");
  seccomp.strings("allow", kSyscallsMax, m.seccomp_allow);
  for (const std::string& call : m.seccomp_allow) {
    if (call.empty() || call.size() > 40 || !all(call, kWord)) {
      seccomp.complain("allow", fmt::format("holds '{}', which is no name of a system call",
                                            base::printable(call, 60)));
    }
  }
  seccomp.finish();
  Reader::Table limits = root.table("limits");
  readLimits(limits.table("default"), m.defaults);
  m.maximum = m.defaults;
  Reader::Table maximum = limits.table("maximum");
  readLimits(maximum, m.maximum);
  for (const LimitField& field : limitFields()) {
    if (field.get(m.maximum) >= field.get(m.defaults)) continue;
    maximum.complain(
        field.key, fmt::format("is {}, below the default of {}", field.format(field.get(m.maximum)),
                               field.format(field.get(m.defaults))));
  }
  limits.finish();
  root.finish();
  if (reader.failed()) return tl::unexpected<base::Error>(reader.takeError());
  return m;
}

base::Result<Manifest> loadManifest(const std::string& folder) {
  const std::string file = folder + "/manifest.toml";
  MAYFLY_TRY(std::string text,
             base::readSmallFile(base::FdView(AT_FDCWD), file, kManifestBytesMax));
  MAYFLY_TRY(Manifest m, parseManifest(text, file));
  const std::string base_name = folder.substr(folder.find_last_of('/') + 1);
  if (m.name != base_name) {
    return base::fail(Code::invalidArgument,
                      fmt::format("{}: 'name' is '{}', but the folder is '{}'", file, m.name,
                                  base::printable(base_name, 60)),
                      "Give both the same name.");
  }
  m.folder = folder;
  return m;
}

base::Result<Manifest> findManifest(const std::vector<std::string>& template_dirs,
                                    std::string_view name) {
  if (!isTemplateName(name)) {
    return base::fail(Code::invalidArgument,
                      fmt::format("'{}' is no template name", base::printable(name, 60)));
  }
  std::string looked;
  for (const std::string& dir : template_dirs) {
    const std::string folder = dir + "/" + std::string(name);
    struct stat st;
    if (::stat((folder + "/manifest.toml").c_str(), &st) == 0) return loadManifest(folder);
    looked += (looked.empty() ? "" : ", ") + dir;
  }
  return base::fail(Code::notFound, fmt::format("there is no template '{}' in {}", name, looked));
}

std::vector<std::string> listTemplates(const std::vector<std::string>& template_dirs) {
  std::vector<std::string> names;
  for (const std::string& dir : template_dirs) {
    DIR* d = ::opendir(dir.c_str());
    if (!d) continue;
    while (dirent* entry = ::readdir(d)) {
      struct stat st;
      if (!isTemplateName(entry->d_name) || names.size() >= kTemplatesMax) continue;
      const std::string file = dir + "/" + entry->d_name + "/manifest.toml";
      if (::stat(file.c_str(), &st) == 0) names.emplace_back(entry->d_name);
    }
    ::closedir(d);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

}  // namespace mayfly::config
