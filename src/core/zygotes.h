// The zygotes of all lanes: started, renewed, restarted and retired as pool::TemplateRegistry says.
// A lane has one that serves or starts, perhaps a successor that starts beside it, and perhaps some
// that drain: they end with their last boxes.
//
// Layer: core. Core thread.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/boxes.h"
#include "core/context.h"
#include "core/log_pump.h"

namespace mayfly::core {

class Zygotes {
 public:
  Zygotes(Context& context, Boxes& boxes);
  ~Zygotes();

  // `seccomp`: the program of the template with this id, a sealed memfd. `snapshot`: the folder of
  // what its clones are restored from, or empty.
  void addTemplate(base::TemplateId id, base::Fd seccomp, base::Fd snapshot);
  // Each lane of the template gets a zygote that restores from this snapshot; the present one
  // drains. `done` is called once: from the first that serves, or with the reason why the present
  // snapshot stays.
  using Refreshed = std::function<void(base::Status)>;
  void refresh(base::TemplateId id, NewSnapshot snapshot, Refreshed done);
  // The lane's zygotes end when their boxes are gone.
  void closeLane(base::LaneId id);
  // Starts and renews whatever is due; to be called again whenever that may have changed.
  void run();
  void arm();

  void onSpawnerEvent(const spawner::Event& event);  // about a zygote
  void boxDropped(base::ZygoteId id);                // one of its boxes is proven gone
  // The zygote serves from here on; its predecessor drains. False: its lane is closed.
  bool promote(base::ZygoteId id);
  void refuse(base::ZygoteId id, std::string fault);  // it is unfit, and ends

  void stop();       // nothing more is started
  void retireAll();  // each end is an event
  bool empty() const { return zygotes_.empty(); }
  uint32_t countOf(base::TemplateId id) const;

 private:
  struct Snapshot {
    SpawnerLink::SharedFd folder;
    uint64_t number = 0;  // a newer one has a larger number; 0: of the daemon's start
    uint64_t memory_least_bytes = 0;
    uint32_t processes_least = 0;
    bool failed = false;  // a zygote could not serve from it: no lane goes over to it
  };
  // From `publish` until its end is reported.
  struct Zygote {
    base::TemplateId tmpl = 0;
    base::LaneId lane = 0;
    bool draining = false;  // replaced, or its lane is closed: it ends with its last box
    bool retiring = false;  // asked to end
    std::shared_ptr<LogPump> log;
    std::string fault;                   // why it was refused
    std::shared_ptr<Snapshot> snapshot;  // what it restores from; null: nothing
  };
  // A snapshot that no zygote has served from yet.
  struct Fresh {
    std::shared_ptr<Snapshot> snapshot;
    Refreshed done;
  };
  struct OfLane {
    base::ZygoteId serving = 0;    // or starting; 0: none
    base::ZygoteId successor = 0;  // starting beside it
  };

  void publish(base::LaneId id);
  void retire(base::ZygoteId id);
  void drain(base::ZygoteId id);
  void gone(base::ZygoteId id, std::string why);
  bool mayRenew(base::LaneId id) const;
  std::shared_ptr<Snapshot> snapshotFor(base::LaneId id, base::TemplateId tmpl) const;
  void renewOutdated();
  void withdrawRenewals(base::TemplateId id);
  void keepServed(base::TemplateId id, const Zygote& by);
  void settleFresh(base::TemplateId id, const Zygote& by, base::Status outcome);

  Context& x_;
  Boxes& boxes_;
  std::map<base::TemplateId, SpawnerLink::SharedFd> seccomp_;
  std::map<base::TemplateId, std::shared_ptr<Snapshot>> snapshots_;  // the newest that has served
  std::map<base::TemplateId, Fresh> fresh_;
  uint64_t last_snapshot_ = 0;  // its number
  std::map<base::LaneId, OfLane> lanes_;
  std::map<base::ZygoteId, Zygote> zygotes_;
  base::ZygoteId next_zygote_ = 1;
  boost::asio::steady_timer timer_;
};

}  // namespace mayfly::core
