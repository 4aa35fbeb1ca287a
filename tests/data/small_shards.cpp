#include "tests/data/small_shards.h"

#include "data/shard_writer.h"

namespace swiattn {
namespace {

template <class Stored>
std::string encoded(const Documents& documents) {
  std::string bytes;
  for (int32_t id : joined(documents)) bytes += bytes_of(static_cast<Stored>(id));
  return bytes;
}

}  // namespace

Documents counted_documents(const std::vector<int64_t>& lengths) {
  Documents documents;
  int32_t next = 10;
  for (int64_t length : lengths) {
    std::vector<int32_t> document;
    for (int64_t i = 0; i < length; ++i) document.push_back(next++);
    if (length > 0) document.back() = kEos;
    documents.push_back(document);
  }
  return documents;
}

std::vector<int32_t> joined(const Documents& documents) {
  std::vector<int32_t> all;
  for (const auto& document : documents) all.insert(all.end(), document.begin(), document.end());
  return all;
}

std::string write_indexed(const TemporaryFolder& folder, const std::string& name,
                          const Documents& documents, int64_t vocab_size) {
  ShardWriter writer(FileSystem::posix(), folder.file(name),
                     {.tokenizer_name = "counting",
                      .tokenizer_hash = "xxh3:0123456789abcdef",
                      .vocab_size = vocab_size,
                      .eos_id = std::nullopt});
  for (const auto& document : documents) writer.append_document(document);
  writer.finish();
  return folder.file(name);
}

std::string write_flat_u16(const TemporaryFolder& folder, const std::string& name,
                           const Documents& documents) {
  write_file(folder.file(name), encoded<uint16_t>(documents));
  return folder.file(name);
}

std::string write_flat_u32(const TemporaryFolder& folder, const std::string& name,
                           const Documents& documents) {
  write_file(folder.file(name), encoded<uint32_t>(documents));
  return folder.file(name);
}

std::string write_llmc(const TemporaryFolder& folder, const std::string& name,
                       const Documents& documents, int32_t magic, int32_t version) {
  std::string bytes = bytes_of(magic) + bytes_of(version) +
                      bytes_of(static_cast<int32_t>(joined(documents).size()));
  bytes.resize(1024);
  bytes += magic == 20240520 ? encoded<uint16_t>(documents) : encoded<uint32_t>(documents);
  write_file(folder.file(name), bytes);
  return folder.file(name);
}

std::vector<int32_t> read_tokens(const TokenSource& source, int64_t begin, int64_t end) {
  std::vector<int32_t> ids(static_cast<size_t>(end - begin));
  source.read(begin, ids);
  return ids;
}

std::vector<int32_t> read_all(const TokenSource& source) {
  return read_tokens(source, 0, source.tokens());
}

}  // namespace swiattn
