#include "trainer/run_config.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/check.h"
#include "base/error.h"
#include "base/file_system.h"
#include "base/hash.h"
#include "base/text.h"
#include "base/yaml.h"
#include "trainer/config_fields.h"

namespace swiattn {
namespace {

constexpr const char* kCommandLine = "command line";

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

const Section& find_section(const std::vector<Section>& sections, const std::string& name,
                            const std::string& place) {
  std::vector<std::string> names;
  for (const Section& section : sections) {
    if (section.name == name) return section;
    names.push_back(section.name);
  }
  const std::string meant = nearest(name, names);
  fail(ExitCode::kConfiguration, "{}: {}: there is no such section; {}.", place, name,
       meant.empty() ? fmt::format("the sections are {}", fmt::join(names, ", "))
                     : fmt::format("did you mean \"{}\"?", meant));
}

// Reads the map of one section and adds the full names of its keys to `given`.
void read_section(const Section& section, const YamlNode& map, std::set<std::string>& given) {
  for (const std::string& key : read_fields(section.fields, map, section.name)) {
    given.insert(section.name + "." + key);
  }
}

void read_file_text(const std::vector<Section>& sections, std::string_view text,
                    const std::string& source, std::set<std::string>& given) {
  const YamlNode root = parse_yaml(text, source);
  if (root.kind != YamlNode::Kind::kMap && root.kind != YamlNode::Kind::kNull) {
    fail(ExitCode::kConfiguration, "{}: expected sections such as \"run:\", found {}.", root.place,
         root.describe());
  }
  for (const auto& [name, map] : root.entries) {
    const Section& section = find_section(sections, name, map.place);
    // A section whose keys are all commented out is null.
    if (map.kind != YamlNode::Kind::kMap && map.kind != YamlNode::Kind::kNull) {
      fail(ExitCode::kConfiguration, "{}: {}: expected a map of keys, found {}.", map.place, name,
           map.describe());
    }
    read_section(section, map, given);
  }
}

// `argument` as typed: "--attention.window=4K".
void read_override(const std::vector<Section>& sections, const std::string& argument,
                   std::set<std::string>& given) {
  const size_t equals = argument.find('=');
  const size_t dot = argument.find('.');
  if (!argument.starts_with("--") || equals == std::string::npos || dot > equals) {
    fail(ExitCode::kConfiguration,
         "{}: \"{}\" is not understood; a key of the configuration is set by --section.key=value.",
         kCommandLine, argument);
  }
  const std::string name = argument.substr(2, dot - 2);
  const std::string key = argument.substr(dot + 1, equals - dot - 1);
  YamlNode map;
  map.kind = YamlNode::Kind::kMap;
  map.place = kCommandLine;
  map.entries.emplace_back(key, parse_yaml_value(argument.substr(equals + 1),
                                                 fmt::format("{}: {}", kCommandLine, argument)));
  map.entries.back().second.place = kCommandLine;
  read_section(find_section(sections, name, kCommandLine), map, given);
}

}  // namespace

int64_t RunConfig::total_steps() const {
  SWIATTN_CHECK(train.steps || train.tokens, "the configuration has no length");
  return train.steps ? *train.steps : divide_rounding_up(*train.tokens, tokens_per_step());
}
int64_t RunConfig::warmup_steps() const { return steps_of(schedule.warmup, *this); }
int64_t RunConfig::decay_steps() const { return steps_of(schedule.decay, *this); }

RunConfig parse_run_config(std::string_view text, const std::string& source,
                           const std::vector<std::string>& overrides) {
  RunConfig config;
  const std::vector<Section> sections = sections_of(config);
  std::set<std::string> given;
  read_file_text(sections, text, source, given);
  for (const std::string& argument : overrides) read_override(sections, argument, given);
  for (const Section& section : sections) {
    for (const Field& field : section.fields) {
      const std::string key = section.name + "." + field.key;
      if (field.needed == Field::Needed::kRequired && !given.contains(key)) {
        fail(ExitCode::kConfiguration, "{}: {} is required: {}.", source, key, field.values);
      }
    }
  }
  check_run_config(config);
  return config;
}

RunConfig read_run_config(const std::string& path, const std::vector<std::string>& overrides) {
  return parse_run_config(read_file(path, ExitCode::kConfiguration, 1 << 20), path, overrides);
}

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

uint64_t hash_run_config(const RunConfig& config) { return hash_text(print_run_config(config)); }

std::vector<ConfigChange> config_changes(const RunConfig& before, const RunConfig& after) {
  RunConfig old_copy = before, new_copy = after;
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
