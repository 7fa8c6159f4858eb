#include "vault/book.h"

#include <fmt/format.h>

#include <algorithm>

namespace mayfly::vault {

using base::Code;

const broker::Grant* Session::find(std::string_view grant) const {
  auto at = std::find_if(grants.begin(), grants.end(),
                         [&](const broker::Grant& each) { return each.name() == grant; });
  return at == grants.end() ? nullptr : &*at;
}

const ToolInfo* Session::findTool(std::string_view name) const {
  auto at = std::find_if(tools.begin(), tools.end(),
                         [&](const ToolInfo& each) { return each.name == name; });
  return at == tools.end() ? nullptr : &*at;
}

std::vector<std::pair<uint64_t, std::string>> Book::setPolicy(
    std::shared_ptr<const config::Policy> policy) {
  policy_ = std::move(policy);
  std::vector<std::pair<uint64_t, std::string>> gone;
  for (auto& [number, session] : all_) {
    session.grants.clear();
    std::erase_if(session.wishes, [&, number = number](const auto& wish) {
      auto grant = broker::makeGrant(policy_, session.who, wish.first, wish.second);
      if (grant) session.grants.push_back(std::move(*grant));
      if (!grant) gone.emplace_back(number, wish.first);
      return !grant;
    });
  }
  return gone;
}

base::Result<Session*> Book::open(Wishes wishes) {
  if (!policy_) return base::fail(Code::unavailable, "the broker has no policy yet", {}, 200);
  if (all_.size() >= policy_->bounds.sessions_max)
    return base::fail(Code::resourceExhausted,
                      fmt::format("the broker has {} sessions", all_.size()), "Try again later.",
                      base::kRetryMs);
  MAYFLY_TRY(auto grants, broker::makeGrants(policy_, wishes.who, wishes.grants));
  Session session;
  session.number = next_++;
  session.who = std::move(wishes.who);
  session.task = wishes.task;
  session.epoch = wishes.epoch;
  session.trace = std::move(wishes.trace);
  session.wishes = std::move(wishes.grants);
  session.grants = std::move(grants);
  session.tools = std::move(wishes.tools);
  session.tools_text = std::move(wishes.tools_text);
  Session& kept = all_[session.number] = std::move(session);
  return &kept;
}

base::Status Book::activate(uint64_t number, uint64_t task, uint64_t expires_ns) {
  Session* session = find(number);
  if (session == nullptr) return base::fail(Code::notFound, "the session is over");
  if (session->expires_ns != 0)
    return base::fail(Code::failedPrecondition, "the session is active already");
  if (task == 0 || (session->task != 0 && session->task != task))
    return base::fail(Code::invalidArgument, "the session belongs to another task");
  auto [known, is_new] = epochs_.try_emplace(task, session->epoch);
  if (!is_new && known->second >= session->epoch)
    return base::fail(Code::failedPrecondition,
                      fmt::format("task {} has a session of epoch {}; this one's is {}", task,
                                  known->second, session->epoch));
  known->second = session->epoch;
  session->task = task;
  session->expires_ns = expires_ns;
  return base::Unit{};
}

void Book::revoke(uint64_t number, std::string_view grant) {
  Session* session = find(number);
  if (session == nullptr) return;
  if (!grant.empty()) {
    std::erase_if(session->wishes, [&](const auto& wish) { return wish.first == grant; });
    std::erase_if(session->grants, [&](const auto& each) { return each.name() == grant; });
    return;
  }
  auto epoch = epochs_.find(session->task);
  if (session->expires_ns != 0 && epoch != epochs_.end() && epoch->second == session->epoch)
    epochs_.erase(epoch);
  all_.erase(number);
}

std::vector<uint64_t> Book::expire(uint64_t now_ns) {
  std::vector<uint64_t> over;
  for (const auto& [number, session] : all_)
    if (session.expires_ns != 0 && session.expires_ns <= now_ns) over.push_back(number);
  return over;
}

Session* Book::find(uint64_t number) {
  auto at = all_.find(number);
  return at == all_.end() ? nullptr : &at->second;
}

broker::Decision<Session*> Book::active(uint64_t number, uint64_t now_ns) {
  Session* session = find(number);
  if (session == nullptr || session->expires_ns == 0 || session->expires_ns <= now_ns)
    return broker::refuse({Code::permissionDenied, 403, "session",
                           "this task may not call the broker, or not any more", "", 0});
  auto epoch = epochs_.find(session->task);
  if (epoch == epochs_.end() || epoch->second != session->epoch)
    return broker::refuse({Code::permissionDenied, 403, "session.epoch",
                           "this session is of an earlier epoch of its task", "", 0});
  return session;
}

}  // namespace mayfly::vault
