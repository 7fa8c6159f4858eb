// Layer: broker. See scrub.h.
#include "broker/scrub.h"

#include <algorithm>

namespace mayfly::broker {
namespace {

constexpr size_t kCutBytesMin = 8;  // of a cut secret at a stream's end
constexpr char kUpperHex[] = "0123456789ABCDEF", kLowerHex[] = "0123456789abcdef";

void append(SecretBytes& out, std::string_view text) {
  out.insert(out.end(), text.begin(), text.end());
}

bool isAlnum(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

SecretBytes hexForm(std::string_view secret, const char* digits) {
  SecretBytes out;
  out.reserve(secret.size() * 2);
  for (const char c : secret) {
    out.push_back(digits[static_cast<unsigned char>(c) >> 4]);
    out.push_back(digits[static_cast<unsigned char>(c) & 15]);
  }
  return out;
}

// `kept`: letters that this kind of encoding leaves as they are, besides alphanumeric ones.
SecretBytes percentForm(std::string_view secret, const char* digits, std::string_view kept,
                        bool plus_for_blank) {
  SecretBytes out;
  out.reserve(secret.size() * 3);
  for (const char c : secret) {
    if (c == ' ' && plus_for_blank) {
      out.push_back('+');
    } else if (isAlnum(c) || kept.find(c) != std::string_view::npos) {
      out.push_back(c);
    } else {
      out.push_back('%');
      out.push_back(digits[static_cast<unsigned char>(c) >> 4]);
      out.push_back(digits[static_cast<unsigned char>(c) & 15]);
    }
  }
  return out;
}

enum class JsonForm : uint8_t { least, slashes, html };

SecretBytes jsonForm(std::string_view secret, JsonForm kind) {
  SecretBytes out;
  out.reserve(secret.size() * 6);
  for (const char c : secret) {
    const auto byte = static_cast<unsigned char>(c);
    const size_t at = std::string_view("\n\r\t\b\f").find(c);
    const bool html =
        kind == JsonForm::html && std::string_view("<>&'").find(c) != std::string_view::npos;
    if (c == '"' || c == '\\' || (c == '/' && kind == JsonForm::slashes)) {
      out.push_back('\\');
      out.push_back(c);
    } else if (at != std::string_view::npos) {
      out.push_back('\\');
      out.push_back("nrtbf"[at]);
    } else if (byte < 0x20 || html) {
      append(out, "\\u00");
      out.push_back(kLowerHex[byte >> 4]);
      out.push_back(kLowerHex[byte & 15]);
    } else {
      out.push_back(c);
    }
  }
  return out;
}

SecretBytes htmlForm(std::string_view secret, std::string_view apostrophe) {
  SecretBytes out;
  out.reserve(secret.size() * 6);
  for (const char c : secret) {
    if (c == '&')
      append(out, "&amp;");
    else if (c == '<')
      append(out, "&lt;");
    else if (c == '>')
      append(out, "&gt;");
    else if (c == '"')
      append(out, "&quot;");
    else if (c == '\'')
      append(out, apostrophe);
    else
      out.push_back(c);
  }
  return out;
}

// The letters of base64 that the secret alone decides if it begins `before` bytes (0, 1, 2) after a
// group of three.
SecretBytes base64Form(std::string_view secret, size_t before, bool url) {
  const std::string_view letters =
      url ? "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
          : "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  SecretBytes out;
  out.reserve(secret.size() * 4 / 3 + 4);
  const size_t bits = (before + secret.size()) * 8;
  for (size_t bit = (before * 8 + 5) / 6 * 6; bit + 6 <= bits; bit += 6) {
    uint32_t value = 0;
    for (size_t i = bit; i < bit + 6; ++i) {
      const auto byte = static_cast<unsigned char>(secret[i / 8 - before]);
      value = value << 1 | (byte >> (7 - i % 8) & 1);
    }
    out.push_back(letters[value]);
  }
  return out;
}

}  // namespace

ScrubPatterns::ScrubPatterns(std::span<const std::string_view> secrets) {
  nodes_.emplace_back();
  for (std::string_view secret : secrets) {
    if (secret.size() < kScrubSecretBytesMin) continue;
    secret = secret.substr(0, kScrubSecretBytesMax);
    add(SecretBytes(secret.begin(), secret.end()));
    for (const char* digits : {kUpperHex, kLowerHex}) {
      add(hexForm(secret, digits));
      // As RFC 3986, JavaScript's encodeURIComponent and encodeURI, and HTML forms do.
      for (const std::string_view kept : {"-._~", "-._~!*'()", "-._~!*'();,/?:@&=+$#"})
        add(percentForm(secret, digits, kept, false));
      add(percentForm(secret, digits, "-._*", true));
    }
    for (const JsonForm kind : {JsonForm::least, JsonForm::slashes, JsonForm::html})
      add(jsonForm(secret, kind));
    for (const std::string_view apostrophe : {"&#39;", "&#x27;", "'"})
      add(htmlForm(secret, apostrophe));
    for (size_t before = 0; before < 3; ++before)
      for (const bool url : {false, true}) add(base64Form(secret, before, url));
  }
  link();
}

uint32_t ScrubPatterns::childOf(uint32_t node, unsigned char letter) const {
  if (node == 0) return first_[letter];
  for (uint32_t child = nodes_[node].child; child != 0; child = nodes_[child].sibling)
    if (nodes_[child].letter == letter) return child;
  return 0;
}

void ScrubPatterns::add(const SecretBytes& form) {
  if (form.size() < kScrubSecretBytesMin) return;
  const auto size = static_cast<uint16_t>(form.size());
  longest_ = std::max(longest_, form.size());
  uint32_t node = 0;
  for (const char c : form) {
    const auto letter = static_cast<unsigned char>(c);
    uint32_t child = childOf(node, letter);
    if (child == 0) {
      child = static_cast<uint32_t>(nodes_.size());
      Node made;
      made.depth = static_cast<uint16_t>(nodes_[node].depth + 1);
      made.letter = letter;
      made.whole = size;
      if (node == 0) {
        first_[letter] = child;
      } else {
        made.sibling = nodes_[node].child;
        nodes_[node].child = child;
      }
      nodes_.push_back(made);
    }
    node = child;
    nodes_[node].whole = std::min(nodes_[node].whole, size);
  }
  nodes_[node].found = size;
}

uint32_t ScrubPatterns::next(uint32_t node, unsigned char letter) const {
  while (node != 0) {
    if (const uint32_t child = childOf(node, letter)) return child;
    node = nodes_[node].fallback;
  }
  return first_[letter];
}

uint32_t ScrubPatterns::unfinished(uint32_t node) const {
  while (node != 0 && nodes_[node].child == 0) node = nodes_[node].fallback;
  return node;
}

bool ScrubPatterns::isFree(std::string_view text) const {
  uint32_t node = 0;
  for (const char c : text) {
    node = next(node, static_cast<unsigned char>(c));
    if (nodes_[node].found != 0) return false;
  }
  return nodes_[node].hold < kCutBytesMin;
}

// Breadth first, so that every fallback is linked before it is followed.
void ScrubPatterns::link() {
  SecretVector<uint32_t> todo;
  todo.reserve(nodes_.size());
  for (const uint32_t child : first_)
    if (child != 0) todo.push_back(child);
  for (size_t at = 0; at < todo.size(); ++at) {
    const uint32_t node = todo[at];
    for (uint32_t child = nodes_[node].child; child != 0; child = nodes_[child].sibling) {
      nodes_[child].fallback = next(nodes_[node].fallback, nodes_[child].letter);
      todo.push_back(child);
    }
    nodes_[node].hold = nodes_[unfinished(node)].depth;
    // A longer form holds the shorter one; its bytes are replaced in any case.
    if (nodes_[node].found == 0) nodes_[node].found = nodes_[nodes_[node].fallback].found;
  }
}

Scrubber::~Scrubber() {
  if (!held_.empty()) sodium_memzero(held_.data(), held_.size());
}

std::string Scrubber::write(std::string_view bytes) {
  if (patterns_ == nullptr || patterns_->empty()) return std::string(bytes);
  const ScrubPatterns& p = *patterns_;
  held_.reserve(held_.size() + bytes.size());
  for (const char c : bytes) {
    node_ = p.next(node_, static_cast<unsigned char>(c));
    held_ += c;
    if (const size_t length = p.nodes_[node_].found) {
      std::fill(held_.end() - static_cast<ptrdiff_t>(length), held_.end(), '*');
      ++found_;
    }
  }
  const size_t keep = p.nodes_[node_].hold;
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

std::string Scrubber::finish() {
  if (patterns_ != nullptr && !held_.empty()) {
    // The held bytes begin a form.
    const size_t whole = patterns_->nodes_[patterns_->unfinished(node_)].whole;
    if (held_.size() >= kCutBytesMin && held_.size() * 2 >= whole && held_.size() < whole) {
      std::fill(held_.begin(), held_.end(), '*');
      ++found_;
    }
  }
  node_ = 0;
  std::string out = std::move(held_);
  held_.clear();
  return out;
}

std::string scrubbed(const std::shared_ptr<const ScrubPatterns>& patterns, std::string_view text) {
  if (patterns == nullptr || patterns->isFree(text)) return std::string(text);
  Scrubber scrubber(patterns);
  std::string out = scrubber.write(text);
  return out + scrubber.finish();
}

}  // namespace mayfly::broker
