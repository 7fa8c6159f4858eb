// The policy of the broker's tests, and grants of it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "broker/narrow.h"
#include "broker_policy_text.h"
#include "config/policy.h"

namespace mayfly::broker {

inline std::shared_ptr<const config::Policy> testPolicy() {
  auto policy = config::parsePolicy(kTestPolicy, "test");
  EXPECT_TRUE(policy) << policy.error().message;
  return policy ? std::make_shared<const config::Policy>(*policy) : nullptr;
}

inline Grant grantOf(const std::string& action, const std::string& narrowing = "") {
  auto grant = makeGrant(testPolicy(), {1000, "red"}, action, narrowing);
  EXPECT_TRUE(grant) << grant.error().message;
  return grant ? *grant : Grant{};
}

}  // namespace mayfly::broker
