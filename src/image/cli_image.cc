// Layer: image. See cli_image.h.
#include "image/cli_image.h"

#include <fmt/format.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <span>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/text.h"
#include "config/daemon.h"
#include "config/manifest.h"
#include "image/build.h"
#include "image/store.h"

namespace mayfly::image {
namespace {

struct Arguments {
  std::string verb;
  std::vector<std::string> names;
  std::string state_dir = config::Daemon{}.state_dir, cache_dir = BuildOptions{}.cache_dir,
              runtime_dir;
  std::vector<std::string> template_dirs;
  bool json = false, fresh = false, help = false, dry_run = false;
};

std::string executableDir() {
  char path[PATH_MAX];
  const ssize_t n = ::readlink("/proc/self/exe", path, sizeof path);
  const std::string text(path, n > 0 ? static_cast<size_t>(n) : 0);
  return text.substr(0, text.find_last_of('/'));
}

void complain(const base::Error& e) {
  fmt::print(stderr, "mayfly image: {}\n", e.message);
  for (size_t at = 0; at < e.advice.size();) {
    const size_t end = std::min(e.advice.find('\n', at), e.advice.size());
    fmt::print(stderr, "  {}\n", e.advice.substr(at, end - at));
    at = end + 1;
  }
}

constexpr std::string_view kVerbs[] = {"build", "list", "prune", "remove"};
constexpr std::string_view kFlags[] = {"--state-dir", "--cache-dir", "--templates", "--runtime-dir",
                                       "--fresh",     "--json",      "--dry-run",   "--help"};

std::string withNearest(const std::string& word, std::span<const std::string_view> known) {
  const std::string_view near = base::nearest(word, known);
  return fmt::format("'{}'{}", base::printable(word, 80),
                     near.empty() ? "" : fmt::format("; the nearest is '{}'", near));
}

base::Result<Arguments> parse(const std::vector<std::string>& args) {
  Arguments a;
  if (const char* dir = ::getenv("MAYFLY_STATE_DIR")) a.state_dir = dir;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    std::string* value = arg == "--state-dir"     ? &a.state_dir
                         : arg == "--cache-dir"   ? &a.cache_dir
                         : arg == "--runtime-dir" ? &a.runtime_dir
                                                  : nullptr;
    if (value || arg == "--templates") {
      if (i + 1 >= args.size() || args[i + 1].substr(0, 1) != "/") {
        return base::fail(base::Code::invalidArgument,
                          fmt::format("{} wants an absolute path", arg));
      }
      ++i;
      if (value) {
        *value = args[i];
      } else {
        a.template_dirs.push_back(args[i]);
      }
    } else if (arg == "--json") {
      a.json = true;
    } else if (arg == "--fresh") {
      a.fresh = true;
    } else if (arg == "--dry-run") {
      a.dry_run = true;
    } else if (arg == "--help" || arg == "-h") {
      a.help = true;
    } else if (arg.substr(0, 1) == "-") {
      return base::fail(base::Code::invalidArgument,
                        "`mayfly image` has no option " + withNearest(arg, kFlags),
                        "mayfly image --help lists them.");
    } else if (a.verb.empty()) {
      a.verb = arg;
    } else {
      a.names.push_back(arg);
    }
  }
  return a;
}

int build(const Arguments& a) {
  const std::vector<std::string> base_dirs = config::defaultTemplateDirs(executableDir());
  const std::vector<std::string> dirs = a.template_dirs.empty() ? base_dirs : a.template_dirs;
  std::vector<std::string> names = a.names.empty() ? config::listTemplates(dirs) : a.names;
  if (names.empty()) {
    fmt::print(stderr, "mayfly image: there are no templates in {}\n",
               dirs.empty() ? "?" : dirs[0]);
    return 1;
  }
  BuildOptions options;
  options.state_dir = a.state_dir;
  options.cache_dir = a.cache_dir;
  options.fresh = a.fresh ? Fresh::yes : Fresh::no;
  options.runtime = defaultRuntime(a.runtime_dir.empty() ? executableDir() : a.runtime_dir);
  const uint64_t start = base::monotonicNs();
  options.progress = [&](std::string_view line) {
    fmt::print(stderr, "[{:4.0f} s] {}\n", static_cast<double>(base::monotonicNs() - start) / 1e9,
               line);
  };
  int code = 0;
  for (const std::string& name : names) {
    auto manifest = config::findManifest(dirs, name, base_dirs);
    auto result = manifest
                      ? buildImage(*manifest, options)
                      : base::Result<BuildResult>(tl::unexpected<base::Error>(manifest.error()));
    if (!result) {
      complain(result.error());
      code = 1;
      continue;
    }
    fmt::print("{}  {}  {}  {}\n", result->image.digest.substr(0, 12), name,
               base::humanBytes(result->image.bytes), result->rebuilt ? "built" : "unchanged");
    ::fflush(stdout);
    // A build that did something said so by itself.
    for (const Missing& missing : result->image.missing)
      if (!result->rebuilt) fmt::print(stderr, "missing library: {}\n", missingText(missing));
  }
  return code;
}

std::string age(uint64_t built_unix_s) {
  const uint64_t now = static_cast<uint64_t>(::time(nullptr));
  const uint64_t s = now > built_unix_s ? now - built_unix_s : 0;
  if (s < 120) return fmt::format("{} s", s);
  if (s < 7'200) return fmt::format("{} min", s / 60);
  if (s < 172'800) return fmt::format("{} h", s / 3'600);
  return fmt::format("{} days", s / 86'400);
}

int list(const Arguments& a) {
  auto images = listImages(a.state_dir);
  if (!images) {
    complain(images.error());
    return 1;
  }
  if (a.json) {
    nlohmann::ordered_json all = nlohmann::ordered_json::array();
    for (const ImageInfo& i : *images) {
      nlohmann::ordered_json one;
      one["template"] = i.template_name;
      one["digest"] = i.digest;
      one["path"] = imagePath(a.state_dir, i.digest);
      one["bytes"] = i.bytes;
      one["built_unix_s"] = i.built_unix_s;
      one["in_use"] = i.in_use;
      all.push_back(one);
    }
    nlohmann::ordered_json out;
    out["images"] = all;
    fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return 0;
  }
  fmt::print("{:<16} {:<12} {:>10} {:>8}  {}\n", "TEMPLATE", "DIGEST", "SIZE", "AGE", "IN USE");
  for (const ImageInfo& i : *images) {
    fmt::print("{:<16} {:<12} {:>10} {:>8}  {}\n",
               i.template_name.empty() ? "-" : base::printable(i.template_name),
               i.digest.substr(0, 12), base::humanBytes(i.bytes), age(i.built_unix_s),
               i.in_use ? "yes" : "no");
  }
  return 0;
}

int remove(const Arguments& a) {
  if (a.names.empty()) {
    fmt::print(stderr, "mayfly image remove: give a template's name or a digest.\n");
    return 2;
  }
  int code = 0;
  for (const std::string& name : a.names) {
    auto status = removeImage(a.state_dir, name);
    if (status) continue;
    complain(status.error());
    code = 1;
  }
  return code;
}

int prune(const Arguments& a) {
  if (!a.names.empty()) {
    fmt::print(stderr,
               "mayfly image prune: takes no names: it keeps what templates and daemons "
               "use. `mayfly image remove` removes one.\n");
    return 2;
  }
  std::vector<std::string> dirs = config::defaultTemplateDirs(executableDir());
  dirs.insert(dirs.end(), a.template_dirs.begin(), a.template_dirs.end());
  const std::vector<std::string> kept = config::listTemplates(dirs);
  if (kept.empty()) {  // more likely a wrong folder than a wish to lose every image
    complain({base::Code::failedPrecondition, "there is no template in any of the folders",
              "Name their folder: --templates DIR.", 0, 0});
    return 1;
  }
  auto pruned = pruneImages(a.state_dir, kept, a.dry_run ? PruneMode::dryRun : PruneMode::remove);
  if (!pruned) {
    complain(pruned.error());
    return 1;
  }
  if (a.json) {
    nlohmann::ordered_json out;
    out["dryRun"] = a.dry_run;
    out["bytes"] = pruned->bytes;
    out["images"] = nlohmann::ordered_json::array();
    for (const ImageInfo& i : pruned->images)
      out["images"].push_back(
          {{"template", i.template_name}, {"digest", i.digest}, {"bytes", i.bytes}});
    fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return 0;
  }
  for (const ImageInfo& i : pruned->images)
    fmt::print("{}  {}  {}\n", i.digest.substr(0, 12),
               i.template_name.empty() ? "-" : base::printable(i.template_name),
               base::humanBytes(i.bytes));
  for (const ImageInfo& i : pruned->in_use)
    fmt::print("{}  {}  kept: a daemon uses it\n", i.digest.substr(0, 12),
               i.template_name.empty() ? "-" : base::printable(i.template_name));
  fmt::print("{} {}\n", base::humanBytes(pruned->bytes), a.dry_run ? "would be freed" : "freed");
  return 0;
}

}  // namespace

std::string imageHelp() {
  return "mayfly image: the read-only root file systems of the templates\n"
         "\n"
         "  mayfly image build [TEMPLATE...]     build missing and changed images (root)\n"
         "  mayfly image list [--json]           list images, and those that a daemon uses\n"
         "  mayfly image remove NAME|DIGEST...   refused while in use\n"
         "  mayfly image prune [--dry-run]       remove what no template in the folders and\n"
         "                                       no daemon uses; tell the bytes freed\n"
         "\n"
         "  --state-dir DIR    folder of the images (MAYFLY_STATE_DIR; /var/lib/mayfly)\n"
         "  --cache-dir DIR    build: root trees of earlier builds (/var/cache/mayfly)\n"
         "  --templates DIR    build, prune: folders of templates; repeatable. prune keeps\n"
         "                     the default folders' images, too\n"
         "  --runtime-dir DIR  build: folder of mayfly-maker and its like\n"
         "  --fresh            build: install all packages again\n"
         "  --dry-run          prune: only tell what would go\n";
}

int imageMain(const std::vector<std::string>& args) {
  auto parsed = parse(args);
  if (!parsed) {
    complain(parsed.error());
    return 2;
  }
  if (parsed->help) {
    fmt::print("{}", imageHelp());
    return 0;
  }
  if (parsed->verb == "build") return build(*parsed);
  if (parsed->verb == "list") return list(*parsed);
  if (parsed->verb == "remove") return remove(*parsed);
  if (parsed->verb == "prune") return prune(*parsed);
  if (parsed->verb.empty())
    fmt::print(stderr, "{}", imageHelp());
  else
    complain({base::Code::invalidArgument,
              "`mayfly image` has no verb " + withNearest(parsed->verb, kVerbs),
              "mayfly image --help lists them.", 0, 0});
  return 2;
}

}  // namespace mayfly::image
