// The backward of listed rows on Hopper: wgmma for the five products, the copy engine for operands.
//
// A block owns 128 keys of one KV head and walks over the list tiles (64 rows) of every query head
// that shares them, so that dK and dV stay in registers to the end. Two warpgroups compute, each
// for 64 of the keys; a third one copies. With the keys along the rows of the products
//
//   S^T  = K Q^T            [64 keys, 64 rows]   K, Q in shared memory
//   dP^T = V dO^T           [64 keys, 64 rows]
//   P^T  = exp(S^T - lse),  dS^T = P^T (dP^T - delta)      in registers
//   dV  += P^T dO           [64 keys, D]         P^T from registers
//   dK  += dS^T Q           [64 keys, D]         dS^T from registers
//   dQ   = dS K             [64 rows, D]         dS of all 128 keys through shared memory; each
//                                                warpgroup forms half of the columns
//
// dQ is formed one step late, so that neither warpgroup waits for the other's dS and the one's
// exponentials overlap the other's products. It is added to float32 in global memory: the order of
// these additions varies, all else is deterministic.
#include <cuda_runtime.h>

#include "attention/listed_rows.h"
#include "attention/tensor_map.h"
#include "attention/warpgroup_tile.cuh"
#include "base/cuda_check.h"

namespace swiattn::gpu {
namespace {

constexpr int kKeys = 128;        // of a block
constexpr int kRows = kListTile;  // of a list tile
constexpr int kComputing = 2;     // warpgroups; each has kKeys / kComputing = 64 keys
constexpr int kThreads = kWarpgroup * (1 + kComputing);

struct RowStatistics {
  float lse[kRows];  // base 2
  float delta[kRows];
  int32_t first_key[kRows];
  int32_t last_key[kRows];
};

template <int kHeadDim>
struct Shared {
  static constexpr int kBoxes = kHeadDim / kBoxColumns;
  static constexpr int kStages = 3;
  static constexpr int kScoreBuffers = 3;

  struct Stage {
    BoxRow query[kBoxes][kRows];
    BoxRow grad_out[kBoxes][kRows];
  };
  static constexpr uint32_t kKeyBytes = 2 * kKeys * kHeadDim * sizeof(__nv_bfloat16);
  static constexpr uint32_t kStageBytes = sizeof(Stage) + sizeof(RowStatistics);

