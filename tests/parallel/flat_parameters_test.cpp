#include "parallel/flat_parameters.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

namespace swiattn {
namespace {

std::vector<ParameterUnit> units() {
  return {{"layer",
           {{"norm", {{"norm.weight", {10}, ParameterRole::kNorm}}},
            {"qkv",
             {{"q.weight", {6, 10}, ParameterRole::kMatrix},
              {"k.weight", {3, 10}, ParameterRole::kMatrix}}},
            {"o", {{"o.weight", {10, 6}, ParameterRole::kMatrix}}}}}};
}

FlatParameters make(const std::vector<std::string>& frozen, at::ScalarType type = at::kBFloat16) {
  return FlatParameters(units(), frozen, type, at::kCPU, FlatParameters::Purpose::kTraining);
}

TEST(FlatParametersTest, GroupsBeginAligned256BytesAndTheirMembersLieEndToEnd) {
  FlatParameters parameters = make({});
  const FlatUnit& unit = parameters.units()[0];
  for (const char* group : {"norm", "qkv", "o"}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(unit.group_compute(group).data_ptr()) % 256, 0U);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(unit.group_gradient(group).data_ptr()) % 256, 0U);
  }
  EXPECT_EQ(unit.group_compute("qkv").sizes().vec(), (std::vector<int64_t>{9, 10}));
  EXPECT_EQ(unit.segment("k.weight").offset, unit.segment("q.weight").offset + 60);
}

TEST(FlatParametersTest, FrozenGroupsComeLastAndHaveNoGradient) {
  FlatParameters parameters = make({"norm.weight", "o.weight"});
  const FlatUnit& unit = parameters.units()[0];
  EXPECT_FALSE(unit.group_gradient("norm").defined());
  EXPECT_FALSE(unit.group_gradient("o").defined());
  EXPECT_TRUE(unit.group_gradient("qkv").defined());
  EXPECT_LT(unit.segment("q.weight").offset, unit.segment("norm.weight").offset);
  EXPECT_EQ(unit.moment1.numel(), unit.trainable_numel);
  EXPECT_LT(unit.trainable_numel, unit.numel);
}

TEST(FlatParametersTest, AGroupWithOneTrainedMemberKeepsItsGradientWhole) {
  FlatParameters parameters = make({"k.weight"});
  const FlatUnit& unit = parameters.units()[0];
  EXPECT_TRUE(unit.group_gradient("qkv").defined());
  EXPECT_FALSE(unit.segment("k.weight").trainable);
  EXPECT_TRUE(unit.segment("q.weight").trainable);
}

TEST(FlatParametersTest, TheFirstContributionOfAStepReplacesAndTheOthersAdd) {
  FlatParameters parameters = make({"o.weight"});
  FlatUnit& unit = parameters.units()[0];
  const auto contribute = [&](const char* group, double value) {
    const GradientTarget target = unit.take_gradient(group);
    target.put(at::full_like(target.tensor, value));
  };
  const auto holds = [&](const char* group, double value) {
    return (unit.group_gradient(group) == value).all().item<bool>();
  };
  contribute("norm", 1.0);  // without a step every contribution adds
  contribute("norm", 2.0);
  EXPECT_TRUE(holds("norm", 3.0));

  unit.gradient.fill_(std::numeric_limits<double>::quiet_NaN());
  parameters.start_gradients();
  contribute("norm", 4.0);
  contribute("norm", 8.0);
  EXPECT_FALSE(unit.take_gradient("o").defined());
  parameters.finish_gradients();
  EXPECT_TRUE(holds("norm", 12.0));
  EXPECT_TRUE(holds("qkv", 0.0));  // nobody contributed

  parameters.start_gradients();
  contribute("qkv", 5.0);
  parameters.finish_gradients();
  EXPECT_TRUE(holds("norm", 0.0));
  EXPECT_TRUE(holds("qkv", 5.0));
}

TEST(FlatParametersTest, TellsAndTakesWhichContributionsReplace) {
  FlatParameters parameters = make({"o.weight"});
  FlatUnit& unit = parameters.units()[0];
  parameters.start_gradients();
  const std::vector<bool> at_the_start = parameters.stale_gradients();
  EXPECT_EQ(at_the_start, (std::vector<bool>{true, true, false})) << "the frozen group is last";
  EXPECT_EQ(unit.take_gradient("qkv").sum, GradientSum::kWrite);
  const std::vector<bool> later = parameters.stale_gradients();
  EXPECT_NE(later, at_the_start);
  parameters.set_stale_gradients(at_the_start);
  EXPECT_EQ(unit.take_gradient("qkv").sum, GradientSum::kWrite);
  parameters.start_gradients();
  parameters.set_stale_gradients(later);
  EXPECT_EQ(unit.take_gradient("qkv").sum, GradientSum::kAdd);
  EXPECT_EQ(unit.take_gradient("norm").sum, GradientSum::kWrite);
}

TEST(FlatParametersTest, AFrozenMemberOfATrainedGroupEndsWithoutGradient) {
  FlatParameters parameters = make({"k.weight"});
  FlatUnit& unit = parameters.units()[0];
  parameters.start_gradients();
  const GradientTarget target = unit.take_gradient("qkv");
  target.put(at::ones_like(target.tensor));
  parameters.finish_gradients();
  EXPECT_TRUE((unit.group_gradient("qkv").narrow(0, 0, 6) == 1.0).all().item<bool>());
  EXPECT_TRUE((unit.group_gradient("qkv").narrow(0, 6, 3) == 0.0).all().item<bool>());
}

TEST(FlatParametersTest, InFloat32TheComputeCopyIsTheMaster) {
  FlatParameters parameters = make({}, at::kFloat);
  EXPECT_TRUE(parameters.units()[0].compute.is_same(parameters.units()[0].master));
}

TEST(FlatParametersTest, TheHashSeesEveryBitOfEveryTensor) {
  FlatParameters parameters = make({});
  const uint64_t before = parameters.hash();
  at::Tensor o = parameters.units()[0].group_master("o");
  o[9][5] = 1e-30;
  EXPECT_NE(parameters.hash(), before);
  o[9][5] = 0.0;
  EXPECT_EQ(parameters.hash(), before);
}

}  // namespace
}  // namespace swiattn
