// Sums over tokens that describe what the routers of a model did, layer by layer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/micro_batch.h"

namespace swiattn {

// Columns of a [layers, kColumns] float64 tensor of sums. Sums of micro-batches and ranks add up.
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

// The standard deviation of values with these means; NaN when one of them is.
double standard_deviation(double mean, double mean_of_squares);

// A layer's row from its route [T] bool and, where it has a router, its logits [T] and
// disagreement.
at::Tensor routing_row(const MicroBatch& batch, int64_t window, const at::Tensor& route,
                       const at::Tensor& logits, const at::Tensor& disagreement);

}  // namespace swiattn
