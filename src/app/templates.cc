#include "app/templates.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <fcntl.h>

#include "app/log.h"
#include "base/text.h"
#include "box/seccomp.h"
#include "image/command.h"
#include "image/within.h"
#include "pool/trial.h"
#include "snapshot/store.h"

namespace mayfly::app {
namespace {

constexpr uint32_t kSnapshotSecondsMax = 900;  // a start of the zygote and its trial

struct Snapshot {
  base::Fd folder;
  snapshot::Info info;
};

// The snapshot that fits this image and host, after a look at every byte of it: criu would restore
// a damaged one into a clone that hangs, or never end.
base::Result<Snapshot> findSnapshot(const config::Daemon& settings,
                                    const config::Manifest& manifest, const image::ImageInfo& image,
                                    base::FdView seccomp) {
  MAYFLY_TRY(snapshot::Host host, snapshot::thisHost());
  MAYFLY_TRY(std::string program, box::readSeccomp(seccomp));
  MAYFLY_TRY(snapshot::Info info, snapshot::find(settings.state_dir, manifest.name,
                                                 snapshot::keyOf(manifest, image, program, host)));
  MAYFLY_TRY(base::Fd folder, snapshot::open(settings.state_dir, info));
  MAYFLY_CHECK(snapshot::verify(folder.view(), info));
  return Snapshot{std::move(folder), std::move(info)};
}

// The same; if there is none, or it is damaged, another program makes it: that needs a spawner of
// its own.
base::Result<Snapshot> openSnapshot(const config::Daemon& settings,
                                    const config::Manifest& manifest, const image::ImageInfo& image,
                                    base::FdView seccomp, const std::string& executable_dir) {
  auto found = findSnapshot(settings, manifest, image, seccomp);
  if (found || !settings.make_snapshots || executable_dir.empty()) return found;
  spdlog::info("template '{}': {}; it is made now", manifest.name, oneLine(found.error()));
  std::vector<std::string> argv{executable_dir + "/mayfly-snapshot", "build", manifest.name,
                                "--state-dir", settings.state_dir};
  for (const std::string& dir : settings.template_dirs)
    argv.insert(argv.end(), {"--templates", dir});
  // Its own lines begin with these words; the others are the zygote's.
  constexpr std::string_view kFault = "mayfly: ";
  const std::string step = manifest.name + ": ";
  std::string fault;
  const auto hear = [&](std::string_view line) {
    const std::string text = base::printable(line, 400);
    if (line.starts_with(kFault)) fault = text.substr(kFault.size());
    if (line.starts_with(kFault) || line.starts_with(step))
      spdlog::info("{}", text);
    else
      spdlog::info("zygote of '{}' says: {}", manifest.name, text);
  };
  auto made = image::runCommand(argv, kSnapshotSecondsMax, hear);
  if (!made && !fault.empty())
    return base::fail(base::Code::failedPrecondition, fault,
                      fmt::format("Try it again: mayfly snapshot build {}.", manifest.name));
  if (!made) return base::fail(std::move(made).error());
  return findSnapshot(settings, manifest, image, seccomp);
}

base::Result<Served> load(const config::Daemon& settings, const std::string& name,
                          std::string_view runtime_key, const std::string& executable_dir) {
  MAYFLY_TRY(config::Manifest manifest,
             config::findManifest(settings.template_dirs, name, settings.base_dirs));
  Served s;
  s.spec = toSpec(manifest);
  auto found = image::findImage(settings.state_dir, name);
  if (!found) {
    if (found.error().code != base::Code::notFound) return base::fail(std::move(found).error());
    s.spec.missing_image_text = found.error().message;
    return s;
  }
  if (found->runtime_key != runtime_key) {
    s.spec.missing_image_text =
        "the image of template '" + name + "' was made by another build of Mayfly";
    return s;
  }
  if (!manifest.zygote.trial.empty()) {
    MAYFLY_TRY(std::string trial,
               image::sourceFile(manifest.zygote.trial_folder, manifest.zygote.trial));
    MAYFLY_TRY(s.spec.trial_code,
               base::readSmallFile(base::FdView(AT_FDCWD), trial, pool::kTrialCodeBytesMax));
  }
  MAYFLY_TRY(s.seccomp, box::buildSeccomp({manifest.seccomp_allow, manifest.loopback}));
  MAYFLY_TRY(image::Lease lease, image::Lease::take(settings.state_dir, found->digest));
  MAYFLY_CHECK(image::readAhead(lease.fd()));
  if (manifest.restores()) {
    auto snapshot = openSnapshot(settings, manifest, *found, s.seccomp.view(), executable_dir);
    if (!snapshot) {
      s.spec.missing_image_text = snapshot.error().message;
      if (!snapshot.error().advice.empty())
        s.spec.missing_image_text += ". " + snapshot.error().advice;
      return s;
    }
    s.snapshot = std::move(snapshot->folder);
    s.snapshot_key = snapshot->info.key;
    s.spec.memory_least_bytes = snapshot->info.memoryLeast();
    s.spec.processes_least = snapshot->info.processesLeast();
  }
  s.spec.image_digest = found->digest;
  s.lease.emplace(std::move(lease));
  return s;
}

}  // namespace

pool::TemplateSpec toSpec(const config::Manifest& m) {
  pool::TemplateSpec s;
  s.name = m.name;
  s.description = m.description;
  s.mechanism = config::name(m.mechanism);
  s.zygote = m.zygote.argv;
  s.env = config::taskEnvironment(m);
  s.cpus_env = m.cpus_env;
  s.runs_commands = m.runsCommands();
  s.runs_code = !s.runs_commands;
  s.runs_modules = m.runs_modules;
  s.loopback = m.loopback;
  s.ptys = m.ptys;
  s.parked_min = m.parked_min;
  s.parked_max = m.parked_max;
  s.zygote_memory_bytes = m.zygote.memory_bytes;
  s.start_ns_max = m.zygote.start_ms_max * 1'000'000;
  s.renewal = {.clones = m.zygote.renew_clones, .after_ns = m.zygote.renew_ms * 1'000'000};
  s.tenants_max = m.zygote.tenants_max;
  s.defaults = m.defaults;
  s.maximum = m.maximum;
  return s;
}

base::Result<std::vector<Served>> loadTemplates(const config::Daemon& settings,
                                                std::string_view runtime_key,
                                                const std::string& executable_dir) {
  bool named = !settings.templates.empty();
  std::vector<Served> all;
  for (const std::string& name :
       named ? settings.templates : config::listTemplates(settings.template_dirs)) {
    auto served = load(settings, name, runtime_key, executable_dir);
    if (served) {
      all.push_back(std::move(*served));
    } else if (named) {
      return base::fail(
          std::move(served).error().in("cannot serve template '" + base::printable(name) + "'"));
    } else {
      spdlog::error("cannot serve template '{}': {}, ignoring", base::printable(name),
                    oneLine(served.error()));
    }
  }
  return all;
}

}  // namespace mayfly::app
