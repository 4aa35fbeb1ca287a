#include "data/batch_stream.h"

#include <algorithm>
#include <map>

#include "tests/base/expect_error.h"
#include "tests/data/small_shards.h"

namespace swiattn {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kVocabulary = 60000;

BatchStreamOptions unshuffled(int64_t sequence_length, int64_t global_batch) {
  return {.sequence_length = sequence_length,
          .global_batch = global_batch,
          .vocab_size = kVocabulary,
          .shuffle = false};
}

BatchStream open_stream(const BatchStreamOptions& options, const std::vector<std::string>& paths,
                        const std::vector<double>& weights = {}) {
  std::vector<WeightedSource> sources;
  for (size_t i = 0; i < paths.size(); ++i) {
    sources.push_back(
        {open_token_source(paths[i], {.eos_id = kEos}), weights.empty() ? 1.0 : weights[i]});
  }
  return BatchStream(options, std::move(sources));
}

// What a stream yields for a range of steps and all ranks, sample by sample in the run's order.
struct Sample {
  std::vector<int32_t> inputs;
  std::vector<int32_t> targets;
  std::vector<int32_t> positions;
  bool operator==(const Sample&) const = default;
};

std::map<int64_t, Sample> samples_of(BatchStreamOptions options, int64_t ranks,
                                     const std::vector<std::string>& paths,
                                     const std::vector<double>& weights, int64_t first_step,
                                     int64_t steps) {
  std::map<int64_t, Sample> samples;
  options.ranks = ranks;
  for (options.rank = 0; options.rank < ranks; ++options.rank) {
    BatchStream stream = open_stream(options, paths, weights);
    int64_t before = -1;
    for (int64_t step = first_step; step < first_step + steps; ++step) {
      for (int64_t index = 0; index < stream.micro_batches(); ++index) {
        const Batch batch = stream.batch(step, index);
        for (int64_t b = 0; b < batch.sequences; ++b) {
          const auto cut = [&](const std::vector<int32_t>& values) {
            const auto begin = values.begin() + b * batch.sequence_length;
            return std::vector<int32_t>(begin, begin + batch.sequence_length);
          };
          const int64_t number = batch.samples[static_cast<size_t>(b)];
          EXPECT_GT(number, before);
          before = number;
          EXPECT_FALSE(samples.contains(number));
          samples[number] = {cut(batch.inputs), cut(batch.targets), cut(batch.positions)};
        }
      }
    }
  }
  return samples;
}

// The batch as interface and header describe it, computed token by token.
Batch expected_batch(const Documents& documents, const std::vector<int64_t>& samples,
                     const std::vector<int64_t>& places, int64_t length, bool mask) {
  const std::vector<int32_t> tokens = joined(documents);
  std::vector<size_t> document_of;
  for (size_t i = 0; i < documents.size(); ++i) {
    document_of.insert(document_of.end(), documents[i].size(), i);
  }
  Batch batch;
  batch.sequences = static_cast<int64_t>(samples.size());
  batch.sequence_length = length;
  batch.samples = samples;
  for (int64_t place : places) {
    for (int64_t i = 0; i < length; ++i) {
      const auto at = static_cast<size_t>(place * length + i);
      const bool starts = i == 0 || (mask && document_of[at] != document_of[at - 1]);
      if (starts) batch.document_starts.push_back(static_cast<int32_t>(batch.inputs.size()));
      batch.positions.push_back(starts ? 0 : batch.positions.back() + 1);
      batch.inputs.push_back(tokens[at]);
      const bool other = mask && document_of[at + 1] != document_of[at];
      batch.targets.push_back(other ? Batch::kIgnoredTarget : tokens[at + 1]);
    }
  }
  batch.document_starts.push_back(static_cast<int32_t>(batch.inputs.size()));
  return batch;
}

void expect_equal(const Batch& found, const Batch& expected) {
  EXPECT_EQ(found.sequences, expected.sequences);
  EXPECT_EQ(found.sequence_length, expected.sequence_length);
  EXPECT_EQ(found.inputs, expected.inputs);
  EXPECT_EQ(found.targets, expected.targets);
  EXPECT_EQ(found.positions, expected.positions);
  EXPECT_EQ(found.document_starts, expected.document_starts);
  EXPECT_EQ(found.samples, expected.samples);
}

TEST(BatchStream, AStepOfOneSampleIsWrittenOut) {
  TemporaryFolder folder;
  // Tokens 10 11 eos | 13 eos | 15 16 17 18 eos: the first sample ends inside the third document.
  const std::string path = write_indexed(folder, "s", counted_documents({3, 2, 5}));
  BatchStreamOptions options = unshuffled(6, 1);
  const Batch masked = open_stream(options, {path}).batch(1, 0);
  EXPECT_THAT(masked.inputs, ElementsAre(10, 11, 9, 13, 9, 15));
  EXPECT_THAT(masked.targets, ElementsAre(11, 9, -1, 9, -1, 16));
  EXPECT_THAT(masked.positions, ElementsAre(0, 1, 2, 0, 1, 0));
  EXPECT_THAT(masked.document_starts, ElementsAre(0, 3, 5, 6));
  options.mask_documents = false;
  const Batch plain = open_stream(options, {path}).batch(1, 0);
  EXPECT_THAT(plain.inputs, ElementsAre(10, 11, 9, 13, 9, 15));
  EXPECT_THAT(plain.targets, ElementsAre(11, 9, 13, 9, 15, 16));
  EXPECT_THAT(plain.positions, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(plain.document_starts, ElementsAre(0, 6));
}

TEST(BatchStream, EveryBatchIsAsComputedTokenByTokenForAllSizes) {
  TemporaryFolder folder;
  const Documents documents = counted_documents({3, 1, 1, 7, 2, 12, 4, 1, 9, 5, 3, 30, 2, 8});
  const auto tokens = static_cast<int64_t>(joined(documents).size());
  const std::string indexed = write_indexed(folder, "indexed", documents);
  const std::string flat = write_flat_u16(folder, "flat.bin", documents);
  for (int64_t length : {1, 2, 3, 4, 5, 7, 11, 16, 29, 43, 87}) {
    for (int64_t micro : {1, 2, 3}) {
      for (int64_t micros : {1, 2}) {
        for (bool mask : {true, false}) {
          for (const std::string& path : {indexed, flat}) {
            BatchStreamOptions options = unshuffled(length, micro * micros);
            options.micro_batch = micro;
            options.mask_documents = mask;
            BatchStream stream = open_stream(options, {path});
            const int64_t pass = (tokens - 1) / length;
            ASSERT_EQ(stream.samples(0), pass);
            int64_t next = 0;
            for (int64_t step = 1; step <= 2 * pass / options.global_batch + 2; ++step) {
              ASSERT_EQ(stream.micro_batches(), micros);
              for (int64_t index = 0; index < micros; ++index) {
                std::vector<int64_t> samples;
                std::vector<int64_t> places;
                for (int64_t i = 0; i < micro; ++i, ++next) {
                  samples.push_back(next);
                  places.push_back(next % pass);
                }
                expect_equal(stream.batch(step, index),
                             expected_batch(documents, samples, places, length, mask));
              }
            }
          }
        }
      }
    }
  }
}

TEST(BatchStream, TheSameSamplesComeWhateverRanksAndMicroBatches) {
  TemporaryFolder folder;
  const std::vector<std::string> paths = {
      write_indexed(folder, "a", counted_documents({30, 50, 21, 7})),
      write_flat_u16(folder, "b.bin", counted_documents({64, 3, 3, 80})),
      write_indexed(folder, "c", counted_documents({17}))};
  const std::vector<double> weights = {0.5, 0.3, 0.2};
  for (size_t sources = 1; sources <= paths.size(); ++sources) {
    const std::vector<std::string> some(paths.begin(), paths.begin() + sources);
    const std::vector<double> shares(weights.begin(), weights.begin() + sources);
    for (bool shuffle : {true, false}) {
      for (int64_t length : {1, 5, 8, 16}) {
        BatchStreamOptions options = unshuffled(length, 8);
        options.shuffle = shuffle;
        options.seed = 3;
        const auto expected = samples_of(options, 1, some, shares, 1, 9);
        ASSERT_EQ(expected.size(), 72);
        EXPECT_EQ(expected.begin()->first, 0);
        EXPECT_EQ(expected.rbegin()->first, 71);
        for (int64_t ranks : {1, 2, 4, 8}) {
          for (options.micro_batch = 1; options.micro_batch <= 8 / ranks;
               options.micro_batch *= 2) {
            EXPECT_EQ(samples_of(options, ranks, some, shares, 1, 9), expected)
                << ranks << " ranks, micro-batches of " << options.micro_batch;
          }
        }
      }
    }
  }
}

TEST(BatchStream, AStepReadDirectlyIsTheStepReachedByReadingOn) {
  TemporaryFolder folder;
  const std::vector<std::string> paths = {
      write_indexed(folder, "a", counted_documents({30, 50, 21, 7})),
      write_indexed(folder, "b", counted_documents({64, 3, 3, 80}))};
  BatchStreamOptions options = unshuffled(7, 6);
  options.micro_batch = 3;
  options.shuffle = true;
  BatchStream running = open_stream(options, paths, {0.6, 0.4});
  for (int64_t step = 1; step <= 40; ++step) {
    for (int64_t index = 0; index < 2; ++index) {
      const Batch expected = running.batch(step, index);
      expect_equal(open_stream(options, paths, {0.6, 0.4}).batch(step, index), expected);
    }
  }
}

TEST(BatchStream, ARanksPartOfAStepIsContiguous) {
  TemporaryFolder folder;
  const std::string path = write_indexed(folder, "s", counted_documents({500}));
  BatchStreamOptions options = unshuffled(4, 12);
  options.micro_batch = 2;
  options.ranks = 3;
  options.rank = 1;
  BatchStream stream = open_stream(options, {path});
  EXPECT_EQ(stream.micro_batches(), 2);
  EXPECT_THAT(stream.batch(1, 0).samples, ElementsAre(4, 5));
  EXPECT_THAT(stream.batch(1, 1).samples, ElementsAre(6, 7));
  EXPECT_THAT(stream.batch(2, 0).samples, ElementsAre(16, 17));
}

TEST(BatchStream, EachPassOfAShuffledSourceHasEverySampleOnceInANewOrder) {
  TemporaryFolder folder;
  const std::string path = write_indexed(folder, "s", counted_documents({81}));
  BatchStreamOptions options = unshuffled(4, 20);  // 20 samples: a pass is a step
  options.shuffle = true;
  options.micro_batch = 20;
  BatchStream stream = open_stream(options, {path});
  std::vector<std::vector<int32_t>> orders;
  for (int64_t step = 1; step <= 6; ++step) {
    const Batch batch = stream.batch(step, 0);
    std::vector<int32_t> firsts;
    for (size_t i = 0; i < batch.inputs.size(); i += 4) firsts.push_back(batch.inputs[i]);
    for (const auto& order : orders) EXPECT_NE(firsts, order);
    orders.push_back(firsts);
    std::sort(firsts.begin(), firsts.end());
    for (int32_t i = 0; i < 20; ++i) EXPECT_EQ(firsts[static_cast<size_t>(i)], 10 + 4 * i);
  }
}

TEST(BatchStream, RefusesASourceOfLessThanOneSample) {
  TemporaryFolder folder;
  const std::string path = write_indexed(folder, "tiny", counted_documents({4, 4}));
  EXPECT_EQ(open_stream(unshuffled(7, 1), {path}).samples(0), 1);
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { open_stream(unshuffled(8, 1), {path}); }),
              AllOf(HasSubstr(path), HasSubstr("8 tokens"), HasSubstr("= 9")));
  const std::string empty = write_indexed(folder, "empty", {});
  EXPECT_THAT(sentence_of(ExitCode::kData,
                          [&] {
                            open_stream(unshuffled(1, 1), {path, empty});
                          }),
              HasSubstr(empty + ": 0 tokens"));
}

