// A stream of bytes from a plain, gzip or zstd file, or from standard input.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace swiattn {

class ByteSource {
 public:
  virtual ~ByteSource() = default;

  // Fills `bytes` with up to `count` (> 0) of the next bytes, unpacked. 0 means the end, which is
  // the end of the file and of what is packed in it: Error{kData} naming the file when it was cut
  // off or damaged.
  virtual size_t read(char* bytes, size_t count) = 0;
};

// What unpacks a file, by its name: .gz (of several members too), .zst (of several frames too).
// "-" is standard input as it is. Throws Error{kData} when the file cannot be opened.
std::unique_ptr<ByteSource> open_byte_source(const std::string& path);

}  // namespace swiattn
