// Draws for the tokens of a layer, one thread a token, by the functions that the CPU has too.
#include "base/cuda_check.h"
#include "ops/gpu_kernels.h"
#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(int64_t tokens) {
  return static_cast<unsigned>((tokens + kThreads - 1) / kThreads);
}

__device__ int64_t own_token() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

__device__ TokenCounters counters_of(const DrawArguments& a, int64_t token) {
  return {a.seed, static_cast<uint64_t>(a.layer),
          static_cast<uint64_t>(a.samples[token / a.sequence_length]),
          static_cast<uint64_t>(token % a.sequence_length)};
}

__global__ void __launch_bounds__(kThreads) draw(DrawArguments a, double probability, bool* drawn) {
  const int64_t token = own_token();
  if (token < a.tokens) drawn[token] = gate_draw(counters_of(a, token)) < probability;
}

__global__ void __launch_bounds__(kThreads) sample(SampleRowsArguments a) {
  const int64_t token = own_token();
  if (token >= a.draw.tokens) return;
  const double variance =
      a.logits != nullptr ? gate_variance(a.logits[token]) : a.ratio * (1.0 - a.ratio);
  const SampledToken sampled = sample_token(a.sampling, counters_of(a.draw, token), variance,
                                            a.route[token], a.position[token] >= a.window);
  a.both[token] = sampled.both;
  a.weight[token] = sampled.weight;
}

}  // namespace

void draw_rows(const DrawArguments& a, double probability, bool* drawn, void* stream) {
  if (a.tokens == 0) return;
  draw<<<blocks_for(a.tokens), kThreads, 0, as_stream(stream)>>>(a, probability, drawn);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

void sample_rows(const SampleRowsArguments& a, void* stream) {
  if (a.draw.tokens == 0) return;
  sample<<<blocks_for(a.draw.tokens), kThreads, 0, as_stream(stream)>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
