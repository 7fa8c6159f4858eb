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

inline constexpr size_t kToolsTextBytesMax = 1u << 20;

// The client's functions as one line of JSON: made once, since a box may ask as often as it likes.
// A schema that is no JSON, or is nested too deep, is left out. An error: all together are too
// large.
base::Result<std::string> describeTools(std::string_view broker_url,
                                        const std::vector<ToolText>& tools);

// One JSON object. It names no upstream's credential, user or database. `tools`: from
// describeTools().
std::string describe(const SessionText& session, const std::vector<Grant>& grants,
                     std::string_view tools);

}  // namespace mayfly::broker
