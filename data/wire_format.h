// Reads the wire format of protocol buffers, field by field.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace swiattn {

// Walks over one message. Does not own the bytes. Everything throws Error{kData} beginning with
// `source` when the bytes are not a well-formed message.
class WireReader {
 public:
  enum class Type { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

  WireReader(std::string_view bytes, const std::string& source) : rest_(bytes), source_(source) {}

  // Moves to the next field; false at the end of the message.
  bool next();

  uint32_t field() const { return field_; }

  // The field's value; throws when it has another type.
  uint64_t varint() const;
  std::string_view bytes() const;
  float float32() const;

 private:
  uint64_t read_varint();
  std::string_view take(uint64_t count);
  void expect(Type type) const;
  [[noreturn]] void refuse() const;

  std::string_view rest_;
  const std::string& source_;
  uint32_t field_ = 0;
  Type type_ = Type::kVarint;
  uint64_t number_ = 0;     // of kVarint
  std::string_view bytes_;  // of the others
};

}  // namespace swiattn
