// Reads the lines of the broker's audit file, over its rotations, and those that come later.
//
// `audit.log` is renamed to `audit.log.1` when it is full, and so on. The vault writes on into the
// renamed file until it has the next one, so a reader stays with its file until the file's
// successor holds bytes: then nothing more comes into the old one.
//
// Layer: cli. Short blocking calls; the caller waits between two looks.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::cli {

class AuditTail {
 public:
  static constexpr size_t kLineBytesMax = 64u << 10;
  static constexpr uint32_t kRotatedMax = 64;  // older files are not looked for

  // Begins with the oldest rotated file. An error if there is no file at all.
  static base::Result<AuditTail> open(std::string path);

  // The next whole line, without its end. Nothing: there is none at present.
  base::Result<std::optional<std::string>> next();
  // No more is to come: names the part of a line that the file ends with.
  void end();
  // Where the last line stands: "audit.log:17".
  std::string place() const;
  // What happened to the file, and lines that are no lines.
  std::vector<std::string> takeNotes();

 private:
  struct Id {
    dev_t device = 0;
    ino_t inode = 0;
    bool operator==(const Id&) const = default;
  };
  struct Look {
    Id id;
    uint64_t bytes = 0;
  };
  struct Opened {
    base::Fd file;
    Id id;
  };

  explicit AuditTail(std::string path) : path_(std::move(path)) {}
  std::string numbered(uint32_t n) const;  // 0: the file itself
  static base::Result<Opened> openFile(const std::string& path);
  static std::optional<Look> lookAt(const std::string& path);
  std::optional<std::string> takeLine();
  base::Result<bool> fill();
  bool wasCut();
  base::Result<bool> moveOn();
  std::optional<uint32_t> ownNumber() const;
  void use(Opened opened, uint32_t number);
  void noteLong(uint64_t line);
  void note(std::string text) { notes_.push_back(std::move(text)); }

  std::string path_;
  std::string name_;  // of the file that is read, without its folder
  base::Fd file_;
  Id id_;
  uint64_t offset_ = 0, line_ = 0;
  std::string held_;  // read; from begin_ on not yet given
  size_t begin_ = 0;
  bool skipping_ = false;  // the rest of a line that is too long
  std::vector<std::string> notes_;
};

}  // namespace mayfly::cli
