#include "rpc/kept_keys.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace mayfly::rpc {

using base::Code;
using base::fail;
using base::Status;
using base::Unit;

namespace {

constexpr const char* kFile = "keys";

template <size_t N>
void hashInto(uint8_t (&to)[N], std::string_view bytes) {
  crypto_generichash(to, N, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
                     nullptr, 0);
}

uint64_t shortHash(std::string_view bytes) {
  uint8_t sum[16];
  hashInto(sum, bytes);
  uint64_t number;
  memcpy(&number, sum, sizeof number);
  return number;
}

Status writeAll(base::FdView file, const void* from, size_t bytes, off_t at,
                const std::string& path) {
  auto* next = static_cast<const char*>(from);
  while (bytes > 0) {
    const ssize_t n = ::pwrite(file.get(), next, bytes, at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return base::failSys(n < 0 ? errno : EIO, "write", path);
    next += n;
    at += n;
    bytes -= static_cast<size_t>(n);
  }
  return Unit{};
}

}  // namespace

size_t KeptKeys::HashOf::operator()(const Hash& hash) const {
  size_t value;
  memcpy(&value, hash.data(), sizeof value);
  return value;
}

KeptKeys::Hash KeptKeys::hashOf(std::string_view user, std::string_view key) {
  // A user's name has no NUL.
  std::string both(user);
  both += '\0';
  both += key;
  Hash hash;
  crypto_generichash(hash.data(), hash.size(), reinterpret_cast<const unsigned char*>(both.data()),
                     both.size(), nullptr, 0);
  return hash;
}

uint64_t KeptKeys::userOf(std::string_view user) { return shortHash(user); }

uint64_t KeptKeys::sumOf(const Record& record) {
  return shortHash({reinterpret_cast<const char*>(&record), offsetof(Record, sum)});
}

base::Result<std::unique_ptr<KeptKeys>> KeptKeys::open(base::FdView folder, const std::string& path,
                                                       std::string since, uint64_t now_unix_ms,
                                                       Bounds bounds) {
  std::unique_ptr<KeptKeys> keys(new KeptKeys(path + "/" + kFile, std::move(since), bounds));
  auto bytes = base::readSmallFile(folder, kFile, bounds.records_max * sizeof(Record));
  if (!bytes && bytes.error().sys != ENOENT)
    return fail(std::move(bytes).error().in("the keys of detached tasks in '" + path + "'"));
  if (bytes) MAYFLY_CHECK(keys->load(*bytes, now_unix_ms));
  if (auto written = keys->rewrite(folder); !written)
    return fail(std::move(written).error().in("cannot keep keys of detached tasks"));
  return keys;
}

// What lives in the file was of a run that is over.
Status KeptKeys::load(const std::string& bytes, uint64_t now_unix_ms) {
  Record none{};
  // A last record that the end of the disk or of the machine cut short was never answered for.
  for (size_t at = 0; at + sizeof(Record) <= bytes.size(); at += sizeof(Record)) {
    Record record;
    memcpy(&record, bytes.data() + at, sizeof record);
    if (memcmp(&record, &none, sizeof none) == 0) continue;
    if (record.sum != sumOf(record))
      return fail(Code::failedPrecondition,
                  fmt::format("'{}' is damaged: its record {} is no key of a detached task", path_,
                              at / sizeof(Record)),
                  "Delete it if no client repeats a key of an earlier run: such a key then runs a "
                  "second time.");
    if (record.until == 0) record.until = now_unix_ms + record.lease_ms;
    if (record.until <= now_unix_ms) continue;
    auto [lost, added] = lost_.emplace(record.key, Lost{record.user, record.until, records_});
    lost->second.until = std::max(lost->second.until, record.until);
    if (!added) continue;
    ++lost_of_[record.user];
    ++records_;
    soonest_ = std::min(soonest_, record.until);
  }
  return Unit{};
}

Status KeptKeys::rewrite(base::FdView folder) {
  const std::string part = std::string(kFile) + ".new";
  MAYFLY_TRY(base::Fd file, base::openAt(folder, part, O_RDWR | O_CREAT | O_TRUNC, 0600));
  std::vector<Record> all(records_);
  for (const auto& [key, lost] : lost_) {
    Record& record = all[lost.record];
    record = {key, lost.user, lost.until, 0, 0};
    record.sum = sumOf(record);
  }
  MAYFLY_CHECK(writeAll(file.view(), all.data(), all.size() * sizeof(Record), 0, part));
  if (::fsync(file.get()) != 0) return base::failSys(errno, "fsync", part);
  if (::renameat(folder.get(), part.c_str(), folder.get(), kFile) != 0)
    return base::failSys(errno, "rename", part);
  if (::fsync(folder.get()) != 0) return base::failSys(errno, "fsync", "its folder");
  file_ = std::move(file);
  return Unit{};
}

Status KeptKeys::write(uint32_t place, const Record& record) {
  return writeAll(file_.view(), &record, sizeof record,
                  static_cast<off_t>(place) * static_cast<off_t>(sizeof record), path_);
}

void KeptKeys::forget(LostKeys::iterator lost) {
  const Lost gone = lost->second;
  lost_.erase(lost);
  if (--lost_of_[gone.user] == 0) lost_of_.erase(gone.user);
  // What stays in the file is over at the next start, too.
  if (write(gone.record, Record{})) free_.push_back(gone.record);
}

void KeptKeys::forgetOver(uint64_t now_unix_ms) {
  if (now_unix_ms < soonest_) return;
  soonest_ = UINT64_MAX;
  for (auto at = lost_.begin(); at != lost_.end();) {
    auto next = std::next(at);
    if (at->second.until <= now_unix_ms)
      forget(at);
    else
      soonest_ = std::min(soonest_, at->second.until);
    at = next;
  }
}

std::optional<uint64_t> KeptKeys::lostForMs(std::string_view user, std::string_view key,
                                            uint64_t now_unix_ms) {
  auto at = lost_.find(hashOf(user, key));
  if (at == lost_.end() || at->second.until <= now_unix_ms) return std::nullopt;
  return at->second.until - now_unix_ms;
}

base::Result<uint32_t> KeptKeys::keep(std::string_view user, std::string_view key,
                                      uint32_t lease_ms, uint64_t now_unix_ms) {
  forgetOver(now_unix_ms);
  const uint64_t whose = userOf(user);
  auto lost = lost_of_.find(whose);
  const bool user_full = lost != lost_of_.end() && lost->second >= bounds_.lost_per_user_max;
  if (user_full || (free_.empty() && records_ >= bounds_.records_max))
    return fail(Code::resourceExhausted,
                fmt::format("detach: {} keys of {} runs of the daemon are kept; at most {}",
                            user_full ? lost->second : records_,
                            user_full ? "this user's earlier" : "all users'",
                            user_full ? bounds_.lost_per_user_max : bounds_.records_max),
                "Submit without a key, or wait until the leases of earlier ones are over.",
                base::kRetryMs);
  Record record{hashOf(user, key), whose, 0, lease_ms, 0};
  record.sum = sumOf(record);
  const uint32_t place = free_.empty() ? records_ : free_.back();
  if (auto written = write(place, record); !written) {
    // A part of it would be a damaged file.
    if (place == records_)
      (void)!::ftruncate(file_.get(), static_cast<off_t>(place) * off_t{sizeof(Record)});
    return fail(std::move(written).error().in("cannot keep the task's key, so it does not run"));
  }
  if (place == records_)
    ++records_;
  else
    free_.pop_back();
  return place;
}

Status KeptKeys::drop(uint32_t record) {
  MAYFLY_CHECK(write(record, Record{}));
  free_.push_back(record);
  return Unit{};
}

}  // namespace mayfly::rpc
