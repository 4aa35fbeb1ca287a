// Document layouts made on a GPU: the same as token by token on the host, and nobody waits.
#include <gtest/gtest.h>

#include <chrono>

#include "attention/packed_documents.h"
#include "expected_layout.h"
#include "parallel/device_moment.h"

namespace swiattn {
namespace {

TEST(GpuDocumentLayoutTest, EqualsTheOneMadeTokenByToken) {
  for (const LayoutCase& c : layout_cases()) {
    SCOPED_TRACE(testing::PrintToString(c.starts) + " w " + std::to_string(c.window));
    expect_layout(c, at::kCUDA);
  }
}

TEST(GpuDocumentLayoutTest, PacksDocumentsForCudnn) {
  for (const LayoutCase& c : layout_cases()) {
    const DocumentLayout layout = make_document_layout(c.starts, c.window, at::kCUDA);
    for (const bool far : {false, true}) {
      SCOPED_TRACE(testing::PrintToString(c.starts) + " w " + std::to_string(c.window));
      const PackedDocuments& found = far ? layout.far_documents : layout.documents_packed;
      const PackedDocuments expected = pack_documents(at::tensor(c.starts, at::kInt), layout.tokens,
                                                      layout.longest, far ? c.window : 0);
      EXPECT_EQ(found.count, expected.count);
      EXPECT_EQ(found.longest, expected.longest);
      EXPECT_EQ(found.gaps, expected.gaps);
      EXPECT_TRUE(found.starts.is_cuda() && found.starts.is_contiguous());
      EXPECT_TRUE(found.lengths.is_cuda() && found.lengths.is_contiguous());
      EXPECT_EQ(found.lengths.scalar_type(), at::kInt);
      // What cuDNN is promised of its offsets.
      EXPECT_EQ(reinterpret_cast<uintptr_t>(found.starts.data_ptr()) % 16, 0U);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(found.lengths.data_ptr()) % 16, 0U);
      EXPECT_TRUE(at::equal(found.starts.cpu(), expected.starts));
      EXPECT_TRUE(at::equal(found.lengths.cpu(), expected.lengths));
    }
  }
}

TEST(GpuDocumentLayoutTest, IsMadeWhileTheDeviceIsBusy) {
  using Clock = std::chrono::steady_clock;
  const at::Tensor a =
      at::ones({8192, 8192}, at::TensorOptions().dtype(at::kFloat).device(at::kCUDA));
  for (const bool first : {true, false}) {  // the first round makes kernels and pinned memory
    const DeviceMoment begin(at::kCUDA);
    for (int i = 0; i < 20; ++i) at::mm(a, a);
    const auto start = Clock::now();
    const DocumentLayout layout = make_document_layout({0, 5000, 32768}, 1024, at::kCUDA);
    layout.far_rows();
    const double host = std::chrono::duration<double>(Clock::now() - start).count();
    const DeviceMoment end(at::kCUDA);
    end.wait();
    if (first) continue;
    EXPECT_LT(host, 0.25 * end.seconds_since(begin));
  }
}

}  // namespace
}  // namespace swiattn
