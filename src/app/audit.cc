#include "app/audit.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <system_error>
#include <utility>

#include "app/instance.h"
#include "base/fd.h"
#include "base/text.h"
#include "host/report.h"
#include "wire/spawner.h"

namespace mayfly::app {

namespace fs = std::filesystem;
using base::AuditFinding;

namespace {

constexpr size_t kToldMax = 10'000;      // then every finding is reported again
constexpr size_t kFileBytesMax = 4'096;  // of a process
constexpr size_t kMountsBytesMax = 4u << 20;
constexpr size_t kMountReadBytes = 2'048, kMountLineBytesMax = 64u << 10;
// The spawner's names for the sources of its mounts. It mounts them in its own namespace, never in
// the host's.
constexpr std::string_view kRoomSources[] = {"room", "disk", "image"};

template <class T>
std::optional<T> number(std::string_view text) {
  T value = 0;
  auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || parsed.ec != std::errc{} || parsed.ptr != text.data() + text.size())
    return std::nullopt;
  return value;
}

// b<number>
std::optional<base::BoxId> boxOf(std::string_view folder) {
  if (folder.empty() || folder[0] != 'b') return std::nullopt;
  return number<base::BoxId>(folder.substr(1));
}

// The start of a small file; empty if it is gone.
std::string head(const std::string& path) {
  base::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text(kFileBytesMax, '\0');
  const ssize_t n = fd ? ::read(fd.get(), text.data(), text.size()) : 0;
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}

// The text after `key` on its line; empty if there is none.
std::string_view field(std::string_view text, std::string_view key) {
  for (size_t at = text.find(key); at != std::string_view::npos; at = text.find(key, at + 1)) {
    if (at != 0 && text[at - 1] != '\n') continue;
    std::string_view rest = text.substr(at + key.size());
    rest = rest.substr(0, rest.find('\n'));
    const size_t begin = rest.find_first_not_of(" \t");
    return begin == std::string_view::npos ? std::string_view() : rest.substr(begin);
  }
  return {};
}

std::string_view firstWord(std::string_view text) {
  return text.substr(0, text.find_first_of(" \t"));
}

std::vector<std::string_view> words(std::string_view line) {
  std::vector<std::string_view> all;
  while (!line.empty()) {
    const size_t end = std::min(line.find(' '), line.size());
    if (end > 0) all.push_back(line.substr(0, end));
    line.remove_prefix(std::min(end + 1, line.size()));
  }
  return all;
}

}  // namespace

base::Result<AuditPlaces> auditPlaces(const std::string& instance, const std::string& state_dir,
                                      uint32_t uid_slot, uint32_t spawner_pid) {
  MAYFLY_TRY(std::string mounts, base::readSmallFile({}, "/proc/self/mountinfo", kMountsBytesMax));
  const host::CgroupLayout layout = host::parseCgroupLayout(mounts, "");
  if (layout.v2_path.empty()) return base::fail(base::Code::hostUnfit, "no cgroup v2 is mounted");
  AuditPlaces places;
  places.subtree = "/mayfly/" + instance;
  std::set<std::string> others;
  for (const std::string& v1 : {layout.cpu_path, layout.memory_path, layout.pids_path})
    if (!v1.empty() && v1 != layout.v2_path) others.insert(v1);
  places.hierarchies.push_back(layout.v2_path);
  places.hierarchies.insert(places.hierarchies.end(), others.begin(), others.end());
  for (const std::string& hierarchy : places.hierarchies)
    places.cgroups.push_back(hierarchy + places.subtree);
  MAYFLY_TRY(places.host_mounts, base::openAt({}, "/proc/self/mountinfo", O_RDONLY));
  MAYFLY_TRY(places.spawner_mounts,
             base::openAt({}, "/proc/" + std::to_string(spawner_pid) + "/mountinfo", O_RDONLY));
  places.images = state_dir + "/images";
  places.uid_first = wire::kUidBase + uid_slot * wire::kUidsPerSlot;
  places.uids = wire::kUidsPerSlot;
  places.self = static_cast<uint32_t>(::getpid());
  places.spawner = spawner_pid;
  return places;
}

std::set<std::string> AuditPlaces::folders() const {
  std::set<std::string> all(hierarchies.begin(), hierarchies.end());
  all.insert({proc, blocks, "/sys/devices/virtual/block"});  // `blocks` is a folder of links
  return all;
}

Audit::Audit(boost::asio::io_context& io, AuditPlaces places, const reap::Ledger& ledger,
             base::Observer& observer, uint64_t period_ms)
    : places_(std::move(places)),
      ledger_(ledger),
      observer_(observer),
      timer_(io),
      period_ms_(period_ms) {}

void Audit::start() { run(); }

void Audit::stop() {
  stopped_ = true;
  timer_.cancel();
}

void Audit::run() {
  if (stopped_) return;
  const bool more = step();
  timer_.expires_after(std::chrono::milliseconds(more ? kAuditStepPause_ms : period_ms_));
  timer_.async_wait([this](boost::system::error_code failed) {
    if (!failed) run();
  });
}

