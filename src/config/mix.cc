// Layer: config. See mix.h.
#include "config/mix.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/fd.h"
#include "base/text.h"
#include "config/limits.h"
#include "config/manifest.h"
#include "config/reader.h"
#include "config/units.h"

namespace mayfly::config {
namespace {

constexpr uint32_t kWeightMax = 1'000'000;
constexpr size_t kArgsMax = 64, kEnvMax = 64;

void readMixLimits(Reader::Table t, MixTask& task) {
  for (const LimitField& field : limitFields()) {
    uint64_t value = field.lowest;
    const bool given = t.has(field.key);
    t.quantity(field.key, field.lowest, field.highest,
               {"", [&](std::string_view s) { return field.parse(s); },
                [&](uint64_t v) { return field.format(v); }},
               value);
    if (given) task.limits.emplace_back(std::string(field.key), value);
  }
  t.finish();
}

void readInputSizes(Reader::Table& t, MixTask& task) {
  std::vector<std::string> texts;
  t.strings("input_sizes", kMixInputSizesMax, texts);
  for (const std::string& text : texts) {
    auto size = parseBytes(text);
    if (!size)
      return t.complain("input_sizes",
                        fmt::format("is wrong: {}. {}", size.error().message, size.error().advice));
    if (*size > kMixInputBytesMax)
      return t.complain("input_sizes",
                        fmt::format("has {}; at most {} is allowed", formatBytes(*size),
                                    formatBytes(kMixInputBytesMax)));
    task.input_sizes_bytes.push_back(*size);
  }
}

MixTask readTask(Reader::Table& t) {
  MixTask task;
  t.string("name", task.name);
  t.string("template", task.template_name);
  t.count("weight", 1, kWeightMax, task.weight);
  t.string("code", task.code);
  t.string("script", task.script);
  t.strings("command", kArgsMax, task.command);
  t.strings("args", kArgsMax, task.args);
  if (t.has("expect")) task.expect.emplace();
  std::string expect;
  t.string("expect", expect);
  if (task.expect) task.expect = expect;
  t.string("tenant", task.tenant);
  t.stringTable("env", kEnvMax, task.env);
  t.strings("files", kMixFilesMax, task.files);
  readInputSizes(t, task);
  t.boolean("collect", task.collect);
  readMixLimits(t.table("limits"), task);
  if (task.name.empty() || task.name.size() > 64 || !base::isUtf8(task.name))
    t.complain("name", "is required: at most 64 bytes of UTF-8, the task's name in reports");
  if (!isTemplateName(task.template_name))
    t.complain("template", "must be a template's name, e.g. \"python\"");
  if (t.has("code") + t.has("script") + t.has("command") != 1)
    t.complain("", "needs exactly one of code, script, command");
  if (t.has("command") && (task.command.empty() || !task.args.empty()))
    t.complain("command", "must be the whole command line, without args");
  if (task.tenant.size() > kMixTenantBytesMax ||
      base::printable(task.tenant, kMixTenantBytesMax) != task.tenant)
    t.complain("tenant", fmt::format("must be at most {} printable bytes", kMixTenantBytesMax));
  t.finish();
  return task;
}

}  // namespace

base::Result<Mix> parseMix(std::string_view text, std::string_view file) {
  Reader reader(text, file);
  Mix mix;
  mix.name = base::printable(file);
  Reader::Table root = reader.root();
  std::vector<Reader::Table> tables = root.tables("task", kMixTasksMax);
  for (Reader::Table& table : tables) {
    MixTask task = readTask(table);
    const bool again = std::any_of(mix.tasks.begin(), mix.tasks.end(),
                                   [&](const MixTask& t) { return t.name == task.name; });
    if (again) table.complain("name", "is the name of another task of this file");
    mix.tasks.push_back(std::move(task));
  }
  root.finish();
  if (mix.tasks.empty() && !reader.failed())
    return base::fail(base::Code::invalidArgument,
                      fmt::format("{}: has no [[task]]", base::printable(file)),
                      "docs/bench.md has an example of a mix.");
  if (reader.failed()) return tl::unexpected<base::Error>(reader.takeError());
  return mix;
}

base::Result<Mix> loadMix(const std::string& path) {
  MAYFLY_TRY(std::string text, base::readSmallFile(base::FdView(AT_FDCWD), path, kMixBytesMax));
  MAYFLY_TRY(Mix mix, parseMix(text, path));
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
  auto below = [&](std::string& name) {
    if (!name.empty() && name.front() != '/') name = folder + name;
  };
  for (MixTask& task : mix.tasks) {
    below(task.script);
    for (std::string& file : task.files) below(file);
  }
  return mix;
}

}  // namespace mayfly::config
