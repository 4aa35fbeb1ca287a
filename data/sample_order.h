// In which order the samples of a run are drawn from its sources.
#pragma once

#include <cstdint>
#include <vector>

#include "data/mixture.h"

namespace swiattn {

// A permutation of [0, count) without a table: a Feistel network over the next power of four whose
// rounds are keyed by hashes of `key`, walked until it falls below `count`. Returns where `index`
// goes. Constant time and memory.
int64_t permute(int64_t index, int64_t count, uint64_t key);

// Sample n of a run is number k of its source (mixture.h). A source of c samples is passed through
// again and again: number k is in pass k / c, at place k % c of that pass's order, which is the
// source's own or, shuffled, a permutation that depends on (seed, source, pass) alone.
class SampleOrder {
 public:
  struct Source {
    int64_t samples;  // > 0
    double weight;
  };
  SampleOrder(const std::vector<Source>& sources, bool shuffle, uint64_t seed);

  struct Place {
    size_t source;
    int64_t sample;  // in the source
  };
  Place place(int64_t sample);

 private:
  std::vector<int64_t> samples_;
  Mixture mixture_;
  bool shuffle_;
  uint64_t seed_;
};

}  // namespace swiattn
