// Dependencies point down only: every #include "room/..." and every #include <...> is checked
// against the tables of docs/ARCHITECTURE.md.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Rooms = std::map<std::string, std::set<std::string>>;

std::string readFile(const fs::path& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// The rows after the line that begins with `head`, until the first line that is not a row.
std::string rowsAfter(const std::string& text, const std::string& head) {
  const size_t at = text.find("\n" + head);
  if (at == std::string::npos) return {};
  std::istringstream lines(text.substr(at + 1));
  std::string rows;
  for (std::string line; std::getline(lines, line) && line.starts_with("|");) rows += line + "\n";
  return rows;
}

// | room | base, config |
Rooms readTable(const std::string& all) {
  const std::string text = rowsAfter(all, "| room | may include |");
  Rooms rooms;
  std::regex row(R"(^\| ([a-z]+) \|([a-z, ]*)\|$)", std::regex::multiline);
  for (std::sregex_iterator m(text.begin(), text.end(), row), end; m != end; ++m) {
    if ((*m)[1] == "room") continue;
    std::set<std::string>& may = rooms[(*m)[1]];
    std::string list = (*m)[2];
    std::regex word("[a-z]+");
    for (std::sregex_iterator w(list.begin(), list.end(), word); w != end; ++w)
      may.insert(w->str());
  }
  return rooms;
}

// A room may include its own headers, those of the named rooms, and those that these rooms may
// include.
std::set<std::string> reach(const Rooms& rooms, const std::string& room) {
  std::set<std::string> all{room};
  std::vector<std::string> todo{room};
  while (!todo.empty()) {
    auto at = rooms.find(todo.back());
    todo.pop_back();
    if (at == rooms.end()) continue;
    for (const std::string& next : at->second)
      if (all.insert(next).second) todo.push_back(next);
  }
  return all;
}

std::vector<std::string> violations(const Rooms& rooms, const std::string& room,
                                    const std::string& file, const std::string& text) {
  std::vector<std::string> found;
  std::set<std::string> may = reach(rooms, room);
  std::regex include(R"re(^\s*#\s*include\s*"([^"/]+)/[^"]*")re", std::regex::multiline);
  for (std::sregex_iterator m(text.begin(), text.end(), include), end; m != end; ++m) {
    std::string other = (*m)[1];
    if (rooms.contains(other) && !may.contains(other))
      found.push_back(file + " (" + room + ") includes " + (*m)[0].str());
  }
  return found;
}

TEST(Layers, ForbiddenIncludeIsFound) {
  Rooms rooms =
      readTable("\n| room | may include |\n| base | |\n| sched | base |\n| app | sched |\n");
  EXPECT_EQ(rooms.size(), 3u);
  EXPECT_EQ(violations(rooms, "base", "x.h", "#include \"sched/core.h\"\n").size(), 1u);
  EXPECT_EQ(violations(rooms, "app", "x.h", "#include \"base/fd.h\"\n").size(), 0u);
  EXPECT_EQ(violations(rooms, "sched", "x.h", "#include \"sched/core.h\"\n").size(), 0u);
}

// --- headers of the system and of libraries ---

struct Families {
  std::map<std::string, std::set<std::string>>
      headers;                                         // by family; `x/*` means all headers below x
  std::map<std::string, std::set<std::string>> rooms;  // the families of each room
  std::set<std::string> pure;

  // The header's family; empty: none.
  std::string of(const std::string& header) const {
    for (const auto& [family, patterns] : headers) {
      if (patterns.contains(header)) return family;
      for (size_t slash = header.find('/'); slash != std::string::npos;
           slash = header.find('/', slash + 1))
        if (patterns.contains(header.substr(0, slash) + "/*")) return family;
    }
    return {};
  }
};

Families readFamilies(const std::string& text) {
  Families out;
  std::regex row(R"(^\| ([a-z]+)( \(pure\))? \|(.*)\|$)", std::regex::multiline);
  auto read = [&](const std::string& head, const std::string& word, auto& into) {
    const std::string rows = rowsAfter(text, head);
    for (std::sregex_iterator m(rows.begin(), rows.end(), row), end; m != end; ++m) {
      if (m->position() == 0) continue;  // the head
      if ((*m)[2].matched) out.pure.insert((*m)[1].str());
      auto& set = into[(*m)[1].str()];
      const std::string list = (*m)[3];
      std::regex each(word);
      for (std::sregex_iterator w(list.begin(), list.end(), each); w != end; ++w)
        set.insert((*w)[1].str());
    }
  };
  read("| header family |", "`([^`]+)`", out.headers);
  read("| room | header families |", "([a-z]+)", out.rooms);
  return out;
}

using Includes = std::vector<std::string>;
Includes includes(const std::string& text, char open, char close) {
  Includes out;
  std::regex include(
      std::string(R"re(^\s*#\s*include\s*)re") + open + "([^" + close + "]+)" + close,
      std::regex::multiline);
  for (std::sregex_iterator m(text.begin(), text.end(), include), end; m != end; ++m)
    out.push_back((*m)[1].str());
  return out;
}

// `readOwn` returns the text of one of our headers, by the name in its #include.
template <class ReadOwn>
std::vector<std::string> strangers(const Families& families, const std::string& room,
                                   const std::string& file, const std::string& text,
                                   ReadOwn readOwn) {
  std::vector<std::string> found;
  std::set<std::string> may{"plain"};
  if (auto at = families.rooms.find(room); at != families.rooms.end())
    may.insert(at->second.begin(), at->second.end());
  else
    found.push_back("room '" + room + "' has no row of header families");
  std::set<std::string> seen;
  std::vector<std::pair<std::string, std::string>> todo{{file, text}};
  while (!todo.empty()) {
    const auto [name, its] = todo.back();
    todo.pop_back();
    for (const std::string& header : includes(its, '<', '>')) {
      const std::string family = families.of(header);
      if (family.empty())
        found.push_back(name + " includes <" + header + ">, which is of no family");
      else if (!may.contains(family))
        found.push_back(file + " (" + room + ") includes <" + header + "> (" + family + ")" +
                        (name == file ? "" : " by " + name));
    }
    if (!families.pure.contains(room)) continue;
    for (const std::string& own : includes(its, '"', '"'))
      if (seen.insert(own).second) todo.push_back({own, readOwn(own)});
  }
  return found;
}

TEST(Layers, ForbiddenLibraryIsFoundInAPureRoomAtAnyDepth) {
  const Families f = readFamilies(
      "\n| header family | headers |\n|---|---|\n| plain | `vector` |\n| time | `time.h` `x/y/*` "
      "|\n"
      "| rpc | `kj/*` |\n\n| room | header families |\n|---|---|\n| sched (pure) | |\n"
      "| app | time, rpc |\n| base | time |\n");
  auto own = [](const std::string& name) -> std::string {
    return name == "base/clock.h" ? "#include <time.h>\n" : "#include \"base/clock.h\"\n";
  };
  auto count = [&](const char* room, const char* text) {
    return strangers(f, room, "x.h", text, own).size();
  };
  EXPECT_EQ(count("sched", "#include <vector>\n"), 0u);
  EXPECT_EQ(count("sched", "#include <time.h>\n"), 1u);
  EXPECT_EQ(count("sched", "  # include <kj/async-io.h>\n"), 1u);
  EXPECT_EQ(count("sched", "#include \"base/fd.h\"\n"), 1u) << "which includes a clock";
  EXPECT_EQ(count("base", "#include \"base/fd.h\"\n"), 0u) << "it is not pure";
  EXPECT_EQ(count("app", "#include <kj/async.h>\n#include <x/y/w/z.h>\n#include <time.h>\n"), 0u);
  EXPECT_EQ(count("app", "#include <x/z.h>\n"), 1u) << "of no family";
  EXPECT_EQ(count("cli", "#include <vector>\n"), 1u) << "no row";
}

TEST(Layers, EveryHeaderOfSystemAndLibrariesFollowsTheTable) {
  fs::path top(MAYFLY_SOURCE_DIR);
  const std::string text = readFile(top / "docs/ARCHITECTURE.md");
  const Families families = readFamilies(text);
  ASSERT_GE(families.headers.size(), 10u);
  EXPECT_EQ(families.pure, (std::set<std::string>{"broker", "pool", "reap", "sched", "wire"}));
  for (const auto& [room, its] : families.rooms) {
    EXPECT_TRUE(readTable(text).contains(room)) << "'" << room << "' is no room";
    for (const std::string& family : its)
      EXPECT_TRUE(families.headers.contains(family)) << room << ": " << family;
  }
  auto own = [&](const std::string& name) {
    for (const char* folder : {"src", ".", "include"})
      if (fs::exists(top / folder / name)) return readFile(top / folder / name);
    ADD_FAILURE() << "there is no " << name;
    return std::string();
  };
  std::map<std::string, std::set<std::string>> used;
  std::vector<fs::path> folders{top / "pool"};
  for (const auto& entry : fs::directory_iterator(top / "src"))
    if (entry.is_directory()) folders.push_back(entry.path());
  for (const fs::path& folder : folders)
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      std::string ext = entry.path().extension();
      if (ext != ".h" && ext != ".cc") continue;
      const std::string its = readFile(entry), room = folder.filename();
      for (const std::string& header : includes(its, '<', '>'))
        used[room].insert(families.of(header));
      for (const std::string& v : strangers(families, room, entry.path().filename(), its, own))
        ADD_FAILURE() << v;
    }
  for (const auto& [room, its] : families.rooms)
    for (const std::string& family : its)
      EXPECT_TRUE(used[room].contains(family)) << room << " may include " << family << ", unused";
}

TEST(Layers, TheTableHasNoCycle) {
  Rooms rooms = readTable(readFile(fs::path(MAYFLY_SOURCE_DIR) / "docs/ARCHITECTURE.md"));
  for (const auto& [room, may] : rooms)
    for (const std::string& below : may)
      EXPECT_FALSE(reach(rooms, below).contains(room)) << room << " <-> " << below;
}

TEST(Layers, EveryIncludeFollowsTheTable) {
  fs::path top(MAYFLY_SOURCE_DIR);
  Rooms rooms = readTable(readFile(top / "docs/ARCHITECTURE.md"));
  ASSERT_GE(rooms.size(), 10u);
  size_t files = 0;
  std::vector<fs::path> folders{top / "pool"};
  for (const auto& entry : fs::directory_iterator(top / "src"))
    if (entry.is_directory()) folders.push_back(entry.path());
  for (const fs::path& folder : folders) {
    std::string room = folder.filename();
    EXPECT_TRUE(rooms.contains(room)) << "room '" << room << "' is not in the table";
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      std::string ext = entry.path().extension();
      if (ext != ".h" && ext != ".cc") continue;
      ++files;
      for (const std::string& v : violations(rooms, room, entry.path().filename(), readFile(entry)))
        ADD_FAILURE() << v;
    }
  }
  EXPECT_GT(files, 20u);
}

}  // namespace
