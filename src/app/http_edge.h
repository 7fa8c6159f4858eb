// Metrics and pages over HTTP: connects the core's figures with the HTTP server's thread.
//
// The core thread counts into the recorder; four times a second it looks whether somebody has asked
// for a snapshot, and every 2 s it ends a tick of the recent past. The HTTP thread asks, and turns
// snapshots into text. Neither waits for the other.
//
// Layer: app. Core thread, but for the handlers, which run on the HTTP thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "app/own_process.h"
#include "base/core_report.h"
#include "base/observer.h"
#include "base/result.h"
#include "config/daemon.h"
#include "metrics/board.h"
#include "metrics/recorder.h"
#include "web/server.h"

namespace mayfly::app {

class HttpEdge {
 public:
  // While the daemon is root: the token, the socket, what shows the process to itself. Null: the
  // settings name no address. `spawner`: its pid.
  static base::Result<std::unique_ptr<HttpEdge>> open(const config::Daemon& settings,
                                                      std::string version, uint64_t started_ms,
                                                      int spawner);
  ~HttpEdge();

  metrics::Recorder& recorder() { return recorder_; }
  // Before the allow-list of system calls: starts the thread. `report` is called on the core
  // thread.
  base::Status start(boost::asio::io_context& io, std::function<base::CoreReport()> report);
  void onTick(std::function<void()> also) { on_tick_ = std::move(also); }
  void stopping() { stopping_ = true; }
  // No call of `report` follows. A thread that is stuck is left alone.
  void stop();

 private:
  HttpEdge(const config::Daemon& settings, std::string version, uint64_t started_ms);
  void arm();
  void look();
  void routes(web::Server& server, web::Router& router);

  web::Options options_;
  std::string url_;
  base::Fd listener_;
  OwnProcess own_;
  metrics::Recorder recorder_;
  std::function<base::CoreReport()> report_;
  std::function<void()> on_tick_;
  std::unique_ptr<boost::asio::steady_timer> timer_;
  uint64_t tick_due_ns_ = 0;
  uint64_t look_ns_ = 0;  // of the core's processor, for the last look
  bool stopping_ = false;
  // Of both threads; last, so that the HTTP thread ends first.
  struct Pages;
  std::shared_ptr<Pages> pages_;  // the HTTP thread's, which may outlive this object if it is stuck
  std::unique_ptr<web::Server> server_;
};

}  // namespace mayfly::app
