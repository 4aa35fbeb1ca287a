#include "trainer/report_data.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <vector>

#include "base/file_system.h"
#include "trainer/metrics.h"
#include "trainer/routing_csv.h"

namespace swiattn {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr size_t kCurveBuckets = 600;  // points of a curve
constexpr size_t kLayerBuckets = 240;  // columns of the picture of layers

// A number as the page needs it.
OrderedJson rounded(double value) {
  if (!std::isfinite(value)) return nullptr;
  return std::strtod(fmt::format("{:.6g}", value).c_str(), nullptr);
}

double number_or_nan(const Json& object, const std::string& key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_number() ? at->get<double>() : std::nan("");
}

int64_t count_or_zero(const Json& object, const std::string& key) {
  const double value = number_or_nan(object, key);
  return std::isfinite(value) && std::abs(value) < 1e18 ? static_cast<int64_t>(value) : 0;
}

std::string text_or_none(const Json& object, const std::string& key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_string() ? at->get<std::string>() : "";
}

// All training lines, a vector a column; row i of each belongs to the same step.
struct Columns {
  std::vector<int64_t> steps, tokens;
  std::map<std::string, std::vector<double>> scalars;
  std::vector<std::vector<float>> layers;  // [rows][layers]

  void add(const Json& line) {
    steps.push_back(count_or_zero(line, "step"));
    tokens.push_back(count_or_zero(line, "tokens"));
    visit_scalars(StepMetrics(), [&](std::string_view name, double) {
      scalars[std::string(name)].push_back(number_or_nan(line, std::string(name)));
    });
    std::vector<float>& row = layers.emplace_back();
    const auto ratios = line.find("full_ratio_by_layer");
    if (ratios == line.end() || !ratios->is_array()) return;
    for (const Json& ratio : *ratios) {
      row.push_back(ratio.is_number() ? ratio.get<float>() : std::nanf(""));
    }
  }
};

// Rows [begin, end) that make one point.
struct Bucket {
  size_t begin, end;
};

std::vector<Bucket> split(size_t rows, size_t most) {
  const size_t count = std::min(rows, most);
  std::vector<Bucket> buckets;
  for (size_t i = 0; i < count; ++i) buckets.push_back({i * rows / count, (i + 1) * rows / count});
  return buckets;
}

OrderedJson thin(const std::vector<double>& values, const std::vector<Bucket>& buckets) {
  OrderedJson series = {{"mean", OrderedJson::array()},
                        {"low", OrderedJson::array()},
                        {"high", OrderedJson::array()}};
  for (const Bucket& bucket : buckets) {
    double sum = 0, low = INFINITY, high = -INFINITY;
    int count = 0;
    for (size_t i = bucket.begin; i < bucket.end; ++i) {
      if (!std::isfinite(values[i])) continue;
      sum += values[i];
      low = std::min(low, values[i]);
      high = std::max(high, values[i]);
      ++count;
    }
    series["mean"].push_back(rounded(sum / count));  // 0 / 0 becomes null
    series["low"].push_back(rounded(low));
    series["high"].push_back(rounded(high));
  }
  return series;
}

OrderedJson thin_layers(const Columns& columns) {
  const std::vector<Bucket> buckets = split(columns.steps.size(), kLayerBuckets);
  size_t layers = 0;
  for (const auto& row : columns.layers) layers = std::max(layers, row.size());
  OrderedJson x = OrderedJson::array(), rows = OrderedJson::array();
  for (const Bucket& bucket : buckets) x.push_back(columns.steps[bucket.end - 1]);
  for (size_t layer = 0; layer < layers; ++layer) {
    OrderedJson row = OrderedJson::array();
    for (const Bucket& bucket : buckets) {
      double sum = 0;
      int count = 0;
      for (size_t i = bucket.begin; i < bucket.end; ++i) {
        if (layer >= columns.layers[i].size() || !std::isfinite(columns.layers[i][layer])) continue;
        sum += static_cast<double>(columns.layers[i][layer]);
        ++count;
      }
      row.push_back(rounded(sum / count));
    }
    rows.push_back(std::move(row));
  }
  return {{"x", std::move(x)}, {"rows", std::move(rows)}};
}

// Sets of validation in the order of their first appearance.
void add_validation(OrderedJson& sets, const Json& line) {
  const std::string name = text_or_none(line, "name");
  auto set = std::find_if(sets.begin(), sets.end(),
                          [&](const OrderedJson& other) { return other["name"] == name; });
  if (set == sets.end()) {
    sets.push_back({{"name", name}, {"points", OrderedJson::array()}});
    set = sets.end() - 1;
  }
  (*set)["points"].push_back({{"step", count_or_zero(line, "step")},
                              {"nll", rounded(number_or_nan(line, "nll"))},
                              {"perplexity", rounded(number_or_nan(line, "perplexity"))},
                              {"full_ratio", rounded(number_or_nan(line, "full_ratio"))}});
}

void read_metrics(const std::string& path, Columns& columns, OrderedJson& validation) {
  std::ifstream stream(path, std::ios::binary);
  for (std::string text; std::getline(stream, text);) {
    const Json line = Json::parse(text, nullptr, false);
    if (!line.is_object() || !std::isfinite(number_or_nan(line, "step"))) continue;
    const std::string kind = text_or_none(line, "kind");
    if (kind == "train") columns.add(line);
    if (kind == "validation") add_validation(validation, line);
  }
}

OrderedJson routing(const std::string& folder) {
  OrderedJson list = OrderedJson::array();
  for (const RoutingRow& row : read_latest_routing_csv(folder)) {
    list.push_back({{"layer", row.layer},
                    {"full_ratio", rounded(row.full_ratio)},
                    {"full_ratio_far", rounded(row.full_ratio_far)},
                    {"logit_mean", rounded(row.logit_mean)},
                    {"logit_std", rounded(row.logit_std)},
                    {"entropy", rounded(row.entropy)},
                    {"gamma_mean", rounded(row.gamma_mean)},
                    {"disagreement_mean", rounded(row.disagreement_mean)}});
  }
  return list;
}

std::string text_or_nothing(const std::string& path) {
  return file_exists(path) ? read_file(path, ExitCode::kData) : "";
}

}  // namespace

OrderedJson collect_report_data(const std::string& run_folder) {
  Columns columns;
  OrderedJson validation = OrderedJson::array();
  read_metrics(run_folder + "/metrics.jsonl", columns, validation);

  const std::vector<Bucket> buckets = split(columns.steps.size(), kCurveBuckets);
  OrderedJson x = OrderedJson::array(), tokens = OrderedJson::array();
  for (const Bucket& bucket : buckets) {
    x.push_back(columns.steps[bucket.end - 1]);
    tokens.push_back(columns.tokens[bucket.end - 1]);
  }
  OrderedJson series = OrderedJson::object();
  for (const auto& [name, values] : columns.scalars) series[name] = thin(values, buckets);

  OrderedJson environment =
      OrderedJson::parse(text_or_nothing(run_folder + "/environment.json"), nullptr, false);
  if (!environment.is_object()) environment = OrderedJson::object();
  return {{"steps", columns.steps.empty() ? 0 : columns.steps.back()},
          {"tokens", columns.tokens.empty() ? 0 : columns.tokens.back()},
          {"x", std::move(x)},
          {"token_axis", std::move(tokens)},
          {"series", std::move(series)},
          {"layers", thin_layers(columns)},
          {"routing", routing(run_folder + "/routing")},
          {"validation", std::move(validation)},
          {"config", text_or_nothing(run_folder + "/config.resolved.yaml")},
          {"environment", std::move(environment)}};
}

}  // namespace swiattn
