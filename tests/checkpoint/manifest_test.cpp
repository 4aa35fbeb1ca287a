#include "checkpoint/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/hash.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using ::testing::HasSubstr;

Manifest example() {
  Manifest manifest;
  manifest.fields = {500, 2'048'000, 2, 0x0123456789abcdef};
  manifest.files = {{"weights.safetensors", 1000, 0xfedcba9876543210}, {"state.json", 0, 0}};
  return manifest;
}

// The text with its own hash made right again, as somebody would who edits on purpose.
std::string with_right_hash(std::string text) {
  const std::string ending = "  \"manifest_hash\": \"xxh3:0123456789abcdef\"\n}\n";
  const std::string body = text.substr(0, text.size() - ending.size());
  return body + "  \"manifest_hash\": \"" + format_hash(hash_text(body)) + "\"\n}\n";
}

std::string edited(const std::string& from, const std::string& to) {
  std::string text = format_manifest(example());
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return with_right_hash(text.replace(at, from.size(), to));
}

std::string refusal(const std::string& text) {
  try {
    parse_manifest(text, "MANIFEST.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kCheckpoint);
    EXPECT_THAT(error.what(), HasSubstr("MANIFEST.json"));
    return error.what();
  }
  return "";
}

TEST(Manifest, IsReadAsItWasWritten) {
  EXPECT_EQ(parse_manifest(format_manifest(example()), "m"), example());
}

TEST(Manifest, WithoutFilesAndWithTheLargestNumbersIsReadAsItWasWritten) {
  Manifest manifest;
  const int64_t largest = std::numeric_limits<int64_t>::max();
  manifest.fields = {largest, largest, largest, std::numeric_limits<uint64_t>::max()};
  EXPECT_EQ(parse_manifest(format_manifest(manifest), "m"), manifest);
}

TEST(Manifest, HasTheTextThatTheDocumentationShows) {
  Manifest manifest;
  manifest.fields = {500, 2048000, 1, 0x1};
  manifest.files = {{"state.json", 2, 0x2}};
  const std::string body =
      "{\n"
      "  \"format\": \"swiattn-checkpoint\",\n"
      "  \"version\": 1,\n"
      "  \"step\": 500,\n"
      "  \"tokens\": 2048000,\n"
      "  \"world\": 1,\n"
      "  \"config_hash\": \"xxh3:0000000000000001\",\n"
      "  \"files\": [\n"
      "    {\"name\": \"state.json\", \"bytes\": 2, \"hash\": \"xxh3:0000000000000002\"}\n"
      "  ],\n";
  EXPECT_EQ(format_manifest(manifest),
            body + "  \"manifest_hash\": \"" + format_hash(hash_text(body)) + "\"\n}\n");
}

TEST(Manifest, WithAnyBitFlippedIsRefused) {
  const std::string text = format_manifest(example());
  for (size_t i = 0; i < text.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = text;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      EXPECT_NE(refusal(damaged), "") << "byte " << i << " bit " << bit;
    }
  }
}

TEST(Manifest, CutAnywhereOrPrecededOrFollowedByAByteIsRefused) {
  const std::string text = format_manifest(example());
  for (size_t size = 0; size < text.size(); ++size) EXPECT_NE(refusal(text.substr(0, size)), "");
  for (const char byte : {' ', '\n', '\0', 'x'}) {
    EXPECT_NE(refusal(text + byte), "");
    EXPECT_NE(refusal(byte + text), "");
  }
  EXPECT_NE(refusal(text + text), "");
  EXPECT_NE(refusal(std::string(text.size(), '\0')), "");
}

TEST(Manifest, WithImpossibleValuesIsRefusedEvenWithARightHash) {
  EXPECT_EQ(refusal(with_right_hash(format_manifest(example()))), "");
  EXPECT_THAT(refusal(edited("\"step\": 500", "\"step\": -1")), HasSubstr("step"));
  EXPECT_THAT(refusal(edited("\"step\": 500", "\"step\": 1.5")), HasSubstr("step"));
  EXPECT_THAT(refusal(edited("\"step\": 500", "\"step\": 9223372036854775808")), HasSubstr("step"));
  EXPECT_THAT(refusal(edited("\"step\": 500", "\"stop\": 500")), HasSubstr("step"));
  EXPECT_THAT(refusal(edited("\"world\": 2", "\"world\": 0")), HasSubstr("world"));
  EXPECT_THAT(refusal(edited("\"bytes\": 1000", "\"bytes\": -1000")), HasSubstr("bytes"));
  EXPECT_THAT(refusal(edited("\"world\": 2", "\"step\": 2")), HasSubstr("step"));
  EXPECT_THAT(refusal(edited("xxh3:fedcba9876543210", "xxh3:FEDCBA9876543210")), HasSubstr("hash"));
  EXPECT_THAT(refusal(edited("xxh3:fedcba9876543210", "xxh3:fedcba987654321")), HasSubstr("hash"));
  EXPECT_THAT(refusal(edited("xxh3:0123456789abcdef", "sha1:0123456789abcdef")),
              HasSubstr("config_hash"));
  EXPECT_THAT(refusal(edited("swiattn-checkpoint", "something-else")), HasSubstr("format"));
}

TEST(Manifest, ListingAFileOutsideTheFolderOrTwiceIsRefused) {
  for (const char* name : {"../weights", "/etc/passwd", "a/b", "..", ".", "", ".hidden",
                           "MANIFEST.json", "a b", "a\\u0000b"}) {
    EXPECT_THAT(refusal(edited("weights.safetensors", name)), HasSubstr("name")) << name;
  }
  EXPECT_THAT(refusal(edited("weights.safetensors", "state.json")), HasSubstr("name"));
}

TEST(Manifest, OfANewerFormatSaysSo) {
  EXPECT_THROW(parse_manifest(edited("\"version\": 1", "\"version\": 2"), "m"), NewerFormatError);
  EXPECT_THAT(refusal(edited("\"version\": 1", "\"version\": 2")), HasSubstr("newer"));
  EXPECT_THAT(refusal(edited("\"version\": 1", "\"version\": 0")), HasSubstr("version"));
}

TEST(Manifest, OfAFolderWithoutOneIsRefusedByItsPath) {
  const TemporaryFolder folder;
  try {
    read_manifest(folder.path());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kCheckpoint);
    EXPECT_THAT(error.what(), HasSubstr(folder.file("MANIFEST.json")));
  }
}

}  // namespace
}  // namespace swiattn
