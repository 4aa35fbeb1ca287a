#include "attention/listed_attention.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>

#include <limits>
#include <utility>

#include "attention/attend_branches.h"
#include "attention/listed_kernels.h"
#include "base/check.h"
#include "parallel/device.h"
#include "parallel/gpu_stream.h"

namespace swiattn {
namespace {

const void* data(const at::Tensor& tensor) { return tensor.const_data_ptr(); }

template <class T>
T* data_as(const at::Tensor& tensor) {
  return tensor.mutable_data_ptr<T>();
}

// A list of rows on the device.
class List {
 public:
  static List near(const DocumentLayout& layout, int64_t window, c10::Device device) {
    const List list(layout.tokens, device);
    gpu::list_near_rows({position(layout), layout.tokens, window, list.view()}, current_stream());
    return list;
  }
  static List far(const at::Tensor& marked, const DocumentLayout& layout, int64_t window) {
    const List list(layout.tokens, marked.device());
    const at::Tensor counts = at::empty({gpu::list_blocks(layout.tokens)}, list.bounds_.options());
    SWIATTN_CHECK(marked.is_contiguous(), "marks of rows are contiguous");
    gpu::list_far_rows({data_as<bool>(marked), position(layout), layout.tokens, window,
                        data_as<int32_t>(counts), list.view()},
                       current_stream());
    return list;
  }

  gpu::RowList view() const {
    return {data_as<int32_t>(bounds_[0]), data_as<int32_t>(bounds_[1]),
            data_as<int32_t>(bounds_[2]), data_as<int32_t>(count_)};
  }

 private:
  List(int64_t tokens, c10::Device device)
      : bounds_(at::empty({3, gpu::list_capacity(tokens)},
                          at::TensorOptions().dtype(at::kInt).device(device))),
        count_(at::empty({1}, bounds_.options())) {}
  static const int64_t* position(const DocumentLayout& layout) {
    return layout.position.const_data_ptr<int64_t>();
  }

  at::Tensor bounds_, count_;
};

// A list with its rows' operands; those of a forward are the queries alone.
struct Rows {
  List list;
  at::Tensor query, grad_out;  // [rows, Hq, D]
  at::Tensor lse, delta;       // [Hq, capacity]

