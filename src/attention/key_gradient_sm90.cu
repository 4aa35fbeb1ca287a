// dK and dV from listed rows on Hopper: wgmma for the four products, the copy engine for operands.
//
// A block owns 128 keys of one KV head and walks over the list tiles (64 rows) of every query head
// that shares them, of one list and then of the other, so that dK and dV stay in registers to the
// end. Two warpgroups compute, each for 64 of the keys; a third one copies. With the keys along the
// rows of the products
//
//   S^T  = K Q^T            [64 keys, 64 rows]   K, Q in shared memory
//   dP^T = V dO^T           [64 keys, 64 rows]
//   P^T  = exp(S^T - lse),  dS^T = P^T (dP^T - delta)      in registers
//   dV  += P^T dO           [64 keys, D]         P^T from registers
//   dK  += dS^T Q           [64 keys, D]         dS^T from registers
//
// dQ is query_gradient_sm90.cu's, which forms S and dP again: two products more than a kernel that
// adds to dQ with atomics, and as fast, since nothing is exchanged between the warpgroups.
#include <cuda_runtime.h>

#include "attention/head_width.h"
#include "attention/key_gradient_rows.cuh"
#include "attention/listed_kernels.h"
#include "attention/softmax_rows.cuh"
#include "attention/tensor_map.h"
#include "attention/warpgroup_tile.cuh"
#include "base/cuda_check.h"

namespace swiattn::gpu {
namespace {

constexpr int kKeys = 128;        // of a block
constexpr int kRows = kListTile;  // of a list tile
constexpr int kComputing = 2;     // warpgroups; each has kKeys / kComputing = 64 keys
constexpr int kThreads = kWarpgroup * (1 + kComputing);

template <int kHeadDim>
struct Shared {
  static constexpr int kBoxes = kHeadDim / kBoxColumns;
  static constexpr int kStages = 4;

  struct Stage {
    BoxRow query[kBoxes][kRows];
    BoxRow grad_out[kBoxes][kRows];
  };
  static constexpr uint32_t kKeyBytes = 2 * kKeys * kHeadDim * sizeof(__nv_bfloat16);
  static constexpr uint32_t kStageBytes = sizeof(Stage) + sizeof(RowTile);

  BoxRow key[kBoxes][kKeys];
  BoxRow value[kBoxes][kKeys];
  Stage stage[kStages];
  RowTile rows[kStages];
  uint64_t keys_full;
  uint64_t full[kStages];
  uint64_t empty[kStages];
  int32_t bounds[4];  // begin and end, of either list, of the rows that see one of the keys
};

struct RowMaps {
  CUtensorMap query, grad_out;
};
struct Maps {
  RowMaps rows[2];
  CUtensorMap key, value;
};

// The steps of a block: for either list every tile of one query head, then of the next.
struct Walk {
  int first_tile[2], tiles[2], heads;
  int list = 0, head = 0, tile = 0;

  __device__ Walk(const int32_t (&bounds)[4], int heads_of_group) : heads(heads_of_group) {
    for (int i = 0; i < 2; ++i) {
      const int32_t begin = bounds[2 * i], end = bounds[2 * i + 1];
      first_tile[i] = begin / kRows;
      tiles[i] = begin < end ? (end + kRows - 1) / kRows - first_tile[i] : 0;
    }
    if (tiles[0] == 0) list = 1;
  }
  __device__ int steps() const { return (tiles[0] + tiles[1]) * heads; }
  __device__ int first_row() const { return (of_list(first_tile) + tile) * kRows; }
  __device__ void advance() {
    if (++tile < of_list(tiles)) return;
    tile = 0;
    if (++head < heads) return;
    head = 0;
    list = 1;
  }

