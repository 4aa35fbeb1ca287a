// The GPU draws what the CPU draws.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "drawn_cases.h"
#include "ops/fused_operations.h"

namespace swiattn {
namespace {

TEST(GpuDrawnRowsTest, AreThoseOfTheCpu) {
  for (const DrawnCase& c : drawn_cases()) {
    const DrawnCase there = c.to(at::kCUDA);
    for (const double probability : {0.0, 0.13, 1.0}) {
      const at::Tensor found = fused::draw_rows(there.tokens, probability);
      EXPECT_TRUE(found.is_cuda());
      EXPECT_TRUE(at::equal(found.cpu(), reference::draw_rows(c.tokens, probability)));
    }
    for (const FarSampling& sampling : samplings()) {
      const SampledRows found = fused::sample_rows(there.tokens, sampling, there.gated);
      const SampledRows expected = reference::sample_rows(c.tokens, sampling, c.gated);
      EXPECT_TRUE(found.both.is_cuda() && found.weight.is_cuda());
      // Probabilities in float64 may differ in their last bit, draws of 53 bits hardly ever.
      EXPECT_TRUE(at::equal(found.both.cpu(), expected.both));
      EXPECT_TRUE(at::allclose(found.weight.cpu(), expected.weight, 2e-7, 0));
    }
  }
}

TEST(GpuDrawnRowsTest, LogitsInFloat64GoThroughTheReference) {
  DrawnCase c = drawn_case(2, 300, true);
  c.gated.logits = c.gated.logits.to(at::kDouble);
  const DrawnCase there = c.to(at::kCUDA);
  const SampledRows found = fused::sample_rows(there.tokens, {}, there.gated);
  EXPECT_TRUE(found.both.is_cuda() && found.weight.is_cuda());
  EXPECT_TRUE(at::equal(found.both.cpu(), reference::sample_rows(c.tokens, {}, c.gated).both));
}

}  // namespace
}  // namespace swiattn
