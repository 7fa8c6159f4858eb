#include "supervisor/supervisor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/clock.h"
#include "base/text.h"
#include "walls/privileges.h"
#include "wire/broker_check.h"

namespace mayfly::supervisor {

using base::Code;
using base::Fd;
using base::FdView;
using base::Result;
using base::Status;

namespace {

constexpr uint64_t kLookNs = 1'000'000'000;
// glibc keeps freed blocks of up to 1 KiB at hand for the next call: of each size 32, not 7.
constexpr const char* kAllocator = "GLIBC_TUNABLES=glibc.malloc.tcache_count=32";
constexpr size_t kHostFileBytesMax = 4u << 20;
constexpr std::array<std::pair<const char*, const char*>, kHostFilesCopied> kHostFiles{
    {{"/etc/hosts", "hosts"},
     {"/etc/host.conf", "host.conf"},
     {"/etc/gai.conf", "gai.conf"},
     {"/etc/resolv.conf", "resolv.conf"},
     {"/etc/nsswitch.conf", "nsswitch.conf"},
     {"/etc/ssl/certs/ca-certificates.crt", "ca.pem"}}};
// Other namespaces for the children, their uids, their deaths, files of other owners.
constexpr uint64_t kCapabilities = 1ull << CAP_SYS_ADMIN | 1ull << CAP_SETUID | 1ull << CAP_SETGID |
                                   1ull << CAP_SETPCAP | 1ull << CAP_KILL |
                                   1ull << CAP_DAC_READ_SEARCH;

void say(const char* level, const std::string& text) {
  fprintf(stderr, "mayfly-broker: %s: %s\n", level, text.c_str());
}
void warn(const base::Error& error) {
  say("warn", error.message + (error.advice.empty() ? "" : "; " + error.advice));
}

Result<base::Pair> makeStreamPair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0)
    return base::failSys(errno, "socketpair", "a link of the broker");
  return base::Pair{Fd(fds[0]), Fd(fds[1])};
}

