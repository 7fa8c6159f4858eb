#include "app/door.h"

#include <errno.h>
#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <variant>

#include "app/instance.h"
#include "base/text.h"

namespace mayfly::app {
namespace {

constexpr uint32_t kListenBacklogLeast = 128;
constexpr size_t kEntryBytesMax = 1u << 20;  // a group's entry lists its members

// The number of a user or group by name; none: the host does not know it.
template <class Entry, class Ask, class Number>
base::Result<std::optional<uint32_t>> lookUp(const char* call, const std::string& name, Ask ask,
                                             Number number) {
  for (size_t size = 4'096; size <= kEntryBytesMax; size *= 4) {
    std::vector<char> text(size);
    Entry entry{};
    Entry* found = nullptr;
    int error;
    do error = ask(name.c_str(), &entry, text.data(), text.size(), &found);
    while (error == EINTR);
    if (error == ERANGE) continue;
    if (found != nullptr) return std::optional<uint32_t>(number(entry));
    // These, too, say that there is no such entry.
    if (error == 0 || error == ENOENT || error == ESRCH) return std::optional<uint32_t>();
    return base::failSys(error, call, name);
  }
  return base::failSys(ERANGE, call, name);
}

template <class Entry, class Ask, class Number>
base::Status addIds(const std::vector<config::Id>& ids, const char* key, const char* kind,
                    const char* call, Ask ask, Number number, std::vector<uint32_t>* out) {
  for (const config::Id& id : ids) {
    if (const auto* plain = std::get_if<uint32_t>(&id)) {
      out->push_back(*plain);
      continue;
    }
    const std::string& name = std::get<std::string>(id);
    MAYFLY_TRY(std::optional<uint32_t> found, lookUp<Entry>(call, name, ask, number));
    if (!found)
      return base::fail(base::Code::notFound,
                        fmt::format("the setting {} names '{}', and the host knows no {} of that "
                                    "name",
                                    key, base::printable(name), kind),
                        "Make it, or take it out of the setting.");
    out->push_back(*found);
  }
  return base::Unit{};
}

// Whether a daemon listens there: a socket without one refuses.
bool isServed(const sockaddr_un& address) {
  base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
         errno == EAGAIN;  // its queue is full
}

}  // namespace

base::Result<Allowed> whoMayConnect(const config::Daemon& settings) {
  Allowed allowed;
  MAYFLY_CHECK(addIds<passwd>(
      settings.uids_allowed, "uids_allowed", "user", "getpwnam", ::getpwnam_r,
      [](const passwd& entry) { return entry.pw_uid; }, &allowed.uids));
  MAYFLY_CHECK(addIds<group>(
      settings.gids_allowed, "gids_allowed", "group", "getgrnam", ::getgrnam_r,
      [](const group& entry) { return entry.gr_gid; }, &allowed.gids));
  return allowed;
}

SocketMode socketModeFor(const Allowed& allowed) {
  const bool users =
      std::any_of(allowed.uids.begin(), allowed.uids.end(), [](uid_t uid) { return uid != 0; });
  const std::vector<gid_t>& gids = allowed.gids;
  if (!users && gids.empty()) return {0600, 0};
  const bool one_group =
      !users && std::all_of(gids.begin(), gids.end(), [&](gid_t gid) { return gid == gids[0]; });
  return one_group ? SocketMode{0660, gids[0]} : SocketMode{0666, 0};
}

base::Result<base::Fd> listenAt(const std::string& path, uint32_t connections_max,
                                const SocketMode& mode) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return base::fail(base::Code::invalidArgument, "the path of the socket has more than " +
                                                       std::to_string(sizeof address.sun_path - 1) +
                                                       " bytes: '" + path + "'");
  memcpy(address.sun_path, path.data(), path.size());
  if (size_t slash = path.find_last_of('/'); slash != std::string::npos && slash > 0)
    MAYFLY_CHECK(makeFolders(path.substr(0, slash)));
  base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return base::failSys(errno, "socket", path);
  if (isServed(address))
    return base::fail(base::Code::alreadyExists,
                      "another daemon serves the socket '" + path + "' already",
                      "Stop it, or give this one another socket (--socket).");
  // Replaces only a socket, the leftover of a dead daemon; never another file.
  struct stat st;
  if (::lstat(path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode)) ::unlink(path.c_str());
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return base::failSys(errno, "bind", path);
  if (::chown(path.c_str(), ::geteuid(), mode.group) != 0)
    return base::failSys(errno, "chown", path);
  if (::chmod(path.c_str(), mode.mode) != 0) return base::failSys(errno, "chmod", path);
  const uint32_t backlog = std::max(connections_max, kListenBacklogLeast);
  if (::listen(fd.get(), static_cast<int>(backlog)) != 0)
    return base::failSys(errno, "listen", path);
  return fd;
}

}  // namespace mayfly::app