  BoxRow key[kBoxes][kKeys];
  BoxRow value[kBoxes][kKeys];
  Stage stage[kStages];
  BoxRow grad_scores[kScoreBuffers][kKeys];  // dS^T of a step
  RowStatistics rows[kStages];
  uint64_t keys_full;
  uint64_t full[kStages];
  uint64_t empty[kStages];
  uint64_t scores_full[kScoreBuffers];
  int32_t begin, end;  // of the listed rows that see one of the keys
};

struct Maps {
  CUtensorMap query, grad_out, key, value;
};

// The first i < count with values[i] >= bound, by a whole warp: 32 probes at a time.
__device__ int32_t lower_bound(const int32_t* values, int32_t count, int32_t bound) {
  const int lane = threadIdx.x % 32;
  int32_t begin = 0, length = count;
  while (length > 0) {
    const int32_t step = (length + 31) / 32;
    const int32_t probe = begin + (lane + 1) * step - 1;
    const bool below = probe < begin + length && values[probe] < bound;
    const int32_t passed = __popc(__ballot_sync(0xffffffffU, below)) * step;
    // All before begin + passed are below the bound, and so may be the rest of the next step.
    begin += passed;
    length = min(step - 1, length - passed);
  }
  return begin;
}

// The steps of a block: every list tile of one query head, then of the next.
struct Walk {
  int first_tile, tiles, heads;
  int tile = 0, head = 0;
  __device__ int steps() const { return tiles * heads; }
  __device__ int first_row() const { return (first_tile + tile) * kRows; }
  __device__ void advance() {
    if (++tile < tiles) return;
    tile = 0;
    ++head;
  }
};

template <int kHeadDim>
__device__ void copy_operands(Shared<kHeadDim>& shared, const Maps& maps,
                              const ListedBackwardArguments& a, Walk walk, int key_begin,
                              int kv_head) {
  using hopper::copy_box;
  using hopper::copy_bytes;
  hopper::arrive_expecting(&shared.keys_full, Shared<kHeadDim>::kKeyBytes);
  for (int box = 0; box < Shared<kHeadDim>::kBoxes; ++box) {
    const int column = box * kBoxColumns;
    copy_box(shared.key[box], &maps.key, &shared.keys_full, column, kv_head, key_begin);
    copy_box(shared.value[box], &maps.value, &shared.keys_full, column, kv_head, key_begin);
  }
  const int64_t capacity = list_capacity(a.operands.tokens);
  const RowList& list = a.operands.list;
  for (int step = 0; step < walk.steps(); ++step, walk.advance()) {
    const int s = step % Shared<kHeadDim>::kStages;
    const int round = step / Shared<kHeadDim>::kStages;
    const int head = kv_head * walk.heads + walk.head;
    const int row = walk.first_row();
    uint64_t* full = &shared.full[s];
    hopper::wait(&shared.empty[s], (round & 1) ^ 1);
    hopper::arrive_expecting(full, Shared<kHeadDim>::kStageBytes);
    for (int box = 0; box < Shared<kHeadDim>::kBoxes; ++box) {
      const int column = box * kBoxColumns;
      copy_box(shared.stage[s].query[box], &maps.query, full, column, head, row);
      copy_box(shared.stage[s].grad_out[box], &maps.grad_out, full, column, head, row);
    }
    constexpr uint32_t kBytes = kRows * sizeof(float);
    RowStatistics& rows = shared.rows[s];
    copy_bytes(rows.lse, a.gradients.compact_lse + head * capacity + row, kBytes, full);
    copy_bytes(rows.delta, a.gradients.compact_delta + head * capacity + row, kBytes, full);
    copy_bytes(rows.first_key, list.first_key + row, kBytes, full);
    copy_bytes(rows.last_key, list.last_key + row, kBytes, full);
  }
}

__device__ void add_pair(float* to, float x, float y) {
  asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(x), "f"(y)
               : "memory");
}

// One computing warpgroup.
template <int kHeadDim, bool kWithQuery>
class Worker {
 public:
  __device__ Worker(Shared<kHeadDim>& shared, const ListedBackwardArguments& a, int key_begin)
      : shared_(shared),
        a_(a),
        key_begin_(key_begin),
        group_(static_cast<int>(threadIdx.x) / kWarpgroup - 1) {}

  __device__ void run(Walk walk, int kv_head) {
    hopper::wait(&shared_.keys_full, 0);
    const int64_t stride = a_.operands.heads * kHeadDim;
    float* grad_query = nullptr;  // of the step before
    for (int step = 0; step < walk.steps(); ++step, walk.advance()) {
      visit(step, grad_query);
      grad_query = a_.compact_grad_q + walk.first_row() * stride +
                   (kv_head * walk.heads + walk.head) * kHeadDim;
    }
    if (kWithQuery) finish_query(walk.steps() - 1, grad_query);
    add_to(a_.grad_key, grad_key_, a_.operands.scale, kv_head);
    add_to(a_.grad_value, grad_value_, 1.0F, kv_head);
  }

 private:
  static constexpr int kStages = Shared<kHeadDim>::kStages;
  static constexpr int kScoreBuffers = Shared<kHeadDim>::kScoreBuffers;
  static constexpr int kHalf = kHeadDim / kComputing;  // columns of dQ that a warpgroup forms

  // One list tile of one query head; dQ of the step before, if there was one.
  __device__ void visit(int step, float* grad_query_before) {
    const int s = step % kStages;
    hopper::wait(&shared_.full[s], (step / kStages) & 1);
    const RowStatistics& rows = shared_.rows[s];
    const uint32_t query = hopper::shared_address(shared_.stage[s].query);
    const uint32_t grad_out = hopper::shared_address(shared_.stage[s].grad_out);
    const uint32_t own_keys = static_cast<uint32_t>(group_) * 64 * kBoxRow;
    float scores[32], grad_scores[32];
    hopper::begin_products();
    multiply_columns<kHeadDim, kKeys, kRows>(scores, hopper::shared_address(shared_.key) + own_keys,
                                             query);
    hopper::commit_products();
    multiply_columns<kHeadDim, kKeys, kRows>(
        grad_scores, hopper::shared_address(shared_.value) + own_keys, grad_out);
    hopper::commit_products();

    hopper::wait_products<1>();
    probabilities(scores, rows);
    if (!all_visible(rows)) mask(scores, rows);
    uint32_t left[4][4];
    pack_operand(scores, left);

    hopper::wait_products<0>();
    score_gradients(grad_scores, scores, rows);
    uint32_t grad_left[4][4];
    pack_operand(grad_scores, grad_left);
    if (kWithQuery) {
      if (step > 0) wait_for_scores(step - 1);
      share(grad_left, step);
    }

    hopper::begin_products();
    multiply_rows<kHeadDim, kRows>(grad_value_, left, grad_out);
    multiply_rows<kHeadDim, kRows>(grad_key_, grad_left, query);
    hopper::commit_products();
    if (kWithQuery && step > 0) {
      float part[kHalf / 2];
      multiply_keys(part, step - 1);
      hopper::wait_products<1>();
      release(s);
      hopper::wait_products<0>();
      add_query_part(part, grad_query_before);
    } else {
      hopper::wait_products<0>();
      release(s);
    }
  }

