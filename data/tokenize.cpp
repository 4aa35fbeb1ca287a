#include "data/tokenize.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/file_system.h"
#include "base/json.h"
#include "base/utf8.h"
#include "data/ordered_pipeline.h"
#include "data/shard_writer.h"
#include "data/tokenizer.h"

namespace swiattn {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct TokenChunk {
  std::vector<int32_t> tokens;
  std::vector<size_t> document_ends;  // in tokens; what follows the last one goes on
  size_t bytes = 0;                   // of text
};

// Turns chunks of text into chunks of tokens. Used by all workers at once.
class ChunkTokenizer {
 public:
  ChunkTokenizer(const Tokenizer& tokenizer, int32_t eos_id, const TokenizeOptions& options)
      : tokenizer_(tokenizer), eos_id_(eos_id), options_(options) {}

  TokenChunk operator()(TextChunk chunk) const {
    TokenChunk result;
    result.bytes = chunk.bytes.size();
    make_valid(chunk);
    if (chunk.input.format == TextFormat::kJsonLines) {
      add_lines(chunk, result);
    } else {
      result.tokens = chunk.begins_input ? tokenizer_.encode(chunk.bytes)
                                         : tokenizer_.encode_after_cut(chunk.bytes);
      if (chunk.ends_input) end_document(result);
    }
    return result;
  }

 private:
  void make_valid(TextChunk& chunk) const {
    const size_t valid = valid_utf8_prefix(chunk.bytes);
    if (valid == chunk.bytes.size()) return;
    if (!options_.replace_invalid_utf8) {
      fail(ExitCode::kData,
           "{} is not valid UTF-8 at byte {}. Convert it, or give --invalid-utf8 replace to get "
           "U+FFFD there.",
           chunk.input.path, chunk.offset + valid);
    }
    chunk.bytes = replace_invalid_utf8(chunk.bytes);
  }

  void add_lines(const TextChunk& chunk, TokenChunk& result) const {
    std::string_view rest = chunk.bytes;
    for (uint64_t line = chunk.first_line; !rest.empty(); ++line) {
      const size_t end = std::min(rest.find('\n'), rest.size());
      add_line(rest.substr(0, end), fmt::format("{}:{}", chunk.input.path, line), result);
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  }

  void add_line(std::string_view line, const std::string& place, TokenChunk& result) const {
    if (line.find_first_not_of(" \t\r") == line.npos) return;
    const Json json = parse_json(line, place, ExitCode::kData);
    const auto text = json.is_object() ? json.find(options_.key) : json.end();
    if (text == json.end() || !text->is_string()) {
      fail(ExitCode::kData,
           "{}: expected an object with a string under the key \"{}\" (--key names another).",
           place, options_.key);
    }
    const auto ids = tokenizer_.encode(text->get_ref<const std::string&>());
    result.tokens.insert(result.tokens.end(), ids.begin(), ids.end());
    end_document(result);
  }

  void end_document(TokenChunk& result) const {
    result.tokens.push_back(eos_id_);
    result.document_ends.push_back(result.tokens.size());
  }

  const Tokenizer& tokenizer_;
  int32_t eos_id_;
  const TokenizeOptions& options_;
};

// Lays chunks end to end as documents of the shard.
class ChunkWriter {
 public:
  explicit ChunkWriter(ShardWriter& shard) : shard_(shard) {}

  void write(const TokenChunk& chunk) {
    const std::span<const int32_t> tokens(chunk.tokens);
    size_t begin = 0;
    for (const size_t end : chunk.document_ends) {
      append(tokens.subspan(begin, end - begin));
      shard_.end_document();
      in_document_ = false;
      begin = end;
    }
    if (begin < tokens.size()) append(tokens.subspan(begin));
  }

 private:
  void append(std::span<const int32_t> tokens) {
    if (!in_document_) shard_.begin_document();
    in_document_ = true;
    shard_.append_tokens(tokens);
  }

  ShardWriter& shard_;
  bool in_document_ = false;
};

// One line on a terminal that is written over twice a second; nothing elsewhere.
class Progress {
 public:
  ~Progress() {
    if (shown_) std::fputs("\r\033[K", stderr);
  }

  void update(const ShardInfo& info, int64_t bytes) {
    if (!on_terminal_ || seconds_since(last_) < 0.5) return;
    last_ = Clock::now();
    shown_ = true;
    const std::string line = fmt::format("\r{} documents, {} tokens, {:.1f} MB, {:.1f} MB/s\033[K",
                                         info.documents.value_or(0), info.tokens.value_or(0),
                                         bytes / 1e6, bytes / 1e6 / seconds_since(start_));
    std::fputs(line.c_str(), stderr);
    std::fflush(stderr);
  }

 private:
  const bool on_terminal_ = isatty(STDERR_FILENO) == 1;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
  bool shown_ = false;
};

int32_t find_eos(const Tokenizer& tokenizer, const TokenizeOptions& options) {
  const auto id = options.eos.empty() ? tokenizer.eos_id() : tokenizer.token_id(options.eos);
  if (id) return *id;
  if (options.eos.empty()) {
    fail(ExitCode::kData,
         "The tokenizer {} does not say which token ends a document: name it with --eos.",
         options.tokenizer);
  }
  fail(ExitCode::kData, "The tokenizer {} has no token \"{}\" (--eos).", options.tokenizer,
       options.eos);
}

}  // namespace

TokenizeResult tokenize(const TokenizeOptions& options, Log& log) {
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(options.tokenizer);
  const int32_t eos_id = find_eos(*tokenizer, options);
  std::vector<TextInput> inputs = list_text_inputs(options.inputs, options.standard_input);
  const int workers = options.workers > 0
                          ? options.workers
                          : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  log.info("Tokenizing {} inputs with {} (vocabulary {}, eos {}), {} workers.", inputs.size(),
           tokenizer->name(), tokenizer->vocab_size(), eos_id, workers);

  const Clock::time_point start = Clock::now();
  ShardInfo info;
  info.tokenizer_name = tokenizer->name();
  info.tokenizer_hash = tokenizer->hash();
  info.vocab_size = tokenizer->vocab_size();
  info.eos_id = eos_id;
  ShardWriter shard(FileSystem::posix_of_data(), options.output, info);
  TextReader reader(std::move(inputs),
                    [&](std::string_view text) { return tokenizer->last_cut(text); });
  const ChunkTokenizer tokenize_chunk(*tokenizer, eos_id, options);
  ChunkWriter writer(shard);
  TokenizeResult result;
  {
    Progress progress;
    const auto read_chunk = [&]() -> std::optional<TextChunk> {
      TextChunk chunk;
      if (!reader.next(chunk)) return std::nullopt;
      return chunk;
    };
    const auto write_chunk = [&](const TokenChunk& chunk) {
      writer.write(chunk);
      result.bytes += static_cast<int64_t>(chunk.bytes);
      progress.update(shard.info(), result.bytes);
    };
    OrderedPipeline<TextChunk, TokenChunk>(workers).run(read_chunk, tokenize_chunk, write_chunk);
  }
  result.documents = shard.info().documents.value_or(0);
  result.tokens = shard.info().tokens.value_or(0);
  if (result.documents == 0) fail(ExitCode::kData, "The inputs hold no document.");
  shard.finish();
  result.seconds = seconds_since(start);
  result.tokenizer_name = tokenizer->name();
  result.tokenizer_hash = tokenizer->hash();
  result.vocab_size = tokenizer->vocab_size();
  result.eos_id = eos_id;
  return result;
}

}  // namespace swiattn
