// Other ways to run the same command in the same image, as command lines.
//
// Layer: bench. Pure but for findProgram().
#pragma once

#include <string>
#include <vector>

namespace mayfly::bench {

// bubblewrap with every namespace of its own, over an image's root folder.
std::vector<std::string> bwrapCommand(const std::string& root,
                                      const std::vector<std::string>& command);

// An OCI runtime: `config.json` for a bundle, and the command that runs it once.
std::string ociConfig(const std::string& root, const std::vector<std::string>& command);
std::vector<std::string> runcCommand(const std::string& bundle, const std::string& state,
                                     const std::string& id);
std::vector<std::string> runscCommand(const std::string& bundle, const std::string& state,
                                      const std::string& id);

// Its path in the system's own folders; empty: it is not installed.
std::string findProgram(const std::string& name);

}  // namespace mayfly::bench
