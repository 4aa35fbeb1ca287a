// README.md of an exported folder.
#pragma once

#include <string>

#include "checkpoint/export_config.h"
#include "checkpoint/hf_export.h"

namespace swiattn {

std::string model_card(const ModelConfig& config, ExportLayout layout,
                       const ExportOptions& options);

}  // namespace swiattn
