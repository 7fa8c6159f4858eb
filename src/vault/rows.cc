#include "vault/rows.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <set>
#include <utility>

namespace mayfly::vault {
namespace {

// pg_type.dat: these numbers are the same in every database.
enum TypeOid : uint32_t {
  kBool = 16,
  kInt8 = 20,
  kInt2 = 21,
  kInt4 = 23,
  kText = 25,
  kOid = 26,
  kJson = 114,
  kFloat4 = 700,
  kFloat8 = 701,
  kNumeric = 1700,
  kJsonb = 3802,
};
constexpr int kNestingMax = 6;  // PostgreSQL's own bound of an array's dimensions

// The type of an array's elements; 0: no array that we know.
uint32_t elementOf(uint32_t oid) {
  switch (oid) {
    case 1000:
      return kBool;
    case 1005:
      return kInt2;
    case 1007:
      return kInt4;
    case 1016:
      return kInt8;
    case 1002:
    case 1009:
    case 1014:
    case 1015:
      return kText;
    case 1021:
      return kFloat4;
    case 1022:
      return kFloat8;
    case 1231:
      return kNumeric;
    case 199:
      return kJson;
    case 3807:
      return kJsonb;
    case 1115:
    case 1182:
    case 1185:
    case 2951:
      return kText;  // times, dates, uuids
    default:
      return 0;
  }
}

std::string quoted(std::string_view text) {
  return nlohmann::json(std::string(text))
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool isNumber(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789+-.eE") == std::string_view::npos &&
         text != "-" && (text.back() >= '0' && text.back() <= '9');
}

// An array as PostgreSQL writes it: {1,NULL,"a \"b\""}, {{1},{2}}.
class ArrayReader {
 public:
  ArrayReader(std::string_view text, uint32_t element) : text_(text), element_(element) {}

  // Nothing: not of that form.
  std::optional<std::string> read() {
    // The lower bounds "[2:3]=" of an array that does not begin at 1.
    if (!text_.empty() && text_[0] == '[') at_ = std::min(text_.size(), text_.find('=') + 1);
    std::string out;
    if (!list(out, 0) || at_ != text_.size()) return std::nullopt;
    return out;
  }

 private:
  bool list(std::string& out, int depth) {
    if (depth >= kNestingMax || !take('{')) return false;
    out += '[';
    if (!take('}')) {
      do {
        if (out.back() != '[') out += ',';
        if (at_ >= text_.size() || !(text_[at_] == '{' ? list(out, depth + 1) : item(out)))
          return false;
      } while (take(','));
      if (!take('}')) return false;
    }
    out += ']';
    return true;
  }

  bool item(std::string& out) {
    std::string value;
    if (!take('"')) {
      while (at_ < text_.size() && text_[at_] != ',' && text_[at_] != '}') value += text_[at_++];
      out += value == "NULL" ? "null" : jsonOf(element_, value);
      return true;
    }
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] == '\\' && ++at_ >= text_.size()) return false;
      value += text_[at_++];
    }
    if (!take('"')) return false;
    out += jsonOf(element_, value);
    return true;
  }

  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  std::string_view text_;
  uint32_t element_;
  size_t at_ = 0;
};

}  // namespace

std::string jsonOf(uint32_t oid, std::string_view text) {
  switch (oid) {
    case kBool:
      return text == "t" ? "true" : "false";
    case kInt2:
    case kInt4:
    case kInt8:
    case kOid:
    case kFloat4:
    case kFloat8:
    case kNumeric:
      return isNumber(text) ? std::string(text) : quoted(text);
    case kJson:
    case kJsonb:
      return std::string(text);
    default:
      break;
  }
  if (const uint32_t element = elementOf(oid))
    if (auto list = ArrayReader(text, element).read()) return std::move(*list);
  return quoted(text);
}

base::Status RowWriter::begin(std::vector<ColumnOf> columns) {
  columns_ = std::move(columns);
  std::set<std::string> names;
  for (const ColumnOf& each : columns_) {
    if (!names.insert(each.name).second && format_ == RowFormat::json)
      return base::fail(base::Code::failedPrecondition,
                        "the statement has two columns '" + each.name + "'",
                        "The operator names columns apart with AS.");
    keys_.push_back(quoted(each.name) + ":");
  }
  if (format_ == RowFormat::json) {
    text_ += '[';
  } else {
    std::vector<Cell> head;
    for (const ColumnOf& each : columns_) head.emplace_back(each.name);
    csv(head);
  }
  return base::Unit{};
}

void RowWriter::row(const std::vector<Cell>& cells) {
  format_ == RowFormat::json ? json(cells) : csv(cells);
  ++rows_;
}

void RowWriter::end() {
  if (format_ == RowFormat::json) text_ += "]\n";
}

void RowWriter::json(const std::vector<Cell>& cells) {
  if (rows_ > 0) text_ += ",\n";
  text_ += '{';
  for (size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) text_ += ',';
    text_ += keys_[i];
    text_ += cells[i] ? jsonOf(columns_[i].oid, *cells[i]) : "null";
  }
  text_ += '}';
}

void RowWriter::csv(const std::vector<Cell>& cells) {
  for (size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) text_ += ',';
    if (!cells[i]) continue;
    const std::string_view value = *cells[i];
    if (!value.empty() && value.find_first_of(",\"\r\n") == std::string_view::npos) {
      text_ += value;
      continue;
    }
    text_ += '"';
    for (char c : value) text_ += c == '"' ? std::string(2, c) : std::string(1, c);
    text_ += '"';
  }
  text_ += "\r\n";
}

}  // namespace mayfly::vault
