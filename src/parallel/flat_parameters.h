// Parameters in flat buffers: one set of buffers for each unit of a model (the embedding, each
// decoder layer, the final norm with the head). Clipping, AdamW, reduction, checkpoints and hashing
// work on the flat buffers; the operations of a layer see views into them.
//
// The layout is a contract (docs/architecture.md): every group begins at a multiple of 256 bytes of
// the smallest element (128 elements), the members of a group lie end to end without a gap (q|k|v
// and gate|up are one GEMM operand), trainable groups precede frozen ones, and the totals are
// padded.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <vector>

#include "parallel/gradient_target.h"

namespace swiattn {

// How the optimizer treats a tensor.
enum class ParameterRole { kMatrix, kNorm, kBias, kRouter };

struct ParameterSpec {
  std::string name;  // the Hugging Face name
  std::vector<int64_t> shape;
  ParameterRole role = ParameterRole::kMatrix;
  int64_t numel() const;
};

// Tensors that lie end to end; `name` addresses the whole as one operand.
struct ParameterGroup {
  std::string name;  // "qkv", "gate_up", or the short name of its only member
  std::vector<ParameterSpec> members;
};

// What belongs together in one set of flat buffers: a layer.
struct ParameterUnit {
  std::string name;  // "embedding", "layer.0", …, "head"
  std::vector<ParameterGroup> groups;
};

// One named tensor inside a unit's flat buffers.
struct Segment {
  ParameterSpec spec;
  std::string group;
  int64_t offset = 0;  // in elements
  bool trainable = true;
};

// A group inside a unit's flat buffers, as one operand.
struct FlatGroup {
  std::string name;
  int64_t offset = 0;           // in elements
  std::vector<int64_t> shape;   // rows of all members together, [rows, columns] or [n]
  bool trainable = true;        // some member is
  bool stale_gradient = false;  // of an earlier step: the next contribution replaces it
};

// The buffers of one unit. `master` is float32 and holds every parameter; `compute` holds the copy
// that the layers read, and is `master` itself when the compute type is float32; `gradient`,
// float32, and the two moments, float32 or bfloat16, cover only the trainable prefix. With a
// compute type of float64, which the tests use as the judge, all of them are float64.
struct FlatUnit {
  std::string name;
  std::vector<Segment> segments;
  std::vector<FlatGroup> groups;
  int64_t trainable_numel = 0;  // a prefix of the buffers
  int64_t numel = 0;
  at::Tensor master;    // [numel] float32
  at::Tensor compute;   // [numel] compute type
  at::Tensor gradient;  // [trainable_numel] float32; undefined when only evaluated, as the moments
  at::Tensor moment1;   // [trainable_numel] moment type
  at::Tensor moment2;   // [trainable_numel] moment type

  const Segment& segment(const std::string& tensor_name) const;
  at::Tensor master_view(const Segment& segment) const;  // shaped
  // The members of a group as one operand.
  at::Tensor group_master(const std::string& group) const;
  at::Tensor group_compute(const std::string& group) const;
  at::Tensor group_gradient(const std::string& group) const;  // undefined when frozen
  // Where the next contribution to a group's gradient goes. Who takes it delivers it, before the
  // next one is taken: the first after start_gradients() replaces what the buffer holds.
  GradientTarget take_gradient(const std::string& group);
};

class FlatParameters {
 public:
  enum class Purpose { kTraining, kEvaluation };  // only training has gradients and moments

  // Allocates zeroed buffers. `frozen` holds the full names of tensors that are not trained; a
  // group of which some members are frozen keeps gradients for all and updates only the others.
  FlatParameters(const std::vector<ParameterUnit>& units, const std::vector<std::string>& frozen,
                 at::ScalarType compute_type, c10::Device device, Purpose purpose,
                 at::ScalarType moment_type = at::kFloat);

  std::vector<FlatUnit>& units() { return units_; }
  const std::vector<FlatUnit>& units() const { return units_; }
  FlatUnit& unit(const std::string& name);

  at::ScalarType compute_type() const { return compute_type_; }
  c10::Device device() const { return device_; }

  // Around the backward passes of a step. The first contribution to a group after the start
  // replaces its gradient, the others add; at the end, before gradients are reduced, measured and
  // applied, those become zero to which nobody contributed, and those of frozen members of groups
  // that are trained in part.
  void start_gradients();
  void finish_gradients();
  // Of every group, in order: whether its next contribution replaces. Work that is recorded and
  // then repeated by the device (device_graphs.h) depends on these, and moves them on at the
  // recording alone.
  std::vector<bool> stale_gradients() const;
  void set_stale_gradients(const std::vector<bool>& stale);
  void refresh_compute_copies();  // compute = master, rounded
  // A hash of every master weight, in the order of units: equal hashes mean equal bits.
  uint64_t hash() const;

 private:
  std::vector<FlatUnit> units_;
  at::ScalarType compute_type_;
  c10::Device device_;
};

}  // namespace swiattn
