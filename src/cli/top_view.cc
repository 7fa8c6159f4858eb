#include "cli/top_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/top_words.h"

namespace mayfly::cli {

namespace {

constexpr double kFullShare = 0.9;  // of a budget: worth a word
constexpr uint32_t kNameCells = 28, kGap = 2;

constexpr std::array<std::string_view, kSections> kNames = {"pools", "phases",   "tenants",
                                                            "host",  "verdicts", "slow"};

// --- sections as tables ---

// One column; `key` is what it is sorted by: a number, or the text if it is null.
struct Column {
  const char* head;
  uint32_t width;
  std::string (*text)(const Value&);
  double (*key)(const Value&);
  Style (*style)(const Value&) = nullptr;
};
struct Table {
  const char* title;
  std::vector<const Value*> rows;
  const std::vector<Column>* columns;
  const char* empty;
};

template <size_t N>
struct Name {
  char text[N];
  constexpr Name(const char (&name)[N]) { std::copy_n(name, N, text); }  // NOLINT: a literal
};
template <Name key>
double number(const Value& row) {
  return numberAt(row, key.text);
}
template <Name key>
std::string count(const Value& row) {
  return countText(numberAt(row, key.text));
}
template <Name key>
std::string time(const Value& row) {
  return secondsText(numberAt(row, key.text));
}
template <Name key>
std::string rate(const Value& row) {
  return rateText(numberAt(row, key.text));
}
template <Name key>
std::string share(const Value& row) {
  return shareText(numberAt(row, key.text));
}
template <Name key>
std::string text(const Value& row) {
  return textAt(row, key.text);
}
template <Name key>
std::string words(const Value& row) {
  return wordsText(textAt(row, key.text));
}
template <Name key, Style style>
Style unlessZero(const Value& row) {
  return numberAt(row, key.text) > 0 ? style : Style::plain;
}
template <Name outer, Name key>
double numberIn(const Value& row) {
  return numberAt(at(row, outer.text), key.text);
}
template <Name outer, Name key>
std::string timeIn(const Value& row) {
  return secondsText(numberIn<outer, key>(row));
}

template <Name is, Name target>
std::string ofTarget(const Value& row) {
  return countText(numberAt(row, is.text)) + "/" + countText(numberAt(row, target.text));
}
Style stateStyle(const Value& row) {
  const std::string state = textAt(row, "state");
  return state == "ready" ? Style::good : state == "starting" ? Style::warn : Style::bad;
}
std::string tenantName(const Value& row) {
  const Value& others = at(row, "others");
  if (others.is_boolean() && others.get<bool>()) return "all others";
  const std::string tenant = textAt(row, "tenant"), user = textAt(row, "user");
  return tenant.empty() ? user : fmt::format("{} ({})", tenant, user);
}
std::string idOf(const Value& task) {
  const double id = numberAt(task, "task");
  return std::isfinite(id) ? fmt::format("{:.0f}", id) : "-";
}
double committedShare(const Value& row) {
  const double budget = numberAt(row, "budget");
  return budget > 0 ? numberAt(row, "committed") / budget : NAN;
}

const std::vector<Column> kPools = {
    {"template", 0, text<"name">, nullptr},
    {"state", 9, words<"state">, nullptr, stateStyle},
    {"parked", 8, ofTarget<"parked", "parkedTarget">, number<"parked">},
    {"making", 6, count<"making">, number<"making">},
    {"running", 7, count<"running">, number<"running">},
    {"waiting", 7, count<"waiting">, number<"waiting">, unlessZero<"waiting", Style::warn>},
    {"dying", 5, count<"dying">, number<"dying">},
    {"quar", 4, count<"quarantined">, number<"quarantined">, unlessZero<"quarantined", Style::bad>},
    {"arrivals", 8, rate<"acceptedHz">, number<"acceptedHz">},
    {"p99", 7, timeIn<"start", "p99S">, numberIn<"start", "p99S">},
    {"forecast", 8, rate<"forecastHz">, number<"forecastHz">},
    {"misses", 7, share<"missMeasured">, number<"missMeasured">},
    {"predicted", 9, share<"missPredicted">, number<"missPredicted">},
    {"p50", 7, timeIn<"start", "p50S">, numberIn<"start", "p50S">},
    {"stocked", 7, ofTarget<"stocked", "stockedTarget">, number<"stocked">},
    {"zygotes", 7, count<"zygotes">, number<"zygotes">},
};
const std::vector<Column> kPhases = {
    {"phase", 0, words<"part">, nullptr},          {"p50", 9, time<"p50S">, number<"p50S">},
    {"p90", 9, time<"p90S">, number<"p90S">},      {"p99", 9, time<"p99S">, number<"p99S">},
    {"tasks", 8, count<"count">, number<"count">},
};
const std::vector<Column> kTenants = {
    {"tenant", 0, tenantName, nullptr},
    {"queued", 6, count<"queued">, number<"queued">},
    {"running", 7, count<"running">, number<"running">},
    {"tasks", 9, count<"accepted">, number<"accepted">},
    {"refused", 7, count<"refused">, number<"refused">, unlessZero<"refused", Style::warn>},
    {"cpu", 8, time<"cpuS">, number<"cpuS">},
    {"start99", 8, time<"startP99S">, number<"startP99S">},
    {"whole99", 8, time<"wholeP99S">, number<"wholeP99S">},
};
const std::vector<Column> kHost = {
    {"budget", 0, words<"what">, nullptr},
    {"committed", 11,
     [](const Value& h) { return amountText(numberAt(h, "committed"), textAt(h, "unit")); },
     number<"committed">},
    {"of", 11, [](const Value& h) { return amountText(numberAt(h, "budget"), textAt(h, "unit")); },
     number<"budget">},
    {"share", 8, [](const Value& h) { return shareText(committedShare(h)); }, committedShare,
     [](const Value& h) { return committedShare(h) >= kFullShare ? Style::warn : Style::plain; }},
};
const std::vector<Column> kVerdicts = {
    {"verdict", 0, words<"name">, nullptr},
    {"tasks", 10, count<"count">, number<"count">},
    {"minute", 8, count<"lastMinute">, number<"lastMinute">},
    {"cap", 5, [](const Value& v) { return std::string(at(v, "cap") == true ? "cap" : ""); },
     nullptr},
};
const std::vector<Column> kRefusals = {
    {"refused", 0, words<"code">, nullptr},
    {"by", 16, words<"reason">, nullptr},
    {"count", 10, count<"count">, number<"count">},
};
const std::vector<Column> kSlow = {
    {"task", 0, idOf, number<"task">},
    {"ended", 8, [](const Value& t) { return clockText(numberAt(t, "atMs")); }, number<"atMs">},
    {"template", 12, text<"template">, nullptr},
    {"verdict", 10, words<"verdict">, nullptr},
    {"whole", 8, timeIn<"partsS", "whole">, numberIn<"partsS", "whole">},
    {"queue", 8, timeIn<"partsS", "queue">, numberIn<"partsS", "queue">},
    {"claim", 8, timeIn<"partsS", "claim">, numberIn<"partsS", "claim">},
    {"run", 8, timeIn<"partsS", "run">, numberIn<"partsS", "run">},
    {"receipt", 8, timeIn<"partsS", "receipt">, numberIn<"partsS", "receipt">},
    {"launch", 7, text<"launch">, nullptr},
    {"tenant", 16, tenantName, nullptr},
};

std::vector<const Value*> rowsAt(const Value& list, bool (*shown)(const Value&) = nullptr) {
  std::vector<const Value*> out;
  if (list.is_array())
    for (const Value& each : list)
      if (shown == nullptr || shown(each)) out.push_back(&each);
  return out;
}

bool isUsed(const Value& row) {
  return numberAt(row, "count") > 0 || numberAt(row, "accepted") > 0 ||
         numberAt(row, "refused") > 0;
}

Table tableOf(const Value& m, Section section) {
  switch (section) {
    case Section::pools:
      return {"Pools", rowsAt(at(m, "templates")), &kPools, "no template is served"};
    case Section::phases:
      return {"Phases, last minute", rowsAt(at(at(m, "lastMinute"), "parts")), &kPhases,
              "no task has ended"};
    case Section::tenants:
      return {"Tenants, times of all their tasks", rowsAt(at(m, "tenants"), isUsed), &kTenants,
              "nobody has submitted a task"};
    case Section::host:
      return {"Host", rowsAt(at(m, "headroom")), &kHost, "nothing is known of the host"};
    case Section::verdicts:
      return {"Verdicts", rowsAt(at(m, "verdicts"), isUsed), &kVerdicts, "no task has ended"};
    case Section::slow:
      return {"Slow tasks", rowsAt(at(m, "slow")), &kSlow, "none"};
  }
  return {};
}

void sortRows(Table& table, const TopState& state) {
  const Column* by = nullptr;
  for (const Column& each : *table.columns)
    if (each.head == state.sort) by = &each;
  if (by == nullptr) {
    if (state.turned) std::reverse(table.rows.begin(), table.rows.end());
    return;
  }
  // Numbers: the largest first, those that nobody knows last. Texts: by the alphabet.
  const auto before = [&](const Value* a, const Value* b) {
    if (by->key == nullptr) return by->text(*a) < by->text(*b);
    const auto value = [&](const Value* row) {
      const double key = by->key(*row);
      return std::isfinite(key) ? key : -1;
    };
    return value(a) > value(b);
  };
  std::stable_sort(table.rows.begin(), table.rows.end(), [&](const Value* a, const Value* b) {
    return state.turned ? before(b, a) : before(a, b);
  });
}

// The columns that fit, first ones first; the first takes what is left.
size_t fitting(const std::vector<Column>& columns, uint32_t width, uint32_t* name_width) {
  constexpr uint32_t kNameCellsMin = 12;
  uint32_t taken = kNameCellsMin;
  size_t count = 1;
  while (count < columns.size() && taken + kGap + columns[count].width <= width)
    taken += kGap + columns[count++].width;
  *name_width = std::min(kNameCells, kNameCellsMin + width - std::min(width, taken));
  return count;
}

// `rows_max`: of the table's own rows.
void putTable(Grid& grid, Table table, const TopState& state, size_t rows_max) {
  sortRows(table, state);
  uint32_t name_width = 0;
  const size_t fit = fitting(*table.columns, grid.columns(), &name_width);
  grid.line();
  // A sorted column's head may take a cell of the gap.
  const auto put = [&](size_t i, const std::string& value, Style style, uint32_t* end) {
    const Column& column = (*table.columns)[i];
    if (i == 0) {
      grid.put(0, value, style, name_width);
      *end = name_width;
      return;
    }
    *end += kGap + column.width;
    if (column.key == nullptr)
      grid.put(*end - column.width, value, style, column.width + (style == Style::head));
    else
      grid.right(*end, value, style, column.width + (style == Style::head));
  };
  uint32_t end = 0;
  for (size_t i = 0; i < fit; ++i) {
    std::string head = (*table.columns)[i].head;
    std::transform(head.begin(), head.end(), head.begin(),
                   [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
    if ((*table.columns)[i].head == state.sort) head += state.turned ? '^' : 'v';
    put(i, head, Style::head, &end);
  }
  grid.fill(Style::head);
  if (table.rows.empty()) {
    grid.line();
    grid.put(0, table.empty, Style::soft);
  }
  const size_t from = std::min<size_t>(state.skipped, table.rows.size());
  for (size_t row = from; row < table.rows.size() && row - from < rows_max; ++row) {
    grid.line();
    end = 0;
    for (size_t i = 0; i < fit; ++i) {
      const Column& column = (*table.columns)[i];
      const Style style = column.style != nullptr ? column.style(*table.rows[row])
                          : i == 0                ? Style::strong
                                                  : Style::plain;
      put(i, column.text(*table.rows[row]), style, &end);
    }
  }
}

// --- the lines above the tables ---

// Words with their styles, cut at the screen's edge.
class Words {
 public:
  explicit Words(Grid& grid) : grid_(grid) { grid_.line(); }
  Words& add(std::string_view text, Style style = Style::plain) {
    if (at_ > 0) ++at_;
    at_ = grid_.put(at_, text, style);
    return *this;
  }
  // "name value", with more room before it.
  Words& add(std::string_view name, const std::string& value, Style style) {
    if (at_ > 0) ++at_;
    return add(name, Style::soft).add(value, style);
  }

 private:
  Grid& grid_;
  uint32_t at_ = 0;
};

Style unlessNone(double value, Style style) { return value > 0 ? style : Style::strong; }

const Value& partOf(const Value& m, std::string_view part) {
  static const Value none;
  const Value& parts = at(at(m, "lastMinute"), "parts");
  if (parts.is_array())
    for (const Value& each : parts)
      if (textAt(each, "part") == part) return each;
  return none;
}

void putHead(Grid& grid, const Value& m, const TopState& state) {
  const Value& daemon = at(m, "daemon");
  const std::string is = textAt(daemon, "state");
  Words words(grid);
  words.add("mayfly", Style::strong)
      .add(textAt(daemon, "instance"))
      .add(is.empty() ? "-" : is, is == "ready" ? Style::good : Style::warn)
      .add("up", secondsText(numberAt(daemon, "uptimeS")), Style::plain)
      .add("cpu", shareText(numberAt(at(m, "lastMinute"), "cpuShare")), Style::plain)
      .add("memory", bytesText(numberAt(daemon, "residentBytes")), Style::plain)
      .add("at", clockText(numberAt(m, "atMs")) + " UTC", Style::plain);
  if (state.paused) words.add("paused", Style::warn);
  if (state.link != "live") words.add(state.link, Style::bad);
}

void putTasks(Grid& grid, const Value& m) {
  const Value &tasks = at(m, "tasks"), &minute = at(m, "lastMinute");
  const double queued = numberAt(tasks, "queued"), quarantined = numberAt(tasks, "quarantined");
  Words words(grid);
  words.add("running", countText(numberAt(tasks, "running")), Style::strong)
      .add("queued", countText(queued), unlessNone(queued, Style::warn));
  if (queued > 0) words.add(fmt::format("({})", secondsText(numberAt(tasks, "queueAgeS"))));
  words.add("ended", rateText(numberAt(minute, "endedHz")), Style::strong)
      .add("boxes", countText(numberAt(tasks, "boxes")), Style::strong)
      .add("refused", countText(numberAt(tasks, "refused")),
           unlessNone(numberAt(minute, "refusedHz"), Style::warn))
      .add("quarantined", countText(quarantined), unlessNone(quarantined, Style::bad));
}

void putTimes(Grid& grid, const Value& m) {
  const Value& minute = at(m, "lastMinute");
  const auto both = [&](std::string_view part) {
    const Value& times = partOf(m, part);
    return secondsText(numberAt(times, "p50S")) + "/" + secondsText(numberAt(times, "p99S"));
  };
  Words(grid)
      .add("start p50/p99", both("start"), Style::strong)
      .add("whole", both("whole"), Style::strong)
      .add("misses", shareText(numberAt(minute, "missShare")), Style::strong)
      .add("lag", secondsText(numberAt(minute, "loopLagMaxS")), Style::strong);
}

void putHeadroom(Grid& grid, const Value& m) {
  // The tightest first: a narrow screen has not room for all.
  std::vector<std::pair<double, const Value*>> budgets;
  for (const Value* each : rowsAt(at(m, "headroom")))
    if (const double share = committedShare(*each); std::isfinite(share))
      budgets.emplace_back(share, each);
  std::stable_sort(budgets.begin(), budgets.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  Words words(grid);
  words.add("committed", Style::soft);
  for (const auto& [share, each] : budgets) {
    words.add(wordsText(textAt(*each, "what")), shareText(share),
              share >= kFullShare ? Style::warn : Style::plain);
  }
}

void putBroker(Grid& grid, const Value& m) {
  const Value& broker = at(m, "broker");
  const Value& receipts = at(m, "receipts");
  Words words(grid);
  const double incomplete = numberAt(receipts, "incomplete");
  words.add("receipts", countText(numberAt(receipts, "complete")), Style::plain)
      .add("incomplete", countText(incomplete), unlessNone(incomplete, Style::bad));
  if (at(broker, "configured") != true) {
    words.add("broker", "off", Style::plain);
    return;
  }
  std::array<double, 3> sums{};
  for (const Value* each : rowsAt(at(broker, "decisions"))) {
    sums[0] += numberAt(*each, "allowed");
    sums[1] += numberAt(*each, "refused");
    sums[2] += numberAt(*each, "failed");
  }
  const bool up = at(broker, "frontUp") == true && at(broker, "vaultUp") == true;
  words.add("broker", up ? "up" : "down", up ? Style::good : Style::bad)
      .add("allowed", countText(sums[0]), Style::plain)
      .add("refused", countText(sums[1]), unlessNone(sums[1], Style::warn))
      .add("failed", countText(sums[2]), unlessNone(sums[2], Style::bad))
      .add("sessions", countText(numberAt(broker, "sessions")), Style::plain);
}

void putSummary(Grid& grid, const Value& m, const TopState& state) {
  putHead(grid, m, state);
  putTasks(grid, m);
  putTimes(grid, m);
  putHeadroom(grid, m);
  putBroker(grid, m);
}

void putKeys(Grid& grid, Section shown) {
  Words words(grid);
  for (size_t i = 0; i < kSections; ++i)
    words.add(fmt::format("{} {}", i + 1, kNames[i]),
              i == static_cast<size_t>(shown) ? Style::strong : Style::soft);
  words.add("? keys", Style::soft).add("q quit", Style::soft);
}

constexpr std::array<std::string_view, 11> kHelp = {
    "1..6, Tab     the section: pools, phases, tenants, host, verdicts, slow",
    "< >           the column to sort by; its head has a v or ^",
    "r             the other direction",
    "Up Down j k   one row",
    "PgUp PgDn     ten rows",
    "p, Space      pause, go on",
    "?, h          this list",
    "q, Ctrl-C     quit",
    "",
    "A time is of the last minute, a tenant's of all its tasks since the start.",
    "docs/dashboard.md explains each figure.",
};

}  // namespace

std::string_view name(Section section) { return kNames[static_cast<size_t>(section)]; }

std::vector<std::string_view> sortsOf(Section section) {
  std::vector<std::string_view> out;
  for (const Column& each : *tableOf(Value(), section).columns) out.emplace_back(each.head);
  return out;
}

bool isSort(std::string_view word) {
  for (size_t i = 0; i < kSections; ++i)
    for (std::string_view each : sortsOf(static_cast<Section>(i)))
      if (each == word) return true;
  return false;
}

uint32_t rowsOf(const Value& m, Section section) {
  return static_cast<uint32_t>(tableOf(m, section).rows.size());
}

Grid screenOf(const Value& m, const TopState& state, uint32_t columns, uint32_t rows) {
  Grid grid(columns);
  if (columns < kColumnsMin || rows < kRowsMin) {
    grid.line();
    grid.put(0, fmt::format("needs {} x {}", kColumnsMin, kRowsMin), Style::warn);
    return grid;
  }
  if (state.help) {
    for (std::string_view line : kHelp) {
      if (grid.rows() + 1 >= rows) break;
      grid.line();
      grid.put(0, line);
    }
  } else {
    putSummary(grid, m, state);
    const size_t left = rows - grid.rows() - 2;  // the table's head, and the keys
    putTable(grid, tableOf(m, state.section), state, left);
  }
  while (grid.rows() + 1 < rows) grid.line();
  putKeys(grid, state.section);
  return grid;
}

Grid pageOf(const Value& m, const TopState& state, uint32_t columns) {
  Grid grid(columns);
  putSummary(grid, m, state);
  const auto section = [&](const Table& table) {
    grid.line();
    grid.line();
    grid.put(0, table.title, Style::strong);
    putTable(grid, table, state, SIZE_MAX);
  };
  for (size_t i = 0; i < kSections; ++i) {
    section(tableOf(m, static_cast<Section>(i)));
    if (static_cast<Section>(i) == Section::verdicts)
      section({"Refusals", rowsAt(at(m, "refusals")), &kRefusals, "none"});
  }
  return grid;
}

}  // namespace mayfly::cli
