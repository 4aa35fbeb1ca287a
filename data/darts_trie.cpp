#include "data/darts_trie.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace swiattn {
namespace {

// One unit of the array: a node with its label and the offset to its children, or a leaf's value.
class Unit {
 public:
  explicit Unit(uint32_t bits) : bits_(bits) {}
  bool has_leaf() const { return bits_ >> 8 & 1; }
  uint32_t value() const { return bits_ & 0x7FFFFFFF; }
  uint32_t label() const { return bits_ & 0x800000FF; }  // a leaf has no byte as its label
  uint32_t offset() const { return bits_ >> 10 << ((bits_ & 0x200) >> 6); }

 private:
  uint32_t bits_;
};

// Whether all that can be reached from the root lies inside. `texts` is what values point into.
bool is_closed(const std::vector<Unit>& units, std::string_view texts) {
  if (units.empty()) return false;
  std::vector<bool> seen(units.size());
  std::vector<uint32_t> open = {0};
  seen[0] = true;
  while (!open.empty()) {
    const uint32_t node = open.back();
    open.pop_back();
    const uint32_t children = node ^ units[node].offset();
    // A look-up may probe any of the 256 places.
    if ((children | 0xFF) >= units.size()) return false;
    if (units[node].has_leaf() && units[children].value() >= texts.size()) return false;
    for (uint32_t byte = 1; byte < 0x100; ++byte) {
      const uint32_t child = children ^ byte;
      if (units[child].label() != byte || seen[child]) continue;
      seen[child] = true;
      open.push_back(child);
    }
  }
  return true;
}

}  // namespace

void check_charsmap(std::string_view charsmap, const std::string& source) {
  uint32_t size = 0;
  bool fine = charsmap.size() > sizeof(size);
  if (fine) {
    std::memcpy(&size, charsmap.data(), sizeof(size));
    charsmap.remove_prefix(sizeof(size));
    fine = size < charsmap.size() && size % sizeof(uint32_t) == 0 && charsmap.back() == '\0';
  }
  if (fine) {
    std::vector<Unit> units;
    for (size_t i = 0; i < size; i += sizeof(uint32_t)) {
      uint32_t bits;
      std::memcpy(&bits, charsmap.data() + i, sizeof(bits));
      units.emplace_back(bits);
    }
    fine = is_closed(units, charsmap.substr(size));
  }
  if (!fine) fail(ExitCode::kData, "{}: the normalizer's table is damaged.", source);
}

}  // namespace swiattn
