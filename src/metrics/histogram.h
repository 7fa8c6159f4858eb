// The histogram of times, under this room's name; see base/histogram.h.
//
// Layer: metrics. Pure.
#pragma once

#include "base/histogram.h"

namespace mayfly::metrics {

using base::bound_ns;
using base::bucketOf;
using base::Buckets;
using base::Histogram;
using base::kBounds;
using base::kBuckets;
using base::quantile_s;

}  // namespace mayfly::metrics