  __device__ void finish_query(int step, float* grad_query) const {
    wait_for_scores(step);
    float part[kHalf / 2];
    multiply_keys(part, step);
    hopper::wait_products<0>();
    add_query_part(part, grad_query);
  }

  __device__ void release(int s) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) hopper::arrive(&shared_.empty[s]);
  }

  // [64 rows, D / 2] = dS [64 rows, 128 keys] K [128 keys, this warpgroup's columns]
  __device__ void multiply_keys(float (&sum)[kHalf / 2], int step) const {
    hopper::begin_products();
    const uint32_t left = hopper::shared_address(shared_.grad_scores[step % kScoreBuffers]);
    const uint32_t right = hopper::shared_address(shared_.key) +
                           group_ * (kHalf == kBoxColumns ? kKeys * kBoxRow : kHalf * 2);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      hopper::multiply<hopper::kAcrossSum, hopper::kAcrossSum>(
          sum, hopper::operand(left + k * kSum16), hopper::operand(right + k * kSum16), k > 0);
    }
    hopper::commit_products();
  }

  __device__ bool all_visible(const RowStatistics& rows) const {
    return rows.last_key[0] >= key_begin_ + kKeys - 1 && rows.first_key[kRows - 1] <= key_begin_;
  }

  __device__ void probabilities(float (&scores)[32], const RowStatistics& rows) const {
    const float scale = a_.operands.scale * kLog2E;
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

  __device__ void mask(float (&scores)[32], const RowStatistics& rows) const {
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
                                  const RowStatistics& rows) const {
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

  // dS^T into shared memory: keys along the rows, swizzled like an operand.
  __device__ void share(const uint32_t (&left)[4][4], int step) const {
    const int buffer = step % kScoreBuffers;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int key = 64 * group_ + at_.first_row - lane / 4 + lane % 16;
    const uint32_t row =
        hopper::shared_address(shared_.grad_scores[buffer]) + static_cast<uint32_t>(key) * kBoxRow;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int chunk = (2 * k + lane / 16) ^ (key % 8);
      hopper::store_matrices(row + chunk * 16, left[k][0], left[k][1], left[k][2], left[k][3]);
    }
    hopper::fence_shared_for_async();
    __syncwarp();
    if (lane == 0) hopper::arrive(&shared_.scores_full[buffer]);
  }

  // Both warpgroups have shared their dS of this step. Waited for before the next step's dS is
  // shared, so that three buffers suffice: whoever writes to a buffer knows that the other has
  // formed the dQ that read it.
  __device__ void wait_for_scores(int step) const {
    hopper::wait(&shared_.scores_full[step % kScoreBuffers], (step / kScoreBuffers) & 1);
  }

  __device__ void add_query_part(const float (&part)[kHalf / 2], float* grad_query) const {
    const int64_t stride = a_.operands.heads * kHeadDim;
    const float scale = a_.operands.scale;
    float* const at = grad_query + at_.row(0) * stride + group_ * kHalf + at_.column(0, 0);
#pragma unroll
    for (int j = 0; j < kHalf / 8; ++j) {
      add_pair(at + 8 * j, part[4 * j] * scale, part[4 * j + 1] * scale);
      add_pair(at + 8 * stride + 8 * j, part[4 * j + 2] * scale, part[4 * j + 3] * scale);
    }
  }

  __device__ void add_to(Bf16* grad, const float (&sum)[kHeadDim / 2], float scale,
                         int kv_head) const {
    auto* const head = static_cast<__nv_bfloat16*>(grad) + kv_head * kHeadDim;
    add_rows<kHeadDim>(sum, scale, [&](int row) -> __nv_bfloat16* {
      const int64_t key = key_begin_ + 64 * group_ + row;
      return key < a_.operands.tokens ? head + key * a_.grad_stride : nullptr;
    });
  }

  Shared<kHeadDim>& shared_;
  const ListedBackwardArguments& a_;
  const int key_begin_, group_;
  const Fragment at_;
  float grad_key_[kHeadDim / 2] = {};
  float grad_value_[kHeadDim / 2] = {};
};

