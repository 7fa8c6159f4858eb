// The vault's few lines for people, on stderr. Never a secret, never text of a box that is not made
// printable.
//
// Layer: vault.
#pragma once

#include <string>
#include <string_view>

namespace mayfly::vault {

// Before the vault's walls are up: stderr gets a descriptor that never blocks.
void openLog();
// A line that does not fit is dropped.
void say(std::string_view level, const std::string& text);

}  // namespace mayfly::vault
