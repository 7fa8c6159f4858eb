#include <gtest/gtest.h>
#include <string.h>

#include "reap/ledger.h"

namespace mayfly::reap {
namespace {

wire::Event goneEvent(base::BoxId box) {
  wire::Event e;
  e.kind = wire::Kind::boxGone;
  e.box = box;
  e.reaped_ns = 10;
  e.unpopulated_ns = 11;
  e.fds_closed_ns = 12;
  e.cgroups_gone_ns = 13;
  e.at_ns = 14;
  e.complete = 1;
  return e;
}

TEST(Ledger, CompleteReceiptFreesTheSlot) {
  Ledger l({});
  l.opened(7, 5);
  l.claimed(7, 70, 1);
  auto c = l.gone(goneEvent(7), 20);
  ASSERT_TRUE(c);
  EXPECT_EQ(c->task, 70u);
  EXPECT_TRUE(c->receipt.complete);
  EXPECT_EQ(c->receipt.fds_closed_ns, 20u);  // the later of both sides
  EXPECT_EQ(c->receipt.uid_free_ns, 14u);
  EXPECT_EQ(c->slot, Closed::Slot::free);
  EXPECT_EQ(l.alive(), 0u);
  EXPECT_FALSE(l.gone(goneEvent(7), 20));
}

TEST(Ledger, EachMissingProofKeepsTheSlotAndIsNamed) {
  using Member = uint64_t wire::Event::*;
  const std::pair<Member, const char*> cases[] = {
      {&wire::Event::reaped_ns, "reaped"},
      {&wire::Event::unpopulated_ns, "populated 0"},
      {&wire::Event::fds_closed_ns, "descriptor"},
      {&wire::Event::cgroups_gone_ns, "cgroup"},
  };
  for (const auto& [member, why] : cases) {
    Ledger l({});
    l.opened(7, 5);
    l.claimed(7, 70, 1);
    wire::Event e = goneEvent(7);
    e.*member = 0;
    auto c = l.gone(e, 20);
    ASSERT_TRUE(c);
    EXPECT_FALSE(c->receipt.complete);
    EXPECT_EQ(c->receipt.uid_free_ns, 0u);
    EXPECT_EQ(c->slot, Closed::Slot::kept);
    EXPECT_NE(c->receipt.missing.find(why), std::string::npos) << c->receipt.missing;
    EXPECT_EQ(l.quarantined(), 1u);
  }
}

TEST(Ledger, LaterReceiptCompletesAQuarantinedBox) {
  Ledger l({});
  l.opened(7, 5);
  l.claimed(7, 70, 1);
  wire::Event e = goneEvent(7);
  e.cgroups_gone_ns = 0;
  e.complete = 0;
  strcpy(e.text, "rmdir: EBUSY");
  EXPECT_NE(l.gone(e, 20)->receipt.missing.find("EBUSY"), std::string::npos);
  auto c = l.gone(goneEvent(7), 20);
  ASSERT_TRUE(c);
  EXPECT_EQ(c->when, Closed::When::late);
  EXPECT_EQ(c->slot, Closed::Slot::free);
  EXPECT_EQ(l.quarantined(), 0u);
}

TEST(Ledger, QuarantineIsBoundedPerOwnerAndForTheHost) {
  Ledger l({.boxes_max = 3, .boxes_per_owner_max = 2});
  for (base::BoxId b = 1; b <= 3; ++b) {
    l.opened(b, 5);
    l.claimed(b, b, b <= 2 ? 1 : 2);
  }
  l.overdue(1, "late");
  EXPECT_TRUE(l.accepts(1));
  l.overdue(2, "late");
  l.overdue(2, "late");
  EXPECT_EQ(l.accepts(1).error().code, base::Code::resourceExhausted);
  EXPECT_TRUE(l.accepts(2));
  l.overdue(3, "late");
  EXPECT_EQ(l.accepts(2).error().code, base::Code::unavailable);
  l.gone(goneEvent(1), 20);
  EXPECT_TRUE(l.accepts(1));
}

TEST(Ledger, AuditNamesStraysAndWhatVanishedWithoutAReceipt) {
  Ledger l({});
  l.opened(1, 5);
  l.claimed(1, 1, 1);
  l.opened(2, 5);
  l.claimed(2, 2, 1);
  l.overdue(2, "late");
  auto findings = l.audit({1, 9});
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].box, 9u);
  EXPECT_EQ(findings[0].kind, Finding::Kind::stray);
  EXPECT_EQ(findings[1].box, 2u);
  EXPECT_EQ(findings[1].kind, Finding::Kind::lost);
}

}  // namespace
}  // namespace mayfly::reap
