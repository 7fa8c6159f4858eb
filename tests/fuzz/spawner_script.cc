#include "spawner_script.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "spawner/spawner.h"
#include "spawner_world.h"
#include "wire/check.h"
#include "wire/zygote.h"

namespace mayfly::fuzz {
namespace {

using base::Fd;
using wire::Event;
using wire::Kind;
using wire::Op;
using wire::Request;

constexpr base::ZygoteId kFirst = 1, kSecond = 2, kThird = 3;
constexpr base::BoxId kSecondsBox = 1'000, kBoxesMax = 6;
constexpr size_t kActsMax = 200;
constexpr int kQuietTurnsMax = 200;           // of a spawner that nobody talks to
constexpr uint64_t kAwaitNs = 4'000'000'000;  // for an end that the kernel has to make

std::vector<int> openDescriptors() {
  std::vector<int> all;
  DIR* list = ::opendir("/proc/self/fd");
  while (const dirent* entry = ::readdir(list))
    if (entry->d_name[0] != '.') all.push_back(::atoi(entry->d_name));
  std::erase(all, ::dirfd(list));
  ::closedir(list);
  std::sort(all.begin(), all.end());
  return all;
}

std::string nameOf(int fd) {
  char text[128];
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t n = ::readlink(path.c_str(), text, sizeof text);
  return n > 0 ? std::string(text, static_cast<size_t>(n)) : "?";
}

// start() changes what belongs to the whole process.
class KeptProcess {
 public:
  KeptProcess() {
    for (size_t i = 0; i < std::size(kSignals); ++i)
      ::sigaction(kSignals[i], nullptr, &actions_[i]);
    for (size_t i = 0; i < std::size(kLimits); ++i) ::getrlimit(kLimits[i], &limits_[i]);
  }
  ~KeptProcess() {
    for (size_t i = 0; i < std::size(kSignals); ++i)
      ::sigaction(kSignals[i], &actions_[i], nullptr);
    for (size_t i = 0; i < std::size(kLimits); ++i) ::setrlimit(kLimits[i], &limits_[i]);
  }

 private:
  static constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGUSR1, SIGUSR2, SIGALRM};
  static constexpr decltype(RLIMIT_SIGPENDING) kLimits[] = {RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE};
  struct sigaction actions_[std::size(kSignals)];
  rlimit limits_[std::size(kLimits)];
};

class Script {
 public:
  Script(const uint8_t* bytes, size_t size) : bytes_(bytes), left_(size) {}
  Outcome run();

 private:
  struct Fault {
    std::string what;
  };
  void require(bool truth, const std::string& what) {
    if (!truth) throw Fault{what};
  }

  // --- the script's bytes
  uint8_t next() { return left_ == 0 ? uint8_t{0} : (--left_, *bytes_++); }
  bool oneIn(uint8_t n) { return next() % n == 0; }

  // --- the peers
  void begin();
  void act();
  void actWell();
  void ask();
  void send(const Request& request, std::vector<int> fds, size_t bytes = sizeof(Request));
  void sendRaw(const Fd& socket, const void* bytes, size_t size, const std::vector<int>& fds);
  void publish(base::ZygoteId id);
  void sayReady(base::BoxId box);
  Request soundRequest(Op op, base::BoxId box, base::ZygoteId zygote);
  template <class Answer>
  void answer(const Fd& channel, base::BoxId box);
  int descriptor();
  Process child(base::BoxId box);
  size_t ofFirst(const std::vector<uint32_t>& keys);

  void turns(int count);
  void readEvents();
  void onEvent(const Event& event, size_t fds);
  void readAsks();
  void serveSecond(uint32_t key, ZygoteEnds& ends);
  template <class Is>
  void await(Is is, const char* what);
  void checkQuiet();
  void checkSecond();
  void end();

  const uint8_t* bytes_;
  size_t left_;
  Fd daemon_;
  std::unique_ptr<spawner::Spawner> spawner_;
  int epoll_ = -1;
  bool connected_ = true;
  bool doors_ = false;     // boxes have doors
  uint8_t hostility_ = 1;  // one act in so many is out of place

