// Text files into a token shard: the work behind `swiattn-data tokenize`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/log.h"
#include "data/text_input.h"

namespace swiattn {

struct TokenizeOptions {
  std::vector<std::string> inputs;  // files, folders, or "-"
  std::string tokenizer;            // for open_tokenizer()
  std::string output;               // PREFIX of the shard
  int workers = 0;                  // 0: one for each core
  std::string key = "text";         // of the document in a line of .jsonl
  TextFormat standard_input = TextFormat::kText;
  bool replace_invalid_utf8 = false;  // by U+FFFD; else it is an error
  std::string eos;                    // text of the token that ends a document; "": the tokenizer's
};

struct TokenizeResult {
  int64_t documents = 0;
  int64_t tokens = 0;  // with one eos a document
  int64_t bytes = 0;   // of input, unpacked
  double seconds = 0;  // from the first byte read to the shard in place
  std::string tokenizer_name;
  std::string tokenizer_hash;
  int64_t vocab_size = 0;
  int32_t eos_id = 0;
};

// Writes each document's tokens and eos, never a BOS, in the order of the inputs whatever the
// number of workers. Memory stays bounded for any input but documents in which no place to cut is
// known. Nothing is left under the output's name when an Error (kData, or that of a file) is
// thrown.
TokenizeResult tokenize(const TokenizeOptions& options, Log& log);

}  // namespace swiattn
