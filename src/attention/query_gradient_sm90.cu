// dQ of listed rows on Hopper without atomics: a block owns 128 listed rows of one query head and
// walks over their keys, 128 at a time, so that dQ stays in registers to the end. Two warpgroups
// compute, each for 64 of the rows; a third one copies.
//
//   S  = Q K^T              [64 rows, 128 keys]
//   dP = dO V^T             [64 rows, 128 keys]
//   dS = P (dP - delta), P = exp(S - lse)
//   dQ += dS K              [64 rows, D]          dS from registers
#include <cuda_runtime.h>

#include "attention/head_width.h"
#include "attention/listed_kernels.h"
#include "attention/listed_row_walk.cuh"
#include "attention/softmax_rows.cuh"
#include "attention/tensor_map.h"
#include "attention/warpgroup_tile.cuh"
#include "base/cuda_check.h"

namespace swiattn::gpu {
namespace {

template <int kHeadDim>
struct Shared {
  static constexpr int kBoxes = kHeadDim / kBoxColumns;
  BoxRow query[kBoxes][kWalkRows];
  BoxRow grad_out[kBoxes][kWalkRows];
  KeyStages<kHeadDim> keys;
};

struct Maps {
  CUtensorMap query, grad_out, key, value;
};

template <int kHeadDim>
class Worker {
 public:
  __device__ Worker(Shared<kHeadDim>& shared, const QueryGradientArguments& a, const RowWalk& walk)
      : shared_(shared), a_(a), walk_(walk), rows_(a.rows.list, walk) {
    const int64_t at = walk.head * list_capacity(a.keys.tokens);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      lse_[half] = a.rows.lse[at + rows_.index[half]];
      delta_[half] = a.rows.delta[at + rows_.index[half]];
    }
  }

  __device__ void run() {
    shared_.keys.wait_for_rows();
    Turns turns(computing_group(), walk_.end_step);
    for (int step = 0; step < walk_.end_step; ++step) visit(step, turns);
    auto* const head = static_cast<__nv_bfloat16*>(a_.grad_query) + walk_.head * kHeadDim;
    put_rows<kHeadDim>(grad_query_, a_.keys.scale, a_.add, [&](int row) -> __nv_bfloat16* {
      const int64_t token = rows_.token[row == Fragment().row(0) ? 0 : 1];
      return token >= 0 ? head + token * a_.grad_stride : nullptr;
    });
  }

 private:
  // At the ends of a window a warpgroup's rows see half of a step's keys or none, as the rows of
  // the other one see the rest.
  __device__ void visit(int step, Turns& turns) {
    constexpr int kHalf = kWalkKeys / 2;
    const int key = walk_.first_key(step);
    const bool first = rows_.some_see(key, kHalf), second = rows_.some_see(key + kHalf, kHalf);
    if (first && second) {
      visit_keys<kWalkKeys>(step, 0, turns);
    } else if (first || second) {
      visit_keys<kHalf>(step, first ? 0 : kHalf, turns);
    } else {
      leave_out(step, turns);
    }
  }

  // Released no sooner than they are there: an earlier release would count for the step before.
  __device__ void leave_out(int step, Turns& turns) {
    turns.skip();
    shared_.keys.key().wait(step);
    shared_.keys.key().release(step);
    shared_.keys.value().wait(step);
    shared_.keys.value().release(step);
  }

