// The merge of the near and the far branch. Bound by memory: in place it reads 2 and writes 1 + r
// tensors [T, Hq, D], r the share of routed tokens, and the log-sum-exps on top are 1 part in 50.
//
// Log-sum-exps lie [Hq, T], everything else lies token by token. A block therefore takes some
// neighbouring tokens: first all its threads merge their log-sum-exps, head by head, so that a
// head's tokens come in whole sectors; then every warp takes a token at a time and finds the far
// keys' shares in shared memory.
#include "attention/attention_kernels.h"
#include "base/cuda_check.h"
#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kBlockTokens = 16;  // 64 bytes of a head's log-sum-exps
// Vectors of each branch that a thread asks for at once. Batched by hand, since the stores may
// alias the loads and the compiler cannot move these ahead of them.
constexpr int kBatch = 4;
constexpr int kBlocksPerMultiprocessor = 4;  // 64 registers a thread, enough for a batch

__device__ float log_add_exp(float a, float b) { return fmaxf(a, b) + log1pf(expf(-fabsf(a - b))); }

// Fills share[head, token of the block] with exp(lse_far - lse_full), 0 where nothing is far.
__device__ void merge_logsumexps(const MergeBranchesArguments& a, int64_t first, float* share) {
  const int total = static_cast<int>(a.heads) * kBlockTokens;
  for (int i = threadIdx.x; i < total; i += kThreads) {
    const int64_t token = first + i % kBlockTokens;
    if (token >= a.tokens) continue;
    const int64_t at = i / kBlockTokens * a.tokens + token;
    const bool routed = a.route[token];
    const float near = a.near_logsumexp[at];
    const bool has_far = a.position[token] >= a.window;
    const float far = has_far ? a.far_logsumexp[at] : -INFINITY;
    const float full = isinf(far) ? near : log_add_exp(near, far);
    share[i] = isinf(far) ? 0.0F : expf(far - full);
    a.logsumexp[at] = routed ? full : near;
  }
}

// Eight elements: near becomes out, far becomes the difference. Returns the sum of its squares.
__device__ float merge_vector(float p, bool routed, Pack& near, Pack& far) {
  float sum[kVector];
  float difference[kVector];
  unpack(near, sum);
  unpack(far, difference);
  float squares = 0.0F;
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    difference[i] = p * (difference[i] - sum[i]);
    squares += difference[i] * difference[i];
    sum[i] += difference[i];
  }
  far = pack(difference);
  if (routed) near = pack(sum);
  return squares;
}

// One warp. `share` points at the token's entry of head 0; heads are kBlockTokens apart.
template <bool kInPlace>
__device__ void merge_token(const MergeBranchesArguments& a, int64_t token, const float* share) {
  const auto per_head = static_cast<unsigned>(a.head_dim / kVector);
  const unsigned vectors = static_cast<unsigned>(a.heads) * per_head;
  const auto* near = static_cast<const Pack*>(a.near) + token * vectors;
  const auto* far = static_cast<const Pack*>(a.far) + token * vectors;
  auto* out = static_cast<Pack*>(a.out) + token * vectors;
  auto* difference = static_cast<Pack*>(a.difference) + token * vectors;
  const bool routed = a.route[token];

  float squares = 0.0F;
  for (unsigned begin = threadIdx.x % 32; begin < vectors; begin += 32 * kBatch) {
    float p[kBatch];
    Pack near_pack[kBatch];
    Pack far_pack[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const unsigned v = begin + 32 * i;
      p[i] = v < vectors ? share[v / per_head * kBlockTokens] : 0.0F;
      near_pack[i] = v < vectors && (!kInPlace || p[i] != 0.0F) ? near[v] : Pack{};
      far_pack[i] = p[i] != 0.0F ? far[v] : Pack{};
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const unsigned v = begin + 32 * i;
      if (v >= vectors) break;
      if (p[i] != 0.0F) squares += merge_vector(p[i], routed, near_pack[i], far_pack[i]);
      if (!kInPlace || (routed && p[i] != 0.0F)) out[v] = near_pack[i];
      difference[v] = far_pack[i];
    }
  }
  squares = warp_sum(squares);
  if (threadIdx.x % 32 == 0) a.disagreement[token] = a.disagreement_scale * squares;
}

template <bool kInPlace>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    merge(MergeBranchesArguments a) {
  extern __shared__ float share[];  // [heads, kBlockTokens]
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlockTokens;
  merge_logsumexps(a, first, share);
  __syncthreads();
  for (int i = threadIdx.x / 32; i < kBlockTokens && first + i < a.tokens; i += kWarps) {
    merge_token<kInPlace>(a, first + i, share + i);
  }
}

}  // namespace

void merge_branches(const MergeBranchesArguments& a, void* stream) {
  if (a.tokens == 0) return;
  const auto blocks = static_cast<unsigned>((a.tokens + kBlockTokens - 1) / kBlockTokens);
  const size_t shared = a.heads * kBlockTokens * sizeof(float);
  const auto kernel = a.out == a.near ? merge<true> : merge<false>;
  kernel<<<blocks, kThreads, shared, as_stream(stream)>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
