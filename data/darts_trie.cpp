#include "data/darts_trie.h"

#include <algorithm>
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

// The library has room for so many matches along one text.
constexpr int kMostMatches = 32;

// Walks over everything that can be reached from the root.
class TrieCheck {
 public:
  TrieCheck(const std::vector<Unit>& units, std::string_view texts)
      : units_(units), texts_(texts), matches_(units.size(), kUnseen) {}

  // False when a look-up could leave the array, run in a circle, find too much, or find a value
  // that lies outside the texts.
  bool passes() {
    if (units_.empty() || !enter(0)) return false;
    while (!path_.empty()) {
      Step& step = path_.back();
      if (++step.byte > 0xFF) {
        leave();
        continue;
      }
      const uint32_t child = step.children ^ static_cast<uint32_t>(step.byte);
      if (units_[child].label() != static_cast<uint32_t>(step.byte)) continue;
      if (matches_[child] == kUnseen ? !enter(child) : !count(child)) return false;
    }
    return matches_[0] <= kMostMatches;
  }

 private:
  static constexpr int kUnseen = -1, kOnPath = -2;
  struct Step {
    uint32_t node;
    uint32_t children;  // where they lie, each at this number XOR its byte
    int byte = -1;      // of the child looked at last
    int matches_below = 0;
  };

  bool enter(uint32_t node) {
    const uint32_t children = node ^ units_[node].offset();
    if ((children | 0xFF) >= units_.size()) return false;  // a look-up may probe all 256 places
    if (units_[node].has_leaf() && units_[children].value() >= texts_.size()) return false;
    matches_[node] = kOnPath;
    path_.push_back({node, children});
    return true;
  }

  void leave() {
    const Step step = path_.back();
    path_.pop_back();
    matches_[step.node] = step.matches_below + units_[step.node].has_leaf();
    if (!path_.empty()) count(step.node);
  }

  // Takes a finished child into account; false when the child is not finished, hence a circle.
  bool count(uint32_t child) {
    int& below = path_.back().matches_below;
    below = std::max(below, matches_[child]);
    return matches_[child] != kOnPath;
  }

  const std::vector<Unit>& units_;
  std::string_view texts_;
  std::vector<int> matches_;  // by node: the most matches from it downwards
  std::vector<Step> path_;
};

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
    fine = TrieCheck(units, charsmap.substr(size)).passes();
  }
  if (!fine) fail(ExitCode::kData, "{}: the normalizer's table is damaged.", source);
}

}  // namespace swiattn
