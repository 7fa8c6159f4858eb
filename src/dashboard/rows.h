// The past as rows: one tick as text. The columns' names say where each value stands.
//
//   [at_ms, [values of all templates together], [[values of template 0], null, ...]]
//
// Null: nothing happened there. Layer: dashboard. Pure.
#pragma once

#include <string>
#include <vector>

#include "metrics/snapshot.h"

namespace mayfly::dashboard {

const std::vector<std::string>& columnsOfAll();
const std::vector<std::string>& columnsOfTemplate();

std::string rowOf(const metrics::Tick& tick);

}  // namespace mayfly::dashboard
