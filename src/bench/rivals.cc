#include "bench/rivals.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

namespace mayfly::bench {

using OciJson = nlohmann::ordered_json;

namespace {
constexpr const char* kPath = "/usr/sbin:/usr/bin:/sbin:/bin";
}  // namespace

std::vector<std::string> bwrapCommand(const std::string& root,
                                      const std::vector<std::string>& command) {
  std::vector<std::string> out = {
      "bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", root, "/", "--proc", "/proc",
      "--dev", "/dev",          "--tmpfs",           "/tmp"};
  // As Mayfly's tasks, it gets nothing of the caller's environment.
  out.insert(out.end(), {"--clearenv", "--setenv", "PATH", kPath});
  out.insert(out.end(), command.begin(), command.end());
  return out;
}

std::string ociConfig(const std::string& root, const std::vector<std::string>& command) {
  OciJson mounts =
      OciJson::array({{{"destination", "/proc"}, {"type", "proc"}, {"source", "proc"}},
                      {{"destination", "/tmp"}, {"type", "tmpfs"}, {"source", "tmpfs"}},
                      {{"destination", "/dev"},
                       {"type", "tmpfs"},
                       {"source", "tmpfs"},
                       {"options", {"nosuid", "mode=755", "size=65536k"}}}});
  OciJson spaces = OciJson::array();
  for (const char* type : {"pid", "network", "ipc", "uts", "mount"})
    spaces.push_back({{"type", type}});
  OciJson config = {{"ociVersion", "1.0.2"},
                    {"process",
                     {{"terminal", false},
                      {"user", {{"uid", 0}, {"gid", 0}}},
                      {"args", command},
                      {"env", OciJson::array({std::string("PATH=") + kPath})},
                      {"cwd", "/"},
                      {"noNewPrivileges", true}}},
                    {"root", {{"path", root}, {"readonly", true}}},
                    {"hostname", "box"},
                    {"mounts", mounts},
                    {"linux", {{"namespaces", spaces}}}};
  return config.dump(1) + "\n";
}

std::vector<std::string> runcCommand(const std::string& bundle, const std::string& state,
                                     const std::string& id) {
  return {"runc", "--root", state, "run", "--bundle", bundle, id};
}

std::vector<std::string> runscCommand(const std::string& bundle, const std::string& state,
                                      const std::string& id) {
  return {"runsc",    "--root", state, "--network=none", "--ignore-cgroups", "run",
          "--bundle", bundle,   id};
}

std::string findProgram(const std::string& name) {
  for (const char* folder :
       {"/usr/local/sbin/", "/usr/local/bin/", "/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"})
    if (::access((folder + name).c_str(), X_OK) == 0) return folder + name;
  return {};
}

}  // namespace mayfly::bench
