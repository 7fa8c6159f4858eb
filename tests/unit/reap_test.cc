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

sched::AccountRef accountOf(sched::Accounts& book, uint32_t uid, std::string_view tenant = {}) {
  return book.open(sched::Account::ofPeer(uid, tenant)).value();
}

TEST(Ledger, CompleteReceiptFreesTheSlot) {
  sched::Accounts book;
  Ledger l(book);
  l.opened(7, 1, 5);
  l.claimed(7, 70, accountOf(book, 1));
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
    sched::Accounts book;
    Ledger l(book);
    l.opened(7, 1, 5);
    l.claimed(7, 70, accountOf(book, 1));
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
  sched::Accounts book;
  Ledger l(book);
  l.opened(7, 1, 5);
  l.claimed(7, 70, accountOf(book, 1));
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

TEST(Ledger, QuarantineIsBoundedPerTenantPerUserAndForTheHost) {
  sched::AccountBounds bounds;
  bounds.of(sched::Resource::quarantinedBoxes) = {.pool_max = 4, .user_max = 3, .tenant_max = 2};
  sched::Accounts book(bounds);
  Ledger l(book);
  auto a = accountOf(book, 1, "a"), b = accountOf(book, 1, "b"), other = accountOf(book, 2);
  auto late = [&](base::BoxId box, const sched::AccountRef& whose) {
    l.opened(box, 1, 5);
    l.claimed(box, box, whose);
    l.overdue(box, "late");
  };
  late(1, a);
  EXPECT_TRUE(l.accepts(a));
  late(2, a);
  l.overdue(2, "late");  // counts once
  EXPECT_EQ(l.accepts(a).error().code, base::Code::resourceExhausted);
  EXPECT_TRUE(l.accepts(b));
  late(3, b);
  EXPECT_EQ(l.accepts(b).error().code, base::Code::resourceExhausted);
  EXPECT_TRUE(l.accepts(other));
  l.opened(4, 2, 5);
  l.overdue(4, "late");  // it had no task
  EXPECT_EQ(l.accepts(other).error().code, base::Code::unavailable);
  EXPECT_EQ(l.quarantined(), 4u);
  l.gone(goneEvent(1), 20);
  EXPECT_TRUE(l.accepts(a));
  EXPECT_TRUE(l.accepts(other));
}

// A template's boxes in quarantine refuse that template, before they refuse the host; it takes
// several templates to do that.
TEST(Ledger, QuarantineCountsForTheTemplateBeforeItCountsForTheHost) {
  sched::AccountBounds bounds;
  bounds.of(sched::Resource::quarantinedBoxes) = {.pool_max = 6, .user_max = 2, .tenant_max = 2};
  sched::Accounts book(bounds);
  Ledger l(book);
  auto other = accountOf(book, 2);
  constexpr base::TemplateId kBad = 1, kGood = 2;
  for (base::BoxId box = 1; box <= 20; ++box) {
    EXPECT_EQ(l.serves(kBad), box <= 4) << box;
    l.opened(box, kBad, 5);  // parked
    l.overdue(box, "late");
    EXPECT_TRUE(l.serves(kGood));
    EXPECT_TRUE(l.accepts(other)) << box;  // four count for the host
  }
  EXPECT_EQ(l.quarantined(), 20u);
  EXPECT_EQ(l.quarantinedOf(kBad), 20u);
  for (base::BoxId box = 21; box <= 22; ++box) {
    l.opened(box, kGood, 5);
    l.overdue(box, "late");
  }
  EXPECT_TRUE(l.serves(kGood));
  EXPECT_EQ(l.accepts(other).error().code, base::Code::unavailable);  // two templates
  // A box that is gone leaves its place in the bound to one that was beyond it.
  for (base::BoxId box = 1; box <= 16; ++box) l.gone(goneEvent(box), 20);
  EXPECT_FALSE(l.accepts(other));
  EXPECT_FALSE(l.serves(kBad));
  l.gone(goneEvent(17), 20);
  EXPECT_TRUE(l.accepts(other));
  EXPECT_TRUE(l.serves(kBad));
  for (base::BoxId box = 18; box <= 22; ++box) l.gone(goneEvent(box), 20);
  EXPECT_EQ(l.quarantined(), 0u);
  EXPECT_EQ(book.known(), 1u);
}

TEST(Ledger, ABoxInQuarantineKeepsItsAccountKnown) {
  sched::Accounts book;
  Ledger l(book);
  l.opened(1, 1, 5);
  l.claimed(1, 1, accountOf(book, 1, "a"));
  l.overdue(1, "late");
  EXPECT_EQ(book.known(), 2u);
  l.gone(goneEvent(1), 20);
  EXPECT_EQ(book.known(), 0u);
}

TEST(Ledger, KnowsItsBoxesAndWhichAreInQuarantine) {
  sched::Accounts book;
  Ledger l(book);
  l.opened(1, 1, 5);
  l.claimed(1, 1, accountOf(book, 1));
  l.opened(2, 1, 5);
  l.claimed(2, 2, accountOf(book, 1));
  l.overdue(2, "late");
  EXPECT_TRUE(l.knows(1) && l.knows(2));
  EXPECT_FALSE(l.knows(9));
  EXPECT_EQ(l.quarantinedBoxes(), std::vector<base::BoxId>{2});
  l.gone(goneEvent(2), 20);
  EXPECT_FALSE(l.knows(2));
  EXPECT_TRUE(l.quarantinedBoxes().empty());
}

}  // namespace
}  // namespace mayfly::reap
