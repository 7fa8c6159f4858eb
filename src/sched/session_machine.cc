#include "sched/session_machine.h"

#include <algorithm>

#include "base/text.h"

namespace mayfly::sched {

using base::Code;
using base::fail;
using base::Status;
using base::Unit;

namespace {

// Names stand in paths of URLs and in rules.
bool isActionName(std::string_view name) {
  return !name.empty() &&
         name.find_first_not_of(
             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") ==
             std::string_view::npos &&
         name.front() != '.' && name.front() != '-';
}

Status tooLong(std::string_view what, std::string_view of, size_t bytes, size_t max) {
  if (bytes <= max) return Unit{};
  return fail(Code::invalidArgument, std::string(what) + " '" + base::printable(of, 64) + "' has " +
                                         std::to_string(bytes) + " bytes; at most " +
                                         std::to_string(max));
}

Status tooManyOf(std::string_view what, size_t count, size_t max) {
  if (count <= max) return Unit{};
  return fail(Code::invalidArgument, std::string(what) + ": " + std::to_string(count) +
                                         "; at most " + std::to_string(max));
}

Status checkName(std::string_view kind, std::string_view name, size_t max) {
  MAYFLY_CHECK(tooLong(std::string("the name of ") + std::string(kind), name, name.size(), max));
  if (isActionName(name)) return Unit{};
  return fail(Code::invalidArgument,
              "'" + base::printable(name, 64) + "' is not the name of " + std::string(kind),
              "Use letters, digits, '_', '-' and '.'; not '-' or '.' first.");
}

template <class List>
Status checkTwice(std::string_view kind, const List& list) {
  std::vector<std::string_view> names;
  for (const auto& each : list) names.push_back(each.name);
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end())
    return fail(Code::invalidArgument,
                std::string(kind) + " '" + std::string(*twice) + "' is named twice");
  return Unit{};
}

}  // namespace

Status checkSession(const SessionSpec& spec) {
  MAYFLY_CHECK(tooManyOf("grants", spec.grants.size(), kGrantsMax));
  for (const GrantWish& wish : spec.grants) {
    MAYFLY_CHECK(checkName("a grant", wish.name, kGrantNameBytesMax));
    MAYFLY_CHECK(tooLong("the narrowing of", wish.name, wish.narrowing.size(), kNarrowingBytesMax));
    if (base::printable(wish.narrowing, kNarrowingBytesMax) != wish.narrowing)
      return fail(Code::invalidArgument,
                  "the narrowing of '" + wish.name + "' holds a character that is not printable");
  }
  MAYFLY_CHECK(checkTwice("the grant", spec.grants));
  MAYFLY_CHECK(tooManyOf("tools", spec.tools.size(), kToolsMax));
  for (const Tool& tool : spec.tools) {
    MAYFLY_CHECK(checkName("a tool", tool.name, kToolNameBytesMax));
    MAYFLY_CHECK(tooLong("the description of", tool.name, tool.description.size(),
                         kToolDescriptionBytesMax));
    MAYFLY_CHECK(tooLong("the schema of", tool.name, tool.schema_json.size(), kToolSchemaBytesMax));
  }
  MAYFLY_CHECK(checkTwice("the tool", spec.tools));
  if (!spec.tools.empty() && !spec.tool_box)
    return fail(Code::invalidArgument, "tools are named, and no tool box is given");
  return Unit{};
}

void joinEnv(Env& task, const Env& session) {
  for (const auto& [name, value] : session) {
    const auto has = [&name = name](const auto& var) { return var.first == name; };
    if (name == kBrokerVariable) std::erase_if(task, has);
    if (std::none_of(task.begin(), task.end(), has)) task.emplace_back(name, value);
  }
}

std::string_view name(SessionAct act) {
  constexpr std::string_view names[] = {"open",      "activate",  "revoke",       "openDoor",
                                        "closeDoor", "dropDoors", "restartFront", "restartVault",
                                        "tellLeft",  "tellEnded"};
  return names[static_cast<size_t>(act)];
}

uint64_t SessionMachine::deadline_ns() const {
  if (revoke_due_ns_ == 0) return close_due_ns_;
  return close_due_ns_ == 0 ? revoke_due_ns_ : std::min(revoke_due_ns_, close_due_ns_);
}

void SessionMachine::note(std::string_view text) {
  if (!end_.note.empty()) end_.note += "; ";
  end_.note += text;
}

void SessionMachine::openDoorIfDue(Acts& acts) {
  if (!has_box_ || vault_ != AtVault::active || !front_up_ || front_ != AtFront::shut) return;
  front_ = AtFront::open;
  acts.push_back(SessionAct::openDoor);
}

void SessionMachine::closeDoor(Acts& acts, uint64_t now_ns) {
  if (front_ != AtFront::open) return;
  front_ = AtFront::closing;
  close_due_ns_ = now_ns + bounds_.close_ns;
  acts.push_back(SessionAct::closeDoor);
}

void SessionMachine::shut(Acts& acts, uint64_t now_ns) {
  front_ = AtFront::shut;
  close_due_ns_ = 0;
  openDoorIfDue(acts);
  settle(acts, now_ns);
}

// The box's own sockets are closed before: dropDoors stands first.
void SessionMachine::settle(Acts& acts, uint64_t now_ns) {
  if (front_ != AtFront::shut || has_box_) return;
  if (end_.broker_closed_ns == 0) end_.broker_closed_ns = now_ns;
  if (leaving_) {
    leaving_ = false;
    acts.push_back(SessionAct::tellLeft);
  }
  if (!ended_ || told_ || vault_ != AtVault::revoked) return;
  told_ = true;
  acts.push_back(SessionAct::tellEnded);
}

// --- the task ---------------------------------------------------------------------------

SessionMachine::Acts SessionMachine::begin() {
  Acts acts;
  if (ended_ || has_box_) return acts;
  if (vault_ == AtVault::refused) return {SessionAct::dropDoors};
  has_box_ = true;
  end_.broker_closed_ns = 0;
  if (vault_ == AtVault::open || vault_ == AtVault::active) {
    vault_ = AtVault::activating;
    acts.push_back(SessionAct::activate);
  }
  return acts;
}

SessionMachine::Acts SessionMachine::leave(uint64_t now_ns) {
  Acts acts;
  if (ended_) return acts;
  leaving_ = true;
  closeDoor(acts, now_ns);
  if (std::exchange(has_box_, false)) acts.push_back(SessionAct::dropDoors);
  settle(acts, now_ns);
  return acts;
}

SessionMachine::Acts SessionMachine::end(uint64_t now_ns) {
  Acts acts;
  if (std::exchange(ended_, true)) return acts;
  switch (vault_) {
    case AtVault::open:
    case AtVault::activating:
    case AtVault::active:
      vault_ = AtVault::revoking;
      revoke_due_ns_ = now_ns + bounds_.revoke_ns;
      acts.push_back(SessionAct::revoke);
      break;
    case AtVault::opening:  // revoked once the vault has answered
      revoke_due_ns_ = now_ns + bounds_.revoke_ns;
      break;
    case AtVault::away:
    case AtVault::refused:
      vault_ = AtVault::revoked;
      end_.revoked_ns = now_ns;
      break;
    case AtVault::revoking:
    case AtVault::revoked:
      break;
  }
  closeDoor(acts, now_ns);
  if (std::exchange(has_box_, false)) acts.push_back(SessionAct::dropDoors);
  settle(acts, now_ns);
  return acts;
}

// --- the vault ----------------------------------------------------------------------------

SessionMachine::Acts SessionMachine::opened(uint64_t) {
  if (vault_ != AtVault::opening) return {};
  if (ended_) {
    vault_ = AtVault::revoking;
    return {SessionAct::revoke};
  }
  vault_ = has_box_ ? AtVault::activating : AtVault::open;
  return has_box_ ? Acts{SessionAct::activate} : Acts{};
}

// The task's calls are refused from now on: nobody listens any more.
SessionMachine::Acts SessionMachine::refused(uint64_t now_ns) {
  Acts acts;
  if (vault_ != AtVault::opening && vault_ != AtVault::activating) return acts;
  vault_ = ended_ ? AtVault::revoked : AtVault::refused;
  if (ended_) end_.revoked_ns = now_ns, revoke_due_ns_ = 0;
  closeDoor(acts, now_ns);
  if (std::exchange(has_box_, false)) acts.push_back(SessionAct::dropDoors);
  settle(acts, now_ns);
  return acts;
}

SessionMachine::Acts SessionMachine::activated() {
  Acts acts;
  if (vault_ != AtVault::activating) return acts;
  vault_ = AtVault::active;
  openDoorIfDue(acts);
  return acts;
}

SessionMachine::Acts SessionMachine::revoked(uint64_t now_ns) {
  Acts acts;
  if (vault_ != AtVault::revoking) return acts;
  vault_ = AtVault::revoked;
  end_.revoked_ns = now_ns;
  revoke_due_ns_ = 0;
  settle(acts, now_ns);
  return acts;
}

// A dead vault calls nobody any more. Its numbers may come again at the next one, so the front
// forgets them first.
SessionMachine::Acts SessionMachine::vaultLost(uint64_t now_ns) {
  Acts acts;
  if (vault_ == AtVault::revoked || vault_ == AtVault::refused || vault_ == AtVault::away)
    return acts;
  vault_ = ended_ ? AtVault::revoked : AtVault::away;
  if (ended_) end_.revoked_ns = now_ns, revoke_due_ns_ = 0;
  closeDoor(acts, now_ns);
  settle(acts, now_ns);
  return acts;
}

SessionMachine::Acts SessionMachine::vaultBack() {
  if (vault_ != AtVault::away || ended_) return {};
  vault_ = AtVault::opening;
  return {SessionAct::open};
}

// --- the front ------------------------------------------------------------------------------

// A front that closes a door unasked gets it no second time.
SessionMachine::Acts SessionMachine::doorClosed(uint64_t now_ns) {
  Acts acts;
  if (front_ == AtFront::shut) return acts;
  if (front_ == AtFront::open && std::exchange(has_box_, false))
    acts.push_back(SessionAct::dropDoors);
  shut(acts, now_ns);
  return acts;
}

SessionMachine::Acts SessionMachine::frontLost(uint64_t now_ns) {
  Acts acts;
  front_up_ = false;
  if (front_ != AtFront::shut) shut(acts, now_ns);
  return acts;
}

SessionMachine::Acts SessionMachine::frontBack() {
  Acts acts;
  front_up_ = true;
  openDoorIfDue(acts);
  return acts;
}

SessionMachine::Acts SessionMachine::tick(uint64_t now_ns) {
  Acts acts;
  const auto late = [&](uint64_t& due_ns, uint64_t bound_ns, SessionAct act, const char* who) {
    if (due_ns == 0 || now_ns < due_ns) return;
    due_ns = 0;
    note(std::string(who) + " did not confirm within " + std::to_string(bound_ns / 1'000'000) +
         " ms and was restarted");
    acts.push_back(act);
  };
  late(revoke_due_ns_, bounds_.revoke_ns, SessionAct::restartVault, "the vault");
  late(close_due_ns_, bounds_.close_ns, SessionAct::restartFront, "the front");
  return acts;
}

}  // namespace mayfly::sched
