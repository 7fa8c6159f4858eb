// One session's life as a state machine: events in, actions out.
//
//   at the vault:  opening -> open -> activating -> active -> revoking -> revoked
//                     ^                                |
//                     +------------- away <------------+    (the vault died)
//   at the front:  shut -> open -> closing -> shut
//
// The door is open at the front only while the session is active at the vault, so that no call
// comes too early; connections wait in the sockets' backlog meanwhile. The death of front or vault
// ends no session: it is opened again at the next one. A confirmation that does not come in time
// has the process restarted that owes it: its death is a confirmation, too.
//
// Layer: sched. Pure: time is an argument. Core thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sched/broker.h"

namespace mayfly::sched {

enum class SessionAct : uint8_t {
  open,          // ask the vault; with the next epoch
  activate,      // tell the vault that the task has its box
  revoke,        // ask the vault to end every grant
  openDoor,      // hand the sockets to the front
  closeDoor,     // ask the front to close them
  dropDoors,     // close our own copies
  restartFront,  // it owes an answer
  restartVault,
  tellLeft,   // no socket of the box is open any more
  tellEnded,  // the same, and it is revoked
};
std::string_view name(SessionAct act);

class SessionMachine {
 public:
  struct Bounds {
    uint64_t revoke_ns = 1'000'000'000;  // for the vault's answer
    uint64_t close_ns = 1'000'000'000;   // for the front's
  };
  enum class AtVault : uint8_t {
    opening,
    open,
    activating,
    active,
    revoking,
    revoked,
    away,
    refused
  };
  enum class AtFront : uint8_t { shut, open, closing };
  using Acts = std::vector<SessionAct>;

  // Asked for at a living vault.
  SessionMachine(Bounds bounds, bool front_up) : bounds_(bounds), front_up_(front_up) {}

  AtVault atVault() const { return vault_; }
  AtFront atFront() const { return front_; }
  bool ended() const { return ended_; }
  uint64_t deadline_ns() const;  // when to call tick(); 0: never
  // For tellLeft and tellEnded.
  SessionEnd end() const { return end_; }

  // --- the task ---
  Acts begin();                 // it has a box with doors
  Acts leave(uint64_t now_ns);  // the box is lost, and the task has not started
  Acts end(uint64_t now_ns);    // idempotent
  // --- the vault ---
  Acts opened(uint64_t now_ns);
  Acts refused(uint64_t now_ns);  // open or activate failed
  Acts activated();
  Acts revoked(uint64_t now_ns);
  Acts vaultLost(uint64_t now_ns);
  Acts vaultBack();
  // --- the front ---
  Acts doorClosed(uint64_t now_ns);
  Acts frontLost(uint64_t now_ns);  // it ended: every descriptor that it held is closed
  Acts frontBack();

  Acts tick(uint64_t now_ns);

 private:
  void openDoorIfDue(Acts& acts);
  void shut(Acts& acts, uint64_t now_ns);
  void closeDoor(Acts& acts, uint64_t now_ns);
  void settle(Acts& acts, uint64_t now_ns);
  void note(std::string_view text);

  Bounds bounds_;
  AtVault vault_ = AtVault::opening;
  AtFront front_ = AtFront::shut;
  bool front_up_;
  bool has_box_ = false;  // doors of ours are open
  bool leaving_ = false;  // tellLeft is due
  bool ended_ = false;
  bool told_ = false;  // tellEnded
  uint64_t revoke_due_ns_ = 0, close_due_ns_ = 0;
  SessionEnd end_;
};

}  // namespace mayfly::sched
