// Reads TOML tables strictly: the parser names every key that it reads, any other key is an error,
// and the first error wins.
//
// Layer: config, internal to it.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "config/daemon.h"
#include "config/settings.h"
#include "config/toml.h"

namespace mayfly::config {

// A kind of value that is written with a unit.
struct Quantity {
  std::string_view type;
  std::function<base::Result<uint64_t>(std::string_view)> parse;
  std::function<std::string(uint64_t)> format;
};
Quantity sizes();
Quantity times();

class Reader {
 public:
  // Parses; a syntax error becomes the first error. `asked`: gets every key that the parser reads.
  Reader(std::string_view text, std::string_view file, std::vector<Setting>* asked = nullptr);

  // One table of the file. Valid while the Reader lives.
  class Table {
   public:
    Table(Reader& reader, const toml::table* table, std::string path)
        : reader_(reader), table_(table), path_(std::move(path)) {}

    bool present() const { return table_ != nullptr; }
    bool has(std::string_view key) const { return table_ && table_->contains(key); }
    // Each leaves `out` unchanged if the key is absent.
    void string(std::string_view key, std::string& out);
    void boolean(std::string_view key, bool& out);
    void count(std::string_view key, uint64_t lowest, uint64_t highest, uint64_t& out);
    void count(std::string_view key, uint64_t lowest, uint64_t highest, uint32_t& out);
    void count(std::string_view key, uint64_t lowest, uint64_t highest, uint16_t& out);
    void integer(std::string_view key, std::optional<int64_t>& out);
    void number(std::string_view key, std::optional<double>& out);  // finite
    // One of `words`: its place among them.
    template <class Enum>
    void word(std::string_view key, std::span<const std::string_view> words, Enum& out) {
      size_t at = static_cast<size_t>(out);
      wordAt(key, words, at);
      out = static_cast<Enum>(at);
    }
    // A string, or a bare number, that `kind` turns into a value within the bounds.
    void quantity(std::string_view key, uint64_t lowest, uint64_t highest, const Quantity& kind,
                  uint64_t& out);
    // Numbers and names of users or groups.
    void ids(std::string_view key, size_t count_max, std::vector<Id>& out);
    void strings(std::string_view key, size_t count_max, std::vector<std::string>& out);
    // Whole numbers from 0 to `highest`, none less than the one before it.
    void rising(std::string_view key, size_t count_max, uint64_t highest,
                std::vector<uint64_t>& out);
    // A table whose values are all strings; its keys are free.
    void stringTable(std::string_view key, size_t count_max,
                     std::vector<std::pair<std::string, std::string>>& out);
    Table table(std::string_view key);
    // The tables of a table with free keys, sorted by these. A listing gets one, named "NAME".
    std::vector<std::pair<std::string, Table>> named(std::string_view key, size_t count_max);
    // A list of tables. A listing gets one.
    std::vector<Table> tables(std::string_view key, size_t count_max);
    // Reports an error at `key`, or at the table if the key is absent.
    void complain(std::string_view key, std::string_view what);
    // Reports every key that was not read.
    void finish();

   private:
    const toml::node* find(std::string_view key);
    void wordAt(std::string_view key, std::span<const std::string_view> words, size_t& at);
    void list(std::string_view key, std::string type, std::string allowed, std::string preset);
    std::string full(std::string_view key) const;

    Reader& reader_;
    const toml::table* table_;  // null: absent
    std::string path_;
    std::vector<std::string> asked_;
  };

  Table root() { return Table(*this, error_ ? nullptr : &table_, ""); }
  bool failed() const { return error_.has_value(); }
  base::Error takeError() { return std::move(*error_); }

 private:
  void complain(const toml::node* at, std::string_view what);

  std::string file_;
  std::vector<Setting>* listed_;
  toml::table table_;
  std::optional<base::Error> error_;
};

}  // namespace mayfly::config
