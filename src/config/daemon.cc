// Layer: config. See daemon.h.
#include "config/daemon.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/fd.h"
#include "base/text.h"
#include "config/listing.h"
#include "config/manifest.h"
#include "config/reader.h"

namespace mayfly::config {
namespace {

constexpr size_t kUnixPathBytesMax = 107;  // sun_path without its NUL

void readPath(Reader::Table& t, std::string_view key, std::string& out) {
  t.string(key, out);
  if (t.has(key) && (out.empty() || out[0] != '/')) t.complain(key, "must be an absolute path");
}

// Empty: not set.
void readOptionalPath(Reader::Table& t, std::string_view key, std::string& out) {
  t.string(key, out);
  if (!out.empty() && out[0] != '/') t.complain(key, "must be an absolute path, or empty");
}

}  // namespace

std::string Daemon::brokerDir() const { return state_dir + "/instances/" + instance + "/broker"; }

std::string Daemon::socketPath() const {
  return socket_path.empty() ? run_dir + "/" + instance + ".sock" : socket_path;
}

bool isInstanceName(std::string_view s) {
  return !s.empty() && s.size() <= 32 && s.front() != '-' &&
         s.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string_view::npos;
}

std::vector<std::string> defaultTemplateDirs(std::string_view executable_dir) {
  // <tree>/build/bin/mayflyd -> <tree>/templates; <prefix>/bin -> <prefix>/share/...
  std::vector<std::string> dirs;
  for (int up = 0; up < 2 && executable_dir.find_last_of('/') != std::string_view::npos; ++up) {
    executable_dir = executable_dir.substr(0, executable_dir.find_last_of('/'));
    if (up == 0) dirs.push_back(std::string(executable_dir) + "/share/mayfly/templates");
    if (up == 1) dirs.insert(dirs.begin(), std::string(executable_dir) + "/templates");
  }
  return dirs;
}

base::Result<Daemon> parseDaemon(std::string_view text, std::string_view file) {
  return parseDaemonListing(text, file, nullptr);
}

base::Result<Daemon> parseDaemonListing(std::string_view text, std::string_view file,
                                        std::vector<Setting>* asked) {
  Reader reader(text, file, asked);
  Daemon d;
  Reader::Table t = reader.root();
  t.string("instance", d.instance);
  if (!isInstanceName(d.instance))
    t.complain("instance", "must be lower-case letters, digits and '-', at most 32");
  readPath(t, "socket", d.socket_path);
  readPath(t, "state_dir", d.state_dir);
  readPath(t, "run_dir", d.run_dir);
  if (d.socketPath().size() > kUnixPathBytesMax) {
    t.complain("socket", fmt::format("is longer than {} bytes: '{}'", kUnixPathBytesMax,
                                     base::printable(d.socketPath())));
  }
  t.strings("template_dirs", 16, d.template_dirs);
  for (const std::string& dir : d.template_dirs) {
    if (dir.empty() || dir[0] != '/') t.complain("template_dirs", "must hold absolute paths");
  }
  t.strings("templates", 64, d.templates);
  for (const std::string& name : d.templates) {
    if (!isTemplateName(name))
      t.complain("templates",
                 fmt::format("holds '{}', which is no template name", base::printable(name, 60)));
  }
  t.count("boxes_max", 0, 10'000, d.boxes_max);
  t.count("ptys_max", 0, 1'000'000, d.ptys_max);
  t.count("queue_max", 0, 1'000'000, d.queue_max);
  t.count("parked_max", 0, 4'096, d.parked_max);
  t.count("stocked_max", 0, 4'096, d.stocked_max);
  t.quantity("parked_memory", 0, 1ull << 40, sizes(), d.parked_memory_bytes);
  t.ids("uids_allowed", 1'000, d.uids_allowed);
  t.ids("gids_allowed", 1'000, d.gids_allowed);
  t.count("connections_max", 1, 10'000, d.connections_max);
  constexpr uint64_t kDayMs = 86'400'000, kMiB = 1u << 20;
  t.count("tasks_max", 1, 1'000'000, d.tasks_max);
  t.count("detached_per_user_max", 0, 100'000, d.detached_per_user_max);
  t.quantity("detach_lease_max", 1'000, 30 * kDayMs, times(), d.detach_lease_ms_max);
  t.quantity("result_lease", 100, kDayMs, times(), d.result_lease_ms);
  t.quantity("connection_idle", 100, kDayMs, times(), d.connection_idle_ms);
  t.quantity("message_time", 100, 600'000, times(), d.message_ms_max);
  t.quantity("in_flight_max", 16 * kMiB, kMiB * kMiB, sizes(), d.in_flight_bytes_max);
  t.quantity("output_held_max", 16 * kMiB, kMiB * kMiB, sizes(), d.output_held_bytes_max);
  t.quantity("out_files_held_max", 16 * kMiB, kMiB * kMiB, sizes(), d.out_files_held_bytes_max);
  t.quantity("receipt_time", 10, 60'000, times(), d.receipt_ms_max);
  t.quantity("collect_time", 10, 600'000, times(), d.collect_ms_max);
  t.quantity("audit_time", 10, kDayMs, times(), d.audit_ms);
  t.quantity("blob_user_max", 1, 1ull << 40, sizes(), d.blob_user_bytes_max);
  t.quantity("blob_store_max", 1, 1ull << 40, sizes(), d.blob_store_bytes_max);
  t.quantity("blob_ttl", 100, 86'400'000, times(), d.blob_ttl_ms);
  t.quantity("upload_idle", 100, 3'600'000, times(), d.upload_idle_ms);
  readOptionalPath(t, "broker_policy", d.broker_policy);
  t.boolean("make_snapshots", d.make_snapshots);
  t.quantity("slow_task", 0, kDayMs, times(), d.slow_task_ms);
  Reader::Table http = t.table("http");
  http.string("listen", d.http.listen);
  readOptionalPath(http, "token_file", d.http.token_file);
  http.count("connections_max", 2, 4'096, d.http.connections_max);
  http.count("tenants_max", 0, 200, d.http.tenants_max);
  http.finish();
  t.strings("accept_lost_promises", 16, d.accept_lost_promises);
  for (const std::string& p : d.accept_lost_promises) {
    if (std::find(std::begin(kPromises), std::end(kPromises), p) != std::end(kPromises)) continue;
    t.complain("accept_lost_promises",
               fmt::format("holds '{}'; allowed are {}", base::printable(p, 60),
                           fmt::join(kPromises, ", ")));
  }
  t.string("log_level", d.log_level);
  static constexpr std::string_view levels[] = {"trace", "debug", "info", "warn", "error"};
  if (std::find(std::begin(levels), std::end(levels), d.log_level) == std::end(levels)) {
    t.complain("log_level", fmt::format("must be one of {}", fmt::join(levels, ", ")));
  }
  t.finish();
  if (reader.failed()) return tl::unexpected<base::Error>(reader.takeError());
  return d;
}

base::Result<Daemon> loadDaemon(const std::string& path) {
  MAYFLY_TRY(std::string text,
             base::readSmallFile(base::FdView(AT_FDCWD), path, kDaemonFileBytesMax));
  return parseDaemon(text, path);
}

}  // namespace mayfly::config
