// The config.json of an exported folder.
#pragma once

#include "base/json.h"
#include "model/hybrid_attention.h"
#include "model/model_config.h"

namespace swiattn {

enum class ExportLayout {
  kBase,          // loads anywhere
  kBaseWithMode,  // the same tensors, and a section that says which layers have a window
  kHybrid,        // routers and model_type swiattn_*
};

// config.source, changed where the layout, `dtype` ("bfloat16" …) or the rotary scaling ask for it,
// and nowhere else.
Json export_config(const ModelConfig& config, ExportLayout layout, const std::string& dtype,
                   const HybridAttention& attention);

}  // namespace swiattn
