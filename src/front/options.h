// Every bound of the front.
//
// Layer: front. Pure.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace mayfly::front {

struct Options {
  using Time = std::chrono::milliseconds;

  // One request.
  size_t head_bytes_max = 32u << 10;  // request line and headers
  uint32_t headers_max = 100;
  size_t target_bytes_max = 8u << 10;
  size_t json_bytes_max = 1u << 20;  // a body of /sql, /tools or /mint

  // Connections. A door may hold more than the guaranteed ones only while those of all other doors
  // stay free.
  uint32_t connections_max = 16'000;    // of all doors; fewer if the process may open fewer files
  uint32_t connections_guaranteed = 4;  // of each door
  uint32_t calls_per_door_max = 64;     // requests under way; more wait
  size_t buffer_bytes_per_door_max = 8u << 20;  // beyond 4 KiB of each connection
  uint32_t starts_per_turn_max = 16;            // requests begun before doors take turns

  // Times.
  Time head_time{10'000};     // from a request's first byte to its last header
  Time idle_time{60'000};     // between two requests
  Time stall_time{20'000};    // a body that brings nothing
  Time body_time{30'000};     // all waits for one body, and a second for each KiB that came
  Time write_time{60'000};    // the reader takes nothing
  Time turn_time{30'000};     // a request that waits for the others of its door
  Time tunnel_time{300'000};  // a tunnel in which neither side says anything
  Time linger_time{1'000};    // for the peer to read the last words
  Time vault_time{
      30'000};           // without a link to a vault; then the front ends, and another is started
  Time sweep_time{250};  // between two looks at these
};

inline constexpr size_t kBodyBytesPerSecondMin = 1u << 10;
inline constexpr size_t kWriteBytesMax = 64u << 10;    // of an answer, within one write_time
inline constexpr size_t kUnsentBytesMax = 2u << 20;    // of an answer; a vault that ignores this is
                                                       // broken
inline constexpr size_t kFirstBufferBytes = 4u << 10;  // of each connection
inline constexpr size_t kAnswerHeadBytesMax = 64u << 10;
inline constexpr uint32_t kAcceptsPerTurnMax = 8;
// Of a connection's answer, in the kernel: it counts for the host's memory, not for the box's.
inline constexpr int kSendBufferBytes = 128 << 10;

}  // namespace mayfly::front
