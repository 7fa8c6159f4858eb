// Replaces secrets in answers: a second wall for an upstream that echoes its request.
//
// A secret is found as it is, in base64 at each of its three alignments (so in Basic, too),
// percent-encoded, JSON-escaped, HTML-escaped and in hexadecimal, also across the borders of
// chunks. Each found byte becomes '*', so lengths stay. No other transformation is found.
//
// Layer: broker. Pure but for the memory that holds secrets.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "broker/secret_memory.h"

namespace mayfly::broker {

inline constexpr size_t kScrubSecretBytesMin = 6;      // shorter ones would be found by chance
inline constexpr size_t kScrubSecretBytesMax = 4'096;  // of a longer one, its first bytes are found

// All forms of some secrets, as one automaton (Aho and Corasick). Immutable, shared by all calls.
class ScrubPatterns {
 public:
  explicit ScrubPatterns(std::span<const std::string_view> secrets);

  bool empty() const { return nodes_.size() <= 1; }
  // No form is in the text, and its end begins none.
  bool isFree(std::string_view text) const;
  size_t longest() const { return longest_; }

 private:
  friend class Scrubber;
  // A node is a beginning of some forms. Children form a list.
  struct Node {
    uint32_t fallback = 0;  // the longest proper end of it that is a node
    uint32_t child = 0, sibling = 0;
    uint16_t depth = 0;
    uint16_t hold = 0;   // bytes that a longer form may begin with
    uint16_t found = 0;  // length of the longest form that ends here; 0: none
    uint16_t whole = 0;  // length of the shortest form that it begins
    unsigned char letter = 0;
  };
  uint32_t childOf(uint32_t node, unsigned char letter) const;
  uint32_t next(uint32_t node, unsigned char letter) const;
  // The node itself, or its longest end that begins a form and is none yet.
  uint32_t unfinished(uint32_t node) const;
  void add(const SecretBytes& form);
  void link();

  SecretVector<Node> nodes_;
  std::array<uint32_t, 256> first_{};  // the root's children, by letter
  size_t longest_ = 0;
};

// One stream. Each write gives back all bytes but those that may begin a secret.
class Scrubber {
 public:
  explicit Scrubber(std::shared_ptr<const ScrubPatterns> patterns)
      : patterns_(std::move(patterns)) {}
  ~Scrubber();
  Scrubber(const Scrubber&) = delete;
  Scrubber& operator=(const Scrubber&) = delete;

  std::string write(std::string_view bytes);
  // The end of the stream. Of a secret that the stream's end cuts, half or more is replaced.
  std::string finish();
  uint64_t found() const { return found_; }
  size_t heldBytes() const { return held_.size(); }

 private:
  std::shared_ptr<const ScrubPatterns> patterns_;
  std::string held_;   // not given back; already with '*'
  uint32_t node_ = 0;  // of the last bytes that came
  uint64_t found_ = 0;
};

// The same for one text, such as a header's value.
std::string scrubbed(const std::shared_ptr<const ScrubPatterns>& patterns, std::string_view text);

}  // namespace mayfly::broker
