// Checks a submission against its template before anything is made for it.
//
// Nothing from a client is trusted; every refusal names the field, its value and
// the bound.
//
// Layer: sched. Pure.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "base/task.h"
#include "pool/template_spec.h"
#include "sched/core.h"

namespace mayfly::sched {

inline constexpr size_t kEnvNameBytesMax = 256;
inline constexpr size_t kPathPartBytesMax = 255;
inline constexpr uint64_t kCopyBytesPerSecondMin =
    50u << 20;  // that one core copies into a box's files, at least

// A path of an input file, relative to /task.
base::Status checkPath(std::string_view what, std::string_view path);

// The limits in force, or why the wishes cannot be granted.
base::Result<base::Limits> resolveLimits(const LimitWishes& wishes, const pool::TemplateSpec& tmpl);

// A W3C traceparent as far as this version of its format knows it, or why it is none. An empty one
// is empty.
base::Result<std::string> checkTrace(std::string_view traceparent);

// Checks all of `spec`; returns the limits in force.
base::Result<base::Limits> checkSpec(const TaskSpec& spec, const pool::TemplateSpec& tmpl);

// The part of the input cap that is used before the first writeStdin().
uint64_t inputBytes(const TaskSpec& spec);
// The bytes that the daemon holds for this task alone: blobs are shared.
uint64_t heldBytes(const TaskSpec& spec);
// The time that the clone may take to copy `bytes` into its files with its share of the cores.
uint64_t copyTime_ns(uint64_t bytes, const base::Limits& limits);

}  // namespace mayfly::sched
