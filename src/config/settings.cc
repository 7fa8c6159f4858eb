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
    {"socket", "path of the daemon's socket; nothing: `<run_dir>/<instance>.sock`"},
    {"state_dir",
     "the folder of the images, which instances share, and of what each instance keeps"},
    {"run_dir", "the folder of locks and sockets"},
    {"template_dirs", "folders of templates; nothing: the templates that come with Mayfly"},
    {"templates", "the templates to serve; nothing: every one whose image is built"},
    {"boxes_max", "tasks that have a box at the same time; 0: as many as the host's limits allow"},
    {"ptys_max", "pseudo-terminals of all running tasks; 0: three quarters of the host's pool"},
    {"queue_max", "accepted tasks that wait for a box, in all and of one connection"},
    {"parked_max", "clones parked ahead, of all templates; 0: none"},
    {"stocked_max", "boxes made ahead of their clones, of all templates; 0: none"},
    {"parked_memory", "memory of all parked clones and stocked boxes together"},
    {"uids_allowed",
     "users that may connect, besides root: numbers, or names as the host knows them at the start"},
    {"gids_allowed",
     "groups whose members may connect: the same; a member's own uid stays its account"},
    {"connections_max", "connections of clients"},
    {"tasks_max", "unclosed tasks of all connections"},
    {"detached_per_user_max", "detached tasks of one user"},
    {"detach_lease_max", "the longest lease that a detached task may ask for"},
    {"result_lease", "how long the result of an ended task is kept if no client closes it"},
    {"connection_idle", "a connection without a message and without a task ends after this time"},
    {"message_time", "from a message's first byte to its last; a slower connection ends"},
    {"in_flight_max", "bytes of requests that are being read or answered, of all connections"},
    {"output_held_max", "output of unclosed tasks"},
    {"out_files_held_max",
     "output files of unclosed tasks; never more than an eighth of the host's memory"},
    {"receipt_time", "a receipt that takes longer counts as incomplete"},
    {"collect_time", "time to collect one task's output files"},
    {"broker_policy",
     "the policy of the broker (TOML): what tasks with grants may do outside; empty: no broker"},
    {"slow_task",
     "a task that takes longer, from its acceptance to its receipt, or to its result if that comes "
     "without one, gets a warning in the log with its phases; 0: none"},
    {"http.listen",
     "address and port of the HTTP server (metrics, dashboard), like `127.0.0.1:9464`; empty: "
     "no server"},
    {"http.token_file",
     "the token that HTTP clients must show, in a file that only root may read; needed beyond "
     "loopback"},
    {"http.connections_max", "connections of HTTP clients; one host may have half of them"},
    {"http.tenants_max", "the busiest tenants, which have figures of their own in the metrics"},
    {"audit_time", "between two checks for stray cgroups, processes and mounts"},
    {"blob_user_max", "blobs and uploads of one user; also one blob"},
    {"blob_store_max", "blobs of all users; never more than an eighth of the host's memory"},
    {"blob_ttl", "how long a blob lives after its last use"},
    {"upload_idle", "how long an upload lives after its last write"},
    {"make_snapshots",
     "make missing or damaged snapshots at the start (mechanism `restore`); false: their templates "
     "are refused"},
    {"accept_lost_promises",
     "promises that the host may fail to keep: `isolation`, `caps`, `secrets`, `ephemeral`, "
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
  // The shortest valid manifest; none of these keys has a default.
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
