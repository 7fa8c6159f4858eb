#include "core/task.h"

#include <algorithm>
#include <utility>

#include "base/text.h"
#include "core/spool.h"
#include "sched/validate.h"

namespace mayfly::core {

using sched::Stream;

base::Status Task::beginBlob(const pool::TemplateSpec& tmpl_spec) {
  blob_bytes = sched::heldBytes(spec) - spec.stdin_data.size();
  auto env = tmpl_spec.env;
  const uint32_t cpus = (machine.limits().cpu_milli + 999) / 1'000;
  for (const std::string& name : tmpl_spec.cpus_env) env.emplace_back(name, std::to_string(cpus));
  MAYFLY_TRY(BlobWriter writer, BlobWriter::create(spec, env));
  blob = std::move(writer);
  return base::Unit{};
}

void Task::dropContents() {
  blob_written = true;
  spec.code = {};
  spec.files = {};
}

zygote::Claim Task::claim() const {
  const base::Limits& l = machine.limits();
  zygote::Claim c;
  c.block_bytes = blob->bytes();
  c.blob_fds = static_cast<uint32_t>(blob->fds().size() - 1);
  c.open_files = l.open_files;
  c.file_size_bytes = l.file_size_bytes;
  c.cpu_time_s = l.cpu_time_ms / 1000 + 2;  // the backstop; sampling comes first
  return c;
}

void Task::forgetBox() {
  io.reset();
  box = 0;
  claim_wanted = false;
  spool_.reset();
  collect_ = spawner::CollectState::none;
  collect_text_.clear();
}

void Task::keep(Stream stream, std::string_view bytes) {
  std::string& kept = captured_[static_cast<size_t>(stream)];
  size_t room = sched::kCaptureBytesMax - kept.size();
  kept.append(bytes.substr(0, room));
  if (bytes.size() > room) truncated_[static_cast<size_t>(stream)] = true;
}

void Task::collectWith(spawner::Request* end, std::vector<SpawnerLink::SharedFd>* fds,
                       uint32_t collect_ms_max) {
  if (!spec.collect_out_files || !ran() || machine.ending().first == sched::Cause::clientGone)
    return;
  auto spool = base::makeMemfd("out");
  if (!spool) {
    collect_text_ = std::move(spool).error().message;
    return;
  }
  spool_ = std::make_shared<base::Fd>(std::move(*spool));
  end->flags |= spawner::kCollect;
  end->collect_ms_max = collect_ms_max;
  end->limits = machine.limits();
  fds->push_back(spool_);
}

void Task::collected(const spawner::Event& box_gone) {
  collect_ = box_gone.collect;
  if (collect_ == spawner::CollectState::failed) collect_text_ = base::printable(box_gone.text);
}

void Task::readFiles(sched::Accounts& accounts, uint32_t collect_ms_max, sched::TaskResult* r) {
  using spawner::CollectState;
  auto lost = [r](std::string why) {
    r->out_files_lost = true;
    if (r->out_files_note.empty()) r->out_files_note = std::move(why);
  };
  if (!collect_text_.empty()) lost(collect_text_);
  if (!spool_) return;
  if (collect_ == CollectState::timedOut)
    lost("collecting took longer than " + std::to_string(collect_ms_max) +
         " ms; files may be missing");
  if (collect_ == CollectState::failed) lost("collecting failed");
  if (collect_ == CollectState::none) return lost("nothing was collected");
  auto files = readSpool(spool_->view(), machine.limits());
  if (!files) return lost(files.error().message);
  // An entry without a name is a note on /task/out itself.
  std::erase_if(*files, [&](const base::OutFile& file) {
    if (!file.path.empty()) return false;
    if (r->out_files_note.empty()) r->out_files_note = file.skipped;
    return true;
  });
  r->out_files = std::move(*files);
  // Without files, no descriptor is kept.
  if (!r->out_files.empty()) r->spool = holdSpool(std::move(spool_), accounts, spec.account);
  spool_.reset();
}

sched::TaskResult Task::result(sched::Accounts& accounts, uint32_t collect_ms_max) {
  sched::TaskResult r;
  sched::Judgement j = machine.judgement();
  r.task = id;
  r.template_name = spec.template_name;
  r.verdict = j.verdict;
  r.exit_code = j.exit_code;
  r.signal = j.signal;
  r.in_grace = j.in_grace;
  r.reason = std::move(j.reason);
  r.cap_value = j.cap_value;
  r.limits = machine.limits();
  r.usage = machine.usage(io ? io->bytes(Stream::out) : 0, io ? io->bytes(Stream::err) : 0);
  r.usage.fresh_runtime = fresh_runtime;
  r.phases = machine.phases();
  r.receipt = receipt;
  for (size_t s = 0; s < 2; ++s) {
    r.captured[s] = std::move(captured_[s]);
    r.truncated[s] = truncated_[s];
  }
  readFiles(accounts, collect_ms_max, &r);
  return r;
}

base::TaskLabels labelsOf(const Context& x, const Task& t) {
  const pool::TemplateSpec& tmpl = *x.registry.get(t.tmpl);
  return {t.id,
          tmpl.name,
          tmpl.mechanism,
          t.spec.account.userName(),
          t.spec.account.tenantName(),
          t.spec.trace,
          t.launch};
}

void tell(const Context& x, const Task& t, base::Phase phase) {
  if (t.phase(phase) != 0 && t.spec.owner != kOwn)
    x.observer.taskPhase(labelsOf(x, t), phase, t.phase(phase));
}

}  // namespace mayfly::core