  // Of mayflyd: each box's place in the order of its messages.
  struct Seen {
    uint32_t asked = 0;  // `make`s without an end so far
    bool made = false, reaped = false;
  };
  std::map<base::BoxId, Seen> boxes_;
  std::map<base::ZygoteId, Kind> zygotes_;  // the last word about each
  uint32_t made_ = 0;

  // Of makers and zygotes: what they were asked for, by the spawner's key.
  struct Asked {
    uint32_t key = 0;
    base::BoxId box = 0;
    std::vector<Fd> fds;
  };
  std::deque<Asked> inits_, clones_;
  std::map<base::BoxId, Fd> status_;  // the inits' ends
  std::vector<Fd> passed_;            // processes that were passed before
  std::vector<Fd> kept_;              // descriptors of this act
};

// --- the spawner ------------------------------------------------------------------------------

void Script::turns(int count) {
  for (int i = 0; i < count && !spawner_->done(); ++i) {
    require(spawner_->step(0), "the loop fails");
    readEvents();
    readAsks();
  }
}

template <class Is>
void Script::await(Is is, const char* what) {
  const uint64_t end_ns = base::monotonicNs() + kAwaitNs;
  while (!is()) {
    require(base::monotonicNs() < end_ns, what);
    require(spawner_->step(1), "the loop fails");
    readEvents();
    readAsks();
  }
}

// An event that its handler does not take away polls for ever.
void Script::checkQuiet() {
  for (int i = 0; i < kQuietTurnsMax; ++i) {
    turns(1);
    pollfd p{epoll_, POLLIN, 0};
    if (::poll(&p, 1, 1) == 0) return;
  }
  require(spawner_->done(), "the loop spins");
}

// --- mayflyd ------------------------------------------------------------------------------------

void Script::readEvents() {
  while (connected_) {
    Event event;
    auto got = base::receiveMessage(daemon_.view(), base::writableBytesOf(event));
    if (!got && got.error().code == base::Code::unavailable) return;
    if (!got || got->bytes == 0) {
      connected_ = false;
      return;
    }
    const wire::Checked checked = wire::check(event, got->bytes, got->fds);
    require(checked.fault == wire::Checked::Fault::none, std::string("an event: ") + checked.what);
    onEvent(event, got->fds);
  }
}

void Script::onEvent(const Event& e, size_t fds) {
  const std::string who = "box " + std::to_string(e.box) + ", event " +
                          std::to_string(static_cast<int>(e.kind)) + " (" + e.text + ")";
  Seen& box = boxes_[e.box];
  switch (e.kind) {
    case Kind::hello:
    case Kind::pong:
      return;
    case Kind::zygoteReady:
    case Kind::zygoteFailed:
    case Kind::zygoteGone:
      zygotes_[e.zygote_id] = e.kind;
      return;
    case Kind::boxMade:
      require(box.asked > 0 && !box.made && !box.reaped && (fds == 4 || fds == 6),
              "made twice: " + who);
      box.made = true;
      made_ += e.zygote_id == kFirst;
      return;
    case Kind::boxStocked:
      return require(box.asked > 0 && !box.made && !box.reaped, "stocked late: " + who);
    case Kind::boxFailed:
      require(box.asked > 0, "failed unasked: " + who);
      --box.asked;
      if (box.asked == 0) require(!box.made, "made and failed: " + who);
      return;
    case Kind::cloneExited:
    case Kind::boxDied:
      return require(box.made && !box.reaped, "ended before it was made, or late: " + who);
    case Kind::capHit:
    case Kind::sampled:
      return require(box.made && !box.reaped, "told before it was made, or late: " + who);
    case Kind::boxReaped:
      require(box.asked > 0 && !box.reaped, "reaped twice: " + who);
      box.reaped = true;
      return;
    case Kind::boxGone:
      require(box.reaped && e.complete == 1, "gone without its proof: " + who);
      --box.asked;
      box.made = box.reaped = false;
      return;
  }
}

void Script::sendRaw(const Fd& socket, const void* bytes, size_t size,
                     const std::vector<int>& fds) {
  if (!socket) return;
  (void)base::sendMessage(socket.view(), {static_cast<const std::byte*>(bytes), size}, fds);
}

void Script::send(const Request& request, std::vector<int> fds, size_t bytes) {
  const wire::Checked checked = wire::check(request, bytes, fds.size());
  const bool broken = checked.fault == wire::Checked::Fault::language;
  if (request.op == Op::make && !broken) ++boxes_[request.box].asked;
  sendRaw(daemon_, &request, bytes, fds);
  if (broken) connected_ = false;  // the spawner ends
}

Request Script::soundRequest(Op op, base::BoxId box, base::ZygoteId zygote) {
  Request r;
  r.op = op;
  r.box = box;
  r.zygote_id = zygote;
  r.limits.memory_bytes = 64u << 20;
  r.limits.disk_bytes = 1u << 20;
  r.limits.disk_inodes = 100;
  r.limits.processes = 8;
  r.limits.cpu_milli = 1'000;
  r.collect_ms_max = 1'000;
  if (op == Op::publish) {
    memset(r.digest, 'a', sizeof r.digest - 1);
    strcpy(r.zygote[0], "/zygote");
  }
  return r;
}

void Script::publish(base::ZygoteId id) {
  auto seccomp = base::makeMemfd("seccomp");
  auto log = base::makePipe();
  Request r = soundRequest(Op::publish, 0, id);
  if (doors_) r.flags = wire::kLoopback | wire::kDoors;
  send(r, {seccomp->get(), log->write.get()});
}

// The init's word that its box is complete.
void Script::sayReady(base::BoxId box) {
  const wire::InitReady ready;
  const Fd doors[] = {*base::makeMemfd("local"), *base::makeMemfd("tcp")};
  std::vector<int> fds;
  if (doors_) fds = {doors[0].get(), doors[1].get()};
  sendRaw(status_[box], &ready, sizeof ready, fds);
}

// --- makers and zygotes
// ---------------------------------------------------------------------------

void Script::readAsks() {
  for (auto& [key, ends] : world().zygotes) {
    wire::MakeInit init;
    while (ends.maker) {
      auto got = base::receiveMessage(ends.maker.view(), base::writableBytesOf(init));
      if (!got || got->bytes == 0) break;
      require(faultOf(init, got->bytes, got->fds) == nullptr, "a malformed MakeInit");
      Asked& asked = inits_.emplace_back(Asked{key, init.box, {}});
      for (size_t i = 0; i < got->fds; ++i) asked.fds.push_back(std::move(got->fd[i]));
      status_[init.box] = std::move(asked.fds[0]);
    }
    wire::MakeClone clone;
    while (ends.source) {
      auto got = base::receiveMessage(ends.source.view(), base::writableBytesOf(clone));
      if (!got || got->bytes == 0) break;
      require(faultOf(clone, got->bytes, got->fds) == nullptr, "a malformed MakeClone");
      Asked& asked = clones_.emplace_back(Asked{key, clone.box, {}});
      for (size_t i = 0; i < got->fds; ++i) asked.fds.push_back(std::move(got->fd[i]));
    }
    if (key == kSecond) serveSecond(key, ends);
  }
}

Process Script::child(base::BoxId box) {
  Process made = startProcess(Does::wait);
  world().of_box[box].push_back(made.number);
  return made;
}

// The second template's maker, zygote and inits do as they should.
void Script::serveSecond(uint32_t key, ZygoteEnds& ends) {
  auto take = [key](std::deque<Asked>& asked) {
    std::vector<Asked> mine;
    for (auto it = asked.begin(); it != asked.end();)
      if (it->key == key) {
        mine.push_back(std::move(*it));
        it = asked.erase(it);
      } else {
        ++it;
      }
    return mine;
  };
  for (const Asked& asked : take(inits_)) {
    wire::InitMade made;
    made.box = asked.box;
    sendRaw(ends.maker, &made, sizeof made, {child(asked.box).pidfd.get()});
    sayReady(asked.box);
  }
  for (const Asked& asked : take(clones_)) {
    wire::CloneMade made;
    made.box = asked.box;
    sendRaw(ends.source, &made, sizeof made, {child(asked.box).pidfd.get()});
  }
}

// A descriptor that a hostile peer could send; it stays open until the act is over.
int Script::descriptor() {
  auto keep = [this](int fd) { return kept_.emplace_back(fd).get(); };
  switch (next() % 10) {
    case 0:
      return keep(::open("/dev/null", O_RDWR | O_CLOEXEC));
    case 1: {  // readable for ever
      auto pipe = base::makePipe();
      (void)!::write(pipe->write.get(), "x", 1);
      kept_.push_back(std::move(pipe->write));
      return kept_.emplace_back(std::move(pipe->read)).get();
    }
    case 2: {
      auto pair = base::makeSeqpacketPair();
      kept_.push_back(std::move(pair->theirs));
      return kept_.emplace_back(std::move(pair->ours)).get();
    }
    case 3:
      return keep(::eventfd(1, EFD_CLOEXEC));
    case 4:
    case 5:  // not a child; a spawner that took it for one would kill this process
      return keep(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
    case 6:
      if (!passed_.empty()) return passed_[next() % passed_.size()].get();
      [[fallthrough]];
    case 7:  // a child that has ended, or is about to
      return kept_.emplace_back(startProcess(Does::end).pidfd).get();
    case 8:
      return keep(::open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    default: {
      Process made = child(next() % (kBoxesMax + 1));
      passed_.emplace_back(::fcntl(made.pidfd.get(), F_DUPFD_CLOEXEC, 3));
      return kept_.emplace_back(std::move(made.pidfd)).get();
    }
  }
}

// InitMade or CloneMade, right or wrong in each part.
template <class Answer>
void Script::answer(const Fd& channel, base::BoxId box) {
  Answer made;
  made.box = oneIn(8) ? next() % (kBoxesMax + 2) : box;
  if (oneIn(8)) made.error = static_cast<int32_t>(int8_t(next()));
  if (oneIn(16)) made.magic ^= next();
  if (oneIn(16)) memset(made.step, next(), sizeof made.step);
  std::vector<int> fds;
  const uint8_t how = next();
  if (how % 8 < 2) {
    Process process = child(box);
    passed_.emplace_back(::fcntl(process.pidfd.get(), F_DUPFD_CLOEXEC, 3));
    fds.push_back(kept_.emplace_back(std::move(process.pidfd)).get());
  } else if (how % 8 < 6) {
    fds.push_back(descriptor());
  } else if (how % 8 == 6) {
    fds.assign(next() % (base::kMessageFdsMax + 1), descriptor());
  }
  const size_t bytes = oneIn(16) ? next() % (sizeof made + 1) : sizeof made;
  for (int times = oneIn(12) ? 2 : 1; times > 0; --times) sendRaw(channel, &made, bytes, fds);
}

// --- the acts
// ---------------------------------------------------------------------------------------

// What leads a box of the first template one step on.
void Script::actWell() {
  const base::BoxId box = 1 + next() % kBoxesMax;
  switch (next() % 8) {
    case 0: {
      Request r = soundRequest(Op::make, box, kFirst);
      if (oneIn(3)) r.flags |= wire::kStock;
      return send(r, {});
    }
    case 1:
    case 2: {
      if (inits_.empty()) return;
      const Asked asked = std::move(inits_.front());
      inits_.pop_front();
      wire::InitMade made;
      made.box = asked.box;
      Process process = child(asked.box);
      passed_.emplace_back(::fcntl(process.pidfd.get(), F_DUPFD_CLOEXEC, 3));
      sendRaw(world().zygotes[asked.key].maker, &made, sizeof made, {process.pidfd.get()});
      return sayReady(asked.box);
    }
    case 3:
    case 4: {
      if (clones_.empty()) return;
      const Asked asked = std::move(clones_.front());
      clones_.pop_front();
      wire::CloneMade made;
      made.box = asked.box;
      Process process = child(asked.box);
      passed_.emplace_back(::fcntl(process.pidfd.get(), F_DUPFD_CLOEXEC, 3));
      return sendRaw(world().zygotes[asked.key].source, &made, sizeof made, {process.pidfd.get()});
    }
    case 5:
      return send(soundRequest(Op::claim, box, kFirst), {});
    case 6: {
      auto spool = base::makeMemfd("spool");
      Request r = soundRequest(Op::end, box, kFirst);
      r.flags = wire::kCollect;
      return send(r, {spool->get()});
    }
    default:
      if (zygotes_[kFirst] == Kind::zygoteReady) break;
      if (zygotes_[kFirst] != Kind::hello) {
        zygotes_[kFirst] = Kind::hello;  // it starts anew
        return publish(kFirst);
      }
      const auto newest = world().zygotes.rbegin();
      const wire::CloneMade hello;
      if (newest->first != kSecond) sendRaw(newest->second.source, &hello, sizeof hello, {});
      return;
  }
  send(soundRequest(Op::clone, box, kFirst), {});
}

// A request of a mayflyd that was taken over. It leaves the second template's boxes alone, which it
// could end by a plain request.
void Script::ask() {
  constexpr base::ZygoteId kIds[] = {kFirst, kFirst, kFirst, kThird, 0, 0xffff'fff0};
  const auto op = static_cast<Op>(1 + next() % static_cast<int>(wire::kOpMax));
  Request r = soundRequest(op, next() % (kBoxesMax + 2), kIds[next() % std::size(kIds)]);
  r.flags = oneIn(2) ? 0u : next() % 64u;
  if (oneIn(6)) r.limits.memory_bytes = next() % 2 == 0 ? 0 : UINT64_MAX;
  if (oneIn(6)) r.limits.cpu_milli = 0;
  if (oneIn(8)) r.digest[next() % sizeof r.digest] = static_cast<char>(next());
  if (oneIn(8)) memset(r.zygote, next(), sizeof r.zygote);
  r.claimed_ns = oneIn(2) ? base::monotonicNs() : static_cast<uint64_t>(next()) << 56;
  r.collect_ms_max = next();
  if (oneIn(200)) r.magic ^= 1;
  std::vector<int> fds;
  const int count = op == Op::publish ? 2 : op == Op::end && (r.flags & wire::kCollect) ? 1 : 0;
  for (int n = oneIn(6) ? next() % 6 : count; n > 0; --n) fds.push_back(descriptor());
  send(r, fds, oneIn(200) ? next() : sizeof r);
}

void Script::act() {
  auto& zygotes = world().zygotes;
  // One that the first template's name belongs to, or a later one; never the second.
  auto it = zygotes.begin();
  std::advance(it, next() % zygotes.size());
  if (it->first == kSecond) it = zygotes.begin();
  ZygoteEnds& ends = it->second;
  const base::BoxId box = 1 + next() % kBoxesMax;
  if (!oneIn(hostility_)) return oneIn(4) ? turns(1 + next() % 8) : actWell();
  switch (next() % 14) {
    case 0:
    case 1:
      return ask();
    case 2:
    case 12:
      return answer<wire::InitMade>(ends.maker, inits_.empty() ? box : inits_.front().box);
    case 3:
    case 13:
      return answer<wire::CloneMade>(ends.source, clones_.empty() ? box : clones_.front().box);
    case 4: {
      wire::InitReady ready;
      if (oneIn(3)) ready.error = next();
      if (oneIn(8)) ready.magic = next();
      std::vector<int> fds;
      if (oneIn(3))
        for (int n = next() % 4; n > 0; --n) fds.push_back(descriptor());
      return sendRaw(status_[box], &ready, oneIn(8) ? next() % sizeof ready : sizeof ready, fds);
    }
    case 5:
      status_[box].reset();
      return;
    case 6: {
      const auto& of_box = world().of_box[box];
      if (!of_box.empty()) killProcess(of_box[next() % of_box.size()]);
      return;
    }
    case 7:
      if (oneIn(8))
        killProcess(oneIn(3)   ? ends.pid1_process
                    : oneIn(2) ? ends.maker_process
                               : ends.source_process);
      return;
    case 8:
      if (oneIn(8)) (oneIn(2) ? ends.maker : ends.source).reset();
      return;
    case 9:
      if (auto event = world().cap_events.find(box); event != world().cap_events.end()) {
        const uint64_t one = 1;
        (void)!::write(event->second.get(), &one, sizeof one);
      }
      return;
    case 10: {
      std::vector<uint8_t> noise(next());
      for (uint8_t& byte : noise) byte = next();
      std::vector<int> fds;
      for (int n = next() % 4; n > 0; --n) fds.push_back(descriptor());
      const Fd& to = oneIn(3) ? status_[box] : oneIn(2) ? ends.maker : ends.source;
      return sendRaw(to, noise.data(), noise.size(), fds);
    }
    default:
      world().busy = next() % 3;
  }
}

// --- the whole
// --------------------------------------------------------------------------------------

void Script::begin() {
  auto pair = base::makeSeqpacketPair();
  daemon_ = std::move(pair->ours);
  (void)base::setNonblocking(daemon_.view());
  const std::vector<int> before = openDescriptors();
  auto started = spawner::Spawner::start(std::move(pair->theirs), {"fuzz", "/", 0});
  require(started.has_value(), "the spawner does not start");
  spawner_ = std::move(*started);
  for (int fd : openDescriptors())
    if (!std::binary_search(before.begin(), before.end(), fd) &&
        nameOf(fd) == "anon_inode:[eventpoll]")
      epoll_ = fd;
  for (base::ZygoteId id : {kFirst, kSecond}) {
    publish(id);
    await([&] { return world().zygotes.contains(id) && world().zygotes[id].source; },
          "a zygote does not start");
    const wire::CloneMade hello;
    sendRaw(world().zygotes[id].source, &hello, sizeof hello, {});
    await([&] { return zygotes_[id] == Kind::zygoteReady; }, "a zygote does not serve");
  }
}

void Script::checkSecond() {
  if (!connected_ || spawner_->done()) return;
  require(zygotes_[kSecond] == Kind::zygoteReady, "the second template ended");
  send(soundRequest(Op::make, kSecondsBox, kSecond), {});
  await([&] { return boxes_[kSecondsBox].made || !connected_; },
        "the second template makes no box");
  send(soundRequest(Op::claim, kSecondsBox, kSecond), {});
  send(soundRequest(Op::end, kSecondsBox, kSecond), {});
  await([&] { return boxes_[kSecondsBox].asked == 0 || !connected_; }, "its box does not end");
}

void Script::end() {
  daemon_.reset();
  connected_ = false;
  // What a dead zygote's processes held is closed by the kernel.
  for (auto& [key, ends] : world().zygotes) {
    ends.maker.reset();
    ends.source.reset();
    ends.pid1.reset();
  }
  status_.clear();
  inits_.clear();
  clones_.clear();
  for (size_t i = 0; i < world().children.size(); ++i) killProcess(i);
  await([&] { return spawner_->done(); }, "the spawner does not end");
}

Outcome Script::run() {
  Outcome outcome;
  try {
    hostility_ = static_cast<uint8_t>(2u << next() % 5);
    doors_ = next() % 2 == 0;
    begin();
    for (size_t n = 0; n < kActsMax && left_ > 0; ++n) {
      act();
      kept_.clear();
      if (oneIn(3)) turns(1);
      if (!connected_) break;
    }
    world().busy = 0;
    turns(8);
    if (connected_) checkQuiet();
    checkSecond();
    outcome.connected = connected_;
    outcome.made = made_;
    end();
  } catch (const Fault& fault) {
    outcome.fault = fault.what;
  }
  return outcome;
}

}  // namespace

Outcome runScript(const uint8_t* bytes, size_t size) {
  const KeptProcess kept;
  ::signal(SIGPIPE, SIG_IGN);
  rlimit files;  // a script keeps two for each process
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  const std::vector<int> before = openDescriptors();
  Outcome outcome = Script(bytes, size).run();
  for (size_t i = 0; i < world().children.size(); ++i) killProcess(i);
  if (outcome.fault.empty())
    for (size_t i = 0; i < world().children.size(); ++i) {  // those that it never heard of
      siginfo_t info{};
      ::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(world().children[i].get()), &info,
               WEXITED | __WALL);
    }
  world() = World{};
  // The look at record locks is a real fork, which may outlive the script.
  while (::waitpid(-1, nullptr, WNOHANG | __WALL) > 0) {
  }
  for (int fd : openDescriptors())
    if (outcome.fault.empty() && !std::binary_search(before.begin(), before.end(), fd))
      outcome.fault = "a descriptor is left open: " + nameOf(fd);
  return outcome;
}

}  // namespace mayfly::fuzz
