#include "rpc/task.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "base/text.h"
#include "edge/convert.h"
#include "rpc/hub.h"

namespace mayfly::rpc {

using base::Code;
using base::Error;
using base::fail;
using base::Status;
using base::Unit;
using sched::Stream;

// --- TaskEar ----------------------------------------------------------------------

// An exception that a client causes must not reach the core.
template <class Event>
void TaskEar::tell(Event event) {
  if (state_ == nullptr) return;
  auto kept = kj::addRef(*state_);
  KJ_IF_MAYBE (fault, kj::runCatchingExceptions([&] { event(*kept); })) {
    spdlog::error("rpc: task {}: {}", kept->id(), edge::errorOf(*fault).message);
  }
}

void TaskEar::onStarted() {
  tell([](TaskState& t) { t.onStarted(); });
}
void TaskEar::onOutput(Stream stream, std::string_view bytes) {
  tell([&](TaskState& t) { t.onOutput(stream, bytes); });
}
void TaskEar::onStdinAccepted(uint64_t bytes) {
  tell([&](TaskState& t) { t.onStdinAccepted(bytes); });
}
void TaskEar::onResult(sched::TaskResult result) {
  tell([&](TaskState& t) { t.onResult(std::move(result)); });
}

// --- the task ---------------------------------------------------------------------

base::Result<TaskShares> TaskShares::take(sched::Accounts& accounts,
                                          const sched::AccountRef& account, uint64_t output_bytes,
                                          bool is_detached) {
  using sched::Resource;
  TaskShares s;
  MAYFLY_TRY(s.open, accounts.take(account, Resource::openTasks));
  MAYFLY_TRY(s.output, accounts.take(account, Resource::outputBytes, output_bytes));
  if (is_detached) {
    MAYFLY_TRY(s.detached, accounts.take(account, Resource::detachedTasks));
  }
  return s;
}

TaskState::TaskState(kj::Own<Owner> owner, TaskShares shares,
                     kj::Maybe<schema::OutputSink::Client> sink, kj::Duration lease)
    : owner_(kj::mv(owner)),
      shares_(std::move(shares)),
      lease_(lease),
      ear_(std::make_shared<TaskEar>(*this)),
      sink_(kj::mv(sink)),
      deliveries_(errors_) {
  ++owner_->tasks;
}

TaskState::~TaskState() noexcept(false) { close(); }

Status TaskState::kept(const char* call) const {
  switch (kept_) {
    case Kept::yes:
      return Unit{};
    case Kept::closed:
      return fail(Code::failedPrecondition, fmt::format("{}: the task is closed", call));
    case Kept::forgotten:
      break;
  }
  return fail(Code::notFound, fmt::format("{}: the task's lease is over", call),
              "Close tasks, or call them, before their lease ends.");
}

void TaskState::renew() {
  if (result_) owner_->hub.leases.renew(*this, lease_);
}

Status TaskState::submit(sched::TaskSpec spec) {
  stdin_open_ = spec.stdin_open;
  if (!spec.stdin_data.empty()) stdin_writes_.push_back({spec.stdin_data.size(), nullptr});
  template_name_ = spec.template_name;
  spec.owner = owner_->id;
  session_ = spec.session;
  auto id = owner_->hub.core.submit(std::move(spec), ear_);
  if (!id) {
    close();
    return fail(std::move(id).error());
  }
  id_ = *id;
  return Unit{};
}

sched::TaskInfo TaskState::info() const {
  if (auto info = owner_->hub.core.info(id_)) return *info;
  // The core has dropped the task; only deliveries are left.
  sched::TaskInfo info;
  info.task = id_;
  info.template_name = template_name_;
  info.state = result() != nullptr ? "done" : "ending";
  if (const sched::TaskResult* result = ended()) {
    info.queued_ns = result->phases[static_cast<size_t>(base::Phase::queued)];
    info.started_ns = result->phases[static_cast<size_t>(base::Phase::started)];
  }
  return info;
}

kj::Promise<Status> TaskState::wait() {
  if (kept_ == Kept::closed) return Status(fail(Code::cancelled, "wait: the task was closed"));
  if (auto status = kept("wait"); !status) return status;
  renew();
  if (done_) return Status(Unit{});
  // A wait whose caller is gone leaves a fulfiller that nobody waits on.
  std::erase_if(waits_, [](StatusFulfiller& wait) { return !wait->isWaiting(); });
  if (waits_.size() >= kWaitsPerTaskMax)
    return Status(fail(Code::resourceExhausted,
                       fmt::format("wait: {} calls wait for this task already", kWaitsPerTaskMax),
                       "Wait for the earlier ones; they all give the same result."));
  auto paf = kj::newPromiseAndFulfiller<Status>();
  waits_.push_back(kj::mv(paf.fulfiller));
  return kj::mv(paf.promise);
}

Status TaskState::cancel(sched::Cancel how) {
  // Cancelling an ended task is no error: the client cannot know that it has ended.
  MAYFLY_CHECK(kept("cancel"));
  renew();
  if (runs()) (void)owner_->hub.core.cancel(id_, owner_->account, how);
  return Unit{};
}

// A broken connection releases its tasks and fails their sinks before it ends. Those tasks are not
// cancelled: their verdict is to be `clientGone`.
void TaskState::cancelUnlessGone(sched::Cancel how) {
  if (!owner_->gone()) (void)cancel(how);
}

kj::Promise<Status> TaskState::writeStdin(std::string data) {
  if (data.size() > schema::CHUNK_BYTES_MAX)
    return Status(fail(Code::invalidArgument,
                       fmt::format("writeStdin: {} bytes in one call; at most {}", data.size(),
                                   schema::CHUNK_BYTES_MAX),
                       "Write in smaller pieces."));
  if (auto status = kept("writeStdin"); !status) return status;
  renew();
  if (ended_) return Status(fail(Code::failedPrecondition, "writeStdin: the task has ended"));
  if (!stdin_open_)
    return Status(fail(Code::failedPrecondition, "writeStdin: the task's stdin is closed"));
  if (stdin_untaken_bytes_ + data.size() > schema::CHUNK_BYTES_MAX)
    return Status(fail(Code::resourceExhausted,
                       fmt::format("writeStdin: the task has not taken {} bytes yet; at most {}",
                                   stdin_untaken_bytes_, schema::CHUNK_BYTES_MAX),
                       "Wait for the earlier writes to return."));
  if (data.empty()) return Status(Unit{});
  stdin_untaken_bytes_ += data.size();
  auto paf = kj::newPromiseAndFulfiller<Status>();
  stdin_writes_.push_back({data.size(), kj::mv(paf.fulfiller)});
  // The core may accept a part within this call, so the write is queued before. The core takes
  // nothing of a write that it refuses.
  if (auto written = owner_->hub.core.writeStdin(id_, std::move(data)); !written) {
    stdin_untaken_bytes_ -= stdin_writes_.back().bytes_left;
    stdin_writes_.pop_back();
    return written;
  }
  return kj::mv(paf.promise);
}

void TaskState::failStdin(const Error& error) {
  for (auto& write : stdin_writes_) {
    KJ_IF_MAYBE (done, write.done) {
      (*done)->fulfill(Status(fail(error)));
    }
  }
  stdin_writes_.clear();
  stdin_untaken_bytes_ = 0;
}

Status TaskState::closeStdin() {
  MAYFLY_CHECK(kept("closeStdin"));
  renew();
  if (!stdin_open_) return Unit{};
  stdin_open_ = false;
  if (runs()) (void)owner_->hub.core.closeStdin(id_);
  return Unit{};
}

void TaskState::end(Kept why) {
  if (kept_ != Kept::yes) return;
  ear_->forget();  // first: the core may report the end within `cancel`
  cancelUnlessGone(sched::Cancel::atOnce);
  kept_ = why;
  if (result_ && !done_) --owner_->undelivered;
  // Large members are freed now. The object itself lives until the client releases it.
  result_.reset();
  done_ = false;
  owner_->hub.leases.end(*this);
  --owner_->tasks;
  chunks_.clear();
  shares_ = {};
  sink_ = nullptr;
  endTools();
  session_.reset();
  bool over = why == Kept::forgotten;
  const char* how = over ? "the task's lease is over" : "the task was closed";
  for (auto& wait : waits_)
    wait->fulfill(
        Status(fail(over ? Code::notFound : Code::cancelled, fmt::format("wait: {}", how))));
  waits_.clear();
  failStdin(Error{Code::failedPrecondition, fmt::format("writeStdin: {}", how), {}, 0});
  owner_->onClosed(*this);
}

void TaskState::onStarted() {
  KJ_IF_MAYBE (sink, sink_) {
    // Output need not wait for this call: Cap'n Proto keeps the order of calls to one object. If
    // the sink cannot be called, the first write fails.
    deliveries_.add(sink->startedRequest(capnp::MessageSize{4, 0})
                        .send()
                        .ignoreResult()
                        .catch_([](kj::Exception&&) {}));
  }
}

void TaskState::onOutput(Stream stream, std::string_view bytes) {
  if (sink_ == nullptr || bytes.empty()) return;
  // Bytes of one stream that wait behind a write are sent as one chunk, up to the core's window.
  if (!chunks_.empty() && chunks_.back().stream == stream &&
      chunks_.back().bytes.size() + bytes.size() <= sched::kOutputWindowBytes)
    chunks_.back().bytes += bytes;
  else
    chunks_.push_back({stream, std::string(bytes)});
  deliver();
}

void TaskState::deliver() {
  if (delivering_ || sink_ == nullptr || chunks_.empty()) return;
  delivering_ = true;
  deliveries_.add(deliverOne().catch_([this](kj::Exception&&) {
    delivering_ = false;
    sinkFailed();
  }));
}

kj::Promise<void> TaskState::deliverOne() {
  KJ_IF_MAYBE (sink, sink_) {
    if (!chunks_.empty()) {
      Chunk chunk = std::move(chunks_.front());
      chunks_.pop_front();
      auto request =
          sink->writeRequest(capnp::MessageSize{chunk.bytes.size() / sizeof(capnp::word) + 16, 0});
      request.setStream(chunk.stream == Stream::out ? schema::Stream::STDOUT
                                                    : schema::Stream::STDERR);
      request.setData(edge::data(chunk.bytes));
      return request.send().ignoreResult().then(
          [this, stream = chunk.stream, bytes = chunk.bytes.size()] {
            renew();
            if (runs()) owner_->hub.core.acknowledgeOutput(id_, stream, bytes);
            return deliverOne();
          });
    }
  }
  delivering_ = false;
  finishIfDelivered();
  return kj::READY_NOW;
}

// The client wants no more output or is gone, so nobody needs the task.
void TaskState::sinkFailed() {
  dropSink();
  cancelUnlessGone(sched::Cancel::soft);
  finishIfDelivered();
}

void TaskState::dropSink() {
  if (sink_ == nullptr) return;
  sink_ = nullptr;
  chunks_.clear();
  if (result_) shares_.output.shrink(kLiveHeldBytes);
}

void TaskState::onStdinAccepted(uint64_t bytes) {
  while (bytes > 0 && !stdin_writes_.empty()) {
    auto& front = stdin_writes_.front();
    uint64_t taken = std::min(bytes, front.bytes_left);
    bytes -= taken;
    front.bytes_left -= taken;
    KJ_IF_MAYBE (done, front.done) {
      stdin_untaken_bytes_ -= taken;
      if (front.bytes_left == 0) (*done)->fulfill(Status(Unit{}));
    }
    if (front.bytes_left > 0) return;
    stdin_writes_.pop_front();
  }
}

void TaskState::onResult(sched::TaskResult result) {
  result_ = std::move(result);
  ended_ = true;
  endTools();
  ++owner_->undelivered;
  renew();
  uint64_t bytes = result_->captured[0].size() + result_->captured[1].size();
  for (const auto& file : result_->out_files)
    bytes += sizeof file + file.path.size() + file.skipped.size();
  shares_.output.settle(bytes + (sink_ == nullptr ? 0 : kLiveHeldBytes));
  failStdin(Error{Code::failedPrecondition, "writeStdin: the task has ended", {}, 0});
  finishIfDelivered();
}

void TaskState::finishIfDelivered() {
  if (done_ || !result_ || delivering_) return;
  done_ = true;
  --owner_->undelivered;
  dropSink();
  for (auto& wait : waits_) wait->fulfill(Status(Unit{}));
  waits_.clear();
}

// --- values ----------------------------------------------------------------------

namespace {

Status tooMany(const char* what, size_t count, size_t max) {
  return fail(Code::invalidArgument, fmt::format("{} {}; at most {}", count, what, max));
}

void wish(std::optional<uint32_t>& to, uint32_t value) {
  if (value != schema::DEFAULT32) to = value;
}

void wish(std::optional<uint64_t>& to, uint64_t value) {
  if (value != schema::DEFAULT64) to = value;
}

sched::LimitWishes wishesFrom(schema::LimitWishes::Reader in) {
  sched::LimitWishes out;
#define MAYFLY_CAP(member, type, standard, unit, lowest, highest, key, Wire, ...) \
  wish(out.member, in.get##Wire());
  MAYFLY_CAPS(MAYFLY_CAP)
#undef MAYFLY_CAP
  return out;
}

// Checks counts and sizes before anything is copied: copies delay kills, which run on the same
// thread, and a list's elements cost more here than on the wire. The core repeats these checks.
Status checkSizes(schema::TaskSpec::Reader in) {
  auto tooLong = [](std::string_view what, uint64_t bytes, uint64_t max) -> Status {
    if (bytes <= max) return Unit{};
    return fail(Code::invalidArgument, fmt::format("{} {} bytes; at most {}", what, bytes, max));
  };
  if (in.getTemplate().size() > sched::kPathBytesMax)
    return fail(
        Code::notFound,
        fmt::format("there is no template '{}'", base::printable(edge::view(in.getTemplate()), 80)),
        "`mayfly templates` lists them.");
  auto code = in.getCode();
  size_t code_bytes = 0;
  if (code.isFile()) {
    code_bytes = code.getFile().getText().size();
    MAYFLY_CHECK(
        tooLong("the script's name has", code.getFile().getName().size(), sched::kPathBytesMax));
  } else if (code.isString()) {
    code_bytes = code.getString().size();
  } else if (code.isStdin()) {
    code_bytes = code.getStdin().size();
  } else if (code.isModule()) {
    MAYFLY_CHECK(tooLong("the module's name has", code.getModule().size(), sched::kPathBytesMax));
  } else if (code.isPath()) {
    MAYFLY_CHECK(tooLong("the program's path has", code.getPath().size(), sched::kPathBytesMax));
  }
  MAYFLY_CHECK(tooLong("the code has", code_bytes, sched::kCodeBytesMax));
  if (in.getArgs().size() > sched::kArgsMax)
    return tooMany("arguments", in.getArgs().size(), sched::kArgsMax);
  if (in.getEnv().size() > sched::kEnvMax)
    return tooMany("environment variables", in.getEnv().size(), sched::kEnvMax);
  if (in.getFiles().size() > sched::kFilesMax)
    return tooMany("input files", in.getFiles().size(), sched::kFilesMax);
  uint64_t bytes = 0;
  for (auto arg : in.getArgs()) bytes += arg.size();
  MAYFLY_CHECK(tooLong("the arguments take", bytes, sched::kArgBytesMax));
  bytes = 0;
  for (auto var : in.getEnv()) bytes += var.getName().size() + var.getValue().size();
  MAYFLY_CHECK(tooLong("the environment takes", bytes, sched::kArgBytesMax));
  for (auto file : in.getFiles())
    MAYFLY_CHECK(
        tooLong("the path of an input file has", file.getPath().size(), sched::kPathBytesMax));
  return Unit{};
}

}  // namespace

base::Result<sched::TaskSpec> specFrom(schema::TaskSpec::Reader in, const FindBlob& find_blob) {
  MAYFLY_CHECK(checkSizes(in));
  sched::TaskSpec spec;
  spec.template_name = edge::str(in.getTemplate());
  auto code = in.getCode();
  switch (code.which()) {
    case schema::TaskSpec::Code::COMMAND:
      spec.kind = sched::CodeKind::command;
      break;
    case schema::TaskSpec::Code::FILE:
      spec.kind = sched::CodeKind::file;
      spec.script_name = edge::str(code.getFile().getName());
      spec.code = edge::str(code.getFile().getText());
      break;
    case schema::TaskSpec::Code::STRING:
      spec.kind = sched::CodeKind::string;
      spec.code = edge::str(code.getString());
      break;
    case schema::TaskSpec::Code::STDIN:
      spec.kind = sched::CodeKind::stdinText;
      spec.code = edge::str(code.getStdin());
      break;
    case schema::TaskSpec::Code::MODULE:
      spec.kind = sched::CodeKind::module;
      spec.code = edge::str(code.getModule());
      break;
    case schema::TaskSpec::Code::PATH:
      spec.kind = sched::CodeKind::path;
      spec.script_name = edge::str(code.getPath());
      break;
    default:
      return fail(Code::invalidArgument, "unknown kind of code", "Update the daemon.");
  }
  auto args = in.getArgs();
  spec.args.reserve(args.size());
  for (auto arg : args) spec.args.push_back(edge::str(arg));
  auto env = in.getEnv();
  spec.env.reserve(env.size());
  for (auto var : env) spec.env.emplace_back(edge::str(var.getName()), edge::str(var.getValue()));
  auto files = in.getFiles();
  spec.files.reserve(files.size());
  for (auto each : files) {
    MAYFLY_TRY(auto file, inputFileFrom(each, find_blob));
    spec.files.push_back(std::move(file));
  }
  spec.stdin_data = edge::str(in.getStdinData());
  spec.stdin_open = in.getStdinOpen();
  spec.limits = wishesFrom(in.getLimits());
  if (in.getSeed().isValue()) spec.seed = in.getSeed().getValue();
  spec.collect_out_files = in.getCollectOutFiles();
  return spec;
}

size_t sizeOf(const sched::TaskResult& result) {
  size_t bytes = 1'024 + result.template_name.size() + result.reason.size() +
                 result.receipt.missing.size() + result.receipt.note.size() +
                 result.captured[0].size() + result.captured[1].size() +
                 result.out_files_note.size();
  size_t list_bytes = 0;
  for (const auto& file : result.out_files)
    list_bytes += 64 + file.path.size() + file.skipped.size();
  return bytes + std::min(list_bytes, kOutFilesListBytesMax);
}

void put(schema::TaskResult::Builder out, const sched::TaskResult& result) {
  out.setId(result.task);
  out.setTemplate(edge::text(result.template_name));
  out.setVerdict(edge::put(result.verdict));
  out.setExitCode(result.exit_code);
  out.setSignal(result.signal);
  out.setInGrace(result.in_grace);
  out.setReason(edge::text(result.reason));
  out.setCapValue(result.cap_value);
  edge::put(out.initLimits(), result.limits);
  edge::put(out.initUsage(), result.usage);
  edge::put(out.initPhases(), result.phases);
  edge::put(out.initReceipt(), result.receipt);
  out.setStdout(edge::data(result.captured[0]));
  out.setStderr(edge::data(result.captured[1]));
  out.setStdoutTruncated(result.truncated[0]);
  out.setStderrTruncated(result.truncated[1]);
  // The task chooses the names of its files, so the list is cut to keep the message below its
  // maximum.
  size_t count = 0, bytes = 0;
  for (const auto& file : result.out_files) {
    bytes += 64 + file.path.size() + file.skipped.size();
    if (bytes > kOutFilesListBytesMax) break;
    ++count;
  }
  auto files = out.initOutFiles(static_cast<unsigned>(count));
  for (unsigned i = 0; i < count; ++i) {
    const auto& file = result.out_files[i];
    files[i].setPath(edge::data(file.path));
    files[i].setSizeBytes(file.size_bytes);
    files[i].setMode(static_cast<uint16_t>(file.mode));
    files[i].setSkipped(edge::text(file.skipped));
  }
  std::string note = result.out_files_note;
  if (count < result.out_files.size())
    note += fmt::format("{}{} more files are not listed", note.empty() ? "" : "; ",
                        result.out_files.size() - count);
  out.setOutFilesNote(edge::text(note));
  out.setOutFilesLost(result.out_files_lost);
}

}  // namespace mayfly::rpc
