// Missing libraries of an image: the reader of ELF files, which may be hostile, and the look at a
// tree. The files are made here, so that each field is known.
#include <elf.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

#include "image/elf.h"
#include "image/needs.h"

namespace mayfly::image {
namespace {

constexpr uint64_t kAddress = 0x10000;  // of the file's first byte in memory

// The parts of an ELF file that matter here.
struct Plan {
  std::string soname;
  std::vector<std::string> needs;
  std::vector<std::pair<std::string, std::string>> needed_versions, weak_versions;
  std::vector<std::string> versions;
  Elf64_Half machine = EM_NONE;  // this machine's
};

class Maker {
 public:
  explicit Maker(const Plan& plan) {
    bytes_.resize(sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr));
    if (!plan.soname.empty()) add(DT_SONAME, name(plan.soname));
    for (const std::string& need : plan.needs) add(DT_NEEDED, name(need));
    addNeededVersions(plan);
    addVersions(plan);
    const uint64_t strings = append(names_);
    add(DT_STRTAB, kAddress + strings);
    add(DT_STRSZ, names_.size());
    add(DT_NULL, 0);
    const std::string dynamic(reinterpret_cast<const char*>(entries_.data()),
                              entries_.size() * sizeof(Elf64_Dyn));
    const uint64_t at = append(dynamic);
    Elf64_Ehdr header{};
    memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
#if defined(__aarch64__)
    header.e_machine = EM_AARCH64;
#else
    header.e_machine = EM_X86_64;
#endif
    if (plan.machine != EM_NONE) header.e_machine = plan.machine;
    header.e_phoff = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 2;
    Elf64_Phdr segments[2] = {};
    segments[0].p_type = PT_LOAD;
    segments[0].p_vaddr = kAddress;
    segments[0].p_filesz = bytes_.size();
    segments[1].p_type = PT_DYNAMIC;
    segments[1].p_offset = at;
    segments[1].p_filesz = dynamic.size();
    memcpy(bytes_.data(), &header, sizeof header);
    memcpy(bytes_.data() + sizeof header, segments, sizeof segments);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  uint32_t name(const std::string& text) {
    const auto at = static_cast<uint32_t>(names_.size());
    names_ += text + '\0';
    return at;
  }
  void add(Elf64_Sxword tag, uint64_t value) {
    Elf64_Dyn entry{};
    entry.d_tag = tag;
    entry.d_un.d_val = value;
    entries_.push_back(entry);
  }
  uint64_t append(const std::string& part) {
    bytes_.resize((bytes_.size() + 7) & ~size_t{7});
    const uint64_t at = bytes_.size();
    bytes_ += part;
    return at;
  }
  template <class T>
  static std::string raw(const T& value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void addNeededVersions(const Plan& plan) {
    std::string table;
    const size_t count = plan.needed_versions.size() + plan.weak_versions.size();
    for (size_t i = 0; i < count; ++i) {
      const bool weak = i >= plan.needed_versions.size();
      const auto& [library, version] =
          weak ? plan.weak_versions[i - plan.needed_versions.size()] : plan.needed_versions[i];
      Elf64_Verneed need{};
      need.vn_version = 1;
      need.vn_cnt = 1;
      need.vn_file = name(library);
      need.vn_aux = sizeof need;
      need.vn_next = i + 1 < count ? sizeof need + sizeof(Elf64_Vernaux) : 0;
      Elf64_Vernaux one{};
      one.vna_flags = weak ? VER_FLG_WEAK : 0;
      one.vna_name = name(version);
      table += raw(need) + raw(one);
    }
    if (!table.empty()) add(DT_VERNEED, kAddress + append(table));
  }
  void addVersions(const Plan& plan) {
    std::string table;
    for (size_t i = 0; i < plan.versions.size(); ++i) {
      Elf64_Verdef version{};
      version.vd_version = 1;
      version.vd_cnt = 1;
      version.vd_aux = sizeof version;
      version.vd_next = i + 1 < plan.versions.size() ? sizeof version + sizeof(Elf64_Verdaux) : 0;
      Elf64_Verdaux one{};
      one.vda_name = name(plan.versions[i]);
      table += raw(version) + raw(one);
    }
    if (!table.empty()) add(DT_VERDEF, kAddress + append(table));
  }

  std::string bytes_, names_ = std::string(1, '\0');
  std::vector<Elf64_Dyn> entries_;
};

std::string elfFile(const Plan& plan) { return Maker(plan).bytes(); }

Plan fullPlan() {
  return {"libown.so.1",
          {"libstdc++.so.6", "libc.so.6"},
          {{"libc.so.6", "GLIBC_2.34"}, {"libc.so.6", "GLIBC_2.38"}},
          {{"libm.so.6", "GLIBC_2.99"}},
          {"OWN_1", "OWN_2"}};
}

TEST(ElfFile, TellsWhatItNeedsAndWhatItDefines) {
  const auto elf = readElf(elfFile(fullPlan()));
  ASSERT_TRUE(elf);
  EXPECT_EQ(elf->soname, "libown.so.1");
  EXPECT_EQ(elf->needs, (std::vector<std::string>{"libstdc++.so.6", "libc.so.6"}));
  EXPECT_EQ(elf->needed_versions, (std::vector<std::pair<std::string, std::string>>{
                                      {"libc.so.6", "GLIBC_2.34"}, {"libc.so.6", "GLIBC_2.38"}}))
      << "without the weak one";
  EXPECT_EQ(elf->versions, (std::vector<std::string>{"OWN_1", "OWN_2"}));
}

TEST(ElfFile, OfThisProgramNamesItsLibraries) {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  const auto elf = readElf(bytes);
  ASSERT_TRUE(elf);
  EXPECT_NE(std::find(elf->needs.begin(), elf->needs.end(), "libstdc++.so.6"), elf->needs.end());
  EXPECT_NE(std::find(elf->needs.begin(), elf->needs.end(), "libc.so.6"), elf->needs.end());
  EXPECT_FALSE(elf->needed_versions.empty());
}

TEST(ElfFile, OfAnotherKindOrMachineIsNone) {
  EXPECT_FALSE(readElf(""));
  EXPECT_FALSE(readElf("#!/bin/sh\n"));
  EXPECT_FALSE(
      readElf("\x7f"
              "ELF"));
  Plan other = fullPlan();
  other.machine = EM_S390;
  EXPECT_FALSE(readElf(elfFile(other)));
  std::string narrow = elfFile(fullPlan());
  narrow[EI_CLASS] = ELFCLASS32;
  EXPECT_FALSE(readElf(narrow));
}

// Every cut and thousands of damaged files: no read leaves the file (the sanitizers' build sees
// one), and none takes long.
TEST(ElfFile, NoDamageLeadsOutOfTheFile) {
  const std::string good = elfFile(fullPlan());
  for (size_t size = 0; size < good.size(); ++size) {
    const std::string cut(good.data(), size);
    (void)readElf(cut);
  }
  std::mt19937 random(7);
  size_t read = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string bad = good;
    for (int i = 0; i < 1 + round % 4; ++i) {
      const char extreme[] = {0, 1, 0x7f, static_cast<char>(0x80), static_cast<char>(0xff)};
      bad[16 + random() % (bad.size() - 16)] =
          round % 2 == 0 ? extreme[random() % 5] : static_cast<char>(random());
    }
    if (const auto elf = readElf(bad)) {
      ++read;
      EXPECT_LE(elf->needs.size() + elf->versions.size() + elf->needed_versions.size(), 3'072u);
    }
  }
  EXPECT_GT(read, 1'000u) << "the damage is not only in the header";
}

TEST(ElfFile, ATableThatNeverEndsIsLeft) {
  // Every field in turn as the largest count or distance, and as the smallest ones.
  const std::string file = elfFile(fullPlan()) + std::string(1u << 16, '\1');
  size_t read = 0;
  for (size_t at = 0; at + 4 <= file.size() - (1u << 16); at += 2) {
    std::string odd = file;
    for (const uint32_t value : {0xffffffffu, 0xffffu, 1u, 4u}) {
      memcpy(odd.data() + at, &value, sizeof value);
      read += readElf(odd) ? 1 : 0;
    }
  }
  EXPECT_GT(read, 500u);
}

class Trees : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/mayfly-needs-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    tree_ = name;
    put("/usr/lib/x/libc.so.6", {"libc.so.6", {}, {}, {}, {"GLIBC_2.34"}});
  }
  void TearDown() override { std::filesystem::remove_all(tree_); }