  gpu::ListedRows view() const {
    gpu::ListedRows view{};
    view.list = list.view();
    view.query = data(query);
    view.rows = query.size(0);
    view.query_stride = query.stride(0);
    if (!grad_out.defined()) return view;
    view.grad_out = data(grad_out);
    view.lse = lse.const_data_ptr<float>();
    view.delta = delta.const_data_ptr<float>();
    return view;
  }
};

// The kernels of the current device's architecture.
struct Kernels {
  decltype(&gpu::attend_rows_sm80) attend_rows;
  decltype(&gpu::key_gradient_sm80) key_gradient;
  decltype(&gpu::query_gradient_sm80) query_gradient;
};
Kernels kernels() {
  if (is_hopper(at::kCUDA)) {
    return {gpu::attend_rows_sm90, gpu::key_gradient_sm90, gpu::query_gradient_sm90};
  }
  return {gpu::attend_rows_sm80, gpu::key_gradient_sm80, gpu::query_gradient_sm80};
}

gpu::KeyValues key_values(const at::Tensor& qkv, const AttentionShape& shape) {
  return {data(shape.keys(qkv)), data(shape.values(qkv)),
          qkv.stride(0),         qkv.size(0),
          shape.heads,           shape.kv_heads,
          shape.head_dim,        static_cast<float>(shape.scale)};
}

// The straight-through gradient that a pass over the rows forms, or nothing.
struct GatePart {
  at::Tensor difference;  // [T, Hq, D]; undefined: no gate
  at::Tensor both;        // [T] bool; undefined: all
  at::Tensor gradient;    // [T] float32, filled
};

// All rows with the at most `window` keys up to their own.
Rows near_rows(const at::Tensor& grad_out, const at::Tensor& qkv, const Attended& final,
               const GatePart& gate, const DocumentLayout& layout, const AttentionShape& shape,
               int64_t window) {
  SWIATTN_CHECK(
      grad_out.is_contiguous() && final.out.is_contiguous() && final.logsumexp.is_contiguous(),
      "the backward reads contiguous rows");
  const auto wide = qkv.options().dtype(at::kFloat);
  const int64_t capacity = gpu::list_capacity(layout.tokens);
  Rows rows{List::near(layout, window, qkv.device()), shape.queries(qkv), grad_out,
            at::empty({shape.heads, capacity}, wide), at::empty({shape.heads, capacity}, wide)};
  gpu::row_statistics(
      {data(grad_out), data(final.out), gate.difference.defined() ? data(gate.difference) : nullptr,
       final.logsumexp.const_data_ptr<float>(), layout.position.const_data_ptr<int64_t>(),
       data_as<float>(rows.delta), data_as<float>(rows.lse),
       gate.difference.defined() ? data_as<float>(gate.gradient) : nullptr, layout.tokens,
       shape.heads, shape.head_dim, shape.window,
       gate.both.defined() ? gate.both.const_data_ptr<bool>() : nullptr},
      current_stream());
  return rows;
}

// The marked ones of `all` with their far keys.
Rows far_rows(const gpu::ListedRows& all, const at::Tensor& qkv, const at::Tensor& marked,
              const DocumentLayout& layout, const AttentionShape& shape) {
  const int64_t capacity = gpu::list_capacity(layout.tokens);
  const bool backward = all.grad_out != nullptr;
  Rows rows{List::far(marked, layout, shape.window),
            at::empty({capacity, shape.heads, shape.head_dim}, qkv.options()),
            {},
            {},
            {}};
  if (backward) {
    rows.grad_out = at::empty_like(rows.query);
    rows.lse = at::empty({shape.heads, capacity}, qkv.options().dtype(at::kFloat));
    rows.delta = at::empty_like(rows.lse);
  }
  gpu::gather_rows(
      {all, rows.list.view(), rows.query.mutable_data_ptr(),
       backward ? rows.grad_out.mutable_data_ptr() : nullptr,
       backward ? data_as<float>(rows.lse) : nullptr,
       backward ? data_as<float>(rows.delta) : nullptr, layout.tokens, shape.heads, shape.head_dim},
      current_stream());
  return rows;
}

// The queries of the marked rows with their far keys.
Rows far_queries(const at::Tensor& qkv, const at::Tensor& marked, const DocumentLayout& layout,
                 const AttentionShape& shape) {
  gpu::ListedRows all{};
  const at::Tensor query = shape.queries(qkv);
  all.query = data(query);
  all.query_stride = query.stride(0);
  return far_rows(all, qkv, marked, layout, shape);
}

// [T] from the sums of squares of every head [Hq, T].
at::Tensor disagreement_of(const at::Tensor& squares, const AttentionShape& shape,
                           DisagreementReduction reduction) {
  at::Tensor disagreement = squares.sum(0);
  if (reduction == DisagreementReduction::kMean) {
    disagreement.div_(static_cast<double>(shape.heads * shape.head_dim));
  }
  return disagreement;
}

void key_gradient(const gpu::ListedRows& rows, const gpu::ListedRows& more, const at::Tensor& qkv,
                  const AttentionShape& shape, const at::Tensor& grad_qkv) {
  kernels().key_gradient(
      {rows, more, key_values(qkv, shape), shape.keys(grad_qkv).mutable_data_ptr(),
       shape.values(grad_qkv).mutable_data_ptr(), grad_qkv.stride(0)},
      current_stream());
}

void query_gradient(const gpu::ListedRows& rows, const at::Tensor& qkv, const AttentionShape& shape,
                    const at::Tensor& grad_qkv, GradientSum sum) {
  kernels().query_gradient(
      {rows, key_values(qkv, shape), shape.queries(grad_qkv).mutable_data_ptr(), grad_qkv.stride(0),
       sum == GradientSum::kAdd},
      current_stream());
}

}  // namespace

bool listed_attention_covers(const at::Tensor& qkv, const AttentionShape& shape) {
  constexpr int64_t kMostRowsAtOnce = 128;  // of a block; it counts to the end of its last tile
  return qkv.is_cuda() && qkv.scalar_type() == at::kBFloat16 &&
         at::cuda::getCurrentDeviceProperties()->major >= 8 && has_own_kernels(shape.head_dim) &&
         qkv.size(0) <= std::numeric_limits<int32_t>::max() - kMostRowsAtOnce;
}

bool listed_switch_forward_covers(const AttentionShape& shape) {
  return is_hopper(at::kCUDA) && has_own_kernels(shape.head_dim);
}

SwitchSaved listed_switch_forward(const at::Tensor& qkv, const at::Tensor& route,
                                  const DocumentLayout& layout, const AttentionShape& shape,
                                  DisagreementReduction reduction) {
  SWIATTN_CHECK(route.is_contiguous(), "the kernel reads a contiguous route");
  const at::Tensor query = shape.queries(qkv);
  const at::Tensor squares =
      at::empty({shape.heads, layout.tokens}, qkv.options().dtype(at::kFloat));
  const at::Tensor next_item = at::zeros({1}, qkv.options().dtype(at::kInt));
  SwitchSaved saved;
  saved.route = route;
  saved.out = at::empty(query.sizes(), qkv.options());
  saved.difference = at::empty_like(saved.out);
  saved.logsumexp = at::empty_like(squares);
  gpu::attend_branches_sm90(
      {data(query), query.stride(0), key_values(qkv, shape),
       layout.position.const_data_ptr<int64_t>(), shape.window, route.const_data_ptr<bool>(),
       saved.out.mutable_data_ptr(), saved.difference.mutable_data_ptr(),
       data_as<float>(saved.logsumexp), data_as<float>(squares), data_as<int32_t>(next_item)},
      current_stream());
  saved.disagreement = disagreement_of(squares, shape, reduction);
  return saved;
}

void listed_backward(Band band, const at::Tensor& grad_out, const at::Tensor& qkv,
                     const Attended& final, const DocumentLayout& layout,
                     const AttentionShape& shape, const at::Tensor& grad_qkv) {
  SWIATTN_CHECK(band != Band::kFar, "all rows have near keys");
  const int64_t window = band == Band::kNear ? shape.window : layout.longest;
  const Rows rows = near_rows(grad_out, qkv, final, {}, layout, shape, window);
  key_gradient(rows.view(), {}, qkv, shape, grad_qkv);
  query_gradient(rows.view(), qkv, shape, grad_qkv, GradientSum::kWrite);
}

at::Tensor listed_switch_backward(const at::Tensor& grad_out, const at::Tensor& qkv,
                                  const SwitchSaved& saved, const DocumentLayout& layout,
                                  const AttentionShape& shape, const at::Tensor& grad_qkv) {
  at::Tensor gate_gradient = at::empty_like(saved.disagreement);
  const Rows near =
      near_rows(grad_out, qkv, {saved.out, saved.logsumexp},
                {saved.difference, saved.both, gate_gradient}, layout, shape, shape.window);
  if (layout.far_longest == 0) {
    key_gradient(near.view(), {}, qkv, shape, grad_qkv);
    query_gradient(near.view(), qkv, shape, grad_qkv, GradientSum::kWrite);
    return gate_gradient;
  }
  const Rows far = far_rows(near.view(), qkv, saved.route, layout, shape);
  key_gradient(near.view(), far.view(), qkv, shape, grad_qkv);
  query_gradient(near.view(), qkv, shape, grad_qkv, GradientSum::kWrite);
  query_gradient(far.view(), qkv, shape, grad_qkv, GradientSum::kAdd);
  return gate_gradient;
}

void listed_far_forward(const at::Tensor& qkv, const at::Tensor& rows, const DocumentLayout& layout,
                        const AttentionShape& shape, const Attended& attended) {
  if (layout.far_longest == 0) return;
  const Rows far = far_queries(qkv, rows, layout, shape);
  kernels().attend_rows({far.view(), key_values(qkv, shape), attended.out.mutable_data_ptr(),
                         data_as<float>(attended.logsumexp), nullptr, nullptr, nullptr},
                        current_stream());
}

// The branches are merged as they are formed: `near` becomes the branch taken.
SwitchSaved listed_attend_sampled(const at::Tensor& qkv, Attended near, const at::Tensor& route,
                                  const at::Tensor& both, const DocumentLayout& layout,
                                  const AttentionShape& shape, DisagreementReduction reduction) {
  SWIATTN_CHECK(near.out.is_contiguous() && near.logsumexp.is_contiguous() && route.is_contiguous(),
                "the kernel replaces contiguous rows");
  SwitchSaved saved;
  saved.difference = at::empty_like(near.out);
  const at::Tensor squares = at::zeros_like(near.logsumexp);
  if (layout.far_longest > 0) {
    const Rows far = far_queries(qkv, both, layout, shape);
    kernels().attend_rows({far.view(), key_values(qkv, shape), near.out.mutable_data_ptr(),
                           data_as<float>(near.logsumexp), route.const_data_ptr<bool>(),
                           saved.difference.mutable_data_ptr(), data_as<float>(squares)},
                          current_stream());
  }
  saved.disagreement = disagreement_of(squares, shape, reduction);
  saved.out = std::move(near.out);
  saved.logsumexp = std::move(near.logsumexp);
  saved.route = route;
  saved.both = both;
  return saved;
}

}  // namespace swiattn
