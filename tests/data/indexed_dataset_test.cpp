#include "data/indexed_dataset.h"

#include <chrono>
#include <cstdlib>
#include <functional>

#include "base/json.h"
#include "data/shard_writer.h"
#include "tests/base/expect_error.h"
#include "tests/data/small_shards.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The parts of a small pair, to be spoilt one by one.
struct Pair {
  std::string magic = std::string("MMIDIDX\0\0", 9);
  uint64_t version = 1;
  uint8_t type = 8;
  std::optional<uint64_t> sequences;  // the true counts when not given
  std::optional<uint64_t> boundaries;
  std::vector<int32_t> lengths = {3, 2, 4};
  std::vector<int64_t> pointers = {0, 6, 10};
  std::vector<int64_t> documents = {0, 1, 3};
  std::string payload = std::string("\1\0\2\0\3\0\4\0\5\0\6\0\7\0\10\0\11\0", 18);
  std::string tail;

  std::string index() const {
    std::string bytes = magic + bytes_of(version) + bytes_of(type) +
                        bytes_of(sequences.value_or(lengths.size())) +
                        bytes_of(boundaries.value_or(documents.size()));
    for (int32_t length : lengths) bytes += bytes_of(length);
    for (int64_t pointer : pointers) bytes += bytes_of(pointer);
    for (int64_t document : documents) bytes += bytes_of(document);
    return bytes + tail;
  }
  std::string write(const TemporaryFolder& folder) const {
    write_file(folder.file("pair.idx"), index());
    write_file(folder.file("pair.bin"), payload);
    return folder.file("pair");
  }
};

TEST(IndexedDataset, DocumentsMaySpanSeveralSequences) {
  TemporaryFolder folder;
  const auto source = open_token_source(Pair{}.write(folder));
  EXPECT_EQ(source->format(), "megatron");
  EXPECT_EQ(source->tokens(), 9);
  ASSERT_EQ(source->documents(), 2);
  EXPECT_EQ(source->document(0).begin, 0);
  EXPECT_EQ(source->document(0).end, 3);
  EXPECT_EQ(source->document(1).begin, 3);
  EXPECT_EQ(source->document(1).end, 9);
  EXPECT_THAT(read_all(*source), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9));
  EXPECT_THAT(read_tokens(*source, 2, 5), ElementsAre(3, 4, 5));
  EXPECT_THAT(read_tokens(*source, 9, 9), IsEmpty());
}

TEST(IndexedDataset, FindsDocumentStartsInAnyRange) {
  TemporaryFolder folder;
  const std::vector<int64_t> lengths = {3, 0, 1, 0, 0, 5, 2, 0};  // starts at 0, 3, 4, 9
  const auto source = open_token_source(write_indexed(folder, "s", counted_documents(lengths)));
  const std::vector<int64_t> starts = {0, 3, 4, 9};
  for (int64_t begin = 0; begin <= 11; ++begin) {
    for (int64_t end = begin; end <= 11; ++end) {
      std::vector<int64_t> expected;
      for (int64_t start : starts) {
        if (start >= begin && start < end) expected.push_back(start);
      }
      EXPECT_EQ(source->document_starts(begin, end), expected) << begin << " to " << end;
    }
  }
  const std::vector<int64_t> document_of = {0, 0, 0, 2, 5, 5, 5, 5, 5, 6, 6};
  for (size_t token = 0; token < document_of.size(); ++token) {
    EXPECT_EQ(source->document_at(static_cast<int64_t>(token)), document_of[token]);
  }
}