TEST(BatchStream, RefusesAnIdOutsideTheVocabularyNamingShardDocumentAndPosition) {
  TemporaryFolder folder;
  Documents documents = counted_documents({5, 6, 5});
  documents[1][3] = 500;
  const std::string path = write_indexed(folder, "s", documents);
  BatchStreamOptions options = unshuffled(4, 1);
  options.vocab_size = 500;
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { open_stream(options, {path}); }),
              AllOf(HasSubstr(path), HasSubstr("largest token id is 500")));
  FileSystem::posix().remove_file(path + ".json");
  BatchStream stream = open_stream(options, {path});
  EXPECT_NO_THROW(stream.batch(1, 0));
  for (int64_t step : {2, 3}) {  // the id is the last target of sample 1 and an input of sample 2
    EXPECT_THAT(sentence_of(ExitCode::kData, [&] { stream.batch(step, 0); }),
                AllOf(HasSubstr(path + ": document 1, position 3: token id 500 is outside"),
                      HasSubstr("500 ids")));
  }
  options.vocab_size = 501;
  EXPECT_NO_THROW(open_stream(options, {path}).batch(2, 0));

  const std::string negative = folder.file("negative");
  write_indexed(folder, "negative", {{1, 2, 3, 4}}, 100000);
  FileSystem::posix().remove_file(negative + ".json");
  write_file(negative + ".bin", bytes_of(1) + bytes_of(2) + bytes_of(-3) + bytes_of(4));
  EXPECT_THAT(
      sentence_of(ExitCode::kData, [&] { open_stream(unshuffled(3, 1), {negative}).batch(1, 0); }),
      HasSubstr("document 0, position 2: token id -3"));
}

