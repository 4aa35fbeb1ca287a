// XXH3-64, the hash of every payload the project writes. Not cryptographic: it notices accidents.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace swiattn {

// A hash over bytes that arrive in pieces.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;

  void update(const void* bytes, size_t count);
  uint64_t digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

uint64_t hash_bytes(const void* bytes, size_t count);
inline uint64_t hash_text(std::string_view text) { return hash_bytes(text.data(), text.size()); }

// "xxh3:0123456789abcdef", the form in which a hash is written into JSON files.
std::string format_hash(uint64_t hash);

}  // namespace swiattn
