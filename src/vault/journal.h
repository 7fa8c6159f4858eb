// What write actions did: recorded before each is done, so that none is done twice.
//
// An action is begun, then done with its outcome. One that was begun when the vault died is unknown
// for good: whether its upstream did it, nobody here can tell.
//
// Layer: vault. `Journal` is blocking and belongs to one thread; `JournalThread` is that thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>

#include "base/result.h"

struct sqlite3;
struct sqlite3_stmt;

namespace mayfly::vault {

struct Outcome {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  bool body_kept = true;  // false: it was too large to keep
};

struct Recorded {
  enum class State : uint8_t {
    begun,     // this is the first: it may be done now
    underWay,  // another call with the same key is doing it
    done,      // with `outcome`
    unknown,
  };
  State state = State::begun;
  uint32_t epoch = 0;  // of the session that began it
  Outcome outcome;
};

class Journal {
 public:
  // `path`: of the database's file; nobody else has it open. Unfinished actions become unknown.
  static base::Result<Journal> open(const std::string& path);
  Journal(Journal&& other) noexcept
      : db_(std::exchange(other.db_, nullptr)),
        bytes_max_(other.bytes_max_),
        unswept_(other.unswept_),
        full_(other.full_) {}
  ~Journal();

  // On disk when it returns `begun`.
  base::Result<Recorded> begin(const std::string& key, uint64_t task, uint32_t epoch,
                               const std::string& action, uint64_t now_ms);
  base::Status finish(const std::string& key, const Outcome& outcome, uint64_t now_ms);
  // The upstream cannot have got it: a repeat may do it.
  base::Status forget(const std::string& key);
  // It was sent, and how it ended is not known.
  base::Status lose(const std::string& key);
  // How many actions of the task's are recorded.
  base::Result<uint64_t> count(uint64_t task, const std::string& action);
  // Drops what is older, but for what is under way. Of what is left, the oldest answers go until
  // all is within the bound; the records stay, or a task that writes much could make another's
  // write be done twice. If the records alone are beyond the bound, `begin` takes no new one.
  base::Status expire(uint64_t older_than_ms, uint64_t bytes_max);

 private:
  explicit Journal(sqlite3* db) : db_(db) {}
  base::Status run(const char* sql);
  base::Status shrink();

  sqlite3* db_;
  uint64_t bytes_max_ = 1ull << 30;
  uint64_t unswept_ = 0;  // bytes of answers since the last shrink()
  bool full_ = false;
};

// A disk's write must not hold up the loop.
class JournalThread {
 public:
  JournalThread(boost::asio::io_context& io, Journal journal)
      : io_(io), journal_(std::move(journal)), thread_(1) {}
  ~JournalThread();  // after the last write

  // Runs `work` on the thread, then `done` with its result on the loop, while this object lives.
  template <class T>
  void ask(std::function<T(Journal&)> work, std::function<void(T)> done);

 private:
  void post(std::function<void()> work);
  void answer(std::function<void()> done);

  boost::asio::io_context& io_;
  Journal journal_;
  boost::asio::thread_pool thread_;
  std::shared_ptr<JournalThread*> self_ = std::make_shared<JournalThread*>(this);
};

template <class T>
void JournalThread::ask(std::function<T(Journal&)> work, std::function<void(T)> done) {
  post([this, work = std::move(work), done = std::move(done)]() mutable {
    auto result = std::make_shared<T>(work(journal_));
    answer([result, done = std::move(done)] { done(std::move(*result)); });
  });
}

}  // namespace mayfly::vault
