#include "checkpoint/safetensors.h"

#include <cstring>
#include <numeric>

#include "base/json.h"
#include "tests/base/expect_error.h"
#include "tests/base/fault_file_system.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The bytes of a file with this header and so many bytes of data.
std::string file_of(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(data_bytes, 'x');
}

std::string header_of(const std::string& name, const std::string& dtype, const std::string& shape,
                      const std::string& offsets) {
  return "{\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape +
         R"(,"data_offsets":)" + offsets + "}}";
}

class Safetensors : public ::testing::Test {
 protected:
  std::string refusal(const std::string& contents) {
    write_file(path_, contents);
    const std::string sentence =
        sentence_of(ExitCode::kCheckpoint, [&] { SafetensorsFile file(path_); });
    EXPECT_THAT(sentence, HasSubstr(path_)) << "the file must be named";
    return sentence;
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.file("weights.safetensors");
};

TEST_F(Safetensors, ReadsBackWhatItWrites) {
  std::vector<float> floats(12);
  std::iota(floats.begin(), floats.end(), -3.5F);
  const std::vector<uint16_t> halves = {1, 2, 3};
  const std::vector<uint8_t> byte = {7};
  const WrittenFile written =
      write_safetensors(FileSystem::posix(), path_,
                        {{"b.half", TensorType::kBF16, {3}, halves.data()},
                         {"scalar", TensorType::kU8, {}, byte.data()},
                         {"empty", TensorType::kF64, {4, 0, 2}, byte.data()},
                         {"a.float", TensorType::kF32, {3, 4}, floats.data()}},
                        {{"format", "pt"}, {"note", "\"quoted\" ü"}});
  EXPECT_EQ(written.bytes, file_size(path_, ExitCode::kCheckpoint));
  const std::string contents = read_file(path_, ExitCode::kCheckpoint);
  EXPECT_EQ(written.hash, hash_text(contents));
  EXPECT_EQ((written.bytes - 48 - 6 - 1) % 8, 0U) << "the data begins at a multiple of 8";

  const SafetensorsFile file(path_);
  EXPECT_EQ(file.tensors().size(), 4U);
  EXPECT_EQ(file.metadata().at("note"), "\"quoted\" ü");
  const TensorEntry& entry = file.entry("a.float");
  EXPECT_THAT(entry.shape, ElementsAre(3, 4));
  EXPECT_EQ(entry.type, TensorType::kF32);
  EXPECT_EQ(entry.elements(), 12);
  EXPECT_EQ(std::memcmp(file.data(entry).data(), floats.data(), 48), 0);
  EXPECT_EQ(std::memcmp(file.data(file.entry("b.half")).data(), halves.data(), 6), 0);
  EXPECT_EQ(file.entry("scalar").elements(), 1);
  EXPECT_EQ(file.entry("empty").elements(), 0);
}

TEST_F(Safetensors, OrdersTensorsByWidthThenName) {
  const uint64_t zero = 0;
  write_safetensors(FileSystem::posix(), path_,
                    {{"z", TensorType::kI64, {1}, &zero},
                     {"c", TensorType::kBF16, {1}, &zero},
                     {"b", TensorType::kF16, {1}, &zero},
                     {"a", TensorType::kBool, {1}, &zero},
                     {"y", TensorType::kF32, {1}, &zero}},
                    {});
  const SafetensorsFile file(path_);
  EXPECT_EQ(file.entry("z").begin, 0U);
  EXPECT_EQ(file.entry("y").begin, 8U);
  EXPECT_EQ(file.entry("b").begin, 12U);
  EXPECT_EQ(file.entry("c").begin, 14U);
  EXPECT_EQ(file.entry("a").begin, 16U);
}

TEST_F(Safetensors, AFilledTensorIsWrittenInBlocks) {
  const auto elements = static_cast<int64_t>(kWriteBlock / 4 * 2 + 5);
  std::vector<uint64_t> offsets;
  TensorSource source{"big", TensorType::kI32, {elements}};
  source.fill = [&](uint64_t offset, std::span<std::byte> block) {
    offsets.push_back(offset);
    for (size_t i = 0; i < block.size(); i += 4) {
      const auto value = static_cast<int32_t>((offset + i) / 4);
      std::memcpy(block.data() + i, &value, 4);
    }
  };
  write_safetensors(FileSystem::posix(), path_, {source}, {});
  EXPECT_THAT(offsets, ElementsAre(0, kWriteBlock, 2 * kWriteBlock));
  const SafetensorsFile file(path_);
  const auto data = file.data(file.entry("big"));
  for (int64_t i = 0; i < elements; ++i) {
    int32_t value = 0;
    std::memcpy(&value, data.data() + 4 * i, 4);
    ASSERT_EQ(value, i);
  }
}

TEST_F(Safetensors, EveryFailedCallOfTheDiskIsReported) {
  const std::vector<float> floats(100);
  const auto write = [&](FileSystem& files) {
    write_safetensors(files, path_, {{"a", TensorType::kF32, {100}, floats.data()}}, {});
  };
  FaultFileSystem counting;
  write(counting);
  for (int call = 1; call <= counting.calls(); ++call) {
    FaultFileSystem failing;
    failing.inject(call, FaultFileSystem::Fault::kOnce);
    EXPECT_THROW(write(failing), FileError) << "call " << call;
  }
}

TEST_F(Safetensors, AnEmptyFileOfTensorsIsValid) {
  write_file(path_, file_of("{}      ", 0));
  EXPECT_TRUE(SafetensorsFile(path_).tensors().empty());
}

TEST_F(Safetensors, RefusesHeadersOfImpossibleLength) {
  EXPECT_THAT(refusal(""), HasSubstr("too short"));
  EXPECT_THAT(refusal("1234567"), HasSubstr("too short"));
  for (const uint64_t length :
       {UINT64_MAX, UINT64_MAX - 7, uint64_t{1} << 63, uint64_t{100'000'001}}) {
    std::string contents = file_of("{}", 100);
    std::memcpy(contents.data(), &length, 8);
    EXPECT_THAT(refusal(contents), HasSubstr("at most 100000000"));
  }
  std::string cut = file_of(header_of("a", "F32", "[1]", "[0,4]"), 0);
  cut.resize(30);
  EXPECT_THAT(refusal(cut), HasSubstr("cut short"));
  EXPECT_THAT(refusal(file_of("", 4)), HasSubstr("must begin with '{'"));
  EXPECT_THAT(refusal(file_of(" {}", 0)), HasSubstr("must begin with '{'"));
}

TEST_F(Safetensors, RefusesHeadersThatAreNotStrictJson) {
  EXPECT_THAT(refusal(file_of("{\"a\":", 0)), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(file_of("{} {}", 0)), HasSubstr("not valid JSON"));
  const std::string one = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_THAT(refusal(file_of("{" + one + "," + one + "}", 1)), HasSubstr("stands twice"));
  EXPECT_THAT(refusal(file_of("{\"a\xff\":1}", 0)), HasSubstr("JSON"));
}

TEST_F(Safetensors, RefusesAShapeWhoseSizeWraps) {
  // 2^62 * 8 * 2 elements of one byte: the product modulo 2^64 is 0.
  EXPECT_THAT(refusal(file_of(header_of("w", "U8", "[4611686018427387904,8,2]", "[0,0]"), 0)),
              HasSubstr("w.shape"));
  EXPECT_THAT(refusal(file_of(header_of("w", "F64", "[2305843009213693952]", "[0,0]"), 0)),
              HasSubstr("w.shape"));
  EXPECT_THAT(refusal(file_of(header_of("w", "U8", "[18446744073709551615]", "[0,0]"), 0)),
              HasSubstr("w.shape[0]"));
}

TEST_F(Safetensors, RefusesAnUnknownTypeWhateverElseIsRight) {
  for (const char* type : {"F8_E4M3", "f32", "", "COMPLEX64"}) {
    EXPECT_THAT(refusal(file_of(header_of("w", type, "[1]", "[0,4]"), 4)), HasSubstr("w.dtype"));
  }
}

TEST_F(Safetensors, RefusesOffsetsThatAreNoOffsets) {
  for (const char* offsets : {"[-4,0]", "[0,4.0]", "[0.5,4]", "[0,\"4\"]", "[0,null]",
                              "[0,18446744073709551615]", "[0,1e3]"}) {
    EXPECT_THAT(refusal(file_of(header_of("w", "F32", "[1]", offsets), 4)),
                HasSubstr("w.data_offsets["))
        << offsets;
  }
  for (const char* offsets : {"[]", "[4]", "[0,4,8]", "[4,0]"}) {
    EXPECT_THAT(refusal(file_of(header_of("w", "F32", "[1]", offsets), 4)),
                HasSubstr("w.data_offsets"))
        << offsets;
  }
  EXPECT_THAT(refusal(file_of(header_of("w", "F32", "[1]", "{}"), 4)), HasSubstr("a list"));
}

TEST_F(Safetensors, RefusesSizesThatDisagreeWithTheShape) {
  EXPECT_THAT(refusal(file_of(header_of("w", "F32", "[3]", "[0,8]"), 8)), HasSubstr("12 bytes"));
  EXPECT_THAT(refusal(file_of(header_of("w", "F32", "[1]", "[0,8]"), 8)), HasSubstr("4 bytes"));
  EXPECT_THAT(refusal(file_of(header_of("w", "F32", "[]", "[0,0]"), 0)), HasSubstr("4 bytes"));
}

TEST_F(Safetensors, RefusesGapsOverlapsAndTails) {
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"U8","shape":[2],"data_offsets":)" + first +
           R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)" + second + "}}";
  };
  EXPECT_THAT(refusal(file_of(two("[0,2]", "[3,5]"), 5)), HasSubstr("tensor b begins at byte 3"));
  EXPECT_THAT(refusal(file_of(two("[0,2]", "[1,3]"), 3)), HasSubstr("tensor b begins at byte 1"));
  EXPECT_THAT(refusal(file_of(two("[0,2]", "[0,2]"), 2)), HasSubstr("begins at byte 0"));
  EXPECT_THAT(refusal(file_of(two("[2,4]", "[4,6]"), 6)), HasSubstr("tensor a begins at byte 2"));
  EXPECT_THAT(refusal(file_of(two("[0,2]", "[2,4]"), 3)), HasSubstr("cut short"));
  EXPECT_THAT(refusal(file_of(two("[0,2]", "[2,4]"), 5)), HasSubstr("appended"));
  EXPECT_THAT(refusal(file_of("{}", 1)), HasSubstr("appended"));
}

