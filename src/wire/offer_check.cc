// Layer: wire. See offer_check.h.
#include "wire/offer_check.h"

#include "base/result.h"

namespace mayfly::wire {

const char* faultOf(Offer& offer, size_t bytes, size_t fds) {
  if (bytes != sizeof offer) return "an offer of another size: both programs must be of one build";
  if (offer.magic != kOfferMagic || offer.version != kOfferVersion)
    return "an offer of another version: both programs must be of one build";
  if (fds != 1) return "an offer without the snapshot's folder";
  offer.template_name[sizeof offer.template_name - 1] = '\0';
  offer.key[sizeof offer.key - 1] = '\0';
  if (offer.template_name[0] == '\0' || offer.key[0] == '\0') return "an offer without a name";
  return nullptr;
}

const char* faultOf(OfferAnswer& answer, size_t bytes, size_t fds) {
  if (bytes != sizeof answer) return "an answer of another size";
  if (answer.magic != kOfferMagic || answer.version != kOfferVersion)
    return "an answer of another version";
  if (fds != 0) return "an answer with descriptors";
  if (answer.code < 0 || answer.code > static_cast<int32_t>(base::Code::internal))
    return "an answer with an unknown code";
  answer.text[sizeof answer.text - 1] = '\0';
  answer.advice[sizeof answer.advice - 1] = '\0';
  return nullptr;
}

}  // namespace mayfly::wire
