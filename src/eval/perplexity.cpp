#include "eval/perplexity.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "eval/token_windows.h"

namespace swiattn {
namespace {

using S = RoutingStatistics;

double ratio(double part, double whole) { return whole > 0 ? part / whole : std::nan(""); }

void check_ids(std::span<const int32_t> document, int64_t number, int64_t vocab_size) {
  for (size_t i = 0; i < document.size(); ++i) {
    if (document[i] >= 0 && document[i] < vocab_size) continue;
    fail(ExitCode::kData,
         "Document {}, token {}: the id {} is outside the model's vocabulary of {}; the text was "
         "tokenized for another model.",
         number, i, document[i], vocab_size);
  }
}

}  // namespace

PerplexityMeter::PerplexityMeter(const CausalLm& model, PerplexityOptions options)
    : model_(model),
      options_(std::move(options)),
      statistics_(at::zeros({model.config().layers, S::kColumns}, at::kDouble)) {}

void PerplexityMeter::add(std::span<const int32_t> document) {
  check_ids(document, documents_, model_.config().vocab_size);
  const auto size = static_cast<int64_t>(document.size());
  for (const TokenWindow& window : cut_windows(size, options_.sequence_length, options_.stride)) {
    evaluate(document, window.begin, window.end, window.counted_from);
  }
  ++documents_;
}

void PerplexityMeter::evaluate(std::span<const int32_t> document, int64_t begin, int64_t end,
                               int64_t counted_from) {
  const int64_t length = end - begin;
  std::vector<int32_t> targets(document.begin() + begin + 1, document.begin() + end + 1);
  std::fill_n(targets.begin(), counted_from - begin, -1);
  std::vector<int32_t> positions(static_cast<size_t>(length));
  std::iota(positions.begin(), positions.end(), 0);
  const std::vector<int32_t> starts{0, static_cast<int32_t>(length)};
  const std::vector<int64_t> samples{windows_++};
  const MicroBatch batch = model_.prepare(
      {1, length, document.subspan(static_cast<size_t>(begin), static_cast<size_t>(length)),
       targets, positions, starts, samples});
  std::vector<at::Tensor> routes;
  const MicroBatchResult result = model_.evaluate(batch, options_.branches, &routes);
  statistics_.add_(result.statistics.cpu());
  const at::Tensor nll = result.nll.to(at::kCPU, at::kDouble);
  const double* values = nll.const_data_ptr<double>();
  for (int64_t i = counted_from - begin; i < length; ++i) nll_ += values[i];
  tokens_ += end - counted_from;
  if (!options_.per_token) return;

  const at::Tensor table = at::stack(routes).to(at::kCPU, at::kByte);  // [layers, length]
  const auto route = table.accessor<uint8_t, 2>();
  TokenScore score{.document = documents_};
  score.route.resize(routes.size());
  for (int64_t i = counted_from - begin; i < length; ++i) {
    score.position = begin + i + 1;
    score.token = targets[static_cast<size_t>(i)];
    score.nll = values[i];
    for (size_t l = 0; l < routes.size(); ++l) score.route[l] = route[static_cast<int64_t>(l)][i];
    options_.per_token(score);
  }
}

PerplexityResult PerplexityMeter::result() const {
  PerplexityResult result{.documents = documents_, .tokens = tokens_};
  result.nll = ratio(nll_, static_cast<double>(tokens_));
  const auto sums = statistics_.accessor<double, 2>();
  const auto total = [&](int64_t column) {
    return statistics_.select(1, column).sum().item<double>();
  };
  result.full_ratio = ratio(total(S::kFull), total(S::kTokens));
  result.full_ratio_far = ratio(total(S::kFarFull), total(S::kFarTokens));
  for (int64_t l = 0; l < model_.config().layers; ++l) {
    LayerRouting layer;
    const double tokens = sums[l][S::kTokens];
    layer.full_ratio = ratio(sums[l][S::kFull], tokens);
    layer.full_ratio_far = ratio(sums[l][S::kFarFull], sums[l][S::kFarTokens]);
    const bool router =
        model_.options().attention[static_cast<size_t>(l)] == LayerAttention::kSwitch &&
        model_.options().gate.has_router();
    layer.logit_mean = router ? ratio(sums[l][S::kLogit], tokens) : std::nan("");
    layer.logit_std = standard_deviation(layer.logit_mean, ratio(sums[l][S::kLogitSquare], tokens));
    const bool compared = router && options_.branches == Branches::kBoth;
    layer.disagreement_mean = compared ? ratio(sums[l][S::kDisagreement], tokens) : std::nan("");
    result.layers.push_back(layer);
  }
  return result;
}

}  // namespace swiattn