TEST_F(Safetensors, RefusesEntriesOfTheWrongForm) {
  EXPECT_THAT(refusal(file_of("{\"w\":3}", 0)), HasSubstr("w: expected an object"));
  EXPECT_THAT(refusal(file_of(R"({"w":{"dtype":"U8","shape":[0]}})", 0)),
              HasSubstr("w.data_offsets"));
  EXPECT_THAT(refusal(file_of(R"({"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1}})", 0)),
              HasSubstr("\"x\" is unknown"));
  EXPECT_THAT(refusal(file_of(header_of("w", "U8", "[-1]", "[0,0]"), 0)), HasSubstr("w.shape[0]"));
  EXPECT_THAT(refusal(file_of(header_of("w", "U8", "3", "[0,3]"), 3)), HasSubstr("w.shape"));
  EXPECT_THAT(refusal(file_of(R"({"__metadata__":{"format":1}})", 0)),
              HasSubstr("__metadata__.format"));
  EXPECT_THAT(refusal(file_of(R"({"__metadata__":"pt"})", 0)), HasSubstr("__metadata__"));
}

TEST_F(Safetensors, NoByteOfAHeaderCanBeFlippedUnnoticedIntoAWildRead) {
  const std::vector<float> floats(6, 1.0F);
  write_safetensors(FileSystem::posix(), path_,
                    {{"a", TensorType::kF32, {2, 2}, floats.data()},
                     {"b", TensorType::kBF16, {3}, floats.data()}},
                    {{"format", "pt"}});
  const std::string good = read_file(path_, ExitCode::kCheckpoint);
  for (size_t at = 0; at < good.size() - 22; ++at) {
    for (const int flip : {1 << (at % 8), 0x80}) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ flip);
      write_file(path_, bad);
      try {
        const SafetensorsFile file(path_);
        for (const auto& [name, entry] : file.tensors()) {
          const auto data = file.data(entry);
          if (data.empty()) continue;
          volatile auto touched =
              std::to_integer<int>(data.front()) + std::to_integer<int>(data.back());
          (void)touched;
        }
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kCheckpoint) << error.what();
      }
    }
  }
}

TEST_F(Safetensors, AMissingTensorIsNamed) {
  write_file(path_, file_of("{}", 0));
  const SafetensorsFile file(path_);
  EXPECT_THAT(sentence_of(ExitCode::kCheckpoint, [&] { file.entry("w"); }),
              HasSubstr("has no tensor w"));
}

}  // namespace
}  // namespace swiattn
