// Layer: image. See elf.h.
#include "image/elf.h"

#include <elf.h>
#include <string.h>

#include <algorithm>

namespace mayfly::image {
namespace {

constexpr size_t kSegmentsMax = 128;
constexpr size_t kEntriesMax = 4'096;  // of the dynamic section; of each table of versions
constexpr size_t kNamesMax = 1'024;    // of each kind
constexpr size_t kNameBytesMax = 255;

#if defined(__x86_64__)
constexpr Elf64_Half kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr Elf64_Half kMachine = EM_AARCH64;
#else
#error "this machine's ELF files are not known"
#endif

class File {
 public:
  explicit File(std::string_view bytes) : bytes_(bytes) {}

  template <class T>
  std::optional<T> at(uint64_t offset) const {
    if (offset > bytes_.size() || bytes_.size() - offset < sizeof(T)) return std::nullopt;
    T value;
    memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }

  // Reads the header and the segments.
  bool open() {
    const auto header = at<Elf64_Ehdr>(0);
    if (!header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
        header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
        header->e_machine != kMachine || header->e_phentsize != sizeof(Elf64_Phdr))
      return false;
    for (size_t i = 0; i < std::min<size_t>(header->e_phnum, kSegmentsMax); ++i) {
      const auto segment = at<Elf64_Phdr>(header->e_phoff + i * sizeof(Elf64_Phdr));
      if (!segment) return false;
      segments_.push_back(*segment);
    }
    return true;
  }

  std::vector<Elf64_Dyn> dynamicEntries() const {
    std::vector<Elf64_Dyn> entries;
    for (const Elf64_Phdr& segment : segments_) {
      if (segment.p_type != PT_DYNAMIC) continue;
      const size_t count = std::min<uint64_t>(segment.p_filesz / sizeof(Elf64_Dyn), kEntriesMax);
      for (size_t i = 0; i < count; ++i) {
        const auto entry = at<Elf64_Dyn>(segment.p_offset + i * sizeof(Elf64_Dyn));
        if (!entry || entry->d_tag == DT_NULL) break;
        entries.push_back(*entry);
      }
      break;
    }
    return entries;
  }

  // The offset in the file of an address in memory.
  std::optional<uint64_t> offsetOf(uint64_t address) const {
    for (const Elf64_Phdr& s : segments_)
      if (s.p_type == PT_LOAD && address >= s.p_vaddr && address - s.p_vaddr < s.p_filesz)
        return s.p_offset + (address - s.p_vaddr);
    return std::nullopt;
  }

  // A text of the table `strings`; empty if it is none, or has an unusual length.
  std::string text(uint64_t strings, uint64_t index) const {
    if (index > bytes_.size() || strings > bytes_.size() - index) return {};
    const std::string_view rest = bytes_.substr(strings + index, kNameBytesMax + 1);
    const size_t end = rest.find('\0');
    return end == std::string_view::npos ? std::string() : std::string(rest.substr(0, end));
  }

 private:
  std::string_view bytes_;
  std::vector<Elf64_Phdr> segments_;
};

// Each record of a table says how far away the next one is.
bool step(uint64_t& at, uint32_t distance) {
  at += distance;
  return distance != 0;
}

void readNeededVersions(const File& file, uint64_t at, uint64_t strings, Elf& out) {
  size_t read = 0;
  while (++read <= kEntriesMax) {
    const auto need = file.at<Elf64_Verneed>(at);
    if (!need) return;
    const std::string library = file.text(strings, need->vn_file);
    uint64_t version_at = at + need->vn_aux;
    for (uint32_t i = 0; i < need->vn_cnt && ++read <= kEntriesMax; ++i) {
      const auto version = file.at<Elf64_Vernaux>(version_at);
      if (!version) break;
      const std::string name = file.text(strings, version->vna_name);
      // The loader does not insist on a weak one.
      const bool must = (version->vna_flags & VER_FLG_WEAK) == 0;
      if (must && !name.empty() && !library.empty() && out.needed_versions.size() < kNamesMax)
        out.needed_versions.emplace_back(library, name);
      if (!step(version_at, version->vna_next)) break;
    }
    if (!step(at, need->vn_next)) return;
  }
}

void readOwnVersions(const File& file, uint64_t at, uint64_t strings, Elf& out) {
  for (size_t read = 0; read < kEntriesMax; ++read) {
    const auto version = file.at<Elf64_Verdef>(at);
    if (!version) return;
    const auto first = file.at<Elf64_Verdaux>(at + version->vd_aux);
    const std::string name = first ? file.text(strings, first->vda_name) : std::string();
    if ((version->vd_flags & VER_FLG_BASE) == 0 && !name.empty() && out.versions.size() < kNamesMax)
      out.versions.push_back(name);
    if (!step(at, version->vd_next)) return;
  }
}

}  // namespace

std::optional<Elf> readElf(std::string_view bytes) {
  File file(bytes);
  if (!file.open()) return std::nullopt;
  const std::vector<Elf64_Dyn> entries = file.dynamicEntries();
  if (entries.empty()) return std::nullopt;
  const auto find = [&](Elf64_Sxword tag) -> std::optional<uint64_t> {
    for (const Elf64_Dyn& entry : entries)
      if (entry.d_tag == tag) return file.offsetOf(entry.d_un.d_ptr);
    return std::nullopt;
  };
  Elf elf;
  const auto strings = find(DT_STRTAB);
  if (!strings) return elf;
  for (const Elf64_Dyn& entry : entries) {
    if (entry.d_tag != DT_NEEDED && entry.d_tag != DT_SONAME) continue;
    std::string name = file.text(*strings, entry.d_un.d_val);
    if (entry.d_tag == DT_SONAME)
      elf.soname = std::move(name);
    else if (!name.empty() && elf.needs.size() < kNamesMax)
      elf.needs.push_back(std::move(name));
  }
  if (const auto at = find(DT_VERNEED)) readNeededVersions(file, *at, *strings, elf);
  if (const auto at = find(DT_VERDEF)) readOwnVersions(file, *at, *strings, elf);
  return elf;
}

}  // namespace mayfly::image