  // kKeys of a step, those from the one of this index on.
  template <int kKeys>
  __device__ void visit_keys(int step, int index, Turns& turns) {
    const uint32_t own_rows = static_cast<uint32_t>(computing_group()) * 64 * kBoxRow;
    const uint32_t own_keys = static_cast<uint32_t>(index) * kBoxRow;
    float scores[kKeys / 2], grad_scores[kKeys / 2];
    const uint32_t key = shared_.keys.key().wait(step) + own_keys;
    turns.take();
    hopper::begin_products();
    multiply_nt<kHeadDim, kWalkRows, kWalkKeys>(scores, shared_address(shared_.query) + own_rows,
                                                key);
    hopper::commit_products();
    const uint32_t value = shared_.keys.value().wait(step) + own_keys;
    hopper::begin_products();
    multiply_nt<kHeadDim, kWalkRows, kWalkKeys>(grad_scores,
                                                shared_address(shared_.grad_out) + own_rows, value);
    hopper::commit_products();
    turns.pass();
    hopper::wait_products<1>();
    const float scale = a_.keys.scale * kLog2E;
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) {
      scores[i] = exp2_approximate(scores[i] * scale - lse_[i % 4 / 2]);
    }
    rows_.sight.mask(scores, walk_.first_key(step) + index, 0.0F);
    hopper::wait_products<0>();
    shared_.keys.value().release(step);
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) {
      grad_scores[i] = scores[i] * (grad_scores[i] - delta_[i % 4 / 2]);
    }
    uint32_t left[kKeys / 16][4];
    pack_operand(grad_scores, left);
    hopper::begin_products();
    multiply_nn<kHeadDim, kWalkKeys>(grad_query_, left, key);
    hopper::commit_products();
    hopper::wait_products<0>();
    shared_.keys.key().release(step);
  }

  Shared<kHeadDim>& shared_;
  const QueryGradientArguments& a_;
  const RowWalk& walk_;
  const OwnRows rows_;
  float lse_[2], delta_[2];
  float grad_query_[kHeadDim / 2] = {};
};

template <int kHeadDim>
__global__ void __launch_bounds__(kWalkThreads, 1)
    query_gradient(const __grid_constant__ Maps maps,
                   const __grid_constant__ QueryGradientArguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  auto& shared = aligned_shared<Shared<kHeadDim>>();
  const RowWalk walk(a.rows.list, a.keys);
  if (walk.end_step == 0) return;
  shared.keys.init();
  if (threadIdx.x < kWarpgroup) {
    hopper::give_registers<24>();
    if (threadIdx.x != 0) return;
    shared.keys.expect_rows(sizeof(shared.query) + sizeof(shared.grad_out));
    for (int box = 0; box < Shared<kHeadDim>::kBoxes; ++box) {
      shared.keys.copy_rows(shared.query[box], maps.query, box, walk);
      shared.keys.copy_rows(shared.grad_out[box], maps.grad_out, box, walk);
    }
    shared.keys.copy(maps.key, maps.value, walk);
  } else {
    hopper::take_registers<240>();
    Worker<kHeadDim>(shared, a, walk).run();
  }
#endif
}

template <int kHeadDim>
void launch(const QueryGradientArguments& a, cudaStream_t stream) {
  const ListedRows& r = a.rows;
  const KeyValues& k = a.keys;
  const Maps maps{
      head_box_map(r.query, r.rows, k.heads, kHeadDim, r.query_stride, kWalkRows),
      head_box_map(r.grad_out, r.rows, k.heads, kHeadDim, k.heads * kHeadDim, kWalkRows),
      head_box_map(k.key, k.tokens, k.kv_heads, kHeadDim, k.stride, kWalkKeys),
      head_box_map(k.value, k.tokens, k.kv_heads, kHeadDim, k.stride, kWalkKeys)};
  constexpr int kBytes = shared_bytes<Shared<kHeadDim>>();
  SWIATTN_CHECK_CUDA(cudaFuncSetAttribute(query_gradient<kHeadDim>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  query_gradient<kHeadDim><<<walk_items(k), kWalkThreads, kBytes, stream>>>(maps, a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace

void query_gradient_sm90(const QueryGradientArguments& a, void* stream) {
  if (a.keys.tokens == 0) return;
  with_head_dim(a.keys.head_dim,
                [&](auto head_dim) { launch<decltype(head_dim)::value>(a, as_stream(stream)); });
}

}  // namespace swiattn::gpu
