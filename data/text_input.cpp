#include "data/text_input.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace swiattn {
namespace {

namespace fs = std::filesystem;

// By the suffix of a file; nothing for an unknown one.
std::optional<TextFormat> format_of(std::string_view path) {
  for (const std::string_view packed : {".gz", ".zst"}) {
    if (path.ends_with(packed)) path.remove_suffix(packed.size());
  }
  if (path.ends_with(".txt")) return TextFormat::kText;
  if (path.ends_with(".jsonl")) return TextFormat::kJsonLines;
  return std::nullopt;
}

std::vector<TextInput> list_folder_tree(const std::string& folder) {
  std::vector<TextInput> inputs;
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    const auto format = format_of(entry->path().string());
    std::error_code unreadable;  // such as a link that leads nowhere: no regular file
    if (format && entry->is_regular_file(unreadable)) {
      inputs.push_back({entry->path().string(), *format});
    }
  }
  if (error) fail(ExitCode::kData, "{} cannot be listed: {}.", folder, error.message());
  if (inputs.empty()) {
    fail(ExitCode::kData, "{} holds no .txt or .jsonl file (nor .gz or .zst of them).", folder);
  }
  std::sort(inputs.begin(), inputs.end(),
            [](const TextInput& a, const TextInput& b) { return a.path < b.path; });
  return inputs;
}

}  // namespace

std::vector<TextInput> list_text_inputs(const std::vector<std::string>& paths,
                                        TextFormat standard_input) {
  std::vector<TextInput> inputs;
  for (const std::string& path : paths) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (path == "-") {
      inputs.push_back({path, standard_input});
    } else if (fs::is_directory(status)) {
      const std::vector<TextInput> files = list_folder_tree(path);
      inputs.insert(inputs.end(), files.begin(), files.end());
    } else if (!fs::exists(status)) {
      fail(ExitCode::kData, "The input {} cannot be opened: {}.", path, error.message());
    } else if (const auto format = format_of(path)) {
      inputs.push_back({path, *format});
    } else {
      fail(ExitCode::kData,
           "The input {} ends in none of .txt, .jsonl, .txt.gz, .jsonl.gz, .txt.zst, .jsonl.zst. "
           "Rename it, or pipe it in as '-'.",
           path);
    }
  }
  return inputs;
}

TextReader::TextReader(std::vector<TextInput> inputs, LastCut last_cut, size_t chunk_bytes)
    : inputs_(std::move(inputs)), last_cut_(std::move(last_cut)), chunk_bytes_(chunk_bytes) {}

bool TextReader::next(TextChunk& chunk) {
  if (!source_) {
    if (opened_ == inputs_.size()) return false;
    open_next();
  }
  bool more = read_more(chunk_bytes_);
  size_t cut = 0;
  while (more && (cut = find_cut()) == 0) more = read_more(2 * pending_.size());
  if (!more) cut = pending_.size();

  chunk.input = inputs_[opened_ - 1];
  chunk.bytes = pending_.substr(0, cut);
  chunk.offset = offset_;
  chunk.first_line = line_;
  chunk.begins_input = offset_ == 0;
  chunk.ends_input = !more;
  pending_.erase(0, cut);
  offset_ += cut;
  line_ += static_cast<uint64_t>(std::count(chunk.bytes.begin(), chunk.bytes.end(), '\n'));
  if (!more) source_.reset();
  return true;
}

void TextReader::open_next() {
  source_ = open_byte_source(inputs_[opened_++].path);
  offset_ = 0;
  line_ = 1;
}

size_t TextReader::find_cut() const {
  if (inputs_[opened_ - 1].format == TextFormat::kText) return last_cut_(pending_);
  return pending_.rfind('\n') + 1;  // npos + 1 is 0
}

// Reads until more than `target` bytes are pending; false when the input ended before.
bool TextReader::read_more(size_t target) {
  size_t size = pending_.size();
  pending_.resize(std::max(size, target + 1));
  while (size < pending_.size()) {
    const size_t count = source_->read(pending_.data() + size, pending_.size() - size);
    if (count == 0) {
      pending_.resize(size);
      return false;
    }
    size += count;
  }
  return true;
}

}  // namespace swiattn
