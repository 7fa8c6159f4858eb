// What a task has, for people and models: the answer to `GET /` of the broker.
//
// Layer: broker. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "broker/narrow.h"

namespace mayfly::broker {

struct ToolText {
  std::string name, description, schema_json;
};

struct SessionText {
  uint64_t task = 0;
  uint64_t expires_ms = 0;  // from now
  std::string_view broker_url;
};

// One JSON object. It names no upstream's credential, user or database.
std::string describe(const SessionText& session, const std::vector<Grant>& grants,
                     const std::vector<ToolText>& tools);

}  // namespace mayfly::broker
