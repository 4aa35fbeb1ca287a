#include "data/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace swiattn {
namespace {

constexpr int64_t kMostBlockSamples = 1 << 20;

// Keeps the product of two numbers below the sum of the weights within 64 bits.
constexpr double kMostTotal = 0x1p31;

// The weights times the smallest power of ten that makes them whole, or else times a number that
// makes their sum about kMostTotal; without common divisors.
std::vector<int64_t> as_whole_numbers(const std::vector<double>& weights, double sum) {
  double factor = kMostTotal / sum;
  for (double power = 1; power <= 1e6 && sum * power <= kMostTotal; power *= 10) {
    const auto becomes_whole = [power](double weight) {
      const double scaled = weight * power;
      return std::abs(scaled - std::round(scaled)) <= 1e-9 * scaled;
    };
    if (!std::all_of(weights.begin(), weights.end(), becomes_whole)) continue;
    factor = power;
    break;
  }
  std::vector<int64_t> result;
  int64_t divisor = 0;
  for (double weight : weights) {
    result.push_back(std::llround(weight * factor));
    divisor = std::gcd(divisor, result.back());
  }
  for (int64_t& weight : result) weight /= divisor;
  return result;
}

}  // namespace

Mixture::Mixture(const std::vector<double>& weights) {
  SWIATTN_CHECK(!weights.empty(), "a mixture of no sources");
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double weight : weights) {
    if (!std::isfinite(sum) || !(weight >= 1e-6 * sum) || !(weight > 0)) {
      fail(ExitCode::kConfiguration,
           "data.sources: a weight of {} is too small or not a number; every weight must be "
           "positive, finite and at least a millionth of the sum of all, which is {}.",
           weight, sum);
    }
  }
  weights_ = as_whole_numbers(weights, sum);
  total_ = std::accumulate(weights_.begin(), weights_.end(), int64_t{0});
  block_samples_ =
      total_ <= kMostBlockSamples ? kMostBlockSamples / total_ * total_ : kMostBlockSamples;
  enter_block(0);
}

std::vector<int64_t> Mixture::drawn_before(int64_t sample) const {
  std::vector<int64_t> drawn(weights_.size());
  std::vector<int64_t> remainders(weights_.size());
  int64_t missing = sample;
  for (size_t i = 0; i < weights_.size(); ++i) {
    const int64_t part = sample % total_ * weights_[i];
    drawn[i] = sample / total_ * weights_[i] + part / total_;
    remainders[i] = part % total_;
    missing -= drawn[i];
  }
  for (; missing > 0; --missing) {
    const auto largest = std::max_element(remainders.begin(), remainders.end());
    *largest = -1;
    ++drawn[static_cast<size_t>(largest - remainders.begin())];
  }
  return drawn;
}

void Mixture::enter_block(int64_t block) {
  block_ = block;
  next_ = block * block_samples_;
  drawn_ = drawn_before(next_);
  drawn_at_block_end_ = drawn_before(next_ + block_samples_);
  deficits_.resize(weights_.size());
  for (size_t i = 0; i < weights_.size(); ++i) {
    // The products may wrap around; their difference is smaller than total_.
    deficits_[i] =
        static_cast<int64_t>(static_cast<uint64_t>(next_) * static_cast<uint64_t>(weights_[i]) -
                             static_cast<uint64_t>(drawn_[i]) * static_cast<uint64_t>(total_));
  }
}

size_t Mixture::step() {
  size_t chosen = weights_.size();
  for (size_t i = 0; i < weights_.size(); ++i) {
    deficits_[i] += weights_[i];
    if (drawn_[i] >= drawn_at_block_end_[i]) continue;
    if (chosen == weights_.size() || deficits_[i] > deficits_[chosen]) chosen = i;
  }
  deficits_[chosen] -= total_;
  ++drawn_[chosen];
  ++next_;
  return chosen;
}

Mixture::Draw Mixture::draw(int64_t sample) {
  SWIATTN_CHECK(sample >= 0, "sample {}", sample);
  const int64_t block = sample / block_samples_;
  if (block != block_ || sample < next_) enter_block(block);
  while (next_ < sample) step();
  const size_t source = step();
  return {source, drawn_[source] - 1};
}

}  // namespace swiattn
