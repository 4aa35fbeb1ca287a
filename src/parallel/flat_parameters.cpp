#include "parallel/flat_parameters.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <unordered_set>

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
      for (const ParameterSpec& spec : group.members) {
        flat.segments.push_back({spec, group.name, offset, frozen.count(spec.name) == 0});
        offset += spec.numel();
      }
    }
    if (trainable_pass) flat.trainable_numel = align(offset);
  }
  flat.numel = align(offset);
  return flat;
}

// The members of `group` inside `buffer`, as one operand. Undefined when the buffer ends before it.
at::Tensor group_view(const FlatUnit& unit, const std::string& group, const at::Tensor& buffer) {
  int64_t begin = -1;
  std::vector<int64_t> shape;
  for (const Segment& segment : unit.segments) {
    if (segment.group != group) continue;
    if (begin < 0) {
      begin = segment.offset;
      shape = segment.spec.shape;
    } else {
      shape[0] += segment.spec.shape[0];
    }
  }
  SWIATTN_CHECK(begin >= 0, "the unit {} has no group {}", unit.name, group);
  if (!buffer.defined()) return {};
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  if (begin + count > buffer.numel()) return {};
  return buffer.narrow(0, begin, count).view(shape);
}

}  // namespace

int64_t ParameterSpec::numel() const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

const Segment& FlatUnit::segment(const std::string& tensor_name) const {
  for (const Segment& candidate : segments) {
    if (candidate.spec.name == tensor_name) return candidate;
  }
  fail(ExitCode::kInternal, "Internal error: the unit {} has no tensor {}.", name, tensor_name);
}

bool FlatUnit::has_group(const std::string& group) const {
  return std::any_of(segments.begin(), segments.end(),
                     [&](const Segment& segment) { return segment.group == group; });
}

at::Tensor FlatUnit::master_view(const Segment& segment) const {
  return master.narrow(0, segment.offset, segment.spec.numel()).view(segment.spec.shape);
}

at::Tensor FlatUnit::group_master(const std::string& group) const {
  return group_view(*this, group, master);
}

at::Tensor FlatUnit::group_compute(const std::string& group) const {
  return group_view(*this, group, compute);
}

at::Tensor FlatUnit::group_gradient(const std::string& group) const {
  return group_view(*this, group, gradient);
}

FlatParameters::FlatParameters(const std::vector<ParameterUnit>& units,
                               const std::vector<std::string>& frozen, at::ScalarType compute_type,
                               c10::Device device, Purpose purpose)
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
      unit.moment1 = allocate(unit.trainable_numel, master_type, device);
      unit.moment2 = allocate(unit.trainable_numel, master_type, device);
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

void FlatParameters::zero_gradients() {
  for (FlatUnit& unit : units_) unit.gradient.zero_();
}

void FlatParameters::clear_frozen_gradients() {
  for (FlatUnit& unit : units_) {
    for (const Segment& segment : unit.segments) {
      if (segment.trainable || segment.offset >= unit.trainable_numel) continue;
      unit.gradient.narrow(0, segment.offset, segment.spec.numel()).zero_();
    }
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
