// CudnnAttention against the reference backend in float64 on the same rounded inputs: dense and
// packed documents, windows at and around tiles and lengths, far keys, grouped heads, views into
// packed buffers as a layer has them, CUDA graphs, and offsets beyond 2^31 elements.
#include "attention/cudnn_attention.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "attention/backend.h"
#include "base/error.h"

namespace swiattn {
namespace {

// The error of bfloat16 outputs and probabilities, relative in the L2 norm; 2.4e-3 to 3.0e-3 is
// what one rounding of each gives.
constexpr double kTolerance = 5e-3;
constexpr double kLogsumexpTolerance = 1e-4;  // absolute
constexpr float kUntouched = 7.0F;

struct Case {
  bool packed;
  Band band;
  int64_t heads, kv_heads, head_dim, window;
  std::vector<int32_t> starts;
};

std::vector<int32_t> equal_documents(int64_t count, int64_t length) {
  std::vector<int32_t> starts;
  for (int64_t i = 0; i <= count; ++i) starts.push_back(static_cast<int32_t>(i * length));
  return starts;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  const auto dense = [&](Band band, int64_t heads, int64_t kv_heads, int64_t window, int64_t batch,
                         int64_t length) {
    for (const int64_t head_dim : {64, 128}) {
      all.push_back(
          {false, band, heads, kv_heads, head_dim, window, equal_documents(batch, length)});
    }
  };
  // Lengths of one tile to many; windows of tiles, of the length, of one key, across tiles.
  dense(Band::kNear, 4, 2, 128, 1, 128);
  dense(Band::kNear, 4, 2, 128, 2, 256);
  dense(Band::kNear, 2, 2, 256, 3, 256);
  dense(Band::kNear, 3, 1, 256, 1, 384);
  dense(Band::kNear, 2, 1, 256, 3, 1024);
  for (const int64_t window : {1, 2, 64, 100, 127, 129, 255, 257}) {
    dense(Band::kNear, 4, 2, window, 2, 384);
  }
  for (const int64_t length : {128, 256, 384, 1024}) dense(Band::kFull, 4, 2, 1, 2, length);
  // Groups of 1, 2, 3, 4 and 8 heads, and one to three documents.
  int64_t batch = 0;
  for (const auto& [heads, kv_heads] : {std::pair{2, 2}, {4, 2}, {6, 2}, {8, 2}, {8, 1}, {1, 1}}) {
    dense(Band::kNear, heads, kv_heads, 128, 1 + batch++ % 3, 256);
  }
  dense(Band::kFar, 4, 2, 128, 1, 256);
  dense(Band::kFar, 4, 2, 128, 3, 1024);
  dense(Band::kFar, 8, 1, 256, 2, 384);

  const auto packed = [&](int64_t heads, int64_t kv_heads, int64_t window,
                          std::vector<int32_t> starts) {
    for (const int64_t head_dim : {64, 128}) {
      for (const Band band : {Band::kNear, Band::kFar, Band::kFull}) {
        all.push_back({true, band, heads, kv_heads, head_dim, window, starts});
      }
    }
  };
  packed(4, 2, 128, {0, 1, 131, 387});
  packed(4, 2, 100, {0, 100, 101, 612, 613, 614, 1000, 1500, 1501, 1999});  // 9 documents, 16
  packed(2, 2, 64, {0, 333, 334, 600});
  packed(6, 2, 1, {0, 130, 200});
  packed(8, 1, 129, {0, 129, 300, 1324});
  packed(8, 2, 1000, {0, 700, 1700});
  packed(4, 2, 128, {0, 333});            // one document, no multiple of a tile
  packed(4, 4, 200, {0, 256, 512, 768});  // equally long
  return all;
}

at::TensorOptions on_gpu() { return at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16); }

at::Tensor random(at::IntArrayRef shape) { return at::randn(shape, on_gpu()); }

// [T, H, D] → [B, H, length - from_start - from_end, D] of equally long documents.
at::Tensor dense_rows(const at::Tensor& x, int64_t length, int64_t from_start, int64_t from_end) {
  return x.unflatten(0, {-1, length})
      .narrow(1, from_start, length - from_start - from_end)
      .transpose(1, 2);
}

void expect_close(const at::Tensor& found, const at::Tensor& expected, const char* what) {
  ASSERT_EQ(found.sizes(), expected.sizes()) << what;
  const double size = expected.norm().item<double>();
  const double error = (found.to(at::kDouble) - expected).norm().item<double>();
  // Where nothing is far the expected value is exactly zero, and so must be what was found.
  EXPECT_LE(error, kTolerance * size) << what << " of norm " << size;
}

// The buffers of a layer, and its calls.
class Layer {
 public:
  explicit Layer(const Case& c) : case_(c) {
    at::manual_seed(11);
    shape = {c.heads, c.kv_heads, c.head_dim, c.window,
             1.0 / std::sqrt(static_cast<double>(c.head_dim))};
    layout = make_document_layout(c.starts, c.window, at::kCUDA);
    const int64_t width = (c.heads + 2 * c.kv_heads) * c.head_dim;
    qkv = random({layout.tokens, width});
    grad_out = random({layout.tokens, c.heads, c.head_dim});
    grad_qkv = at::full({layout.tokens, width}, kUntouched, on_gpu());
    final.out = at::full(grad_out.sizes(), kUntouched, on_gpu());
    final.logsumexp = at::full({c.heads, layout.tokens}, kUntouched, on_gpu().dtype(at::kFloat));
    if (c.packed) {
      documents = pack_documents(layout.starts_device, layout.tokens, layout.longest, skip());
    }
  }

