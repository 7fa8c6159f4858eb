// The broker's supervisor: starts vault and front, each behind walls of its own, and starts again
// what died; opens secret files and runs secret commands for the vault.
//
// It is root with the few capabilities that this takes. It reads nothing that a box or a client
// wrote, and of a secret never a byte: descriptors only pass through.
//
// Layer: supervisor. Single-threaded; waits for nothing but its next event.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "supervisor/audit_file.h"
#include "supervisor/outbox.h"
#include "supervisor/pause.h"
#include "supervisor/secret_watch.h"
#include "walls/program.h"
#include "wire/front.h"

namespace mayfly::supervisor {

inline constexpr size_t kHostFilesCopied = 6;  // into the vault's /etc

struct Options {
  std::string executable;  // this program: its verbs `vault` and `front` are started
  std::string policy_path;
  std::string state_dir;  // the broker's own, root's: journal, audit lines, the vault's /etc
  uint32_t vault_uid = 0, front_uid = 0;
  SourceRules sources;
  uint64_t audit_bytes_max = 64u << 20;
  uint32_t audit_files_max = 8;
};

class Supervisor {
 public:
  // As root. `link`: mayflyd's, of LinkEvent and LinkRequest; its end is ours.
  static base::Result<std::unique_ptr<Supervisor>> start(base::Fd link, Options options);
  int run();  // the exit code

 private:
  struct Program {
    const char* name;
    walls::Child child;
    Outbox out;
    uint64_t started_ns = 0, start_again_ns = 0;
    Pause pause;
    bool alive() const { return static_cast<bool>(child.pidfd); }
  };

  Supervisor(base::Fd link, Options options);
  base::Status prepare();
  base::Status loadPolicy();  // sends it, if it has changed
  base::Status startVault();
  base::Status startFront();
  void linkFront();  // a new link between front and vault
  void onFrontLost(uint64_t link);
  void startDue(uint64_t now_ns);
  void look(uint64_t now_ns);
  void copyHostFiles();
  void onEnd(Program& program);
  void onNote();
  base::Status onRequest();
  void send(Program& program, const auto& message, base::Fd fd = {});
  void tell(wire::LinkEvent::Kind kind, const std::string& text = {}, base::Fd fd = {},
            uint32_t pid = 0, int status = 0);
  void tellSecret(const std::string& name, base::Result<base::Fd> value);
  int awaitEvent(uint64_t now_ns);
  void killAll();

  base::Fd link_;
  Options options_;
  Outbox out_;
  base::Fd state_;
  std::unique_ptr<AuditFile> audit_;
  Program vault_{"vault", {}, {}, 0, 0, {}}, front_{"front", {}, {}, 0, 0, {}};
  SecretWatch secrets_;
  base::Fd vault_link_;      // mayflyd's end, until the vault has a policy
  bool vault_told_ = false;  // that it is up
  // The link between front and vault. It may break though both live.
  uint64_t front_link_ = 0, linked_ns_ = 0;
  uint64_t link_again_ns_ = 0;  // when a broken one is made anew; 0: it is whole
  Pause link_pause_;
  std::optional<Stamp> policy_sent_, policy_seen_;
  std::string policy_failure_;
  std::vector<config::SecretSource> policy_secrets_;  // of the policy that the vault checks now
  std::array<std::optional<Stamp>, kHostFilesCopied> copied_;
  uint64_t next_look_ns_ = 0;
  bool ended_ = false;
};

}  // namespace mayfly::supervisor
