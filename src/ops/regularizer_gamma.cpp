#include "ops/regularizer_gamma.h"

#include <ATen/ATen.h>

namespace swiattn::reference {

RegularizerTerms regularizer_gamma(const GammaCoefficients& coefficients, const at::Tensor& logits,
                                   const at::Tensor& nll, const at::Tensor& disagreement,
                                   const at::Tensor& counted) {
  RegularizerTerms terms;
  if (coefficients.constant) {
    terms.gamma = at::full_like(logits, coefficients.base);
  } else {
    terms.gamma =
        coefficients.base / (nll * coefficients.nll_weight +
                             disagreement * coefficients.disagreement_weight + coefficients.eps);
  }
  const at::Tensor gamma = terms.gamma * counted;
  // log(1 + e^s) without overflow; at::softplus switches to a straight line at 20, which is off by
  // 2e-9 and shows in float64.
  terms.value = gamma * at::logaddexp(logits, at::zeros_like(logits));
  terms.grad_logits = gamma * at::sigmoid(logits);
  return terms;
}

}  // namespace swiattn::reference
