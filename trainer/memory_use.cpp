#include "trainer/memory_use.h"

#include <fmt/format.h>

namespace swiattn {
namespace {

std::string size(int64_t bytes) {
  constexpr double kGib = 1 << 30;
  const auto value = static_cast<double>(bytes);
  return value < kGib ? fmt::format("{:.1f} MiB", 1024 * value / kGib)
                      : fmt::format("{:.2f} GiB", value / kGib);
}

int64_t bytes_of(const at::Tensor& buffer) {
  return buffer.defined() ? static_cast<int64_t>(buffer.nbytes()) : 0;
}

}  // namespace

MemoryUse memory_use(const FlatParameters& parameters) {
  MemoryUse use;
  for (const FlatUnit& unit : parameters.units()) {
    use.weights += bytes_of(unit.master);
    if (!unit.compute.is_same(unit.master)) use.weights += bytes_of(unit.compute);
    use.gradients += bytes_of(unit.gradient);
    use.moments += bytes_of(unit.moment1) + bytes_of(unit.moment2);
  }
  return use;
}

std::string describe_memory(const MemoryUse& use) {
  return fmt::format("weights {}, gradients {}, moments {}", size(use.weights), size(use.gradients),
                     size(use.moments));
}

std::string describe_peak_memory(const MemoryUse& use, int64_t peak, c10::Device device) {
  return fmt::format("Memory at its peak: {}, activations{} {}; {} together.", describe_memory(use),
                     device.is_cpu() ? ", workspace and program" : " and workspace",
                     size(peak - use.total()), size(peak));
}

}  // namespace swiattn
