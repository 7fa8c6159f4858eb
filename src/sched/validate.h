// Checks a submission against its template before anything is made for it.
//
// Nothing from a client is trusted; every refusal names the field, its value and
// the bound.
//
// Layer: sched. Pure.
#pragma once

#include <string_view>

#include "base/result.h"
#include "base/task.h"
#include "pool/template_spec.h"
#include "sched/core.h"

namespace mayfly::sched {

inline constexpr size_t kEnvNameBytesMax = 256;
inline constexpr size_t kPathPartBytesMax = 255;
inline constexpr uint64_t kCopyBytesPerSecondMin = 50u << 20;  // of a core, into a box's files

// A path of an input file, relative to /task.
base::Status checkPath(std::string_view what, std::string_view path);

// The limits in force, or why they cannot be.
base::Result<base::Limits> resolveLimits(const LimitWishes& wishes, const pool::TemplateSpec& tmpl);

// Checks all of `spec`; returns the limits in force.
base::Result<base::Limits> checkSpec(const TaskSpec& spec, const pool::TemplateSpec& tmpl);

// What of the input cap is used before the first writeStdin().
uint64_t inputBytes(const TaskSpec& spec);
// What of it the daemon holds for this task alone: blobs are shared.
uint64_t heldBytes(const TaskSpec& spec);
// How long its clone may take to copy so much into its files with its share of the cores.
uint64_t copyTime_ns(uint64_t bytes, const base::Limits& limits);

}  // namespace mayfly::sched
