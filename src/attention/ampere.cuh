// The instructions of Ampere (sm_80 and later) that attention uses, as thin functions: asynchronous
// copies into shared memory, barriers in it, loads of matrices in fragment order, products by a
// warp. The PTX manual describes each under the name in its assembly.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "attention/shared_address.cuh"

namespace swiattn::gpu::ampere {

// threadIdx.x, read anew: what follows from it then occupies no registers from one use to the next.
__device__ inline uint32_t reread_thread() {
  uint32_t thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// Copies into shared memory

// Sixteen bytes, or zeros without a look at `from`.
__device__ inline void copy_16(uint32_t to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(present ? 16 : 0)
               : "memory");
}

// Makes a group of this thread's copies since the last group.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `kPending` of this thread's groups, the latest, are unfinished.
template <int kPending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Barriers in shared memory

__device__ inline void init_barrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}

__device__ inline void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

// Waits until the phase of this parity has completed. For whole warps.
__device__ inline void wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
  __syncwarp();
}

// Matrix products by a warp
//
// Fragments: thread t of the warp holds, of
//   the sum [16, 8]     element e:  row t / 4 + 8 (e / 2), column 2 (t % 4) + e % 2
//   the left [16, 16]   word i:     row t / 4 + 8 (i % 2), columns 2 (t % 4) + 8 (i / 2), + 1
//   the right [16, 8]   word i:     rows 2 (t % 4) + 8 i, + 1, column t / 4
// with two bfloat16 to a word, the first in the lower half.

// Four 8 x 8 matrices of bfloat16; thread t names row t % 8 of matrix t / 8. Word i of a thread:
// row t / 4, columns 2 (t % 4), + 1 of matrix i.
__device__ inline void load_matrices(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address));
}

// The same, each matrix transposed: rows 2 (t % 4), + 1, column t / 4.
__device__ inline void load_transposed(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address));
}

// sum [16, 8] += left [16, 16] right [16, 8]
__device__ inline void multiply(float (&sum)[4], const uint32_t (&left)[4], uint32_t right0,
                                uint32_t right1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7},"
      " {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}

}  // namespace swiattn::gpu::ampere
