#include "trainer/kernel_name.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace swiattn {
namespace {

using ::testing::EndsWith;
using ::testing::SizeIs;
using ::testing::StartsWith;

TEST(KernelName, HasNoReturnTypeArgumentsAndNamespaces) {
  const std::pair<const char*, const char*> names[] = {
      {"void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, "
       "std::array<char*, 1ul> >(int, at::native::FillFunctor<float>, std::array<char*, 1ul>)",
       "vectorized_elementwise_kernel<4, FillFunctor<float>, array<char*, 1ul>>"},
      {"void at::native::unrolled_elementwise_kernel<at::native::(anonymous namespace)::"
       "silu_kernel(at::TensorIteratorBase&)::{lambda()#1}::operator()() const::{lambda()#4}::"
       "operator()() const::{lambda(float)#1}, std::array<char*, 2ul>, 4>(int)",
       "unrolled_elementwise_kernel<silu_kernel, array<char*, 2ul>, 4>"},
      {"void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl<at::native::"
       "AbsFunctor<c10::Half> >(at::TensorIteratorBase&)::{lambda(int)#1}>(int)",
       "elementwise_kernel<128, 4, gpu_kernel_impl<AbsFunctor<Half>>>"},
      {"std::enable_if<!(false), void>::type internal::gemvx::kernel<int, __nv_bfloat16, (bool)1>"
       "(cublasGemvParamsEx<int, cublasGemvTensorStridedBatched<__nv_bfloat16 const>>)",
       "kernel<int, __nv_bfloat16, 1>"},
      {"void outer::Holder<int>::run<2>(long)", "Holder<int>::run<2>"},
      {"nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_NNT", "nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_NNT"},
      {"plain(float*)", "plain"},
      {"Memcpy DtoH (Device -> Pinned)", "Memcpy DtoH (Device -> Pinned)"},
      {"Memset (Device)", "Memset (Device)"},
      {"", ""},
  };
  for (const auto& [full, brief] : names) EXPECT_EQ(short_kernel_name(full), brief);
}

TEST(KernelName, OfThisProjectKeepsItsArguments) {
  EXPECT_EQ(short_kernel_name("swiattn::(anonymous namespace)::update(swiattn::AdamWSpan, double "
                              "const*, long const*)"),
            "update(AdamWSpan, double const*, long const*)");
  EXPECT_EQ(short_kernel_name("void swiattn::gpu::(anonymous namespace)::forward<4>(swiattn::gpu::"
                              "RmsNormForwardArguments)"),
            "forward<4>(RmsNormForwardArguments)");
}

TEST(KernelName, ASignatureTellsKernelsOfOneNameApart) {
  EXPECT_EQ(short_kernel_signature("void a::copy<2>(float*, long)"), "copy<2>(float*, long)");
  EXPECT_EQ(short_kernel_signature("void a::copy<2>(b::Half*, c::Box<d::E>&)"),
            "copy<2>(Half*, Box<E>&)");
  EXPECT_EQ(short_kernel_signature("nvjet_hsh"), "nvjet_hsh");
  EXPECT_EQ(short_kernel_signature("Memset (Device)"), "Memset (Device)");
}

TEST(KernelName, IsCutWhereItIsTooLong) {
  const std::string longest = "void f::g<" + std::string(200, 'x') + ">(int)";
  EXPECT_THAT(short_kernel_name(longest), SizeIs(kLongestKernelName));
  EXPECT_THAT(short_kernel_name(longest), StartsWith("g<xxx"));
  EXPECT_THAT(short_kernel_name(longest), EndsWith("..."));
}

// Whatever a tool calls a kernel must not break a run.
TEST(KernelName, TakesWhatIsNoName) {
  for (const char* text :
       {")", "(", "((", "))", "<", ">", "a)", "(a", "a<b", "a>b<c", "::", "void ", " ", "{[(",
        ")]}", ",,,", "operator()", "swiattn::", "a<>::<>::b(c)"}) {
    EXPECT_NO_THROW(short_kernel_name(text)) << text;
    EXPECT_NO_THROW(short_kernel_signature(text)) << text;
  }
}

}  // namespace
}  // namespace swiattn
