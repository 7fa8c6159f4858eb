// The command line's account of a result: the verdict line, the exit code, JSON, the tables. All
// text of a task is made printable first.
//
// Layer: cli. Pure.
#pragma once

#include <mayfly/client.h>

#include <string>
#include <string_view>
#include <vector>

namespace mayfly::cli {

// The outcome of writing one collected file with --out.
struct Written {
  bool written = false;
  std::string why_not;
};

// The bytes of a task's code and input files; `uploaded`: of those that become blobs.
struct InputBytes {
  uint64_t code = 0, files = 0, uploaded = 0;
  bool code_on_disk = false;  // the code is a script's file
};
// Why a task with so large an input would be refused: by its template's caps, or by the daemon's
// bound on a user's blobs (0: unknown). Ok for an unknown template: the submit names it.
base::Status checkInput(const InputBytes& bytes, const TaskSpec& spec,
                        const std::vector<TemplateInfo>& templates, uint64_t blob_bytes_max);

int exitCode(const TaskResult& result);
// One line, without "mayfly: " and newline.
std::string verdictLine(const TaskResult& result);
// Says that a captured stream was cut, and how to get all of it; empty: it is whole.
std::string truncatedLine(const TaskResult& result, Stream stream);
// "mayfly: what\n  advice\n"
std::string errorText(const base::Error& error);
std::string errorJson(const base::Error& error);
// `written` is empty, or has an entry for each of result.out_files.
std::string resultJson(const TaskResult& result, std::string_view out, std::string_view err,
                       const std::vector<Written>& written);
std::string tasksTable(const std::vector<TaskInfo>& tasks);
std::string taskJson(const TaskInfo& task);
std::string detachedTable(const std::vector<DetachedTask>& tasks);
std::string detachedListJson(const std::vector<DetachedTask>& tasks);
std::string detachedJson(uint64_t id, bool existing);
std::string tasksJson(const std::vector<TaskInfo>& tasks);
std::string templatesTable(const std::vector<TemplateInfo>& templates);
std::string templatesJson(const std::vector<TemplateInfo>& templates);

}  // namespace mayfly::cli
