// Layer: config. See reader.h.
#include "config/reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "config/units.h"

namespace mayfly::config {
namespace {

constexpr size_t kStringBytesMax = 4'096;
constexpr size_t kIdNameBytesMax = 256;  // a user's or group's name

}  // namespace

Quantity sizes() { return {"size", parseBytes, formatBytes}; }
Quantity times() { return {"time", parseDurationMs, formatDurationMs}; }

Reader::Reader(std::string_view text, std::string_view file, std::vector<Setting>* asked)
    : file_(file), listed_(asked) {
  toml::parse_result parsed = toml::parse(text, file);
  if (parsed) {
    table_ = std::move(parsed).table();
    return;
  }
  const toml::parse_error& e = parsed.error();
  error_ = base::Error{base::Code::invalidArgument,
                       fmt::format("{}:{}: not valid TOML: {}", file_, e.source().begin.line,
                                   base::printable(e.description())),
                       {},
                       0};
}

void Reader::complain(const toml::node* at, std::string_view what) {
  if (error_) return;
  std::string place = file_;
  if (at && at->source().begin.line) place += fmt::format(":{}", at->source().begin.line);
  error_ = base::Error{base::Code::invalidArgument, fmt::format("{}: {}", place, what), {}, 0};
}

std::string Reader::Table::full(std::string_view key) const {
  const std::string safe = base::printable(key, 80);
  if (safe.empty()) return path_;
  return path_.empty() ? safe : path_ + "." + safe;
}

const toml::node* Reader::Table::find(std::string_view key) {
  asked_.emplace_back(key);
  return table_ ? table_->get(key) : nullptr;
}

void Reader::Table::list(std::string_view key, std::string type, std::string allowed,
                         std::string preset) {
  if (reader_.listed_)
    reader_.listed_->push_back({full(key), std::move(type), std::move(allowed), std::move(preset)});
}

void Reader::Table::complain(std::string_view key, std::string_view what) {
  const toml::node* at = table_ && !key.empty() ? table_->get(key) : nullptr;
  reader_.complain(at ? at : table_, fmt::format("'{}' {}", full(key), what));
}

void Reader::Table::string(std::string_view key, std::string& out) {
  list(key, "string", {}, out);
  const toml::node* node = find(key);
  if (!node) return;
  const auto* value = node->as_string();
  if (!value) return complain(key, "must be a string");
  if (value->get().size() > kStringBytesMax || value->get().find('\0') != std::string::npos) {
    return complain(key, fmt::format("must be at most {} bytes without NUL", kStringBytesMax));
  }
  out = value->get();
}

void Reader::Table::boolean(std::string_view key, bool& out) {
  list(key, "boolean", "true, false", out ? "true" : "false");
  const toml::node* node = find(key);
  if (!node) return;
  if (!node->is_boolean()) return complain(key, "must be true or false");
  out = node->as_boolean()->get();
}

void Reader::Table::count(std::string_view key, uint64_t lowest, uint64_t highest, uint64_t& out) {
  list(key, "count", fmt::format("{} to {}", lowest, highest), fmt::format("{}", out));
  const toml::node* node = find(key);
  if (!node) return;
  const auto* value = node->as_integer();
  if (!value || value->get() < 0 || static_cast<uint64_t>(value->get()) < lowest ||
      static_cast<uint64_t>(value->get()) > highest) {
    return complain(key, fmt::format("must be a whole number from {} to {}", lowest, highest));
  }
  out = static_cast<uint64_t>(value->get());
}

void Reader::Table::count(std::string_view key, uint64_t lowest, uint64_t highest, uint32_t& out) {
  uint64_t wide = out;
  count(key, lowest, highest, wide);
  out = static_cast<uint32_t>(wide);
}

void Reader::Table::count(std::string_view key, uint64_t lowest, uint64_t highest, uint16_t& out) {
  uint64_t wide = out;
  count(key, lowest, highest, wide);
  out = static_cast<uint16_t>(wide);
}

void Reader::Table::integer(std::string_view key, std::optional<int64_t>& out) {
  list(key, "integer", {}, {});
  const toml::node* node = find(key);
  if (!node) return;
  const auto* value = node->as_integer();
  if (!value) return complain(key, "must be a whole number");
  out = value->get();
}

void Reader::Table::number(std::string_view key, std::optional<double>& out) {
  list(key, "number", {}, {});
  const toml::node* node = find(key);
  if (!node) return;
  std::optional<double> value;
  if (const auto* whole = node->as_integer()) value = static_cast<double>(whole->get());
  if (const auto* real = node->as_floating_point()) value = real->get();
  if (!value || !std::isfinite(*value)) return complain(key, "must be a number");
  out = value;
}

void Reader::Table::wordAt(std::string_view key, std::span<const std::string_view> words,
                           size_t& at) {
  const std::string allowed = fmt::format("{}", fmt::join(words, ", "));
  list(key, "word", allowed, std::string(words[at]));
  const toml::node* node = find(key);
  if (!node) return;
  const auto* value = node->as_string();
  const auto found = value ? std::find(words.begin(), words.end(), value->get()) : words.end();
  if (found == words.end()) return complain(key, "must be one of " + allowed);
  at = static_cast<size_t>(found - words.begin());
}

void Reader::Table::quantity(std::string_view key, uint64_t lowest, uint64_t highest,
                             const Quantity& kind, uint64_t& out) {
  const auto& format = kind.format;
  list(key, std::string(kind.type), format(lowest) + " to " + format(highest), format(out));
  const toml::node* node = find(key);
  if (!node) return;
  std::string text;
  if (const auto* s = node->as_string()) {
    text = s->get();
  } else if (const auto* i = node->as_integer()) {
    text = fmt::format("{}", i->get());
  } else if (const auto* f = node->as_floating_point()) {
    text = fmt::format("{}", f->get());
  } else {
    return complain(key, "must be a quantity such as \"512MiB\", \"30s\" or 1.5");
  }
  auto value = kind.parse(text);
  if (!value) {
    return complain(key,
                    fmt::format("is wrong: {}. {}", value.error().message, value.error().advice));
  }
  if (*value < lowest || *value > highest) {
    return complain(key, fmt::format("is {}; allowed are {} to {}", format(*value), format(lowest),
                                     format(highest)));
  }
  out = *value;
}

void Reader::Table::strings(std::string_view key, size_t count_max, std::vector<std::string>& out) {
  list(key, "strings", fmt::format("at most {}", count_max),
       fmt::format("{}", fmt::join(out, " ")));
  const toml::node* node = find(key);
  if (!node) return;
  const toml::array* array = node->as_array();
  const std::string want = fmt::format("must be a list of at most {} strings", count_max);
  if (!array || array->size() > count_max) return complain(key, want);
  std::vector<std::string> values;
  for (const toml::node& item : *array) {
    const auto* value = item.as_string();
    if (!value || value->get().size() > kStringBytesMax ||
        value->get().find('\0') != std::string::npos) {
      return complain(key, want);
    }
    values.push_back(value->get());
  }
  out = std::move(values);
}

// 2^32 - 1 is no user's and no group's number.
void Reader::Table::ids(std::string_view key, size_t count_max, std::vector<Id>& out) {
  list(key, "ids", fmt::format("at most {}", count_max), {});
  const toml::node* node = find(key);
  if (!node) return;
  const toml::array* array = node->as_array();
  const std::string want = fmt::format(
      "must be a list of at most {} names, or numbers from 0 to {}", count_max, UINT32_MAX - 1);
  if (!array || array->size() > count_max) return complain(key, want);
  std::vector<Id> values;
  for (const toml::node& item : *array) {
    if (const auto* name = item.as_string(); name && !name->get().empty() &&
                                             name->get().size() <= kIdNameBytesMax &&
                                             name->get().find('\0') == std::string::npos) {
      values.emplace_back(name->get());
      continue;
    }
    const auto* value = item.as_integer();
    if (!value || value->get() < 0 || value->get() >= UINT32_MAX) return complain(key, want);
    values.emplace_back(static_cast<uint32_t>(value->get()));
  }
  out = std::move(values);
}

void Reader::Table::rising(std::string_view key, size_t count_max, uint64_t highest,
                           std::vector<uint64_t>& out) {
  const std::string allowed =
      fmt::format("at most {} whole numbers from 0 to {}, none less than the one before it",
                  count_max, highest);
  list(key, "numbers", allowed, {});
  const toml::node* node = find(key);
  if (!node) return;
  const toml::array* array = node->as_array();
  if (!array || array->size() > count_max) return complain(key, "must be a list of " + allowed);
  std::vector<uint64_t> values;
  for (const toml::node& item : *array) {
    const auto* value = item.as_integer();
    if (!value || value->get() < 0 || static_cast<uint64_t>(value->get()) > highest ||
        (!values.empty() && static_cast<uint64_t>(value->get()) < values.back()))
      return complain(key, "must be a list of " + allowed);
    values.push_back(static_cast<uint64_t>(value->get()));
  }
  out = std::move(values);
}

void Reader::Table::stringTable(std::string_view key, size_t count_max,
                                std::vector<std::pair<std::string, std::string>>& out) {
  list(key, "table", fmt::format("at most {}", count_max), {});
  const toml::node* node = find(key);
  if (!node) return;
  const toml::table* inner = node->as_table();
  if (!inner || inner->size() > count_max) {
    return complain(key, fmt::format("must be a table of at most {} strings", count_max));
  }
  std::vector<std::pair<std::string, std::string>> values;
  for (auto&& [k, v] : *inner) {
    const auto* value = v.as_string();
    if (!value || value->get().size() > kStringBytesMax ||
        value->get().find('\0') != std::string::npos) {
      return complain(
          key, fmt::format("must hold strings only; '{}' is none", base::printable(k.str(), 80)));
    }
    values.emplace_back(std::string(k.str()), value->get());
  }
  std::sort(values.begin(), values.end());
  out = std::move(values);
}

Reader::Table Reader::Table::table(std::string_view key) {
  const toml::node* node = find(key);
  if (node && !node->is_table()) complain(key, "must be a table");
  return Table(reader_, node ? node->as_table() : nullptr, full(key));
}

std::vector<std::pair<std::string, Reader::Table>> Reader::Table::named(std::string_view key,
                                                                        size_t count_max) {
  Table outer = table(key);
  std::vector<std::pair<std::string, Table>> out;
  if (reader_.listed_) out.emplace_back("NAME", Table(reader_, nullptr, outer.full("NAME")));
  if (!outer.present()) return out;
  if (outer.table_->size() > count_max)
    complain(key, fmt::format("must hold at most {} tables", count_max));
  for (auto&& [k, v] : *outer.table_) {
    const std::string name(k.str());
    if (!v.is_table()) outer.complain(name, "must be a table");
    out.emplace_back(name, Table(reader_, v.as_table(), outer.full(name)));
  }
  return out;
}

std::vector<Reader::Table> Reader::Table::tables(std::string_view key, size_t count_max) {
  const toml::node* node = find(key);
  std::vector<Table> out;
  if (reader_.listed_) out.push_back(Table(reader_, nullptr, full(key)));
  if (!node) return out;
  const toml::array* array = node->as_array();
  if (!array || array->size() > count_max || (!array->empty() && !array->is_array_of_tables())) {
    complain(key, fmt::format("must be a list of at most {} tables", count_max));
    return out;
  }
  for (const toml::node& item : *array) out.push_back(Table(reader_, item.as_table(), full(key)));
  return out;
}

void Reader::Table::finish() {
  if (!table_) return;
  for (auto&& [k, v] : *table_) {
    if (std::find(asked_.begin(), asked_.end(), k.str()) != asked_.end()) continue;
    reader_.complain(&v, fmt::format("unknown key '{}'; allowed here: {}", full(k.str()),
                                     fmt::join(asked_, ", ")));
    return;
  }
}

}  // namespace mayfly::config
