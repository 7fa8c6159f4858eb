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

#include "base/text.h"
#include "image/command.h"
#include "image/hash.h"
#include "image/sources.h"

namespace mayfly::image {
namespace {

constexpr uint32_t kBootstrapSecondsMax = 1'500;
constexpr uint32_t kShortSecondsMax = 300;
constexpr uint32_t kLockSecondsMax = 1'800;
constexpr time_t kUnusedTreeSecondsMax = 14 * 86'400;
constexpr const char* kArchiveKeys = "/usr/share/keyrings/debian-archive-keyring.gpg";

// Takes out of a fresh tree all that tells of the machine it was made on, of the
// time, and what a task can do nothing with. Runs inside the tree, so that no
// link of it leads out.
constexpr std::string_view kNeutralise = R"sh(
set -e
umask 022
rm -rf /etc/apt /etc/resolv.conf /etc/machine-id /etc/mtab /etc/.pwd.lock /etc/fstab \
  /etc/passwd- /etc/group- /etc/shadow /etc/shadow- /etc/gshadow /etc/gshadow- /etc/subuid /etc/subgid /etc/subuid- /etc/subgid- \
  /var/lib/apt /var/lib/dbus /var/lib/systemd /var/lib/dpkg/*-old /var/lib/dpkg/lock* /var/lib/dpkg/triggers/Lock \
  /var/cache/apt /var/cache/debconf /var/cache/ldconfig /var/lib/misc /usr/share/bug /usr/share/lintian
find /usr/share/man /usr/share/info /usr/share/locale -mindepth 1 -delete 2>/dev/null || true
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
)sh";

// 'it'"'"'s' for a shell.
std::string quoted(std::string_view text) {
  std::string out = "'";
  for (char c : text) {
    if (c == '\'') {
      out += "'\"'\"'";
    } else {
      out += c;
    }
  }
  return out + "'";
}

base::Result<std::vector<std::string>> bootstrapCommand(const config::ImageRecipe& recipe,
                                                        const std::string& path) {
  MAYFLY_TRY(std::string os_release,
             base::readSmallFile(base::FdView(AT_FDCWD), "/etc/os-release"));
  MAYFLY_TRY(std::string targets, commandOutput({"apt-get", "indextargets", "--format",
                                                 kIndexTargetsFormat, "Created-By: Packages"},
                                                kShortSecondsMax));
  MAYFLY_TRY(std::string apt_config, commandOutput({"apt-config", "dump"}, kShortSecondsMax));
  MAYFLY_TRY(std::vector<std::string> sources,
             sourcesFor(recipe.suite, targets, codename(os_release)));

  std::vector<std::string> argv = {"mmdebstrap", "--variant=essential", "--format=directory",
                                   "--aptopt=Acquire::Languages \"none\""};
  for (const std::string& option : fetchOptions(apt_config)) argv.push_back("--aptopt=" + option);
  if (::access(kArchiveKeys, R_OK) == 0) argv.push_back(fmt::format("--keyring={}", kArchiveKeys));
  for (const char* pattern :
       {"/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/doc/*"}) {
    argv.push_back(fmt::format("--dpkgopt=path-exclude={}", pattern));
  }
  argv.push_back("--dpkgopt=path-include=/usr/share/doc/*/copyright");
  if (!recipe.packages.empty())
    argv.push_back(fmt::format("--include={}", fmt::join(recipe.packages, ",")));
  for (const std::string& command : recipe.run) {
    argv.push_back(
        fmt::format("--customize-hook=chroot \"$1\" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "
                    "LC_ALL=C.UTF-8 HOME=/root SOURCE_DATE_EPOCH=0 PYTHONHASHSEED=0 /bin/sh -ec {}",
                    quoted(command)));
  }
  argv.push_back(recipe.suite);
  argv.push_back(path);
  argv.insert(argv.end(), sources.begin(), sources.end());
  return argv;
}

// What a killed build left, and trees that no one used for two weeks.
void sweepTrees(const std::string& folder) {
  DIR* dir = ::opendir(folder.c_str());
  if (!dir) return;
  std::vector<std::string> names;
  while (dirent* entry = ::readdir(dir)) names.emplace_back(entry->d_name);
  ::closedir(dir);
  for (const std::string& name : names) {
    if (name.size() < 69 || !isDigest(name.substr(0, 64)) || name.substr(64) != ".lock") continue;
    const std::string tree = folder + "/" + name.substr(0, 64), lock = folder + "/" + name;
    auto fd = base::openAt(base::FdView(AT_FDCWD), lock, O_RDWR);
    struct stat st;
    if (!fd || ::flock(fd->get(), LOCK_EX | LOCK_NB) != 0 || ::fstat(fd->get(), &st) != 0) continue;
    if (::access((tree + ".new").c_str(), F_OK) == 0) (void)removeTree(tree + ".new");
    if (::access((tree + ".stage").c_str(), F_OK) == 0) (void)removeTree(tree + ".stage");
    if (st.st_mtime + kUnusedTreeSecondsMax > ::time(nullptr)) continue;
    (void)removeTree(tree);
    ::unlink(lock.c_str());
  }
}

}  // namespace

