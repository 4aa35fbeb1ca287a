// report.html: a run on one page that needs nothing else, neither other files nor a network.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/file_system.h"

namespace swiattn {

// What the files of a run do not say.
struct ReportFacts {
  std::string title;
  // Shown below the title in this order: {"Base model", "SmolLM2-135M-Instruct"}, …
  std::vector<std::pair<std::string, std::string>> facts;
};

// Writes RUN_FOLDER/report.html from the files of the run. Throws Error.
void write_report(FileSystem& files, const std::string& run_folder, const ReportFacts& facts);

}  // namespace swiattn
