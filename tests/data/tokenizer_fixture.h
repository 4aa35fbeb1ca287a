// The stored tokenizers of tests/fixtures/tokenizers and what the reference libraries say about
// them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file_system.h"
#include "base/json.h"
#include "data/byte_source.h"

namespace swiattn {

inline std::string tokenizer_folder(const std::string& name) {
  return std::string(SWIATTN_TEST_FIXTURES) + "/tokenizers/" + name;
}

inline Json read_fixture(const std::string& path) {
  return read_json_file(tokenizer_folder(path), ExitCode::kData);
}

inline std::string unpack(const std::string& path) {
  const auto source = open_byte_source(path);
  std::string text;
  std::vector<char> buffer(100000);
  while (const size_t count = source->read(buffer.data(), buffer.size())) {
    text.append(buffer.data(), count);
  }
  return text;
}

inline std::string read_novel() {
  return unpack(std::string(SWIATTN_TEST_FIXTURES) + "/../../data/books/persuasion.txt.zst");
}

// As in make_fixtures.py.
inline uint64_t checksum(std::span<const int32_t> ids) {
  uint64_t value = 0;
  for (const int32_t id : ids) value = value * 1000003 + static_cast<uint64_t>(id) + 1;
  return value;
}

}  // namespace swiattn
