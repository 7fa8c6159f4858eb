#include "core/blob.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>

#include "wire/zygote.h"

namespace mayfly::core {

namespace zygote = wire;

namespace {

// A mayfly_task_kind. For a clone, a script is a script, whether it came as code or as a file.
uint32_t kindOf(sched::CodeKind kind) {
  switch (kind) {
    case sched::CodeKind::command:
      return 0;
    case sched::CodeKind::file:
    case sched::CodeKind::path:
      return 1;
    case sched::CodeKind::string:
      return 2;
    case sched::CodeKind::stdinText:
      return 3;
    case sched::CodeKind::module:
      break;
  }
  return 4;
}

}  // namespace

BlobLayout layoutBlob(const sched::TaskSpec& spec,
                      const std::vector<std::pair<std::string, std::string>>& base_env) {
  using sched::CodeKind;
  BlobLayout out;
  zygote::TaskBlob header;
  header.kind = kindOf(spec.kind);
  header.has_seed = spec.seed ? 1 : 0;
  header.seed = spec.seed.value_or(0);

  std::string strings;
  auto add = [&](std::string_view text) {
    strings.append(text);
    strings.push_back('\0');
  };
  if (spec.kind != CodeKind::command) {
    add(spec.kind == CodeKind::file || spec.kind == CodeKind::path
            ? std::string_view(spec.script_name)
        : spec.kind == CodeKind::string ? std::string_view("-c")
        : spec.kind == CodeKind::module ? std::string_view("-m")
                                        : std::string_view("-"));
    ++header.argc;
  }
  for (const std::string& arg : spec.args) add(arg), ++header.argc;
  auto addEnv = [&](const std::pair<std::string, std::string>& var) {
    add(var.first + "=" + var.second);
    ++header.envc;
  };
  for (const auto& var : base_env)
    if (std::none_of(spec.env.begin(), spec.env.end(),
                     [&](const auto& own) { return own.first == var.first; }))
      addEnv(var);
  for (const auto& var : spec.env) addEnv(var);

  struct Content {
    std::string_view path, bytes;
    uint32_t mode;
    const sched::InputFile* in_blob = nullptr;
  };
  std::vector<Content> files;
  if (spec.kind == CodeKind::file) files.push_back({spec.script_name, spec.code, 0644});
  for (const sched::InputFile& f : spec.files)
    files.push_back({f.path, f.data, f.mode, f.blob ? &f : nullptr});
  header.files = static_cast<uint32_t>(files.size());

  uint64_t records_bytes = 0;
  for (const Content& f : files) records_bytes += sizeof(zygote::FileEntry) + f.path.size() + 1;
  header.strings_offset = sizeof header;
  header.files_offset = header.strings_offset + strings.size();
  uint64_t next = header.files_offset + records_bytes;

  auto place = [&](std::string_view bytes) {
    uint64_t offset = next;
    if (!bytes.empty()) out.parts.push_back({offset, bytes});
    next += bytes.size();
    return offset;
  };
  if (spec.kind == CodeKind::string || spec.kind == CodeKind::stdinText ||
      spec.kind == CodeKind::module) {
    header.code_bytes = spec.code.size();
    header.code_offset = place(spec.code);
  }
  auto descriptorOf = [&](const std::shared_ptr<const base::Fd>& blob) {
    auto at = std::find(out.blobs.begin(), out.blobs.end(), blob);
    auto number = static_cast<uint32_t>(at - out.blobs.begin()) + 1;
    if (at == out.blobs.end()) out.blobs.push_back(blob);
    return number;
  };
  std::string records;
  records.reserve(records_bytes);
  for (const Content& f : files) {
    zygote::FileEntry entry;
    if (f.in_blob != nullptr) {
      entry.fd = descriptorOf(f.in_blob->blob);
      entry.bytes = f.in_blob->blob_bytes;
    } else {
      entry.bytes = f.bytes.size();
      entry.offset = place(f.bytes);
    }
    entry.mode = f.mode;
    entry.path_bytes = static_cast<uint32_t>(f.path.size() + 1);
    records.append(reinterpret_cast<const char*>(&entry), sizeof entry);
    records.append(f.path);
    records.push_back('\0');
  }
  out.head.append(reinterpret_cast<const char*>(&header), sizeof header);
  out.head += strings;
  out.head += records;
  out.bytes = next;
  return out;
}

base::Result<BlobWriter> BlobWriter::create(
    const sched::TaskSpec& spec, const std::vector<std::pair<std::string, std::string>>& base_env) {
  BlobWriter w;
  w.layout_ = layoutBlob(spec, base_env);
  MAYFLY_TRY(w.fd_, base::makeMemfd("task"));
  return w;
}

std::vector<int> BlobWriter::fds() const {
  std::vector<int> all{fd_.get()};
  for (const auto& blob : layout_.blobs) all.push_back(blob->get());
  return all;
}

base::Result<bool> BlobWriter::step() {
  size_t budget = kBlobStepBytes;
  while (part_ <= layout_.parts.size()) {
    std::string_view bytes =
        part_ == 0 ? std::string_view(layout_.head) : layout_.parts[part_ - 1].bytes;
    uint64_t offset = part_ == 0 ? 0 : layout_.parts[part_ - 1].offset;
    if (part_done_ == bytes.size()) {
      ++part_;
      part_done_ = 0;
      continue;
    }
    if (budget == 0) return false;
    size_t want = std::min(bytes.size() - part_done_, budget);
    ssize_t n = ::pwrite(fd_.get(), bytes.data() + part_done_, want,
                         static_cast<off_t>(offset + part_done_));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return base::failSys(n < 0 ? errno : EIO, "pwrite", "the memfd of a task");
    part_done_ += static_cast<size_t>(n);
    budget -= static_cast<size_t>(n);
  }
  MAYFLY_CHECK(base::sealMemfd(fd_.view()));
  return true;
}

}  // namespace mayfly::core
