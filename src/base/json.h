// Strict JSON: what nlohmann/json accepts silently (duplicate keys, 1.9 or -1 read as an unsigned
// integer, bottomless nesting, invalid UTF-8) is refused here in a sentence.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace swiattn {

using Json = nlohmann::json;

// Parses `text`. Throws Error{code} naming `source` (a file, usually), line and column, for a
// syntax error, a duplicate key, nesting deeper than 100, or invalid UTF-8.
Json parse_json(std::string_view text, const std::string& source, ExitCode code);

// Reads and parses a file of at most `limit` bytes.
Json read_json_file(const std::string& path, ExitCode code, uint64_t limit = 64ULL << 20);

// The text of a value, on one line or indented. Bytes that are not UTF-8 become U+FFFD: names of
// files may hold any bytes, and a result is not to be lost over its name.
std::string dump_json(const Json& json, int indent = -1);
std::string dump_json(const nlohmann::ordered_json& json, int indent = -1);

// A position inside a parsed document. Every accessor throws Error{code} that names the source and
// the path ("config.json: rope_scaling.factor: expected a number, found \"x\"."). Does not own the
// document, which must outlive it.
class JsonCursor {
 public:
  JsonCursor(const Json& value, std::string source, ExitCode code);

  bool has(const std::string& key) const;               // an object with this key, not null
  JsonCursor operator[](const std::string& key) const;  // throws when missing
  JsonCursor at(size_t index) const;                    // element of an array
  size_t size() const;                                  // of an array; throws when it is none
  std::vector<std::string> keys() const;                // of an object; throws when it is none

  bool is_null() const { return value_->is_null(); }
  bool is_object() const { return value_->is_object(); }
  bool is_array() const { return value_->is_array(); }
  bool is_string() const { return value_->is_string(); }
  bool is_number() const { return value_->is_number(); }

  int64_t integer(int64_t low, int64_t high) const;  // exact; a fraction or a wrap is refused
  double number() const;                             // finite
  bool boolean() const;
  std::string string() const;

  const Json& value() const { return *value_; }
  const std::string& path() const { return path_; }
  [[noreturn]] void refuse(const std::string& expected) const;  // "…: expected X, found Y."

 private:
  JsonCursor(const Json& value, std::string source, std::string path, ExitCode code);

  const Json* value_;
  std::string source_;
  std::string path_;
  ExitCode code_;
};

}  // namespace swiattn
