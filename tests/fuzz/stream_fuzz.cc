// libFuzzer on the broker's readers of streams: the name in a TLS greeting, and secrets in answers.
// The first byte says which, the second the size of the pieces in which the rest arrives.
//
// Finds: a sanitizer's finding; an outcome that depends on the pieces; a name that is no host's; a
// secret that passes.
#include <stdlib.h>

#include <memory>
#include <string>
#include <string_view>

#include "broker/scrub.h"
#include "broker/sni.h"
#include "config/policy_text.h"

namespace {

using namespace mayfly::broker;

void require(bool truth) {
  if (!truth) abort();
}

void greeting(std::string_view bytes, size_t piece) {
  HelloReader whole, pieces;
  whole.feed(bytes);
  for (size_t at = 0; at < bytes.size(); at += piece) pieces.feed(bytes.substr(at, piece));
  require(whole.state() == pieces.state() && whole.name() == pieces.name());
  require(whole.encrypted() == pieces.encrypted());
  if (whole.state() == HelloReader::State::done)
    require(mayfly::config::isHost(whole.name()) && !mayfly::config::parseAddress(whole.name()));
}

void secrets(std::string_view bytes, size_t piece) {
  if (bytes.empty()) return;
  const size_t length = std::min<size_t>(static_cast<unsigned char>(bytes[0]), bytes.size() - 1);
  const std::string_view secret = bytes.substr(1, length), text = bytes.substr(1 + length);
  const std::string_view all[] = {secret};
  const auto patterns = std::make_shared<const ScrubPatterns>(all);
  Scrubber scrubber(patterns);
  std::string out;
  for (size_t at = 0; at < text.size(); at += piece) {
    out += scrubber.write(text.substr(at, piece));
    require(scrubber.heldBytes() <= patterns->longest());
  }
  out += scrubber.finish();
  require(out.size() == text.size() && out == scrubbed(patterns, text));
  for (size_t i = 0; i < text.size(); ++i) require(out[i] == text[i] || out[i] == '*');
  if (secret.size() >= kScrubSecretBytesMin && secret.find('*') == secret.npos)
    require(out.find(secret) == std::string::npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  const size_t piece = 1 + data[1];
  if (data[0] % 2 == 0)
    greeting(bytes, piece);
  else
    secrets(bytes, piece);
  return 0;
}
