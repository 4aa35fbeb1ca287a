// From the configuration of a run to the model it trains.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/causal_lm.h"
#include "model/hybrid_attention.h"
#include "model/model_config.h"
#include "parallel/flat_parameters.h"
#include "trainer/run_config.h"

namespace swiattn {

// The model's shape: of the folder or checkpoint that the run starts from, or of
// model.architecture, with model.rope_scaling applied. `dtype` is that of the export. Throws Error.
ModelConfig starting_model_config(const RunConfig& config);

// How its layers attend, what is added to the loss and what is computed twice. Throws
// Error{kConfiguration} where the keys do not fit the model (a full layer that it does not have).
CausalLmOptions model_options(const RunConfig& config, const ModelConfig& model);

// The same, as an export says it.
HybridAttention hybrid_attention(const RunConfig& config);

// Whether micro-batches are to be trained on by CapturedTraining: small ones of bfloat16 on a GPU.
// Not where gamma moves from step to step, which a recording would not see, and not where memory is
// short enough to compute things twice.
bool replays_training(const RunConfig& config, const ModelConfig& model, c10::Device device);

// Whether a run of this configuration repeats the same bits, as numerics.deterministic says; `auto`
// asks whether the device is_hopper().
bool is_deterministic(const RunConfig& config, const ModelConfig& model, c10::Device device,
                      bool hopper);

// attention.backend on this device. Throws Error{kConfiguration} where it cannot compute there.
std::unique_ptr<AttentionBackend> attention_backend(const RunConfig& config, c10::Device device,
                                                    const AttentionNotice& notice = {});

// "attention: library (blockwise); deterministic". The device need not be there.
std::string describe_choices(const RunConfig& config, const ModelConfig& model, c10::Device device,
                             const AttentionBackend& backend);

// "1 rank on CPU, 2 threads; " and these.
std::string describe_computing(const RunConfig& config, const ModelConfig& model,
                               c10::Device device, int ranks, const AttentionBackend& backend);

// What a user is to know of attention.far_sampling where it saves no time, since none of our
// attention kernels, which alone compute sampled rows, serves this run: a sentence. Nothing where
// they do, or where nothing is sampled.
std::optional<std::string> far_sampling_warning(const RunConfig& config, const ModelConfig& model,
                                                c10::Device device);

// All that is allowed but probably not meant, in sentences: that, and tokens whose two branches see
// the same keys.
std::vector<std::string> start_warnings(const RunConfig& config, const ModelConfig& model,
                                        c10::Device device);

// Whether the layers have trained routers.
bool has_router(const RunConfig& config);

// Whether gamma moves from step to step, to steer the routers: regularizer.kind target_ratio.
bool steers_ratio(const RunConfig& config);

// The tensors that train.freeze freezes: globs over names, the last match wins, "!glob" frees.
// Throws Error{kConfiguration} for a glob that matches nothing, and when nothing is left to train.
std::vector<std::string> frozen_tensors(const std::vector<ParameterUnit>& units,
                                        const std::vector<std::string>& globs);

at::ScalarType compute_type(const RunConfig& config);
at::ScalarType moment_type(const RunConfig& config);

}  // namespace swiattn
