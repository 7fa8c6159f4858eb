// mayflyd's link to the broker: the supervisor (which says what lives), the front (which gets the
// doors of boxes) and the vault (which has the sessions).
//
// Implements sched::Broker. What is to be done when is SessionMachine's decision; this class does
// it. Their deaths end no task: doors and sessions go to the next front and vault. mayflyd believes
// the supervisor that a process has ended; front and vault it believes nothing but their
// confirmations.
//
// Layer: app. Core thread; a client of Vault on the RPC's own KJ loop.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "app/message_channel.h"
#include "base/fd.h"
#include "base/observer.h"
#include "base/result.h"
#include "sched/broker.h"
#include "sched/session_machine.h"
#include "wire/front.h"

namespace mayfly::edge {
class AsioPort;
}

namespace mayfly::app {

class BrokerLink final : public sched::Broker, private MessageChannel::Handler {
 public:
  // The observer outlives the link.
  BrokerLink(boost::asio::io_context& io, base::Observer& observer);
  ~BrokerLink() override;

  // The supervisor's channel and process. Call once.
  base::Status listen(base::Fd supervisor, uint32_t pid);
  // From now on there is a loop to call the vault on; until detach().
  void attach(edge::AsioPort& port);
  // No callback follows, and every session's object is inert.
  void detach();
  void reload();  // the policy, now
  // Asks the vault for its counts; the answer goes to the observer. At most one question at a time.
  void count();
  // Calls once: when sessions can be opened, or when it is clear that none can for now. Call once,
  // after attach().
  void onceUp(std::function<void()> done);

  // sched::Broker
  void open(sched::SessionSpec spec, Opened opened) override;

  size_t sessions() const { return lives_.size(); }

 private:
  struct Life;
  struct Vault;
  class Handle;
  class ToolsServer;
  using LifePtr = std::shared_ptr<Life>;
  using Acts = sched::SessionMachine::Acts;

  // MessageChannel::Handler
  base::Status receive(MessageChannel& channel, base::FdView socket) override;
  void onLost(MessageChannel& channel, const base::Error& why) override;

  base::Status receiveLink(base::FdView socket);
  base::Status receiveDoor(base::FdView socket);
  void onLink(wire::LinkEvent& event, base::Fd fd);
  void frontUp(base::Fd socket);
  void frontDown();
  void vaultUp(base::Fd socket);
  void vaultDown();
  void vaultLinkLost(const Vault* lost);

  // --- sessions ---
  void each(const std::function<Acts(sched::SessionMachine&)>& event);
  void act(const LifePtr& life, const Acts& acts);
  void armTimer(const LifePtr& life);
  void askOpen(const LifePtr& life);
  void onOpened(const LifePtr& life, base::Status opened);
  void revokeAgain(const LifePtr& life, const std::vector<std::string>& asked);
  void askActivate(const LifePtr& life);
  void askRevoke(const LifePtr& life);
  void openDoor(const LifePtr& life);
  void closeDoor(const LifePtr& life);
  void restart(wire::LinkRequest::Kind kind);
  void started();
  void reap(uint32_t tries_left);
  void tell(sched::Session::Left left, const sched::SessionEnd& end);
  void forget(const LifePtr& life);

  // --- calls of a session's object ---
  void begin(const LifePtr& life, base::TaskId task, uint64_t expires_ms, sched::Doors doors);
  void leave(const LifePtr& life, sched::Session::Left left);
  void end(const LifePtr& life, sched::Session::Left left);
  void revoke(const LifePtr& life, const std::string& name, std::function<void(base::Status)> done);

  boost::asio::io_context& io_;
  base::Observer& observer_;
  edge::AsioPort* port_ = nullptr;  // null: detached
  MessageChannel supervisor_, front_;
  std::unique_ptr<Vault> vault_;  // null: none lives
  bool front_up_ = false;
  bool refused_ = false;  // the policy, as it is now
  boost::asio::steady_timer front_timer_, vault_timer_, start_timer_, reap_timer_;
  uint32_t pids_[3] = {};  // of supervisor, front, vault: to reap once the supervisor has ended
  std::function<void()> once_up_;
  bool restart_asked_[2] = {};  // of the front, of the vault
  bool counting_ = false;
  uint64_t next_life_ = 1;
  std::map<uint64_t, LifePtr> lives_;   // by a number of our own
  std::map<uint64_t, uint64_t> doors_;  // the front's: session number -> life
  std::shared_ptr<BrokerLink*> self_;   // for sessions' objects; null after detach()
};

}  // namespace mayfly::app
