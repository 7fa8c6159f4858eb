// A root tree with a template's own files in it, for as long as its image is packed.
//
// The tree stays as it is: an overlay shows it with the changes on top. The overlay is mounted in a
// mount namespace of this process's own, so no end of the process leaves it mounted. If the kernel
// mounts none, such as where the cache itself is on an overlay, the stage is a copy.
//
// Layer: image, internal to it. Needs root and a process of one thread, which stays in the
// namespace while this object lives.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "image/workshop.h"

namespace mayfly::image {

class Stage {
 public:
  explicit Stage(Workshop& shop) : shop_(shop) {}
  Stage(const Stage&) = delete;
  ~Stage();

  // Once. A file of the stage may be replaced, never written: it may be the tree's own.
  base::Status make(const std::string& tree);
  const std::string& path() const { return path_; }

 private:
  base::Status leaveNamespace();
  base::Status mountOver(const std::string& tree, const std::string& folder);

  Workshop& shop_;
  std::string path_;
  base::Fd namespace_, root_, folder_;  // those of before; none: this process is not elsewhere
};

}  // namespace mayfly::image
