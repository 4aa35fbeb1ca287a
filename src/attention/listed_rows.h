// Attention gradients of a list of rows, each towards one interval of keys: the far backward, where
// only the tokens that chose full attention take part (docs/method.md, section 2).
//
// The launches in order: list the rows, gather their operands into compact arrays, run the backward
// over them, add the query gradients back to their rows. The number of listed rows stays on the
// device; nothing waits for the host. Plain device pointers, activations bfloat16, statistics
// float32. `stream` is a cudaStream_t. A failed launch throws std::runtime_error.
#pragma once

#include <cstdint>

namespace swiattn::gpu {

using Bf16 = void;  // an array of __nv_bfloat16

// Rows a tile of the backward's query side. Compact arrays have whole tiles.
constexpr int64_t kListTile = 64;
constexpr int64_t list_capacity(int64_t tokens) {
  return (tokens + kListTile - 1) / kListTile * kListTile;
}

// Which tokens take part, in ascending order, and the keys first_key <= j <= last_key that each
// sees. Both bounds never decrease along the list. The rows after the last one, up to the end of
// its tile, see nothing: first_key is the largest int32, last_key -1.
struct RowList {
  int32_t* row;        // [list_capacity(T)] token
  int32_t* first_key;  // [list_capacity(T)]
  int32_t* last_key;   // [list_capacity(T)]
  int32_t* count;      // [1]
};

struct RowListArguments {
  const bool* marked;       // [T]
  const int64_t* position;  // [T] index in the document
  int64_t tokens;           // T
  int64_t window;           // w
  int32_t* block_counts;    // [list_blocks(T)] workspace
  RowList list;
};
int64_t list_blocks(int64_t tokens);

// Lists the marked tokens that have far keys, those at most w positions back being near.
void list_far_rows(const RowListArguments& arguments, void* stream);

// Where the rows' operands lie before and after gathering.
struct GatherArguments {
  RowList list;
  const Bf16* query;       // [T, Hq, D], tokens query_stride elements apart
  const Bf16* grad_out;    // [T, Hq, D] contiguous
  const Bf16* out;         // [T, Hq, D] contiguous, the final output of each row
  const float* logsumexp;  // [Hq, T], the final one
  int64_t tokens;
  int64_t heads;     // Hq
  int64_t head_dim;  // D, a multiple of 8 with D / 8 a power of two up to 32
  int64_t query_stride;
  Bf16* compact_query;     // [capacity, Hq, D]
  Bf16* compact_grad_out;  // [capacity, Hq, D]
  float* compact_lse;      // [Hq, capacity] in base 2; infinite in rows that see nothing
  float* compact_delta;    // [Hq, capacity] <grad_out, out> of the row and head
  float* compact_grad_q;   // [capacity, Hq, D], set to zero; null to leave out
};
void gather_rows(const GatherArguments& arguments, void* stream);

// grad_query[row] += compact_grad_q of the row.
struct ScatterArguments {
  RowList list;
  const float* compact_grad_q;  // [capacity, Hq, D]
  Bf16* grad_query;             // [T, Hq, D], tokens grad_stride elements apart
  int64_t tokens;
  int64_t heads;
  int64_t head_dim;
  int64_t grad_stride;
};
void scatter_grad_q(const ScatterArguments& arguments, void* stream);

// The operands that the kernels below share, each in a version for the architectures from 8.0 on
// and one for 9.0 alone (wgmma and TMA). Strides are multiples of 8 elements, pointers of 16 bytes.
struct ListedOperands {
  RowList list;
  const Bf16* compact_query;  // [capacity, Hq, D], as gathered
  const Bf16* key;            // [T, Hkv, D], tokens key_stride elements apart
  const Bf16* value;          // [T, Hkv, D], likewise
  int64_t tokens;
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;  // 64 or 128
  int64_t key_stride;
  float scale;  // of the logits
};

// Attention of the listed rows to their keys.
struct ListedForwardArguments {
  ListedOperands operands;
  Bf16* compact_out;         // [capacity, Hq, D]
  float* compact_logsumexp;  // [Hq, capacity] natural logarithm
};
void listed_forward_sm80(const ListedForwardArguments& arguments, void* stream);
void listed_forward_sm90(const ListedForwardArguments& arguments, void* stream);

// What the backward kernels read besides, as gathered.
struct ListedGradients {
  const Bf16* compact_grad_out;  // [capacity, Hq, D]
  const float* compact_lse;      // [Hq, capacity] base 2
  const float* compact_delta;    // [Hq, capacity]
};

// dK and dV, and dQ on the way.
struct ListedBackwardArguments {
  ListedOperands operands;
  ListedGradients gradients;
  // [capacity, Hq, D], added to with atomics, so that its last bits vary from run to run; null to
  // leave dQ to listed_query_gradient, which is deterministic.
  float* compact_grad_q;
  Bf16* grad_key;    // [T, Hkv, D], tokens grad_stride elements apart; added to
  Bf16* grad_value;  // [T, Hkv, D], likewise
  int64_t grad_stride;
};
void listed_backward_sm80(const ListedBackwardArguments& arguments, void* stream);
void listed_backward_sm90(const ListedBackwardArguments& arguments, void* stream);

// dQ alone, without atomics.
struct ListedQueryGradientArguments {
  ListedOperands operands;
  ListedGradients gradients;
  Bf16* grad_query;  // [T, Hq, D], tokens grad_stride elements apart; added to in the listed rows
  int64_t grad_stride;
};
void listed_query_gradient_sm80(const ListedQueryGradientArguments& arguments, void* stream);
void listed_query_gradient_sm90(const ListedQueryGradientArguments& arguments, void* stream);

}  // namespace swiattn::gpu
