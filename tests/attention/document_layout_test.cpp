#include "attention/document_layout.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "expected_layout.h"

namespace swiattn {
namespace {

TEST(DocumentLayoutTest, EqualsTheOneMadeTokenByToken) {
  for (const LayoutCase& c : layout_cases()) {
    SCOPED_TRACE(testing::PrintToString(c.starts) + " w " + std::to_string(c.window));
    expect_layout(c, at::kCPU);
  }
}

TEST(DocumentLayoutTest, KnowsWhetherDocumentsAreEquallyLong) {
  EXPECT_EQ(make_document_layout({0, 4, 8}, 2, at::kCPU).uniform_length(), 4);
  EXPECT_EQ(make_document_layout({0, 9}, 2, at::kCPU).uniform_length(), 9);
  EXPECT_EQ(make_document_layout({0, 4, 7}, 2, at::kCPU).uniform_length(), 0);
  EXPECT_EQ(make_document_layout({0, 3, 7}, 2, at::kCPU).uniform_length(), 0);
}

TEST(DocumentLayoutTest, RefusesEmptyDocuments) {
  EXPECT_THROW(make_document_layout({0, 4, 4}, 2, at::kCPU), Error);
  EXPECT_THROW(make_document_layout({0, 4, 3}, 2, at::kCPU), Error);
  EXPECT_THROW(make_document_layout({1, 4}, 2, at::kCPU), Error);
  EXPECT_THROW(make_document_layout({0}, 2, at::kCPU), Error);
}

}  // namespace
}  // namespace swiattn
