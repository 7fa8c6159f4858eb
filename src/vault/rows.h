// A database's rows as JSON, types kept, or as CSV.
//
// JSON: an array with one object for each row. Whole numbers, decimals and JSON stay what they are
// to the last digit; NaN and infinity, dates, bytes and all other types are texts as PostgreSQL
// writes them; arrays of these types are arrays. CSV: RFC 4180 with a head; null is an empty field,
// an empty text is "".
//
// Layer: vault. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mayfly::vault {

struct ColumnOf {
  std::string name;
  uint32_t oid = 0;  // of its type
};
using Cell = std::optional<std::string_view>;  // nothing: null

enum class RowFormat : uint8_t { json, csv };

class RowWriter {
 public:
  explicit RowWriter(RowFormat format) : format_(format) {}

  // Before the first row. An error: a name is there twice, and JSON has no place for both.
  base::Status begin(std::vector<ColumnOf> columns);
  void row(const std::vector<Cell>& cells);
  void end();
  std::string take() { return std::exchange(text_, {}); }
  size_t pending() const { return text_.size(); }
  uint64_t rows() const { return rows_; }

 private:
  void json(const std::vector<Cell>& cells);
  void csv(const std::vector<Cell>& cells);

  RowFormat format_;
  std::vector<ColumnOf> columns_;
  std::vector<std::string> keys_;  // as JSON
  std::string text_;
  uint64_t rows_ = 0;
};

// One value as JSON.
std::string jsonOf(uint32_t oid, std::string_view text);

}  // namespace mayfly::vault
