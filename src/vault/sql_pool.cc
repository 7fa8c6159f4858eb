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
    (*pools)->closed(database_);
}

void SqlPools::Lease::giveBack() {
  auto pools = pools_.lock();
  if (!pools || *pools == nullptr || !connection_ || !connection_->usable()) return;
  SqlPools& all = **pools;
  const std::string database = std::exchange(database_, {});
  all.pools_[database].idle.push_back({key_, std::move(connection_), base::monotonicNs()});
  all.next(database);
}

std::string SqlPools::keyOf(const config::Database& d) const {
  std::string key = fmt::format("{}|{}|{}|{}|{}|{}", d.host, d.port, d.database, d.user,
                                d.plaintext, secrets_.changes());
  for (const config::Network& network : d.allow_addresses)
    key += fmt::format("|{}/{}", config::formatAddress(network.address), network.bits);
  return key;
}

void SqlPools::acquire(std::shared_ptr<const config::Policy> policy,
                       const config::Database& database, Got got) {
  Pool& pool = pools_[database.name];
  if (pool.waiting.size() >= kWaitingMax) {
    boost::asio::post(io_, [got = std::move(got)] {
      got(base::fail(Code::resourceExhausted, "too many calls wait for this database",
                     "Try again later.", 500));
    });
    return;
  }
  pool.waiting.push_back({std::move(policy), &database, std::move(got)});
  next(database.name);
}

void SqlPools::next(const std::string& database) {
  Pool& pool = pools_[database];
  while (!pool.waiting.empty()) {
    Waiting& first = pool.waiting.front();
    const std::string key = keyOf(*first.database);
    pool.open -= static_cast<uint32_t>(std::erase_if(pool.idle, [&](const Idle& each) {
      return each.key != key || !each.connection->usable();
    }));
    if (!pool.idle.empty()) {
      auto lease = std::make_shared<std::unique_ptr<Lease>>(std::make_unique<Lease>());
      (*lease)->pools_ = self_;
      (*lease)->database_ = database;
      (*lease)->key_ = key;
      (*lease)->connection_ = std::move(pool.idle.front().connection);
      pool.idle.pop_front();
      boost::asio::post(io_, [got = std::move(first.got), lease] { got(std::move(*lease)); });
      pool.waiting.pop_front();
      continue;
    }
    if (pool.open >= first.database->connections_max) return;
    ++pool.open;
    Waiting wish = std::move(first);
    pool.waiting.pop_front();
    connect(std::move(wish));
  }
}

void SqlPools::closed(const std::string& database) {
  Pool& pool = pools_[database];
  if (pool.open > 0) --pool.open;
  next(database);
}

void SqlPools::connect(Waiting wish) {
  auto target = targetOf(*wish.database, secrets_);
  if (!target) {
    boost::asio::post(io_, [self = self_, wish, error = target.error()] {
      if (*self == nullptr) return;
      wish.got(base::fail(error));
      (*self)->closed(wish.database->name);
    });
    return;
  }
  resolver_.resolve(target->host,
                    [this, wish = std::move(wish)](Result<std::vector<config::Address>> found) {
                      if (found) return connectTo(wish, *found);
                      wish.got(base::fail(std::move(found).error()));
                      closed(wish.database->name);
                    });
}

void SqlPools::connectTo(Waiting wish, const std::vector<config::Address>& addresses) {
  const config::Database& database = *wish.database;
  const auto fail = [&](base::Error error) {
    wish.got(base::fail(std::move(error)));
    closed(database.name);
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