  // Rows of every document that are not queries: none of their keys is far.
  int64_t skip() const { return case_.band == Band::kFar ? case_.window : 0; }

  // Packed documents are refused on GPUs for which cuDNN has no, or no right, backward.
  bool covered() const {
    const int major = at::cuda::getCurrentDeviceProperties()->major;
    return !case_.packed || major == 9 || major == 10;
  }

  // [T, H, D] as the calls take it: whole if packed, otherwise without the rows that are skipped.
  at::Tensor query_rows(const at::Tensor& x) const {
    return case_.packed ? x : dense_rows(x, layout.longest, skip(), 0);
  }
  at::Tensor key_rows(const at::Tensor& x) const {
    return case_.packed ? x : dense_rows(x, layout.longest, 0, skip());
  }
  at::Tensor logsumexp_rows(const at::Tensor& x) const {
    if (case_.packed) return x;
    return x.unflatten(1, {-1, layout.longest})
        .narrow(2, skip(), layout.longest - skip())
        .transpose(0, 1);
  }

  CudnnAttentionCall call() const {
    return {query_rows(shape.queries(qkv)),
            key_rows(shape.keys(qkv)),
            key_rows(shape.values(qkv)),
            query_rows(final.out),
            logsumexp_rows(final.logsumexp),
            case_.band == Band::kNear ? case_.window : 0,
            shape.scale,
            case_.packed ? &documents : nullptr};
  }

  CudnnAttentionGradients gradients() const {
    return {query_rows(grad_out), query_rows(shape.queries(grad_qkv)),
            key_rows(shape.keys(grad_qkv)), key_rows(shape.values(grad_qkv))};
  }

  // What the rows that a dense call for far keys leaves alone still hold.
  void expect_skipped_untouched(const at::Tensor& x, int64_t from) const {
    if (case_.packed || skip() == 0) return;
    const at::Tensor rows = x.unflatten(0, {-1, layout.longest}).narrow(1, from, skip());
    EXPECT_TRUE((rows == kUntouched).all().item<bool>());
  }

  AttentionShape shape;
  DocumentLayout layout;
  PackedDocuments documents;
  at::Tensor qkv, grad_out, grad_qkv;
  Attended final;

 private:
  Case case_;
};

class CudnnAttentionTest : public testing::TestWithParam<Case> {
 protected:
  CudnnAttentionTest() : layer_(GetParam()), judge_(make_reference_backend()) {}

