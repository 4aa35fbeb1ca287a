// A layer's routing, token by token: the gradient of the router's logits and the sums of
// RoutingStatistics. Some 30 bytes a token, so that what counts is the number of launches: two.
#include "base/cuda_check.h"
#include "ops/gpu_kernels.h"
#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kBlocks = 264;  // at most; two on each of an H100's multiprocessors

using S = RoutingStatistics;
using Sums = double[S::kColumns];

// What a logit s stands for. All from exp(-|s|), without overflow and without cancellation.
struct Logit {
  float p;         // sigmoid(s)
  float variance;  // p (1 - p)
  float softplus;  // log(1 + e^s) = max(s, 0) + log(1 + e^-|s|)
  float entropy;   // -p ln p - (1 - p) ln(1 - p) = log(1 + e^-|s|) + |s| sigmoid(-|s|)
};

__device__ Logit describe(float s) {
  const float e = expf(-fabsf(s));
  const float rarer = e / (1.0F + e);  // the smaller of p and 1 - p
  const float log_term = log1pf(e);
  return {s > 0.0F ? 1.0F / (1.0F + e) : rarer, rarer / (1.0F + e), fmaxf(s, 0.0F) + log_term,
          log_term + fabsf(s) * rarer};
}

__device__ float gamma_of(const RoutingArguments& a, int64_t token, float disagreement) {
  const RoutingGamma& g = a.gamma;
  if (g.constant) return g.base;
  return g.base / (a.nll[token] * g.nll_weight + disagreement * g.disagreement_weight + g.eps);
}

__device__ void add_branch(const RoutingArguments& a, int64_t token, Sums& sum) {
  const bool full =
      a.taken == BranchTaken::kRouted ? a.route[token] : a.taken == BranchTaken::kFull;
  const int64_t visible = a.position[token] + 1;
  const bool far = visible > a.window;
  sum[S::kTokens] += 1.0;
  sum[S::kFull] += full ? 1.0 : 0.0;
  sum[S::kFarTokens] += far ? 1.0 : 0.0;
  sum[S::kFarFull] += far && full ? 1.0 : 0.0;
  sum[S::kVisiblePairs] += static_cast<double>(far && !full ? a.window : visible);
}

__device__ void add_token(const RoutingArguments& a, int64_t token, Sums& sum) {
  add_branch(a, token, sum);
  const bool counted = a.counted[token];
  const float disagreement = a.disagreement != nullptr ? a.disagreement[token] : 0.0F;
  sum[S::kCounted] += counted ? 1.0 : 0.0;
  const float weight = a.weight != nullptr ? a.weight[token] : 1.0F;
  sum[S::kDisagreement] += weight * disagreement;
  if (a.logits == nullptr) return;

  const double s = a.logits[token];
  const Logit logit = describe(a.logits[token]);
  sum[S::kLogit] += s;
  sum[S::kLogitSquare] += s * s;
  sum[S::kEntropy] += logit.entropy;
  float grad = a.gate_gradient != nullptr ? a.gate_gradient[token] * logit.variance : 0.0F;
  if (a.gamma.base != 0.0F && counted) {
    const float gamma = gamma_of(a, token, disagreement);
    sum[S::kGamma] += weight * gamma;
    sum[S::kRegularizer] += weight * gamma * logit.softplus;
    grad += gamma * logit.p / static_cast<float>(a.layers);
  }
  if (a.grad_logits != nullptr) a.grad_logits[token] = weight * grad;
}

__global__ void __launch_bounds__(kThreads) add_tokens(RoutingArguments a) {
  Sums sum = {};
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t token = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; token < a.tokens;
       token += stride) {
    add_token(a, token, sum);
  }
  __shared__ Sums of_warp[kWarps];
#pragma unroll
  for (int column = 0; column < S::kColumns; ++column) {
    const double total = warp_sum(sum[column]);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32][column] = total;
  }
  __syncthreads();
  if (threadIdx.x >= S::kColumns) return;
  double total = 0.0;
  for (int warp = 0; warp < kWarps; ++warp) total += of_warp[warp][threadIdx.x];
  a.partial[blockIdx.x * S::kColumns + threadIdx.x] = total;
}

// A warp a column.
__global__ void add_blocks(const double* partial, int blocks, double* row) {
  const int column = threadIdx.x / 32;
  double sum = 0.0;
  for (int block = threadIdx.x % 32; block < blocks; block += 32) {
    sum += partial[block * S::kColumns + column];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) row[column] = sum;
}

}  // namespace

int routing_blocks() { return kBlocks; }

void routing(const RoutingArguments& a, void* stream) {
  const int64_t wanted = (a.tokens + kThreads - 1) / kThreads;
  const int blocks = static_cast<int>(wanted < kBlocks ? wanted : kBlocks);
  if (blocks > 0) add_tokens<<<blocks, kThreads, 0, as_stream(stream)>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
  add_blocks<<<1, 32 * S::kColumns, 0, as_stream(stream)>>>(a.partial, blocks, a.row);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
