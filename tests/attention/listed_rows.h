// Packed batches with lists of their rows, and the attention kernels of listed rows called on them.
// What a kernel has to write is NaN before.
#pragma once

#include <ATen/ATen.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention/backend.h"
#include "attention/listed_kernels.h"
#include "base/cuda_check.h"
#include "library_error.h"
#include "parallel/gpu_stream.h"

namespace swiattn {

// The kernels under test, and the major compute capabilities that they are built for.
struct Implementation {
  const char* name;
  std::vector<int> devices;
  void (*attend_rows)(const gpu::AttendRowsArguments&, void*);
  void (*key_gradient)(const gpu::KeyGradientArguments&, void*);
  void (*query_gradient)(const gpu::QueryGradientArguments&, void*);
};

inline const std::vector<Implementation>& implementations() {
  static const std::vector<Implementation> all = {
      {"sm80", {8, 9}, gpu::attend_rows_sm80, gpu::key_gradient_sm80, gpu::query_gradient_sm80},
      {"sm90", {9}, gpu::attend_rows_sm90, gpu::key_gradient_sm90, gpu::query_gradient_sm90},
  };
  return all;
}

inline bool runs_here(const Implementation& kernels) {
  int major = 0;
  SWIATTN_CHECK_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  return std::count(kernels.devices.begin(), kernels.devices.end(), major) > 0;
}

inline constexpr double kLogsumexpTolerance = 1e-4;  // absolute

inline at::TensorOptions options(at::ScalarType type) {
  return at::TensorOptions().device(at::kCUDA).dtype(type);
}
inline at::Tensor random(at::IntArrayRef shape) {
  return at::empty(shape, options(at::kBFloat16)).normal_();
}
inline at::Tensor filled(at::IntArrayRef shape, at::ScalarType type, double value) {
  return at::full(shape, value, options(type));
}

inline void expect_near(const at::Tensor& found, const at::Tensor& library,
                        const at::Tensor& expected, const char* what) {
  expect_as_near(found, library, expected, what, luck_of(expected));
}

struct Heads {
  int64_t query, kv, width;
};

// A packed batch, and the final result of its rows as a forward leaves it.
struct Batch {
  AttentionShape shape;
  DocumentLayout layout;
  at::Tensor qkv;   // [T, (Hq + 2 Hkv) D]
  at::Tensor grad;  // [T, Hq, D]
  Attended final;   // out bfloat16, logsumexp float32

  Batch(const Heads& heads, int64_t window, const std::vector<int32_t>& starts)
      : shape{heads.query, heads.kv, heads.width, window,
              1.0 / std::sqrt(static_cast<double>(heads.width))},
        layout(make_document_layout(starts, window, at::kCUDA)),
        qkv(random({layout.tokens, (heads.query + 2 * heads.kv) * heads.width})),
        grad(random({layout.tokens, heads.query, heads.width})) {}

  const int64_t* position() const { return layout.position.const_data_ptr<int64_t>(); }
  int64_t capacity() const { return gpu::list_capacity(layout.tokens); }

  Attended attended(const AttentionBackend& library, Band band) const {
    return library.forward(band, qkv, layout, shape);
  }
  Attended exact(const AttentionBackend& judge, Band band) const {
    return judge.forward(band, qkv.to(at::kDouble), layout, shape);
  }
  void finish(const AttentionBackend& judge) {
    const Attended full = exact(judge, Band::kFull);
    final = {full.out.to(at::kBFloat16), full.logsumexp.to(at::kFloat)};
  }
  // dL/dqkv in this type, which the backend computes in: through the window's keys of all rows, and
  // then through the far keys of those marked (undefined: all).
  at::Tensor gradient(const AttentionBackend& backend, at::ScalarType type,
                      const std::vector<Band>& bands, const at::Tensor& marked) const {
    at::Tensor grad_qkv = at::zeros(qkv.sizes(), options(type));
    const Attended left{final.out.to(type),
                        final.logsumexp.to(type == at::kDouble ? type : at::kFloat)};
    for (const Band band : bands) {
      backend.backward(band, grad.to(type), qkv.to(type), left,
                       band == Band::kFar ? marked : at::Tensor(), layout, shape, grad_qkv,
                       GradientSum::kAdd);
    }
    return grad_qkv;
  }

  gpu::KeyValues key_values() const {
    return {shape.keys(qkv).const_data_ptr(),
            shape.values(qkv).const_data_ptr(),
            qkv.stride(0),
            layout.tokens,
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            static_cast<float>(shape.scale)};
  }
};

// Listed rows of a batch with their operands.
class Rows {
 public:
  // Every token with its window, at most `window` keys.
  static Rows near(const Batch& batch, int64_t window) {
    Rows rows(batch, batch.layout.tokens);
    gpu::list_near_rows({batch.position(), batch.layout.tokens, window, rows.list()},
                        current_stream());
    rows.query_ = batch.shape.queries(batch.qkv);
    rows.grad_ = batch.grad;
    gpu::row_statistics(
        {batch.grad.const_data_ptr(), batch.final.out.const_data_ptr(), nullptr,
         batch.final.logsumexp.const_data_ptr<float>(), batch.position(),
         rows.delta_.mutable_data_ptr<float>(), rows.lse_.mutable_data_ptr<float>(), nullptr,
         batch.layout.tokens, batch.shape.heads, batch.shape.head_dim, window},
        current_stream());
    return rows;
  }

