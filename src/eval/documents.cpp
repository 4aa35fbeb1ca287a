#include "eval/documents.h"

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "data/text_input.h"
#include "data/token_source.h"
#include "data/tokenizer.h"

namespace swiattn {
namespace {

// Hands documents on until the limit is reached.
class Limiter {
 public:
  Limiter(int64_t limit, const DocumentVisitor& visit)
      : left_(limit), limited_(limit > 0), visit_(visit) {}
  bool done() const { return limited_ && left_ <= 0; }
  void operator()(std::span<const int32_t> document) {
    if (limited_ && static_cast<int64_t>(document.size()) > left_) {
      document = document.first(static_cast<size_t>(left_));
    }
    left_ -= static_cast<int64_t>(document.size());
    if (!document.empty()) visit_(document);
  }

 private:
  int64_t left_;
  bool limited_;
  const DocumentVisitor& visit_;
};

void visit_shard(const std::string& prefix, Limiter& visit) {
  const std::unique_ptr<TokenSource> source = open_token_source(prefix);
  std::vector<int32_t> tokens;
  for (int64_t number = 0; number < source->documents() && !visit.done(); ++number) {
    const TokenRange range = source->document(number);
    tokens.resize(static_cast<size_t>(range.size()));
    source->read(range.begin, tokens);
    visit(tokens);
  }
}

void visit_texts(const DocumentSource& source, Limiter& visit) {
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(source.tokenizer);
  const std::vector<TextInput> inputs = list_text_inputs(source.texts, TextFormat::kText);
  for (const TextInput& input : inputs) {
    if (input.format == TextFormat::kText) continue;
    fail(ExitCode::kData,
         "{}: --text reads plain text; make a shard of JSON lines with swiattn-data tokenize and "
         "give it with --tokens.",
         input.path);
  }
  TextReader reader(inputs, [&](std::string_view text) { return tokenizer->last_cut(text); });
  std::vector<int32_t> document;
  TextChunk chunk;
  while (!visit.done() && reader.next(chunk)) {
    if (chunk.begins_input) document.clear();
    const std::vector<int32_t> ids = chunk.begins_input ? tokenizer->encode(chunk.bytes)
                                                        : tokenizer->encode_after_cut(chunk.bytes);
    document.insert(document.end(), ids.begin(), ids.end());
    if (chunk.ends_input) visit(document);
  }
}

}  // namespace

void for_each_document(const DocumentSource& source, const DocumentVisitor& visit) {
  Limiter limiter(source.limit, visit);
  if (source.tokens.empty()) {
    visit_texts(source, limiter);
  } else {
    visit_shard(source.tokens, limiter);
  }
}

}  // namespace swiattn
