// Layer: config. See manifest.h.
#include "config/manifest.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>

#include "base/fd.h"
#include "base/text.h"
#include "config/limits.h"
#include "config/listing.h"
#include "config/packages.h"
#include "config/reader.h"

namespace mayfly::config {
namespace {

using base::Code;

constexpr size_t kPackagesMax = 200;
constexpr size_t kIndexesMax = 8;
constexpr size_t kRunMax = 50;
constexpr size_t kFilesMax = 100;
constexpr size_t kPreloadMax = 500;
constexpr size_t kEnvMax = 64;
constexpr size_t kSyscallsMax = 200;
constexpr size_t kListedMax = 64;
constexpr size_t kBasesMax = 4;  // templates in a chain of bases

bool all(std::string_view text, std::string_view allowed) {
  return text.find_first_not_of(allowed) == std::string_view::npos;
}
constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz";
constexpr std::string_view kWord =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";

// "a.b" for Python, "A::B" for Perl, "@a/b-c" for Node.
bool isModule(std::string_view s) {
  constexpr std::string_view kEnds = ".:/-";
  return !s.empty() && s.size() <= 200 && kEnds.find(s.front()) == std::string_view::npos &&
         kEnds.find(s.back()) == std::string_view::npos && s.find("..") == std::string_view::npos &&
         all(s, std::string(kWord) + ".:/@-");
}
bool isEnvName(std::string_view s) {
  return !s.empty() && s.size() <= 200 && !(s.front() >= '0' && s.front() <= '9') && all(s, kWord);
}
// No "..", no ".", no empty part: no part can change the path's meaning.
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

// Entries that the base already has keep their place.
void addTo(std::vector<std::string>& out, const std::vector<std::string>& more) {
  for (const std::string& one : more)
    if (std::find(out.begin(), out.end(), one) == out.end()) out.push_back(one);
}

void readPackages(Reader::Table& t, std::string_view key, Packages kind,
                  std::vector<std::string>& out) {
  std::vector<std::string> wishes;
  t.strings(key, kPackagesMax, wishes);
  for (const std::string& wish : wishes) {
    if (isRequirement(kind, wish)) continue;
    t.complain(key, fmt::format("holds '{}', which names no package; write {}",
                                base::printable(wish, 60), example(kind)));
  }
  out = mergePackages(kind, out, wishes);
}

// Requirements for an index, and wheels that lie in the template's folder.
void readPip(Reader::Table& t, ImageRecipe& out) {
  std::vector<std::string> all, wishes;
  t.strings("pip", kPackagesMax, all);
  for (const std::string& one : all) {
    if (one.size() > 4 && one.substr(one.size() - 4) == ".whl") {
      if (!isPlainPath(one, false))
        t.complain("pip", fmt::format("'{}' is no path inside the template's folder",
                                      base::printable(one, 80)));
      out.wheels.push_back({one, {}});
    } else if (isRequirement(Packages::pip, one)) {
      wishes.push_back(one);
    } else {
      t.complain("pip", fmt::format("holds '{}', which names no package; write {}, or the path of "
                                    "a .whl file in the template's folder",
                                    base::printable(one, 60), example(Packages::pip)));
    }
  }
  out.pip = mergePackages(Packages::pip, out.pip, wishes);
}

void readIndexes(Reader::Table& t, ImageRecipe& out) {
  const auto judge = [&](std::string_view key, const std::string& url) {
    // The text is not quoted: it may hold a password.
    if (const std::string_view fault = faultOfIndex(url); !fault.empty()) t.complain(key, fault);
  };
  t.string("pip_index", out.pip_index);
  if (t.has("pip_index")) judge("pip_index", out.pip_index);
  std::vector<std::string> more;
  t.strings("pip_extra_index", kIndexesMax, more);
  for (const std::string& url : more) judge("pip_extra_index", url);
  addTo(out.pip_extra_index, more);
}

void readFiles(Reader::Table& t, std::vector<ImageFile>& out) {
  std::vector<std::pair<std::string, std::string>> files;
  t.stringTable("files", kFilesMax, files);
  for (auto& [target, source] : files) {
    if (!isPlainPath(target, true))
      t.complain("files",
                 fmt::format("'{}' is no absolute path in the image", base::printable(target, 80)));
    if (!isPlainPath(source, false))
      t.complain("files", fmt::format("'{}' is no path inside the template's folder",
                                      base::printable(source, 80)));
    auto same = std::find_if(out.begin(), out.end(),
                             [&, to = target](const ImageFile& f) { return f.target == to; });
    if (same != out.end()) out.erase(same);
    out.push_back({std::move(source), std::move(target)});
  }
  std::sort(out.begin(), out.end(),
            [](const ImageFile& a, const ImageFile& b) { return a.target < b.target; });
}

void readImage(Reader::Table t, bool has_base, ImageRecipe& out) {
  if (!t.present()) return;
  const std::string base_suite = out.suite;
  t.string("suite", out.suite);
  if (out.suite.empty() || !all(out.suite, kLetters)) {
    t.complain("suite", "must be the code name of a Debian release, e.g. \"trixie\"");
  } else if (has_base && out.suite != base_suite) {
    t.complain("suite",
               fmt::format("is '{}', but the base's is '{}': leave it out", out.suite, base_suite));
  }
  readPackages(t, "packages", Packages::debian, out.packages);
  readPip(t, out);
  readIndexes(t, out);
  readPackages(t, "npm", Packages::npm, out.npm);
  readPackages(t, "npm_without_scripts", Packages::npm, out.npm_without_scripts);
  for (const std::string& name : out.npm_without_scripts) {
    if (!versionOf(Packages::npm, name).empty())
      t.complain("npm_without_scripts", fmt::format("holds '{}': give the name alone", name));
  }
  std::vector<std::string> run;
  t.strings("run", kRunMax, run);
  out.run.insert(out.run.end(), run.begin(), run.end());
  readFiles(t, out.files);
  // Commands that need only Debian's packages go into the tree that templates share.
  if (!has_base && !out.hasLanguagePackages()) out.early_run = std::move(out.run);
  if (!has_base && !out.hasLanguagePackages()) out.run.clear();
  t.finish();
}

void readEnv(Reader::Table& t, std::vector<std::pair<std::string, std::string>>& out) {
  std::vector<std::pair<std::string, std::string>> own;
  t.stringTable("env", kEnvMax, own);
  for (auto& [name, value] : own) {
    if (!isEnvName(name)) {
      t.complain("env", fmt::format("'{}' is no name of an environment variable",
                                    base::printable(name, 60)));
    }
    out.erase(std::remove_if(out.begin(), out.end(),
                             [&, same = name](const auto& e) { return e.first == same; }),
              out.end());
    out.emplace_back(std::move(name), std::move(value));
  }
  std::sort(out.begin(), out.end());
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
  if (t.has("trial")) out.trial_folder.clear();
  if (!out.trial.empty() && !isPlainPath(out.trial, false))
    t.complain("trial", "must be a plain path in the template's folder");
  t.boolean("without_trial", out.without_trial);
  std::vector<std::string> preload;
  t.strings("preload", kPreloadMax, preload);
  for (const std::string& module : preload) {
    if (!isModule(module))
      t.complain("preload",
                 fmt::format("holds '{}', which is no module name", base::printable(module, 60)));
  }
  addTo(out.preload, preload);
  readEnv(t, out.env);
  std::vector<std::string> fresh;
  t.strings("fresh_env", kEnvMax, fresh);
  for (const std::string& name : fresh) {
    const bool open = !name.empty() && name.back() == '*';
    if (!isEnvName(open ? name.substr(0, name.size() - 1) : name))
      t.complain("fresh_env", fmt::format("holds '{}', which is neither a variable's name nor its "
                                          "beginning with '*'",
                                          base::printable(name, 60)));
  }
  addTo(out.fresh_env, fresh);
  std::vector<std::string> files;
  t.strings("fresh_files", kEnvMax, files);
  for (const std::string& path : files)
    if (!isPlainPath(path, false))
      t.complain("fresh_files",
                 fmt::format("holds '{}', which is no plain path in the task's folder",
                             base::printable(path, 60)));
  addTo(out.fresh_files, files);
  t.quantity("memory", 16ull << 20, 64ull << 30, sizes(), out.memory_bytes);
  t.quantity("start_time", 100, 600'000, times(), out.start_ms_max);
  t.count("renew_clones", 0, 1'000'000'000, out.renew_clones);
  t.quantity("renew_after", 0, 2'592'000'000, times(), out.renew_ms);
  t.count("tenants_max", 0, 32, out.tenants_max);
  t.finish();
}

// The type's name in docs/settings.md.
std::string_view typeOf(LimitUnit unit) {
  switch (unit) {
    case LimitUnit::cores:
      return "cores";
    case LimitUnit::milliseconds:
      return "time";
    case LimitUnit::bytes:
      return "size";
    case LimitUnit::count:
      break;
  }
  return "count";
}

// Without the key, the base's. A program that serves forks can be dumped as well; one of another
// kind has to be named.
void readMechanism(Reader::Table& root, const Manifest* base, std::string mechanism,
                   Mechanism& out) {
  if (base && !root.has("mechanism")) {
    out = base->mechanism;
    return;
  }
  static constexpr Mechanism kAll[] = {Mechanism::fork, Mechanism::restore, Mechanism::exec};
  const auto* found = std::find_if(std::begin(kAll), std::end(kAll),
                                   [&](Mechanism each) { return name(each) == mechanism; });
  if (found == std::end(kAll)) {
    root.complain("mechanism", "is required: \"fork\", \"restore\" or \"exec\"");
    return;
  }
  out = *found;
  const bool other_kind = base && (base->mechanism == Mechanism::exec) != (out == Mechanism::exec);
  if (other_kind && !root.table("zygote").has("argv"))
    root.complain("mechanism", fmt::format("is not that of the base, \"{}\": leave it out, or give "
                                           "'zygote.argv' too",
                                           name(base->mechanism)));
}

void readLimits(Reader::Table t, base::Limits& out) {
  for (const LimitField& field : limitFields()) {
    uint64_t value = field.get(out);
    t.quantity(field.key, field.lowest, field.highest,
               {typeOf(field.unit), [&](std::string_view s) { return field.parse(s); },
                [&](uint64_t v) { return field.format(v); }},
               value);
    field.set(out, value);
  }
  t.finish();
}

}  // namespace

std::string_view name(Mechanism mechanism) {
  switch (mechanism) {
    case Mechanism::exec:
      return "exec";
    case Mechanism::restore:
      return "restore";
    case Mechanism::fork:
      break;
  }
  return "fork";
}

bool isTemplateName(std::string_view s) {
  return !s.empty() && s.size() <= 32 && s.front() >= 'a' && s.front() <= 'z' && s.back() != '-' &&
         all(s, "abcdefghijklmnopqrstuvwxyz0123456789-");
}

bool isReservedTemplateName(std::string_view s) { return s == "other"; }

base::Result<std::string> parseBase(std::string_view text, std::string_view file) {
  Reader reader(text, file);
  std::string base;
  Reader::Table root = reader.root();
  root.string("base", base);
  if (root.has("base") && !isTemplateName(base))
    root.complain("base", "must be the name of another template, e.g. \"python\"");
  if (reader.failed()) return tl::unexpected<base::Error>(reader.takeError());
  return base;
}

base::Result<Manifest> parseManifest(std::string_view text, std::string_view file,
                                     const Manifest* base) {
  return parseManifestListing(text, file, nullptr, base);
}

base::Result<Manifest> parseManifestListing(std::string_view text, std::string_view file,
                                            std::vector<Setting>* asked, const Manifest* base) {
  Reader reader(text, file, asked);
  Manifest m;
  if (base) m = *base;
  m.name.clear();
  m.description.clear();
  m.base.clear();
  m.folder.clear();
  Reader::Table root = reader.root();
  root.string("name", m.name);
  if (!isTemplateName(m.name)) {
    root.complain("name",
                  "is required: lower-case letters, digits and '-', a letter first, at most 32");
  }
  if (isReservedTemplateName(m.name))
    root.complain("name", "is reserved: metrics call every unknown template so");
  root.string("description", m.description);
  if (m.description.empty() || m.description.size() > 200) {
    root.complain("description", "is required: one line of at most 200 bytes");
  }
  root.string("base", m.base);
  std::string mechanism;
  root.string("mechanism", mechanism);
  readMechanism(root, base, std::move(mechanism), m.mechanism);
  Reader::Table image = root.table("image");
  if (!image.present() && !base)
    root.complain("image", "is required: a table with the image's recipe");
  readImage(image, base != nullptr, m.image);
  if (m.restores())  // in the box, beside what it restores
    m.image.packages = mergePackages(Packages::debian, m.image.packages, {"criu"});
  Reader::Table zygote = root.table("zygote");
  readZygote(zygote, m.zygote);
  if (m.preloads() && m.zygote.trial.empty() && !m.zygote.without_trial) {
    zygote.complain(
        "trial",
        "is required for mechanism \"fork\" and \"restore\": a program that two clones run before "
        "the template is served; `without_trial = true` skips this check");
  }
  Reader::Table task = root.table("task");
  readEnv(task, m.task_env);
  std::vector<std::string> cpus;
  task.strings("cpus_env", kEnvMax, cpus);
  for (const std::string& name : cpus)
    if (!isEnvName(name))
      task.complain("cpus_env",
                    fmt::format("holds '{}', which is no name of an environment variable",
                                base::printable(name, 60)));
  addTo(m.cpus_env, cpus);
  task.boolean("modules", m.runs_modules);
  if (m.runs_modules && m.runsCommands())
    task.complain(
        "modules",
        "is for mechanism \"fork\" and \"restore\": this template's tasks are command lines");
  task.finish();
  Reader::Table parked = root.table("pool");
  parked.count("min", 0, 4'096, m.parked_min);
  parked.count("max", 0, 4'096, m.parked_max);
  if (m.parked_min > m.parked_max) parked.complain("min", "must not be above max");
  parked.finish();
  Reader::Table network = root.table("network");
  network.boolean("loopback", m.loopback);
  network.finish();
  Reader::Table terminal = root.table("terminal");
  terminal.count("ptys", 0, kPtysMax, m.ptys);
  terminal.finish();
  Reader::Table seccomp = root.table("seccomp");
  std::vector<std::string> calls;
  seccomp.strings("allow", kSyscallsMax, calls);
  addTo(m.seccomp_allow, calls);
  for (const std::string& call : calls) {
    if (call.empty() || call.size() > 40 || !all(call, kWord)) {
      seccomp.complain("allow", fmt::format("holds '{}', which is no name of a system call",
                                            base::printable(call, 60)));
    }
  }
  seccomp.finish();
  Reader::Table limits = root.table("limits");
  readLimits(limits.table("default"), m.defaults);
  if (!base) m.maximum = m.defaults;
  Reader::Table maximum = limits.table("maximum");
  readLimits(maximum, m.maximum);
  for (const LimitField& field : limitFields()) {
    if (field.get(m.maximum) >= field.get(m.defaults)) continue;
    maximum.complain(
        field.key, fmt::format("is {}, below the default of {}", field.format(field.get(m.maximum)),
                               field.format(field.get(m.defaults))));
  }
  limits.finish();
  Reader::Table check = root.table("check");
  check.string("wait", m.check_wait);
  check.finish();
  root.finish();
  if (reader.failed()) return tl::unexpected<base::Error>(reader.takeError());
  return m;
}

namespace {

struct Search {
  const std::vector<std::string>&dirs, &base_dirs;
  std::vector<std::string> chain;  // the templates whose bases are being looked up
};

base::Result<Manifest> find(Search& search, std::string_view name);

base::Result<Manifest> load(Search& search, const std::string& folder) {
  const std::string file = folder + "/manifest.toml";
  MAYFLY_TRY(std::string text,
             base::readSmallFile(base::FdView(AT_FDCWD), file, kManifestBytesMax));
  MAYFLY_TRY(std::string base_name, parseBase(text, file));
  std::optional<Manifest> base_manifest;
  if (!base_name.empty()) {
    auto& chain = search.chain;
    if (std::find(chain.begin(), chain.end(), base_name) != chain.end()) {
      return base::fail(Code::invalidArgument,
                        fmt::format("{}: the bases form a cycle: {} -> {}", file,
                                    fmt::join(chain, " -> "), base_name),
                        "A template cannot add to itself.");
    }
    if (chain.size() >= kBasesMax) {
      return base::fail(Code::invalidArgument,
                        fmt::format("{}: a chain of bases has more than {} templates: {} -> {}",
                                    file, kBasesMax, fmt::join(chain, " -> "), base_name));
    }
    auto found = find(search, base_name);
    if (!found) {
      if (found.error().code != Code::notFound) return found;
      return base::fail(
          Code::notFound,
          fmt::format("{}: 'base' is '{}': {}", file, base_name, found.error().message),
          found.error().advice);
    }
    base_manifest = std::move(*found);
  }
  MAYFLY_TRY(Manifest m, parseManifest(text, file, base_manifest ? &*base_manifest : nullptr));
  const std::string bears = folder.substr(folder.find_last_of('/') + 1);
  if (m.name != bears) {
    return base::fail(Code::invalidArgument,
                      fmt::format("{}: 'name' is '{}', but the folder is '{}'", file, m.name,
                                  base::printable(bears, 60)),
                      "Give both the same name.");
  }
  m.folder = folder;
  if (m.zygote.trial_folder.empty()) m.zygote.trial_folder = folder;
  for (auto* files : {&m.image.files, &m.image.wheels})
    for (ImageFile& f : *files)
      if (f.folder.empty()) f.folder = folder;
  return m;
}

base::Result<Manifest> find(Search& search, std::string_view name) {
  std::vector<std::string> looked;
  const bool is_base = !search.chain.empty();
  for (const auto* dirs : {&search.dirs, is_base ? &search.base_dirs : nullptr}) {
    for (const std::string& dir : dirs ? *dirs : std::vector<std::string>{}) {
      const std::string folder = dir + "/" + std::string(name);
      struct stat st;
      if (::stat((folder + "/manifest.toml").c_str(), &st) == 0) {
        search.chain.emplace_back(name);
        return load(search, folder);
      }
      if (std::find(looked.begin(), looked.end(), dir) == looked.end()) looked.push_back(dir);
    }
  }
  auto names = listTemplates(search.dirs);
  if (is_base) addTo(names, listTemplates(search.base_dirs));
  return base::fail(
      Code::notFound, fmt::format("there is no template '{}' in {}", name, fmt::join(looked, ", ")),
      names.empty() ? std::string() : fmt::format("There are: {}.", fmt::join(names, ", ")));
}

}  // namespace

base::Result<Manifest> findManifest(const std::vector<std::string>& template_dirs,
                                    std::string_view name,
                                    const std::vector<std::string>& base_dirs) {
  if (!isTemplateName(name)) {
    return base::fail(Code::invalidArgument,
                      fmt::format("'{}' is no template name", base::printable(name, 60)));
  }
  Search search{template_dirs, base_dirs, {}};
  return find(search, name);
}

std::vector<std::pair<std::string, std::string>> taskEnvironment(const Manifest& manifest) {
  // The same in every box, whatever the host's environment.
  static constexpr std::pair<std::string_view, std::string_view> kEvery[] = {
      {"HOME", "/task"},   {"LANG", "C.UTF-8"},
      {"LOGNAME", "task"}, {"PATH", "/usr/local/bin:/usr/bin:/bin"},
      {"TZ", "UTC"},       {"USER", "task"},
  };
  auto all = manifest.task_env;
  for (const auto& [name, value] : kEvery)
    if (std::none_of(all.begin(), all.end(),
                     [&, same = name](const auto& own) { return own.first == same; }))
      all.emplace_back(name, value);
  std::sort(all.begin(), all.end());
  return all;
}

std::vector<std::string> listTemplates(const std::vector<std::string>& template_dirs) {
  std::vector<std::string> names;
  for (const std::string& dir : template_dirs) {
    DIR* d = ::opendir(dir.c_str());
    if (!d) continue;
    while (dirent* entry = ::readdir(d)) {
      struct stat st;
      if (!isTemplateName(entry->d_name) || names.size() >= kListedMax) continue;
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
