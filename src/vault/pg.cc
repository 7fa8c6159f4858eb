#include "vault/pg.h"

#include <libpq-fe.h>
#include <string.h>

#include <chrono>

#include <boost/asio/post.hpp>

#include "base/text.h"

namespace mayfly::vault {

using base::Code;
using base::Status;

namespace {

constexpr size_t kMessageBytesMax = 300;
// Of the server's, between two results: what stands around a row's values and is on its way, in TLS
// records that may be small; or, without rows, all.
constexpr uint64_t kTalkBytesMax = 64u << 10;
constexpr uint64_t allowanceFor(uint64_t row_bytes) {
  return row_bytes + row_bytes / 64 + kTalkBytesMax + MeteredSocket::kOnItsWayBytes;
}
constexpr const char* kTimeout = "57014";  // query_canceled, by statement_timeout

}  // namespace

PgConnection::PgConnection(boost::asio::io_context& io) : io_(io), timer_(io) {}

PgConnection::~PgConnection() {
  *self_ = nullptr;
  unwatch();
  ::PQfinish(connection_);
  if (socket_) socket_->close();
}

void PgConnection::unwatch() {
  if (wait_ && wait_->is_open()) wait_->release();  // libpq closes the socket itself
  wait_.reset();
}

void PgConnection::watch(Descriptor::wait_type type, void (PgConnection::*then)()) {
  const int fd = ::PQsocket(connection_);
  if (wait_ && wait_->native_handle() != fd) unwatch();
  if (!wait_) {
    wait_ = std::make_shared<Descriptor>(io_);
    boost::system::error_code failed;
    if (fd < 0 || wait_->assign(fd, failed)) {
      wait_.reset();
      return finish(base::fail(Code::unavailable, "the database closed the connection"));
    }
  }
  wait_->async_wait(type, [self = self_, wait = wait_, then](boost::system::error_code) {
    // libpq sees an error of the socket itself.
    if (*self != nullptr && (*self)->wait_ == wait) ((*self)->*then)();
  });
}

void PgConnection::finish(Status status) {
  timer_.cancel();
  sink_ = nullptr;
  if (!done_) return;
  boost::asio::post(io_, [self = self_, done = std::exchange(done_, nullptr),
                          status = std::move(status)]() mutable {
    if (*self != nullptr) done(std::move(status));
  });
}

// --- connecting ------------------------------------------------------------------

void PgConnection::connect(std::vector<std::pair<const char*, SecretRef>> options, uint64_t ms_max,
                           Done done) {
  done_ = std::move(done);
  std::vector<const char*> keys, values;
  for (const auto& [key, value] : options) {
    keys.push_back(key);
    values.push_back(value->reveal().data());
  }
  keys.push_back(nullptr);
  values.push_back(nullptr);
  connection_ = ::PQconnectStartParams(keys.data(), values.data(), 0);
  if (connection_ == nullptr || ::PQstatus(connection_) == CONNECTION_BAD)
    return finish(base::fail(Code::unavailable, "libpq cannot begin a connection"));
  ::PQsetNoticeProcessor(
      connection_, [](void*, const char*) {}, nullptr);
  timer_.expires_after(std::chrono::milliseconds(ms_max));
  timer_.async_wait([self = self_](boost::system::error_code failed) {
    if (failed || *self == nullptr || !(*self)->done_) return;
    (*self)->unwatch();
    (*self)->finish(base::fail(Code::deadlineExceeded, "the database did not answer in time"));
  });
  watch(Descriptor::wait_write, &PgConnection::onConnected);
}

// Before libpq has sent or read a byte.
void PgConnection::onConnected() {
  unwatch();
  auto replaced = MeteredSocket::replace(io_, ::PQsocket(connection_), [self = self_] {
    if (*self != nullptr) (*self)->onTooMuch();
  });
  if (!replaced) return finish(base::fail(Code::unavailable, "nobody listens for the database"));
  socket_ = std::move(*replaced);
  allowed_bytes_ = allowanceFor(0);
  socket_->allow(allowed_bytes_);
  pollConnect();
}

// The caller closes the connection.
void PgConnection::onTooMuch() {
  unwatch();
  finish(sink_ != nullptr
             ? sink_->onLargeRow()
             : base::fail(Code::unavailable, "the database says more than it was asked"));
}

void PgConnection::pollConnect() {
  switch (::PQconnectPoll(connection_)) {
    case PGRES_POLLING_READING:
      return watch(Descriptor::wait_read, &PgConnection::pollConnect);
    case PGRES_POLLING_WRITING:
      return watch(Descriptor::wait_write, &PgConnection::pollConnect);
    case PGRES_POLLING_OK:
      if (::PQsetnonblocking(connection_, 1) == 0) return finish(base::Unit{});
      [[fallthrough]];
    default:
      // libpq's text may quote the connection's options: it stays here.
      return finish(base::fail(Code::unavailable,
                               "the database refused the connection, its certificate is not "
                               "trusted, or nobody listens"));
  }
}

// --- statements ------------------------------------------------------------------

void PgConnection::begin(RowSink* sink, Done done) {
  done_ = std::move(done);
  sink_ = sink;
  paused_ = columns_told_ = refused_ = false;
  first_ = base::Unit{};
  allowed_bytes_ = allowanceFor(0);
  socket_->allow(allowed_bytes_);
}

void PgConnection::runScript(const std::string& sql, Done done) {
  begin(nullptr, std::move(done));
  if (::PQsendQuery(connection_, sql.c_str()) != 1)
    return finish(base::fail(Code::unavailable, "the database closed the connection"));
  flush();
}

void PgConnection::run(const std::string& sql, const std::vector<PgParam>& params,
                       uint64_t row_bytes_max, RowSink* sink, Done done) {
  begin(sink, std::move(done));
  allowed_bytes_ = allowanceFor(row_bytes_max);
  socket_->allow(allowed_bytes_);
  std::vector<::Oid> types;
  std::vector<const char*> values;
  for (const PgParam& each : params) {
    types.push_back(each.oid);
    values.push_back(each.text ? each.text->c_str() : nullptr);
  }
  if (::PQsendQueryParams(connection_, sql.c_str(), static_cast<int>(params.size()), types.data(),
                          values.data(), nullptr, nullptr, 0) != 1 ||
      ::PQsetSingleRowMode(connection_) != 1)
    return finish(base::fail(Code::unavailable, "the database closed the connection"));
  flush();
}

void PgConnection::flush() {
  const int left = ::PQflush(connection_);
  if (left < 0) return finish(base::fail(Code::unavailable, "the database closed the connection"));
  if (left == 0) return watch(Descriptor::wait_read, &PgConnection::onReadable);
  watch(Descriptor::wait_write, &PgConnection::flush);
}

void PgConnection::onReadable() {
  if (::PQconsumeInput(connection_) != 1)
    return finish(base::fail(Code::unavailable, "the database closed the connection"));
  takeResults();
}

void PgConnection::takeResults() {
  while (!paused_) {
    if (::PQisBusy(connection_)) return watch(Descriptor::wait_read, &PgConnection::onReadable);
    PGresult* result = ::PQgetResult(connection_);
    if (result == nullptr) return finish(std::move(first_));
    socket_->allow(allowed_bytes_);
    Status taken = takeResult(result);
    ::PQclear(result);
    if (!taken && first_) first_ = std::move(taken);
    // Its other rows are of no use: the caller closes the connection.
    if (refused_) return finish(std::move(first_));
  }
}

void PgConnection::resume() {
  if (!std::exchange(paused_, false) || !done_) return;
  boost::asio::post(io_, [self = self_] {
    if (*self != nullptr && (*self)->done_ && !(*self)->paused_) (*self)->takeResults();
  });
}

Status PgConnection::takeResult(PGresult* result) {
  switch (::PQresultStatus(result)) {
    case PGRES_SINGLE_TUPLE:
    case PGRES_TUPLES_OK:
      if (sink_ == nullptr || !first_) return base::Unit{};
      if (auto taken = takeRows(result); !taken) {
        refused_ = true;
        return taken;
      }
      return base::Unit{};
    case PGRES_COMMAND_OK:
    case PGRES_EMPTY_QUERY:
      return base::Unit{};
    case PGRES_FATAL_ERROR:
    case PGRES_BAD_RESPONSE:
      return base::fail(errorOf(result));
    default:
      return base::fail(Code::failedPrecondition,
                        "the statement is of a kind that has no rows "
                        "(COPY)");
  }
}

Status PgConnection::takeRows(PGresult* result) {
  const int columns = ::PQnfields(result);
  if (!std::exchange(columns_told_, true)) {
    std::vector<ColumnOf> all;
    for (int i = 0; i < columns; ++i)
      all.push_back({::PQfname(result, i), static_cast<uint32_t>(::PQftype(result, i))});
    MAYFLY_CHECK(sink_->onColumns(std::move(all)));
  }
  std::vector<Cell> cells(static_cast<size_t>(columns));
  for (int row = 0; row < ::PQntuples(result); ++row) {
    for (int i = 0; i < columns; ++i)
      cells[static_cast<size_t>(i)] =
          ::PQgetisnull(result, row, i)
              ? Cell()
              : Cell(std::string_view(::PQgetvalue(result, row, i),
                                      static_cast<size_t>(::PQgetlength(result, row, i))));
    bool more = true;
    MAYFLY_CHECK(sink_->onRow(cells, more));
    paused_ = paused_ || !more;
  }
  return base::Unit{};
}

// A message's details may show other rows; the task sees the message itself only where its own
// values are the cause.
base::Error PgConnection::errorOf(const PGresult* result) const {
  const char* state = ::PQresultErrorField(result, PG_DIAG_SQLSTATE);
  const char* message = ::PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
  const std::string code = state == nullptr ? "" : state;
  if (code == kTimeout)
    return {Code::deadlineExceeded, "the statement took longer than it may", {}, 0};
  if (code.empty()) return {Code::unavailable, "the database closed the connection", {}, 0};
  // The connection or the server broke: a COMMIT may have been done.
  for (const char* broken : {"08", "57", "58", "XX"})
    if (code.starts_with(broken))
      return {Code::unavailable, "the database failed (SQLSTATE " + code + ")", {}, 0};
  const bool by_values = code.starts_with("22") || code.starts_with("23") || code == "P0001";
  if (!by_values || message == nullptr)
    return {Code::failedPrecondition, "the database refused the statement (SQLSTATE " + code + ")",
            "The operator finds the reason in the database's log.", 0};
  return {Code::invalidArgument,
          base::printable(message, kMessageBytesMax) + " (SQLSTATE " + code + ")",
          {},
          0};
}

int PgConnection::serverVersion() const { return ::PQserverVersion(connection_); }

bool PgConnection::usable() const {
  return connection_ != nullptr && !done_ && ::PQstatus(connection_) == CONNECTION_OK &&
         ::PQtransactionStatus(connection_) == PQTRANS_IDLE;
}

}  // namespace mayfly::vault
