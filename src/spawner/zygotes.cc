#include "spawner/zygotes.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>

#include <algorithm>

#include "base/clock.h"
#include "spawner/child.h"

namespace mayfly::spawner {

using base::Code;
using base::Error;
using base::Fd;
using base::monotonicNs;
using wire::Event;
using wire::Kind;
using Stage = ZygoteStage;

namespace {

constexpr const char* kNames[] = {"pid 1", "maker", "zygote"};

std::string refusalText(const CloneSource::Answer& answer) {
  return fmt::format("the zygote can't serve: {}", answer.text);
}

}  // namespace

// --- what mayflyd asks for -----------------------------------------------------------

void Zygotes::refuse(const wire::Request& request, const std::string& step,
                     const std::string& text) {
  Event event;
  event.kind = Kind::zygoteFailed;
  event.zygote_id = request.zygote_id;
  event.at_ns = monotonicNs();
  setText(event, step, text);
  out_.send(event);
}

void Zygotes::publish(const wire::Request& request, base::Received& fds) {
  for (const auto& [key, z] : zygotes_)
    if (z->id == request.zygote_id && z->stage < Stage::draining)
      return refuse(request, "request", "the zygote is published already");
  uint32_t slot = 0;
  while (slot + 1 < wire::kUidRanges && slots_used_[slot]) ++slot;
  // The last range of a slot is the daemon's own.
  if (slot + 1 >= wire::kUidRanges)
    return refuse(request, "request",
                  fmt::format("{} zygotes are published", wire::kUidRanges - 1));
  auto made = std::make_unique<Zygote>();
  Zygote& z = *made;
  z.id = request.zygote_id;
  z.key = ++keys_;
  z.slot = slot;
  z.uid_base = wire::kUidBase + uid_slot_ * wire::kUidsPerSlot + slot * wire::kUidsPerRange;
  z.loopback = (request.flags & wire::kLoopback) != 0;
  z.doors = (request.flags & wire::kDoors) != 0;
  z.ptys = request.ptys;
  if ((request.flags & wire::kRestore) != 0) z.made = Zygote::Made::byRestore;
  if ((request.flags & wire::kDump) != 0) z.made = Zygote::Made::forDump;
  z.memory_bytes = request.limits.memory_bytes;
  z.start = std::make_unique<Zygote::Start>();
  z.start->request = request;
  z.start->seccomp = std::move(fds.fd[0]);
  z.start->log = std::move(fds.fd[1]);
  z.lease = std::move(fds.fd[2]);
  slots_used_[slot] = true;
  zygotes_[z.key] = std::move(made);
  if (z.lease) {
    // An open file description of its own: an unlock of it leaves the lease.
    auto folder = base::openAt(z.lease.view(), ".", O_RDONLY | O_DIRECTORY);
    if (!folder) return failStart(z, "snapshot", std::move(folder).error());
    z.start->snapshot = std::move(*folder);
  }
  if (auto cgroups = makeCgroups(tree_, z); !cgroups)
    return failStart(z, "cgroups", std::move(cgroups).error());
  auto mounting = startMount(room_, request.digest, z.imagePath());
  if (!mounting) return failStart(z, "image", std::move(mounting).error());
  z.helper = std::move(mounting->helper);
  z.helper_said = std::move(mounting->said);
  if (auto s = poller_.watch(z.helper.view(), EPOLLIN, Source::helper, z.key); !s)
    return failStart(z, "image", std::move(s).error());
  z.deadline_ns = inMs(kMountMsMax);
}

void Zygotes::retire(base::ZygoteId id) {
  auto it = std::find_if(zygotes_.begin(), zygotes_.end(), [id](const auto& each) {
    return each.second->id == id && each.second->stage < Stage::draining;
  });
  if (it == zygotes_.end()) return;
  Zygote& z = *it->second;
  client_->onRetired(z);
  drain(z);
  client_->onAnswersLost(z, "template", "the template is being retired");
  tryEnd(z);
}

// Leaves stuck boxes to the next start, which removes them.
void Zygotes::retireAll() {
  std::vector<Zygote*> all;
  for (const auto& [key, z] : zygotes_)
    if (z->stage <= Stage::draining) all.push_back(z.get());
  for (Zygote* z : all) {
    z->told = true;
    z->boxes = 0;
    drain(*z);
    tryEnd(*z);
  }
}

// A zygote whose end is not reported yet takes a box as well: mayflyd hears of its end, then of the
// box's.
Zygote* Zygotes::findServing(base::ZygoteId id) {
  for (const auto& [key, z] : zygotes_)
    if (z->id == id && (z->stage == Stage::serving || z->stage == Stage::dying)) return z.get();
  return nullptr;
}

void Zygotes::release(Zygote& z) {
  --z.boxes;
  tryEnd(z);
}

void Zygotes::suspect(Zygote& z) {
  if (z.stage == Stage::serving && !z.source->open())
    onChannelEnd(z, z.source->answers(), z.zygote);
}

// --- its start -----------------------------------------------------------------------

void Zygotes::onHelperEnd(Zygote& z) {
  if (reap(z.helper, poller_).code == 0) return;
  if (z.stage == Stage::unmounting) return tryRemove(z);
  if (z.stage != Stage::mounting) return;
  auto mounted = readMount(z.helper_said.view());
  z.helper_said.reset();
  if (!mounted) return failStart(z, "image", std::move(mounted).error());
  z.image_mount = *mounted;
  enter(z, Stage::startingPid1);
}

void Zygotes::enter(Zygote& z, Stage stage) {
  z.stage = stage;
  z.deadline_ns = inMs(kStartMsMax);
  std::string step;
  auto started = startProcess(room_, z, &step);
  const bool pid1 = stage == Stage::startingPid1, maker = stage == Stage::startingMaker;
  const Fd& process = pid1 ? z.pid1 : maker ? z.maker : z.zygote;
  const Source source = pid1 ? Source::pid1 : maker ? Source::maker : Source::zygote;
  if (process) z.processes.insert(processKey(process));
  if (process && started) started = poller_.watch(process.view(), EPOLLIN, source, z.key);
  if (started) started = poller_.watch(z.start->report.view(), EPOLLIN, Source::start, z.key);
  if (!started) return failStart(z, std::move(step), std::move(started).error());
}

void Zygotes::onReport(Zygote& z) {
  if (!isStarting(z.stage) || !z.start || !z.start->report) return;
  Zygote::Failure failure;
  const StartWord word = readReport(z, &failure);
  if (word == StartWord::none) return;
  poller_.unwatch(z.start->report.view());
  if (word == StartWord::failed)
    return failStart(z, std::move(failure.step), std::move(failure.error));
  z.start->report.reset();
  if (z.stage == Stage::startingPid1) return enter(z, Stage::startingMaker);
  if (z.stage == Stage::startingMaker) return enter(z, Stage::startingZygote);
  base::Status watched =
      poller_.watch(z.maker_channel.view(), EPOLLIN, Source::makerChannel, z.key);
  if (watched) watched = poller_.watch(z.source->answers(), EPOLLIN, Source::cloneSource, z.key);
  if (!watched) return failStart(z, "zygote", std::move(watched).error());
  z.start.reset();
  z.stage = Stage::loading;
  z.deadline_ns = 0;
}

void Zygotes::failStart(Zygote& z, std::string step, Error error) {
  if (!z.failure) z.failure = Zygote::Failure{std::move(step), std::move(error)};
  drain(z);
  tryEnd(z);
}

// --- what its processes say ------------------------------------------------------------

void Zygotes::onEvent(Source source, uint32_t key) {
  auto it = zygotes_.find(key);
  if (it == zygotes_.end()) return;
  Zygote& z = *it->second;
  switch (source) {
    case Source::pid1:
      return onEnd(z, Who::pid1);
    case Source::maker:
      return onEnd(z, Who::maker);
    case Source::zygote:
      return onEnd(z, Who::zygote);
    case Source::makerChannel:
      return onMakerMessage(z);
    case Source::cloneSource:
      return onSourceAnswer(z);
    case Source::start:
      return onReport(z);
    case Source::helper:
      return onHelperEnd(z);
    default:
      return;
  }
}

// A dying process closes its channel first; its pidfd will tell how it ended.
void Zygotes::onChannelEnd(Zygote& z, base::FdView channel, const Fd& process) {
  poller_.unwatch(channel);
  signalKill(process);
  if (z.stage == Stage::serving) z.stage = Stage::dying;
}

void Zygotes::onMakerMessage(Zygote& z) {
  if (!z.maker_channel) return;
  wire::InitMade made;
  auto got = base::receiveMessage(z.maker_channel.view(), base::writableBytesOf(made));
  if (!got && got.error().sys == EAGAIN) return;
  if (isEnd(got)) return onChannelEnd(z, z.maker_channel.view(), z.maker);
  if (!got || faultOf(made, got->bytes, got->fds) != nullptr || !isOurChild(got->fd[0]) ||
      client_->onInitMade(z, made, std::move(got->fd[0])) == Client::Said::breach)
    onEnd(z, Who::maker);
}

void Zygotes::onSourceAnswer(Zygote& z) {
  using What = CloneSource::Answer::What;
  if (!z.source || !z.source->answers()) return;
  CloneSource::Answer answer = z.source->receive();
  switch (answer.what) {
    case What::none:
      return;
    case What::ended:
      return onChannelEnd(z, z.source->answers(), z.zygote);
    case What::broken:
      return onEnd(z, Who::zygote);
    case What::ready:
    case What::refused:
      return onHello(z, answer);
    case What::spoiled:
      return client_->onSpoiled(z, answer.box);
    case What::made:
    case What::failed:
      if (client_->onClone(z, std::move(answer)) == Client::Said::breach) onEnd(z, Who::zygote);
  }
}

void Zygotes::onHello(Zygote& z, const CloneSource::Answer& answer) {
  if (z.stage != Stage::loading) return onEnd(z, Who::zygote);
  if (answer.what == CloneSource::Answer::What::refused) {
    Event event;
    event.kind = Kind::zygoteFailed;
    event.zygote_id = z.id;
    event.sys = answer.error;
    event.at_ns = monotonicNs();
    setText(event, "zygote", refusalText(answer));
    out_.send(event);
    z.told = true;
    return retire(z.id);  // before another zygote is published in its place
  }
  z.stage = Stage::serving;
  Event event;
  event.kind = Kind::zygoteReady;
  event.zygote_id = z.id;
  event.at_ns = monotonicNs();
  setText(event, "",
          z.image_mount == ImageMount::file ? "image mounted from its file"
                                            : "image mounted by a loop device");
  out_.send(event);
}

void Zygotes::onSilent(Zygote& z, Who who) {
  const bool restores = who == Who::zygote && z.source;
  onEnd(z, who,
        fmt::format("did not answer within {} ms",
                    restores ? z.source->answerMsMax() : kAnswerMsMax));
}

// Running boxes go on while pid 1 lives; new ones need a new zygote.
void Zygotes::onEnd(Zygote& z, Who who, const std::string& fault) {
  Fd& process = who == Who::pid1 ? z.pid1 : who == Who::maker ? z.maker : z.zygote;
  const char* const its_name = kNames[static_cast<size_t>(who)];
  const Exit exit = reap(process, poller_);
  if (z.stage >= Stage::ending) return;
  std::string how = exit.code != 0 ? describe(exit) : fault;
  std::string why = fmt::format("the template's {} {}", its_name, how);
  // Its last message says more than its exit code, whichever is seen first.
  if (who == Who::zygote && z.source && z.stage <= Stage::loading)
    if (auto last = z.source->receive();
        last.what == CloneSource::Answer::What::refused && last.error == 0)
      why = refusalText(last);
  if (isStarting(z.stage)) {
    Zygote::Failure failure;
    if (!z.start || !z.start->report || readReport(z, &failure) != StartWord::failed)
      failure = {its_name, Error{Code::internal, std::move(why), {}, 0}};
    return failStart(z, std::move(failure.step), std::move(failure.error));
  }
  if (who == Who::zygote && z.zygote_cgroup.oomKills() > 0)
    why += " at the memory cap of its zygote";
  const bool drains = z.stage == Stage::draining;
  if (who == Who::pid1) signalKill(z.pid1);
  if (!drains) {
    if (!z.told) tellGone(z, its_name, why);
    z.stage = Stage::draining;
  }
  poller_.unwatch(z.maker_channel.view());
  if (z.source) poller_.unwatch(z.source->answers());
  killProcesses(z, who == Who::pid1 ? Kill::all : Kill::helpers);
  client_->onAnswersLost(z, its_name, why);
  tryEnd(z);
}

}  // namespace mayfly::spawner
