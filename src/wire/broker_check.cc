#include "wire/broker_check.h"

namespace mayfly::wire {

namespace {

constexpr Checked kSoundMessage{};

Checked language(const char* what) { return {Checked::Fault::language, what}; }

// `fds_of` returns how many descriptors a message of the kind has; negative: no such kind.
template <class Message, class FdsOf>
Checked frame(const Message& message, size_t bytes, size_t fds, FdsOf fds_of) {
  if (bytes != sizeof message) return language("its size is wrong");
  if (message.magic != kBrokerMagic || message.version != kBrokerVersion)
    return language("it is of another protocol or version");
  const int expected = fds_of(message.kind);
  if (expected < 0) return language("its kind is unknown");
  if (fds != static_cast<size_t>(expected)) return language("its descriptors are not as expected");
  return kSoundMessage;
}

template <size_t N>
void terminate(char (&text)[N]) {
  text[N - 1] = '\0';
}

}  // namespace

Checked check(LinkEvent& event, size_t bytes, size_t fds) {
  using enum LinkEvent::Kind;
  terminate(event.text);
  return frame(event, bytes, fds, [](LinkEvent::Kind kind) {
    switch (kind) {
      case frontUp:
      case vaultUp:
        return 1;
      case frontDown:
      case vaultDown:
      case policyLoaded:
      case policyRefused:
        return 0;
    }
    return -1;
  });
}

Checked check(const LinkRequest& request, size_t bytes, size_t fds) {
  return frame(request, bytes, fds, [](LinkRequest::Kind kind) {
    switch (kind) {
      case LinkRequest::Kind::restartFront:
      case LinkRequest::Kind::reload:
      case LinkRequest::Kind::restartVault:
        return 0;
    }
    return -1;
  });
}

Checked check(const FrontMessage& message, size_t bytes, size_t fds) {
  return frame(message, bytes, fds,
               [](FrontMessage::Kind kind) { return kind == FrontMessage::Kind::vault ? 1 : -1; });
}

Checked check(SecretMessage& message, size_t bytes, size_t fds) {
  using enum SecretMessage::Kind;
  terminate(message.name);
  terminate(message.text);
  return frame(message, bytes, fds, [](SecretMessage::Kind kind) {
    switch (kind) {
      case policy:
      case secret:
      case audit:
      case front:
        return 1;
      case failed:
        return 0;
    }
    return -1;
  });
}

Checked check(VaultNote& note, size_t bytes, size_t fds) {
  using enum VaultNote::Kind;
  terminate(note.text);
  return frame(note, bytes, fds, [](VaultNote::Kind kind) {
    switch (kind) {
      case policyLoaded:
      case policyRefused:
      case frontLost:
        return 0;
    }
    return -1;
  });
}

}  // namespace mayfly::wire
