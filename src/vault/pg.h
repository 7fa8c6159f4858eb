// One connection to PostgreSQL, by libpq's asynchronous calls on Asio's loop.
//
// libpq would hold whatever the server sends before a row's end; it gets a bounded number of bytes
// (MeteredSocket).
//
// Layer: vault. One thread. No KJ.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/result.h"
#include "vault/metered_socket.h"
#include "vault/rows.h"
#include "vault/secret.h"

struct pg_conn;
struct pg_result;

namespace mayfly::vault {

struct PgParam {
  uint32_t oid = 0;
  std::optional<std::string> text;  // nothing: null
};

class PgConnection {
 public:
  using Done = std::function<void(base::Status)>;
  class RowSink {
   public:
    virtual ~RowSink() noexcept(false) = default;
    virtual base::Status onColumns(std::vector<ColumnOf> columns) = 0;
    // An error ends the statement. `more`: false: no further row before `resume`.
    virtual base::Status onRow(const std::vector<Cell>& cells, bool& more) = 0;
    // A row has more bytes than it may: the statement's error.
    virtual base::Status onLargeRow() = 0;
  };

  explicit PgConnection(boost::asio::io_context& io);
  ~PgConnection();  // closes it: the server rolls back what is not committed
  PgConnection(const PgConnection&) = delete;

  // Keywords and values of libpq's. Each `done` is called once, in a later turn, while this object
  // lives, and may destroy it.
  void connect(std::vector<std::pair<const char*, SecretRef>> options, uint64_t ms_max, Done done);
  // One statement; at most one at a time. A row's values may have `row_bytes_max` bytes.
  void run(const std::string& sql, const std::vector<PgParam>& params, uint64_t row_bytes_max,
           RowSink* sink, Done done);
  // Some statements without parameters and rows.
  void runScript(const std::string& sql, Done done);
  void resume();
  bool usable() const;        // connected, idle, in no transaction
  int serverVersion() const;  // as 150004; 0: not connected

 private:
  using Descriptor = boost::asio::posix::stream_descriptor;
  void begin(RowSink* sink, Done done);
  void onConnected();
  void onTooMuch();
  void pollConnect();
  void watch(Descriptor::wait_type type, void (PgConnection::*then)());
  void unwatch();
  void flush();
  void onReadable();
  void takeResults();
  base::Status takeResult(pg_result* result);
  base::Status takeRows(pg_result* result);
  void finish(base::Status status);
  base::Error errorOf(const pg_result* result) const;

  boost::asio::io_context& io_;
  pg_conn* connection_ = nullptr;
  std::shared_ptr<MeteredSocket> socket_;  // null: not connected
  std::shared_ptr<Descriptor> wait_;
  boost::asio::steady_timer timer_;
  Done done_;
  RowSink* sink_ = nullptr;
  uint64_t allowed_bytes_ = 0;  // of the server's, until its next result
  bool paused_ = false, columns_told_ = false;
  bool refused_ = false;               // by the sink
  base::Status first_ = base::Unit{};  // the first error of a statement
  std::shared_ptr<PgConnection*> self_ = std::make_shared<PgConnection*>(this);
};

}  // namespace mayfly::vault
