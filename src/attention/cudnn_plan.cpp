#include "attention/cudnn_plan.h"

#include <ATen/cudnn/Handle.h>
#include <cudnn_frontend.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "base/check.h"

namespace swiattn {
namespace {

namespace fe = cudnn_frontend;
using Attributes = fe::graph::Tensor_attributes;
using Node = std::shared_ptr<Attributes>;

CudnnUid operand_of(CudnnUid uid) {
  switch (uid) {
    case kGradOut:
      return kOut;
    case kGradQ:
      return kQ;
    case kGradK:
      return kK;
    case kGradV:
      return kV;
    default:
      return uid;
  }
}

// Writes a problem as a graph and its packed operands' offsets as a list.
class GraphWriter {
 public:
  GraphWriter(const CudnnProblem& problem, fe::graph::Graph& graph,
              std::vector<CudnnOffsets>& offsets)
      : problem_(problem), graph_(graph), offsets_(offsets) {}

  void write() {
    graph_.set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    for (const CudnnOperand& operand : problem_.operands) add_offsets(operand);
    if (problem_.backward) {
      write_backward();
    } else {
      write_forward();
    }
  }

 private:
  void write_forward() {
    const auto options =
        masked(fe::graph::SDPA_attributes().set_name("forward").set_generate_stats(true));
    const auto results = graph_.sdpa(input(kQ), input(kK), input(kV), options);
    describe(*results[0], kOut).set_output(true);
    describe(*results[1], kLogsumexp).set_output(true);
  }

  void write_backward() {
    auto options = masked(fe::graph::SDPA_backward_attributes().set_name("backward"));
    // Without these the workspace of packed documents grows with documents x longest, not with T.
    if (packed()) {
      options.set_max_total_seq_len_q(problem_.capacity)
          .set_max_total_seq_len_kv(problem_.capacity);
    }
    const auto results = graph_.sdpa_backward(input(kQ), input(kK), input(kV), input(kOut),
                                              input(kGradOut), input(kLogsumexp), options);
    describe(*results[0], kGradQ).set_output(true);
    describe(*results[1], kGradK).set_output(true);
    describe(*results[2], kGradV).set_output(true);
  }

  // cuDNN's left bound counts the query's own key; FlashAttention's does not.
  template <class Options>
  Options masked(Options options) {
    options.set_attn_scale(problem_.scale)
        .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
        .set_diagonal_band_right_bound(0);
    if (problem_.window > 0) {
      options.set_diagonal_band_left_bound(static_cast<int>(problem_.window));
    }
    if (packed()) {
      options.set_padding_mask(true)
          .set_seq_len_q(vector(kQueryLengths, problem_.documents, fe::DataType_t::INT32))
          .set_seq_len_kv(vector(kKeyLengths, problem_.documents, fe::DataType_t::INT32));
    }
    return options;
  }

  Node input(CudnnUid uid) {
    Attributes attributes;
    describe(attributes, uid);
    return graph_.tensor(attributes);
  }

  Attributes& describe(Attributes& attributes, CudnnUid uid) {
    const CudnnOperand& operand = problem_.operand(uid);
    if (packed()) attributes.set_ragged_offset(offset_nodes_.at(index(operand)));
    return attributes.set_uid(uid)
        .set_name(fmt::format("operand{}", static_cast<int64_t>(uid)))
        .set_dim(operand.dim)
        .set_stride(operand.stride)
        .set_data_type(uid == kLogsumexp ? fe::DataType_t::FLOAT : fe::DataType_t::BFLOAT16);
  }

  void add_offsets(const CudnnOperand& operand) {
    if (!packed() || index(operand) < offsets_.size()) return;
    offsets_.push_back(operand.offsets());
    offset_nodes_.push_back(vector(kFirstOffset + static_cast<int64_t>(offset_nodes_.size()),
                                   problem_.documents + 1, fe::DataType_t::INT64));
  }

  size_t index(const CudnnOperand& operand) const {
    const auto place = std::find(offsets_.begin(), offsets_.end(), operand.offsets());
    return static_cast<size_t>(place - offsets_.begin());
  }

  Node vector(int64_t uid, int64_t size, fe::DataType_t type) {
    return graph_.tensor(Attributes()
                             .set_uid(uid)
                             .set_name(fmt::format("vector{}", uid))
                             .set_dim({size, 1, 1, 1})
                             .set_stride({1, 1, 1, 1})
                             .set_data_type(type));
  }

  bool packed() const { return problem_.documents > 0; }

  const CudnnProblem& problem_;
  fe::graph::Graph& graph_;
  std::vector<CudnnOffsets>& offsets_;
  std::vector<Node> offset_nodes_;
};

}  // namespace

CudnnOffsets CudnnOperand::offsets() const { return {operand_of(uid), stride[2]}; }

const CudnnOperand& CudnnProblem::operand(CudnnUid uid) const {
  const auto place = std::find_if(operands.begin(), operands.end(),
                                  [&](const CudnnOperand& one) { return one.uid == uid; });
  SWIATTN_CHECK(place != operands.end(), "operand {}", static_cast<int64_t>(uid));
  return *place;
}

std::vector<int64_t> CudnnProblem::key() const {
  std::vector<int64_t> all{backward ? 1 : 0, device,  window, std::bit_cast<int32_t>(scale),
                           documents,        capacity};
  for (const CudnnOperand& one : operands) {
    all.insert(all.end(), one.dim.begin(), one.dim.end());
    all.insert(all.end(), one.stride.begin(), one.stride.end());
  }
  return all;
}

CudnnPlan::CudnnPlan(const CudnnProblem& problem) {
  auto graph = std::make_unique<fe::graph::Graph>();
  try {
    GraphWriter(problem, *graph, offsets_).write();
    fe::error_t status = graph->build(at::native::getCudnnHandle(), {fe::HeurMode_t::A});
    if (status.is_good()) status = graph->get_workspace_size(workspace_);
    if (status.is_good()) graph_ = std::move(graph);
    refusal_ = status.get_message();
  } catch (const std::exception& error) {  // some of the frontend's errors, and missing libraries
    refusal_ = error.what();
  }
}

CudnnPlan::~CudnnPlan() = default;

void CudnnPlan::run(std::unordered_map<int64_t, void*>& pointers, void* workspace) const {
  fe::error_t status = graph_->execute(at::native::getCudnnHandle(), pointers, workspace);
  if (status.is_bad()) throw std::runtime_error("cuDNN attention: " + status.get_message());
}

}  // namespace swiattn
