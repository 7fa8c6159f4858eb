// Checks the broker's fixed-size messages (wire/front.h).
//
// Layer: wire. Pure.
#pragma once

#include <cstddef>

#include "wire/check.h"
#include "wire/front.h"

namespace mayfly::wire {

// `bytes` and `fds`: the received size and number of descriptors. Each also terminates the
// message's texts within their fields. Every fault is one of language: the connection ends.
Checked check(LinkEvent& event, size_t bytes, size_t fds);
Checked check(const LinkRequest& request, size_t bytes, size_t fds);
Checked check(const FrontMessage& message, size_t bytes, size_t fds);
Checked check(SecretMessage& message, size_t bytes, size_t fds);
Checked check(VaultNote& note, size_t bytes, size_t fds);

}  // namespace mayfly::wire
