// Turns template folders into what the engine serves: manifest, image, seccomp
// program.
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
  base::Fd seccomp;                   // empty where there is no image
  std::optional<image::Lease> lease;  // the image cannot be removed while we serve it
};

// What a task finds set in every template; the template's own come after, the task's last.
pool::TemplateSpec toSpec(const config::Manifest& manifest);

// The templates that the settings name, or all that are found. A template that is
// named and cannot be read is an error; one that is found is logged and left out.
// `runtime_key`: of the programs that an image must hold to be served.
base::Result<std::vector<Served>> loadTemplates(const config::Daemon& settings,
                                                std::string_view runtime_key);

}  // namespace mayfly::app
