// The spawner: the only process with host capabilities. It makes and ends boxes
// on mayflyd's word and reports what the kernel says of them.
//
// One thread, one epoll loop. mayflyd decides what and when; here is only how.
// The end of mayflyd's connection ends every box and the spawner.
//
// Layer: spawner.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <set>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "spawner/cgroup.h"
#include "spawner/room.h"
#include "spawner/template.h"
#include "wire/spawner.h"
#include "wire/zygote.h"

namespace mayfly::spawner {

using namespace wire;

struct Options {
  std::string instance;
  std::string images_dir;
  uint32_t uid_slot = 0;
};

class Spawner {
 public:
  // Enters the room, finds the cgroups, drops to the least capabilities.
  static base::Result<std::unique_ptr<Spawner>> start(base::Fd daemon, const Options& options);
  int run();  // until mayflyd goes; the exit code

 private:
  // What an epoll event is about; the box or template id rides along.
  enum class Source : uint8_t {
    daemon,
    templatePid1,
    maker,
    makerChannel,
    zygote,
    zygoteChannel,
    initStatus,
    init,
    clone,
    memoryCap,
    processCap,
    collector
  };
  static constexpr size_t kOutboxMax = 65'536;  // events that mayflyd has not read yet

  enum class Stage : uint8_t {
    waitingInit,
    stocked,
    waitingClone,
    made,
    reaping,
    collecting,
    freeing,
    removing,
    stuck
  };
  struct Box {
    base::BoxId id = 0;
    Template* owner = nullptr;
    Stage stage = Stage::waitingInit;
    base::Limits limits;
    uint32_t uid_first = 0;
    BoxCgroups cgroups;
    base::Fd init, clone;  // pidfds; empty once reaped
    base::Fd init_status;  // our end of the init's socket; its close ends the init
    base::Fd disk;         // root of the box's disk
    base::Fd memory_watch, process_watch;
    base::Fd collector;  // or who frees the disk
    base::Fd spool;
    bool init_asked = false, clone_asked = false;  // an answer with a pidfd is still to come
    bool answer_lost = false;                      // it never will: maker or zygote died with it
    bool stock = false;                            // no clone is asked for yet
    bool rehearse = false;
    bool ready = false;                      // the init said that the box stands
    bool ending = false, end_asked = false;  // end_asked: mayflyd knows the box and wants its end
    bool watches_told[2] = {};
    uint32_t collect_ms_max = 0;
    CollectState collect_state = CollectState::none;
    uint64_t deadline_ns = 0;  // of the present stage
    uint64_t next_try_ns = 0;  // of a removal that was busy
    uint32_t tries = 0;
    Event result;                                 // boxReaped, then boxGone, as it grows
    uint64_t box_ready_ns = 0, restarted_ns = 0;  // the latter of the counters
    base::Fd go, go_theirs;  // pipe to the clone: a byte of the init's (the box stands), one of
                             // ours (its task may start)
    base::Fd their_fds[4];   // control, stdin, stdout, stderr: the clone's ends
    base::Fd our_fds[4];
    uint32_t pid_host = 0;
  };

  Spawner() = default;

  // --- loop ---
  void watch(int fd, uint32_t events, Source source, uint64_t id);
  void unwatch(const base::Fd& fd);
  void dispatch(Source source, uint64_t id, uint32_t events);
  int msUntilNextTimer() const;
  void runTimers();
  void send(const Event& event, const std::vector<int>& fds = {});
  void flushOutbox();

  // --- mayflyd's requests ---
  bool readRequests();
  bool onUnsound(const Request& request, const char* what);
  void doOneRequest();
  void publish(const Request& request, base::Received& fds);
  void retire(base::ZygoteId id);
  void make(const Request& request);
  void clone(const Request& request);
  void claim(const Request& request);
  void end(const Request& request, base::Received& fds);
  void sample(base::BoxId id);

  // --- templates ---
  void onChannelEnd(const base::Fd& channel, const base::Fd& process);
  void onMakerMessage(Template& t);
  void onZygoteMessage(Template& t);
  void onTemplateDeath(Template& t, const char* who);
  void loseAnswers(const Template& t, const char* who, const std::string& why);
  void tryFinishTemplate(uint32_t key);
  void retireAll();

  // --- a box's way ---
  base::Status prepareBox(Box& box);
  base::Status askInit(Box& box);
  base::Status makeChannels(Box& box);
  void onInitStatus(Box& box);
  base::Status askClone(Box& box);
  void tryMade(Box& box);
  void tryStocked(Box& box);
  void failAsk(Box& box, const base::Error& error);
  base::Status changeCaps(Box& box, const base::Limits& limits);
  void failBox(Box& box, const std::string& step, const base::Error& error);
  void beginEnd(Box& box);
  void onInitExit(Box& box);
  void onCloneExit(Box& box);
  void sendBoxDied(const Box& box, const std::string& how);
  void onCapEvent(Box& box, Cap cap);
  void readDisk(const Box& box, Counters* counters) const;
  void restartCounters(Box& box);
  void tryFinishReaping(Box& box);
  void reapStrays();
  bool isKnown(uint32_t pid) const;
  void afterReaped(Box& box);
  void freeDisk(Box& box);
  void awaitChild(Box& box, base::Fd child, Stage stage, uint64_t ms_max);
  void onCollectorExit(Box& box);
  void beginRemove(Box& box);
  void tryRemove(Box& box);
  void reportStuck(Box& box, const std::string& what);
  void dropBox(base::BoxId id);
  void shutDown();

  Options options_;
  base::Fd daemon_, epoll_;
  const uint64_t cores_ = static_cast<uint64_t>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
  Room room_;
  CgroupTree tree_;
  struct Outgoing {
    Event event;
    std::vector<base::Fd> fds;
  };
  std::deque<Outgoing> outbox_;
  std::map<uint32_t, std::unique_ptr<Template>> templates_;  // by their keys
  std::unordered_map<base::BoxId, std::unique_ptr<Box>> boxes_;
  std::set<base::BoxId> ending_;                             // of boxes_: those that timers are for
  std::deque<std::pair<Request, base::Received>> requests_;  // read, not done yet
  std::vector<bool> slots_used_ = std::vector<bool>(kUidRanges, false);
  bool stopping_ = false;
  uint64_t stop_deadline_ns_ = 0;
};

}  // namespace mayfly::spawner
