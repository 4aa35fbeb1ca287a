// One attention problem as cuDNN's graph API sees it, and the plan that solves it. Only
// cudnn_plan.cpp includes cudnn-frontend, which takes half a minute to compile; CudnnAttention is
// the interface for everybody else.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace cudnn_frontend::graph {
class Graph;
}

namespace swiattn {

// The numbers under which tensors go into a graph and pointers into its execution.
enum CudnnUid : int64_t {
  kQ = 1,
  kK,
  kV,
  kOut,
  kLogsumexp,
  kGradOut,
  kGradQ,
  kGradK,
  kGradV,
  kQueryLengths,
  kKeyLengths,
  kFirstOffset,  // and up: one for each element of CudnnPlan::offsets()
};

// Where document i of a packed operand begins: at its first query's row, or its first key's, times
// `stride` elements.
struct CudnnOffsets {
  CudnnUid
      of;  // kQ, kK, kV, kOut or kLogsumexp: a gradient shares its operand's, strides permitting
  int64_t stride;
  bool operator==(const CudnnOffsets&) const = default;
  bool of_keys() const { return of == kK || of == kV; }
};

// [B, H, S, D], or for packed documents [P, H, longest, D] with the strides of one of them.
struct CudnnOperand {
  CudnnUid uid;
  std::vector<int64_t> dim, stride;
  CudnnOffsets offsets() const;  // packed documents only
};

// All that a plan depends on: problems with equal keys share one.
struct CudnnProblem {
  bool backward = false;
  int64_t device = 0;
  int64_t window = 0;  // keys that a query sees, its own included; 0: all up to it
  float scale = 0.0F;
  int64_t documents = 0;               // P, or 0 for a dense problem
  int64_t capacity = 0;                // packed documents: tokens that the workspace has room for
  std::vector<CudnnOperand> operands;  // all that q, k, v, … stand for in this direction

  const CudnnOperand& operand(CudnnUid uid) const;
  std::vector<int64_t> key() const;
};

// For the device that is current when it is made. Not copyable; run() may be captured.
class CudnnPlan {
 public:
  // Builds it (0.3 to 1 s), or learns that cuDNN cannot: then refusal() says why. Does not throw.
  explicit CudnnPlan(const CudnnProblem& problem);
  ~CudnnPlan();

  bool usable() const { return graph_ != nullptr; }
  const std::string& refusal() const { return refusal_; }
  int64_t workspace() const { return workspace_; }  // bytes
  const std::vector<CudnnOffsets>& offsets() const { return offsets_; }

  // On the current stream. `pointers` has one for each operand and, with packed documents, the
  // lengths (int32 [P]) and offsets (int64 [P + 1], elements). std::runtime_error if cuDNN fails.
  void run(std::unordered_map<int64_t, void*>& pointers, void* workspace) const;

 private:
  std::unique_ptr<cudnn_frontend::graph::Graph> graph_;
  std::string refusal_;
  int64_t workspace_ = 0;
  std::vector<CudnnOffsets> offsets_;
};

}  // namespace swiattn
