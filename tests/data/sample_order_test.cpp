#include "data/sample_order.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "tests/base/expect_error.h"

namespace swiattn {
namespace {

TEST(Permute, IsAPermutationForEveryCount) {
  for (int64_t count = 1; count <= 300; ++count) {
    std::vector<bool> hit(static_cast<size_t>(count));
    for (int64_t index = 0; index < count; ++index) {
      const int64_t image = permute(index, count, 77);
      ASSERT_GE(image, 0);
      ASSERT_LT(image, count);
      EXPECT_FALSE(hit[static_cast<size_t>(image)]);
      hit[static_cast<size_t>(image)] = true;
    }
  }
  sentence_of(ExitCode::kInternal, [] { permute(5, 5, 1); });
  sentence_of(ExitCode::kInternal, [] { permute(-1, 5, 1); });
}

TEST(Permute, WorksAtCountsThatNoTableCouldHold) {
  for (int64_t count : {(int64_t{1} << 40) + 1, int64_t{1} << 62}) {
    std::set<int64_t> images;
    for (int64_t index = 0; index < 1000; ++index) images.insert(permute(index, count, 5));
    EXPECT_EQ(images.size(), 1000);
    EXPECT_LT(*images.rbegin(), count);
    EXPECT_GT(*images.rbegin(), count / 2);
  }
}

TEST(Permute, EveryOrderOfFourComesUpAboutEquallyOften) {
  std::map<std::vector<int64_t>, int> found;
  for (uint64_t key = 0; key < 24'000; ++key) {
    std::vector<int64_t> order;
    for (int64_t index = 0; index < 4; ++index) order.push_back(permute(index, 4, key));
    ++found[order];
  }
  EXPECT_EQ(found.size(), 24);
  for (const auto& [order, times] : found) EXPECT_NEAR(times, 1000, 200);
}

TEST(Permute, NeighboursLandIndependently) {
  constexpr int64_t kCount = 10'000;
  double product = 0;
  for (int64_t index = 0; index + 1 < kCount; ++index) {
    const auto centred = [](int64_t image) { return (image + 0.5) / kCount - 0.5; };
    product += centred(permute(index, kCount, 3)) * centred(permute(index + 1, kCount, 3));
  }
  const double correlation = 12 * product / kCount;
  EXPECT_LT(std::abs(correlation), 0.05);  // five standard deviations
}

TEST(SampleOrder, UnshuffledASourceIsPassedThroughInOrderAgainAndAgain) {
  SampleOrder order({{.samples = 5, .weight = 2}}, false, 1);
  for (int64_t n = 0; n < 23; ++n) {
    EXPECT_EQ(order.place(n).source, 0);
    EXPECT_EQ(order.place(n).sample, n % 5);
  }
}

TEST(SampleOrder, EachPassOverEachSourceTakesEverySampleOnceInAnOrderOfItsOwn) {
  const std::vector<int64_t> samples = {40, 17, 1};
  SampleOrder order({{samples[0], 0.5}, {samples[1], 0.3}, {samples[2], 0.2}}, true, 9);
  std::vector<std::vector<int64_t>> drawn(3);
  for (int64_t n = 0; n < 400; ++n) {
    const SampleOrder::Place place = order.place(n);
    drawn[place.source].push_back(place.sample);
  }
  for (size_t source = 0; source < 3; ++source) {
    std::set<std::vector<int64_t>> orders;
    const auto count = static_cast<size_t>(samples[source]);
    size_t passes = 0;
    for (size_t at = 0; at + count <= drawn[source].size(); at += count, ++passes) {
      std::vector<int64_t> pass(drawn[source].begin() + at, drawn[source].begin() + at + count);
      orders.insert(pass);
      std::sort(pass.begin(), pass.end());
      std::vector<int64_t> all(count);
      std::iota(all.begin(), all.end(), 0);
      EXPECT_EQ(pass, all);
    }
    ASSERT_GE(passes, 5);
    EXPECT_EQ(orders.size(), count == 1 ? 1 : passes);
  }
}

TEST(SampleOrder, DependsOnTheSeedAndOnTheSourceAndNothingElse) {
  const auto draw = [](const std::vector<SampleOrder::Source>& sources, uint64_t seed) {
    SampleOrder order(sources, true, seed);
    std::vector<std::vector<int64_t>> drawn(sources.size());
    for (int64_t n = 0; n < 200; ++n) {
      const SampleOrder::Place place = order.place(n);
      drawn[place.source].push_back(place.sample);
    }
    for (auto& list : drawn) list.resize(60);
    return drawn;
  };
  const auto base = draw({{50, 1}, {50, 1}}, 1);
  EXPECT_EQ(draw({{50, 1}, {50, 1}}, 1), base);
  EXPECT_NE(draw({{50, 1}, {50, 1}}, 2)[0], base[0]);
  EXPECT_NE(base[0], base[1]);
  // Other weights change when a source is drawn from, not the order of its own samples.
  EXPECT_EQ(draw({{50, 0.4}, {50, 0.6}}, 1), base);
}

TEST(SampleOrder, AnyPlaceFoundDirectlyIsTheOneFoundInOrder) {
  const std::vector<SampleOrder::Source> sources = {{1000, 0.7}, {300, 0.2}, {7, 0.1}};
  SampleOrder in_order(sources, true, 4);
  for (int64_t n = 0; n < 5000; ++n) {
    const SampleOrder::Place expected = in_order.place(n);
    if (n % 97 != 0) continue;
    const SampleOrder::Place found = SampleOrder(sources, true, 4).place(n);
    EXPECT_EQ(found.source, expected.source);
    EXPECT_EQ(found.sample, expected.sample);
  }
}

}  // namespace
}  // namespace swiattn
