// What is counted of a layer's tokens, and how they attended. Free of LibTorch, for kernels.
#pragma once

#include <cstdint>

namespace swiattn {

// Which branch the tokens of a layer took: each its own, or all the same.
enum class BranchTaken { kRouted, kFull, kWindow };

// Columns of a [layers, kColumns] float64 tensor of sums over tokens that describe what the routers
// of a model did. Sums of micro-batches and ranks add up. Where far rows are sampled, the sums of
// the disagreement, gamma and the regularizer are unbiased estimates; all others are exact.
struct RoutingStatistics {
  enum Column : int64_t {
    kTokens,
    kFull,          // tokens that took full attention
    kFarTokens,     // tokens with more than w visible keys
    kFarFull,       // of these, the full ones
    kLogit,         // sum of s
    kLogitSquare,   // sum of s^2
    kEntropy,       // sum of the binary entropy of sigmoid(s), in nats
    kDisagreement,  // sum of ||o_full - o_swa||^2
    kCounted,       // tokens whose target counts
    kGamma,         // sum of gamma over counted tokens
    kRegularizer,   // sum of gamma * softplus(s) over counted tokens
    kVisiblePairs,  // visible pairs of the branches taken (query, key), for FLOP counts
    kColumns
  };
};

}  // namespace swiattn
