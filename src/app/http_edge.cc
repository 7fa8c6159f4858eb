#include "app/http_edge.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <utility>

#include "base/clock.h"
#include "base/text.h"
#include "dashboard/pages.h"
#include "metrics/exposition.h"

namespace mayfly::app {

namespace {

constexpr std::chrono::milliseconds kStopTime{1'000};
constexpr uint32_t kBacklog = 128;
constexpr uint64_t kHealthAge_ns = 1'000'000'000;  // a younger snapshot proves that the core runs
constexpr uint64_t kScrapeWait_ns = 2'000'000'000;
constexpr std::chrono::milliseconds kScrapeLook{500};

uint64_t unixMs() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000 + static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
}

uint64_t threadCpuNs() {
  timespec used{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<uint64_t>(used.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(used.tv_nsec);
}

metrics::RecorderOptions recorderOptions(const config::Daemon& s, std::string version,
                                         uint64_t started_ms) {
  metrics::RecorderOptions o;
  o.instance = s.instance;
  o.version = std::move(version);
  o.started_ms = started_ms;
  o.slow_task_ns = s.slow_task_ms * 1'000'000;
  o.tenants_max = s.http.tenants_max;
  o.broker = !s.broker_policy.empty();
  return o;
}

// Why the daemon is not ready, for people.
std::string reasons(const metrics::Snapshot& s) {
  std::string out;
  if (s.stopping) out += "the daemon stops\n";
  for (const metrics::Template& t : s.templates)
    if (t.state != "ready")
      out += fmt::format("template '{}' is {}{}{}\n", t.name, t.state,
                         t.state_why.empty() ? "" : ": ", t.state_why);
  if (s.broker.configured && !(s.broker.front_up && s.broker.vault_up))
    out += "the broker is not up: tasks with grants are refused\n";
  return out;
}

}  // namespace

// The board, and the text of the last scrape, which further scrapes of the same snapshot share.
struct HttpEdge::Pages {
  struct Scraper {
    uint64_t since_ns = 0;
    std::weak_ptr<web::Reply> reply;  // the board's, until it is answered
  };
  metrics::Board board;
  uint64_t serial = 0;
  std::shared_ptr<const std::string> text;
  std::deque<Scraper> scrapers;

  web::Response answer(const metrics::SnapshotPtr& s, const web::Counts& http) {
    if (!text || serial != s->serial) {
      text = textOf(*s, http);
      serial = s->serial;
    }
    return asResponse(text);
  }

  // A core thread that is stuck makes no snapshot: the latest one tells so, by its age.
  void answerLate(const web::Counts& http) {
    const uint64_t now_ns = base::monotonicNs();
    for (; !scrapers.empty(); scrapers.pop_front()) {
      const auto reply = scrapers.front().reply.lock();
      if (reply && now_ns - scrapers.front().since_ns < kScrapeWait_ns) return;
      const metrics::SnapshotPtr latest = board.latest();
      if (reply && latest) reply->send(asResponse(textOf(*latest, http)));
    }
  }

 private:
  static std::shared_ptr<const std::string> textOf(const metrics::Snapshot& s,
                                                   const web::Counts& http) {
    metrics::Scrape scrape;
    scrape.age_ns = base::monotonicNs() - std::min(base::monotonicNs(), s.made_ns);
    scrape.http_connections = http.open;
    scrape.http_streams = http.streams;
    scrape.http_requests = http.requests;
    scrape.http_refused = http.refused;
    scrape.http_unauthorised = http.unauthorised;
    scrape.http_slow = http.dropped_slow;
    return std::make_shared<const std::string>(metrics::prometheusText(s, scrape));
  }
  static web::Response asResponse(std::shared_ptr<const std::string> text) {
    web::Response r;
    r.type = metrics::kPrometheusType;
    r.body = std::move(text);
    return r;
  }
};

HttpEdge::HttpEdge(const config::Daemon& s, std::string version, uint64_t started_ms)
    : recorder_(recorderOptions(s, std::move(version), started_ms),
                [] {
                  return metrics::Moment{base::monotonicNs(), unixMs()};
                }),
      pages_(std::make_shared<Pages>()) {}

HttpEdge::~HttpEdge() { stop(); }

base::Result<std::unique_ptr<HttpEdge>> HttpEdge::open(const config::Daemon& s, std::string version,
                                                       uint64_t started_ms, int spawner) {
  if (s.http.listen.empty()) return std::unique_ptr<HttpEdge>();
  MAYFLY_TRY(const web::Address address, web::parseAddress(s.http.listen));
  std::unique_ptr<HttpEdge> edge(new HttpEdge(s, std::move(version), started_ms));
  web::Options& o = edge->options_;
  if (!s.http.token_file.empty()) {
    MAYFLY_TRY(o.token, web::readToken(s.http.token_file));
  } else if (!address.loopback) {
    return base::fail(base::Code::invalidArgument,
                      "http.listen: '" + base::printable(s.http.listen) +
                          "' is not on loopback, and http.token_file names no token",
                      "Set http.token_file, or listen on 127.0.0.1.");
  }
  o.loopback = address.loopback;
  o.connections_max = s.http.connections_max;
  o.per_host_max = std::max(1u, s.http.connections_max / 2);
  MAYFLY_TRY(edge->own_, OwnProcess::open(spawner));
  MAYFLY_TRY(edge->listener_, web::listenHttp(address, kBacklog));
  const std::string host =
      address.host.find(':') != std::string::npos ? "[" + address.host + "]" : address.host;
  edge->url_ = fmt::format("http://{}:{}/", host, web::portOf(edge->listener_.view()));
  return edge;
}

base::Status HttpEdge::start(boost::asio::io_context& io,
                             std::function<base::CoreReport()> report) {
  report_ = std::move(report);
  MAYFLY_TRY(server_, web::Server::start(std::move(listener_), options_,
                                         [this](web::Server& server, web::Router& router) {
                                           routes(server, router);
                                         }));
  pages_->board.setReader([this](std::function<void()> work) { server_->post(std::move(work)); });
  timer_ = std::make_unique<boost::asio::steady_timer>(io);
  tick_due_ns_ = base::monotonicNs();
  arm();
  spdlog::info("http: metrics on {}metrics", url_);
  return base::Unit{};
}

// A look takes at most a hundredth of the core's time, however much there is to look at.
void HttpEdge::arm() {
  const uint64_t pause_ns =
      std::clamp(100 * look_ns_, metrics::Board::kPeriod_ns, metrics::kTickMs * 1'000'000);
  timer_->expires_after(std::chrono::nanoseconds(pause_ns));
  timer_->async_wait([this](boost::system::error_code failed) {
    if (failed) return;
    look();
    arm();
  });
}

void HttpEdge::look() {
  const uint64_t now_ns = base::monotonicNs(), cpu_ns = threadCpuNs();
  const bool tick = now_ns >= tick_due_ns_;
  const bool asked = pages_->board.asked();
  if (!tick && !asked) return;
  const base::CoreReport report = report_();
  const metrics::Process process = own_.read();
  if (tick) {
    recorder_.tick(report, process);
    tick_due_ns_ = std::max(tick_due_ns_ + metrics::kTickMs * 1'000'000, now_ns);
    if (on_tick_) on_tick_();
  }
  if (asked) pages_->board.publish(recorder_.snapshot(report, process, stopping_));
  look_ns_ = threadCpuNs() - cpu_ns;
}

void HttpEdge::stop() {
  if (timer_) timer_->cancel();
  report_ = [] { return base::CoreReport{}; };
  pages_->board.setReader({});
  if (!server_ || server_->stop(kStopTime)) return;
  spdlog::warn("http: its thread does not end, ignoring");
  (void)server_.release();  // the thread may still look at it
}

// --- the HTTP thread ---------------------------------------------------------------------------

void HttpEdge::routes(web::Server& server, web::Router& router) {
  const auto pages = pages_;
  dashboard::addPages(server, router, std::shared_ptr<metrics::Board>(pages, &pages->board));
  const auto asked = [pages](uint64_t age_ns_max, web::Reply reply, auto answer) {
    auto kept = std::make_shared<web::Reply>(std::move(reply));
    std::weak_ptr<web::Reply> waits = kept;
    pages->board.ask(
        base::monotonicNs(), age_ns_max,
        [kept = std::move(kept), answer](const metrics::SnapshotPtr& s) { kept->send(answer(s)); });
    return waits;
  };
  router.get("/metrics", [pages, asked, &server](const web::Request&, web::Reply reply) {
    auto waits = asked(metrics::Board::kPeriod_ns, std::move(reply),
                       [pages, &server](const metrics::SnapshotPtr& s) {
                         return pages->answer(s, server.counts());
                       });
    if (!waits.expired()) pages->scrapers.push_back({base::monotonicNs(), std::move(waits)});
  });
  server.every(kScrapeLook, [pages, &server] { pages->answerLate(server.counts()); });
  router.get(
      "/healthz",
      [asked](const web::Request&, web::Reply reply) {
        asked(kHealthAge_ns, std::move(reply),
              [](const metrics::SnapshotPtr&) { return web::text(200, "ok\n"); });
      },
      web::Access::open);
  router.get(
      "/readyz",
      [asked](const web::Request&, web::Reply reply) {
        asked(metrics::Board::kPeriod_ns, std::move(reply), [](const metrics::SnapshotPtr& s) {
          return s->ready ? web::text(200, "ready\n" + reasons(*s))
                          : web::text(503, "not ready\n" + reasons(*s));
        });
      },
      web::Access::open);
}

}  // namespace mayfly::app
