#include "data/bpe_merger.h"

#include <queue>
#include <tuple>

namespace swiattn {
namespace {

// Up to here looking at every pair for each merge is faster than a heap.
constexpr size_t kShortWord = 64;

}  // namespace

void BpeMerger::encode(std::string_view word, std::vector<int32_t>& ids) const {
  const size_t begin = ids.size();
  for (const char byte : word) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(byte)];
    if (id != kNoToken) ids.push_back(id);
  }
  const size_t symbols = ids.size() - begin;
  if (symbols < 2) return;
  symbols <= kShortWord ? merge_short(ids, begin) : merge_long(ids, begin);
}

void BpeMerger::merge_short(std::vector<int32_t>& ids, size_t begin) const {
  int32_t* const symbols = ids.data() + begin;
  size_t count = ids.size() - begin;
  MergeTable::Merge merges[kShortWord];  // of symbols i and i + 1
  for (size_t i = 0; i + 1 < count; ++i) merges[i] = merges_.find(symbols[i], symbols[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == MergeTable::Merge::kNone) break;
    symbols[best] = merges[best].id;
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      symbols[i] = symbols[i + 1];
      merges[i - 1] = merges[i];
    }
    if (best > 0) merges[best - 1] = merges_.find(symbols[best - 1], symbols[best]);
    if (best + 1 < count) merges[best] = merges_.find(symbols[best], symbols[best + 1]);
  }
  ids.resize(begin + count);
}

void BpeMerger::merge_long(std::vector<int32_t>& ids, size_t begin) const {
  const auto count = static_cast<uint32_t>(ids.size() - begin);
  // The symbols as a list: a merged-away symbol has the id kNoToken.
  struct Symbol {
    int32_t id;
    uint32_t previous, next;
  };
  std::vector<Symbol> symbols(count);
  for (uint32_t i = 0; i < count; ++i) symbols[i] = {ids[begin + i], i - 1, i + 1};

  // Candidates by (rank, position), with the ids they were found for: a candidate whose symbols
  // have changed since is stale.
  using Candidate = std::tuple<uint32_t, uint32_t, int32_t, int32_t, int32_t>;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto consider = [&](uint32_t left, uint32_t right) {
    const auto merge = merges_.find(symbols[left].id, symbols[right].id);
    if (merge.rank == MergeTable::Merge::kNone) return;
    candidates.emplace(merge.rank, left, symbols[left].id, symbols[right].id, merge.id);
  };
  for (uint32_t i = 0; i + 1 < count; ++i) consider(i, i + 1);

  while (!candidates.empty()) {
    const auto [rank, left, left_id, right_id, merged] = candidates.top();
    candidates.pop();
    const uint32_t right = symbols[left].next;
    if (symbols[left].id != left_id || right >= count || symbols[right].id != right_id) continue;
    symbols[left].id = merged;
    symbols[left].next = symbols[right].next;
    symbols[right].id = kNoToken;
    if (symbols[left].next < count) {
      symbols[symbols[left].next].previous = left;
      consider(left, symbols[left].next);
    }
    if (left > 0) consider(symbols[left].previous, left);
  }

  size_t end = begin;
  for (uint32_t i = 0; i < count; i = symbols[i].next) ids[end++] = symbols[i].id;
  ids.resize(end);
}

}  // namespace swiattn
