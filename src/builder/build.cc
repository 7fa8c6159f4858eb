// Layer: builder. See build.h.
#include "builder/build.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <optional>

#include "app/templates.h"
#include "base/clock.h"
#include "base/text.h"
#include "box/seccomp.h"
#include "builder/driver.h"
#include "config/manifest.h"
#include "core/blob.h"
#include "image/build.h"
#include "image/within.h"
#include "pool/trial.h"
#include "wire/zygote.h"

namespace mayfly::builder {

using base::Code;
using base::Fd;
using base::monotonicNs;

namespace {

constexpr base::ZygoteId kBuilder = 1, kTrial = 2;
constexpr base::BoxId kBuilderBox = 1, kFirstTrialBox = 2;
constexpr uint64_t kDumpNsMax = 60 * kSecondNs;
constexpr uint64_t kTrialNsMax = 60 * kSecondNs;
constexpr uint64_t kEndNsMax = 20 * kSecondNs;
constexpr size_t kWhyBytesMax = 4'096;
constexpr uint32_t kCpuBackstop_s = 3'600;

// All that a build starts from.
struct Subject {
  config::Manifest manifest;
  pool::TemplateSpec spec;
  image::ImageInfo image;
  std::optional<image::Lease> lease;
  Fd seccomp;
  std::string trial_code;
  snapshot::Info info;  // its key, and what is known before it is made
};

// A clone has the zygote's hard limit, which no task can raise.
base::Status checkOpenFiles(const pool::TemplateSpec& spec) {
  rlimit files;
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return base::failSys(errno, "getrlimit", "NOFILE");
  if (files.rlim_max >= spec.maximum.open_files) return base::Unit{};
  return base::fail(
      Code::failedPrecondition,
      fmt::format("tasks of template '{}' may have {} open files; here the hard limit is {}",
                  spec.name, spec.maximum.open_files, files.rlim_max),
      "Raise it (ulimit -Hn), or lower the template's limits.maximum.open_files.");
}

base::Result<Subject> load(const std::string& name, const BuildOptions& o) {
  Subject s;
  MAYFLY_TRY(s.manifest, config::findManifest(o.template_dirs, name, o.base_dirs));
  if (!s.manifest.restores())
    return base::fail(Code::invalidArgument,
                      fmt::format("template '{}' has mechanism \"{}\"; only \"restore\" has "
                                  "snapshots",
                                  name, config::name(s.manifest.mechanism)));
  s.spec = app::toSpec(s.manifest);
  MAYFLY_CHECK(checkOpenFiles(s.spec));
  MAYFLY_TRY(s.image, image::findImage(o.state_dir, name));
  MAYFLY_TRY(std::string runtime, image::runtimeKey(image::defaultRuntime(o.executable_dir)));
  if (s.image.runtime_key != runtime)
    return base::fail(
        Code::failedPrecondition,
        fmt::format("the image of template '{}' was made by another build of Mayfly", name),
        fmt::format("Build it: mayfly image build {}.", name));
  MAYFLY_TRY(image::Lease lease, image::Lease::take(o.state_dir, s.image.digest));
  s.lease.emplace(std::move(lease));
  MAYFLY_TRY(s.seccomp, box::buildSeccomp({s.manifest.seccomp_allow, s.manifest.loopback}));
  if (!s.manifest.zygote.trial.empty()) {
    MAYFLY_TRY(std::string trial,
               image::sourceFile(s.manifest.zygote.trial_folder, s.manifest.zygote.trial));
    MAYFLY_TRY(s.trial_code, base::readSmallFile({}, trial, pool::kTrialCodeBytesMax));
  }
  MAYFLY_TRY(snapshot::Host host, snapshot::thisHost());
  MAYFLY_TRY(std::string program, box::readSeccomp(s.seccomp.view()));
  s.info.key = snapshot::keyOf(s.manifest, s.image, program, host);
  s.info.template_name = name;
  s.info.image_digest = s.image.digest;
  s.info.kernel = host.kernel;
  return s;
}

wire::Request requestOf(const Subject& s, base::ZygoteId id, uint32_t role) {
  wire::Request r;
  r.zygote_id = id;
  r.flags = role | (s.spec.loopback ? wire::kLoopback : 0u);
  r.ptys = s.spec.ptys;
  r.limits = s.spec.maximum;
  r.limits.memory_bytes = s.spec.zygote_memory_bytes;
  s.image.digest.copy(r.digest, sizeof r.digest - 1);
  for (size_t i = 0; i < s.spec.zygote.size() && i < wire::kZygoteArgsMax; ++i)
    s.spec.zygote[i].copy(r.zygote[i], sizeof r.zygote[i] - 1);
  return r;
}

// --- the dump ------------------------------------------------------------------------

// Why the builder box gave no snapshot: its own sentence, if it left one.
base::Error whyNot(Driver& driver, const Box& box, base::Error error) {
  auto said = readAll(box.err.view(), kWhyBytesMax, monotonicNs() + kSecondNs, "its reason");
  while (said && !said->empty() && said->back() == '\n') said->pop_back();
  std::string why = said ? base::printable(*said, kWhyBytesMax) : std::string();
  if (why.empty())
    if (auto lost = driver.lostText(box.id)) why = *lost;
  if (!why.empty()) error = {Code::failedPrecondition, why, {}, 0, 0};
  return std::move(error).in("the zygote was not dumped");
}

base::Status dump(Driver& driver, const Subject& s, const Fd& folder) {
  const uint64_t start_ns = s.spec.start_ns_max + kDumpNsMax;
  MAYFLY_CHECK(driver.publish(requestOf(s, kBuilder, wire::kDump),
                              {s.seccomp.get(), STDERR_FILENO, folder.get()},
                              monotonicNs() + s.spec.start_ns_max));
  base::Limits limits = s.spec.maximum;
  limits.memory_bytes = s.spec.zygote_memory_bytes;
  MAYFLY_CHECK(driver.make(kBuilder, kBuilderBox, limits, 0));
  MAYFLY_TRY(Box box, driver.awaitMade(kBuilderBox, monotonicNs() + kTrialNsMax));
  auto word = receive<wire::CloneReady>(box.control.view(), monotonicNs() + start_ns, "the dump");
  if (!word) return base::fail(whyNot(driver, box, std::move(word).error()));
  if (word->error != 0)
    return base::fail(whyNot(driver, box, base::sysError(word->error, "dump", "the zygote")));
  box = {};
  MAYFLY_CHECK(driver.end(kBuilderBox, monotonicNs() + kEndNsMax));
  return driver.retire(kBuilder, monotonicNs() + kEndNsMax);
}

// --- the trial -----------------------------------------------------------------------

// Runs the trial in one clone. A clone that did not say that it starts has not run anything,
// whatever its exit code is.
base::Result<std::string> runTrial(Driver& driver, const Subject& s, const core::BlobWriter& task,
                                   Box& box) {
  const uint64_t deadline_ns = monotonicNs() + kTrialNsMax;
  MAYFLY_TRY(auto ready, receive<wire::CloneReady>(box.control.view(), deadline_ns,
                                                   "a restored clone's first word"));
  if (ready.error != 0)
    return base::fail(base::sysError(ready.error, ready.step, "a restored clone"));
  driver.claim(box.id, s.spec.defaults);
  wire::Claim claim;
  claim.block_bytes = task.bytes();
  claim.open_files = s.spec.defaults.open_files;
  claim.file_size_bytes = s.spec.defaults.file_size_bytes;
  claim.cpu_time_s = kCpuBackstop_s;
  MAYFLY_CHECK(base::sendMessage(box.control.view(), base::bytesOf(claim), task.fds()));
  MAYFLY_TRY(auto started,
             receive<wire::Started>(box.control.view(), deadline_ns, "a restored clone's start"));
  if (started.error != 0)
    return base::fail(base::sysError(started.error, started.step, "a restored clone"));
  box.control.reset();
  box.in.reset();
  MAYFLY_TRY(auto texts, readAllOf({box.out.view(), box.err.view()}, pool::kTrialBytesMax,
                                   deadline_ns, "the trial's output"));
  std::string &printed = texts[0], &said = texts[1];
  MAYFLY_TRY(Exit exit, driver.awaitExit(box.id, deadline_ns));
  if (exit.code == CLD_EXITED && exit.status == 0) return std::move(printed);
  return base::fail(
      Code::failedPrecondition,
      fmt::format("the trial ended with {}: {}", exit.status, base::printable(said, 1'000)));
}

base::Status tryOut(Driver& driver, const Subject& s, const Fd& folder) {
  const uint64_t deadline_ns = monotonicNs() + kTrialNsMax;
  MAYFLY_CHECK(driver.publish(requestOf(s, kTrial, wire::kRestore),
                              {s.seccomp.get(), STDERR_FILENO, folder.get()}, deadline_ns));
  sched::TaskSpec spec;
  spec.kind = sched::CodeKind::string;
  spec.code = s.trial_code;
  MAYFLY_TRY(core::BlobWriter task, core::BlobWriter::create(spec, s.spec.env));
  for (;;) {
    MAYFLY_TRY(bool written, task.step());
    if (written) break;
  }
  // Half of them rehearse, as clones of the pool do.
  for (size_t i = 0; i < kTrialClones; ++i)
    MAYFLY_CHECK(driver.make(kTrial, kFirstTrialBox + i, s.spec.defaults,
                             i % 2 == 0 ? wire::kRehearse : 0u));
  std::vector<Box> boxes;
  for (size_t i = 0; i < kTrialClones; ++i) {
    MAYFLY_TRY(Box box, driver.awaitMade(kFirstTrialBox + i, deadline_ns));
    boxes.push_back(std::move(box));
  }
  std::vector<std::string> printed;
  for (Box& box : boxes) {
    MAYFLY_TRY(std::string one, runTrial(driver, s, task, box));
    for (const std::string& other : printed)
      if (auto fault = pool::findFault(other, one))
        return base::fail(Code::failedPrecondition, "two of its clones: " + *fault);
    printed.push_back(std::move(one));
    MAYFLY_CHECK(driver.end(box.id, monotonicNs() + kEndNsMax));
  }
  return driver.retire(kTrial, monotonicNs() + kEndNsMax);
}

}  // namespace

base::Result<BuildResult> build(const std::string& template_name, const BuildOptions& o) {
  const auto say = [&](std::string_view text) {
    if (o.progress) o.progress(fmt::format("{}: {}", template_name, text));
  };
  if (::geteuid() != 0) return base::fail(Code::permissionDenied, "making a snapshot needs root");
  MAYFLY_TRY(Subject s, load(template_name, o));
  const bool only_try = o.outcome == BuildOptions::Outcome::onlyTry;
  const auto present = [&]() -> std::optional<BuildResult> {
    if (only_try || o.present == BuildOptions::Present::replace) return std::nullopt;
    auto found = snapshot::find(o.state_dir, template_name, s.info.key);
    if (!found) return std::nullopt;
    auto folder = snapshot::open(o.state_dir, *found);
    if (!folder || !snapshot::verify(folder->view(), *found)) return std::nullopt;
    return BuildResult{std::move(*found), false, snapshot::criuVersion(folder->view())};
  };
  if (auto found = present()) return std::move(*found);
  MAYFLY_TRY(Fd lock, snapshot::lock(o.state_dir));
  if (auto found = present()) return std::move(*found);  // made meanwhile
  if (!only_try) snapshot::sweep(o.state_dir, template_name, s.info.key);
  MAYFLY_TRY(std::string candidate, snapshot::makeCandidate(o.state_dir));
  MAYFLY_TRY(Fd folder, base::openAt({}, candidate, O_RDONLY | O_DIRECTORY));
  const uint64_t begun_ns = monotonicNs();
  base::Status made = [&]() -> base::Status {
    MAYFLY_TRY(Driver driver, Driver::start(o.executable_dir, o.state_dir));
    say("starting the zygote and dumping it");
    MAYFLY_CHECK(dump(driver, s, folder));
    // Nobody writes into it any more; the trial reads it as every restore will.
    MAYFLY_CHECK(snapshot::close(folder.view()));
    say(fmt::format("trying it out in {} clones", kTrialClones));
    return tryOut(driver, s, folder);
  }();
  s.info.built_ms = (monotonicNs() - begun_ns) / 1'000'000;
  BuildResult result{s.info, true, snapshot::criuVersion(folder.view())};
  if (made && !only_try) made = snapshot::publish(o.state_dir, candidate, s.info);
  if (only_try)
    (void)snapshot::removeFolder(candidate.substr(0, candidate.rfind('/')));
  else
    snapshot::sweep(o.state_dir, template_name, s.info.key);
  if (!made)
    return base::fail(std::move(made).error().in(
        fmt::format("cannot make the snapshot of template '{}'", template_name)));
  if (only_try) return result;
  MAYFLY_TRY(result.info, snapshot::find(o.state_dir, template_name, s.info.key));
  return result;
}

}  // namespace mayfly::builder
