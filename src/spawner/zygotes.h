// The zygotes of this spawner: published, serving, retired. Each has a stage and a deadline of its
// own in the loop, so a zygote that hangs at its start or end delays only itself.
//
//   mounting -> startingPid1 -> startingMaker -> startingZygote -> loading -> serving
//   serving -> dying -> draining        a process of it ended
//   any of them -> draining             retired, or failed
//   draining -> ending -> unmounting -> removing -> gone       once no box of it lives
//
// Its slot, with the ids and the mount point, is free again only when the zygote is gone.
//
// Layer: spawner. One thread. Never blocks.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "spawner/outbox.h"
#include "spawner/poller.h"
#include "spawner/zygote.h"
#include "wire/zygote.h"

namespace mayfly::spawner {

inline constexpr uint64_t kMountMsMax = 10'000;
inline constexpr uint64_t kStartMsMax = 10'000;  // pid 1, maker or zygote, until its exec

class Zygotes {
 public:
  // The user of zygotes, which makes boxes from them.
  class Client {
   public:
    virtual ~Client() = default;
    enum class Said : uint8_t { inPlace, breach };
    // `init` is empty if none was made.
    virtual Said onInitMade(Zygote& z, const wire::InitMade& made, base::Fd init) = 0;
    virtual Said onClone(Zygote& z, CloneSource::Answer answer) = 0;
    virtual void onSpoiled(const Zygote& z, base::BoxId box) = 0;
    // `who` of the zygote will never answer again.
    virtual void onAnswersLost(const Zygote& z, const char* who, const std::string& why) = 0;
    virtual void onRetired(const Zygote& z) = 0;  // its boxes end with it
  };

  Zygotes(Poller& poller, Outbox& out, const Room& room, const CgroupTree& tree, uint32_t uid_slot)
      : poller_(poller), out_(out), room_(room), tree_(tree), uid_slot_(uid_slot) {}
  void setClient(Client& client) { client_ = &client; }
  void setReaper(std::function<void()> reap_strays) { reap_strays_ = std::move(reap_strays); }

  void publish(const wire::Request& request, base::Received& fds);
  void refuse(const wire::Request& request, const std::string& step, const std::string& text);
  void retire(base::ZygoteId id);
  void retireAll();  // sends no reports to mayflyd

  Zygote* findServing(base::ZygoteId id);
  // A box no longer holds any part of the zygote.
  void release(Zygote& z);
  // The zygote took no request. If its source has closed its end, the end of the process is
  // reported first.
  void suspect(Zygote& z);
  // Its maker or its source of clones owes an answer for too long.
  enum class Who : uint8_t { pid1, maker, zygote };
  void onSilent(Zygote& z, Who who);

  void onEvent(Source source, uint32_t key);
  uint64_t nextTimer() const;  // monotonic ns; UINT64_MAX: none
  void runTimers();
  bool empty() const { return zygotes_.empty(); }
  bool owns(const std::function<bool(const base::Fd&)>& is) const;

 private:
  void onHelperEnd(Zygote& z);
  void enter(Zygote& z, ZygoteStage stage);
  void onReport(Zygote& z);
  void onMakerMessage(Zygote& z);
  void onSourceAnswer(Zygote& z);
  void onHello(Zygote& z, const CloneSource::Answer& answer);
  void onChannelEnd(Zygote& z, base::FdView channel, const base::Fd& process);
  // A process ended; or, if it lives, it is ended for `fault`.
  void onEnd(Zygote& z, Who who, const std::string& fault = "broke the protocol");
  void failStart(Zygote& z, std::string step, base::Error error);
  void drain(Zygote& z);
  void tryEnd(Zygote& z);
  void beginUnmount(Zygote& z);
  void tryRemove(Zygote& z);
  void tellGone(Zygote& z, const char* step, const std::string& text);
  void tellLast(Zygote& z, const std::string& text);
  void onLate(Zygote& z);

  Poller& poller_;
  Outbox& out_;
  const Room& room_;
  const CgroupTree& tree_;
  const uint32_t uid_slot_;
  Client* client_ = nullptr;
  std::function<void()> reap_strays_;
  std::map<uint32_t, std::unique_ptr<Zygote>> zygotes_;  // by key
  std::vector<bool> slots_used_ = std::vector<bool>(wire::kUidRanges, false);
  uint32_t keys_ = 0;
};

}  // namespace mayfly::spawner
