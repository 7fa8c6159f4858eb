// Every key of the daemon's file and of a manifest, as the parsers read them: the source of
// docs/settings.md.
//
// Layer: config. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mayfly::config {

// A key that a parser reads, with its allowed values.
struct Setting {
  std::string key;      // with its tables: "image.suite"
  std::string type;     // "string", "strings", "table", "boolean", "count", "size", "time", "cores"
  std::string allowed;  // "0 to 4096"; empty: see the meaning
  std::string preset;   // the default; empty: none
};

std::vector<Setting> daemonSettings();
std::vector<Setting> manifestSettings();
// The meaning of a daemon's key; empty: not a key.
std::string_view meaning(std::string_view daemon_key);

// The two tables of docs/settings.md.
std::string settingsTables();

}  // namespace mayfly::config
