// Connections to the policy's databases: each carries one call at a time and is kept for the next.
//
// A connection was opened with one policy and one value of its secrets; when either changes, it is
// closed after its call. Names are resolved and addresses checked before libpq connects.
//
// A task may have half of a database's connections, a user all but one: so whatever they do, others
// are served. Among those who wait, the user with the fewest connections is next.
//
// Layer: vault. The loop's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include <boost/asio/io_context.hpp>

#include "config/policy.h"
#include "vault/pg.h"
#include "vault/resolver.h"
#include "vault/secret.h"

namespace mayfly::vault {

class SqlPools {
 public:
  static constexpr size_t kWaitingMax = 128;  // calls that wait for one database's connection
  static constexpr size_t kWaitingOfUserMax = kWaitingMax / 2;
  static constexpr uint64_t kIdleNsMax = 60'000'000'000;

  struct For {
    uint64_t session = 0;
    uint32_t uid = 0;
    std::weak_ptr<const void> caller;  // once it has gone, it waits no more
  };

  // A connection that a call holds. Dropped: closed, unless it was given back before.
  class Lease {
   public:
    ~Lease();
    PgConnection& operator*() { return *connection_; }
    PgConnection* operator->() { return connection_.get(); }
    void giveBack();  // idle and in no transaction: another call may have it

   private:
    friend class SqlPools;
    std::weak_ptr<SqlPools*> pools_;
    std::string database_;
    For whose_;
    std::string key_;
    std::unique_ptr<PgConnection> connection_;
  };
  using Got = std::function<void(base::Result<std::unique_ptr<Lease>>)>;

  SqlPools(boost::asio::io_context& io, Resolver& resolver, const SecretStore& secrets)
      : io_(io), resolver_(resolver), secrets_(secrets) {}

  // `got` is called once, in a later turn; nobody who has gone may be called, so it holds a weak
  // reference. `policy` keeps `database`.
  void acquire(std::shared_ptr<const config::Policy> policy, const config::Database& database,
               For whose, Got got);
  // Closes what was idle for too long.
  void look(uint64_t now_ns);

 private:
  struct Idle {
    std::string key;
    std::unique_ptr<PgConnection> connection;
    uint64_t since_ns = 0;
  };
  struct Waiting {
    std::shared_ptr<const config::Policy> policy;
    const config::Database* database;
    For whose;
    Got got;
  };
  struct Pool {
    uint32_t open = 0;  // held, connecting or idle
    std::list<Idle> idle;
    std::deque<Waiting> waiting;
    // Connections that are held or connecting; without those that have none.
    std::map<uint64_t, uint32_t> of_session;
    std::map<uint32_t, uint32_t> of_user;
  };
  // Takes the next who may have a connection now out of those who wait.
  static std::optional<Waiting> takeNext(Pool& pool);
  static void release(Pool& pool, const For& whose);
  void connect(Waiting wish);
  void connectTo(Waiting wish, const std::vector<config::Address>& addresses);
  void closed(const std::string& database, const For& whose);
  void next(const std::string& database);
  std::string keyOf(const config::Database& database) const;

  boost::asio::io_context& io_;
  Resolver& resolver_;
  const SecretStore& secrets_;
  std::map<std::string, Pool> pools_;
  std::shared_ptr<SqlPools*> self_ = std::make_shared<SqlPools*>(this);
};

}  // namespace mayfly::vault
