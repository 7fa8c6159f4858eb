// The spawner's part for templates: publish, retire, and what their helpers say.
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include <algorithm>

#include "base/clock.h"
#include "spawner/child.h"
#include "spawner/spawner.h"

namespace mayfly::spawner {

using base::BoxId;
using base::Code;
using base::monotonicNs;

namespace {

// A helper that dies with a request unread resets its channel.
bool isEnd(const base::Result<base::Received>& got) {
  return got ? got->bytes == 0 : got.error().sys == ECONNRESET;
}

}  // namespace

void Spawner::publish(const Request& request, base::Received& fds) {
  Event failed;
  failed.kind = Kind::zygoteFailed;
  failed.zygote_id = request.zygote_id;
  auto refuse = [&](const std::string& step, const std::string& text, int sys = 0) {
    failed.sys = sys;
    setText(failed, step, text);
    failed.at_ns = monotonicNs();
    send(failed);
  };
  for (const auto& [key, t] : templates_)
    if (t->id == request.zygote_id && !t->retiring)
      return refuse("request", "the zygote is published already");
  uint32_t slot = 0;
  while (slot + 1 < kUidRanges && slots_used_[slot]) ++slot;
  // The last range of a slot is the daemon's own.
  if (slot + 1 >= kUidRanges)
    return refuse("request", fmt::format("{} templates are published", kUidRanges - 1));
  uint32_t uid_base = kUidBase + options_.uid_slot * kUidsPerSlot + slot * kUidsPerRange;
  static uint32_t keys = 0;
  std::string step;
  auto made = publishTemplate(room_, tree_, request, ++keys, slot, uid_base, fds.fd[0].view(),
                              fds.fd[1].view(), &step);
  if (!made) return refuse(step, made.error().message, made.error().sys);
  slots_used_[slot] = true;
  Template& t = **made;
  uint64_t key = t.key;
  watch(t.pid1.get(), EPOLLIN, Source::templatePid1, key);
  watch(t.maker.get(), EPOLLIN, Source::maker, key);
  watch(t.maker_channel.get(), EPOLLIN, Source::makerChannel, key);
  watch(t.zygote.get(), EPOLLIN, Source::zygote, key);
  watch(t.zygote_channel.get(), EPOLLIN, Source::zygoteChannel, key);
  templates_[t.key] = std::move(*made);
}

void Spawner::retire(base::ZygoteId id) {
  auto it = std::find_if(templates_.begin(), templates_.end(), [id](const auto& each) {
    return each.second->id == id && !each.second->retiring;
  });
  if (it == templates_.end()) return;
  Template& t = *it->second;
  t.retiring = true;
  t.ready = false;
  for (auto& [box_id, box] : boxes_)
    if (box->owner == &t) signalKill(box->init);
  killTemplate(t, true);
  const uint32_t key = t.key;
  loseAnswers(t, "template", "the template is being retired");
  tryFinishTemplate(key);
}

// Boxes in the making wait for an answer that will not come.
void Spawner::loseAnswers(const Template& t, const char* who, const std::string& why) {
  std::vector<BoxId> waiting;
  for (auto& [id, box] : boxes_)
    if (box->owner == &t && (box->init_asked || box->clone_asked)) waiting.push_back(id);
  for (BoxId id : waiting)
    if (auto it = boxes_.find(id); it != boxes_.end()) {
      Box& box = *it->second;
      box.init_asked = box.clone_asked = false;
      box.answer_lost = true;
      if (box.ending)
        tryFinishReaping(box);
      else
        failBox(box, who, base::Error{Code::unavailable, why, {}, 0});
    }
}

// A process that dies closes its channel first: its pidfd will tell how it ended.
void Spawner::onChannelEnd(const Fd& channel, const Fd& process) {
  unwatch(channel);
  signalKill(process);
}

void Spawner::onMakerMessage(Template& t) {
  InitMade made;
  auto got = base::receiveMessage(t.maker_channel.view(), base::writableBytesOf(made));
  if (!got && got.error().sys == EAGAIN) return;
  if (isEnd(got)) return onChannelEnd(t.maker_channel, t.maker);
  if (!got || faultOf(made, got->bytes, got->fds) != nullptr || !isOurChild(got->fd[0]))
    return onTemplateDeath(t, "maker");
  auto found = boxes_.find(made.box);
  if (found == boxes_.end() || found->second->owner != &t || !found->second->init_asked)
    return onTemplateDeath(t, "maker");
  Box& box = *found->second;
  box.init_asked = false;
  if (got->fds == 1) {
    box.init = std::move(got->fd[0]);
    watch(box.init.get(), EPOLLIN, Source::init, box.id);
  }
  if (box.ending) {
    signalKill(box.init);
    return tryFinishReaping(box);
  }
  if (made.error != 0)
    return failBox(box, fmt::format("init: {}", made.step),
                   base::sysError(made.error, made.step, "the box's init"));
  if (box.stock) return tryStocked(box);
  if (auto asked = askClone(box); !asked) failAsk(box, asked.error());
}

void Spawner::onZygoteMessage(Template& t) {
  CloneMade made;
  auto got = base::receiveMessage(t.zygote_channel.view(), base::writableBytesOf(made));
  if (!got && got.error().sys == EAGAIN) return;
  if (isEnd(got)) return onChannelEnd(t.zygote_channel, t.zygote);
  // A template's own code may have written it.
  if (!got || faultOf(made, got->bytes, got->fds) != nullptr || !isOurChild(got->fd[0]))
    return onTemplateDeath(t, "zygote");
  if (made.box == 0) {
    Event event;
    event.kind = made.error == 0 ? Kind::zygoteReady : Kind::zygoteFailed;
    event.zygote_id = t.id;
    event.sys = made.error == kRefused ? 0 : made.error;
    event.at_ns = monotonicNs();
    if (made.error == 0) {
      t.ready = true;
      setText(event, "",
              t.image_mount == ImageMount::file ? "image mounted from its file"
                                                : "image mounted by a loop device");
    } else {
      t.told_gone = true;
      setText(event, "zygote", fmt::format("the zygote can't serve: {}", made.step));
    }
    send(event);
    if (made.error != 0) retire(t.id);  // before another one is published in its place
    return;
  }
  auto found = boxes_.find(made.box);
  if (found == boxes_.end() || found->second->owner != &t || !found->second->clone_asked)
    return onTemplateDeath(t, "zygote");
  Box& box = *found->second;
  box.clone_asked = false;
  if (got->fds == 1) {
    box.clone = std::move(got->fd[0]);
    watch(box.clone.get(), EPOLLIN, Source::clone, box.id);
  }
  if (box.ending) {
    signalKill(box.clone);
    return tryFinishReaping(box);
  }
  if (made.error != 0) {
    box.result.again =
        isDying(box.pid_host) ? 1 : 0;  // nothing can be forked beside an init that was killed
    return failBox(box, fmt::format("clone: {}", made.step),
                   base::sysError(made.error, "fork", "the clone"));
  }
  tryMade(box);
}

// A process of the template ended unasked. Boxes that run go on while pid 1
// lives; new ones need a new template.
void Spawner::onTemplateDeath(Template& t, const char* who) {
  std::string how = "broke the protocol";
  auto look = [&](Fd& pidfd, const char* name) {
    if (!pidfd) return;
    unwatch(pidfd);
    if (Exit exit = reap(pidfd); exit.code != 0 && strcmp(name, who) == 0)
      how = describe(exit);
    else if (pidfd)
      watch(pidfd.get(), EPOLLIN,
            name[0] == 'z'   ? Source::zygote
            : name[0] == 'm' ? Source::maker
                             : Source::templatePid1,
            t.key);
  };
  look(t.zygote, "zygote");
  look(t.maker, "maker");
  look(t.pid1, "pid 1");
  if (strcmp(who, "zygote") == 0 && t.zygote_cgroup.oomKills() > 0)
    how += " at the memory cap of its zygote";
  killTemplate(t, strcmp(who, "pid 1") == 0);
  bool told = t.told_gone;
  if (!t.retiring && !told) {
    Event event;
    event.kind = Kind::zygoteGone;
    event.zygote_id = t.id;
    event.at_ns = monotonicNs();
    setText(event, who, fmt::format("the template's {} {}", who, how));
    send(event);
  }
  t.told_gone = t.told_gone || !t.retiring;
  t.retiring = true;
  t.ready = false;
  const uint32_t key = t.key;
  loseAnswers(t, who, fmt::format("the template's {} {}", who, how));
  tryFinishTemplate(key);
}

// The kernel ends pid 1 after all others of its namespace are reaped, maker, zygote and strays:
// the timer calls again until then, and nobody else's box waits for it.
void Spawner::tryFinishTemplate(uint32_t key) {
  auto it = templates_.find(key);
  if (it == templates_.end() || !it->second->retiring || it->second->boxes != 0) return;
  Template& t = *it->second;
  if (t.end_deadline_ns == 0) {
    for (const Fd* fd : {&t.pid1, &t.maker, &t.zygote, &t.maker_channel, &t.zygote_channel})
      unwatch(*fd);
    killTemplate(t, true);
    t.end_deadline_ns = monotonicNs() + kReapMsMax * kMsNs;
  }
  for (Fd* process : {&t.zygote, &t.maker})
    if (*process) (void)reap(*process);
  reapStrays();
  if (t.pid1) (void)reap(t.pid1);
  const bool late = monotonicNs() > t.end_deadline_ns;
  if ((t.zygote || t.maker || t.pid1) && !late) return;
  auto removed = removeTemplate(t);
  if (!removed && removed.error().sys == EBUSY && !late) return;
  if (!t.told_gone) {
    Event event;
    event.kind = Kind::zygoteGone;
    event.zygote_id = t.id;
    event.at_ns = monotonicNs();
    setText(event, "", removed ? "retired" : removed.error().message);
    send(event);
  }
  slots_used_[t.slot] = false;
  templates_.erase(it);
}

}  // namespace mayfly::spawner
