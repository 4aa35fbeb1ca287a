#include "trainer/tensorboard_writer.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/host.h"

namespace swiattn {
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78u : 0u);
    table[i] = crc;
  }
  return table;
}

template <class Number>
std::string little_endian(Number value) {
  static_assert(std::endian::native == std::endian::little);
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

// The wire format of protocol buffers: a key (field number and wire type), then the value.
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5 };

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>((value & 0x7f) | 0x80);
  return bytes + static_cast<char>(value);
}
std::string key(uint32_t field, WireType type) { return varint(field << 3 | type); }
std::string message(uint32_t field, std::string_view contents) {
  return key(field, kLengthDelimited) + varint(contents.size()) + std::string(contents);
}

double seconds_since_epoch() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Event: wall_time 1, step 2, and one of file_version 3, summary 5, session_log 7.
std::string event(int64_t step, uint32_t field, std::string_view contents) {
  return key(1, kFixed64) + little_endian(seconds_since_epoch()) + key(2, kVarint) +
         varint(static_cast<uint64_t>(step)) + message(field, contents);
}

// Summary.Value: tag 1, simple_value 2.
std::string scalar(const std::string& tag, double value) {
  return message(1, tag) + key(2, kFixed32) + little_endian(static_cast<float>(value));
}

}  // namespace

uint32_t masked_crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = make_crc_table();
  uint32_t crc = 0xffffffffu;
  for (const char byte : bytes)
    crc = kTable[(crc ^ static_cast<uint8_t>(byte)) & 0xff] ^ (crc >> 8);
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

TensorboardWriter::TensorboardWriter(FileSystem& files, const std::string& folder,
                                     int64_t resumed_step, Log& log)
    : log_(log) {
  try {
    files.make_folders(folder);
    // TensorBoard reads the files of a folder in the order of their names.
    file_ =
        files.create(fmt::format("{}/events.out.tfevents.{:.0f}.{}.{}.swiattn", folder,
                                 std::floor(seconds_since_epoch() * 1e6), host_name(), getpid()));
  } catch (const FileError& error) {
    log_.warning("{} Nothing is written for TensorBoard in this run.", error.what());
    return;
  }
  write_record(event(0, 3, "brain.Event:2"));
  const std::string session_start = key(1, kVarint) + varint(1);  // SessionLog.status = START
  write_record(event(resumed_step + 1, 7, session_start));
}

void TensorboardWriter::record(const StepMetrics& metrics) {
  Scalars scalars;
  visit_scalars(metrics, [&](std::string_view name, double value) {
    scalars.emplace_back(fmt::format("train/{}", name), value);
  });
  for (size_t i = 0; i < metrics.full_ratio_by_layer.size(); ++i) {
    scalars.emplace_back(fmt::format("layers/full_ratio/{:02}", i + 1),
                         metrics.full_ratio_by_layer[i]);
  }
  write_scalars(metrics.step, scalars);
}

void TensorboardWriter::record(const ValidationMetrics& metrics) {
  write_scalars(metrics.step,
                {{fmt::format("validation/{}/nll", metrics.name), metrics.nll},
                 {fmt::format("validation/{}/perplexity", metrics.name), metrics.perplexity},
                 {fmt::format("validation/{}/full_ratio", metrics.name), metrics.full_ratio}});
}

void TensorboardWriter::write_scalars(int64_t step, const Scalars& scalars) {
  std::string summary;
  for (const auto& [tag, value] : scalars) {
    if (std::isfinite(value)) summary += message(1, scalar(tag, value));
  }
  if (!summary.empty()) write_record(event(step, 5, summary));
}

void TensorboardWriter::write_record(std::string_view payload) {
  if (!file_) return;
  const std::string length = little_endian(static_cast<uint64_t>(payload.size()));
  std::string record = length + little_endian(masked_crc32c(length));
  record += payload;
  record += little_endian(masked_crc32c(payload));
  try {
    file_->append(record);
  } catch (const FileError& error) {
    // A torn record makes what follows unreadable, so nothing may follow.
    log_.warning("{} Nothing more is written for TensorBoard in this run.", error.what());
    file_.reset();
  }
}

}  // namespace swiattn