bool Audit::step() {
  switch (part_) {
    case Part::cgroups:
      if (!cgroupStep()) part_ = Part::processes;
      return true;
    case Part::processes:
      if (!processStep()) part_ = Part::hostMounts;
      return true;
    case Part::hostMounts:
      if (!mountStep(places_.host_mounts.view())) part_ = Part::spawnerMounts;
      return true;
    case Part::spawnerMounts:
      if (mountStep(places_.spawner_mounts.view())) return true;
      odd_before_ = std::exchange(odd_, {});
      points_.clear();
      part_ = Part::lost;
      return true;
    case Part::lost:
      break;
  }
  lost();
  observer_.auditEnded(std::exchange(walk_, {}));
  part_ = Part::cgroups;
  hierarchy_ = 0;
  seen_.clear();
  return false;
}

// Asked after each look: what was seen then is no remains of a spawner that lives still.
bool Audit::spawnerLives() const {
  const std::string status = head(places_.proc + "/" + std::to_string(places_.spawner) + "/status");
  const std::string_view state = field(status, "State:").substr(0, 1);
  return !state.empty() && state != "Z" && state != "X";
}

void Audit::found(AuditFinding::Kind kind, base::BoxId box, std::string what) {
  if (!spawnerLives()) return;
  ++walk_.findings;
  if (told_.size() >= kToldMax) told_.clear();
  if (told_.insert(std::to_string(static_cast<int>(kind)) + what).second)
    observer_.auditFound({kind, box, what});
}

// The folder's next entry; after the last one false, and the folder is closed. A folder that is
// removed during its listing has no more entries.
bool Audit::nextOf(Folder& folder, fs::directory_entry* entry) {
  if (!folder || *folder == fs::directory_iterator()) {
    folder.reset();
    return false;
  }
  *entry = **folder;
  std::error_code failed;
  folder->increment(failed);
  if (failed) folder.reset();
  return true;
}

// --- cgroups: <instance>/<zygote>/b<number> ---------------------------------------------

bool Audit::cgroupStep() {
  std::error_code gone;
  fs::directory_entry entry;
  for (size_t n = 0; n < kAuditEntriesPerStep; ++n) {
    if (boxes_) {
      if (nextOf(boxes_, &entry)) cgroup(entry);
      continue;
    }
    if (!zygotes_) {
      if (hierarchy_ == places_.cgroups.size()) return false;
      zygotes_.emplace(places_.cgroups[hierarchy_++], gone);
      continue;
    }
    if (nextOf(zygotes_, &entry) && entry.is_directory(gone)) boxes_.emplace(entry.path(), gone);
  }
  return true;
}

void Audit::cgroup(const fs::directory_entry& entry) {
  std::error_code gone;
  const auto box = boxOf(entry.path().filename().native());
  if (!box) return;  // a controller's file, or a zygote's own processes
  ++walk_.cgroups;
  if (hierarchy_ == 1) seen_.insert(*box);
  // The ledger forgets a box only after its cgroups are removed, so a cgroup that still exists is a
  // stray. The entry alone only proves that it was listed.
  if (!ledger_.knows(*box) && fs::exists(entry.path(), gone))
    found(AuditFinding::Kind::strayCgroup, *box, entry.path());
}

// --- processes ----------------------------------------------------------------------------

bool Audit::processStep() {
  std::error_code failed;
  if (!processes_) processes_.emplace(places_.proc, failed);
  fs::directory_entry entry;
  for (size_t n = 0; n < kAuditEntriesPerStep; ++n) {
    if (!nextOf(processes_, &entry)) return false;
    process(entry.path().filename().native());
  }
  return true;
}

void Audit::process(std::string_view pid) {
  const auto id = number<uint32_t>(pid);
  if (!id || *id == places_.self) return;
  ++walk_.processes;
  std::string what;
  const std::string folder = places_.proc + "/" + std::string(pid);
  // Twice: a process that moves or ends between two reads is no finding.
  if (isStray(folder, &what) && isStray(folder, &what))
    found(AuditFinding::Kind::strayProcess, 0, "process " + std::string(pid) + " " + what);
}

bool Audit::isStray(const std::string& folder, std::string* what) const {
  const std::string status = head(folder + "/status");
  const auto uid = number<uint32_t>(firstWord(field(status, "Uid:")));
  const auto parent = number<uint32_t>(field(status, "PPid:"));
  if (!uid || !parent || field(status, "State:").substr(0, 1) == "Z") return false;
  const std::string cgroups = head(folder + "/cgroup");
  std::string_view place = field(cgroups, "0::");
  const bool inside = place.substr(0, places_.subtree.size() + 1) == places_.subtree + "/";
  const std::string name = " (" + base::printable(field(status, "Name:"), 32) + ")";
  if (!inside) {
    if (*uid < places_.uid_first || *uid - places_.uid_first >= places_.uids) return false;
    *what = "of uid " + std::to_string(*uid) + name + " is in no cgroup of this daemon's";
    if (places_.broker != 0 && (*parent == places_.broker || *uid == places_.commands_uid))
      return false;
    return *parent != places_.spawner;
  }
  place.remove_prefix(places_.subtree.size() + 1);
  const size_t slash = place.find('/');
  if (slash == std::string_view::npos) return false;  // of a zygote
  place.remove_prefix(slash + 1);
  const auto box = boxOf(place.substr(0, place.find('/')));
  if (!box || ledger_.knows(*box)) return false;
  *what = "of uid " + std::to_string(*uid) + name + " is in the cgroup of box " +
          std::to_string(*box) + ", which is gone";
  return true;
}

