// Layer: image. See tree.h.
#include "image/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <set>

#include "base/clock.h"
#include "base/lock_file.h"
#include "base/text.h"
#include "image/explain.h"
#include "image/hash.h"
#include "image/npm.h"
#include "image/pip.h"
#include "image/pyc.h"
#include "image/sandbox.h"
#include "image/store.h"

namespace mayfly::image {
namespace {

constexpr uint32_t kBootstrapSecondsMax = 1'500;
constexpr uint32_t kRunSecondsMax = 1'500;
constexpr time_t kUnusedTreeSecondsMax = 14 * 86'400;
constexpr time_t kLeftoverSecondsMax = 86'400;
constexpr const char* kPath = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

// Removes from a fresh tree everything that shows the machine or the time of its making, and
// everything that no task can use. Runs inside the tree, so that no link of it leads out.
constexpr std::string_view kNeutralise = R"sh(
set -e
umask 022
rm -rf /etc/apt /etc/resolv.conf /etc/machine-id /etc/mtab /etc/.pwd.lock /etc/fstab \
  /etc/passwd- /etc/group- /etc/shadow /etc/shadow- /etc/gshadow /etc/gshadow- /etc/subuid /etc/subgid /etc/subuid- /etc/subgid- \
  /var/lib/apt /var/lib/dbus /var/lib/systemd /var/lib/dpkg/*-old /var/lib/dpkg/lock* /var/lib/dpkg/triggers/Lock \
  /var/cache/apt /var/cache/debconf /var/cache/ldconfig /var/lib/misc /usr/share/bug /usr/share/lintian
find /usr/share/man /usr/share/info /usr/share/locale -mindepth 1 -delete || true
find /usr/share/doc -type f ! -name copyright -delete
find /usr/share/doc -type l ! -name copyright -delete
find /usr/share/doc -mindepth 1 -type d -empty -delete
rm -rf --one-file-system /var/log /run /tmp /var/tmp /dev /root /proc/* /sys/*
mkdir -p /var/log /run /tmp /var/tmp /dev/shm /proc /sys /task /mnt /root
chmod 1777 /tmp /var/tmp /dev/shm
chmod 0755 /root /task
chown 1000:1000 /task
ln -s /proc/self/mounts /etc/mtab
: > /etc/machine-id
echo mayfly > /etc/hostname
printf '127.0.0.1 localhost mayfly\n::1 localhost\n' > /etc/hosts
printf 'hosts: files\npasswd: files\ngroup: files\nservices: files\nprotocols: files\n' > /etc/nsswitch.conf
sed -i '/^task:/d' /etc/passwd /etc/group
echo 'task:x:1000:1000:task:/task:/bin/sh' >> /etc/passwd
echo 'task:x:1000:' >> /etc/group
[ -e /etc/localtime ] || [ ! -e /usr/share/zoneinfo/Etc/UTC ] || ln -s /usr/share/zoneinfo/Etc/UTC /etc/localtime
find / -xdev -perm /6000 ! -type l -exec chmod ug-s {} +
find / -xdev -exec touch -h -d "@$1" {} +
)sh";

// Makes a folder a Debian archive from which apt can install without network. apt checks every
// package against the locked hash.
base::Status makeArchive(Workshop& shop, const std::string& folder, const std::string& suite,
                         const std::vector<Deb>& debs) {
  for (const Deb& deb : debs) {
    const std::string named = fmt::format("{}/{}.deb", folder, deb.sha256);
    if (::link(shop.artifact(deb.sha256).c_str(), named.c_str()) != 0)
      return base::failSys(errno, "link", named);
  }
  Command list;
  list.argv = {"/bin/sh", "-euc", R"sh(
cd "$1"
for deb in *.deb; do
  dpkg-deb -f "$deb"
  printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" "${deb%.deb}"
done > Packages)sh",
               "sh", folder};
  list.seconds_max = kShortSecondsMax;
  MAYFLY_CHECK(shop.run(list));
  MAYFLY_TRY(std::string digest, hashFile(folder + "/Packages"));
  struct stat st;
  if (::stat((folder + "/Packages").c_str(), &st) != 0)
    return base::failSys(errno, "stat", folder + "/Packages");
  return writeText(folder + "/Release",
                   fmt::format("Suite: {0}\nCodename: {0}\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n"
                               "SHA256:\n {1} {2} Packages\n",
                               suite, digest, st.st_size));
}

base::Status bootstrap(Workshop& shop, const std::string& suite, const std::vector<Deb>& debs,
                       const std::string& path) {
  MAYFLY_TRY(std::string archive, shop.scratch());
  MAYFLY_CHECK(makeArchive(shop, archive, suite, debs));
  // apt reads it in a child without root's rights.
  if (::chmod(archive.c_str(), 0755) != 0) return base::failSys(errno, "chmod", archive);
  Command command;
  command.argv = {"mmdebstrap", "--mode=root", "--variant=essential", "--format=directory",
                  "--aptopt=Acquire::Languages \"none\""};
  for (const char* pattern :
       {"/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/doc/*"}) {
    command.argv.push_back(fmt::format("--dpkgopt=path-exclude={}", pattern));
  }
  command.argv.push_back("--dpkgopt=path-include=/usr/share/doc/*/copyright");
  std::string names;
  for (const Deb& deb : debs) names += (names.empty() ? "" : ",") + deb.name;
  command.argv.push_back("--include=" + names);
  command.argv.insert(command.argv.end(),
                      {suite, path, fmt::format("deb [trusted=yes] copy:{} ./", archive)});
  command.seconds_max = kBootstrapSecondsMax;
  command.enter = leaveHost();
  command.on_line = [&](std::string_view line) {
    for (const char* step : {"extracting", "installing"})
      if (line.substr(0, 3) == "I: " && line.substr(3).rfind(step, 0) == 0)
        shop.say(base::printable(line.substr(3), 100));
  };
  return shop.run(command);
}

base::Status runInTree(Workshop& shop, const std::string& tree,
                       const std::vector<std::string>& commands) {
  for (const std::string& text : commands) {
    shop.say(fmt::format("running: {}",
                         base::printable(text.substr(text.find_first_not_of(" \n")), 60)));
    Command command;
    command.argv = {"/bin/sh", "-ec", text};
    command.seconds_max = kRunSecondsMax;
    command.environment = sandboxEnvironment({"HOME=/root"});
    command.enter = enterSandbox({tree, Inside::install, {}});
    auto status = shop.run(command);
    if (status) continue;
    return base::fail(std::move(status).error().in("a command of 'image.run'"));
  }
  return base::Unit{};
}

base::Status neutralise(Workshop& shop, const std::string& tree) {
  Command command;
  command.argv = {"/bin/sh", "-c", std::string(kNeutralise), "sh",
                  std::to_string(kImageUnixSeconds)};
  command.seconds_max = kShortSecondsMax;
  command.environment = {kPath};
  command.enter =
      enterSandbox({tree, Inside::finish, {}});  // the tree's shell comes from its packages
  return shop.run(command);
}

// The last steps of each tree, after its packages. Commands may change modules, so these are
// compiled last.
base::Status finishSteps(Workshop& shop, const std::string& tree,
                         const std::vector<std::string>& commands) {
  MAYFLY_CHECK(runInTree(shop, tree, commands));
  MAYFLY_CHECK(compilePython(shop, tree));
  return neutralise(shop, tree);
}

// Adds these steps, except the commands, to the key of a tree.
void addStepsTo(Hash& hash) {
  hash.field(std::to_string(kImageUnixSeconds));  // the commands' SOURCE_DATE_EPOCH
  hash.field(pycProgram());
  hash.field(kNeutralise);
}

// The tree with a shared lock if it exists; else only its exclusive lock.
base::Result<Tree> openTree(Workshop& shop, const std::string& key, Fresh fresh) {
  const std::string folder = shop.cacheDir() + "/trees";
  MAYFLY_CHECK(makeFolders(folder));
  // An unfinished tree may hold set-user-id programs: no other user may enter.
  if (::chmod(folder.c_str(), 0700) != 0) return base::failSys(errno, "chmod", folder);
  Tree tree{key, folder + "/" + key, {}};
  MAYFLY_TRY(tree.lock, base::openLockFile(tree.path + ".lock"));
  const uint64_t deadline_ns = base::monotonicNs() + uint64_t{kLockSecondsMax} * 1'000'000'000;
  for (;;) {
    const bool there = ::access(tree.path.c_str(), F_OK) == 0;
    const int how = there && fresh == Fresh::no ? LOCK_SH : LOCK_EX;
    if (::flock(tree.lock.get(), how | LOCK_NB) == 0) {
      ::futimens(tree.lock.get(), nullptr);
      const bool still = ::access(tree.path.c_str(), F_OK) == 0;
      if (how == LOCK_EX || still) break;
      ::flock(tree.lock.get(), LOCK_UN);
    } else if (errno != EWOULDBLOCK && errno != EINTR) {
      return base::failSys(errno, "flock", tree.path);
    }
    if (base::monotonicNs() > deadline_ns)
      return base::fail(
          base::Code::deadlineExceeded,
          fmt::format("'{}' was held by another build for {} s", tree.path, kLockSecondsMax));
    if (interrupted()) return base::fail(interruption("the wait for another build"));
    ::usleep(100'000);
  }
  if (fresh == Fresh::yes) {
    MAYFLY_CHECK(removeTree(tree.path));
    MAYFLY_CHECK(removeTree(pipFolder(tree.path)));
  }
  if (::access((tree.path + ".new").c_str(), F_OK) == 0)
    MAYFLY_CHECK(removeTree(tree.path + ".new"));
  return tree;
}

bool isMade(const Tree& tree) { return ::access(tree.path.c_str(), F_OK) == 0; }

// Makes `made` the tree, or removes it.
base::Result<Tree> finishTree(base::Status status, Tree tree) {
  const std::string made = tree.path + ".new";
  if (!status) {
    (void)removeTree(made);
    return base::fail(std::move(status).error());
  }
  if (::rename(made.c_str(), tree.path.c_str()) != 0)
    return base::failSys(errno, "rename", tree.path);
  ::flock(tree.lock.get(), LOCK_SH);
  return tree;
}

std::string machineName() {
  utsname machine{};
  ::uname(&machine);
  return machine.machine;
}

void sweepFolder(const std::string& folder, const std::function<void(const std::string&)>& visit) {
  DIR* dir = ::opendir(folder.c_str());
  if (!dir) return;
  std::vector<std::string> names;
  while (dirent* entry = ::readdir(dir))
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  ::closedir(dir);
  for (const std::string& name : names) visit(name);
}

}  // namespace

std::string recipeKey(const config::ImageRecipe& recipe) {
  Hash hash;
  hash.field("mayfly recipe 3");
  hash.field(machineName());
  hash.field(recipe.suite);
  for (const auto* list :
       {&recipe.packages, &recipe.early_run, &recipe.pip, &recipe.npm, &recipe.run}) {
    hash.field("list");
    for (const std::string& one : *list) hash.field(one);
  }
  addStepsTo(hash);
  return hash.hex();
}

std::string debianKey(const std::string& suite, const std::vector<Deb>& debs,
                      const std::vector<std::string>& run) {
  Hash hash;
  hash.field("mayfly tree 3");
  hash.field(machineName());
  hash.field(suite);
  for (const Deb& deb : debs) hash.field(deb.sha256);
  hash.field("run");
  for (const std::string& command : run) hash.field(command);
  addStepsTo(hash);
  return hash.hex();
}

base::Result<Tree> makeDebianTree(Workshop& shop, Apt& apt, const std::string& suite,
                                  const std::vector<Deb>& debs, const std::vector<std::string>& run,
                                  Fresh fresh) {
  MAYFLY_TRY(Tree tree, openTree(shop, debianKey(suite, debs, run), fresh));
  if (isMade(tree)) return tree;
  const auto make = [&]() -> base::Status {
    MAYFLY_CHECK(apt.fetch(debs));
    const std::string made = tree.path + ".new";
    shop.say(fmt::format("installing {} packages of Debian {}", debs.size(), suite));
    MAYFLY_CHECK(bootstrap(shop, suite, debs, made));
    return finishSteps(shop, made, run);
  };
  auto status = make();
  return finishTree(std::move(status), std::move(tree));
}

base::Result<std::string> makeNpmTree(Workshop& shop, Apt& apt, const std::string& suite) {
  MAYFLY_TRY(std::vector<Deb> debs, apt.resolve({"npm"}, Fresh::no));
  MAYFLY_TRY(Tree tree, makeDebianTree(shop, apt, suite, debs, {}, Fresh::no));
  return tree.path;  // its time is fresh: no sweep removes it
}

base::Result<Tree> makeFullTree(Workshop& shop, Apt& apt, const config::ImageRecipe& recipe,
                                const Lock& lock, Tree below, Fresh fresh) {
  if (!recipe.hasLanguagePackages() && recipe.run.empty()) return below;
  Hash hash;
  hash.field("mayfly full tree 2");
  hash.field(below.key);
  for (const Deb& deb : lock.tools) hash.field(deb.sha256);
  for (const Wheel& w : lock.pip) hash.field(w.name + " " + w.version + " " + w.sha256);
  for (const NpmPackage& n : lock.npm) {
    hash.field(n.path + " " + n.sha256 + (n.wished ? " wished" : ""));
    for (const auto& [command, file] : n.bin) hash.field(command + " " + file);
  }
  hash.field("run");
  for (const std::string& command : recipe.run) hash.field(command);
  addStepsTo(hash);
  MAYFLY_TRY(Tree tree, openTree(shop, hash.hex(), fresh));
  if (isMade(tree)) return tree;
  const auto make = [&]() -> base::Status {
    const std::string made = tree.path + ".new";
    MAYFLY_CHECK(runCommand({"cp", "-a", "--reflink=auto", below.path, made}, kShortSecondsMax));
    MAYFLY_CHECK(installPip(shop, apt, recipe, below.path, made, lock));
    MAYFLY_CHECK(installNpm(
        shop, [&] { return makeNpmTree(shop, apt, recipe.suite); }, made, lock));
    return finishSteps(shop, made, recipe.run);
  };
  auto status = make();
  return finishTree(std::move(status), std::move(tree));
}

void sweepTrees(const std::string& cache_dir) {
  const std::string folder = cache_dir + "/trees";
  sweepFolder(folder, [&](const std::string& name) {
    if (name.size() < 69 || !isDigest(name.substr(0, 64)) || name.substr(64) != ".lock") return;
    const std::string tree = folder + "/" + name.substr(0, 64), lock = folder + "/" + name;
    auto fd = base::openAt(base::FdView(AT_FDCWD), lock, O_RDWR);
    struct stat st;
    if (!fd || ::flock(fd->get(), LOCK_EX | LOCK_NB) != 0 || ::fstat(fd->get(), &st) != 0) return;
    if (::access((tree + ".new").c_str(), F_OK) == 0) (void)removeTree(tree + ".new");
    if (st.st_mtime + kUnusedTreeSecondsMax > ::time(nullptr)) return;
    (void)removeTree(tree);
    (void)removeTree(pipFolder(tree));
    ::unlink(lock.c_str());
  });
  const auto sweepOld = [&](const char* name, time_t seconds_max) {
    const std::string old = cache_dir + "/" + name;
    sweepFolder(old, [&](const std::string& entry) {
      struct stat st;
      if (::lstat((old + "/" + entry).c_str(), &st) == 0 &&
          st.st_mtime + seconds_max < ::time(nullptr))
        (void)removeTree(old + "/" + entry);
    });
  };
  sweepOld("scratch", kLeftoverSecondsMax);
  sweepOld("resolved", kUnusedTreeSecondsMax);
  sweepArtifacts(cache_dir);
}

}  // namespace mayfly::image
