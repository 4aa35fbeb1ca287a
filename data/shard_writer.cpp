#include "data/shard_writer.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include "base/check.h"
#include "data/indexed_dataset.h"

namespace swiattn {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

std::string temporary(const std::string& path) { return path + ".tmp"; }

std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

}  // namespace

ShardWriter::ShardWriter(FileSystem& files, std::string prefix, ShardInfo info)
    : files_(files), prefix_(std::move(prefix)), info_(std::move(info)) {
  SWIATTN_CHECK(info_.vocab_size && *info_.vocab_size > 0, "{}: no vocabulary size", prefix_);
  SWIATTN_CHECK(!info_.eos_id || *info_.eos_id < *info_.vocab_size, "{}: eos_id", prefix_);
  info_.token_type = token_type_for(*info_.vocab_size);
  info_.tokens = 0;
  info_.documents = 0;
  files_.make_folders(folder_of(prefix_));
  payload_ = files_.create(temporary(prefix_ + ".bin"));
  buffer_.reserve(kBufferBytes);
}

ShardWriter::~ShardWriter() {
  if (finished_) return;
  payload_.reset();
  for (const char* suffix : {".bin", ".json", ".idx"}) {
    const std::string path = temporary(prefix_ + suffix);
    try {
      if (file_exists(path)) files_.remove_file(path);
    } catch (const Error&) {
      // A leftover temporary is harmless: the next writer of this prefix truncates it.
    }
  }
}

void ShardWriter::append_document(std::span<const int32_t> tokens) {
  begin_document();
  append_tokens(tokens);
  end_document();
}

void ShardWriter::begin_document() {
  SWIATTN_CHECK(!in_document_ && !finished_, "{}: a document is open", prefix_);
  in_document_ = true;
  document_tokens_ = 0;
  last_token_ = -1;
}

void ShardWriter::append_tokens(std::span<const int32_t> tokens) {
  SWIATTN_CHECK(in_document_, "{}: no document is open", prefix_);
  if (tokens.empty()) return;
  const auto [smallest, largest] = std::minmax_element(tokens.begin(), tokens.end());
  if (*smallest < 0 || *largest >= *info_.vocab_size) {
    fail(ExitCode::kData,
         "{}: document {} holds token id {}, outside the vocabulary of {} ids of the tokenizer "
         "'{}'.",
         prefix_, *info_.documents, *smallest < 0 ? *smallest : *largest, *info_.vocab_size,
         info_.tokenizer_name);
  }
  document_tokens_ += static_cast<int64_t>(tokens.size());
  if (document_tokens_ > std::numeric_limits<int32_t>::max()) {
    fail(ExitCode::kData,
         "{}: document {} has more than 2147483647 tokens, the most that an index entry can count. "
         "Split it.",
         prefix_, *info_.documents);
  }
  *info_.tokens += static_cast<int64_t>(tokens.size());
  info_.largest_id = std::max<int64_t>(info_.largest_id.value_or(0), *largest);
  last_token_ = tokens.back();
  write_tokens(tokens);
}

void ShardWriter::write_tokens(std::span<const int32_t> tokens) {
  const size_t size = token_bytes(*info_.token_type);
  while (!tokens.empty()) {
    const size_t count = std::min(tokens.size(), (kBufferBytes - buffer_.size()) / size);
    const size_t start = buffer_.size();
    buffer_.resize(start + count * size);
    encode_tokens(*info_.token_type, tokens.first(count), buffer_.data() + start);
    tokens = tokens.subspan(count);
    if (buffer_.size() + size > kBufferBytes) flush();
  }
}

void ShardWriter::flush() {
  payload_->append(buffer_.data(), buffer_.size());
  payload_hasher_.update(buffer_.data(), buffer_.size());
  buffer_.clear();
}

void ShardWriter::end_document() {
  SWIATTN_CHECK(in_document_, "{}: no document is open", prefix_);
  SWIATTN_CHECK(!info_.eos_id || last_token_ == *info_.eos_id,
                "{}: document {} does not end in eos", prefix_, *info_.documents);
  lengths_.push_back(static_cast<int32_t>(document_tokens_));
  ++*info_.documents;
  in_document_ = false;
}

void ShardWriter::finish() {
  SWIATTN_CHECK(!in_document_ && !finished_, "{}: a document is open", prefix_);
  flush();
  payload_->sync();
  payload_->close();
  info_.payload_hash = format_hash(payload_hasher_.digest());

  auto index = files_.create(temporary(prefix_ + ".idx"));
  write_index(*index, *info_.token_type, lengths_);
  index->sync();
  index->close();

  auto side = files_.create(temporary(prefix_ + ".json"));
  side->append(format_shard_info(info_));
  side->sync();
  side->close();

  // Without an index nothing is read: an older shard loses it before its payload changes, and the
  // new one gets it when the rest is in place.
  const std::string folder = folder_of(prefix_);
  if (file_exists(prefix_ + ".idx")) {
    files_.remove_file(prefix_ + ".idx");
    files_.sync_folder(folder);
  }
  files_.rename(temporary(prefix_ + ".bin"), prefix_ + ".bin");
  files_.rename(temporary(prefix_ + ".json"), prefix_ + ".json");
  files_.sync_folder(folder);
  files_.rename(temporary(prefix_ + ".idx"), prefix_ + ".idx");
  files_.sync_folder(folder);
  finished_ = true;
}

}  // namespace swiattn
