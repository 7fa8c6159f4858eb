#include "front/refusal.h"

#include <nlohmann/json.hpp>

namespace mayfly::front {

uint16_t statusOf(base::Code code) {
  switch (code) {
    case base::Code::invalidArgument:
      return 400;
    case base::Code::permissionDenied:
      return 403;
    case base::Code::notFound:
      return 404;
    case base::Code::alreadyExists:
    case base::Code::failedPrecondition:
      return 409;
    case base::Code::resourceExhausted:
      return 429;
    case base::Code::unavailable:
      return 503;
    case base::Code::deadlineExceeded:
      return 504;
    case base::Code::cancelled:
    case base::Code::hostUnfit:
    case base::Code::internal:
      return 502;
  }
  return 502;
}

std::string jsonOf(const Refusal& refusal) {
  const nlohmann::ordered_json json{{"error",
                                     {{"code", std::string(base::name(refusal.code))},
                                      {"message", refusal.message},
                                      {"advice", refusal.advice},
                                      {"rule", refusal.rule}}}};
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace mayfly::front
