// Facts about cuDNN 9.19 that this stands on:
// - The log-sum-exp of a dense problem is read as packed [B, H, S] on 8.x, whatever strides it was
//   given (mended in 9.26): so it always is packed, through a copy if need be.
// - The log-sum-exp of packed documents has to lie token by token, [T, H]: the frontend sizes a
//   buffer by its token stride, and with heads first all gradients come out as zeros.
// - The backward of packed documents keeps dk and dv of every query head, in rows of Hq / Hkv times
//   the token stride of dk: inside packed q, k, v that would triple the workspace, so where heads
//   are grouped dk and dv go through temporaries.
#include "attention/cudnn_attention.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <c10/cuda/CUDAGuard.h>
#include <cudnn.h>
#include <fmt/format.h>

#include <limits>
#include <map>
#include <stdexcept>

#include "attention/cudnn_plan.h"
#include "base/check.h"

namespace swiattn {
namespace {

// Before 9.18.1: wrong results in 9.10, 9.14 and 9.15, and in the backward of packed documents.
constexpr size_t kOldestCudnn = 91801;
constexpr int64_t kAlignedElements = 8;  // 16 bytes of bfloat16

using Call = CudnnAttentionCall;
using Gradients = CudnnAttentionGradients;

bool stages_key_gradients(const Call& call) {
  return call.documents != nullptr && call.q.size(1) != call.k.size(1);
}

class ProblemWriter {
 public:
  // `gradients` is null for the forward.
  ProblemWriter(const Call& call, const Gradients* gradients) : documents_(call.documents) {
    const int64_t length = documents_ ? documents_->longest : call.q.size(2);
    problem_.backward = gradients != nullptr;
    problem_.device = static_cast<int>(call.q.get_device());
    problem_.window = call.window >= length ? 0 : call.window;  // one that hides nothing
    problem_.scale = static_cast<float>(call.scale);
    if (documents_) {
      problem_.documents = documents_->count;
      problem_.capacity = round_for_plans(call.q.size(0));
    }
    add(kQ, call.q);
    add(kK, call.k);
    add(kV, call.v);
    add(kOut, call.out);
    add_logsumexp(documents_ ? documents_->count : call.q.size(0), call.q.size(1), length);
    if (gradients == nullptr) return;
    add(kGradOut, gradients->out);
    add(kGradQ, gradients->q);
    const bool staged = stages_key_gradients(call);
    for (const CudnnUid uid : {kGradK, kGradV}) {
      if (staged) {
        add_packed(uid, call.k, call.k.size(1) * call.k.size(2), call.k.size(2));
      } else {
        add(uid, uid == kGradK ? gradients->k : gradients->v);
      }
    }
  }

  CudnnProblem take() { return std::move(problem_); }

 private:
  void add(CudnnUid uid, const at::Tensor& x) {
    if (documents_) {
      add_packed(uid, x, x.stride(0), x.stride(1));
    } else {
      problem_.operands.push_back({uid, x.sizes().vec(), x.strides().vec()});
    }
  }

  void add_packed(CudnnUid uid, const at::Tensor& x, int64_t token_stride, int64_t head_stride) {
    const int64_t longest = documents_->longest;
    problem_.operands.push_back({uid,
                                 {documents_->count, x.size(1), longest, x.size(2)},
                                 {longest * token_stride, head_stride, token_stride, 1}});
  }

  void add_logsumexp(int64_t batch, int64_t heads, int64_t length) {
    const std::vector<int64_t> token_major{length * heads, 1, heads, 1};
    const std::vector<int64_t> head_major{length * heads, length, 1, 1};
    problem_.operands.push_back(
        {kLogsumexp, {batch, heads, length, 1}, documents_ ? token_major : head_major});
  }

