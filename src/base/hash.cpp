#include "base/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <new>

namespace swiattn {

struct Hasher::State {
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> xxh{XXH3_createState()};
};

Hasher::Hasher() : state_(std::make_unique<State>()) {
  if (!state_->xxh) throw std::bad_alloc();
  XXH3_64bits_reset(state_->xxh.get());
}
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

void Hasher::update(const void* bytes, size_t count) {
  if (count > 0) XXH3_64bits_update(state_->xxh.get(), bytes, count);
}

uint64_t Hasher::digest() const { return XXH3_64bits_digest(state_->xxh.get()); }

uint64_t hash_bytes(const void* bytes, size_t count) { return XXH3_64bits(bytes, count); }

std::string format_hash(uint64_t hash) { return fmt::format("xxh3:{:016x}", hash); }

}  // namespace swiattn
