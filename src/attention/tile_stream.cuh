// The keys and values that a tile of listed rows visits, as they flow through shared memory.
#pragma once

#include "attention/listed_tile.cuh"

namespace swiattn::gpu {

// Tiles of kKeys rows of two operands by turns: two tiles are on their way while one is in use.
// Rows from the last key on are zeros.
template <int kHeadDim, int kKeys, int kThreads>
class TileStream {
 public:
  static constexpr uint32_t kTileBytes = kKeys * ampere::Matrix<kHeadDim>::kRowBytes;
  using Buffers = uint8_t[3 * kTileBytes];

  // Asks for the first tile of both operands, keys or values; completes a group of the copies that
  // the thread has asked for before.
  __device__ TileStream(const Buffers& buffers, const KeyValues& keys, const ListTile& tile,
                        const Bf16* first, const Bf16* second)
      : buffers_(shared_address(buffers)), keys_(keys), tile_(tile) {
    request(buffers_, first, tile.begin);
    request(buffers_ + kTileBytes, second, tile.begin);
  }

  // The tile that was asked for longest ago, once it has come. The one before is given up for the
  // tile of the same operand from key `upcoming` on. A barrier of the block.
  __device__ uint32_t next(const Bf16* operand, int32_t upcoming) {
    ampere::wait_copies<1>();
    __syncthreads();
    const uint32_t tile = buffers_ + current_;
    request(current_ == 0 ? tile + 2 * kTileBytes : tile - kTileBytes, operand, upcoming);
    current_ = current_ == 2 * kTileBytes ? 0 : current_ + kTileBytes;
    return tile;
  }

 private:
  __device__ void request(uint32_t to, const Bf16* operand, int32_t key) {
    const int32_t present = tile_.end - key;
    if (present > 0) {
      ampere::copy_rows<kHeadDim, kKeys, kThreads>(to,
                                                   static_cast<const __nv_bfloat16*>(operand) +
                                                       key * keys_.stride +
                                                       tile_.kv_head * kHeadDim,
                                                   keys_.stride, present);
    }
    ampere::commit_copies();
  }

  const uint32_t buffers_;
  const KeyValues& keys_;
  const ListTile& tile_;
  uint32_t current_ = 0;  // offset of the tile to use next
};

}  // namespace swiattn::gpu