  // The marked tokens with what lies before their window.
  static Rows far(const Batch& batch, const at::Tensor& marked) {
    Rows rows(batch, batch.capacity());
    const AttentionShape& shape = batch.shape;
    const at::Tensor counts = at::empty({gpu::list_blocks(batch.layout.tokens)}, options(at::kInt));
    gpu::list_far_rows({marked.const_data_ptr<bool>(), batch.position(), batch.layout.tokens,
                        shape.window, counts.mutable_data_ptr<int32_t>(), rows.list()},
                       current_stream());
    const std::vector<int64_t> compact{batch.capacity(), shape.heads, shape.head_dim};
    rows.query_ = filled(compact, at::kBFloat16, kNan);
    rows.grad_ = filled(compact, at::kBFloat16, kNan);
    gpu::gather_rows(
        {near(batch, shape.window).view(), rows.list(), rows.query_.mutable_data_ptr(),
         rows.grad_.mutable_data_ptr(), rows.lse_.mutable_data_ptr<float>(),
         rows.delta_.mutable_data_ptr<float>(), batch.layout.tokens, shape.heads, shape.head_dim},
        current_stream());
    return rows;
  }

  gpu::ListedRows view() const {
    return {list(),
            query_.const_data_ptr(),
            grad_.const_data_ptr(),
            lse_.const_data_ptr<float>(),
            delta_.const_data_ptr<float>(),
            rows_,
            query_.stride(0)};
  }
  gpu::ListedRows view_of_forward() const {
    gpu::ListedRows rows = view();
    rows.grad_out = nullptr;
    rows.lse = nullptr;
    rows.delta = nullptr;
    return rows;
  }

  int64_t count() const { return count_.item<int32_t>(); }
  at::Tensor tokens() const { return bounds_[0].narrow(0, 0, count()).to(at::kLong); }

 private:
  Rows(const Batch& batch, int64_t rows)
      : bounds_(filled({3, batch.capacity()}, at::kInt, -7)),
        count_(at::zeros({1}, options(at::kInt))),
        lse_(filled({batch.shape.heads, batch.capacity()}, at::kFloat, kNan)),
        delta_(filled({batch.shape.heads, batch.capacity()}, at::kFloat, kNan)),
        rows_(rows) {}

  gpu::RowList list() const {
    const auto row_of = [&](int i) { return bounds_[i].mutable_data_ptr<int32_t>(); };
    return {row_of(0), row_of(1), row_of(2), count_.mutable_data_ptr<int32_t>()};
  }

  at::Tensor bounds_, count_;
  at::Tensor query_, grad_;  // [rows, Hq, D]
  at::Tensor lse_, delta_;   // [Hq, capacity]
  int64_t rows_;
};

inline void attend(const Implementation& kernels, const Batch& batch, const Rows& rows,
                   const Attended& onto) {
  kernels.attend_rows({rows.view_of_forward(), batch.key_values(), onto.out.mutable_data_ptr(),
                       onto.logsumexp.mutable_data_ptr<float>()},
                      current_stream());
}

// The same, with the difference that it makes; only `route` replaces what is there.
struct Difference {
  at::Tensor rows;     // [T, Hq, D]
  at::Tensor squares;  // [Hq, T]
};
inline Difference attend_apart(const Implementation& kernels, const Batch& batch, const Rows& rows,
                               const at::Tensor& route, const Attended& onto) {
  const Difference to{filled(batch.grad.sizes(), at::kBFloat16, kNan),
                      filled({batch.shape.heads, batch.layout.tokens}, at::kFloat, kNan)};
  kernels.attend_rows({rows.view_of_forward(), batch.key_values(), onto.out.mutable_data_ptr(),
                       onto.logsumexp.mutable_data_ptr<float>(), route.const_data_ptr<bool>(),
                       to.rows.mutable_data_ptr(), to.squares.mutable_data_ptr<float>()},
                      current_stream());
  return to;
}

// What has attended to nothing yet.
inline Attended nothing(const Batch& batch) {
  return {at::zeros_like(batch.grad),
          filled({batch.shape.heads, batch.layout.tokens}, at::kFloat, -kInfinity)};
}

inline void key_gradient(const Implementation& kernels, const Batch& batch, const Rows& rows,
                         const Rows* more, const at::Tensor& grad_qkv) {
  kernels.key_gradient({rows.view(), more != nullptr ? more->view() : gpu::ListedRows{},
                        batch.key_values(), batch.shape.keys(grad_qkv).mutable_data_ptr(),
                        batch.shape.values(grad_qkv).mutable_data_ptr(), grad_qkv.stride(0)},
                       current_stream());
}

inline void query_gradient(const Implementation& kernels, const Batch& batch, const Rows& rows,
                           GradientSum sum, const at::Tensor& grad_qkv) {
  kernels.query_gradient(
      {rows.view(), batch.key_values(), batch.shape.queries(grad_qkv).mutable_data_ptr(),
       grad_qkv.stride(0), sum == GradientSum::kAdd},
      current_stream());
}

inline at::Tensor unwritten_gradient(const Batch& batch) {
  return filled(batch.qkv.sizes(), at::kBFloat16, kNan);
}

}  // namespace swiattn
