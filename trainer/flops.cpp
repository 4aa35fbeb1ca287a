#include "trainer/flops.h"

namespace swiattn {

double training_flops(const ModelConfig& config, int64_t tokens, double visible_pairs) {
  int64_t parameters = config.parameter_count(/*with_router=*/false);
  if (!config.tied_embeddings) parameters -= config.vocab_size * config.hidden_size;
  return 6.0 * static_cast<double>(parameters) * static_cast<double>(tokens) +
         12.0 * static_cast<double>(config.heads * config.head_dim) * visible_pairs;
}

}  // namespace swiattn
