// mayfly broker check|try|keys: a policy looked at without a daemon, a secret or the network.
// mayfly broker log: see broker_log.h.
//
// Layer: cli. Reads one file; needs no daemon.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "cli/broker_log.h"

namespace mayfly::cli {

struct BrokerArgs {
  std::string verb;    // check, try, keys, log
  std::string policy;  // its file
  bool json = false;
  // try
  std::string action, narrowing, tenant;
  uint32_t uid = 0;
  std::string target = "/";  // a path, or a URL for egress
  std::string method = "GET";
  std::vector<std::string> headers;  // "Name: value"
  std::vector<std::string> params;   // "NAME=VALUE", of a statement
  LogOptions log;
};
struct BrokerText {  // help, or the error in the use
  std::string text;
  int code = 0;
};
// `args` follow the word `broker`.
std::variant<BrokerArgs, BrokerText> parseBroker(const std::vector<std::string>& args);

// What the verb prints, or why the policy or the request is refused.
base::Result<std::string> brokerCheck(const BrokerArgs& args);
base::Result<std::string> brokerTry(const BrokerArgs& args);

// `args` follow the word `broker`. The exit code: 0, 2 for a wrong use, 1 else.
int brokerMain(const std::vector<std::string>& args);

}  // namespace mayfly::cli
