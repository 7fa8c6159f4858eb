// mayfly-broker: the broker's three processes, each a verb. mayflyd starts `supervise`, and that
// starts the others.
//
// Layer: brokerd. Wiring only.
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <climits>
#include <string>

#include "front/front.h"
#include "supervisor/supervisor.h"
#include "vault/vault.h"
#include "walls/child_room.h"

namespace {

using namespace mayfly;

constexpr int kChannel = 3;  // the starter's; what it passes with it follows

bool isSocket(int fd) {
  struct stat st;
  return ::fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

int failed(const char* verb, const base::Error& error) {
  fprintf(stderr, "mayfly-broker %s: error: %s%s%s\n", verb, error.message.c_str(),
          error.advice.empty() ? "" : "; ", error.advice.c_str());
  return 1;
}

std::string thisProgram() {
  char path[PATH_MAX];
  const ssize_t n = ::readlink("/proc/self/exe", path, sizeof path - 1);
  return std::string(path, n > 0 ? static_cast<size_t>(n) : 0);
}

int supervise(supervisor::Options options) {
  ::umask(022);
  options.executable = thisProgram();
  auto started = supervisor::Supervisor::start(base::Fd(kChannel), std::move(options));
  return started ? (*started)->run() : failed("supervise", started.error());
}

// The front has no file, and a network of its own in which there is nothing.
int serveFront(uint32_t uid) {
  ::signal(SIGPIPE, SIG_IGN);
  for (int signal : {SIGHUP, SIGINT, SIGUSR1, SIGUSR2}) ::signal(signal, SIG_IGN);
  auto entered = walls::enterChildRoom({uid, CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS, {}});
  if (!entered) return failed("front", entered.error());
  return front::runFront(base::Fd(kChannel), base::Fd(kChannel + 1), base::FdView(STDERR_FILENO));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App cli{"mayfly-broker: does for tasks what they may not do themselves; mayflyd starts it"};
  cli.require_subcommand(1);

  supervisor::Options options;
  CLI::App* supervise_verb = cli.add_subcommand("supervise", "starts vault and front");
  supervise_verb->add_option("--policy", options.policy_path, "the policy (TOML)")->required();
  supervise_verb->add_option("--state", options.state_dir, "the broker's folder")->required();
  supervise_verb->add_option("--vault-uid", options.vault_uid, "the vault's own uid")->required();
  supervise_verb->add_option("--front-uid", options.front_uid, "the front's own uid")->required();
  supervise_verb->add_option("--command-uid", options.sources.command_uid,
                             "the uid of commands that print secrets");
  supervise_verb->add_option("--operator-uid", options.sources.operator_uid,
                             "whose secret files are read, beside root's");
  supervise_verb->add_option("--credentials", options.sources.credentials_dir,
                             "systemd's folder of credentials");
  supervise_verb->add_option("--audit-bytes", options.audit_bytes_max,
                             "the size at which the audit file is rotated");
  supervise_verb->add_option("--audit-files", options.audit_files_max, "rotated files that stay");

  vault::RoomOptions room;
  CLI::App* vault_verb = cli.add_subcommand("vault", "started by `supervise`");
  vault_verb->add_option("--uid", room.uid)->required();
  vault_verb->add_option("--state", room.state_dir)->required();

  uint32_t front_uid = 0;
  CLI::App* front_verb = cli.add_subcommand("front", "started by `supervise`");
  front_verb->add_option("--uid", front_uid)->required();
  CLI11_PARSE(cli, argc, argv);

  if (!isSocket(kChannel)) {
    fprintf(stderr,
            "mayfly-broker: descriptor 3 is not a socket: mayflyd starts this program, not "
            "people\n");
    return 2;
  }
  if (*supervise_verb) return supervise(std::move(options));
  if (*vault_verb)
    return vault::runVault(base::Fd(kChannel), base::Fd(kChannel + 1), base::Fd(kChannel + 2),
                           room);
  return serveFront(front_uid);
}