Result<Fd> openFolder(FdView at, const std::string& name, mode_t mode) {
  if (::mkdirat(at.get(), name.c_str(), mode) != 0 && errno != EEXIST)
    return base::failSys(errno, "mkdir", name);
  return base::openAt(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

// The vault's folder, and the files that an earlier vault of another uid left in it.
Status giveTo(FdView folder, uint32_t uid) {
  Fd copy(::openat(folder.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  DIR* all = ::fdopendir(copy.get());
  if (all == nullptr) return base::failSys(errno, "opendir", "the journal's folder");
  copy.release();
  while (const dirent* each = ::readdir(all)) {
    const std::string name = each->d_name;
    if (name != "." && name != "..")
      (void)::fchownat(folder.get(), name.c_str(), uid, uid, AT_SYMLINK_NOFOLLOW);
  }
  ::closedir(all);
  if (::fchown(folder.get(), uid, uid) != 0 || ::fchmod(folder.get(), 0700) != 0)
    return base::failSys(errno, "chown", "the journal's folder");
  return base::Unit{};
}

template <size_t N>
void put(char (&field)[N], std::string_view text) {
  const size_t n = std::min(text.size(), N - 1);
  ::memcpy(field, text.data(), n);
  field[n] = '\0';
}

}  // namespace

Supervisor::Supervisor(Fd link, Options options)
    : link_(std::move(link)),
      options_(std::move(options)),
      secrets_(options_.sources, [this](const std::string& name, Result<Fd> value) {
        tellSecret(name, std::move(value));
      }) {}

Result<std::unique_ptr<Supervisor>> Supervisor::start(Fd link, Options options) {
  if (options.vault_uid == 0 || options.front_uid == 0 || options.vault_uid == options.front_uid)
    return base::fail(Code::invalidArgument, "vault and front need uids of their own, not root's");
  std::unique_ptr<Supervisor> self(new Supervisor(std::move(link), std::move(options)));
  MAYFLY_CHECK(self->prepare());
  return self;
}

Status Supervisor::prepare() {
  MAYFLY_CHECK(base::setNonblocking(link_.view()));
  // The daemon's death ends the link, too; this signal comes even if a copy of its end is open.
  if (::prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0) != 0)
    return base::failSys(errno, "prctl(PR_SET_PDEATHSIG)", "the supervisor");
  if (::mkdir(options_.state_dir.c_str(), 0755) != 0 && errno != EEXIST)
    return base::failSys(errno, "mkdir", options_.state_dir);
  MAYFLY_TRY(state_,
             base::openAt({}, options_.state_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  MAYFLY_TRY(Fd journal, openFolder(state_.view(), "journal", 0700));
  MAYFLY_CHECK(giveTo(journal.view(), options_.vault_uid));
  MAYFLY_TRY(Fd etc, openFolder(state_.view(), "etc", 0755));
  copyHostFiles();
  audit_ = std::make_unique<AuditFile>(state_.view(), options_.audit_bytes_max,
                                       options_.audit_files_max);
  MAYFLY_CHECK(walls::keepOnly(kCapabilities));
  // A policy that cannot be read at the start is an error of the start.
  MAYFLY_TRY(Opened policy, openPolicy(options_.policy_path, options_.sources));
  return base::Unit{};
}

int Supervisor::run() {
  while (!ended_) {
    const uint64_t now_ns = base::monotonicNs();
    startDue(now_ns);
    if (now_ns >= next_look_ns_) look(now_ns);
    if (awaitEvent(base::monotonicNs()) != 0) break;
  }
  killAll();
  return 0;
}

void Supervisor::killAll() {
  for (Program* program : {&front_, &vault_})
    if (program->alive())
      ::syscall(SYS_pidfd_send_signal, program->child.pidfd.get(), SIGKILL, nullptr, 0);
  for (Program* program : {&front_, &vault_})
    if (program->alive()) {
      siginfo_t info;
      ::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(program->child.pidfd.get()), &info,
               WEXITED);
    }
}

// --- starting --------------------------------------------------------------------

void Supervisor::startDue(uint64_t now_ns) {
  for (Program* program : {&vault_, &front_}) {
    if (program->alive() || now_ns < program->start_again_ns) continue;
    if (auto started = program == &vault_ ? startVault() : startFront(); !started) {
      say("error",
          std::string("cannot start the ") + program->name + ": " + started.error().message);
      program->start_again_ns = now_ns + program->pause.afterDeath(0);
    }
  }
  if (link_again_ns_ != 0 && now_ns >= link_again_ns_) linkFront();
}

Status Supervisor::startVault() {
  MAYFLY_TRY(base::Pair link, makeStreamPair());
  MAYFLY_TRY(Fd audit, audit_->open());
  MAYFLY_TRY(vault_.child, walls::startProgram(
                               {options_.executable, "vault", "--uid",
                                std::to_string(options_.vault_uid), "--state", options_.state_dir},
                               {link.theirs.view(), audit.view()}, {kAllocator}));
  MAYFLY_CHECK(base::setNonblocking(vault_.child.channel.view()));
  vault_.out = {};
  vault_.started_ns = base::monotonicNs();
  policy_sent_ = policy_seen_ = std::nullopt;
  policy_failure_.clear();
  secrets_.forget();
  next_look_ns_ = 0;
  vault_link_ = std::move(link.ours);
  vault_told_ = false;
  linkFront();
  return base::Unit{};
}

Status Supervisor::startFront() {
  MAYFLY_TRY(base::Pair doors, base::makeSeqpacketPair());
  MAYFLY_TRY(front_.child, walls::startProgram({options_.executable, "front", "--uid",
                                                std::to_string(options_.front_uid)},
                                               {doors.theirs.view()}, {kAllocator}));
  MAYFLY_CHECK(base::setNonblocking(front_.child.channel.view()));
  front_.out = {};
  front_.started_ns = base::monotonicNs();
  tell(wire::LinkEvent::Kind::frontUp, {}, std::move(doors.ours), front_.child.pid);
  linkFront();
  return base::Unit{};
}

void Supervisor::linkFront() {
  link_again_ns_ = 0;
  if (!vault_.alive() || !front_.alive()) return;
  linked_ns_ = base::monotonicNs();
  auto link = makeStreamPair();
  if (!link) {
    warn(link.error());
    link_again_ns_ = linked_ns_ + Pause::kMaxNs;
    return;
  }
  wire::FrontMessage to_front;
  to_front.kind = wire::FrontMessage::Kind::vault;
  send(front_, to_front, std::move(link->ours));
  wire::SecretMessage to_vault;
  to_vault.kind = wire::SecretMessage::Kind::front;
  to_vault.link = ++front_link_;
  send(vault_, to_vault, std::move(link->theirs));
}

// If the front has died, its end follows, and the next front gets a link of its own.
void Supervisor::onFrontLost(uint64_t link) {
  if (link != front_link_ || link_again_ns_ != 0) return;
  const uint64_t now_ns = base::monotonicNs();
  link_again_ns_ = now_ns + link_pause_.afterDeath(now_ns - linked_ns_);
}

// --- the look, once a second --------------------------------------------------------

void Supervisor::look(uint64_t now_ns) {
  next_look_ns_ = now_ns + kLookNs;
  copyHostFiles();
  if (!vault_.alive()) return;
  if (auto loaded = loadPolicy(); !loaded && policy_failure_ != loaded.error().message) {
    policy_failure_ = loaded.error().message;
    warn(loaded.error());
    tell(wire::LinkEvent::Kind::policyRefused, loaded.error().message);
  }
  secrets_.look(now_ns);
  auto rotated = audit_->rotate();
  if (!rotated) return warn(rotated.error());
  if (!*rotated) return;
  auto audit = audit_->open();
  if (!audit) return warn(audit.error());
  wire::SecretMessage message;
  message.kind = wire::SecretMessage::Kind::audit;
  send(vault_, message, std::move(*audit));
}

Status Supervisor::loadPolicy() {
  MAYFLY_TRY(Opened policy, openPolicy(options_.policy_path, options_.sources));
  const bool settled = !policy_sent_ || policy_seen_ == policy.stamp;
  policy_seen_ = policy.stamp;
  if (!settled || policy_sent_ == policy.stamp) return base::Unit{};
  std::string text(policy.stamp.size, '\0');
  const ssize_t n = ::pread(policy.file.get(), text.data(), text.size(), 0);
  if (n < 0) return base::failSys(errno, "read", options_.policy_path);
  text.resize(static_cast<size_t>(n));
  policy_sent_ = policy.stamp;
  policy_failure_.clear();
  MAYFLY_TRY(policy_secrets_, config::parsePolicySecrets(text, options_.policy_path));
  wire::SecretMessage message;
  message.kind = wire::SecretMessage::Kind::policy;
  put(message.text, options_.policy_path);
  send(vault_, message, std::move(policy.file));
  return base::Unit{};
}

// The vault's root holds copies of the files by which a host resolves names and trusts servers.
void Supervisor::copyHostFiles() {
  for (size_t i = 0; i < kHostFiles.size(); ++i) {
    const auto& [from, name] = kHostFiles[i];
    struct stat st;
    if (::stat(from, &st) != 0) continue;
    const Stamp stamp = stampOf(st);
    if (copied_[i] == stamp) continue;
    auto text = base::readSmallFile({}, from, kHostFileBytesMax);
    const std::string ours = std::string("etc/") + name, next = ours + ".next";
    auto file = base::openAt(state_.view(), next,
                             O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (!text || !file || ::fchmod(file->get(), 0644) != 0 ||
        ::write(file->get(), text->data(), text->size()) != static_cast<ssize_t>(text->size()) ||
        ::renameat(state_.get(), next.c_str(), state_.get(), ours.c_str()) != 0) {
      say("warn",
          fmt::format("cannot copy {} for the vault: {}, ignoring", from, ::strerror(errno)));
      continue;
    }
    copied_[i] = stamp;
  }
}

void Supervisor::tellSecret(const std::string& name, Result<Fd> value) {
  wire::SecretMessage message;
  put(message.name, name);
  if (value) {
    message.kind = wire::SecretMessage::Kind::secret;
    send(vault_, message, std::move(*value));
    return;
  }
  say("warn", fmt::format("secret '{}': {}{}{}", name, value.error().message,
                          value.error().advice.empty() ? "" : "; ", value.error().advice));
  message.kind = wire::SecretMessage::Kind::failed;
  put(message.text, value.error().message);
  send(vault_, message);
}

// --- events ------------------------------------------------------------------------

int Supervisor::awaitEvent(uint64_t now_ns) {
  const auto out = [](const Outbox& box) { return static_cast<short>(box.empty() ? 0 : POLLOUT); };
  const auto in_out = [&](const Outbox& box) { return static_cast<short>(POLLIN | out(box)); };
  std::vector<pollfd> wait{{link_.get(), in_out(out_), 0},
                           {vault_.child.pidfd.get(), POLLIN, 0},
                           {front_.child.pidfd.get(), POLLIN, 0},
                           {vault_.child.channel.get(), in_out(vault_.out), 0},
                           {front_.child.channel.get(), out(front_.out), 0}};
  const size_t commands = wait.size();
  for (FdView command : secrets_.running()) wait.push_back({command.get(), POLLIN, 0});
  uint64_t next_ns = std::min(next_look_ns_, secrets_.nextNs());
  if (link_again_ns_ != 0) next_ns = std::min(next_ns, link_again_ns_);
  for (const Program* program : {&vault_, &front_})
    if (!program->alive()) next_ns = std::min(next_ns, program->start_again_ns);
  const uint64_t wait_ms = next_ns > now_ns ? (next_ns - now_ns) / 1'000'000 + 1 : 0;
  const int n = ::poll(wait.data(), wait.size(), static_cast<int>(std::min(wait_ms, kLookNs)));
  if (n < 0 && errno != EINTR) {
    warn(base::sysError(errno, "poll", "the supervisor's peers"));
    return 1;
  }
  if (n <= 0) return 0;
  if (wait[3].revents != 0) onNote();
  if (wait[1].revents != 0) onEnd(vault_);
  if (wait[2].revents != 0) onEnd(front_);
  if (front_.alive() && wait[4].revents != 0 &&
      ((wait[4].revents & (POLLHUP | POLLERR)) != 0 ||
       !front_.out.flush(front_.child.channel.view()))) {
    front_.child.channel.reset();  // its end follows
    ::syscall(SYS_pidfd_send_signal, front_.child.pidfd.get(), SIGKILL, nullptr, 0);
  }
  if (vault_.alive()) (void)vault_.out.flush(vault_.child.channel.view());
  if (std::any_of(wait.begin() + static_cast<ptrdiff_t>(commands), wait.end(),
                  [](const pollfd& each) { return each.revents != 0; }))
    next_look_ns_ = 0;
  if (wait[0].revents == 0) return 0;
  if (!out_.flush(link_.view())) return 1;
  if (auto read = onRequest(); !read) {
    if (read.error().code != Code::cancelled) warn(read.error());
    return 1;
  }
  return 0;
}

Status Supervisor::onRequest() {
  wire::LinkRequest request;
  auto got = base::receiveMessage(link_.view(), base::writableBytesOf(request));
  if (!got && got.error().code == Code::unavailable) return base::Unit{};
  if (!got || got->bytes == 0) return base::fail(Code::cancelled, "the daemon has ended");
  const wire::Checked checked = wire::check(request, got->bytes, got->fds);
  if (checked.fault != wire::Checked::Fault::none)
    return base::fail(Code::internal, std::string("a message of the daemon: ") + checked.what);
  switch (request.kind) {
    case wire::LinkRequest::Kind::restartFront:
    case wire::LinkRequest::Kind::restartVault: {
      const Program& owes = request.kind == wire::LinkRequest::Kind::restartFront ? front_ : vault_;
      if (owes.alive())
        ::syscall(SYS_pidfd_send_signal, owes.child.pidfd.get(), SIGKILL, nullptr, 0);
      break;
    }
    case wire::LinkRequest::Kind::reload:
      policy_sent_ = policy_seen_ = std::nullopt;
      next_look_ns_ = 0;
      break;
  }
  return base::Unit{};
}

void Supervisor::onNote() {
  wire::VaultNote note;
  auto got = base::receiveMessage(vault_.child.channel.view(), base::writableBytesOf(note));
  if (!got && got.error().code == Code::unavailable) return;
  const wire::Checked checked =
      got ? wire::check(note, got->bytes, got->fds) : wire::Checked{wire::Checked::Fault::language};
  if (checked.fault != wire::Checked::Fault::none) {
    // Its end, or a stranger in its place: onEnd() follows.
    vault_.child.channel.reset();
    ::syscall(SYS_pidfd_send_signal, vault_.child.pidfd.get(), SIGKILL, nullptr, 0);
    return;
  }
  switch (note.kind) {
    case wire::VaultNote::Kind::policyLoaded:
      secrets_.set(policy_secrets_);
      secrets_.look(base::monotonicNs());  // the vault has its files' secrets before it is asked
      if (!std::exchange(vault_told_, true))
        tell(wire::LinkEvent::Kind::vaultUp, {}, std::move(vault_link_), vault_.child.pid);
      return tell(wire::LinkEvent::Kind::policyLoaded);
    case wire::VaultNote::Kind::policyRefused:
      return tell(wire::LinkEvent::Kind::policyRefused,
                  base::printable(note.text, sizeof note.text));
    case wire::VaultNote::Kind::frontLost:
      return onFrontLost(note.link);
  }
}

void Supervisor::onEnd(Program& program) {
  if (!program.alive()) return;
  siginfo_t info{};
  if (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(program.child.pidfd.get()), &info,
               WEXITED | WNOHANG) != 0 ||
      info.si_pid == 0)
    return;
  const bool exited = info.si_code == CLD_EXITED;
  const std::string how =
      fmt::format("the {} {} {}", program.name, exited ? "exited with" : "was killed by signal",
                  info.si_status);
  say("error", how + "; it is started again");
  const uint64_t now_ns = base::monotonicNs();
  program.child = {};
  program.out = {};
  program.start_again_ns = now_ns + program.pause.afterDeath(now_ns - program.started_ns);
  const int status = exited ? info.si_status << 8 : info.si_status;
  if (&program == &front_) return tell(wire::LinkEvent::Kind::frontDown, how, {}, 0, status);
  vault_link_.reset();
  if (std::exchange(vault_told_, false)) tell(wire::LinkEvent::Kind::vaultDown, how, {}, 0, status);
}

// A program that is gone, or takes no message, ends: onEnd() starts it again.
void Supervisor::send(Program& program, const auto& message, Fd fd) {
  if (!program.alive()) return;
  if (auto sent = program.out.put(program.child.channel.view(), message, std::move(fd)); !sent)
    ::syscall(SYS_pidfd_send_signal, program.child.pidfd.get(), SIGKILL, nullptr, 0);
}

void Supervisor::tell(wire::LinkEvent::Kind kind, const std::string& text, Fd fd, uint32_t pid,
                      int status) {
  wire::LinkEvent event;
  event.kind = kind;
  event.pid = pid;
  event.status = status;
  put(event.text, text);
  if (!out_.put(link_.view(), event, std::move(fd))) ended_ = true;
}

}  // namespace mayfly::supervisor
