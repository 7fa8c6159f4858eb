// The vault: holds the secrets, decides, and does what a task may do.
//
//   mayflyd    -- broker.capnp (Vault) -->  vault  --> upstreams, databases
//   front      -- broker.capnp (Calls) -->  vault
//   supervisor -- SecretMessage -->         vault
//
// Layer: vault. One thread: Asio, and KJ as its guest; the journal and the names have threads of
// their own.
#pragma once

#include "base/fd.h"
#include "vault/room.h"

namespace mayfly::vault {

// The program `mayfly-broker vault`, started by the supervisor as root. `supervisor`: the link of
// SecretMessage; `daemon`: mayflyd's Cap'n Proto link; `audit`: a file. Returns the exit code.
int runVault(base::Fd supervisor, base::Fd daemon, base::Fd audit, const RoomOptions& options);

}  // namespace mayfly::vault
