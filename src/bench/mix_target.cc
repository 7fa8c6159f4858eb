#include "bench/mix_target.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/fd.h"
#include "base/text.h"

namespace mayfly::bench {
namespace {

using base::Code;
using base::fail;

constexpr size_t kScriptBytesMax = 4u << 20;  // the daemon's bound on code
constexpr size_t kInlineBytesMax = 1u << 20;  // larger inputs are uploaded

std::string lastPart(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// Bytes that no compression and no deduplication makes cheaper.
std::string noise(uint64_t size, uint64_t seed) {
  pool::Random random(seed);
  std::string out(size, '\0');
  for (size_t at = 0; at < out.size(); at += sizeof(uint64_t)) {
    const uint64_t word = random.next();
    for (size_t i = 0; i < sizeof word && at + i < out.size(); ++i)
      out[at + i] = static_cast<char>(word >> (8 * i));
  }
  return out;
}

// Independent of the number of draws before it.
uint64_t draw(uint64_t seed, uint64_t index, uint64_t purpose) {
  pool::Random random(seed * 0x9e3779b97f4a7c15 + index * 2 + purpose);
  random.next();
  return random.next();
}

size_t weighted(const config::Mix& mix, const std::vector<size_t>& among, uint64_t drawn) {
  uint64_t sum = 0;
  for (size_t place : among) sum += mix.tasks[place].weight;
  uint64_t at = drawn % sum;
  for (size_t place : among) {
    if (at < mix.tasks[place].weight) return place;
    at -= mix.tasks[place].weight;
  }
  return among.back();
}

base::Result<InputFile> inputOf(Client& client, std::string name, std::string bytes) {
  InputFile file;
  file.path = std::move(name);
  if (bytes.size() <= kInlineBytesMax) {
    file.data = std::move(bytes);
    return file;
  }
  MAYFLY_TRY(file.blob, client.upload(bytes));
  return file;
}

base::Result<TaskSpec> specOf(const config::MixTask& task) {
  TaskSpec spec;
  spec.template_name = task.template_name;
  spec.args = task.args;
  spec.env = task.env;
  spec.tenant = task.tenant;
  spec.collect_out_files = task.collect;
  spec.limits = wishesOf(task);
  if (!task.command.empty()) {
    spec.kind = CodeKind::command;
    spec.args = task.command;
  } else if (!task.script.empty()) {
    spec.kind = CodeKind::file;
    spec.script_name = lastPart(task.script);
    MAYFLY_TRY(spec.code,
               base::readSmallFile(base::FdView(AT_FDCWD), task.script, kScriptBytesMax));
  } else {
    spec.kind = CodeKind::string;
    spec.code = task.code;
  }
  return spec;
}

}  // namespace

LimitWishes wishesOf(const config::MixTask& task) {
  LimitWishes wishes;
  for (const auto& [name, value] : task.limits) {
#define MAYFLY_CAP(member, type, standard, unit, lowest, highest, key, ...) \
  if (name == key) wishes.member = static_cast<type>(value);
    MAYFLY_CAPS(MAYFLY_CAP)
#undef MAYFLY_CAP
  }
  return wishes;
}

config::Mix mixOf(config::MixTask task) {
  config::Mix mix;
  mix.name = task.name;
  mix.tasks.push_back(std::move(task));
  return mix;
}

base::Result<std::vector<std::string>> tenantsOf(const pool::Trace& trace) {
  const bool several_users =
      std::any_of(trace.tenants.begin(), trace.tenants.end(),
                  [&](const auto& each) { return each.user != trace.tenants[0].user; });
  std::vector<std::string> out;
  for (const auto& [user, tenant] : trace.tenants) {
    std::string name = tenant;
    if (several_users) name = tenant.empty() || user.empty() ? user + tenant : user + "/" + tenant;
    if (base::printable(name, config::kMixTenantBytesMax) != name)
      return fail(
          Code::invalidArgument,
          fmt::format("the trace's tenant '{}' is no name that a daemon takes",
                      base::printable(name, 80)),
          fmt::format("It has at most {} bytes, all printable.", config::kMixTenantBytesMax));
    out.push_back(std::move(name));
  }
  return out;
}

void askFor(const pool::Trace& trace, const std::vector<std::string>& tenants, uint64_t index,
            TaskSpec& spec) {
  const pool::Arrival& a = trace.arrivals[index];
  const auto seconds = [](uint64_t ns) {
    return fmt::format("{:.6f}", static_cast<double>(ns) * 1e-9);
  };
  spec.env.emplace_back("RUN_SECONDS", seconds(a.run_ns));
  if (a.cpu_ns != 0) spec.env.emplace_back("CPU_SECONDS", seconds(a.cpu_ns));
  if (a.memory_bytes != 0) spec.env.emplace_back("MEMORY_BYTES", std::to_string(a.memory_bytes));
  if (spec.tenant.empty() && !tenants.empty()) spec.tenant = tenants[a.tenant_index];
}

base::Status MixTarget::prepare(Client& client, const config::MixTask& task) {
  MAYFLY_TRY(TaskSpec spec, specOf(task));
  for (const std::string& path : task.files) {
    MAYFLY_TRY(std::string bytes,
               base::readSmallFile(base::FdView(AT_FDCWD), path, config::kMixInputBytesMax));
    prepared_bytes_ += bytes.size();
    MAYFLY_TRY(InputFile file, inputOf(client, lastPart(path), std::move(bytes)));
    spec.files.push_back(std::move(file));
  }
  auto change = [this](TaskSpec& its, const load::Ticket& ticket) {
    if (load_.trace != nullptr) askFor(*load_.trace, tenants_, ticket.index, its);
  };
  auto& targets = targets_.emplace_back();
  std::vector<uint64_t> sizes = task.input_sizes_bytes;
  const bool none = sizes.empty();
  if (none) sizes.push_back(0);
  for (uint64_t size : sizes) {
    load::TaskLoad one{spec, task.expect, change, true};
    prepared_bytes_ += size;
    if (prepared_bytes_ > kPreparedBytesMax)
      return fail(Code::invalidArgument, fmt::format("the inputs of the mix are more than {}",
                                                     base::humanBytes(kPreparedBytesMax)));
    if (!none) {
      MAYFLY_TRY(InputFile file, inputOf(client, "input", noise(size, load_.seed ^ size)));
      one.spec.files.push_back(std::move(file));
    }
    targets.push_back(std::make_unique<load::ClientTarget>(client, std::move(one)));
  }
  return base::Unit{};
}

base::Result<std::unique_ptr<MixTarget>> MixTarget::make(Client& client, MixLoad load) {
  std::unique_ptr<MixTarget> out(new MixTarget(std::move(load)));
  const config::Mix& mix = *out->load_.mix;
  if (out->load_.trace != nullptr) {
    MAYFLY_TRY(out->tenants_, tenantsOf(*out->load_.trace));
  }
  for (const config::MixTask& task : mix.tasks)
    if (auto prepared = out->prepare(client, task); !prepared)
      return fail(std::move(prepared).error().in(fmt::format("task '{}'", task.name)));
  std::vector<size_t> all;
  for (size_t i = 0; i < mix.tasks.size(); ++i) all.push_back(i);
  if (out->load_.trace == nullptr) {
    out->of_template_.push_back(all);
    return out;
  }
  for (const std::string& name : out->load_.trace->templates) {
    auto& places = out->of_template_.emplace_back();
    for (size_t i : all)
      if (mix.tasks[i].template_name == name || mix.tasks[i].name == name) places.push_back(i);
    if (places.empty() && name == "default") places = all;
    if (places.empty())
      return fail(Code::notFound,
                  fmt::format("the trace names '{}', and no task of {} has this name or template",
                              base::printable(name, 80), mix.name),
                  "Give a --mix with a [[task]] for each template of the trace.");
  }
  return out;
}

size_t MixTarget::taskOf(uint64_t index) const {
  const size_t kind = load_.trace == nullptr ? 0 : load_.trace->arrivals[index].template_index;
  return weighted(*load_.mix, of_template_[kind], draw(load_.seed, index, 0));
}

void MixTarget::begin(const load::Ticket& ticket, Done done) {
  const auto& sizes = targets_[taskOf(ticket.index)];
  sizes[draw(load_.seed, ticket.index, 1) % sizes.size()]->begin(ticket, std::move(done));
}

}  // namespace mayfly::bench
