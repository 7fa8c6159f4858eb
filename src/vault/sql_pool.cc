#include "vault/sql_pool.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <libpq-fe.h>

#include <algorithm>
#include <utility>

#include <boost/asio/post.hpp>

#include "base/clock.h"
#include "broker/address.h"
#include "vault/sigv4.h"
#include "vault/transfer.h"

namespace mayfly::vault {

using base::Code;
using base::Result;
using PgOptions = std::vector<std::pair<const char*, SecretRef>>;

namespace {

SecretRef asSecret(std::string_view value) {
  return std::make_shared<const Secret>(Secret::joined({value}));
}

// libpq reads certificates from files only. They are no secrets.
Result<std::string> caFile(const config::Database& database, const SecretStore& secrets) {
  if (database.ca.empty()) return std::string(kHostCaFile);
  MAYFLY_TRY(SecretRef pem, secrets.find(database.ca));
  const std::string path = "/journal/ca-" + sha256Hex(pem->reveal()).substr(0, 32) + ".pem";
  MAYFLY_TRY(base::Fd file, base::openAt({}, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  MAYFLY_CHECK(base::writeSmallFile({}, path, pem->reveal()));
  return path;
}

struct Target {
  std::string host;
  uint16_t port = 5432;
  PgOptions options;  // what names the user and database
};

// Of a whole connection string only its place, user and database count.
Result<Target> targetOf(const config::Database& database, const SecretStore& secrets) {
  Target out{database.host, database.port, {}};
  if (database.dsn.empty()) {
    out.options = {{"dbname", asSecret(database.database)}, {"user", asSecret(database.user)}};
    if (!database.password.empty()) {
      MAYFLY_TRY(SecretRef password, secrets.find(database.password));
      out.options.emplace_back("password", std::move(password));
    }
    return out;
  }
  MAYFLY_TRY(SecretRef dsn, secrets.find(database.dsn));
  char* error = nullptr;
  PQconninfoOption* parsed = ::PQconninfoParse(dsn->reveal().data(), &error);
  ::PQfreemem(error);  // it may quote the string
  if (parsed == nullptr)
    return base::fail(Code::failedPrecondition,
                      "the connection string of database '" + database.name + "' cannot be read");
  for (const PQconninfoOption* each = parsed; each->keyword != nullptr; ++each) {
    if (each->val == nullptr) continue;
    const std::string_view key = each->keyword;
    if (key == "host") out.host = each->val;
    if (key == "port") out.port = static_cast<uint16_t>(std::atoi(each->val));
    for (const char* kept : {"dbname", "user", "password"})
      if (key == kept) out.options.emplace_back(kept, asSecret(each->val));
  }
  ::PQconninfoFree(parsed);
  if (out.host.empty() || out.host.find_first_of(",/") != std::string::npos || out.port == 0)
    return base::fail(Code::failedPrecondition, "the connection string of database '" +
                                                    database.name + "' names no single host");
  return out;
}

}  // namespace

SqlPools::Lease::~Lease() {
  connection_.reset();
  if (auto pools = pools_.lock(); pools && *pools != nullptr && !database_.empty())
    (*pools)->closed(database_, whose_);
}

void SqlPools::Lease::giveBack() {
  auto pools = pools_.lock();
  if (!pools || *pools == nullptr || !connection_ || !connection_->usable()) return;
  SqlPools& all = **pools;
  const std::string database = std::exchange(database_, {});
  all.pools_[database].idle.push_back({key_, std::move(connection_), base::monotonicNs()});
  all.release(all.pools_[database], whose_);
  all.next(database);
}

std::string SqlPools::keyOf(const config::Database& d) const {
  std::string key = fmt::format("{}|{}|{}|{}|{}|{}|{}|{}|{}", d.host, d.port, d.database, d.user,
                                d.dsn, d.password, d.ca, d.plaintext, secrets_.changes());
  for (const config::Network& network : d.allow_addresses)
    key += fmt::format("|{}/{}", config::formatAddress(network.address), network.bits);
  return key;
}

void SqlPools::acquire(std::shared_ptr<const config::Policy> policy,
                       const config::Database& database, For whose, Got got) {
  Pool& pool = pools_[database.name];
  std::erase_if(pool.waiting, [](const Waiting& each) { return each.whose.caller.expired(); });
  const auto of_user =
      std::count_if(pool.waiting.begin(), pool.waiting.end(),
                    [&](const Waiting& each) { return each.whose.uid == whose.uid; });
  if (pool.waiting.size() >= kWaitingMax || static_cast<size_t>(of_user) >= kWaitingOfUserMax) {
    boost::asio::post(io_, [got = std::move(got)] {
      got(base::fail(Code::resourceExhausted, "too many calls wait for this database",
                     "Try again later.", 500));
    });
    return;
  }
  pool.waiting.push_back({std::move(policy), &database, std::move(whose), std::move(got)});
  next(database.name);
}

std::optional<SqlPools::Waiting> SqlPools::takeNext(Pool& pool) {
  const auto held = [](const auto& all, auto key) {
    const auto at = all.find(key);
    return at == all.end() ? 0u : at->second;
  };
  auto best = pool.waiting.end();
  for (auto at = pool.waiting.begin(); at != pool.waiting.end(); ++at) {
    const uint32_t most = at->database->connections_max;
    const bool may = held(pool.of_session, at->whose.session) < (most + 1) / 2 &&
                     held(pool.of_user, at->whose.uid) < std::max(1u, most - 1);
    if (may && (best == pool.waiting.end() ||
                held(pool.of_user, at->whose.uid) < held(pool.of_user, best->whose.uid)))
      best = at;
  }
  if (best == pool.waiting.end()) return std::nullopt;
  Waiting taken = std::move(*best);
  pool.waiting.erase(best);
  return taken;
}

void SqlPools::release(Pool& pool, const For& whose) {
  const auto less = [](auto& all, auto key) {
    const auto at = all.find(key);
    if (at != all.end() && --at->second == 0) all.erase(at);
  };
  less(pool.of_session, whose.session);
  less(pool.of_user, whose.uid);
}

void SqlPools::next(const std::string& database) {
  Pool& pool = pools_[database];
  while (!pool.waiting.empty()) {
    const config::Database& newest = *pool.waiting.back().database;
    const std::string key = keyOf(newest);
    pool.open -= static_cast<uint32_t>(std::erase_if(pool.idle, [&](const Idle& each) {
      return each.key != key || !each.connection->usable();
    }));
    if (pool.idle.empty() && pool.open >= newest.connections_max) return;
    auto wish = takeNext(pool);
    if (!wish) return;
    ++pool.of_session[wish->whose.session];
    ++pool.of_user[wish->whose.uid];
    if (pool.idle.empty() || keyOf(*wish->database) != key) {
      ++pool.open;
      connect(std::move(*wish));
      continue;
    }
    auto lease = std::make_shared<std::unique_ptr<Lease>>(std::make_unique<Lease>());
    (*lease)->pools_ = self_;
    (*lease)->database_ = database;
    (*lease)->whose_ = wish->whose;
    (*lease)->key_ = key;
    (*lease)->connection_ = std::move(pool.idle.front().connection);
    pool.idle.pop_front();
    boost::asio::post(io_, [got = std::move(wish->got), lease] { got(std::move(*lease)); });
  }
}

void SqlPools::closed(const std::string& database, const For& whose) {
  Pool& pool = pools_[database];
  if (pool.open > 0) --pool.open;
  release(pool, whose);
  next(database);
}

void SqlPools::connect(Waiting wish) {
  auto target = targetOf(*wish.database, secrets_);
  if (!target) {
    boost::asio::post(io_, [self = self_, wish, error = target.error()] {
      if (*self == nullptr) return;
      wish.got(base::fail(error));
      (*self)->closed(wish.database->name, wish.whose);
    });
    return;
  }
  // As long as the pools live: the wish's share is given back whatever becomes of its caller.
  const Resolver::For whose{wish.whose.session, wish.whose.uid, self_};
  resolver_.resolve(target->host, whose,
                    [this, wish = std::move(wish)](Result<std::vector<config::Address>> found) {
                      if (found) return connectTo(wish, *found);
                      wish.got(base::fail(std::move(found).error()));
                      closed(wish.database->name, wish.whose);
                    });
}

void SqlPools::connectTo(Waiting wish, const std::vector<config::Address>& addresses) {
  const config::Database& database = *wish.database;
  const auto fail = [&](base::Error error) {
    wish.got(base::fail(std::move(error)));
    closed(database.name, wish.whose);
  };
  auto address = std::find_if(addresses.begin(), addresses.end(), [&](const auto& each) {
    return broker::isAllowed(each, database.allow_addresses);
  });
  if (address == addresses.end())
    return fail(
        {Code::permissionDenied,
         fmt::format("the address of database '{}' is one that it may not have", database.name),
         "The operator can name the address in the policy.", 0});
  auto target = targetOf(database, secrets_);
  auto ca = caFile(database, secrets_);
  if (!target || !ca) return fail(target ? ca.error() : target.error());
  PgOptions options = std::move(target->options);
  const auto add = [&](const char* key, std::string_view value) {
    options.emplace_back(key, asSecret(value));
  };
  add("host", target->host);
  add("hostaddr", config::formatAddress(*address));
  add("port", std::to_string(target->port));
  add("sslmode", database.plaintext ? "disable" : "verify-full");
  add("sslrootcert", *ca);
  add("sslcert", "/none");  // libpq looks for files by default
  add("sslkey", "/none");
  add("passfile", "/none");
  add("gssencmode", "disable");
  add("client_encoding", "UTF8");
  add("application_name", "mayfly-broker");
  auto lease = std::make_shared<std::unique_ptr<Lease>>(std::make_unique<Lease>());
  (*lease)->pools_ = self_;
  (*lease)->database_ = database.name;
  (*lease)->whose_ = wish.whose;
  (*lease)->key_ = keyOf(database);
  (*lease)->connection_ = std::make_unique<PgConnection>(io_);
  PgConnection& connection = ***lease;
  connection.connect(std::move(options), database.connect_ms_max,
                     [lease, got = std::move(wish.got),
                      policy = std::move(wish.policy)](base::Status status) mutable {
                       auto own = std::move(*lease);
                       if (status) return got(std::move(own));
                       own.reset();
                       got(base::fail(std::move(status).error()));
                     });
}

void SqlPools::look(uint64_t now_ns) {
  for (auto& [name, pool] : pools_) {
    const auto old = [&](const Idle& each) { return each.since_ns + kIdleNsMax < now_ns; };
    pool.open -= static_cast<uint32_t>(std::erase_if(pool.idle, old));
  }
}

}  // namespace mayfly::vault
