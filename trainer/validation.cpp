#include "trainer/validation.h"

#include "trainer/host_batch.h"
#include "trainer/step_sums.h"

namespace swiattn {

std::optional<ValidationResult> validate_model(const CausalLm& model, NamedStream& set,
                                               Communicator& communicator, Watchdog& watchdog,
                                               const std::function<bool()>& goes_on) {
  StepSums sums(model.config().layers, model.device());
  for (int64_t step = 1; step <= set.steps; ++step) {
    if (!goes_on()) return std::nullopt;
    for (int64_t i = 0; i < set.stream.micro_batches(); ++i) {
      const Batch batch = set.stream.batch(step, i);
      // A GPU that waits for other ranks takes no more work when its queue is full.
      std::optional<Watchdog::Watch> watch;
      if (!model.device().is_cpu()) {
        watch.emplace(watchdog, "the batches before to leave the GPU's queue");
      }
      const MicroBatch micro_batch = model.prepare(packed_tokens(batch));
      sums.add(model.evaluate(micro_batch, Branches::kTaken), micro_batch);
    }
  }
  communicator.all_reduce(sums.tensor());
  const Watchdog::Watch watch(watchdog, "the validation's results");
  const StepReport report(sums.tensor().cpu());
  return ValidationResult{report.loss(), report.full_ratio(), static_cast<int64_t>(report.counted)};
}

}  // namespace swiattn
