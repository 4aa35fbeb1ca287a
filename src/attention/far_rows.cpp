#include "attention/far_rows.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAStream.h>

#include <limits>

#include "attention/listed_rows.h"
#include "base/check.h"

namespace swiattn {
namespace {

void* stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

const void* data(const at::Tensor& tensor) { return tensor.const_data_ptr(); }

template <class T>
T* data_as(const at::Tensor& tensor) {
  return tensor.mutable_data_ptr<T>();
}

// The marked rows that have far keys.
class FarList {
 public:
  FarList(const at::Tensor& marked, const DocumentLayout& layout, int64_t window) {
    const auto options = at::TensorOptions().dtype(at::kInt).device(marked.device());
    bounds_ = at::empty({3, gpu::list_capacity(layout.tokens)}, options);
    count_ = at::empty({1}, options);
    const at::Tensor block_counts = at::empty({gpu::list_blocks(layout.tokens)}, options);
    gpu::list_far_rows({data_as<bool>(marked), layout.position.const_data_ptr<int64_t>(),
                        layout.tokens, window, data_as<int32_t>(block_counts), view()},
                       stream());
  }

  gpu::RowList view() const {
    return {data_as<int32_t>(bounds_[0]), data_as<int32_t>(bounds_[1]),
            data_as<int32_t>(bounds_[2]), data_as<int32_t>(count_)};
  }

 private:
  at::Tensor bounds_, count_;
};

gpu::ListedOperands operands(const FarList& list, const at::Tensor& query, const at::Tensor& qkv,
                             const AttentionShape& shape) {
  return {list.view(),           data(query),
          data(shape.keys(qkv)), data(shape.values(qkv)),
          qkv.size(0),           shape.heads,
          shape.kv_heads,        shape.head_dim,
          qkv.stride(0),         static_cast<float>(shape.scale)};
}

}  // namespace

bool far_rows_covered(const at::Tensor& qkv, const AttentionShape& shape) {
  return qkv.is_cuda() && qkv.scalar_type() == at::kBFloat16 &&
         at::cuda::getCurrentDeviceProperties()->major == 9 &&
         (shape.head_dim == 64 || shape.head_dim == 128) &&
         qkv.size(0) <= std::numeric_limits<int32_t>::max() - gpu::kListTile;
}

void far_rows_backward(const at::Tensor& grad_out, const at::Tensor& qkv, const Attended& final,
                       const at::Tensor& rows, const DocumentLayout& layout,
                       const AttentionShape& shape, const at::Tensor& grad_qkv,
                       Determinism determinism) {
  SWIATTN_CHECK(grad_out.is_contiguous() && final.out.is_contiguous() &&
                    final.logsumexp.is_contiguous() && rows.is_contiguous(),
                "the far backward reads contiguous rows");
  const FarList list(rows, layout, shape.window);
  const int64_t capacity = gpu::list_capacity(layout.tokens);
  const auto wide = qkv.options().dtype(at::kFloat);
  const at::Tensor query = at::empty({capacity, shape.heads, shape.head_dim}, qkv.options());
  const at::Tensor grad = at::empty_like(query);
  const at::Tensor logsumexp = at::empty({shape.heads, capacity}, wide);
  const at::Tensor delta = at::empty_like(logsumexp);
  at::Tensor grad_query;  // in float32, where it is summed with atomics
  if (determinism == Determinism::kFast) grad_query = at::empty(query.sizes(), wide);
  float* const sums = grad_query.defined() ? data_as<float>(grad_query) : nullptr;

  gpu::gather_rows({list.view(), data(shape.queries(qkv)), data(grad_out), data(final.out),
                    data_as<float>(final.logsumexp), layout.tokens, shape.heads, shape.head_dim,
                    qkv.stride(0), query.mutable_data_ptr(), grad.mutable_data_ptr(),
                    data_as<float>(logsumexp), data_as<float>(delta), sums},
                   stream());
  const gpu::ListedOperands shared = operands(list, query, qkv, shape);
  const gpu::ListedGradients gradients{data(grad), data_as<float>(logsumexp),
                                       data_as<float>(delta)};
  const int64_t grad_stride = grad_qkv.stride(0);
  gpu::listed_backward_sm90({shared, gradients, sums, shape.keys(grad_qkv).mutable_data_ptr(),
                             shape.values(grad_qkv).mutable_data_ptr(), grad_stride},
                            stream());
  void* const into = shape.queries(grad_qkv).mutable_data_ptr();
  if (sums == nullptr) {
    gpu::listed_query_gradient_sm90({shared, gradients, into, grad_stride}, stream());
    return;
  }
  gpu::scatter_grad_q(
      {list.view(), sums, into, layout.tokens, shape.heads, shape.head_dim, grad_stride}, stream());
}

}  // namespace swiattn
