// CudnnAttention where there is no GPU or no cudnn-frontend to build it with: it refuses
// everything.
#include <stdexcept>

#include "attention/cudnn_attention.h"

namespace swiattn {

class CudnnAttention::Implementation {
 public:
  const std::string refusal = "this program was built without cudnn-frontend";
};

bool CudnnAttention::available() { return false; }

CudnnAttention::CudnnAttention() : implementation_(std::make_unique<Implementation>()) {}
CudnnAttention::~CudnnAttention() = default;

bool CudnnAttention::prepare_forward(const CudnnAttentionCall& /*call*/) { return false; }

bool CudnnAttention::prepare_backward(const CudnnAttentionCall& /*call*/,
                                      const CudnnAttentionGradients& /*gradients*/) {
  return false;
}

const std::string& CudnnAttention::refusal() const { return implementation_->refusal; }

void CudnnAttention::forward(const CudnnAttentionCall& /*call*/) {
  throw std::runtime_error("cuDNN attention: " + refusal());
}

void CudnnAttention::backward(const CudnnAttentionCall& /*call*/,
                              const CudnnAttentionGradients& /*gradients*/) {
  throw std::runtime_error("cuDNN attention: " + refusal());
}

}  // namespace swiattn
