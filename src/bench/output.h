// Writes a report into a folder: report.json, table.txt, plots, and HdrHistogram's files.
//
// Layer: bench. Short blocking calls.
#pragma once

#include <string>

#include "base/result.h"
#include "bench/report.h"

namespace mayfly::bench {

// Makes the folder if it is missing; replaces files of these names, touches no other.
// `start_unix_s`: when the measurement began.
base::Status writeReport(const std::string& folder, const BenchReport& report, double start_unix_s);

// Letters, digits, '.', '_' and '-' of a text; for names of files and HdrHistogram's tags.
std::string fileName(const std::string& text);

}  // namespace mayfly::bench
