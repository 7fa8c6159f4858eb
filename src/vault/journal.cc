#include "vault/journal.h"

#include <sqlite3.h>

#include <nlohmann/json.hpp>

#include <boost/asio/post.hpp>

namespace mayfly::vault {

using base::Code;
using base::Result;
using base::Status;

namespace {

constexpr int64_t kBegun = 0, kDone = 1;  // 2: unknown

base::Error journalError(sqlite3* db, const char* what) {
  return base::Error{Code::internal,
                     std::string("the journal: ") + what + ": " + ::sqlite3_errmsg(db),
                     "Look at the free space of the broker's folder.", 0};
}

// A prepared statement, with its values in order.
class Statement {
 public:
  Statement(sqlite3* db, const char* sql) : db_(db) {
    ::sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr);
  }
  ~Statement() { ::sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;

  Statement& operator<<(uint64_t value) {
    ::sqlite3_bind_int64(statement_, ++bound_, static_cast<sqlite3_int64>(value));
    return *this;
  }
  Statement& operator<<(const std::string& bytes) {
    ::sqlite3_bind_blob64(statement_, ++bound_, bytes.data(), bytes.size(), SQLITE_TRANSIENT);
    return *this;
  }
  // SQLITE_ROW, SQLITE_DONE, or an error.
  int step() { return statement_ == nullptr ? SQLITE_ERROR : ::sqlite3_step(statement_); }
  Status run(const char* what) {
    if (step() == SQLITE_DONE) return base::Unit{};
    return base::fail(journalError(db_, what));
  }
  int64_t number(int column) { return ::sqlite3_column_int64(statement_, column); }
  std::string bytes(int column) {
    const auto* data = static_cast<const char*>(::sqlite3_column_blob(statement_, column));
    return data == nullptr
               ? std::string()
               : std::string(data, static_cast<size_t>(::sqlite3_column_bytes(statement_, column)));
  }

 private:
  sqlite3* db_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
};

std::string textOf(const Outcome& outcome) {
  nlohmann::json headers = nlohmann::json::array();
  for (const auto& [name, value] : outcome.headers) headers.push_back({name, value});
  return headers.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

Result<Journal> Journal::open(const std::string& path) {
  sqlite3* db = nullptr;
  // Without locks of files: the supervisor starts one vault at a time, after the end of the last.
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX;
  const int code = ::sqlite3_open_v2(path.c_str(), &db, flags, "unix-none");
  Journal journal(db);
  if (code != SQLITE_OK) return base::fail(journalError(db, "cannot open it"));
  MAYFLY_CHECK(journal.run(
      "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
      "PRAGMA temp_store=MEMORY; PRAGMA journal_size_limit=16777216;"
      "CREATE TABLE IF NOT EXISTS actions(key BLOB PRIMARY KEY, task INTEGER NOT NULL,"
      " epoch INTEGER NOT NULL, action BLOB NOT NULL, state INTEGER NOT NULL, at_ms INTEGER NOT "
      "NULL,"
      " status INTEGER NOT NULL DEFAULT 0, headers BLOB, body BLOB,"
      " body_kept INTEGER NOT NULL DEFAULT 1, bytes INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;"
      "CREATE INDEX IF NOT EXISTS by_task ON actions(task, action);"
      "CREATE INDEX IF NOT EXISTS by_age ON actions(at_ms);"
      "UPDATE actions SET state=2 WHERE state=0;"));
  return journal;
}

Journal::~Journal() { ::sqlite3_close(db_); }

Status Journal::run(const char* sql) {
  if (::sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) == SQLITE_OK) return base::Unit{};
  return base::fail(journalError(db_, "a statement"));
}

Result<Recorded> Journal::begin(const std::string& key, uint64_t task, uint32_t epoch,
                                const std::string& action, uint64_t now_ms) {
  Statement find(db_,
                 "SELECT state, status, headers, body, body_kept, epoch FROM actions WHERE key=?");
  const int found = (find << key).step();
  if (found != SQLITE_ROW && found != SQLITE_DONE) return base::fail(journalError(db_, "a look"));
  Recorded recorded;
  if (found == SQLITE_DONE) {
    if (full_)
      return base::fail(Code::resourceExhausted, "the journal is full of records",
                        "Raise bounds.journal_max, or lower bounds.journal_keep.", 1'000);
    Statement add(
        db_, "INSERT INTO actions(key, task, epoch, action, state, at_ms) VALUES(?,?,?,?,0,?)");
    MAYFLY_CHECK((add << key << task << uint64_t{epoch} << action << now_ms).run("a record"));
    recorded.epoch = epoch;
    return recorded;
  }
  const int64_t state = find.number(0);
  recorded.epoch = static_cast<uint32_t>(find.number(5));
  if (state == kDone) {
    recorded.state = Recorded::State::done;
    recorded.outcome.status = static_cast<int>(find.number(1));
    const auto headers = nlohmann::json::parse(find.bytes(2), nullptr, false);
    if (headers.is_array())
      for (const auto& each : headers)
        recorded.outcome.headers.emplace_back(each.at(0).get<std::string>(),
                                              each.at(1).get<std::string>());
    recorded.outcome.body = find.bytes(3);
    recorded.outcome.body_kept = find.number(4) != 0;
  } else {
    recorded.state = state == kBegun ? Recorded::State::underWay : Recorded::State::unknown;
  }
  return recorded;
}

Status Journal::finish(const std::string& key, const Outcome& outcome, uint64_t now_ms) {
  const std::string headers = textOf(outcome);
  Statement update(db_,
                   "UPDATE actions SET state=1, status=?, headers=?, body=?, body_kept=?, bytes=?,"
                   " at_ms=? WHERE key=?");
  update << static_cast<uint64_t>(outcome.status) << headers << outcome.body
         << uint64_t{outcome.body_kept} << uint64_t{headers.size() + outcome.body.size()} << now_ms
         << key;
  MAYFLY_CHECK(update.run("an outcome"));
  unswept_ += headers.size() + outcome.body.size();
  return unswept_ > bytes_max_ / 8 ? shrink() : base::Status(base::Unit{});
}

Status Journal::forget(const std::string& key) {
  Statement erase(db_, "DELETE FROM actions WHERE key=? AND state=0");
  return (erase << key).run("an erasure");
}

Status Journal::lose(const std::string& key) {
  Statement update(db_, "UPDATE actions SET state=2 WHERE key=? AND state=0");
  return (update << key).run("a loss");
}

Result<uint64_t> Journal::count(uint64_t task, const std::string& action) {
  Statement find(db_, "SELECT count(*) FROM actions WHERE task=? AND action=?");
  if ((find << task << action).step() != SQLITE_ROW)
    return base::fail(journalError(db_, "a count"));
  return static_cast<uint64_t>(find.number(0));
}

Status Journal::expire(uint64_t older_than_ms, uint64_t bytes_max) {
  bytes_max_ = bytes_max;
  Statement old(db_, "DELETE FROM actions WHERE at_ms < ? AND state != 0");
  MAYFLY_CHECK((old << older_than_ms).run("an expiry"));
  return shrink();
}

Status Journal::shrink() {
  constexpr uint64_t kRowBytes = 256;  // beside headers and body
  unswept_ = 0;
  for (;;) {
    Statement sum(db_, "SELECT coalesce(sum(bytes), 0), count(*) FROM actions");
    if (sum.step() != SQLITE_ROW) return base::fail(journalError(db_, "a sum"));
    const auto answers = static_cast<uint64_t>(sum.number(0));
    const auto rows = static_cast<uint64_t>(sum.number(1));
    full_ = rows * kRowBytes > bytes_max_;
    if (answers == 0 || answers + rows * kRowBytes <= bytes_max_) return base::Unit{};
    Statement drop(db_,
                   "UPDATE actions SET headers=NULL, body=NULL, body_kept=0, bytes=0 WHERE key IN"
                   " (SELECT key FROM actions WHERE bytes > 0 ORDER BY at_ms LIMIT ?)");
    MAYFLY_CHECK((drop << rows / 16 + 1).run("a loss of answers"));
  }
}

JournalThread::~JournalThread() {
  *self_ = nullptr;
  thread_.join();
}

void JournalThread::post(std::function<void()> work) {
  boost::asio::post(thread_, std::move(work));
}

void JournalThread::answer(std::function<void()> done) {
  boost::asio::post(io_, [self = self_, done = std::move(done)] {
    if (*self != nullptr) done();
  });
}

}  // namespace mayfly::vault
