#include "data/shard_verification.h"

#include <algorithm>
#include <limits>

#include "base/file_system.h"
#include "base/hash.h"
#include "data/tokenizer.h"

namespace swiattn {
namespace {

constexpr int64_t kChunkTokens = 1 << 20;

class Verifier {
 public:
  Verifier(const TokenSource& source, const Tokenizer* tokenizer,
           const std::optional<int64_t>& vocab_size)
      : source_(source), tokenizer_(tokenizer), vocab_size_(smallest_vocabulary(vocab_size)) {}

  ShardVerification run() {
    checked("structure: {} documents, {} tokens of type {}", source_.documents(), source_.tokens(),
            token_type_name(source_.token_type()));
    check_ids();
    check_ends();
    check_payload_hash();
    check_tokenizer();
    return std::move(result_);
  }

 private:
  template <class... Args>
  void checked(fmt::format_string<Args...> format, Args&&... args) {
    result_.checked.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void problem(fmt::format_string<Args...> format, Args&&... args) {
    result_.problems.push_back(source_.name() + ": " +
                               fmt::format(format, std::forward<Args>(args)...));
  }

  std::optional<int64_t> smallest_vocabulary(const std::optional<int64_t>& given) const {
    std::optional<int64_t> smallest = given;
    const auto consider = [&smallest](int64_t size) {
      smallest = std::min(size, smallest.value_or(size));
    };
    if (tokenizer_ != nullptr) consider(tokenizer_->vocab_size());
    if (source_.info().vocab_size) consider(*source_.info().vocab_size);
    return smallest;
  }

  void check_ids() {
    const int64_t limit = vocab_size_.value_or(std::numeric_limits<int32_t>::max());
    std::vector<int32_t> ids;
    int64_t largest = -1;
    int64_t bad = 0;
    int64_t first_bad = 0;
    int32_t first_bad_id = 0;
    for (int64_t begin = 0; begin < source_.tokens(); begin += kChunkTokens) {
      ids.resize(static_cast<size_t>(std::min(kChunkTokens, source_.tokens() - begin)));
      source_.read(begin, ids);
      for (size_t i = 0; i < ids.size(); ++i) {
        largest = std::max<int64_t>(largest, ids[i]);
        if (ids[i] >= 0 && ids[i] < limit) continue;
        if (bad++ > 0) continue;
        first_bad = begin + static_cast<int64_t>(i);
        first_bad_id = ids[i];
      }
    }
    if (vocab_size_) {
      checked("ids: against the vocabulary size {}", *vocab_size_);
    } else {
      checked("ids: only for negative ones, the vocabulary size is not known");
    }
    if (bad > 0) {
      const int64_t document = source_.document_at(first_bad);
      problem(
          "{} token ids are outside the vocabulary, the first in document {} at position {}: {}.",
          bad, document, first_bad - source_.document(document).begin, first_bad_id);
    }
    const std::optional<int64_t> told = source_.info().largest_id;
    if (told && *told != largest) {
      problem("the largest id is {}, but the side file says {}.", largest, *told);
    }
  }

  void check_ends() {
    if (source_.format() != "megatron") return;  // elsewhere the ends are where eos is
    std::optional<int32_t> eos_id = source_.info().eos_id;
    if (tokenizer_ != nullptr && tokenizer_->eos_id()) eos_id = tokenizer_->eos_id();
    if (!eos_id) {
      checked("document ends: not checked, the id of eos is not known");
      return;
    }
    int64_t bad = 0;
    int64_t first_bad = 0;
    for (int64_t number = 0; number < source_.documents(); ++number) {
      const TokenRange range = source_.document(number);
      int32_t last = -1;
      if (range.size() > 0) source_.read(range.end - 1, {&last, 1});
      if (last != *eos_id && bad++ == 0) first_bad = number;
    }
    checked("document ends: against eos, {}", *eos_id);
    if (bad > 0) {
      problem("{} documents do not end in eos ({}), the first is document {}.", bad, *eos_id,
              first_bad);
    }
  }

  void check_payload_hash() {
    const std::string& told = source_.info().payload_hash;
    if (told.empty()) {
      checked("payload: not checked, no side file tells its hash");
      return;
    }
    const MappedFile payload(shard_prefix(source_.name()) + ".bin", ExitCode::kData);
    const std::string found = format_hash(hash_bytes(payload.data(), payload.size()));
    checked("payload: hash {}", found);
    if (found != told) {
      problem(
          "the payload has the hash {}, but the side file says {}: it was changed after it was "
          "written.",
          found, told);
    }
  }

  void check_tokenizer() {
    if (tokenizer_ == nullptr) return;
    if (source_.info().tokenizer_hash.empty()) {
      checked("tokenizer: not checked, no side file tells its hash");
      return;
    }
    checked("tokenizer: hash {}", tokenizer_->hash());
    try {
      require_tokenizer(source_.info(), source_.name(), tokenizer_->hash());
    } catch (const Error& error) {
      result_.problems.push_back(error.what());
    }
  }

  const TokenSource& source_;
  const Tokenizer* tokenizer_;
  std::optional<int64_t> vocab_size_;
  ShardVerification result_;
};

}  // namespace

ShardVerification verify_shard(const TokenSource& source, const Tokenizer* tokenizer,
                               const std::optional<int64_t>& vocab_size) {
  return Verifier(source, tokenizer, vocab_size).run();
}

}  // namespace swiattn
