// Layer: config. See settings.h.
#include "config/settings.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/listing.h"

namespace mayfly::config {
namespace {

struct Meaning {
  std::string_view key, text;
};
constexpr Meaning kMeanings[] = {
    {"instance", "the daemon's name in cgroups and in `run_dir`; `[a-z0-9][a-z0-9-]{0,31}`"},
    {"socket", "path of its socket; nothing: `<run_dir>/<instance>.sock`"},
    {"state_dir", "the images; instances share it"},
    {"run_dir", "locks and sockets"},
    {"template_dirs", "where templates are looked for; nothing: those that come with Mayfly"},
    {"templates", "the templates to serve; nothing: every one whose image is built"},
    {"boxes_max", "tasks that have a box at a time; 0: as many as the host's limits hold"},
    {"ptys_max", "pseudo-terminals of all running tasks; 0: three quarters of the host's pool"},
    {"queue_max", "accepted tasks that wait for a box; also of one connection"},
    {"parked_max", "clones parked ahead, of all templates; 0: none"},
    {"stocked_max", "boxes made ahead of their clones, of all templates; 0: none"},
    {"parked_memory", "what parked clones and stocked boxes may hold together"},
    {"uids_allowed", "users that may connect, besides root and the daemon's own"},
    {"connections_max", "connections of clients"},
    {"tasks_max", "tasks that are not closed, of all connections"},
    {"detached_per_user_max", "detached tasks of one user"},
    {"detach_lease_max", "the longest lease that a detached task may ask for"},
    {"result_lease", "how long the result of an ended task is kept that nobody closes"},
    {"connection_idle", "a connection without a message and without a task ends after it"},
    {"message_time", "from a message's first byte to its last; the connection ends after it"},
    {"in_flight_max", "bytes of requests that are being read or answered, over all connections"},
    {"output_held_max", "output of tasks that are not closed"},
    {"out_files_held_max", "their output files; never more than an eighth of the host's memory"},
    {"receipt_time", "a receipt that takes longer is incomplete"},
    {"collect_time", "collecting one task's output files"},
    {"audit_time",
     "between two looks at cgroups, processes and mounts for what should not be there"},
    {"blob_user_max", "blobs and uploads of one user, and one blob"},
    {"blob_store_max", "blobs of all users; never more than an eighth of the host's memory"},
    {"blob_ttl", "a blob lives so long since its last use"},
    {"upload_idle", "an upload lives so long since its last write"},
    {"accept_lost_promises",
     "promises that the host need not keep: `isolation`, `caps`, `secrets`, `ephemeral`, "
     "`same-start`, `landlock`"},
    {"log_level", "`trace`, `debug`, `info`, `warn` or `error`"},
};

std::string row(const Setting& s, std::string_view about) {
  auto code = [](const std::string& text) { return text.empty() ? text : "`" + text + "`"; };
  return fmt::format("| `{}` | {} | {} | {} |{}\n", s.key, s.type, s.allowed, code(s.preset),
                     about.empty() ? std::string() : fmt::format(" {} |", about));
}

}  // namespace

std::string_view meaning(std::string_view daemon_key) {
  auto at = std::find_if(std::begin(kMeanings), std::end(kMeanings),
                         [&](const Meaning& m) { return m.key == daemon_key; });
  return at != std::end(kMeanings) ? at->text : std::string_view();
}

std::vector<Setting> daemonSettings() {
  std::vector<Setting> asked;
  (void)parseDaemonListing("", "defaults", &asked);
  return asked;
}

std::vector<Setting> manifestSettings() {
  // As short as a manifest can be; none of these has a default.
  constexpr std::string_view kLeast =
      "name = 'x'\ndescription = 'x'\nmechanism = 'exec'\n[image]\n[zygote]\nargv = ['/x']\n";
  std::vector<Setting> asked;
  (void)parseManifestListing(kLeast, "defaults", &asked);
  return asked;
}

std::string settingsTables() {
  std::string out = "| key | type | allowed | default | meaning |\n|---|---|---|---|---|\n";
  for (const Setting& s : daemonSettings()) out += row(s, meaning(s.key));
  out += "\n| key | type | allowed | default |\n|---|---|---|---|\n";
  for (const Setting& s : manifestSettings()) out += row(s, {});
  return out;
}

}  // namespace mayfly::config
