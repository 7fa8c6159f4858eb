// An Advice as tables for a terminal, as JSON, and as a picture.
//
// Layer: plan. Pure.
#pragma once

#include <string>
#include <vector>

#include "plan/advise.h"

namespace mayfly::plan {

std::string renderTable(const Input& input, const config::PlanScenario& scenario,
                        const Advice& advice);
std::string renderJson(const Input& input, const config::PlanScenario& scenario,
                       const Advice& advice);
// First byte and processors over the load, and every resource's share: light and dark.
std::string renderSvg(const config::PlanScenario& scenario, const Advice& advice);

// What a reader must know before relying on the figures: too few tasks, a goal or a prediction that
// is finer than the model.
std::vector<std::string> warningsOf(const config::PlanScenario& scenario, const Advice& advice);

// The sentences that answer "how many" and "what binds".
std::string hostsInWords(const config::PlanScenario& scenario, const Advice& advice);
std::string bindingInWords(const config::PlanScenario& scenario, const Advice& advice);

}  // namespace mayfly::plan
