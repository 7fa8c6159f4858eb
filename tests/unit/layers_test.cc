// Arrows point down only: every #include "room/..." is checked against the table of
// docs/ARCHITECTURE.md.
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

// | room | base, config |
Rooms readTable(const std::string& text) {
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

// A room may include its own headers, those of the rooms named, and what those may.
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
      readTable("| room | may include |\n| base | |\n| sched | base |\n| app | sched |\n");
  EXPECT_EQ(rooms.size(), 3u);
  EXPECT_EQ(violations(rooms, "base", "x.h", "#include \"sched/core.h\"\n").size(), 1u);
  EXPECT_EQ(violations(rooms, "app", "x.h", "#include \"base/fd.h\"\n").size(), 0u);
  EXPECT_EQ(violations(rooms, "sched", "x.h", "#include \"sched/core.h\"\n").size(), 0u);
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