  void put(const std::string& path, const Plan& plan, bool executable = false) {
    std::filesystem::create_directories((tree_ + path).substr(0, (tree_ + path).rfind('/')));
    std::ofstream(tree_ + path, std::ios::binary) << elfFile(plan);
    ASSERT_EQ(::chmod((tree_ + path).c_str(), executable ? 0755 : 0644), 0);
  }

  std::string tree_;
};

TEST_F(Trees, AMissingLibraryIsToldOnceWithItsFirstFile) {
  put("/opt/a/_fast.cpython-313-x86_64-linux-gnu.so",
      {"", {"libstdc++.so.6", "libc.so.6"}, {}, {}, {}});
  put("/opt/b/addon.node", {"", {"libstdc++.so.6"}, {}, {}, {}});
  put("/opt/tool", {"", {"libgone.so.7"}, {}, {}, {}}, true);
  put("/opt/data", {"", {"libnever.so.1"}, {}, {}, {}});  // neither a library nor a program
  const auto missing = findMissing(tree_);
  ASSERT_EQ(missing.size(), 2u);
  EXPECT_EQ(missing[0], (Missing{"libgone.so.7", "", "/opt/tool", 1, ""}));
  EXPECT_EQ(missing[1],
            (Missing{"libstdc++.so.6", "", "/opt/a/_fast.cpython-313-x86_64-linux-gnu.so", 2, ""}));
}

TEST_F(Trees, ALibraryAnywhereInTheImageIsThere) {
  put("/opt/a.so",
      {"", {"libone.so.1", "libtwo.so.2", "libthree.so", "/opt/lib/libfour.so"}, {}, {}, {}});
  EXPECT_EQ(findMissing(tree_).size(), 4u);
  put("/opt/numpy.libs/libone.so.1", {});
  put("/opt/lib/libtwo-a1b2.so", {"libtwo.so.2", {}, {}, {}, {}});  // by its own name for itself
  put("/opt/lib/libthree-3.so", {});
  std::filesystem::create_symlink("libthree-3.so", tree_ + "/opt/lib/libthree.so");
  put("/opt/lib/libfour.so", {});
  EXPECT_TRUE(findMissing(tree_).empty());
  std::filesystem::remove(tree_ + "/opt/lib/libthree-3.so");
  ASSERT_EQ(findMissing(tree_).size(), 1u) << "a link that leads nowhere is no library";
}

TEST_F(Trees, ALibraryWithoutTheNeededVersionIsToldWithIt) {
  put("/opt/a.so",
      {"", {"libc.so.6"}, {{"libc.so.6", "GLIBC_2.34"}, {"libc.so.6", "GLIBC_2.42"}}, {}, {}});
  const auto missing = findMissing(tree_);
  ASSERT_EQ(missing.size(), 1u);
  EXPECT_EQ(missing[0], (Missing{"libc.so.6", "GLIBC_2.42", "/opt/a.so", 1, ""}));
  EXPECT_EQ(
      missingText(missing[0]),
      "'/opt/a.so' needs GLIBC_2.42 of libc.so.6, and the image's is older: take an older build "
      "of the package");
}

TEST_F(Trees, FilesForOtherSystemsNeedNothingHere) {
  put("/opt/musl.node", {"", {"libc.musl-x86_64.so.1", "libgone.so.1"}, {}, {}, {}});
  put("/opt/other.so", {"", {"libgone.so.1"}, {}, {}, {}, EM_S390});
  EXPECT_TRUE(findMissing(tree_).empty());
}

TEST_F(Trees, NoLinkLeadsOutAndNoOddFileStopsTheLook) {
  const std::string outside = tree_ + "-outside";
  std::filesystem::create_directory(outside);
  std::ofstream(outside + "/liboutside.so.1", std::ios::binary) << elfFile({});
  std::filesystem::create_directory_symlink(outside, tree_ + "/opt-link");
  std::filesystem::create_directory_symlink(tree_, tree_ + "/round");
  put("/opt/a.so", {"", {"liboutside.so.1"}, {}, {}, {}});
  ASSERT_EQ(::mkfifo((tree_ + "/opt/pipe.so").c_str(), 0644), 0);
  std::ofstream(tree_ + "/opt/empty.so");
  std::ofstream(tree_ + "/opt/short.so") << "\x7f"
                                            "ELF";
  std::ofstream(tree_ + "/opt/zeros.so") << "\x7f"
                                            "ELF"
                                         << std::string(4'096, '\0');
  const auto missing = findMissing(tree_);
  std::filesystem::remove_all(outside);
  ASSERT_EQ(missing.size(), 1u);
  EXPECT_EQ(missing[0].library, "liboutside.so.1");
}

TEST_F(Trees, TheNumberOfResultsIsBounded) {
  Plan plan;
  for (int i = 0; i < 500; ++i) plan.needs.push_back("libgone" + std::to_string(i) + ".so");
  put("/opt/a.so", plan);
  EXPECT_EQ(findMissing(tree_).size(), 64u);
}

TEST(MissingLibrary, IsToldWithDebiansPackageWhereItIsKnown) {
  EXPECT_EQ(debianPackage("libstdc++.so.6", "trixie"), "libstdc++6");
  EXPECT_EQ(debianPackage("libglib-2.0.so.0", "trixie"), "libglib2.0-0t64");
  EXPECT_EQ(debianPackage("libglib-2.0.so.0", "bookworm"), "libglib2.0-0");
  EXPECT_EQ(debianPackage("libgone.so.1", "trixie"), "");
  EXPECT_EQ(missingText({"libgomp.so.1", "", "/x.so", 3, "libgomp1"}),
            "'/x.so' and 2 more need libgomp.so.1: add \"libgomp1\" to image.packages");
  EXPECT_NE(missingText({"libcuda.so.1", "", "/x.so", 1, ""}).find("no box has"),
            std::string::npos);
  EXPECT_NE(missingText({"libodd.so.1", "", "/x.so", 1, ""}).find("apt-file search libodd.so.1"),
            std::string::npos);
}

TEST(MissingLibrary, IsReadFromTheSandboxAsFromAStranger) {
  const Missing missing{"lib\n\x1b[1m.so", "V_1", "/a\tb.so", 7, ""};
  const std::string line = missingLine(missing);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const auto again = parseMissingLine(line);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->files, 7u);
  EXPECT_EQ(again->version, "V_1");
  EXPECT_EQ(again->library.find('\x1b'), std::string::npos);
  EXPECT_EQ(parseMissingLine(R"({"library": ")" + std::string(2'000, 'x') +
                             R"(", "file": "/x", "files": 99999999999})")
                ->files,
            UINT32_MAX);
  for (const char* bad :
       {"", "[]", "null", "{", R"({"library": "", "file": "/x", "files": 1})",
        R"({"library": "a", "file": 1, "files": 1})",
        R"({"library": "a", "file": "/x", "files": -1})", R"({"library": "a", "file": "/x"})",
        "mayfly: cannot isolate a build step"})
    EXPECT_FALSE(parseMissingLine(bad)) << bad;
}

}  // namespace
}  // namespace mayfly::image
