#include <gtest/gtest.h>
#include <string.h>

#include <functional>
#include <string>
#include <vector>

#include "wire/broker_check.h"
#include "wire/check.h"
#include "wire/door_check.h"
#include "wire/offer_check.h"
#include "wire/spool.h"
#include "wire/zygote.h"

namespace mayfly::wire {
namespace {

using Fault = Checked::Fault;

Request soundPublish() {
  Request r;
  r.op = Op::publish;
  r.zygote_id = 3;
  r.flags = kLoopback;
  memset(r.digest, 'a', 64);
  strcpy(r.zygote[0], "/bin/zygote");
  return r;
}

Request soundOf(Op op) {
  Request r;
  r.op = op;
  r.box = 7;
  r.zygote_id = 3;
  return r;
}

Fault faultIn(const Request& r, size_t fds = 0, size_t bytes = sizeof(Request)) {
  return check(r, bytes, fds).fault;
}

constexpr Op kAll[] = {Op::publish, Op::retire, Op::make, Op::clone,    Op::claim,
                       Op::end,     Op::sample, Op::ping, Op::terminate};

TEST(Requests, WhatMayflydSendsIsSound) {
  EXPECT_EQ(faultIn(soundPublish(), 2), Fault::none);
  for (Op op : kAll)
    if (op != Op::publish) {
      EXPECT_EQ(faultIn(soundOf(op)), Fault::none) << static_cast<int>(op);
    }
  Request end = soundOf(Op::end);
  end.flags = kCollect;
  EXPECT_EQ(faultIn(end, 1), Fault::none);
  Request make = soundOf(Op::make);
  make.flags = kStock | kRehearse;
  EXPECT_EQ(faultIn(make), Fault::none);
}

TEST(Requests, AnotherSizeMagicVersionOrOpIsAnotherLanguage) {
  for (size_t bytes : {size_t{0}, size_t{1}, sizeof(Request) - 1})
    EXPECT_EQ(faultIn(soundOf(Op::sample), 0, bytes), Fault::language);
  Request r = soundOf(Op::sample);
  r.magic ^= 1;
  EXPECT_EQ(faultIn(r), Fault::language);
  r = soundOf(Op::sample);
  ++r.version;
  EXPECT_EQ(faultIn(r), Fault::language);
  for (uint16_t op :
       {uint16_t{0}, static_cast<uint16_t>(static_cast<uint16_t>(kOpMax) + 1), uint16_t{0xffff}})
    EXPECT_EQ(faultIn(soundOf(static_cast<Op>(op))), Fault::language) << op;
}

TEST(Requests, EachContentThatNoMayflydSendsIsFound) {
  struct Case {
    const char* name;
    Op op;
    std::function<void(Request&)> spoil;
  };
  std::vector<Case> cases{
      {"box 0", Op::make, [](Request& r) { r.box = 0; }},
      {"a box above the range", Op::claim, [](Request& r) { r.box = kBoxIdMax + 1; }},
      {"a disk without a limit", Op::make, [](Request& r) { r.limits.disk_bytes = 0; }},
      {"inodes that overflow", Op::clone, [](Request& r) { r.limits.disk_inodes = ~0ull; }},
      {"no memory", Op::claim, [](Request& r) { r.limits.memory_bytes = 0; }},
      {"too much memory", Op::claim, [](Request& r) { r.limits.memory_bytes = ~0ull; }},
      {"no process", Op::claim, [](Request& r) { r.limits.processes = 0; }},
      {"more processes than pids", Op::claim, [](Request& r) { r.limits.processes = ~0u; }},
      {"no cpu", Op::claim, [](Request& r) { r.limits.cpu_milli = 0; }},
      {"SIGTERM to box 0", Op::terminate, [](Request& r) { r.box = 0; }},
      {"zygote 0", Op::publish, [](Request& r) { r.zygote_id = 0; }},
      {"a relative program", Op::publish, [](Request& r) { r.zygote[0][0] = 'b'; }},
      {"no program", Op::publish, [](Request& r) { r.zygote[0][0] = 0; }},
      {"an endless argument", Op::publish, [](Request& r) { memset(r.zygote[7], 'x', 64); }},
      {"a short digest", Op::publish, [](Request& r) { r.digest[63] = 0; }},
      {"an endless digest", Op::publish, [](Request& r) { r.digest[64] = 'a'; }},
      {"a path as digest", Op::publish, [](Request& r) { r.digest[0] = '/'; }},
      {"a zygote without memory", Op::publish, [](Request& r) { r.limits.memory_bytes = 0; }},
  };
  for (const Case& c : cases) {
    Request r = c.op == Op::publish ? soundPublish() : soundOf(c.op);
    const size_t fds = c.op == Op::publish ? 2 : 0;
    EXPECT_EQ(faultIn(r, fds), Fault::none) << c.name;
    c.spoil(r);
    EXPECT_EQ(faultIn(r, fds), Fault::content) << c.name;
  }
}

TEST(Requests, AFlagOrADescriptorOfAnotherRequestIsFound) {
  constexpr std::pair<Op, uint32_t> kOwn[] = {{Op::publish, kLoopback | kRestore | kDump},
                                              {Op::retire, 0},
                                              {Op::make, kStock | kRehearse},
                                              {Op::clone, kRehearse},
                                              {Op::claim, kCapsStand},
                                              {Op::end, kCollect},
                                              {Op::sample, 0},
                                              {Op::ping, 0},
                                              {Op::terminate, 0}};
  for (const auto& [op, own] : kOwn)
    for (int bit = 0; bit < 32; ++bit) {
      Request r = op == Op::publish ? soundPublish() : soundOf(op);
      r.flags = 1u << bit;
      const bool of_snapshot = op == Op::publish && (r.flags & (kRestore | kDump)) != 0;
      const size_t fds = of_snapshot                            ? 3
                         : op == Op::publish                    ? 2
                         : op == Op::end && r.flags == kCollect ? 1
                                                                : 0;
      EXPECT_EQ(faultIn(r, fds), (own & r.flags) != 0 ? Fault::none : Fault::content);
      EXPECT_NE(faultIn(r, fds + 1), Fault::none);
      if (fds > 0) {
        EXPECT_NE(faultIn(r, fds - 1), Fault::none);
      }
    }
}

TEST(Events, TextsEndAndUnknownWordsAreFound) {
  Event e;
  e.kind = Kind::boxGone;
  memset(e.step, 'x', sizeof e.step);
  memset(e.text, 'x', sizeof e.text);
  EXPECT_EQ(check(e, sizeof e, 0).fault, Fault::none);
  EXPECT_EQ(strnlen(e.step, sizeof e.step), sizeof e.step - 1);
  EXPECT_EQ(strnlen(e.text, sizeof e.text), sizeof e.text - 1);
  EXPECT_EQ(check(e, sizeof e, 1).fault, Fault::language);
  EXPECT_EQ(check(e, sizeof e - 1, 0).fault, Fault::language);
  for (auto spoil : std::vector<std::function<void(Event&)>>{
           [](Event& x) { x.magic = 0; }, [](Event& x) { x.version = 0; },
           [](Event& x) { x.kind = Kind{}; },
           [](Event& x) { x.kind = static_cast<Kind>(static_cast<int>(kKindMax) + 1); },
           [](Event& x) { x.cap = static_cast<Cap>(3); },
           [](Event& x) { x.collect = static_cast<CollectState>(4); }}) {
    Event bad = e;
    spoil(bad);
    EXPECT_EQ(check(bad, sizeof bad, 0).fault, Fault::language);
  }
  for (auto [kind, fds_max] : {std::pair{Kind::boxMade, 6u}, {Kind::hello, 1u}, {Kind::pong, 0u}}) {
    e.kind = kind;
    EXPECT_EQ(check(e, sizeof e, fds_max).fault, Fault::none);
    EXPECT_EQ(check(e, sizeof e, fds_max + 1).fault, Fault::language);
  }
}

TEST(Requests, DoorsNeedALoopback) {
  Request r = soundPublish();
  r.flags = kLoopback | kDoors;
  EXPECT_EQ(faultIn(r, 2), Fault::none);
  r.flags = kDoors;
  EXPECT_EQ(faultIn(r, 2), Fault::content);
}

TEST(Requests, ASnapshotIsMadeOrRestoredButNotBoth) {
  Request r = soundPublish();
  for (uint32_t role : {kRestore, kDump}) {
    r.flags = kLoopback | role;
    EXPECT_EQ(faultIn(r, 3), Fault::none);
    EXPECT_EQ(faultIn(r, 2), Fault::content) << "its folder is missing";
  }
  r.flags = kLoopback | kRestore | kDump;
  EXPECT_EQ(faultIn(r, 3), Fault::content);
}

TEST(Frames, ARestoredCloneComesWithTheProcessThatRestoredIt) {
  CloneMade made;
  const auto fault = [&](size_t fds) { return faultOfRestored(made, sizeof made, fds); };
  EXPECT_EQ(fault(0), nullptr) << "a hello";
  EXPECT_NE(fault(1), nullptr);
  made.box = 7;
  EXPECT_EQ(fault(2), nullptr);
  for (size_t fds : {0u, 1u, 3u}) EXPECT_NE(fault(fds), nullptr);
  made.error = EIO;
  for (size_t fds : {0u, 1u, 2u}) EXPECT_EQ(fault(fds), nullptr) << "what there is";
  EXPECT_NE(fault(3), nullptr);
  memset(made.step, 'x', sizeof made.step);
  EXPECT_NE(fault(1), nullptr);
  EXPECT_NE(faultOfRestored(made, sizeof made - 1, 1), nullptr);
}

// The messages of each side, and the number of descriptors of each.
template <class Message>
void expectFrame(Message sound, size_t fds) {
  EXPECT_EQ(faultOf(sound, sizeof sound, fds), nullptr);
  EXPECT_NE(faultOf(sound, sizeof sound - 1, fds), nullptr);
  EXPECT_NE(faultOf(sound, 0, fds), nullptr);
  EXPECT_NE(faultOf(sound, sizeof sound, fds + 1), nullptr);
  if (fds > 0) {
    EXPECT_NE(faultOf(sound, sizeof sound, fds - 1), nullptr);
  }
  Message bad = sound;
  bad.magic ^= 1;
  EXPECT_NE(faultOf(bad, sizeof bad, fds), nullptr);
}

template <class Message>
void expectAnswer(Message sound, size_t fds) {
  expectFrame(sound, fds);
  for (int32_t error : {-1, kErrnoMax + 1, INT32_MIN, INT32_MAX}) {
    Message bad = sound;
    bad.error = error;
    EXPECT_NE(faultOf(bad, sizeof bad, fds), nullptr) << error;
  }
  Message bad = sound;
  memset(bad.step, 'x', sizeof bad.step);
  EXPECT_NE(faultOf(bad, sizeof bad, fds), nullptr) << "a text without an end";
}

TEST(ZygoteMessages, EachIsCheckedForFrameErrorTextAndDescriptors) {
  expectFrame(MakeInit{}, 4);
  expectAnswer(InitMade{}, 1);
  expectAnswer(InitReady{}, 0);
  InitReady ready;
  EXPECT_EQ(faultOf(ready, sizeof ready, kInitDoorFds), nullptr);
  EXPECT_NE(faultOf(ready, sizeof ready, kInitDoorFds + 1), nullptr);
  ready.error = 1;
  EXPECT_NE(faultOf(ready, sizeof ready, kInitDoorFds), nullptr) << "doors of a failed box";
  MakeClone make;
  make.tasks_fds = 2;
  expectFrame(make, kCloneFds + 2);
  CloneMade hello, made;
  made.box = 1;
  expectAnswer(hello, 0);
  expectAnswer(made, 1);
  expectAnswer(CloneReady{}, 0);
  expectAnswer(Started{}, 0);
  Claim claim;
  claim.blob_fds = kBlobFdsMax;
  expectFrame(claim, 1 + kBlobFdsMax);
}

TEST(ZygoteMessages, CountsThatOverflowAndOtherKindsAreFound) {
  MakeClone make;
  for (uint32_t count : {kTasksFdsMax + 1, ~0u, ~0u - kCloneFds + 1}) {
    make.tasks_fds = count;
    for (size_t fds : {size_t{0}, size_t{kCloneFds}, size_t{72}})
      EXPECT_NE(faultOf(make, sizeof make, fds), nullptr);
  }
  Claim claim;
  for (uint32_t count : {kBlobFdsMax + 1, ~0u}) {
    claim.blob_fds = count;
    for (size_t fds : {size_t{0}, size_t{1}, size_t{66}})
      EXPECT_NE(faultOf(claim, sizeof claim, fds), nullptr);
  }
  CloneReady ready;
  ready.kind = Started{}.kind;
  EXPECT_NE(faultOf(ready, sizeof ready, 0), nullptr);
  Started started;
  started.kind = CloneReady{}.kind;
  EXPECT_NE(faultOf(started, sizeof started, 0), nullptr);
}

TEST(ZygoteMessages, AFailedCloneBringsNoDescriptorAndAFailedInitMay) {
  CloneMade made;
  made.box = 1;
  made.error = 11;
  EXPECT_EQ(faultOf(made, sizeof made, 0), nullptr);
  EXPECT_NE(faultOf(made, sizeof made, 1), nullptr);
  InitMade init;
  init.error = 11;
  EXPECT_EQ(faultOf(init, sizeof init, 0), nullptr);
  EXPECT_EQ(faultOf(init, sizeof init, 1), nullptr);
  EXPECT_NE(faultOf(init, sizeof init, 2), nullptr);
}

TEST(Spool, AHeaderBeyondItsSpoolIsRefused) {
  SpoolHeader h;
  h.index_offset = sizeof h;
  EXPECT_TRUE(checkHeader(h, sizeof h));
  EXPECT_FALSE(checkHeader(h, sizeof h - 1));
  h.index_bytes = 1;
  EXPECT_FALSE(checkHeader(h, sizeof h));
  h.index_bytes = ~0ull - sizeof h + 1;  // their sum is 0
  EXPECT_FALSE(checkHeader(h, 1u << 30));
}

TEST(Spool, EveryCutOfAnIndexIsRefused) {
  SpoolHeader h;
  h.count = 2;
  h.index_offset = sizeof h + 5;
  std::string index;
  for (const char* path : {"a", "b/c"}) {
    SpoolEntry e;
    e.offset = sizeof h;
    e.size = 5;
    e.path_bytes = static_cast<uint32_t>(strlen(path));
    index.append(reinterpret_cast<const char*>(&e), sizeof e).append(path);
  }
  base::Limits limits;
  auto files = readIndex(h, index, limits);
  ASSERT_TRUE(files);
  EXPECT_EQ((*files)[1].path, "b/c");
  for (size_t bytes = 0; bytes < index.size(); ++bytes)
    EXPECT_FALSE(readIndex(h, std::string_view(index).substr(0, bytes), limits)) << bytes;
  limits.out_files_bytes = 9;
  EXPECT_FALSE(readIndex(h, index, limits));
}

// --- doors ---

TEST(Doors, EachMessageThatNoPeerSendsIsFound) {
  DoorRequest open;
  open.kind = DoorRequest::Kind::open;
  open.session = 7;
  open.connections_max = 100;
  DoorRequest close;
  close.kind = DoorRequest::Kind::close;
  close.session = 7;
  DoorEvent closed;
  closed.kind = DoorEvent::Kind::closed;
  closed.session = 7;
  EXPECT_EQ(check(open, sizeof open, 2).fault, Fault::none);
  EXPECT_EQ(check(close, sizeof close, 0).fault, Fault::none);
  EXPECT_EQ(check(closed, sizeof closed, 0).fault, Fault::none);

  const auto request = [](DoorRequest r, size_t fds, std::function<void(DoorRequest&)> spoil,
                          size_t bytes = sizeof(DoorRequest)) {
    spoil(r);
    return check(r, bytes, fds).fault;
  };
  const auto nothing = [](auto&) {};
  for (size_t fds : {0, 1, 3}) EXPECT_EQ(request(open, fds, nothing), Fault::language) << fds;
  for (size_t fds : {1, 2}) EXPECT_EQ(request(close, fds, nothing), Fault::language) << fds;
  for (size_t bytes : {size_t{0}, sizeof open - 1, sizeof open + 1})
    EXPECT_EQ(request(open, 2, nothing, bytes), Fault::language) << bytes;
  for (const auto& spoil : std::vector<std::function<void(DoorRequest&)>>{
           [](DoorRequest& r) { r.magic ^= 1; }, [](DoorRequest& r) { ++r.version; },
           [](DoorRequest& r) { r.session = 0; }, [](DoorRequest& r) { r.connections_max = 0; },
           [](DoorRequest& r) { r.connections_max = kDoorConnectionsMax + 1; },
           [](DoorRequest& r) { r.kind = DoorRequest::Kind{}; },
           [](DoorRequest& r) { r.kind = static_cast<DoorRequest::Kind>(3); }})
    EXPECT_EQ(request(open, 2, spoil), Fault::language);

  const auto event = [&](std::function<void(DoorEvent&)> spoil, size_t fds = 0,
                         size_t bytes = sizeof(DoorEvent)) {
    DoorEvent e = closed;
    spoil(e);
    return check(e, bytes, fds).fault;
  };
  EXPECT_EQ(event(nothing, 1), Fault::language);
  EXPECT_EQ(event(nothing, 0, sizeof closed - 1), Fault::language);
  for (const auto& spoil : std::vector<std::function<void(DoorEvent&)>>{
           [](DoorEvent& e) { e.magic ^= 1; }, [](DoorEvent& e) { ++e.version; },
           [](DoorEvent& e) { e.session = 0; }, [](DoorEvent& e) { e.kind = DoorEvent::Kind{}; },
           [](DoorEvent& e) { e.kind = static_cast<DoorEvent::Kind>(2); }})
    EXPECT_EQ(event(spoil), Fault::language);
}

// --- offers of snapshots ---

TEST(Offers, OnlyOfOneBuildWithOneFolderAndTerminatedNames) {
  Offer sound;
  strcpy(sound.template_name, "node");
  strcpy(sound.key, "abc");
  const auto fault = [](Offer offer, size_t bytes = sizeof(Offer), size_t fds = 1) {
    return faultOf(offer, bytes, fds) != nullptr;
  };
  EXPECT_FALSE(fault(sound));
  EXPECT_TRUE(fault(sound, sizeof(Offer) - 1));
  EXPECT_TRUE(fault(sound, sizeof(Offer), 0));
  EXPECT_TRUE(fault(sound, sizeof(Offer), 2));
  Offer other = sound;
  other.version = 9;
  EXPECT_TRUE(fault(other));
  other = sound;
  other.key[0] = '\0';
  EXPECT_TRUE(fault(other));
  other = sound;
  memset(other.template_name, 'n', sizeof other.template_name);
  EXPECT_EQ(faultOf(other, sizeof other, 1), nullptr);
  EXPECT_EQ(strlen(other.template_name), sizeof other.template_name - 1);
}
TEST(Offers, AnAnswerHasAKnownCodeAndNoDescriptor) {
  OfferAnswer answer;
  EXPECT_EQ(faultOf(answer, sizeof answer, 0), nullptr);
  EXPECT_NE(faultOf(answer, sizeof answer, 1), nullptr);
  answer.code = 12;
  EXPECT_NE(faultOf(answer, sizeof answer, 0), nullptr);
  answer.code = -1;
  EXPECT_NE(faultOf(answer, sizeof answer, 0), nullptr);
  answer.code = 6;
  memset(answer.text, 'x', sizeof answer.text);
  EXPECT_EQ(faultOf(answer, sizeof answer, 0), nullptr);
  EXPECT_EQ(answer.text[sizeof answer.text - 1], '\0');
}

}  // namespace
}  // namespace mayfly::wire
