#include "data/text_input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <random>

#include "tests/base/expect_error.h"
#include "tests/base/temporary_folder.h"
#include "tests/data/tokenizer_fixture.h"

namespace swiattn {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

std::string gzip(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(deflateBound(&stream, text.size()) + 100, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

std::string zstd(const std::string& text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  return packed;
}

std::string numbers(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += std::to_string(i * 7919) + (i % 9 ? " " : "\n");
  return text;
}

class TextInputTest : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& bytes) {
    const std::string path = folder_.file(name);
    fs::create_directories(fs::path(path).parent_path());
    write_file(path, bytes);
    return path;
  }
  std::string refusal_of_reading(const std::string& path) {
    return sentence_of(ExitCode::kData, [&] { unpack(path); });
  }

  TemporaryFolder folder_;
};

TEST_F(TextInputTest, UnpacksGzipAndZstdOfSeveralMembers) {
  const std::string first = numbers(100000);
  const std::string second = numbers(70001);
  EXPECT_EQ(unpack(write("a.txt", first)), first);
  EXPECT_EQ(unpack(write("a.txt.gz", gzip(first))), first);
  EXPECT_EQ(unpack(write("b.txt.gz", gzip(first) + gzip("") + gzip(second))), first + second);
  EXPECT_EQ(unpack(write("a.txt.zst", zstd(first))), first);
  EXPECT_EQ(unpack(write("b.txt.zst", zstd(first) + zstd("") + zstd(second))), first + second);
  EXPECT_EQ(unpack(write("c.txt.gz", gzip(""))), "");
  EXPECT_EQ(unpack(write("c.txt.zst", zstd(""))), "");
  const std::string same(3000000, 'x');
  EXPECT_EQ(unpack(write("d.txt.gz", gzip(same))), same);
  EXPECT_EQ(unpack(write("d.txt.zst", zstd(same))), same);
}

TEST_F(TextInputTest, UnpacksIntoBuffersOfAnySize) {
  const std::string text = numbers(3000);
  for (const std::string& path : {write("a.gz", gzip(text)), write("a.zst", zstd(text))}) {
    for (const size_t size : {1, 2, 3, 1000}) {
      const auto source = open_byte_source(path);
      std::string result;
      std::vector<char> buffer(size);
      while (const size_t count = source->read(buffer.data(), size)) {
        ASSERT_LE(count, size);
        result.append(buffer.data(), count);
      }
      EXPECT_EQ(result, text) << path << " by " << size;
      EXPECT_EQ(source->read(buffer.data(), size), 0u);
    }
  }
}

TEST_F(TextInputTest, RefusesArchivesThatWereCutOffAnywhere) {
  const std::string text = numbers(60);
  for (const auto& [name, packed] :
       {std::pair{"a.gz", gzip(text) + gzip(text)}, std::pair{"a.zst", zstd(text) + zstd(text)}}) {
    int accepted = 0;
    for (size_t size = 0; size < packed.size(); ++size) {
      const std::string path = write(name, packed.substr(0, size));
      try {
        EXPECT_EQ(unpack(path), text);  // cut exactly between the two members
        ++accepted;
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), HasSubstr(path + " ends in the middle"));
      }
    }
    EXPECT_EQ(accepted, 1) << name;
  }
}

TEST_F(TextInputTest, RefusesDamagedArchivesNamingTheFile) {
  const std::string text = numbers(20000);
  std::mt19937 random(17);
  for (const auto& [name, packed] :
       {std::pair{"a.gz", gzip(text)}, std::pair{"a.zst", zstd(text)}}) {
    for (int round = 0; round < 200; ++round) {
      std::string damaged = packed;
      damaged[random() % damaged.size()] ^= static_cast<char>(1 << random() % 8);
      const std::string path = write(name, damaged);
      try {
        EXPECT_EQ(unpack(path).size(), text.size());  // a bit that carries nothing
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kData);
        EXPECT_THAT(error.what(), HasSubstr(path));
      }
    }
  }
  EXPECT_THAT(refusal_of_reading(write("b.gz", "no gzip")), HasSubstr("cannot be unpacked"));
  EXPECT_THAT(refusal_of_reading(write("b.zst", "no zstd")), HasSubstr("cannot be unpacked"));
  EXPECT_THAT(refusal_of_reading(write("c.gz", gzip("a") + "trailing")),
              HasSubstr("cannot be unpacked"));
  EXPECT_THAT(refusal_of_reading(folder_.file("missing.txt")), HasSubstr("cannot be opened"));
}

