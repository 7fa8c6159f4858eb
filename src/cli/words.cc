#include "cli/words.h"

#include <fmt/format.h>

#include <vector>

#include "base/text.h"

namespace mayfly::cli {

namespace {

// The words that call the app: "mayfly task wait".
std::string callOf(const CLI::App& app) {
  return app.get_parent() == nullptr ? app.get_name()
                                     : callOf(*app.get_parent()) + " " + app.get_name();
}

const CLI::App* deepest(const CLI::App& app) {
  const CLI::App* at = &app;
  for (auto parsed = at->get_subcommands(); !parsed.empty(); parsed = at->get_subcommands())
    at = parsed.back();
  return at;
}

// The flags that the app takes, also those of the apps above it.
std::vector<std::string> flagsOf(const CLI::App& app) {
  std::vector<std::string> flags;
  for (const CLI::App* at = &app; at != nullptr; at = at->get_parent())
    for (const CLI::Option* option : at->get_options()) {
      for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
      for (const std::string& name : option->get_snames()) flags.push_back("-" + name);
    }
  return flags;
}

std::string withNearest(std::string text, std::string_view word,
                        const std::vector<std::string>& known) {
  const std::vector<std::string_view> views(known.begin(), known.end());
  if (std::string_view near = base::nearest(word, views); !near.empty())
    text += fmt::format("; the nearest is '{}'", near);
  return text;
}

}  // namespace

std::string whyWrong(const CLI::App& app, const CLI::ParseError& e) {
  const CLI::App* at = deepest(app);
  const std::vector<std::string> left = app.remaining(true);
  const std::string call = callOf(*at);
  if (left.empty()) return base::printable(e.what(), 1'000);
  const std::string& word = left.front();
  const std::string shown = base::printable(word, 80);
  if (word.size() > 1 && word[0] == '-')
    return withNearest(fmt::format("`{}` has no option '{}'", call, shown),
                       std::string_view(word).substr(0, word.find('=')), flagsOf(*at));
  std::vector<std::string> verbs;
  for (const CLI::App* sub : at->get_subcommands([](const CLI::App*) { return true; }))
    verbs.push_back(sub->get_name());
  if (verbs.empty()) return fmt::format("`{}` takes no '{}'", call, shown);
  return withNearest(fmt::format("`{}` has no verb '{}'", call, shown), word, verbs);
}

}  // namespace mayfly::cli
