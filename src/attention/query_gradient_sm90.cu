// dQ of listed rows on Hopper without atomics: a block owns 128 listed rows of one query head and
// walks over their keys, 128 at a time, so that dQ stays in registers to the end. Two warpgroups
// compute, each for 64 of the rows; a third one copies.
//
//   S  = Q K^T              [64 rows, 128 keys]
//   dP = dO V^T             [64 rows, 128 keys]
//   dS = P (dP - delta), P = exp(S - lse)
//   dQ += dS K              [64 rows, D]          dS from registers
#include <cuda_runtime.h>

#include "attention/listed_row_walk.cuh"
#include "attention/listed_rows.h"
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
  __device__ Worker(Shared<kHeadDim>& shared, const ListedQueryGradientArguments& a,
                    const RowWalk& walk)
      : shared_(shared), a_(a), walk_(walk), rows_(a.operands, walk) {
    const int64_t at = walk.head * list_capacity(a.operands.tokens);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      lse_[half] = a.gradients.compact_lse[at + rows_.index[half]];
      delta_[half] = a.gradients.compact_delta[at + rows_.index[half]];
    }
  }

  __device__ void run() {
    shared_.keys.wait_for_rows();
    for (int step = 0; step < walk_.steps; ++step) {
      shared_.keys.wait(step);
      visit(step);
      shared_.keys.release(step);
    }
    auto* const head = static_cast<__nv_bfloat16*>(a_.grad_query) + walk_.head * kHeadDim;
    add_rows<kHeadDim>(grad_query_, a_.operands.scale, [&](int row) -> __nv_bfloat16* {
      const int64_t token = rows_.token[row == Fragment().row(0) ? 0 : 1];
      return token >= 0 ? head + token * a_.grad_stride : nullptr;
    });
  }

 private:
  __device__ void visit(int step) {
    const uint32_t own_rows = static_cast<uint32_t>(walk_.group()) * 64 * kBoxRow;
    float scores[kWalkKeys / 2], grad_scores[kWalkKeys / 2];
    hopper::begin_products();
    multiply_columns<kHeadDim, kWalkRows, kWalkKeys>(
        scores, hopper::shared_address(shared_.query) + own_rows, shared_.keys.key(step));
    hopper::commit_products();
    multiply_columns<kHeadDim, kWalkRows, kWalkKeys>(
        grad_scores, hopper::shared_address(shared_.grad_out) + own_rows, shared_.keys.value(step));
    hopper::commit_products();
    hopper::wait_products<1>();
    const float scale = a_.operands.scale * kLog2E;
#pragma unroll
    for (int i = 0; i < kWalkKeys / 2; ++i) {
      scores[i] = exp2_approximate(scores[i] * scale - lse_[i % 4 / 2]);
    }
    rows_.mask(scores, walk_.first_key(step), 0.0F);
    hopper::wait_products<0>();
#pragma unroll
    for (int i = 0; i < kWalkKeys / 2; ++i) {
      grad_scores[i] = scores[i] * (grad_scores[i] - delta_[i % 4 / 2]);
    }
    uint32_t left[kWalkKeys / 16][4];
    pack_operand(grad_scores, left);
    hopper::begin_products();
    multiply_rows<kHeadDim, kWalkKeys>(grad_query_, left, shared_.keys.key(step));
    hopper::commit_products();
    hopper::wait_products<0>();
  }

  Shared<kHeadDim>& shared_;
  const ListedQueryGradientArguments& a_;
  const RowWalk& walk_;
  const OwnRows rows_;
  float lse_[2], delta_[2];
  float grad_query_[kHeadDim / 2] = {};
};

template <int kHeadDim>
__global__ void __launch_bounds__(kWalkThreads, 1)
    query_gradient(const __grid_constant__ Maps maps,
                   const __grid_constant__ ListedQueryGradientArguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  auto& shared = aligned_shared<Shared<kHeadDim>>();
  const RowWalk walk(a.operands);
  if (walk.steps <= 0) return;
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
void launch(const ListedQueryGradientArguments& a, cudaStream_t stream) {
  const ListedOperands& o = a.operands;
  const int64_t capacity = list_capacity(o.tokens);
  const int64_t width = o.heads * kHeadDim;
  const Maps maps{
      head_box_map(o.compact_query, capacity, o.heads, kHeadDim, width, kWalkRows),
      head_box_map(a.gradients.compact_grad_out, capacity, o.heads, kHeadDim, width, kWalkRows),
      head_box_map(o.key, o.tokens, o.kv_heads, kHeadDim, o.key_stride, kWalkKeys),
      head_box_map(o.value, o.tokens, o.kv_heads, kHeadDim, o.key_stride, kWalkKeys)};
  constexpr int kBytes = shared_bytes<Shared<kHeadDim>>();
  SWIATTN_CHECK_CUDA(cudaFuncSetAttribute(query_gradient<kHeadDim>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  query_gradient<kHeadDim><<<walk_blocks(o), kWalkThreads, kBytes, stream>>>(maps, a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace

void listed_query_gradient_sm90(const ListedQueryGradientArguments& a, void* stream) {
  if (a.operands.tokens == 0) return;
  with_head_dim(a.operands.head_dim, [&](auto head_dim) {
    launch<decltype(head_dim)::value>(a, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace swiattn::gpu
