// The instructions of Hopper (sm_90a) that attention uses, as thin functions: barriers in shared
// memory, the tensor copy engine (TMA), matrix products by warpgroups (wgmma). The PTX manual
// describes each under the name in its assembly.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "attention/ampere.cuh"
#include "attention/shared_address.cuh"

namespace swiattn::gpu::hopper {

// Barriers in shared memory

using ampere::arrive;
using ampere::init_barrier;

// Makes initialised barriers visible to the copy engine.
__device__ inline void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void arrive_expecting(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

// Waits until the phase of this parity has completed; the thread may sleep meanwhile.
__device__ inline void wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// A barrier among `threads` threads, warps whole.
__device__ inline void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Counts this thread in without waiting.
__device__ inline void arrive_named(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Copies into shared memory, completing on a barrier

__device__ inline void copy_box(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y,
                                int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}

// Copies back from shared memory; parts outside of the matrix are left out.
__device__ inline void store_box(const CUtensorMap* map, const void* from, int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
      "r"(shared_address(from)), "r"(x), "r"(y), "r"(z)
      : "memory");
}
__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until what was copied back may be overwritten.
__device__ inline void wait_stores() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

__device__ inline void copy_bytes(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

// Makes ordinary stores to shared memory visible to wgmma and the copy engine.
__device__ inline void fence_shared_for_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Four 8 x 8 matrices of bfloat16 in fragment order; lane l names row l % 8 of matrix l / 8.
__device__ inline void store_matrices(uint32_t address, uint32_t a, uint32_t b, uint32_t c,
                                      uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

// Matrix products by a warpgroup

__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most `kPending` committed groups are unfinished.
template <int kPending>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Where an operand lies: rows of 128 bytes, swizzled in atoms of 8 rows. Along the contiguous
// dimension an operand is one atom wide, or several that lie `leading` bytes apart.
__device__ inline uint64_t operand(uint32_t address, uint32_t leading = 16) {
  constexpr uint64_t kSwizzle128 = 1ULL << 62;
  constexpr uint64_t kEightRows = (1024ULL >> 4) << 32;
  return kSwizzle128 | kEightRows | (static_cast<uint64_t>(leading >> 4) << 16) |
         ((address & 0x3FFFF) >> 4);
}

// How an operand in shared memory lies: contiguous along the summed dimension, or across it.
enum Major { kAlongSum = 0, kAcrossSum = 1 };

#define SWIATTN_F4(d, i) "+f"((d)[i]), "+f"((d)[(i) + 1]), "+f"((d)[(i) + 2]), "+f"((d)[(i) + 3])
#define SWIATTN_F16(d, i) \
  SWIATTN_F4(d, i), SWIATTN_F4(d, (i) + 4), SWIATTN_F4(d, (i) + 8), SWIATTN_F4(d, (i) + 12)
#define SWIATTN_R16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define SWIATTN_R32 SWIATTN_R16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define SWIATTN_R64                                                                       \
  SWIATTN_R32                                                                             \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52," \
  "%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

// sum[64, 2 kCount] (+)= A[64, 16] B[16, 2 kCount], both in shared memory. Thread t of the
// warpgroup holds, in element 4 j + e, row 16 (t / 32) + t % 32 / 4 + 8 (e / 2) and column
// 8 j + 2 (t % 4) + e % 2.
template <Major kA, Major kB>
__device__ inline void multiply(float (&sum)[32], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" SWIATTN_R32
      "}, %32, %33, p, 1, 1, %35, %36;\n}\n"
      : SWIATTN_F16(sum, 0), SWIATTN_F16(sum, 16)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kA)),
        "n"(static_cast<int>(kB)));
}

template <Major kA, Major kB>
__device__ inline void multiply(float (&sum)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SWIATTN_R64
      "}, %64, %65, p, 1, 1, %67, %68;\n}\n"
      : SWIATTN_F16(sum, 0), SWIATTN_F16(sum, 16), SWIATTN_F16(sum, 32), SWIATTN_F16(sum, 48)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kA)),
        "n"(static_cast<int>(kB)));
}

// The same with A in registers: thread t holds rows 16 (t / 32) + t % 32 / 4 (+ 8 in a[1], a[3]),
// columns 2 (t % 4), + 1 (+ 8 in a[2], a[3]), two to a word.
template <Major kB>
__device__ inline void multiply(float (&sum)[32], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" SWIATTN_R32
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
      : SWIATTN_F16(sum, 0), SWIATTN_F16(sum, 16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)),
        "n"(static_cast<int>(kB)));
}

template <Major kB>
__device__ inline void multiply(float (&sum)[64], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SWIATTN_R64
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"
      : SWIATTN_F16(sum, 0), SWIATTN_F16(sum, 16), SWIATTN_F16(sum, 32), SWIATTN_F16(sum, 48)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)),
        "n"(static_cast<int>(kB)));
}

#undef SWIATTN_F4
#undef SWIATTN_F16
#undef SWIATTN_R16
#undef SWIATTN_R32
#undef SWIATTN_R64

// Registers of a warpgroup's threads, handed from those that copy to those that compute.
template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace swiattn::gpu::hopper
