#include "data/sentencepiece_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/utf8.h"
#include "data/darts_trie.h"
#include "data/wire_format.h"

namespace swiattn {
namespace {

using Piece = SentencepieceModel::Piece;
using PieceType = SentencepieceModel::PieceType;

constexpr size_t kMostPieces = 1 << 22;
constexpr size_t kLongestPiece = 4096;  // the library recurses over its bytes

// The numbers of sentencepiece_model.proto.
enum ModelField { kPieces = 1, kTrainer = 2, kNormalizer = 3, kDenormalizer = 5 };
enum PieceField { kText = 1, kScore = 2, kType = 3 };
enum TrainerField { kModelType = 3, kWhitespaceIsSuffix = 24, kByteFallback = 35 };
enum NormalizerField { kName = 1, kCharsmap = 2, kAddDummyPrefix = 3, kEscapeWhitespaces = 5 };
enum ModelType { kUnigram = 1, kBpe = 2 };

Piece read_piece(std::string_view bytes, const std::string& source) {
  Piece piece;
  for (WireReader reader(bytes, source); reader.next();) {
    if (reader.field() == kText) {
      piece.text = reader.bytes();
    } else if (reader.field() == kScore) {
      piece.score = reader.float32();
    } else if (reader.field() == kType) {
      const uint64_t type = reader.varint();
      if (type < 1 || type > 6) {
        fail(ExitCode::kData, "{}: a piece has the unknown type {}.", source, type);
      }
      piece.type = static_cast<PieceType>(type);
    }
  }
  return piece;
}

void read_trainer(std::string_view bytes, const std::string& source, SentencepieceModel& model) {
  for (WireReader reader(bytes, source); reader.next();) {
    if (reader.field() == kModelType) {
      const uint64_t type = reader.varint();
      if (type != kUnigram && type != kBpe) {
        fail(ExitCode::kData,
             "{}: the model is neither unigram nor BPE (type {}), which is not implemented.",
             source, type);
      }
      model.is_bpe = type == kBpe;
    } else if (reader.field() == kWhitespaceIsSuffix) {
      model.whitespace_is_suffix = reader.varint() != 0;
    } else if (reader.field() == kByteFallback) {
      model.byte_fallback = reader.varint() != 0;
    }
  }
}

bool is_own_normalizer(std::string_view name) {
  constexpr std::array<std::string_view, 5> kOwn = {"identity", "nfkc", "nmt_nfkc", "nfkc_cf",
                                                    "nmt_nfkc_cf"};
  return std::find(kOwn.begin(), kOwn.end(), name) != kOwn.end();
}

void read_normalizer(std::string_view bytes, const std::string& source, SentencepieceModel& model) {
  for (WireReader reader(bytes, source); reader.next();) {
    if (reader.field() == kName) {
      model.own_normalizer = is_own_normalizer(reader.bytes());
    } else if (reader.field() == kCharsmap) {
      if (!reader.bytes().empty()) check_charsmap(reader.bytes(), source);
    } else if (reader.field() == kAddDummyPrefix) {
      model.add_dummy_prefix = reader.varint() != 0;
    } else if (reader.field() == kEscapeWhitespaces) {
      model.escape_whitespaces = reader.varint() != 0;
    }
  }
}

void check_pieces(const SentencepieceModel& model, const std::string& source) {
  std::set<std::string_view> texts;
  size_t unknown = 0;
  size_t byte_pieces = 0;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    const bool text_fine = !piece.text.empty() && piece.text.size() <= kLongestPiece &&
                           is_valid_utf8(piece.text) && piece.text.find('\0') == std::string::npos;
    if (!text_fine) {
      fail(ExitCode::kData, "{}: piece {} is empty, too long or not text.", source, id);
    }
    if (!std::isfinite(piece.score)) {
      fail(ExitCode::kData, "{}: the score of piece {} is not finite.", source, id);
    }
    if (!texts.insert(piece.text).second) {
      fail(ExitCode::kData, "{}: the piece \"{}\" stands twice in it.", source, piece.text);
    }
    unknown += piece.type == PieceType::kUnknown;
    byte_pieces += piece.type == PieceType::kByte;
  }
  if (unknown != 1) {
    fail(ExitCode::kData, "{}: {} pieces stand for unknown text, expected one.", source, unknown);
  }
  if (byte_pieces != (model.byte_fallback ? 256 : 0)) {
    fail(ExitCode::kData, "{}: {} pieces stand for bytes, expected {}.", source, byte_pieces,
         model.byte_fallback ? 256 : 0);
  }
}

}  // namespace

SentencepieceModel read_sentencepiece_model(std::string_view bytes, const std::string& source) {
  SentencepieceModel model;
  for (WireReader reader(bytes, source); reader.next();) {
    if (reader.field() == kPieces) {
      model.pieces.push_back(read_piece(reader.bytes(), source));
    } else if (reader.field() == kTrainer) {
      read_trainer(reader.bytes(), source, model);
    } else if (reader.field() == kNormalizer) {
      read_normalizer(reader.bytes(), source, model);
    } else if (reader.field() == kDenormalizer) {
      SentencepieceModel ignored;
      read_normalizer(reader.bytes(), source, ignored);
    }
    if (model.pieces.size() > kMostPieces) {
      fail(ExitCode::kData, "{}: it has more than {} pieces.", source, kMostPieces);
    }
  }
  check_pieces(model, source);
  return model;
}

}  // namespace swiattn
