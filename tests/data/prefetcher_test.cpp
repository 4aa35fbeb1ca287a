#include "data/prefetcher.h"

#include <thread>

#include "tests/base/expect_error.h"
#include "tests/data/small_shards.h"

namespace swiattn {
namespace {

using ::testing::HasSubstr;

BatchStream stream_of(const std::string& path, int64_t vocab_size = 60000) {
  std::vector<WeightedSource> sources;
  sources.push_back({open_token_source(path)});
  return BatchStream(
      {.sequence_length = 4, .global_batch = 6, .micro_batch = 2, .vocab_size = vocab_size},
      std::move(sources));
}

TEST(Prefetcher, HandsOutTheBatchesOfTheStreamFromAnyStepOn) {
  TemporaryFolder folder;
  const std::string path = write_indexed(folder, "s", counted_documents({90, 30, 50}));
  for (size_t depth : {1, 2, 7}) {
    for (int64_t first_step : {1, 2, 1000}) {
      Prefetcher prefetcher(stream_of(path), first_step, depth);
      BatchStream stream = stream_of(path);
      for (int64_t step = first_step; step < first_step + 20; ++step) {
        for (int64_t index = 0; index < 3; ++index) {
          const Batch expected = stream.batch(step, index);
          const Batch found = prefetcher.next();
          EXPECT_EQ(found.samples, expected.samples);
          EXPECT_EQ(found.inputs, expected.inputs);
          EXPECT_EQ(found.document_starts, expected.document_starts);
        }
      }
    }
  }
}

TEST(Prefetcher, StopsAtOnceWhetherOrNotBatchesWereTaken) {
  TemporaryFolder folder;
  const std::string path = write_indexed(folder, "s", counted_documents({90}));
  for (int taken = 0; taken < 5; ++taken) {
    for (int repeat = 0; repeat < 50; ++repeat) {
      Prefetcher prefetcher(stream_of(path), 1, 2);
      for (int i = 0; i < taken; ++i) prefetcher.next();
    }
  }
}

TEST(Prefetcher, ThrowsWhatReadingThrewAfterTheBatchesBeforeIt) {
  TemporaryFolder folder;
  Documents documents = counted_documents({200});
  documents[0][70] = 500;
  const std::string path = write_indexed(folder, "s", documents);
  FileSystem::posix().remove_file(path + ".json");
  std::vector<WeightedSource> sources;
  sources.push_back({open_token_source(path)});
  Prefetcher prefetcher(
      BatchStream({.sequence_length = 4, .global_batch = 2, .vocab_size = 400, .shuffle = false},
                  std::move(sources)),
      1);
  for (int64_t sample = 0; sample < 17; ++sample) {
    EXPECT_EQ(prefetcher.next().samples.front(), sample);
  }
  for (int repeat = 0; repeat < 3; ++repeat) {
    EXPECT_THAT(sentence_of(ExitCode::kData, [&] { prefetcher.next(); }),
                HasSubstr("document 0, position 70"));
  }
}

TEST(Prefetcher, MeasuresTheTimeItsConsumerWaits) {
  TemporaryFolder folder;
  const std::string path = write_indexed(folder, "s", counted_documents({90}));
  Prefetcher prefetcher(stream_of(path), 1, 8);
  EXPECT_EQ(prefetcher.waited_seconds(), 0);
  prefetcher.next();
  const double first = prefetcher.waited_seconds();
  EXPECT_GT(first, 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // the queue fills up
  prefetcher.next();
  EXPECT_LT(prefetcher.waited_seconds() - first, 0.1);
}

}  // namespace
}  // namespace swiattn