template <int kHeadDim>
__device__ Walk start(Shared<kHeadDim>& shared, const ListedOperands& a, int key_begin) {
  constexpr int kComputingWarps = kComputing * kWarpgroup / 32;
  if (threadIdx.x / 32 < 2) {
    const int32_t count = *a.list.count;
    const bool first = threadIdx.x / 32 == 0;
    const int32_t found = first ? lower_bound(a.list.last_key, count, key_begin)
                                : lower_bound(a.list.first_key, count, key_begin + kKeys);
    if (threadIdx.x % 32 == 0) (first ? shared.begin : shared.end) = found;
  } else if (threadIdx.x == 64) {
    hopper::init_barrier(&shared.keys_full, 1);
    for (uint64_t& barrier : shared.full) hopper::init_barrier(&barrier, 1);
    for (uint64_t& barrier : shared.empty) hopper::init_barrier(&barrier, kComputingWarps);
    for (uint64_t& barrier : shared.scores_full) hopper::init_barrier(&barrier, kComputingWarps);
    hopper::fence_barrier_init();
  }
  __syncthreads();
  const int begin = shared.begin / kRows;
  const int end = (shared.end + kRows - 1) / kRows;
  return {begin, shared.begin < shared.end ? end - begin : 0,
          static_cast<int>(a.heads / a.kv_heads)};
}

template <int kHeadDim, bool kWithQuery>
__global__ void __launch_bounds__(kThreads, 1)
    backward(const __grid_constant__ Maps maps, const __grid_constant__ ListedBackwardArguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  auto& shared = aligned_shared<Shared<kHeadDim>>();
  const int kv_heads = static_cast<int>(a.operands.kv_heads);
  const int kv_head = static_cast<int>(blockIdx.x) % kv_heads;
  const int key_begin = static_cast<int>(blockIdx.x) / kv_heads * kKeys;
  const Walk walk = start(shared, a.operands, key_begin);
  if (walk.tiles == 0) return;
  if (threadIdx.x < kWarpgroup) {
    hopper::give_registers<24>();
    if (threadIdx.x == 0) copy_operands(shared, maps, a, walk, key_begin, kv_head);
  } else {
    hopper::take_registers<240>();
    Worker<kHeadDim, kWithQuery>(shared, a, key_begin).run(walk, kv_head);
  }
#endif
}

template <int kHeadDim, bool kWithQuery>
void launch(const ListedBackwardArguments& a, cudaStream_t stream) {
  const ListedOperands& o = a.operands;
  const int64_t capacity = list_capacity(o.tokens);
  const int64_t width = o.heads * kHeadDim;
  const Maps maps{
      head_box_map(o.compact_query, capacity, o.heads, kHeadDim, width, kRows),
      head_box_map(a.gradients.compact_grad_out, capacity, o.heads, kHeadDim, width, kRows),
      head_box_map(o.key, o.tokens, o.kv_heads, kHeadDim, o.key_stride, kKeys),
      head_box_map(o.value, o.tokens, o.kv_heads, kHeadDim, o.key_stride, kKeys)};
  const auto kernel = backward<kHeadDim, kWithQuery>;
  constexpr int kBytes = shared_bytes<Shared<kHeadDim>>();
  SWIATTN_CHECK_CUDA(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const int64_t blocks = (o.tokens + kKeys - 1) / kKeys * o.kv_heads;
  kernel<<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(maps, a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

template <int kHeadDim>
void launch(const ListedBackwardArguments& a, cudaStream_t stream) {
  if (a.compact_grad_q != nullptr) return launch<kHeadDim, true>(a, stream);
  return launch<kHeadDim, false>(a, stream);
}

}  // namespace

void listed_backward_sm90(const ListedBackwardArguments& a, void* stream) {
  if (a.operands.tokens == 0) return;
  with_head_dim(a.operands.head_dim, [&](auto head_dim) {
    launch<decltype(head_dim)::value>(a, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace swiattn::gpu