  const PackedDocuments* documents_;
  CudnnProblem problem_;
};

// Mistakes of the caller, as opposed to problems that are not covered.
void check_shapes(const Call& call, const Gradients* gradients) {
  const bool packed = call.documents != nullptr;
  SWIATTN_CHECK(call.q.dim() == (packed ? 3 : 4) && call.k.dim() == call.q.dim(),
                "q has {} dimensions, k {}", call.q.dim(), call.k.dim());
  const int64_t rows = packed ? 0 : 2;
  SWIATTN_CHECK(call.q.numel() > 0 && call.k.numel() > 0 && call.k.sizes() == call.v.sizes() &&
                    call.k.size(rows) == call.q.size(rows) && call.k.size(-1) == call.q.size(-1),
                "as many keys and values as queries");
  SWIATTN_CHECK(call.q.size(1) % call.k.size(1) == 0, "{} heads for {}", call.q.size(1),
                call.k.size(1));
  SWIATTN_CHECK(call.out.sizes() == call.q.sizes(), "out is like q");
  const auto logsumexp = packed ? std::vector{call.q.size(1), call.q.size(0)}
                                : std::vector{call.q.size(0), call.q.size(1), call.q.size(2)};
  SWIATTN_CHECK(call.logsumexp.sizes() == at::IntArrayRef(logsumexp) &&
                    call.logsumexp.scalar_type() == at::kFloat,
                "logsumexp is float32 [B, Hq, S] or [Hq, T]");
  SWIATTN_CHECK(call.window >= 0 && call.scale > 0.0, "window {}, scale {}", call.window,
                call.scale);
  if (gradients == nullptr) return;
  SWIATTN_CHECK(
      gradients->out.sizes() == call.q.sizes() && gradients->q.sizes() == call.q.sizes() &&
          gradients->k.sizes() == call.k.sizes() && gradients->v.sizes() == call.k.sizes(),
      "a gradient is like what it is of");
}

bool fits(const at::Tensor& x) {
  if (!x.is_cuda() || x.scalar_type() != at::kBFloat16 || x.stride(-1) != 1) return false;
  if (reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 != 0) return false;
  for (int64_t i = 0; i + 1 < x.dim(); ++i) {
    if (x.size(i) > 1 && x.stride(i) % kAlignedElements != 0) return false;
  }
  return true;
}

bool fits(const Gradients& gradients) {
  return fits(gradients.out) && fits(gradients.q) && fits(gradients.k) && fits(gradients.v);
}

// Why a call is not covered, whatever cuDNN would say of it; empty if it is.
std::string not_covered(const Call& call, const Gradients* gradients) {
  if (!CudnnAttention::available()) {
    return fmt::format("cuDNN {} is older than {}", cudnnGetVersion(), kOldestCudnn);
  }
  const int64_t width = call.q.size(-1);
  if (width != 64 && width != 128) return fmt::format("the head width {} is not 64 or 128", width);
  if (!fits(call.q) || !fits(call.k) || !fits(call.v) || !fits(call.out) ||
      (gradients != nullptr && !fits(*gradients))) {
    return "tensors have to be bfloat16 on a GPU, aligned to 16 bytes";
  }
  const int major = at::cuda::getDeviceProperties(call.q.device().index())->major;
  if (major < 8) return "the GPU is older than compute capability 8.0";
  if (call.documents != nullptr && major != 9 && major != 10) {
    return fmt::format("no packed documents on compute capability {}.x", major);
  }
  constexpr int64_t kMultiple = CudnnAttention::kDenseMultiple;
  if (call.documents == nullptr && call.q.size(2) % kMultiple != 0) {
    return fmt::format("the length {} is not a multiple of {}", call.q.size(2), kMultiple);
  }
  return {};
}

// The log-sum-exp where cuDNN writes it: [B, Hq, S] or [T, Hq].
at::Tensor new_stats(const Call& call) {
  const auto options = call.logsumexp.options();
  if (!call.documents) return at::empty(call.logsumexp.sizes(), options);
  const at::IntArrayRef shape = call.q.sizes().slice(0, 2);
  if (!call.documents->gaps) return at::empty(shape, options);
  return at::full(shape, -std::numeric_limits<float>::infinity(), options);
}

}  // namespace

class CudnnAttention::Implementation {
 public:
  bool prepare(const Call& call, const Gradients* gradients) {
    return find(call, gradients) != nullptr;
  }

  const std::string& refusal() const { return refusal_; }

  void forward(const Call& call) {
    const Prepared& prepared = get(call, nullptr);
    const c10::cuda::CUDAGuard guard(call.q.device());
    const bool packed = call.documents != nullptr;
    if (packed && call.documents->gaps) call.out.zero_();
    const bool direct = !packed && call.logsumexp.is_contiguous();
    const at::Tensor stats = direct ? call.logsumexp : new_stats(call);
    Pointers pointers = inputs(call, stats);
    run(prepared, call, pointers);
    if (!direct) call.logsumexp.copy_(packed ? stats.t() : stats);
  }