TEST(IndexedDataset, ReadsEveryIntegerType) {
  const std::vector<std::pair<uint8_t, std::string>> types = {
      {1, bytes_of(uint8_t{200}) + bytes_of(uint8_t{7})},
      {2, bytes_of(int8_t{100}) + bytes_of(int8_t{-7})},
      {3, bytes_of(int16_t{30000}) + bytes_of(int16_t{-7})},
      {4, bytes_of(int32_t{2'000'000'000}) + bytes_of(int32_t{-7})},
      {5, bytes_of(int64_t{2'000'000'000}) + bytes_of(int64_t{-7})},
      {5, bytes_of(int64_t{1} << 40) + bytes_of(-(int64_t{1} << 40))},
      {8, bytes_of(uint16_t{65535}) + bytes_of(uint16_t{7})}};
  const std::vector<std::vector<int32_t>> expected = {{200, 7},
                                                      {100, -7},
                                                      {30000, -7},
                                                      {2'000'000'000, -7},
                                                      {2'000'000'000, -7},
                                                      {INT32_MAX, INT32_MIN},
                                                      {65535, 7}};
  for (size_t i = 0; i < types.size(); ++i) {
    TemporaryFolder folder;
    Pair pair;
    pair.type = types[i].first;
    pair.payload = types[i].second;
    pair.lengths = {2};
    pair.pointers = {0};
    pair.documents = {0, 1};
    EXPECT_EQ(read_all(*open_token_source(pair.write(folder))), expected[i]) << i;
  }
}

TEST(IndexedDataset, RefusesEveryKindOfDamageNamingTheFile) {
  struct Case {
    std::function<void(Pair&)> spoil;
    std::string file;
    std::string expected;
  };
  const std::vector<Case> cases = {
      {[](Pair& p) { p.magic[0] = 'X'; }, ".idx", "MMIDIDX"},
      {[](Pair& p) { p.version = 2; }, ".idx", "version 2"},
      {[](Pair& p) { p.type = 0; }, ".idx", "dtype code 0"},
      {[](Pair& p) { p.type = 6; }, ".idx", "dtype code 6"},
      {[](Pair& p) { p.type = 7; }, ".idx", "dtype code 7"},
      {[](Pair& p) { p.type = 9; }, ".idx", "dtype code 9"},
      {[](Pair& p) { p.type = 100; }, ".idx", "dtype code 100"},
      {[](Pair& p) { p.sequences = 4; }, ".idx", "truncated"},
      {[](Pair& p) { p.sequences = 2; }, ".idx", "truncated"},
      {[](Pair& p) { p.sequences = UINT64_MAX; }, ".idx", "impossible"},
      {[](Pair& p) { p.sequences = (1ULL << 62) + 3; }, ".idx", "impossible"},
      {[](Pair& p) { p.sequences = 1ULL << 63; }, ".idx", "impossible"},
      {[](Pair& p) { p.boundaries = 0; }, ".idx", "impossible"},
      {[](Pair& p) { p.boundaries = (1ULL << 61) + 3; }, ".idx", "impossible"},
      {[](Pair& p) { p.boundaries = UINT64_MAX; }, ".idx", "impossible"},
      {[](Pair& p) { p.tail.push_back('x'); }, ".idx", "damaged"},
      {[](Pair& p) { p.tail = std::string(3, '\1'); }, ".idx", "not token documents"},
      {[](Pair& p) { p.lengths[1] = -2; }, ".idx", "negative length -2"},
      {[](Pair& p) { p.lengths[1] = 1; }, ".idx", "sequence 2 begins at byte 10"},
      {[](Pair& p) { p.lengths[2] = 5; }, ".idx", "outside"},
      {[](Pair& p) { p.lengths[2] = INT32_MAX; }, ".idx", "outside"},
      {[](Pair& p) { p.lengths[2] = 3; }, ".bin", "18 bytes, but its index describes 16"},
      {[](Pair& p) { p.pointers[0] = -2; }, ".idx", "begins at byte -2"},
      {[](Pair& p) { p.pointers[1] = 4; }, ".idx", "begins at byte 4"},
      {[](Pair& p) { p.pointers[2] = 1LL << 60; }, ".idx", "must follow each other"},
      {[](Pair& p) { std::swap(p.pointers[1], p.pointers[2]); }, ".idx", "must follow"},
      {[](Pair& p) { p.payload.pop_back(); }, ".bin", "truncated"},
      {[](Pair& p) { p.payload += "xx"; }, ".bin", "20 bytes"},
      {[](Pair& p) { p.payload.clear(); }, ".bin", "truncated"},
      {[](Pair& p) { p.type = 4; }, ".idx", "begins at byte 6"},
      {[](Pair& p) {
         p.documents = {1, 1, 3};
       },
       ".idx", "must begin with 0"},
      {[](Pair& p) {
         p.documents = {0, -1, 3};
       },
       ".idx", "boundary 1 is sequence -1"},
      {[](Pair& p) {
         p.documents = {0, 2, 1};
       },
       ".idx", "not decrease"},
      {[](Pair& p) {
         p.documents = {0, 1, 4};
       },
       ".idx", "not exceed the 3"},
      {[](Pair& p) {
         p.documents = {0, 1, 2};
       },
       ".idx", "end at sequence 2"},
      {[](Pair& p) { p.documents = {0}; }, ".idx", "end at sequence 0"},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    TemporaryFolder folder;
    Pair pair;
    cases[i].spoil(pair);
    const std::string prefix = pair.write(folder);
    const std::string sentence = sentence_of(ExitCode::kData, [&] { open_token_source(prefix); });
    EXPECT_THAT(sentence, HasSubstr(cases[i].expected)) << "case " << i;
    EXPECT_THAT(sentence, HasSubstr(prefix + cases[i].file)) << "case " << i;
  }
}

TEST(IndexedDataset, RefusesAnIndexCutAtAnyByte) {
  TemporaryFolder folder;
  const std::string whole = Pair{}.index();
  const std::string prefix = Pair{}.write(folder);
  for (size_t size = 0; size < whole.size(); ++size) {
    write_file(prefix + ".idx", whole.substr(0, size));
    EXPECT_THAT(sentence_of(ExitCode::kData, [&] { open_token_source(prefix); }),
                HasSubstr("truncated"));
  }
}

TEST(IndexedDataset, NoFlippedByteOfTheIndexGoesUnnoticedOrReadsOutsideThePayload) {
  TemporaryFolder folder;
  const std::string prefix = Pair{}.write(folder);
  const std::string whole = Pair{}.index();
  for (size_t at = 0; at < whole.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
      write_file(prefix + ".idx", bytes);
      try {
        const auto source = open_token_source(prefix);
        // Only the boundary between the two documents may be another one and still be sound.
        EXPECT_NE(source->document(0).end, 3) << "byte " << at << " bit " << bit;
        read_all(*source);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kData);
      }
    }
  }
}

TEST(IndexedDataset, RefusesASideFileOfAnotherShard) {
  for (const auto& [text, expected] :
       {std::pair{R"({"tokens": 8})", "tokens is 8, but the shard has 9"},
        {R"({"documents": 3})", "documents is 3, but the shard has 2"},
        {R"({"token_type": "i32"})", "token_type is i32, but the shard has u16"}}) {
    TemporaryFolder folder;
    const std::string prefix = Pair{}.write(folder);
    write_file(prefix + ".json", text);
    EXPECT_THAT(sentence_of(ExitCode::kData, [&] { open_token_source(prefix); }),
                HasSubstr(expected));
  }
}

TEST(IndexedDataset, AReadOutsideTheTokensIsAnInternalError) {
  TemporaryFolder folder;
  const auto source = open_token_source(Pair{}.write(folder));
  std::vector<int32_t> ids(2);
  for (int64_t begin : {int64_t{-1}, int64_t{8}, int64_t{9}, INT64_MAX}) {
    sentence_of(ExitCode::kInternal, [&] { source->read(begin, ids); });
  }
  sentence_of(ExitCode::kInternal, [&] { source->document(2); });
  sentence_of(ExitCode::kInternal, [&] { source->document_at(9); });
}

// The fixture was written by Python after Megatron's layout; expected.json has its contents.
TEST(IndexedDataset, ReadsWhatPythonWroteAfterMegatronsLayout) {
  const std::string folder = SWIATTN_TEST_FIXTURES "/shards/";
  const Json expected = read_json_file(folder + "expected.json", ExitCode::kData);
  ASSERT_EQ(expected.size(), 6);
  for (const Json& entry : expected) {
    const std::string path = folder + entry["path"].get<std::string>();
    const auto source = open_token_source(path, {.eos_id = entry["eos_id"].get<int32_t>()});
    EXPECT_EQ(source->format(), entry["format"].get<std::string>()) << path;
    EXPECT_EQ(token_type_name(source->token_type()), entry["token_type"].get<std::string>())
        << path;
    const auto documents = entry["documents"].get<Documents>();
    ASSERT_EQ(source->documents(), static_cast<int64_t>(documents.size())) << path;
    for (size_t i = 0; i < documents.size(); ++i) {
      const TokenRange range = source->document(static_cast<int64_t>(i));
      EXPECT_EQ(read_tokens(*source, range.begin, range.end), documents[i]) << path;
    }
  }
}

TEST(IndexedDataset, PythonReadsWhatTheWriterWrote) {
  TemporaryFolder folder;
  const Documents documents = {{1, 2, 9}, {}, {65535, 9}, {4, 5, 6, 7, 9}};
  write_indexed(folder, "small", documents, 65536);
  write_indexed(folder, "large", documents, 100000);
  write_file(folder.file("expected.json"), Json(documents).dump());
  for (const char* name : {"small", "large"}) {
    const std::string command =
        fmt::format("python3 '{}/shards/check_shard.py' '{}' '{}'", SWIATTN_TEST_FIXTURES,
                    folder.file(name), folder.file("expected.json"));
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
  }
}

TEST(IndexedDataset, AMillionDocumentsOpenAtOnce) {
  TemporaryFolder folder;
  constexpr int64_t kDocuments = 1'000'000;
  {
    ShardWriter writer(FileSystem::posix(), folder.file("s"), {.vocab_size = 60000});
    const std::vector<int32_t> tokens(7, 5);
    for (int64_t i = 0; i < kDocuments; ++i) {
      writer.append_document(std::span(tokens).first(static_cast<size_t>(i % 7 + 1)));
    }
    writer.finish();
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto source = open_token_source(folder.file("s"));
  const std::chrono::duration<double, std::milli> opened = std::chrono::steady_clock::now() - begin;
  fmt::print("an index of {} documents opened in {:.1f} ms\n", kDocuments, opened.count());
  ASSERT_EQ(source->documents(), kDocuments);
  EXPECT_EQ(source->document(kDocuments - 1).end, source->tokens());
  for (int64_t number : {int64_t{0}, int64_t{6}, int64_t{7}, int64_t{500'000}, kDocuments - 1}) {
    const TokenRange range = source->document(number);
    EXPECT_EQ(range.size(), number % 7 + 1);
    EXPECT_EQ(source->document_at(range.begin), number);
    EXPECT_EQ(source->document_at(range.end - 1), number);
  }
}

}  // namespace
}  // namespace swiattn
