// The judge of document layouts: token by token, on the host.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "attention/document_layout.h"

namespace swiattn {

struct LayoutCase {
  std::vector<int32_t> starts;
  int64_t window = 0;
};

// Documents of one token, of w - 1, w and w + 1, equal ones, and many random lengths.
inline std::vector<LayoutCase> layout_cases() {
  std::vector<LayoutCase> all = {{{0, 1}, 1},
                                 {{0, 1}, 2},
                                 {{0, 5}, 0},
                                 {{0, 1, 2, 3, 4}, 1},
                                 {{0, 128, 256, 384}, 128},
                                 {{0, 128, 256, 384}, 127},
                                 {{0, 129, 258}, 128},
                                 {{0, 127, 255, 384}, 128},
                                 {{0, 7, 4096}, int64_t{1} << 40},
                                 {{0, 32768}, 1024},
                                 {{0, 1, 32768, 40000}, 1024}};
  std::mt19937_64 random(7);
  for (int i = 0; i < 300; ++i) {
    LayoutCase c{{0}, static_cast<int64_t>(random() % 40)};
    const auto documents = 1 + random() % 50;
    const auto longest = 1 + random() % 90;
    for (uint64_t d = 0; d < documents; ++d) {
      c.starts.push_back(c.starts.back() + 1 + static_cast<int32_t>(random() % longest));
    }
    all.push_back(c);
  }
  return all;
}

inline void expect_indices(const at::Tensor& found, const std::vector<int64_t>& expected,
                           at::ScalarType type, c10::Device device) {
  EXPECT_EQ(found.device().type(), device.type());
  EXPECT_EQ(found.scalar_type(), type);
  EXPECT_TRUE(found.is_contiguous());
  const at::Tensor host = found.cpu().to(at::kLong);
  EXPECT_EQ(std::vector<int64_t>(host.const_data_ptr<int64_t>(),
                                 host.const_data_ptr<int64_t>() + host.numel()),
            expected);
}

// Every field of the layout of a case on a device.
inline void expect_layout(const LayoutCase& c, c10::Device device) {
  const DocumentLayout layout = make_document_layout(c.starts, c.window, device);
  std::vector<int64_t> positions, far_queries, far_keys, far_starts{0};
  int64_t longest = 0, far_longest = 0;
  for (size_t i = 0; i + 1 < c.starts.size(); ++i) {
    const int64_t begin = c.starts[i], length = c.starts[i + 1] - begin;
    longest = std::max(longest, length);
    for (int64_t position = 0; position < length; ++position) {
      positions.push_back(position);
      if (position < c.window) continue;
      far_queries.push_back(begin + position);
      far_keys.push_back(begin + position - c.window);
    }
    if (length <= c.window) continue;
    far_longest = std::max(far_longest, length - c.window);
    far_starts.push_back(static_cast<int64_t>(far_queries.size()));
  }
  EXPECT_EQ(layout.tokens, c.starts.back());
  EXPECT_EQ(layout.longest, longest);
  EXPECT_EQ(layout.far_longest, far_longest);
  EXPECT_EQ(layout.starts, c.starts);
  expect_indices(layout.starts_device, {c.starts.begin(), c.starts.end()}, at::kInt, device);
  expect_indices(layout.position, positions, at::kLong, device);
  const FarRows& far = layout.far_rows();
  expect_indices(far.queries, far_queries, at::kLong, device);
  expect_indices(far.keys, far_keys, at::kLong, device);
  expect_indices(far.starts, far_starts, at::kInt, device);
  EXPECT_EQ(&layout.far_rows(), &far);  // made once
}

}  // namespace swiattn