  void backward(const Call& call, const Gradients& gradients) {
    const Prepared& prepared = get(call, &gradients);
    const c10::cuda::CUDAGuard guard(call.q.device());
    const at::Tensor stats =
        call.documents ? call.logsumexp.t().contiguous() : call.logsumexp.contiguous();
    const bool staged = stages_key_gradients(call);
    const at::Tensor grad_k = staged ? at::empty(call.k.sizes(), call.k.options()) : gradients.k;
    const at::Tensor grad_v = staged ? at::empty(call.v.sizes(), call.v.options()) : gradients.v;
    if (call.documents && call.documents->gaps) {
      for (const at::Tensor& gradient : {gradients.q, grad_k, grad_v}) gradient.zero_();
    }
    Pointers pointers = inputs(call, stats);
    pointers[kGradOut] = gradients.out.data_ptr();
    pointers[kGradQ] = gradients.q.data_ptr();
    pointers[kGradK] = grad_k.data_ptr();
    pointers[kGradV] = grad_v.data_ptr();
    run(prepared, call, pointers);
    if (!staged) return;
    gradients.k.copy_(grad_k);
    gradients.v.copy_(grad_v);
  }

 private:
  using Pointers = std::unordered_map<int64_t, void*>;

  struct Prepared {
    Prepared(const CudnnProblem& problem, c10::Device device) : plan(problem) {
      std::vector<int64_t> rows, elements;
      for (const CudnnOffsets& offsets : plan.offsets()) {
        rows.push_back(offsets.of_keys() ? 1 : 0);
        elements.push_back(offsets.stride);
      }
      sides = at::tensor(rows, at::kLong).to(device);
      strides = at::tensor(elements, at::kLong).unsqueeze(1).to(device);
    }

    CudnnPlan plan;
    at::Tensor sides;    // of each of the plan's offsets: the row of PackedDocuments::starts
    at::Tensor strides;  // and its stride, [offsets, 1]; both int64 on the device
  };

  const Prepared& get(const Call& call, const Gradients* gradients) {
    const Prepared* const prepared = find(call, gradients);
    if (!prepared) throw std::runtime_error("cuDNN attention: " + refusal_);
    return *prepared;
  }

  const Prepared* find(const Call& call, const Gradients* gradients) {
    check_shapes(call, gradients);
    refusal_ = not_covered(call, gradients);
    if (!refusal_.empty()) return nullptr;
    const CudnnProblem problem = ProblemWriter(call, gradients).take();
    std::unique_ptr<Prepared>& prepared = prepared_[problem.key()];
    if (!prepared) {
      const c10::cuda::CUDAGuard guard(call.q.device());
      prepared = std::make_unique<Prepared>(problem, call.q.device());
    }
    if (prepared->plan.usable()) return prepared.get();
    refusal_ = prepared->plan.refusal();
    return nullptr;
  }

  static Pointers inputs(const Call& call, const at::Tensor& stats) {
    return {{kQ, call.q.data_ptr()},
            {kK, call.k.data_ptr()},
            {kV, call.v.data_ptr()},
            {kOut, call.out.data_ptr()},
            {kLogsumexp, stats.data_ptr()}};
  }

  static void run(const Prepared& prepared, const Call& call, Pointers& pointers) {
    at::Tensor offsets;  // [offsets, P + 1 up to an even number], in elements
    if (call.documents) {
      offsets = call.documents->starts.index_select(0, prepared.sides) * prepared.strides;
      for (int64_t i = 0; i < offsets.size(0); ++i) {
        pointers[kFirstOffset + i] = offsets.data_ptr<int64_t>() + i * offsets.stride(0);
      }
      pointers[kQueryLengths] = call.documents->lengths.data_ptr();
      pointers[kKeyLengths] = call.documents->lengths.data_ptr();
    }
    const at::Tensor workspace =
        at::empty({prepared.plan.workspace()}, call.q.options().dtype(at::kByte));
    prepared.plan.run(pointers, workspace.data_ptr());
  }

  std::map<std::vector<int64_t>, std::unique_ptr<Prepared>> prepared_;
  std::string refusal_;
};

bool CudnnAttention::available() { return cudnnGetVersion() >= kOldestCudnn; }

CudnnAttention::CudnnAttention() : implementation_(std::make_unique<Implementation>()) {}
CudnnAttention::~CudnnAttention() = default;

bool CudnnAttention::prepare_forward(const CudnnAttentionCall& call) {
  return implementation_->prepare(call, nullptr);
}

bool CudnnAttention::prepare_backward(const CudnnAttentionCall& call,
                                      const CudnnAttentionGradients& gradients) {
  return implementation_->prepare(call, &gradients);
}

const std::string& CudnnAttention::refusal() const { return implementation_->refusal(); }

void CudnnAttention::forward(const CudnnAttentionCall& call) { implementation_->forward(call); }

void CudnnAttention::backward(const CudnnAttentionCall& call,
                              const CudnnAttentionGradients& gradients) {
  implementation_->backward(call, gradients);
}

}  // namespace swiattn