TEST(BatchStream, RefusesSizesThatDoNotDivideEachOther) {
  TemporaryFolder folder;
  const std::string path = write_indexed(folder, "s", counted_documents({100}));
  struct Case {
    int64_t global_batch, micro_batch, ranks;
  };
  for (const auto& [global_batch, micro_batch, ranks] : {Case{8, 3, 1},
                                                         {8, 1, 3},
                                                         {8, 4, 4},
                                                         {2, 4, 1},
                                                         {1, 1, 2},
                                                         {9, 2, 3},
                                                         {0, 1, 1},
                                                         {4, 0, 1}}) {
    BatchStreamOptions options = unshuffled(4, global_batch);
    options.micro_batch = micro_batch;
    options.ranks = ranks;
    EXPECT_THAT(sentence_of(ExitCode::kConfiguration, [&] { open_stream(options, {path}); }),
                AllOf(HasSubstr("global_batch"), HasSubstr("micro_batch")));
  }
  EXPECT_THAT(sentence_of(ExitCode::kConfiguration, [&] { open_stream(unshuffled(0, 1), {path}); }),
              HasSubstr("sequence_length"));
  BatchStreamOptions huge = unshuffled(int64_t{1} << 30, 4);
  huge.micro_batch = 2;
  EXPECT_THAT(sentence_of(ExitCode::kConfiguration, [&] { open_stream(huge, {path}); }),
              HasSubstr("2^31"));
}

}  // namespace
}  // namespace swiattn
