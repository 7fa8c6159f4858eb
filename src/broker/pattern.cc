// Layer: broker. See pattern.h.
#include "broker/pattern.h"

#include <algorithm>
#include <cstdint>

namespace mayfly::broker {
namespace {

struct Token {
  enum class Kind : uint8_t { letter, star, stars } kind;
  char letter = 0;
};

enum class Wild : uint8_t { segments, all };  // whether "*" stops at "/"

std::vector<Token> tokensOf(std::string_view pattern, Wild wild) {
  std::vector<Token> out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '*') {
      out.push_back({Token::Kind::letter, pattern[i]});
    } else if (wild == Wild::all) {
      out.push_back({Token::Kind::stars});
    } else if (i + 1 < pattern.size() && pattern[i + 1] == '*') {
      out.push_back({Token::Kind::stars});
      ++i;
    } else {
      out.push_back({Token::Kind::star});
    }
  }
  return out;
}

// Whether `pattern` as an automaton takes one token of the text. Of a text, all are letters.
bool takes(const Token& pattern, const Token& text) {
  switch (pattern.kind) {
    case Token::Kind::letter:
      return text.kind == Token::Kind::letter && text.letter == pattern.letter;
    case Token::Kind::star:
      return text.kind == Token::Kind::star ||
             (text.kind == Token::Kind::letter && text.letter != '/');
    case Token::Kind::stars:
      return true;
  }
  return false;
}

// Follows all places of the pattern that the text read so far can have led to.
bool runPattern(const std::vector<Token>& pattern, const std::vector<Token>& text) {
  const size_t size = pattern.size();
  std::vector<char> now(size + 1, 0), next(size + 1, 0);
  // A wildcard may stand for nothing.
  auto close = [&](std::vector<char>& places) {
    for (size_t i = 0; i < size; ++i)
      if (places[i] && pattern[i].kind != Token::Kind::letter) places[i + 1] = 1;
  };
  now[0] = 1;
  close(now);
  for (const Token& token : text) {
    std::fill(next.begin(), next.end(), 0);
    bool any = false;
    for (size_t i = 0; i < size; ++i) {
      if (!now[i] || !takes(pattern[i], token)) continue;
      next[pattern[i].kind == Token::Kind::letter ? i + 1 : i] = 1;
      any = true;
    }
    if (!any) return false;
    close(next);
    now.swap(next);
  }
  return now[size] != 0;
}

std::vector<Token> lettersOf(std::string_view text) {
  std::vector<Token> out;
  out.reserve(text.size());
  for (char c : text) out.push_back({Token::Kind::letter, c});
  return out;
}

}  // namespace

bool matchesPath(std::string_view pattern, std::string_view path) {
  return runPattern(tokensOf(pattern, Wild::segments), lettersOf(path));
}

bool matchesAnyPath(const std::vector<std::string>& patterns, std::string_view path) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& p) { return matchesPath(p, path); });
}

bool matchesText(std::string_view pattern, std::string_view text) {
  return runPattern(tokensOf(pattern, Wild::all), lettersOf(text));
}

bool coversPath(std::string_view outer, std::string_view inner) {
  return runPattern(tokensOf(outer, Wild::segments), tokensOf(inner, Wild::segments));
}

}  // namespace mayfly::broker
