#include "trainer/metrics.h"

#include "base/json.h"

namespace swiattn {
namespace {

constexpr int kSchema = 1;
using OrderedJson = nlohmann::ordered_json;

std::string to_line(const OrderedJson& object) {
  // A name given by a user may hold bytes that are no UTF-8; they must not stop a run.
  return dump_json(object) + "\n";
}

}  // namespace

std::string to_json_line(const StepMetrics& m) {
  return to_line({{"schema", kSchema},
                  {"kind", "train"},
                  {"step", m.step},
                  {"tokens", m.tokens},
                  {"loss", m.loss},
                  {"regularizer", m.regularizer},
                  {"full_ratio", m.full_ratio},
                  {"full_ratio_far", m.full_ratio_far},
                  {"full_ratio_by_layer", m.full_ratio_by_layer},
                  {"gamma_mean", m.gamma_mean},
                  {"disagreement_mean", m.disagreement_mean},
                  {"router_logit_mean", m.router_logit_mean},
                  {"router_logit_std", m.router_logit_std},
                  {"grad_norm", m.grad_norm},
                  {"learning_rate", m.learning_rate},
                  {"step_seconds", m.step_seconds},
                  {"data_seconds", m.data_seconds},
                  {"tokens_per_second", m.tokens_per_second},
                  {"mfu", m.mfu},
                  {"memory_gib", m.memory_gib},
                  {"skipped", m.skipped}});
}

std::string to_json_line(const ValidationMetrics& m) {
  return to_line({{"schema", kSchema},
                  {"kind", "validation"},
                  {"step", m.step},
                  {"name", m.name},
                  {"nll", m.nll},
                  {"perplexity", m.perplexity},
                  {"full_ratio", m.full_ratio}});
}

void visit_scalars(const StepMetrics& m, const ScalarVisitor& visit) {
  visit("loss", m.loss);
  visit("regularizer", m.regularizer);
  visit("full_ratio", m.full_ratio);
  visit("full_ratio_far", m.full_ratio_far);
  visit("gamma_mean", m.gamma_mean);
  visit("disagreement_mean", m.disagreement_mean);
  visit("router_logit_mean", m.router_logit_mean);
  visit("router_logit_std", m.router_logit_std);
  visit("grad_norm", m.grad_norm);
  visit("learning_rate", m.learning_rate);
  visit("step_seconds", m.step_seconds);
  visit("data_seconds", m.data_seconds);
  visit("tokens_per_second", m.tokens_per_second);
  visit("mfu", m.mfu);
  visit("memory_gib", m.memory_gib);
  visit("skipped", static_cast<double>(m.skipped));
}

}  // namespace swiattn
