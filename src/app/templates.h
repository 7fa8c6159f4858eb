// Loads what the engine serves for each template folder: manifest, image, seccomp program,
// snapshot.
//
// Layer: app. Called at start, as root.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "config/daemon.h"
#include "config/manifest.h"
#include "image/store.h"
#include "pool/template_spec.h"

namespace mayfly::app {

struct Served {
  pool::TemplateSpec spec;
  base::Fd seccomp;                   // empty if there is no image
  base::Fd snapshot;                  // of mechanism `restore`: the folder, checked and leased
  std::string snapshot_key;           // the same: whatever else has this key may take its place
  std::optional<image::Lease> lease;  // keeps the image from being removed while we serve it
};

// The spec with the environment of its tasks: the fixed part first, then the template's; a task's
// own comes last.
pool::TemplateSpec toSpec(const config::Manifest& manifest);

// The templates that the settings name, or else all in the folders. A named template that cannot be
// read is an error; an unnamed one is logged and left out. `runtime_key`: hash of the programs that
// an image must hold to be served. `executable_dir`: of mayfly-snapshot, which makes missing
// snapshots if the settings say so; empty: none is made.
base::Result<std::vector<Served>> loadTemplates(const config::Daemon& settings,
                                                std::string_view runtime_key,
                                                const std::string& executable_dir = {});

}  // namespace mayfly::app
