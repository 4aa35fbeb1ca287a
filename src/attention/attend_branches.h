// The forward of switch attention in one kernel. Plain device pointers, activations bfloat16,
// statistics float32. `stream` is a cudaStream_t.
#pragma once

#include <cstdint>

#include "attention/listed_kernels.h"

namespace swiattn::gpu {

// Both branches of every token, and the one taken, in one pass:
//
//   out = o_full where routed, else o_near;   logsumexp likewise;   difference = o_full - o_near
//
// The difference is formed like that of attend_rows(). For compute capability 9.0 alone. A failed
// launch throws std::runtime_error.
struct AttendBranchesArguments {
  const Bf16* query;  // [T, Hq, D], tokens query_stride elements apart
  int64_t query_stride;
  KeyValues keys;
  const int64_t* position;  // [T] index in the document
  int64_t window;
  const bool* route;   // [T]
  Bf16* out;           // [T, Hq, D]
  Bf16* difference;    // [T, Hq, D]
  float* logsumexp;    // [Hq, T] natural logarithm, of the branch taken
  float* squares;      // [Hq, T] sums of the difference's squares before rounding
  int32_t* next_item;  // [1] workspace, 0
};
void attend_branches_sm90(const AttendBranchesArguments& arguments, void* stream);

}  // namespace swiattn::gpu
