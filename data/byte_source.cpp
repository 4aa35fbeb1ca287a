#include "data/byte_source.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "base/error.h"

namespace swiattn {
namespace {

constexpr size_t kBufferBytes = 1 << 17;

class PlainSource : public ByteSource {
 public:
  explicit PlainSource(const std::string& path)
      : path_(path), descriptor_(path == "-" ? dup(STDIN_FILENO) : open(path.c_str(), O_CLOEXEC)) {
    if (descriptor_ < 0) {
      fail(ExitCode::kData, "{} cannot be opened: {}.", path, std::strerror(errno));
    }
  }
  ~PlainSource() override { ::close(descriptor_); }
  PlainSource(const PlainSource&) = delete;
  PlainSource& operator=(const PlainSource&) = delete;

  size_t read(char* bytes, size_t count) override {
    ssize_t result;
    do {
      result = ::read(descriptor_, bytes, count);
    } while (result < 0 && errno == EINTR);
    if (result < 0) fail(ExitCode::kData, "{} cannot be read: {}.", path_, std::strerror(errno));
    return static_cast<size_t>(result);
  }

 private:
  std::string path_;
  int descriptor_;
};

// What the two packed formats share: packed bytes come in through a buffer.
class PackedSource : public ByteSource {
 public:
  explicit PackedSource(const std::string& path)
      : path_(path), file_(path), buffer_(kBufferBytes) {}

 protected:
  // Reads more packed bytes; 0 at the end of the file.
  size_t refill() { return file_.read(buffer_.data(), buffer_.size()); }
  char* buffer() { return buffer_.data(); }

  [[noreturn]] void refuse_cut_off() const {
    fail(ExitCode::kData, "{} ends in the middle: it was cut off.", path_);
  }
  [[noreturn]] void refuse_damaged(const char* why) const {
    fail(ExitCode::kData, "{} cannot be unpacked: {}.", path_, why);
  }

 private:
  std::string path_;
  PlainSource file_;
  std::vector<char> buffer_;
};

class GzipSource : public PackedSource {
 public:
  explicit GzipSource(const std::string& path) : PackedSource(path) {
    constexpr int kGzipOnly = 16;
    if (inflateInit2(&stream_, MAX_WBITS + kGzipOnly) != Z_OK) throw std::bad_alloc();
  }
  ~GzipSource() override { inflateEnd(&stream_); }
  GzipSource(const GzipSource&) = delete;
  GzipSource& operator=(const GzipSource&) = delete;

  size_t read(char* bytes, size_t count) override {
    stream_.next_out = reinterpret_cast<Bytef*>(bytes);
    stream_.avail_out = static_cast<uInt>(std::min<size_t>(count, 1 << 30));
    const size_t wanted = stream_.avail_out;
    while (stream_.avail_out == wanted) {
      if (stream_.avail_in == 0) {
        stream_.next_in = reinterpret_cast<Bytef*>(buffer());
        stream_.avail_in = static_cast<uInt>(refill());
        if (stream_.avail_in == 0) {
          if (!between_members_) refuse_cut_off();
          return 0;
        }
      }
      if (between_members_ && members_ > 0) inflateReset(&stream_);
      between_members_ = false;
      const int result = inflate(&stream_, Z_NO_FLUSH);
      if (result == Z_STREAM_END) {
        between_members_ = true;
        ++members_;
      } else if (result != Z_OK) {
        refuse_damaged(stream_.msg != nullptr ? stream_.msg : zError(result));
      }
    }
    return wanted - stream_.avail_out;
  }

 private:
  z_stream stream_{};
  bool between_members_ = false;
  uint64_t members_ = 0;
};

class ZstdSource : public PackedSource {
 public:
  explicit ZstdSource(const std::string& path)
      : PackedSource(path), stream_(ZSTD_createDStream(), ZSTD_freeDStream) {
    if (!stream_) throw std::bad_alloc();
    // Windows up to 2 GB, as `zstd --long=31` makes them.
    ZSTD_DCtx_setParameter(stream_.get(), ZSTD_d_windowLogMax, 31);
  }

  size_t read(char* bytes, size_t count) override {
    ZSTD_outBuffer output{bytes, count, 0};
    while (output.pos == 0) {
      if (input_.pos == input_.size && !more_output_) {
        input_ = {buffer(), refill(), 0};
        if (input_.size == 0) {
          if (in_frame_) refuse_cut_off();
          return 0;
        }
      }
      const size_t result = ZSTD_decompressStream(stream_.get(), &output, &input_);
      if (ZSTD_isError(result)) refuse_damaged(ZSTD_getErrorName(result));
      in_frame_ = result != 0;
      more_output_ = in_frame_ && output.pos == output.size;
    }
    return output.pos;
  }

 private:
  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream_;
  ZSTD_inBuffer input_{};
  bool in_frame_ = true;      // an empty file is no frame
  bool more_output_ = false;  // the last output was full: there may be more without new input
};

}  // namespace

std::unique_ptr<ByteSource> open_byte_source(const std::string& path) {
  if (path.ends_with(".gz")) return std::make_unique<GzipSource>(path);
  if (path.ends_with(".zst")) return std::make_unique<ZstdSource>(path);
  return std::make_unique<PlainSource>(path);
}

}  // namespace swiattn
