#include "base/json.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/file_system.h"
#include "base/text.h"

namespace swiattn {
namespace {

constexpr size_t kLongestReason = 300;  // bytes: the parser's own can quote a whole file

constexpr size_t kDeepest = 100;

// Walks over the text and tells, from outside, how far the parser has read: the callbacks of
// nlohmann's parser do not say where they are.
class TrackingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  TrackingIterator(const char* at, size_t* read) : at_(at), read_(read) {}
  reference operator*() const { return *at_; }
  TrackingIterator& operator++() {
    ++at_;
    ++*read_;
    return *this;
  }
  TrackingIterator operator++(int) {
    TrackingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const TrackingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const TrackingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  size_t* read_;
};

// Builds the document from the parser's callbacks and refuses what nlohmann's own builder accepts.
class StrictBuilder {
 public:
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  StrictBuilder(std::string_view text, const std::string& source, ExitCode code)
      : text_(text), source_(source), code_(code) {}

  Json parse() {
    const char* end = text_.data() + text_.size();
    Json::sax_parse(TrackingIterator(text_.data(), &read_), TrackingIterator(end, &read_), this);
    return std::move(root_);
  }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(number_integer_t value) { return add(value); }
  bool number_unsigned(number_unsigned_t value) { return add(value); }
  bool number_float(number_float_t value, const string_t&) { return add(value); }
  bool string(string_t& value) { return add(std::move(value)); }
  bool binary(binary_t&) { return false; }  // not in text

  bool start_object(size_t) { return open(Json::object()); }
  bool end_object() { return close(); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_array() { return close(); }

  bool key(string_t& name) {
    if (open_.back()->contains(name)) {
      refuse(read_, fmt::format("the key \"{}\" stands twice in one object", name));
    }
    key_ = name;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error …"
    std::string why = error.what();
    const size_t colon = why.find(": ");
    const size_t bracket = why.find("] ");
    if (colon != std::string::npos) {
      why.erase(0, colon + 2);
    } else if (bracket != std::string::npos) {
      why.erase(0, bracket + 2);
    }
    refuse(position, shorten(why, kLongestReason));
  }

 private:
  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (open_.size() >= kDeepest) {
      refuse(read_, fmt::format("nesting is deeper than {}", kDeepest));
    }
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  [[noreturn]] void refuse(size_t read, const std::string& why) {
    const std::string_view before = text_.substr(0, std::min(read, text_.size()));
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const size_t newline = before.rfind('\n');
    const size_t column = newline == std::string_view::npos ? read : read - newline - 1;
    fail(code_, "{}:{}:{}: this is not valid JSON: {}.", source_, line, column, why);
  }

  std::string_view text_;
  const std::string& source_;
  ExitCode code_;
  size_t read_ = 0;
  Json root_;
  std::vector<Json*> open_;  // the objects and arrays around the current value
  std::string key_;
};

// The value as an error message shows it.
std::string describe(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  return shorten(dump_json(value), 60);
}

}  // namespace

Json parse_json(std::string_view text, const std::string& source, ExitCode code) {
  return StrictBuilder(text, source, code).parse();
}

Json read_json_file(const std::string& path, ExitCode code, uint64_t limit) {
  return parse_json(read_file(path, code, limit), path, code);
}

std::string dump_json(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string dump_json(const nlohmann::ordered_json& json, int indent) {
  return json.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

JsonCursor::JsonCursor(const Json& value, std::string source, ExitCode code)
    : JsonCursor(value, std::move(source), "", code) {}

JsonCursor::JsonCursor(const Json& value, std::string source, std::string path, ExitCode code)
    : value_(&value), source_(std::move(source)), path_(std::move(path)), code_(code) {}

bool JsonCursor::has(const std::string& key) const {
  if (!value_->is_object()) return false;
  const auto found = value_->find(key);
  return found != value_->end() && !found->is_null();
}

JsonCursor JsonCursor::operator[](const std::string& key) const {
  if (!value_->is_object()) refuse("an object");
  const std::string path = path_.empty() ? key : path_ + "." + key;
  const auto found = value_->find(key);
  if (found == value_->end()) fail(code_, "{}: {}: this key is missing.", source_, path);
  return JsonCursor(*found, source_, path, code_);
}

JsonCursor JsonCursor::at(size_t index) const {
  if (index >= size()) {
    fail(code_, "{}: {}: expected at least {} elements, found {}.", source_, path_, index + 1,
         size());
  }
  return JsonCursor((*value_)[index], source_, fmt::format("{}[{}]", path_, index), code_);
}

size_t JsonCursor::size() const {
  if (!value_->is_array()) refuse("a list");
  return value_->size();
}

std::vector<std::string> JsonCursor::keys() const {
  if (!value_->is_object()) refuse("an object");
  std::vector<std::string> keys;
  for (const auto& entry : value_->items()) keys.push_back(entry.key());
  return keys;
}

int64_t JsonCursor::integer(int64_t low, int64_t high) const {
  const bool wraps = value_->is_number_unsigned() && value_->get<uint64_t>() > INT64_MAX;
  const int64_t number = value_->is_number_integer() && !wraps ? value_->get<int64_t>() : 0;
  if (!value_->is_number_integer() || wraps || number < low || number > high) {
    refuse(fmt::format("a whole number from {} to {}", low, high));
  }
  return number;
}

double JsonCursor::number() const {
  if (!value_->is_number() || !std::isfinite(value_->get<double>())) refuse("a number");
  return value_->get<double>();
}

bool JsonCursor::boolean() const {
  if (!value_->is_boolean()) refuse("true or false");
  return value_->get<bool>();
}

std::string JsonCursor::string() const {
  if (!value_->is_string()) refuse("a text");
  return value_->get<std::string>();
}

void JsonCursor::refuse(const std::string& expected) const {
  const std::string place = path_.empty() ? source_ : source_ + ": " + path_;
  fail(code_, "{}: expected {}, found {}.", place, expected, describe(*value_));
}

}  // namespace swiattn
