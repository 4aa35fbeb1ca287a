// From which source each sample of a run is drawn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace swiattn {

// The largest-deficit rule: sample n comes from the source that is furthest behind its share, that
// is with the largest (n + 1) * weight_i / sum - drawn_i; among equals from the first. The shares
// are fractions of whole numbers: weights with up to six decimals are taken as they are, others
// rounded to multiples of sum / 2^31.
//
// The rule by itself can only be replayed from sample 0. So that any sample is found at once, the
// order is made of blocks of at most 2^20 samples. The draws before a block have a closed form:
// each source's share rounded down, and the missing samples given to the largest remainders. Inside
// a block the rule runs as it is, except that no source exceeds its draws at the end of the block.
// When the shares are fractions with a denominator up to 2^20 blocks are multiples of it, the
// deficits there are zero, and the order is that of the plain rule throughout.
//
// The draws of a source stay within one sample of its share with up to three sources. With more,
// the rule can be late by a little more: 1.41 samples in the worst case found in a search.
class Mixture {
 public:
  // Throws Error{kConfiguration} unless every weight is finite and at least a millionth of the sum.
  explicit Mixture(const std::vector<double>& weights);

  struct Draw {
    size_t source;
    int64_t number;  // how many samples came from this source before
  };
  // Costs a step of the rule when samples are asked for in order, else a replay of the block.
  Draw draw(int64_t sample);

 private:
  std::vector<int64_t> drawn_before(int64_t sample) const;  // closed form, for block boundaries
  void enter_block(int64_t block);
  size_t step();  // returns the source

  std::vector<int64_t> weights_;  // whole numbers without a common divisor
  int64_t total_ = 0;
  int64_t block_samples_ = 0;

  // Where the rule stands.
  int64_t block_ = 0;
  int64_t next_ = 0;  // the sample that step() draws for
  std::vector<int64_t> drawn_;
  std::vector<int64_t> drawn_at_block_end_;
  std::vector<int64_t> deficits_;  // in units of 1 / total_ samples
};

}  // namespace swiattn