std::string treeKey(const config::ImageRecipe& recipe) {
  utsname machine{};
  ::uname(&machine);
  Hash hash;
  hash.field("mayfly tree 1");
  hash.field(machine.machine);
  hash.field(recipe.suite);
  for (const std::string& package : recipe.packages) hash.field(package);
  hash.field("run");
  for (const std::string& command : recipe.run) hash.field(command);
  hash.field(kNeutralise);
  return hash.hex();
}

base::Status removeTree(const std::string& path) {
  return runCommand({"rm", "-rf", "--one-file-system", path}, kShortSecondsMax);
}

base::Result<Tree> makeTree(const config::Manifest& manifest, const BuildOptions& options) {
  const auto say = [&](std::string_view text) {
    if (options.progress) options.progress(fmt::format("{}: {}", manifest.name, text));
  };
  const std::string folder = options.cache_dir + "/trees";
  MAYFLY_CHECK(makeFolders(folder));
  sweepTrees(folder);
  const std::string path = folder + "/" + treeKey(manifest.image);
  MAYFLY_TRY(base::Fd lock, lockFile(path + ".lock", kLockSecondsMax));
  ::futimens(lock.get(), nullptr);
  if (options.fresh == Fresh::yes) MAYFLY_CHECK(removeTree(path));
  if (::access(path.c_str(), F_OK) == 0) return Tree{path, std::move(lock)};

  const std::string made = path + ".new";
  MAYFLY_CHECK(removeTree(made));
  say(fmt::format("installing Debian {} with {} packages and what they need", manifest.image.suite,
                  manifest.image.packages.size()));
  MAYFLY_TRY(std::vector<std::string> argv, bootstrapCommand(manifest.image, made));
  auto status = runCommand(argv, kBootstrapSecondsMax, [&](std::string_view line) {
    if (line.rfind("I: running --customize-hook", 0) == 0) {
      say("running a command of the recipe");
    } else if (line.rfind("I: ", 0) == 0) {
      say(base::printable(line.substr(3), 100));
    }
  });
  if (status) {
    status = runCommand({"chroot", made, "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                         "/bin/sh", "-c", std::string(kNeutralise)},
                        kShortSecondsMax);
  }
  if (!status) {
    (void)removeTree(made);
    return tl::unexpected<base::Error>(std::move(status).error().in(
        fmt::format("cannot make the root of template '{}'", manifest.name)));
  }
  if (::rename(made.c_str(), path.c_str()) != 0) return base::failSys(errno, "rename", path);
  return Tree{path, std::move(lock)};
}

}  // namespace mayfly::image
