#include "checkpoint/model_card.h"

#include <fmt/ranges.h>

namespace swiattn {
namespace {

constexpr const char* kFrontMatter =
    "---\n"
    "library_name: transformers\n"
    "pipeline_tag: text-generation\n"
    "tags:\n- swiattn\n- {}\n"
    "---\n\n";

// What the attention does, in a sentence for each mode.
std::string describe_attention(const HybridAttention& attention) {
  if (attention.mode == "window") {
    return fmt::format("Every layer attends to the last {} tokens.", attention.window);
  }
  if (attention.mode == "static") {
    return fmt::format(
        "Layers {} (counted from 1) attend to all earlier tokens, the others to the last {}.",
        fmt::join(attention.full_layers, ", "), attention.window);
  }
  return fmt::format(
      "In every layer a router decides for each token whether it attends to all earlier tokens or "
      "to the last {} only, its own included (Switch Attention, gate: {}).",
      attention.window, attention.gate);
}

std::string usage(ExportLayout layout) {
  const char* flag = layout == ExportLayout::kBase ? "" : ", trust_remote_code=True";
  std::string text = fmt::format(
      "```python\n"
      "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
      "model = AutoModelForCausalLM.from_pretrained(FOLDER{}, dtype=\"auto\")\n"
      "tokenizer = AutoTokenizer.from_pretrained(FOLDER{})\n"
      "```\n",
      flag, flag);
  if (layout == ExportLayout::kBaseWithMode) {
    text +=
        "\nWithout `trust_remote_code=True` it loads as the plain base model, with full "
        "attention everywhere.\n";
  }
  return text;
}

std::string table(const std::vector<CardLine>& lines) {
  if (lines.empty()) return "";
  std::string text = "\n## Measured\n\n| | |\n|---|---|\n";
  for (const CardLine& line : lines) text += fmt::format("| {} | {} |\n", line.name, line.value);
  return text;
}

}  // namespace

std::string model_card(const ModelConfig& config, ExportLayout layout,
                       const ExportOptions& options) {
  const bool base = layout == ExportLayout::kBase;
  std::string text = fmt::format(kFrontMatter, to_string(config.architecture));
  text += fmt::format("# {} of {} layers, width {}{}\n\n", to_string(config.architecture),
                      config.layers, config.hidden_size, base ? "" : ", with Switch Attention");
  text += base ? std::string("A plain model with full attention in every layer.")
               : describe_attention(options.attention);
  text += fmt::format(" {} parameters, {}{}.\n\n",
                      config.parameter_count(layout == ExportLayout::kHybrid), options.dtype,
                      layout == ExportLayout::kHybrid ? " (routers in float32)" : "");
  return text + usage(layout) + table(options.card);
}

}  // namespace swiattn
