#include "data/long_documents.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace swiattn {

LongDocuments::LongDocuments(std::unique_ptr<TokenSource> source, int64_t min_tokens)
    : TokenSource(source->name(), source->info()),
      source_(std::move(source)),
      min_tokens_(min_tokens) {
  for (int64_t number = 0; number < source_->documents(); ++number) {
    const TokenRange range = source_->document(number);
    if (range.size() < min_tokens_) continue;
    kept_.push_back({tokens_, range.begin});
    tokens_ += range.size();
  }
}

size_t LongDocuments::kept_at(int64_t token) const {
  const auto after =
      std::upper_bound(kept_.begin(), kept_.end(), token,
                       [](int64_t value, const Kept& kept) { return value < kept.begin; });
  return static_cast<size_t>(after - kept_.begin()) - 1;
}

int64_t LongDocuments::kept_end(size_t index) const {
  return index + 1 < kept_.size() ? kept_[index + 1].begin : tokens_;
}

void LongDocuments::read(int64_t begin, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  SWIATTN_CHECK(begin >= 0 && count <= tokens_ - begin, "{}: {} tokens from {} of {}", name(),
                count, begin, tokens_);
  if (out.empty()) return;
  for (size_t index = kept_at(begin); !out.empty(); ++index) {
    const int64_t piece = std::min<int64_t>(kept_end(index) - begin, out.size());
    const int64_t from = kept_[index].source_begin + begin - kept_[index].begin;
    source_->read(from, out.first(static_cast<size_t>(piece)));
    out = out.subspan(static_cast<size_t>(piece));
    begin += piece;
  }
}

std::vector<int64_t> LongDocuments::document_starts(int64_t begin, int64_t end) const {
  std::vector<int64_t> starts;
  auto kept = std::lower_bound(kept_.begin(), kept_.end(), begin,
                               [](const Kept& k, int64_t value) { return k.begin < value; });
  for (; kept != kept_.end() && kept->begin < end; ++kept) starts.push_back(kept->begin);
  return starts;
}

TokenRange LongDocuments::document(int64_t number) const {
  const TokenRange range = source_->document(number);
  const auto kept =
      std::lower_bound(kept_.begin(), kept_.end(), range.begin,
                       [](const Kept& k, int64_t value) { return k.source_begin < value; });
  const int64_t begin = kept == kept_.end() ? tokens_ : kept->begin;
  return {begin, begin + (range.size() < min_tokens_ ? 0 : range.size())};
}

int64_t LongDocuments::document_at(int64_t token) const {
  SWIATTN_CHECK(token >= 0 && token < tokens_, "{}: token {} of {}", name(), token, tokens_);
  const Kept& kept = kept_[kept_at(token)];
  return source_->document_at(kept.source_begin + token - kept.begin);
}

}  // namespace swiattn
