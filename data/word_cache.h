// Remembers the ids of pre-tokens: a few thousand words make up most of any text.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace swiattn {

// A hash table from words of 1 to 16 bytes to ids. When it is full it forgets everything, which
// bounds its memory. Not thread-safe: one for each thread.
class WordCache {
 public:
  static constexpr size_t kLongestWord = 16;

  WordCache() : slots_(kSlots) {}

  // A word in comparable form.
  struct Key {
    uint64_t first = 0, last = 0;  // overlapping halves; shorter words are padded with zeros
    uint32_t size = 0;
    bool operator==(const Key&) const = default;
  };

  static Key key_of(std::string_view word) {
    const char* const p = word.data();
    const size_t n = word.size();
    Key key{0, 0, static_cast<uint32_t>(n)};
    if (n >= 8) {
      std::memcpy(&key.first, p, 8);
      std::memcpy(&key.last, p + n - 8, 8);
    } else if (n >= 4) {
      std::memcpy(&key.first, p, 4);
      std::memcpy(&key.last, p + n - 4, 4);
    } else {
      std::memcpy(&key.first, p, 1);
      std::memcpy(reinterpret_cast<char*>(&key.first) + 1, p + n / 2, 1);
      std::memcpy(&key.last, p + n - 1, 1);
    }
    return key;
  }

  // Appends the word's ids to `ids` and returns true, or returns false when it is not known.
  bool append(const Key& key, std::vector<int32_t>& ids) const {
    const Slot& slot = slots_[index_of(key)];
    if (!(slot.key == key)) return false;
    const auto begin = ids_.begin() + slot.begin;
    ids.insert(ids.end(), begin, begin + slot.count);
    return true;
  }

  void remember(const Key& key, std::span<const int32_t> ids) {
    if (2 * used_ >= kSlots) forget();
    slots_[index_of(key)] = {key, static_cast<uint32_t>(ids.size()),
                             static_cast<uint32_t>(ids_.size())};
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    ++used_;
  }

 private:
  static constexpr size_t kSlots = 1 << 17;
  struct Slot {
    Key key;  // size 0: empty
    uint32_t count = 0;
    uint32_t begin = 0;
  };

  size_t index_of(const Key& key) const {
    uint64_t hash = (key.first ^ key.size) * 0x9e3779b97f4a7c15ULL;
    hash = (hash ^ hash >> 32 ^ key.last) * 0xbf58476d1ce4e5b9ULL;
    size_t index = hash >> 40 & (kSlots - 1);
    while (slots_[index].key.size != 0 && !(slots_[index].key == key)) {
      index = (index + 1) & (kSlots - 1);
    }
    return index;
  }

  void forget() {
    slots_.assign(kSlots, Slot{});
    ids_.clear();
    used_ = 0;
  }

  std::vector<Slot> slots_;
  std::vector<int32_t> ids_;
  size_t used_ = 0;
};

}  // namespace swiattn
