#include "dashboard/pages.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "base/clock.h"
#include "dashboard/assets.h"
#include "dashboard/live.h"

namespace mayfly::dashboard {

using base::monotonicNs;
using metrics::SnapshotPtr;

namespace {

constexpr std::chrono::milliseconds kUpdatePeriod{1'000};
// Clients that come within this time share one message.
constexpr uint64_t kStateAge_ns = 1'000'000'000, kUpdateAge_ns = 300'000'000;
constexpr size_t kAllRows = metrics::kTicks;
constexpr size_t kRowCounts[] = {0, kRowsOfUpdate, 60, kAllRows};  // of a message

web::Response asset(const Asset& of) {
  web::Response response;
  response.type = of.type;
  response.etag = of.etag;
  response.cache = "no-cache";  // asked for again each time: another daemon has another page
  response.body = std::make_shared<const std::string>(of.body);
  return response;
}

// The messages of one server.
class Feed {
 public:
  explicit Feed(std::shared_ptr<metrics::Board> board) : board_(std::move(board)) {}

  void now(size_t rows, web::Reply reply) {
    auto kept = std::make_shared<web::Reply>(std::move(reply));
    board_->ask(monotonicNs(), kUpdateAge_ns, [this, kept, rows](const SnapshotPtr& snapshot) {
      kept->send(nowOf(*snapshot, rows));
    });
  }

  void listen(web::Reply reply) {
    auto stream = reply.events();
    board_->ask(monotonicNs(), kStateAge_ns,
                [this, stream = std::move(stream)](const SnapshotPtr& snapshot) {
                  if (stream->send(stateOf(snapshot))) channel_.add(stream);
                });
  }

  // Nobody listens: nobody asks, and the core makes no snapshot.
  void update() {
    if (channel_.size() == 0) return;
    board_->ask(monotonicNs(), kUpdateAge_ns, [this](const SnapshotPtr& snapshot) {
      channel_.publish(web::event("update", live_.message(*snapshot, kRowsOfUpdate)));
    });
  }

 private:
  const std::shared_ptr<const std::string>& stateOf(const SnapshotPtr& snapshot) {
    if (state_ == nullptr || state_serial_ != snapshot->serial) {
      state_ = web::event("state", live_.message(*snapshot, kAllRows));
      state_serial_ = snapshot->serial;
    }
    return state_;
  }

  // Made once for all who ask for as much of the same snapshot.
  const web::Response& nowOf(const metrics::Snapshot& snapshot, size_t rows) {
    if (now_serial_ != snapshot.serial) now_.clear();
    now_serial_ = snapshot.serial;
    const auto [at, is_new] = now_.try_emplace(rows);
    if (is_new) at->second = web::json(live_.message(snapshot, rows));
    return at->second;
  }

  std::shared_ptr<metrics::Board> board_;
  Live live_;
  std::map<size_t, web::Response> now_;  // by rows, of kRowCounts
  uint64_t now_serial_ = 0;
  web::Channel channel_;
  std::shared_ptr<const std::string> state_;
  uint64_t state_serial_ = 0;
};

// The next of kRowCounts; as many as an update has if the client says nothing that can be read.
size_t rowsOf(const web::Request& request) {
  const auto text = request.param("rows");
  size_t rows = kRowsOfUpdate;
  if (text) std::from_chars(text->data(), text->data() + text->size(), rows);
  return *std::find_if(std::begin(kRowCounts), std::end(kRowCounts) - 1,
                       [&](size_t each) { return each >= rows; });
}

}  // namespace

void addPages(web::Server& server, web::Router& router, std::shared_ptr<metrics::Board> board) {
  for (const Asset& each : assets()) {
    const web::Response response = asset(each);
    const auto answer = [response](const web::Request&, web::Reply reply) { reply.send(response); };
    router.get(std::string(each.path), answer, web::Access::open);
    if (each.path == "/index.html") router.get("/", answer, web::Access::open);
  }
  // The routes live as long as the server; so does what they hold.
  auto feed = std::make_shared<Feed>(std::move(board));
  router.get("/api/v1/now", [feed](const web::Request& request, web::Reply reply) {
    feed->now(rowsOf(request), std::move(reply));
  });
  router.get("/api/v1/live",
             [feed](const web::Request&, web::Reply reply) { feed->listen(std::move(reply)); });
  server.every(kUpdatePeriod, [feed] { feed->update(); });
}

}  // namespace mayfly::dashboard
