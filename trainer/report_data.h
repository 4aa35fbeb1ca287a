// What report.html shows, gathered from the files of a run and thinned to what a screen can show.
#pragma once

#include <string>

#include "base/json.h"

namespace swiattn {

// An object with
//
//   steps, tokens    how far the run came
//
//   x, token_axis    the last step of every bucket of steps, and the tokens until then
//
//   series           {NAME: {mean, low, high}}: every scalar of metrics.jsonl, a bucket each, null
//                    where it has none
//
//   layers           {x, rows}: the full ratio, a row a layer, a column a bucket
//
//   routing          the latest routing CSV: [{layer, full_ratio, …}]
//
//   validation       [{name, points: [{step, nll, perplexity, full_ratio}]}]
//
//   config           the text of config.resolved.yaml
//
//   environment      environment.json
//
// Damaged lines are left out and missing files give empty values: a report is made of what there
// is. Numbers are rounded to six digits; metrics.jsonl has all.
nlohmann::ordered_json collect_report_data(const std::string& run_folder);

}  // namespace swiattn
