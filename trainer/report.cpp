#include "trainer/report.h"

#include <string_view>

#include "base/host.h"
#include "base/json.h"
#include "trainer/report_data.h"
#include "trainer/report_page.h"

namespace swiattn {
namespace {

std::string escape_html(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '&') {
      escaped += "&amp;";
    } else if (c == '<') {
      escaped += "&lt;";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

// JSON that may stand inside a script element: no "</script>" and no "<!--" can occur in it.
std::string to_script_text(const nlohmann::ordered_json& data) {
  const std::string text = data.dump(-1, ' ', false, Json::error_handler_t::replace);
  std::string safe;
  safe.reserve(text.size());
  for (const char c : text) {
    if (c == '<') {
      safe += "\\u003c";
    } else {
      safe += c;
    }
  }
  return safe;
}

// Puts `value` in place of the only occurrence of `mark`.
void fill(std::string& page, std::string_view mark, const std::string& value) {
  page.replace(page.find(mark), mark.size(), value);
}

}  // namespace

void write_report(FileSystem& files, const std::string& run_folder, const ReportFacts& facts) {
  nlohmann::ordered_json data = collect_report_data(run_folder);
  data["title"] = facts.title;
  data["written"] = utc_now();
  data["facts"] = facts.facts;
  std::string page = kReportHtml;
  fill(page, "{{style}}", kReportCss);
  fill(page, "{{script}}", kReportJs);
  // Text of users comes last and from the end of the page, so that no mark in it is taken for ours.
  fill(page, "{{data}}", to_script_text(data));
  fill(page, "{{title}}", escape_html(facts.title));
  write_file_atomically(files, run_folder + "/report.html", page);
}

}  // namespace swiattn
