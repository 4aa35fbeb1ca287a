// The core of byte-pair encoding: the bytes of one pre-token to ids.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/merge_table.h"

namespace swiattn {

// Begins with one token for each byte and, as long as any neighbours merge, merges the pair with
// the lowest rank, the leftmost of equals. Immutable once filled.
class BpeMerger {
 public:
  static constexpr int32_t kNoToken = -1;

  BpeMerger() { byte_ids_.fill(kNoToken); }

  // Makes room; before the first add_merge().
  void reserve_merges(size_t merges) { merges_ = MergeTable(merges); }
  void set_byte_id(unsigned char byte, int32_t id) { byte_ids_[byte] = id; }
  int32_t byte_id(unsigned char byte) const { return byte_ids_[byte]; }
  void add_merge(int32_t left, int32_t right, uint32_t rank, int32_t merged) {
    merges_.insert(left, right, {rank, merged});
  }

  // Appends the ids of `word` to `ids`. A byte without a token gives none, as in the `tokenizers`
  // library. Takes O(n log n) time for n bytes.
  void encode(std::string_view word, std::vector<int32_t>& ids) const;

 private:
  void merge_short(std::vector<int32_t>& ids, size_t begin) const;
  void merge_long(std::vector<int32_t>& ids, size_t begin) const;

  std::array<int32_t, 256> byte_ids_;
  MergeTable merges_;
};

}  // namespace swiattn
