// Checks the messages about new snapshots (wire/offer.h).
//
// Layer: wire. Pure.
#pragma once

#include <cstddef>

#include "wire/offer.h"

namespace mayfly::wire {

// Null, or what is wrong with a message of this size and number of descriptors. Also terminates its
// texts within their fields.
const char* faultOf(Offer& offer, size_t bytes, size_t fds);
const char* faultOf(OfferAnswer& answer, size_t bytes, size_t fds);

}  // namespace mayfly::wire
