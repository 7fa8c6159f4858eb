// The fixed-size messages of the broker's processes, each over a SOCK_SEQPACKET pair:
//   mayflyd <-> front        doors: DoorRequest, DoorEvent
//   mayflyd <-> supervisor   new links after a start: LinkEvent; a restart: LinkRequest
//   supervisor -> front      the link to the vault: FrontMessage
//   supervisor <-> vault     the policy, the secrets and other descriptors: SecretMessage,
//   VaultNote
// Both ends are built together. wire/check.h checks each message; one of a wrong size, magic, kind
// or number of descriptors ends the connection.
//
// Layer: wire. Pure.
#pragma once

#include <cstdint>
#include <type_traits>

namespace mayfly::wire {

inline constexpr uint32_t kBrokerMagic = 0x4d464252;  // "MFBR"
inline constexpr uint16_t kBrokerVersion = 1;
inline constexpr uint16_t kDoorPort = 80;  // below 1024: no task can bind it itself
inline constexpr const char* kDoorPath = "/run/broker.sock";

struct DoorRequest {
  enum class Kind : uint16_t { open = 1, close = 2 };
  uint32_t magic = kBrokerMagic;
  uint16_t version = kBrokerVersion;
  Kind kind{};           // open: with two descriptors, the unix and the TCP listening socket
  uint64_t session = 0;  // the vault's number; never 0
  uint32_t connections_max = 0;  // open: of this door, at a time; 1 to 1,000
  uint32_t padding = 0;
};

// `closed`: no connection and no listening socket of the door is open in the front any more. Also
// the answer to a `close` of an unknown session.
struct DoorEvent {
  enum class Kind : uint16_t { closed = 1 };
  uint32_t magic = kBrokerMagic;
  uint16_t version = kBrokerVersion;
  Kind kind{};
  uint64_t session = 0;
  uint64_t accepted = 0;  // connections in the door's life
  uint64_t refused = 0;   // requests that the front itself refused
};

struct LinkEvent {
  enum class Kind : uint16_t {
    frontUp = 1,    // with one descriptor: mayflyd's end of the DoorRequest link
    frontDown = 2,  // it ended; every descriptor it held is closed
    vaultUp = 3,    // with one descriptor: mayflyd's end of the Cap'n Proto link (SOCK_STREAM). The
                    // vault has a policy
    vaultDown = 4,
    policyLoaded = 5,   // the vault has taken a changed policy
    policyRefused = 6,  // `text`: file, line, key and reason; the old one stays in force
  };
  uint32_t magic = kBrokerMagic;
  uint16_t version = kBrokerVersion;
  Kind kind{};
  uint32_t pid = 0;     // *Up: for logs
  int32_t status = 0;   // *Down: the wait status
  char text[496] = {};  // for people
};

struct LinkRequest {
  enum class Kind : uint16_t {
    restartFront = 1,  // it owes a confirmation: its death is one
    reload = 2,
    restartVault = 3,
  };
  uint32_t magic = kBrokerMagic;
  uint16_t version = kBrokerVersion;
  Kind kind{};
};

// supervisor -> front: its end of a new Calls link (SOCK_STREAM) to the vault. The link before it,
// if there was one, has ended.
struct FrontMessage {
  enum class Kind : uint16_t { vault = 1 };
  uint32_t magic = kBrokerMagic;
  uint16_t version = kBrokerVersion;
  Kind kind{};
};

// supervisor -> vault. The vault reads the descriptor of a policy or secret to its end (bounded)
// and closes it.
struct SecretMessage {
  enum class Kind : uint16_t {
    policy = 1,  // the policy's text; the first message
    secret = 2,  // one secret's bytes: a file, or the pipe of a command
    failed = 3,  // no descriptor: the source cannot be read; `text` says why. An old value stays
    audit = 4,   // the file of the audit lines from now on
    front = 5,   // the vault's end of a new Calls link
  };
  uint32_t magic = kBrokerMagic;
  uint16_t version = kBrokerVersion;
  Kind kind{};
  uint64_t link = 0;    // front: the link's number
  char name[64] = {};   // secret, failed
  char text[432] = {};  // failed: for people
};

// vault -> supervisor.
struct VaultNote {
  enum class Kind : uint16_t {
    policyLoaded = 1,
    policyRefused = 2,  // `text`: file, line, key and reason; the old one stays in force
    frontLost = 3,      // the Calls link `link` has ended
  };
  uint32_t magic = kBrokerMagic;
  uint16_t version = kBrokerVersion;
  Kind kind{};
  uint64_t link = 0;
  char text[496] = {};  // for people
};

static_assert(std::is_trivially_copyable_v<DoorRequest> && sizeof(DoorRequest) == 24);
static_assert(std::is_trivially_copyable_v<DoorEvent> && sizeof(DoorEvent) == 32);
static_assert(std::is_trivially_copyable_v<LinkEvent> && sizeof(LinkEvent) == 512);
static_assert(std::is_trivially_copyable_v<LinkRequest> && sizeof(LinkRequest) == 8);
static_assert(std::is_trivially_copyable_v<FrontMessage> && sizeof(FrontMessage) == 8);
static_assert(std::is_trivially_copyable_v<SecretMessage> && sizeof(SecretMessage) == 512);
static_assert(std::is_trivially_copyable_v<VaultNote> && sizeof(VaultNote) == 512);

}  // namespace mayfly::wire
