#include "parallel/agreement.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace swiattn {
namespace {

// Answers as if another rank had reported what it was told.
class TwoRanks : public Communicator {
 public:
  explicit TwoRanks(std::string other) : other_(std::move(other)) {}
  int rank() const override { return 0; }
  int size() const override { return 2; }
  void all_reduce(at::Tensor&) override {}
  void broadcast(at::Tensor&, int) override {}
  std::string broadcast_text(const std::string& text, int) override { return text; }
  std::vector<std::string> all_gather_text(const std::string& text) override {
    return {text, other_};
  }

 private:
  std::string other_;
};

TEST(AgreementTest, AFailureOfAnotherRankIsThrownHereToo) {
  TwoRanks ranks("3:The shard is gone.");
  try {
    agree(ranks, [] {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kData);
    EXPECT_STREQ(error.what(), "Rank 1: The shard is gone.");
  }
}

TEST(AgreementTest, AFailureOfAllIsToldOnceWithoutARank) {
  TwoRanks ranks("2:No such key.");
  try {
    agree(ranks, [] { fail(ExitCode::kConfiguration, "No such key."); });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kConfiguration);
    EXPECT_STREQ(error.what(), "No such key.");
  }
}

TEST(AgreementTest, SuccessEverywhereReturns) {
  TwoRanks ranks("");
  bool ran = false;
  agree(ranks, [&] { ran = true; });
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace swiattn
