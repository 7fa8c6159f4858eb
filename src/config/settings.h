// Every key of the daemon's file and of a manifest, as the parsers ask for them:
// docs/settings.md is made of these.
//
// Layer: config. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mayfly::config {

// A key that a parser asks for, and what may stand there.
struct Setting {
  std::string key;      // with its tables: "image.suite"
  std::string type;     // "string", "strings", "table", "boolean", "count", "size", "time", "cores"
  std::string allowed;  // "0 to 4096"; empty: see the meaning
  std::string preset;   // where the file does not say it; empty: nothing
};

std::vector<Setting> daemonSettings();
std::vector<Setting> manifestSettings();
// Of a daemon's key; empty: of none.
std::string_view meaning(std::string_view daemon_key);

// The two tables of docs/settings.md.
std::string settingsTables();

}  // namespace mayfly::config
