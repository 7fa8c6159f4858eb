// A load of a mix's tasks on a daemon.
//
// Which task a request is depends on seed and index only, so that two runs with one seed ask for
// the same sequence.
//
// Layer: bench. Answers come on the client's thread.
#pragma once

#include <mayfly/client.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "config/mix.h"
#include "load/client_target.h"
#include "load/drive.h"
#include "pool/trace.h"

namespace mayfly::bench {

inline constexpr uint64_t kPreparedBytesMax = 256ull << 20;  // of a mix's inputs together

struct MixLoad {
  std::shared_ptr<const config::Mix> mix;
  uint64_t seed = 1;
  // Request i is of the template and tenant of arrival i, and has its times and memory as
  // variables.
  std::shared_ptr<const pool::Trace> trace;
};

class MixTarget final : public load::Target {
 public:
  // Reads and uploads the mix's files. Destroy `client` before the target: its callbacks use it.
  static base::Result<std::unique_ptr<MixTarget>> make(Client& client, MixLoad load);

  void begin(const load::Ticket& ticket, Done done) override;
  // The place in the mix of a request's task.
  size_t taskOf(uint64_t index) const;

 private:
  explicit MixTarget(MixLoad load) : load_(std::move(load)) {}
  base::Status prepare(Client& client, const config::MixTask& task);

  MixLoad load_;
  // For each task of the mix, one for each size of its input, at least one.
  std::vector<std::vector<std::unique_ptr<load::ClientTarget>>> targets_;
  std::vector<std::vector<size_t>> of_template_;  // of each of the trace's: places in the mix
  std::vector<std::string> tenants_;              // by the trace's
  uint64_t prepared_bytes_ = 0;
};

// The tenant's name for each of the trace's tenants. Our tasks are all of one user: if the trace
// has several, the users become tenants. invalidArgument: a name that no daemon takes.
base::Result<std::vector<std::string>> tenantsOf(const pool::Trace& trace);
// Makes `spec` the task of arrival `index`; a tenant that it has already stays.
void askFor(const pool::Trace& trace, const std::vector<std::string>& tenants, uint64_t index,
            TaskSpec& spec);

// A mix of one task.
config::Mix mixOf(config::MixTask task);
LimitWishes wishesOf(const config::MixTask& task);

}  // namespace mayfly::bench
