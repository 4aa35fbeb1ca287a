#include "parallel/flat_parameters.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "base/hash.h"

namespace swiattn {
namespace {

// 256 bytes of a two-byte type: what cuBLAS, TMA and bit-stable CPU products ask for.
constexpr int64_t kAlignment = 128;

int64_t align(int64_t elements) { return (elements + kAlignment - 1) / kAlignment * kAlignment; }

// A zeroed buffer whose first element is aligned to 256 bytes (the CPU allocator promises 64).
at::Tensor allocate(int64_t numel, at::ScalarType type, c10::Device device) {
  const auto options = at::TensorOptions().dtype(type).device(device);
  if (!device.is_cpu()) return at::zeros({numel}, options);
  at::Tensor storage = at::zeros({numel + 256}, options);
  const auto address = reinterpret_cast<uintptr_t>(storage.data_ptr());
  const auto skip = static_cast<int64_t>((256 - address % 256) % 256 / storage.element_size());
  return storage.narrow(0, skip, numel);
}

bool any_trainable(const ParameterGroup& group, const std::unordered_set<std::string>& frozen) {
  return std::any_of(group.members.begin(), group.members.end(),
                     [&](const ParameterSpec& spec) { return frozen.count(spec.name) == 0; });
}

FlatUnit lay_out(const ParameterUnit& unit, const std::unordered_set<std::string>& frozen) {
  FlatUnit flat;
  flat.name = unit.name;
  int64_t offset = 0;
  for (const bool trainable_pass : {true, false}) {
    for (const ParameterGroup& group : unit.groups) {
      if (any_trainable(group, frozen) != trainable_pass) continue;
      offset = align(offset);
      FlatGroup operand{group.name, offset, group.members.front().shape, trainable_pass, false};
      operand.shape[0] = 0;
      for (const ParameterSpec& spec : group.members) {
        flat.segments.push_back({spec, group.name, offset, frozen.count(spec.name) == 0});
        operand.shape[0] += spec.shape[0];
        offset += spec.numel();
      }
      flat.groups.push_back(std::move(operand));
    }
    if (trainable_pass) flat.trainable_numel = align(offset);
  }
  flat.numel = align(offset);
  return flat;
}

int64_t count(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

size_t group_index(const FlatUnit& unit, const std::string& name) {
  const auto found = std::find_if(unit.groups.begin(), unit.groups.end(),
                                  [&](const FlatGroup& group) { return group.name == name; });
  SWIATTN_CHECK(found != unit.groups.end(), "the unit {} has no group {}", unit.name, name);
  return static_cast<size_t>(found - unit.groups.begin());
}

at::Tensor group_view(const FlatGroup& group, const at::Tensor& buffer) {
  return buffer.narrow(0, group.offset, count(group.shape)).view(group.shape);
}

at::Tensor gradient_view(const FlatUnit& unit, const FlatGroup& group) {
  if (!group.trainable || !unit.gradient.defined()) return {};
  return group_view(group, unit.gradient);
}

}  // namespace

int64_t ParameterSpec::numel() const { return count(shape); }

const Segment& FlatUnit::segment(const std::string& tensor_name) const {
  for (const Segment& candidate : segments) {
    if (candidate.spec.name == tensor_name) return candidate;
  }
  fail(ExitCode::kInternal, "Internal error: the unit {} has no tensor {}.", name, tensor_name);
}

at::Tensor FlatUnit::master_view(const Segment& segment) const {
  return master.narrow(0, segment.offset, segment.spec.numel()).view(segment.spec.shape);
}

at::Tensor FlatUnit::group_master(const std::string& group) const {
  return group_view(groups[group_index(*this, group)], master);
}

at::Tensor FlatUnit::group_compute(const std::string& group) const {
  return group_view(groups[group_index(*this, group)], compute);
}

at::Tensor FlatUnit::group_gradient(const std::string& group) const {
  return gradient_view(*this, groups[group_index(*this, group)]);
}

GradientTarget FlatUnit::take_gradient(const std::string& group) {
  FlatGroup& taken = groups[group_index(*this, group)];
  const bool first = std::exchange(taken.stale_gradient, false);
  return {gradient_view(*this, taken), first ? GradientSum::kWrite : GradientSum::kAdd};
}

FlatParameters::FlatParameters(const std::vector<ParameterUnit>& units,
                               const std::vector<std::string>& frozen, at::ScalarType compute_type,
                               c10::Device device, Purpose purpose, at::ScalarType moment_type)
    : compute_type_(compute_type), device_(device) {
  const std::unordered_set<std::string> frozen_set(frozen.begin(), frozen.end());
  const at::ScalarType master_type = compute_type == at::kDouble ? at::kDouble : at::kFloat;
  for (const ParameterUnit& description : units) {
    FlatUnit unit = lay_out(description, frozen_set);
    unit.master = allocate(unit.numel, master_type, device);
    unit.compute =
        compute_type == master_type ? unit.master : allocate(unit.numel, compute_type, device);
    if (purpose == Purpose::kTraining) {
      unit.gradient = allocate(unit.trainable_numel, master_type, device);
      const at::ScalarType moments = master_type == at::kDouble ? at::kDouble : moment_type;
      unit.moment1 = allocate(unit.trainable_numel, moments, device);
      unit.moment2 = allocate(unit.trainable_numel, moments, device);
    }
    units_.push_back(std::move(unit));
  }
}

FlatUnit& FlatParameters::unit(const std::string& name) {
  for (FlatUnit& candidate : units_) {
    if (candidate.name == name) return candidate;
  }
  fail(ExitCode::kInternal, "Internal error: there is no parameter unit {}.", name);
}

void FlatParameters::start_gradients() {
  for (FlatUnit& unit : units_) {
    for (FlatGroup& group : unit.groups) group.stale_gradient = group.trainable;
  }
}

void FlatParameters::finish_gradients() {
  for (FlatUnit& unit : units_) {
    for (FlatGroup& group : unit.groups) {
      if (std::exchange(group.stale_gradient, false)) group_view(group, unit.gradient).zero_();
    }
    for (const Segment& segment : unit.segments) {
      if (segment.trainable || segment.offset >= unit.trainable_numel) continue;
      unit.gradient.narrow(0, segment.offset, segment.spec.numel()).zero_();
    }
  }
}

std::vector<bool> FlatParameters::stale_gradients() const {
  std::vector<bool> stale;
  for (const FlatUnit& unit : units_) {
    for (const FlatGroup& group : unit.groups) stale.push_back(group.stale_gradient);
  }
  return stale;
}

void FlatParameters::set_stale_gradients(const std::vector<bool>& stale) {
  size_t i = 0;
  for (FlatUnit& unit : units_) {
    for (FlatGroup& group : unit.groups) group.stale_gradient = stale.at(i++);
  }
}

void FlatParameters::refresh_compute_copies() {
  for (FlatUnit& unit : units_) {
    if (!unit.compute.is_same(unit.master)) unit.compute.copy_(unit.master);
  }
}

uint64_t FlatParameters::hash() const {
  Hasher hasher;
  for (const FlatUnit& unit : units_) {
    for (const Segment& segment : unit.segments) {
      const at::Tensor values = unit.master_view(segment).contiguous().cpu();
      hasher.update(values.data_ptr(), values.nbytes());
    }
  }
  return hasher.digest();
}

}  // namespace swiattn
