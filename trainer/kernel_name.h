// Names of GPU kernels, as short as they can be told apart.
#pragma once

#include <cstddef>
#include <string>

namespace swiattn {

// No name is longer; a cut one ends in "...".
inline constexpr size_t kLongestKernelName = 80;

// A demangled name without return type, arguments and namespaces, in template arguments too:
//   void at::native::elementwise_kernel<4, at::native::FillFunctor<float> >(int, char*)
//   → elementwise_kernel<4, FillFunctor<float>>
// A name that is none of C++ ("Memcpy DtoH (Device -> Pinned)") stays as it is. Kernels of this
// project keep their arguments, which say more than the names they have in their files:
//   void swiattn::(anonymous namespace)::update(swiattn::AdamWSpan, double const*)
//   → update(AdamWSpan, double const*)
std::string short_kernel_name(const std::string& name);

// With the arguments whosever it is, for kernels that share a short name.
std::string short_kernel_signature(const std::string& name);

}  // namespace swiattn
