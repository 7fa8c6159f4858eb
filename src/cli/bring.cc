#include "cli/bring.h"

#include <errno.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/text.h"
#include "cli/report.h"

namespace mayfly::cli {

using base::fail;
using base::Result;
using base::Status;
using base::Unit;

namespace {

constexpr int kSubmitsMax = 3;  // of one task, whose uploads are lost before it holds them

bool anyLarge(const std::vector<Input>& inputs) {
  return std::any_of(inputs.begin(), inputs.end(), [](const Input& i) { return bool{i.large}; });
}

Status checkLarge(Client& client, const std::vector<Input>& inputs, const TaskSpec& spec) {
  InputBytes bytes;
  bytes.code = spec.code.size();
  bytes.code_on_disk = spec.kind == CodeKind::file;
  for (const Input& input : inputs) {
    uint64_t size = input.file.data.size();
    struct stat status;
    if (input.large) {
      if (::fstat(input.large.get(), &status) != 0)
        return base::failSys(errno, "fstat", input.file.path);
      size = static_cast<uint64_t>(status.st_size);
      bytes.uploaded += size;
    }
    bytes.files += size;
  }
  MAYFLY_TRY(auto templates, client.templates());
  return checkInput(bytes, spec, templates, client.server().blob_bytes_max);
}

Status upload(Client& client, const Input& input, InputFile* file) {
  auto blob = client.upload(input.large.view());
  if (!blob)
    return fail(std::move(blob).error().in("--file '" + base::printable(file->path) + "'"));
  file->blob = *blob;
  return Unit{};
}

// Uploads again the blobs that the daemon does not have. Returns how many.
Result<size_t> uploadLost(Client& client, const std::vector<Input>& inputs, TaskSpec* spec) {
  MAYFLY_TRY(std::vector<BlobInfo> kept, client.blobs());
  size_t lost = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    InputFile& file = spec->files[i];
    const auto same = [&](const BlobInfo& b) { return b.blob.sha256 == file.blob->sha256; };
    if (!inputs[i].large || std::any_of(kept.begin(), kept.end(), same)) continue;
    MAYFLY_CHECK(upload(client, inputs[i], &file));
    ++lost;
  }
  return lost;
}

}  // namespace

Status bring(Client& client, std::vector<Input>& inputs, TaskSpec* spec) {
  if (anyLarge(inputs)) MAYFLY_CHECK(checkLarge(client, inputs, *spec));
  for (Input& input : inputs) {
    spec->files.push_back(std::move(input.file));
    if (input.large) MAYFLY_CHECK(upload(client, input, &spec->files.back()));
  }
  return Unit{};
}

Result<Task> submitBrought(Client& client, const std::vector<Input>& inputs, TaskSpec spec,
                           const Callbacks& callbacks) {
  if (!anyLarge(inputs)) return client.submit(std::move(spec), callbacks);
  for (int left = kSubmitsMax - 1;; --left) {
    auto task = client.submit(spec, callbacks);
    if (task || left == 0 || task.error().code != base::Code::notFound) return task;
    auto lost = uploadLost(client, inputs, &spec);
    if (!lost) return fail(std::move(lost).error());
    if (*lost == 0) return task;
  }
}

}  // namespace mayfly::cli