// --- mounts ---------------------------------------------------------------------------------

std::string Audit::backingFile(const std::string& source) const {
  constexpr std::string_view kLoop = "/dev/loop";
  if (source.compare(0, kLoop.size(), kLoop) != 0) return source;
  std::string file = head(places_.blocks + source.substr(4) + "/loop/backing_file");
  if (!file.empty() && file.back() == '\n') file.pop_back();
  return file;
}

struct Audit::Mount {
  std::string_view id, point, type, source;

  // id parent major:minor root point options [tags] - type source options
  static std::optional<Mount> parse(std::string_view line) {
    const size_t dash = line.find(" - ");
    if (dash == std::string_view::npos) return std::nullopt;
    const auto before = words(line.substr(0, dash)), after = words(line.substr(dash + 3));
    if (before.size() < 5 || after.size() < 2) return std::nullopt;
    return Mount{before[0], before[4], after[0], after[1]};
  }
  std::string text() const {
    return "mount " + std::string(id) + " at '" + base::printable(point, 200) + "' (" +
           base::printable(type, 20) + ", " + base::printable(source, 100) + ")";
  }
};

// The list's next line; after the last one false. The kernel keeps the place between two reads.
bool Audit::nextMount(base::FdView mountinfo, std::string* line) {
  if (!mounts_) {
    if (::lseek(mountinfo.get(), 0, SEEK_SET) != 0) return false;
    mounts_.emplace();
  }
  size_t end;
  while ((end = mounts_->find('\n')) == std::string::npos) {
    if (mounts_->size() > kMountLineBytesMax) mounts_->clear();  // no path is so long
    char text[kMountReadBytes];
    const ssize_t n = ::read(mountinfo.get(), text, sizeof text);
    if (n <= 0) {
      mounts_.reset();
      return false;
    }
    mounts_->append(text, static_cast<size_t>(n));
  }
  *line = mounts_->substr(0, end);
  mounts_->erase(0, end + 1);
  return true;
}

bool Audit::mountStep(base::FdView mountinfo) {
  std::string line;
  for (size_t n = 0; n < kAuditEntriesPerStep; ++n) {
    if (!nextMount(mountinfo, &line)) return false;
    const auto mount = Mount::parse(line);
    if (!mount) continue;
    ++walk_.mounts;
    part_ == Part::hostMounts ? hostMount(*mount) : spawnerMount(*mount);
  }
  return true;
}

void Audit::hostMount(const Mount& mount) {
  bool ours = backingFile(std::string(mount.source))
                  .compare(0, places_.images.size() + 1, places_.images + "/") == 0;
  for (std::string_view name : kRoomSources) ours = ours || mount.source == name;
  if (ours) found(AuditFinding::Kind::strayMount, 0, mount.text());
}

// Whether the spawner has made it, and its zygote, if it is an image, still has a cgroup: the
// cgroup is made before the image is mounted, and removed after the image.
bool Audit::belongsToRoom(const Mount& mount) {
  if (mount.point == "/") return mount.source == "room";
  if (mount.point == "/proc") return mount.type == "proc";
  if (mount.point == "/dev") return mount.source == "dev";
  for (std::string_view devices : {"/devices/", "/devices-without-terminals/"})
    if (mount.point.starts_with(devices)) {
      const auto slot = number<uint32_t>(mount.point.substr(devices.size()));
      return slot && *slot < wire::kUidRanges && mount.source == "dev";
    }
  constexpr std::string_view kImages = "/img/t";
  if (!mount.point.starts_with(kImages) || mount.type != "erofs") return false;
  const auto zygote = number<uint32_t>(mount.point.substr(kImages.size()));
  std::error_code gone;
  return zygote && fs::exists(places_.cgroups[0] + "/t" + std::to_string(*zygote), gone);
}

void Audit::spawnerMount(const Mount& mount) {
  // A second mount at a place hides the first.
  if (points_.insert(std::string(mount.point)).second && belongsToRoom(mount)) return;
  // Twice: an image that goes between two looks is no finding.
  std::string what = mount.text() + " in the spawner's namespace";
  if (odd_before_.contains(what)) found(AuditFinding::Kind::strayMount, 0, what);
  odd_.insert(std::move(what));
}

// --- boxes in quarantine whose cgroup is gone -------------------------------------------------

void Audit::lost() {
  for (base::BoxId box : ledger_.quarantinedBoxes())
    if (seen_.count(box) == 0)
      found(AuditFinding::Kind::lostBox, box, "box " + std::to_string(box));
}

}  // namespace mayfly::app