  Layer layer_;
  std::unique_ptr<AttentionBackend> judge_;
  CudnnAttention attention_;
};

TEST_P(CudnnAttentionTest, ForwardEqualsTheReference) {
  const CudnnAttentionCall call = layer_.call();
  ASSERT_EQ(attention_.prepare_forward(call), layer_.covered()) << attention_.refusal();
  if (!layer_.covered()) return;
  attention_.forward(call);
  const Attended expected =
      judge_->forward(GetParam().band, layer_.qkv.to(at::kDouble), layer_.layout, layer_.shape);
  expect_close(call.out, layer_.query_rows(expected.out), "out");
  EXPECT_TRUE(at::allclose(call.logsumexp.to(at::kDouble),
                           layer_.logsumexp_rows(expected.logsumexp), 0.0, kLogsumexpTolerance));
  layer_.expect_skipped_untouched(layer_.final.out, 0);
}

TEST_P(CudnnAttentionTest, BackwardEqualsTheReferenceWithTheFinalOutput) {
  const at::Tensor exact = layer_.qkv.to(at::kDouble);
  const Attended full = judge_->forward(Band::kFull, exact, layer_.layout, layer_.shape);
  layer_.final.out.copy_(full.out);
  layer_.final.logsumexp.copy_(full.logsumexp);
  const at::Tensor expected = at::zeros(exact.sizes(), exact.options());
  judge_->backward(GetParam().band, layer_.grad_out.to(at::kDouble), exact, full, {}, layer_.layout,
                   layer_.shape, expected, GradientSum::kWrite);

  const CudnnAttentionCall call = layer_.call();
  const CudnnAttentionGradients found = layer_.gradients();
  ASSERT_EQ(attention_.prepare_backward(call, found), layer_.covered()) << attention_.refusal();
  if (!layer_.covered()) return;
  attention_.backward(call, found);
  const AttentionShape& shape = layer_.shape;
  expect_close(found.q, layer_.query_rows(shape.queries(expected)), "dq");
  expect_close(found.k, layer_.key_rows(shape.keys(expected)), "dk");
  expect_close(found.v, layer_.key_rows(shape.values(expected)), "dv");
  layer_.expect_skipped_untouched(shape.queries(layer_.grad_qkv), 0);
  const int64_t last_keys = layer_.layout.longest - layer_.skip();
  layer_.expect_skipped_untouched(shape.keys(layer_.grad_qkv), last_keys);
}

const char* name_of(Band band) {
  return band == Band::kNear ? "near" : band == Band::kFar ? "far" : "full";
}

INSTANTIATE_TEST_SUITE_P(All, CudnnAttentionTest, testing::ValuesIn(cases()), [](const auto& info) {
  const Case& c = info.param;
  return fmt::format("{}_{}_{}_heads_{}_{}_width_{}_window_{}_documents_{}_tokens_{}", info.index,
                     c.packed ? "packed" : "dense", name_of(c.band), c.heads, c.kv_heads,
                     c.head_dim, c.window, c.starts.size() - 1, c.starts.back());
});

// Rows behind the last document are none of the call's, whatever they hold.
TEST(CudnnAttentionBuffers, WhatLiesBehindTheTokensDoesNotMatter) {
  for (const Band band : {Band::kNear, Band::kFull}) {
    Layer layer({true, band, 4, 2, 128, 100, {0, 333, 700}});
    const auto with_tail = [&](at::Tensor& x) {
      std::vector<int64_t> shape = x.sizes().vec();
      shape[0] += 256;
      const at::Tensor longer =
          at::full(shape, std::numeric_limits<float>::quiet_NaN(), x.options());
      longer.narrow(0, 0, x.size(0)).copy_(x);
      x = longer.narrow(0, 0, x.size(0));
    };
    for (at::Tensor* x : {&layer.qkv, &layer.grad_out, &layer.grad_qkv, &layer.final.out}) {
      with_tail(*x);
    }
    CudnnAttention attention;
    const CudnnAttentionCall call = layer.call();
    const CudnnAttentionGradients gradients = layer.gradients();
    ASSERT_TRUE(attention.prepare_forward(call)) << attention.refusal();
    ASSERT_TRUE(attention.prepare_backward(call, gradients)) << attention.refusal();
    attention.forward(call);
    attention.backward(call, gradients);
    EXPECT_TRUE(layer.final.out.isfinite().all().item<bool>());
    EXPECT_TRUE(layer.grad_qkv.isfinite().all().item<bool>());
  }
}

TEST(CudnnAttentionRefusals, NothingIsRefusedForTheLibrary) {
  EXPECT_TRUE(CudnnAttention::available());
}

TEST(CudnnAttentionRefusals, WhatIsNotCoveredIsSaidBeforeAnythingRuns) {
  CudnnAttention attention;
  const auto refused = [&](const CudnnAttentionCall& call, const char* why) {
    EXPECT_FALSE(attention.prepare_forward(call)) << why;
    EXPECT_NE(attention.refusal().find(why), std::string::npos) << attention.refusal();
    EXPECT_THROW(attention.forward(call), std::runtime_error) << why;
  };
  refused(Layer({false, Band::kNear, 4, 2, 96, 128, {0, 256}}).call(), "head width 96");
  refused(Layer({true, Band::kNear, 4, 2, 32, 128, {0, 256}}).call(), "head width 32");
  refused(Layer({false, Band::kNear, 4, 2, 64, 100, {0, 200}}).call(), "length 200");
  refused(Layer({false, Band::kFar, 4, 2, 64, 100, {0, 256}}).call(), "length 156");

  const Layer layer({false, Band::kNear, 4, 2, 64, 128, {0, 256}});
  CudnnAttentionCall call = layer.call();
  call.k = call.k.to(at::kHalf);
  refused(call, "bfloat16");
  call = layer.call();
  call.out = at::empty({call.out.numel() + 1}, on_gpu()).narrow(0, 1, call.out.numel());
  call.out = call.out.view(call.q.sizes());
  refused(call, "16 bytes");

  call = layer.call();
  EXPECT_TRUE(attention.prepare_forward(call)) << attention.refusal();
  EXPECT_TRUE(attention.refusal().empty());
  call.logsumexp = call.logsumexp.narrow(2, 0, 128);
  EXPECT_THROW(attention.prepare_forward(call), Error);  // a mistake, not a refusal
}

// Both directions are captured with other inputs in the buffers than those of the replay.
void expect_capturable(const Case& c) {
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
  const Layer layer(c);
  CudnnAttention attention;
  const CudnnAttentionCall call = layer.call();
  const CudnnAttentionGradients gradients = layer.gradients();
  ASSERT_TRUE(attention.prepare_forward(call)) << attention.refusal();
  ASSERT_TRUE(attention.prepare_backward(call, gradients)) << attention.refusal();
  const auto both = [&] {
    attention.forward(call);
    attention.backward(call, gradients);
  };
  both();
  const at::Tensor out = layer.final.out.clone();
  const at::Tensor grad_qkv = layer.grad_qkv.clone();
  const at::Tensor qkv = layer.qkv.clone();

  layer.qkv.fill_(0.5);
  at::cuda::CUDAGraph graph;
  graph.capture_begin();
  both();
  graph.capture_end();
  layer.final.out.fill_(kUntouched);
  layer.grad_qkv.fill_(kUntouched);
  layer.qkv.copy_(qkv);
  graph.replay();
  expect_close(layer.final.out, out.to(at::kDouble), "out");
  expect_close(layer.grad_qkv, grad_qkv.to(at::kDouble), "dqkv");
}

TEST(CudnnAttentionGraphs, DenseCallsCanBeCaptured) {
  expect_capturable({false, Band::kNear, 4, 2, 128, 128, {0, 512, 1024}});
}

TEST(CudnnAttentionGraphs, PackedCallsCanBeCaptured) {
  expect_capturable({true, Band::kNear, 4, 2, 128, 128, {0, 500, 501, 1024}});
}

// The last documents of buffers of more than 2^31 elements come out as they do by themselves. Takes
// 45 GB.
TEST(CudnnAttentionLargeBuffers, OffsetsBeyondTwoToThe31AreRight) {
  constexpr int64_t kLength = 4096, kDocuments = 96, kLast = 2;
  for (const bool packed : {false, true}) {
    const Case large{packed, Band::kNear, 32, 8, 128, 256, equal_documents(kDocuments, kLength)};
    const Layer layer(large);
    ASSERT_GT(layer.qkv.numel(), int64_t{1} << 31);
    CudnnAttention attention;
    ASSERT_TRUE(attention.prepare_forward(layer.call())) << attention.refusal();
    attention.forward(layer.call());
    ASSERT_TRUE(attention.prepare_backward(layer.call(), layer.gradients())) << attention.refusal();
    attention.backward(layer.call(), layer.gradients());

    Case small = large;
    small.starts = equal_documents(kLast, kLength);
    const Layer alone(small);
    const auto tail = [](const at::Tensor& x) {
      return x.narrow(0, x.size(0) - kLast * kLength, kLast * kLength);
    };
    alone.qkv.copy_(tail(layer.qkv));
    alone.grad_out.copy_(tail(layer.grad_out));
    ASSERT_TRUE(attention.prepare_forward(alone.call())) << attention.refusal();
    attention.forward(alone.call());
    ASSERT_TRUE(attention.prepare_backward(alone.call(), alone.gradients())) << attention.refusal();
    attention.backward(alone.call(), alone.gradients());
    expect_close(tail(layer.final.out), alone.final.out.to(at::kDouble), "out");
    expect_close(tail(layer.grad_qkv), alone.grad_qkv.to(at::kDouble), "dqkv");
  }
}

double milliseconds(const std::function<void()>& work) {
  constexpr int kWarmUp = 3, kRepetitions = 20;
  for (int i = 0; i < kWarmUp; ++i) work();
  at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
  begin.record();
  for (int i = 0; i < kRepetitions; ++i) work();
  end.record();
  end.synchronize();
  return begin.elapsed_time(end) / kRepetitions;
}

void print_speed(const char* what, const Case& c) {
  const Layer layer(c);
  CudnnAttention attention;
  const CudnnAttentionCall call = layer.call();
  const CudnnAttentionGradients gradients = layer.gradients();
  ASSERT_TRUE(attention.prepare_forward(call)) << attention.refusal();
  ASSERT_TRUE(attention.prepare_backward(call, gradients)) << attention.refusal();
  const double forward = milliseconds([&] { attention.forward(call); });
  const double backward = milliseconds([&] { attention.backward(call, gradients); });
  fmt::print("{:<46} {:7.3f} ms forward {:7.3f} ms backward\n", what, forward, backward);
}

TEST(CudnnAttentionSpeed, OfWindowsAndPackedDocumentsIsPrinted) {
  const std::vector<int32_t> one{0, 32768};
  print_speed("dense 1 x 32768, window 1024", {false, Band::kNear, 16, 8, 128, 1024, one});
  print_speed("dense 8 x 4096, window 1024",
              {false, Band::kNear, 16, 8, 128, 1024, equal_documents(8, 4096)});
  print_speed("dense 1 x 32768, far of 1024", {false, Band::kFar, 16, 8, 128, 1024, one});
  print_speed("packed 1 x 32768, window 1024", {true, Band::kNear, 16, 8, 128, 1024, one});
  print_speed("packed 8 x 4096, window 1024",
              {true, Band::kNear, 16, 8, 128, 1024, equal_documents(8, 4096)});
  print_speed("packed 1 x 32768, far of 1024", {true, Band::kFar, 16, 8, 128, 1024, one});
  std::vector<int32_t> uneven{0};
  for (int32_t i = 0; i < 32; ++i) uneven.push_back(uneven.back() + 512 + (i % 2) * 1024);
  print_speed("packed 16 x 512 and 16 x 1536, window 1024",
              {true, Band::kNear, 16, 8, 128, 1024, uneven});
  print_speed("packed 16 x 512 and 16 x 1536, far of 1024",
              {true, Band::kFar, 16, 8, 128, 1024, uneven});
}

}  // namespace
}  // namespace swiattn
