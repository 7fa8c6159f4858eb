// A task as one block for its clone; zygote::TaskBlob defines the layout.
//
// The head (header, strings, file records) is built in memory; code and file contents stay in
// place, and the head refers to them by offset. A file whose content is a blob of the daemon's
// store refers to the blob's descriptor, which goes with the claim.
//
// Layer: core. BlobLayout is pure; BlobWriter writes a memfd, in bounded steps.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "sched/core.h"

namespace mayfly::core {

inline constexpr size_t kBlobStepBytes = 2u << 20;  // written between two turns of the core

// A layout borrows from its TaskSpec.
struct BlobLayout {
  struct Part {
    uint64_t offset = 0;
    std::string_view bytes;
  };
  std::string head;                                    // at offset 0
  std::vector<Part> parts;                             // ascending, without overlap
  uint64_t bytes = 0;                                  // of the whole block
  std::vector<std::shared_ptr<const base::Fd>> blobs;  // each once: descriptors 1... of the claim
};

// argv as the task sees it: the command; or [script name | "-c" | "-"], then args.
// Environment: `base_env`, overridden by the task's own.
BlobLayout layoutBlob(const sched::TaskSpec& spec,
                      const std::vector<std::pair<std::string, std::string>>& base_env);

class BlobWriter {
 public:
  // `spec` must outlive the writer's last step().
  static base::Result<BlobWriter> create(
      const sched::TaskSpec& spec,
      const std::vector<std::pair<std::string, std::string>>& base_env);

  // Writes at most kBlobStepBytes; true once everything is written and sealed.
  base::Result<bool> step();
  uint64_t bytes() const { return layout_.bytes; }
  // The claim's descriptors: the block, then the blobs. They stay open as long as the writer.
  std::vector<int> fds() const;

 private:
  BlobLayout layout_;
  base::Fd fd_;
  size_t part_ = 0;       // 0: the head; n: parts[n - 1]
  size_t part_done_ = 0;  // bytes written of it
};

}  // namespace mayfly::core