 private:
  __device__ int of_list(const int (&x)[2]) const { return list == 0 ? x[0] : x[1]; }
};

template <int kHeadDim>
__device__ void copy_operands(Shared<kHeadDim>& shared, const Maps& maps,
                              const KeyGradientArguments& a, Walk walk, int key_begin,
                              int kv_head) {
  using hopper::copy_box;
  using hopper::copy_bytes;
  hopper::arrive_expecting(&shared.keys_full, Shared<kHeadDim>::kKeyBytes);
  for (int box = 0; box < Shared<kHeadDim>::kBoxes; ++box) {
    const int column = box * kBoxColumns;
    copy_box(shared.key[box], &maps.key, &shared.keys_full, column, kv_head, key_begin);
    copy_box(shared.value[box], &maps.value, &shared.keys_full, column, kv_head, key_begin);
  }
  const int64_t capacity = list_capacity(a.keys.tokens);
  for (int step = 0; step < walk.steps(); ++step, walk.advance()) {
    const int s = step % Shared<kHeadDim>::kStages;
    const int round = step / Shared<kHeadDim>::kStages;
    const int head = kv_head * walk.heads + walk.head;
    const int row = walk.first_row();
    const ListedRows& rows = walk.list == 0 ? a.rows : a.more_rows;
    const RowMaps& from = maps.rows[walk.list];
    uint64_t* full = &shared.full[s];
    hopper::wait(&shared.empty[s], (round & 1) ^ 1);
    hopper::arrive_expecting(full, Shared<kHeadDim>::kStageBytes);
    for (int box = 0; box < Shared<kHeadDim>::kBoxes; ++box) {
      const int column = box * kBoxColumns;
      copy_box(shared.stage[s].query[box], &from.query, full, column, head, row);
      copy_box(shared.stage[s].grad_out[box], &from.grad_out, full, column, head, row);
    }
    constexpr uint32_t kBytes = kRows * sizeof(float);
    RowTile& tile = shared.rows[s];
    copy_bytes(tile.lse, rows.lse + head * capacity + row, kBytes, full);
    copy_bytes(tile.delta, rows.delta + head * capacity + row, kBytes, full);
    copy_bytes(tile.first_key, rows.list.first_key + row, kBytes, full);
    copy_bytes(tile.last_key, rows.list.last_key + row, kBytes, full);
  }
}

// One computing warpgroup.
template <int kHeadDim>
class Worker {
 public:
  __device__ Worker(Shared<kHeadDim>& shared, const KeyGradientArguments& a, int key_begin)
      : shared_(shared),
        a_(a),
        key_begin_(key_begin),
        group_(static_cast<int>(threadIdx.x) / kWarpgroup - 1) {}

  __device__ void run(int steps, int kv_head) {
    hopper::wait(&shared_.keys_full, 0);
    Turns turns(group_, steps);
    for (int step = 0; step < steps; ++step) visit(step, turns);
    write(a_.grad_key, grad_key_, a_.keys.scale, kv_head);
    write(a_.grad_value, grad_value_, 1.0F, kv_head);
  }

 private:
  static constexpr int kStages = Shared<kHeadDim>::kStages;

  // One list tile of one query head.
  __device__ void visit(int step, Turns& turns) {
    const int s = step % kStages;
    hopper::wait(&shared_.full[s], (step / kStages) & 1);
    const RowTile& rows = shared_.rows[s];
    if (none_visible(rows)) {
      turns.skip();
      hopper::arrive(&shared_.empty[s]);
      return;
    }
    const uint32_t query = shared_address(shared_.stage[s].query);
    const uint32_t grad_out = shared_address(shared_.stage[s].grad_out);
    const uint32_t own_keys = static_cast<uint32_t>(group_) * 64 * kBoxRow;
    float scores[32], grad_scores[32];
    turns.take();
    hopper::begin_products();
    multiply_nt<kHeadDim, kKeys, kRows>(scores, shared_address(shared_.key) + own_keys, query);
    hopper::commit_products();
    multiply_nt<kHeadDim, kKeys, kRows>(grad_scores, shared_address(shared_.value) + own_keys,
                                        grad_out);
    hopper::commit_products();
    turns.pass();

    hopper::wait_products<1>();
    probabilities(scores, rows);
    if (!all_visible(rows)) mask(scores, rows);
    uint32_t left[4][4];
    pack_operand(scores, left);
    hopper::begin_products();
    multiply_nn<kHeadDim, kRows>(grad_value_, left, grad_out);
    hopper::commit_products();

    hopper::wait_products<1>();
    score_gradients(grad_scores, scores, rows);
    uint32_t grad_left[4][4];
    pack_operand(grad_scores, grad_left);
    hopper::begin_products();
    multiply_nn<kHeadDim, kRows>(grad_key_, grad_left, query);
    hopper::commit_products();
    hopper::wait_products<0>();
    hopper::arrive(&shared_.empty[s]);  // each for what it has read itself
  }

  // Whether no row of the tile sees a key of this warpgroup, as happens at either end of a window.
  // Rows past the end of a list have no last key.
  __device__ bool none_visible(const RowTile& rows) const {
    const int first = key_begin_ + 64 * group_;
    const int last_seen = rows.last_key[kRows - 1];
    return rows.first_key[0] > first + 63 || (last_seen >= 0 && last_seen < first);
  }

  __device__ bool all_visible(const RowTile& rows) const {
    return rows.last_key[0] >= key_begin_ + kKeys - 1 && rows.first_key[kRows - 1] <= key_begin_;
  }

  __device__ void probabilities(float (&scores)[32], const RowTile& rows) const {
    const float scale = a_.keys.scale * kLog2E;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 lse = *reinterpret_cast<const float2*>(&rows.lse[at_.column(j, 0)]);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        scores[4 * j + e] =
            exp2_approximate(scores[4 * j + e] * scale - (e % 2 == 0 ? lse.x : lse.y));
      }
    }
  }

