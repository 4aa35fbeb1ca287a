// For tests of what surrounds attention: a backend that hands NEAR, FAR and FULL on to another one,
// and the rest to the defaults, which are made of these.
#pragma once

#include <memory>
#include <utility>

#include "attention/backend.h"

namespace swiattn {

class HandingBackend : public AttentionBackend {
 public:
  explicit HandingBackend(std::unique_ptr<AttentionBackend> backend)
      : backend_(std::move(backend)) {}

  const char* name() const override { return "handing"; }

  Attended forward(Band band, const at::Tensor& qkv, const DocumentLayout& layout,
                   const AttentionShape& shape) const override {
    return backend_->forward(band, qkv, layout, shape);
  }

  void backward(Band band, const at::Tensor& grad_out, const at::Tensor& qkv, const Attended& final,
                const at::Tensor& rows, const DocumentLayout& layout, const AttentionShape& shape,
                const at::Tensor& grad_qkv, GradientSum sum) const override {
    backend_->backward(band, grad_out, qkv, final, rows, layout, shape, grad_qkv, sum);
  }

 private:
  std::unique_ptr<AttentionBackend> backend_;
};

}  // namespace swiattn
