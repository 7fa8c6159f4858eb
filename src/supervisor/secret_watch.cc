#include "supervisor/secret_watch.h"

#include <poll.h>

#include <algorithm>
#include <utility>

namespace mayfly::supervisor {

using From = config::SecretSource::From;

namespace {

constexpr uint64_t kRetryMs = 10'000;  // of a command that failed

bool same(const config::SecretSource& a, const config::SecretSource& b) {
  return a.name == b.name && a.from == b.from && a.path == b.path && a.command == b.command &&
         a.refresh_ms == b.refresh_ms && a.time_ms_max == b.time_ms_max && a.open == b.open;
}

bool hasEnded(base::FdView pidfd) {
  pollfd one{pidfd.get(), POLLIN, 0};
  return ::poll(&one, 1, 0) > 0;
}

}  // namespace

void SecretWatch::set(std::vector<config::SecretSource> sources) {
  std::vector<Watched> next;
  for (config::SecretSource& source : sources) {
    auto known = std::find_if(all_.begin(), all_.end(),
                              [&](const Watched& each) { return same(each.source, source); });
    if (known == all_.end()) {
      next.emplace_back();
      next.back().source = std::move(source);
    } else {
      next.push_back(std::move(*known));
      all_.erase(known);
    }
  }
  all_ = std::move(next);
}

void SecretWatch::forget() {
  for (Watched& each : all_) {
    each.told = each.seen = std::nullopt;
    each.failure.clear();
    each.command.reset();
    each.run_again_ns = 0;
  }
}

void SecretWatch::look(uint64_t now_ns) {
  for (Watched& each : all_)
    if (each.source.from == From::command)
      lookAtCommand(each, now_ns);
    else
      lookAtFile(each);
}

void SecretWatch::lookAtFile(Watched& each) {
  auto opened = openSecret(each.source, rules_);
  if (!opened) {
    each.seen = std::nullopt;
    return fail(each, std::move(opened).error());
  }
  const bool settled = !each.told || each.seen == opened->stamp;
  each.seen = opened->stamp;
  if (!settled || (each.told == opened->stamp && each.failure.empty())) return;
  each.told = opened->stamp;
  each.failure.clear();
  tell_(each.source.name, std::move(opened->file));
}

void SecretWatch::lookAtCommand(Watched& each, uint64_t now_ns) {
  if (!each.command) {
    if (now_ns < each.run_again_ns) return;
    auto started = Command::start(each.source, rules_, now_ns);
    if (started) {
      each.command.emplace(std::move(*started));
      return;
    }
    each.run_again_ns = now_ns + kRetryMs * kMsNs;
    return fail(each, std::move(started).error());
  }
  base::Result<base::Fd> output = base::Fd();
  if (hasEnded(each.command->pidfd()))
    output = each.command->finish();
  else if (now_ns >= each.command->deadlineNs())
    output = base::fail(each.command->giveUp());
  else
    return;
  each.command.reset();
  each.run_again_ns = now_ns + (output ? each.source.refresh_ms : kRetryMs) * kMsNs;
  if (!output) return fail(each, std::move(output).error());
  each.failure.clear();
  tell_(each.source.name, std::move(output));
}

void SecretWatch::fail(Watched& each, base::Error error) {
  if (each.failure == error.message) return;
  each.failure = error.message;
  tell_(each.source.name, base::fail(std::move(error)));
}

std::vector<base::FdView> SecretWatch::running() const {
  std::vector<base::FdView> all;
  for (const Watched& each : all_)
    if (each.command) all.push_back(each.command->pidfd());
  return all;
}

uint64_t SecretWatch::nextNs() const {
  uint64_t next = UINT64_MAX;
  for (const Watched& each : all_)
    if (each.command) next = std::min(next, each.command->deadlineNs());
  return next;
}

}  // namespace mayfly::supervisor
