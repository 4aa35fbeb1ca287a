// gamma of the efficiency regularizer (docs/method.md, "The loss and the regularizer"), token by
// token:
//
//   gamma_t = base / (eps + nll_weight * NLL_t + disagreement_weight * ||o_full,t - o_swa,t||^2)
//
// One formula for the named kinds: `adaptive` has both weights, `no_nll` and `no_disagreement` drop
// one, `constant` has gamma_t = base.
#pragma once

#include <ATen/core/Tensor.h>

namespace swiattn {

struct GammaCoefficients {
  double base = 0.0;  // 0 switches the regularizer off
  double eps = 0.0;
  double nll_weight = 0.0;
  double disagreement_weight = 0.0;
  bool constant = false;

  bool active() const { return base != 0.0; }
};

struct RegularizerTerms {
  at::Tensor gamma;        // [T]
  at::Tensor value;        // [T] gamma * softplus(s), 0 where the target is ignored
  at::Tensor grad_logits;  // [T] gamma * sigmoid(s), 0 where the target is ignored
};

using RegularizerGamma = RegularizerTerms(const GammaCoefficients& coefficients,
                                          const at::Tensor& logits,        // s [T]
                                          const at::Tensor& nll,           // [T]
                                          const at::Tensor& disagreement,  // [T]
                                          const at::Tensor& counted);      // [T] bool

namespace reference {
RegularizerGamma regularizer_gamma;
}

}  // namespace swiattn
