// Attention of a list of rows, each to one interval of keys: all tokens to their window or to
// everything before them, or the tokens that chose full attention to their far keys alone
// (docs/method.md, "Near and far"). Forward, and the backward without atomics: the same operands
// give the same bits.
//
// For a choice of tokens the launches in order are: list the rows, gather their operands, run the
// kernels over them. How many there are stays on the device; nothing waits for the host. Plain
// device pointers, activations bfloat16, statistics float32. `stream` is a cudaStream_t. A failed
// launch throws std::runtime_error.
#pragma once

#include <cstdint>

namespace swiattn::gpu {

using Bf16 = void;  // an array of __nv_bfloat16

// Arrays by listed row have whole tiles of this many rows.
constexpr int64_t kListTile = 64;
constexpr int64_t list_capacity(int64_t tokens) {
  return (tokens + kListTile - 1) / kListTile * kListTile;
}

// Rows in ascending order, and the keys first_key <= j <= last_key that each sees. Both bounds
// never decrease along the list. The rows after the last one, up to the end of its tile, see
// nothing: first_key is the largest int32, last_key -1.
struct RowList {
  int32_t* row;        // [list_capacity(T)] token
  int32_t* first_key;  // [list_capacity(T)]
  int32_t* last_key;   // [list_capacity(T)]
  int32_t* count;      // [1]; null for no list at all
};

// Every token with the at most `window` keys of its document up to its own.
struct NearListArguments {
  const int64_t* position;  // [T] index in the document
  int64_t tokens;           // T
  int64_t window;           // at least the longest document: everything up to its own
  RowList list;
};
void list_near_rows(const NearListArguments& arguments, void* stream);

// The marked tokens with the keys of their document that lie `window` or more back; those that have
// none are left out.
struct FarListArguments {
  const bool* marked;       // [T]
  const int64_t* position;  // [T]
  int64_t tokens;           // T
  int64_t window;
  int32_t* block_counts;  // [list_blocks(T)] workspace
  RowList list;
};
int64_t list_blocks(int64_t tokens);
void list_far_rows(const FarListArguments& arguments, void* stream);

// What the backward needs of every token, in one pass over the output gradients:
//
//   delta = <grad_out, out> of each head,   gate_gradient = <grad_out, difference> over all heads
//
// the latter exactly 0, with nothing read, where the position is below the window or `both` does
// not mark the token.
struct RowStatisticsArguments {
  const Bf16* grad_out;     // [T, Hq, D]
  const Bf16* out;          // [T, Hq, D] the final output of each row
  const Bf16* difference;   // [T, Hq, D] o_full - o_near; null without a gate
  const float* logsumexp;   // [Hq, T] the final one, natural logarithm
  const int64_t* position;  // [T]
  float* delta;             // [Hq, capacity]; 0 in rows from T on
  float* lse;               // [Hq, capacity] logsumexp in base 2; infinite in rows from T on
  float* gate_gradient;     // [T] or null
  int64_t tokens;           // T
  int64_t heads;            // Hq
  int64_t head_dim;         // D, a multiple of 8 with D / 8 a power of two up to 32
  int64_t window;
  const bool* both;  // [T] tokens that have a difference; null: all
};
void row_statistics(const RowStatisticsArguments& arguments, void* stream);

// Listed rows with their operands.
struct ListedRows {
  RowList list;
  const Bf16* query;     // [rows, Hq, D], query_stride elements apart
  const Bf16* grad_out;  // [rows, Hq, D] contiguous; null in a forward
  const float* lse;      // [Hq, capacity] as of row_statistics(); null in a forward
  const float* delta;    // [Hq, capacity] likewise
  int64_t rows;          // that `query` and `grad_out` hold: T for all tokens, else the capacity
  int64_t query_stride;
};

// The operands of chosen rows, from those of all tokens `from` (its list is not read) into the
// compact arrays of `to`, for the rows of its list. Rows that see nothing become zero, their lse
// infinite.
struct GatherRowsArguments {
  ListedRows from;
  RowList list;
  Bf16* query;     // [capacity, Hq, D]
  Bf16* grad_out;  // [capacity, Hq, D]; null to leave these three out
  float* lse;      // [Hq, capacity]
  float* delta;    // [Hq, capacity]
  int64_t tokens;
  int64_t heads;
  int64_t head_dim;
};
void gather_rows(const GatherRowsArguments& arguments, void* stream);

// Keys and values, and the sizes of the problem. Strides are multiples of 8 elements, pointers of
// 16 bytes.
struct KeyValues {
  const Bf16* key;    // [T, Hkv, D], tokens `stride` elements apart
  const Bf16* value;  // [T, Hkv, D], likewise
  int64_t stride;
  int64_t tokens;    // T
  int64_t heads;     // Hq
  int64_t kv_heads;  // Hkv
  int64_t head_dim;  // D: 64 or 128
  float scale;       // of the logits
};

// The kernels exist in a version for the architectures from 8.0 on and one for 9.0 alone (wgmma and
// TMA).

// Attention of the listed rows to their keys, on top of what they have attended to: `out` and
// `logsumexp` are read and replaced by those over the union of both sets of keys. With the near
// result in them, and far rows listed, they become the full one.
//
// With the near result of every token in them, which is finite, the difference that the listed keys
// make may be asked for too. It is formed in float32 from sums over these keys alone, and so is
// precise however small (branch_shares.cuh). Only routed rows are then replaced, by out +
// difference.
struct AttendRowsArguments {
  ListedRows rows;
  KeyValues keys;
  Bf16* out;         // [T, Hq, D] contiguous
  float* logsumexp;  // [Hq, T] natural logarithm
  // All of these or, without a difference, none.
  const bool* route;  // [T]
  Bf16* difference;   // [T, Hq, D] contiguous; the listed rows are written
  float* squares;     // [Hq, T] sums of its squares before rounding; likewise
};
void attend_rows_sm80(const AttendRowsArguments& arguments, void* stream);
void attend_rows_sm90(const AttendRowsArguments& arguments, void* stream);

// dK and dV: of the window's rows and the far rows together, so that each is rounded once.
struct KeyGradientArguments {
  ListedRows rows;
  ListedRows more_rows;  // list.count null: none
  KeyValues keys;
  Bf16* grad_key;    // [T, Hkv, D], tokens grad_stride elements apart; every one is written
  Bf16* grad_value;  // [T, Hkv, D], likewise
  int64_t grad_stride;
};
void key_gradient_sm80(const KeyGradientArguments& arguments, void* stream);
void key_gradient_sm90(const KeyGradientArguments& arguments, void* stream);

struct QueryGradientArguments {
  ListedRows rows;
  KeyValues keys;
  Bf16* grad_query;  // [T, Hq, D], tokens grad_stride elements apart; the listed ones are written
  int64_t grad_stride;
  bool add;  // to what is there, instead
};
void query_gradient_sm80(const QueryGradientArguments& arguments, void* stream);
void query_gradient_sm90(const QueryGradientArguments& arguments, void* stream);

}  // namespace swiattn::gpu
