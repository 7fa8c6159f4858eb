// One call of a statement: a transaction of its own, rows down with back-pressure.
//
// Rows of a statement that only reads flow as they come. A statement that writes gives its answer
// once it is committed, and the journal knows it before it begins.
//
// Layer: vault. The loop's thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "broker/narrow.h"
#include "broker/sql_params.h"
#include "vault/flow.h"
#include "vault/hub.h"
#include "vault/rows.h"
#include "vault/run.h"

namespace mayfly::vault {

class SqlRun final : public Run, public FlowEvents, public PgConnection::RowSink {
 public:
  struct Ask {
    broker::Grant grant;
    broker::BoundParams params;
    RowFormat format = RowFormat::json;
    std::string step;
  };
  static std::shared_ptr<SqlRun> start(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line,
                                       Ask ask, schema::Down::Client down);

  // Run
  void stop(const broker::Refusal& why) override;
  void look(uint64_t now_ns) override;
  // FlowEvents
  void onRoom() override;
  void onGone() override;
  // RowSink
  base::Status onColumns(std::vector<ColumnOf> columns) override;
  base::Status onRow(const std::vector<Cell>& cells, bool& more) override;
  base::Status onLargeRow() override;

 private:
  SqlRun(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line, Ask ask,
         schema::Down::Client down);
  const config::SqlAction& action() const { return *ask_.grant.sql(); }
  std::string rule(const char* key) const { return ask_.grant.rule() + "." + key; }
  std::shared_ptr<SqlRun> self() { return std::static_pointer_cast<SqlRun>(shared_from_this()); }

  void record();
  void acquire();
  void onLease(base::Result<std::unique_ptr<SqlPools::Lease>> lease);
  // Runs `next` if the step has succeeded and the call lives.
  PgConnection::Done then(void (SqlRun::*next)());
  void query();
  void commit();
  void committed();
  void ended();
  void replay(const Outcome& outcome);
  base::Status give();
  base::Status tooMuch(const char* key, std::string what);
  void fail(broker::Refusal why, std::string_view outcome = "failed");
  void settle(bool doubt);
  static void giveBack(std::unique_ptr<SqlPools::Lease> lease);

  Ask ask_;
  std::shared_ptr<Flow> flow_;
  RowWriter writer_;
  std::unique_ptr<SqlPools::Lease> lease_;
  uint64_t rows_max_;
  std::optional<broker::Refusal> refusal_;  // of a row
  std::string key_;                         // of the journal; empty: not recorded
  bool committing_ = false;
};

}  // namespace mayfly::vault
