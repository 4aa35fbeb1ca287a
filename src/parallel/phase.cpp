#include "parallel/phase.h"

#include <ATen/record_function.h>
#ifdef SWIATTN_CUDA
#include <nvtx3/nvToolsExt.h>
#endif

namespace swiattn {

NamedRange::NamedRange(const std::string& name) {
#ifdef SWIATTN_CUDA
  nvtxRangePushA(name.c_str());
#endif
  auto callbacks = at::getStepCallbacksUnlessEmpty(at::RecordScope::USER_SCOPE);
  if (!callbacks) return;
  recorded_ = std::make_unique<at::RecordFunction>(std::move(*callbacks));
  recorded_->before(name);
}

NamedRange::~NamedRange() {
  recorded_.reset();
#ifdef SWIATTN_CUDA
  nvtxRangePop();
#endif
}

}  // namespace swiattn
