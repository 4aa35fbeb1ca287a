#include "trainer/run_config.h"

#include <cmath>

#include "base/check.h"
#include "base/hash.h"
#include "base/yaml.h"
#include "trainer/config_fields.h"

namespace swiattn {
namespace {

int64_t divide_rounding_up(int64_t amount, int64_t by) { return amount / by + (amount % by != 0); }

int64_t steps_of(const Span& span, const RunConfig& config) {
  switch (span.unit) {
    case Span::Unit::kSteps:
      break;
    case Span::Unit::kTokens:
      return divide_rounding_up(static_cast<int64_t>(span.amount), config.tokens_per_step());
    case Span::Unit::kPercent:
      return std::llround(static_cast<double>(config.total_steps()) * span.amount / 100);
  }
  return static_cast<int64_t>(span.amount);
}

// The configuration without what has no effect, so that a change of it is none.
RunConfig effective(RunConfig config) {
  FarSamplingKeys& sampling = config.attention.far_sampling;
  if (!sampling.enabled) sampling = {};
  return config;
}

// Of a document that print_run_config() wrote.
nlohmann::ordered_json to_json(const YamlNode& node) {
  using Kind = YamlNode::Kind;
  auto json = nlohmann::ordered_json(nullptr);
  if (node.kind == Kind::kList) {
    json = nlohmann::ordered_json::array();
    for (const YamlNode& item : node.items) json.push_back(to_json(item));
  } else if (node.kind == Kind::kMap) {
    json = nlohmann::ordered_json::object();
    for (const YamlEntry& entry : node.entries) json[entry.key] = to_json(entry.value);
  } else if (node.kind == Kind::kScalar) {
    // A scalar without quotes is a number or a word where JSON reads it as one.
    if (!node.quoted) json = nlohmann::ordered_json::parse(node.text, nullptr, false);
    if (node.quoted || json.is_discarded()) json = node.text;
  }
  return json;
}

}  // namespace

bool RunConfig::validates_after(int64_t step) const {
  return step > 0 && (step >= total_steps() || step % validation.every == 0);
}

int64_t RunConfig::total_steps() const {
  SWIATTN_CHECK(train.steps || train.tokens, "the configuration has no length");
  return train.steps ? *train.steps : divide_rounding_up(*train.tokens, tokens_per_step());
}
int64_t RunConfig::warmup_steps() const { return steps_of(schedule.warmup, *this); }
int64_t RunConfig::decay_steps() const { return steps_of(schedule.decay, *this); }

std::string print_run_config(const RunConfig& config) {
  RunConfig copy = config;
  std::string text;
  for (const Section& section : sections_of(copy)) {
    text += section.name + ":\n";
    for (const Field& field : section.fields) {
      text += fmt::format("  {}: {}\n", field.key, field.write());
    }
  }
  return text;
}

nlohmann::ordered_json run_config_json(const RunConfig& config) {
  return to_json(parse_yaml(print_run_config(config), "the configuration"));
}

uint64_t hash_run_config(const RunConfig& config) { return hash_text(print_run_config(config)); }

bool is_config_key(const std::string& key) {
  RunConfig config;
  for (const Section& section : sections_of(config)) {
    for (const Field& field : section.fields) {
      if (section.name + "." + field.key == key) return true;
    }
  }
  return false;
}

std::vector<ConfigChange> config_changes(const RunConfig& before, const RunConfig& after) {
  RunConfig old_copy = effective(before), new_copy = effective(after);
  const std::vector<Section> old_sections = sections_of(old_copy);
  const std::vector<Section> new_sections = sections_of(new_copy);
  std::vector<ConfigChange> changes;
  for (size_t s = 0; s < old_sections.size(); ++s) {
    for (size_t f = 0; f < old_sections[s].fields.size(); ++f) {
      const Field& field = old_sections[s].fields[f];
      const std::string was = field.write();
      const std::string is = new_sections[s].fields[f].write();
      if (was == is) continue;
      changes.push_back({old_sections[s].name + "." + field.key, was, is,
                         field.on_resume == Field::OnResume::kRefused});
    }
  }
  return changes;
}

}  // namespace swiattn
