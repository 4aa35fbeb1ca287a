// What must be known about a sentencepiece .model file before the library may see it. The library
// crashes on files that were crafted or damaged: it walks the tables inside without bounds.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace swiattn {

struct SentencepieceModel {
  enum class PieceType { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  struct Piece {
    std::string text;
    float score = 0;
    PieceType type = PieceType::kNormal;
  };

  std::vector<Piece> pieces;  // by id
  bool is_bpe = false;        // else unigram
  bool byte_fallback = false;
  bool add_dummy_prefix = true;  // a space is put before the text
  bool escape_whitespaces = true;
  bool whitespace_is_suffix = false;
  bool own_normalizer = true;  // none, or one of those that come with the library
};

// Reads a serialized ModelProto. Throws Error{kData} beginning with `source` unless the protocol
// buffer is well-formed, the pieces are distinct UTF-8 with finite scores, exactly one of them is
// the unknown piece, the byte pieces are complete, and the normalizer's tables stay inside
// themselves.
SentencepieceModel read_sentencepiece_model(std::string_view bytes, const std::string& source);

}  // namespace swiattn