TEST_F(TextInputTest, ListsFoldersSortedWithKnownSuffixesOnly) {
  for (const char* name : {"in/b.txt", "in/a/z.jsonl.gz", "in/a/y.txt.zst", "in/c.md", "in/d.gz",
                           "in/txt", "in/e.jsonl", "other/x.txt"}) {
    write(name, "");
  }
  fs::create_symlink(folder_.file("other/x.txt"), folder_.file("in/link.txt"));
  fs::create_symlink(folder_.file("nowhere.txt"), folder_.file("in/broken.txt"));
  fs::create_directories(folder_.file("in/folder.txt"));
  const auto inputs = list_text_inputs({folder_.file("other/x.txt"), folder_.file("in"), "-"},
                                       TextFormat::kJsonLines);
  std::vector<std::string> paths;
  for (const TextInput& input : inputs) paths.push_back(input.path);
  EXPECT_THAT(paths, ElementsAre(folder_.file("other/x.txt"), folder_.file("in/a/y.txt.zst"),
                                 folder_.file("in/a/z.jsonl.gz"), folder_.file("in/b.txt"),
                                 folder_.file("in/e.jsonl"), folder_.file("in/link.txt"), "-"));
  EXPECT_EQ(inputs[1].format, TextFormat::kText);
  EXPECT_EQ(inputs[2].format, TextFormat::kJsonLines);
  EXPECT_EQ(inputs.back().format, TextFormat::kJsonLines);
}

TEST_F(TextInputTest, RefusesInputsThatAreNoText) {
  const auto refusal = [&](const std::string& path) {
    return sentence_of(ExitCode::kData, [&] { list_text_inputs({path}, TextFormat::kText); });
  };
  EXPECT_THAT(refusal(folder_.file("missing.txt")), HasSubstr("missing.txt cannot be opened"));
  EXPECT_THAT(refusal(write("notes.md", "")), HasSubstr("notes.md ends in none of .txt"));
  EXPECT_THAT(refusal(write("text.gz", "")), HasSubstr("text.gz ends in none of .txt"));
  write("empty/notes.md", "");
  EXPECT_THAT(refusal(folder_.file("empty")), HasSubstr("holds no .txt or .jsonl file"));
}

// Cuts before the last space.
size_t last_space(std::string_view text) {
  const size_t space = text.rfind(' ');
  return space == text.npos ? 0 : space;
}

TEST_F(TextInputTest, ChunksOfEveryInputAreItsBytesInOrder) {
  const std::string text = numbers(2000);
  const std::string lines = "one\ntwo\n\nthree\n" + std::string(5000, 'x') + "\nlast";
  const std::vector<TextInput> inputs = {{write("a.txt", text), TextFormat::kText},
                                         {write("empty.txt", ""), TextFormat::kText},
                                         {write("b.jsonl.gz", gzip(lines)), TextFormat::kJsonLines},
                                         {write("nowhere.txt", std::string(9000, 'y'))},
                                         {write("c.txt.zst", zstd(text)), TextFormat::kText}};
  const std::vector<std::string> contents = {text, "", lines, std::string(9000, 'y'), text};
  for (const size_t chunk_bytes : {1, 7, 100, 100000}) {
    TextReader reader(inputs, last_space, chunk_bytes);
    TextChunk chunk;
    for (size_t i = 0; i < inputs.size(); ++i) {
      std::string bytes;
      uint64_t line = 1;
      bool ended = false;
      while (!ended) {
        ASSERT_TRUE(reader.next(chunk));
        EXPECT_EQ(chunk.input.path, inputs[i].path);
        EXPECT_EQ(chunk.begins_input, bytes.empty());
        EXPECT_EQ(chunk.offset, bytes.size());
        EXPECT_EQ(chunk.first_line, line);
        bytes += chunk.bytes;
        line += static_cast<uint64_t>(std::count(chunk.bytes.begin(), chunk.bytes.end(), '\n'));
        ended = chunk.ends_input;
        if (!ended && chunk.input.format == TextFormat::kJsonLines) {
          EXPECT_EQ(chunk.bytes.back(), '\n');
        }
      }
      EXPECT_EQ(bytes, contents[i]) << inputs[i].path << " by " << chunk_bytes;
    }
    EXPECT_FALSE(reader.next(chunk));
  }
}

TEST_F(TextInputTest, ReadsStandardInput) {
  const std::string path = write("piped", "some words from a pipe");
  const int saved = dup(STDIN_FILENO);
  ASSERT_NE(freopen(path.c_str(), "r", stdin), nullptr);
  EXPECT_EQ(unpack("-"), "some words from a pipe");
  dup2(saved, STDIN_FILENO);
  close(saved);
}

}  // namespace
}  // namespace swiattn