  __device__ void mask(float (&scores)[32], const RowTile& rows) const {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = at_.column(j, e);
        const int key = key_begin_ + 64 * group_ + at_.row(e);
        if (key < rows.first_key[row] || key > rows.last_key[row]) scores[4 * j + e] = 0.0F;
      }
    }
  }

  __device__ void score_gradients(float (&grad)[32], const float (&scores)[32],
                                  const RowTile& rows) const {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 delta = *reinterpret_cast<const float2*>(&rows.delta[at_.column(j, 0)]);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float minus = e % 2 == 0 ? delta.x : delta.y;
        grad[4 * j + e] = scores[4 * j + e] * (grad[4 * j + e] - minus);
      }
    }
  }

  __device__ void write(Bf16* grad, const float (&sum)[kHeadDim / 2], float scale,
                        int kv_head) const {
    auto* const head = static_cast<__nv_bfloat16*>(grad) + kv_head * kHeadDim;
    put_rows<kHeadDim>(sum, scale, false, [&](int row) -> __nv_bfloat16* {
      const int64_t key = key_begin_ + 64 * group_ + row;
      return key < a_.keys.tokens ? head + key * a_.grad_stride : nullptr;
    });
  }

  Shared<kHeadDim>& shared_;
  const KeyGradientArguments& a_;
  const int key_begin_, group_;
  const Fragment at_;
  float grad_key_[kHeadDim / 2] = {};
  float grad_value_[kHeadDim / 2] = {};
};

// Which rows see one of the block's keys: two warps a list search for them.
template <int kHeadDim>
__device__ void start(Shared<kHeadDim>& shared, const KeyGradientArguments& a, int key_begin) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (warp < 4) {
    const int32_t found = find_bound(a, warp, key_begin, kKeys);
    if (threadIdx.x % 32 == 0) shared.bounds[warp] = found;
  } else if (threadIdx.x == kWarpgroup) {
    hopper::init_barrier(&shared.keys_full, 1);
    for (uint64_t& barrier : shared.full) hopper::init_barrier(&barrier, 1);
    for (uint64_t& barrier : shared.empty) {
      hopper::init_barrier(&barrier, kComputing * kWarpgroup);
    }
    hopper::fence_barrier_init();
  }
  __syncthreads();
}

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    key_gradient(const __grid_constant__ Maps maps,
                 const __grid_constant__ KeyGradientArguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  auto& shared = aligned_shared<Shared<kHeadDim>>();
  const int kv_heads = static_cast<int>(a.keys.kv_heads);
  const int kv_head = static_cast<int>(blockIdx.x) % kv_heads;
  const int key_begin = static_cast<int>(blockIdx.x) / kv_heads * kKeys;
  start(shared, a, key_begin);
  const Walk walk(shared.bounds, static_cast<int>(a.keys.heads) / kv_heads);
  if (threadIdx.x < kWarpgroup) {
    hopper::give_registers<24>();
    if (threadIdx.x == 0) copy_operands(shared, maps, a, walk, key_begin, kv_head);
  } else {
    hopper::take_registers<240>();
    Worker<kHeadDim>(shared, a, key_begin).run(walk.steps(), kv_head);
  }
#endif
}

RowMaps row_maps(const ListedRows& rows, const KeyValues& k) {
  return {head_box_map(rows.query, rows.rows, k.heads, k.head_dim, rows.query_stride, kRows),
          head_box_map(rows.grad_out, rows.rows, k.heads, k.head_dim, k.heads * k.head_dim, kRows)};
}

template <int kHeadDim>
void launch(const KeyGradientArguments& a, cudaStream_t stream) {
  const KeyValues& k = a.keys;
  const RowMaps first = row_maps(a.rows, k);
  const bool more = a.more_rows.list.count != nullptr;
  const Maps maps{{first, more ? row_maps(a.more_rows, k) : first},
                  head_box_map(k.key, k.tokens, k.kv_heads, kHeadDim, k.stride, kKeys),
                  head_box_map(k.value, k.tokens, k.kv_heads, kHeadDim, k.stride, kKeys)};
  constexpr int kBytes = shared_bytes<Shared<kHeadDim>>();
  SWIATTN_CHECK_CUDA(cudaFuncSetAttribute(key_gradient<kHeadDim>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const int64_t blocks = (k.tokens + kKeys - 1) / kKeys * k.kv_heads;
  key_gradient<kHeadDim><<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(maps, a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace

void key_gradient_sm90(const KeyGradientArguments& a, void* stream) {
  if (a.keys.tokens == 0) return;
  with_head_dim(a.keys.head_dim,
                [&](auto head_dim) { launch<decltype(head_dim)::value>(a, as_stream(stream)); });
}

}  // namespace swiattn::gpu
