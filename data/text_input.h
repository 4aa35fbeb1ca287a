// Reads text for tokenizing: .txt and .jsonl files, each also .gz and .zst, folders of them, and
// standard input.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/byte_source.h"

namespace swiattn {

enum class TextFormat {
  kText,       // a file is a document
  kJsonLines,  // a line is a JSON object that holds a document
};

struct TextInput {
  std::string path;  // "-": standard input
  TextFormat format = TextFormat::kText;
};

// The files that `paths` name. A folder stands for the files with a known suffix in it and in the
// folders below, sorted by path; links to folders are not followed. Throws Error{kData} for a path
// that does not exist, a file whose suffix is not known, or a folder without text.
std::vector<TextInput> list_text_inputs(const std::vector<std::string>& paths,
                                        TextFormat standard_input);

// A part of an input, small enough to be worked on as a whole: whole lines of a .jsonl file, or a
// document or a part of one of a .txt file. The bytes are as they stand in the file, unchecked.
struct TextChunk {
  TextInput input;
  std::string bytes;
  uint64_t offset = 0;      // of the first byte in the (unpacked) input
  uint64_t first_line = 1;  // its line, for .jsonl
  bool begins_input = false;
  bool ends_input = false;
};

// Reads inputs one after the other, chunk by chunk.
class TextReader {
 public:
  // Where a text that goes on may be cut, 0 for nowhere: see Tokenizer::last_cut().
  using LastCut = std::function<size_t(std::string_view)>;

  // Chunks have about `chunk_bytes`, more where there is no place to cut.
  TextReader(std::vector<TextInput> inputs, LastCut last_cut, size_t chunk_bytes = 256 << 10);

  // Reads the next chunk; false after the last input. Every input gives at least one chunk, an
  // empty one if need be. Throws Error{kData} naming the file.
  bool next(TextChunk& chunk);

 private:
  void open_next();
  size_t find_cut() const;
  bool read_more(size_t target);

  std::vector<TextInput> inputs_;
  LastCut last_cut_;
  size_t chunk_bytes_;
  size_t opened_ = 0;                   // inputs opened so far; the last of them is the current one
  std::unique_ptr<ByteSource> source_;  // of the current input; null between inputs
  std::string pending_;                 // read, but not yet in a chunk
  uint64_t offset_ = 0;
  uint64_t line_ = 1;
};

}  // namespace swiattn
