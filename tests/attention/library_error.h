// How near a kernel's result has to come to the truth, the reference backend's in float64 on the
// same rounded operands: as near as the same mathematics by ATen's kernels for bfloat16 (here "the
// library"), give or take half, and within a fixed tolerance besides.
#pragma once

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "attention/backend.h"

namespace swiattn {

inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

inline constexpr double kTolerance = 6e-3;      // relative, of outputs and gradients
inline constexpr double kRounding = 1.0 / 256;  // the most that rounding to bfloat16 changes
inline constexpr double kNextToNothing = 1e-9;  // for what is exact but for its last bits

// |found - expected| / |expected|, or |found - expected| where nothing is expected; NaN if anything
// is.
inline double relative_error(const at::Tensor& found, const at::Tensor& expected) {
  const double size = expected.norm().item<double>();
  const double error = (found.to(at::kDouble) - expected).norm().item<double>();
  return size > 0 ? error / size : error;
}

// What luck may add to an error. A row of a result [rows, heads, D] may be made of a few weights,
// each of which is off by a rounding or by next to nothing; so the rows' errors differ, and their
// mean over n rows, ours or the library's, by up to a rounding over sqrt(n). Of rows of unlike
// sizes, as many count as there would be if they were alike: (sum |row|^2)^2 / sum |row|^4. Nothing
// where nothing is expected.
inline double luck_of(const at::Tensor& expected) {
  const at::Tensor squares = expected.square().sum(-1);
  const double size = squares.sum().item<double>();
  return size > 0 ? kRounding * squares.norm().item<double>() / size : 0.0;
}

// A library's error that is not a number allows nothing.
inline double allowed_error(double by_library, double slack, double most) {
  const double allowed = 1.5 * by_library + slack;
  return allowed > most ? most : allowed;
}

// `what` names the quantity; the shape is for a trace (describe()).
inline void expect_as_near(const at::Tensor& found, const at::Tensor& library,
                           const at::Tensor& expected, const char* what, double slack,
                           double most = kTolerance) {
  const double error = relative_error(found, expected);
  const double by_library = relative_error(library, expected);
  EXPECT_LE(error, allowed_error(by_library, slack, most))
      << fmt::format("{}: error {:.3e}, the library's {:.3e}", what, error, by_library);
}

inline std::string describe(const AttentionShape& shape, const DocumentLayout& layout) {
  return fmt::format(
      "{} query and {} KV heads of {}, window {}, {} tokens in {} documents, the longest of {}",
      shape.heads, shape.kv_heads, shape.head_dim, shape.window, layout.tokens, layout.documents(),
      layout.longest);
}

}  // namespace swiattn
