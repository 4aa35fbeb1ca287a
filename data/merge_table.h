// The merges of a byte-pair encoding: from a pair of neighbouring tokens to the token they become.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

namespace swiattn {

// An open-addressing hash table with linear probing: a look-up is mostly one cache line. Fixed
// capacity, since all merges are known when it is filled.
class MergeTable {
 public:
  struct Merge {
    static constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
    uint32_t rank = kNone;  // lower merges first; kNone: the pair does not merge
    int32_t id = -1;        // the merged token
  };

  explicit MergeTable(size_t merges = 0)
      : slots_(std::bit_ceil(2 * merges + 2)), mask_(slots_.size() - 1) {}

  // A pair that is there already gets the new rank.
  void insert(int32_t left, int32_t right, Merge merge) {
    Slot& slot = slots_[index_of(key_of(left, right))];
    slot.key = key_of(left, right);
    slot.merge = merge;
  }

  Merge find(int32_t left, int32_t right) const {
    return slots_[index_of(key_of(left, right))].merge;
  }

 private:
  static constexpr uint64_t kEmpty = std::numeric_limits<uint64_t>::max();  // ids are not negative
  struct Slot {
    uint64_t key = kEmpty;
    Merge merge;
  };

  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  // The slot with this key, or the empty one where it belongs.
  size_t index_of(uint64_t key) const {
    size_t index = (key * 0x9e3779b97f4a7c15ULL) >> 32 & mask_;
    while (slots_[index].key != key && slots_[index].key != kEmpty) index = (index + 1) & mask_;
    return index;
  }

  std::vector<Slot> slots_;
  size_t mask_;
};

}  // namespace swiattn
