#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/file_system.h"
#include "base/text.h"
#include "base/yaml.h"
#include "trainer/config_fields.h"
#include "trainer/run_config.h"

namespace swiattn {
namespace {

// Refuses a name that is none of `names`, and says which it may have meant.
[[noreturn]] void refuse_name(const std::string& place, const std::string& name, const char* kind,
                              const std::vector<std::string>& names) {
  const std::string meant = nearest(name.substr(name.rfind('.') + 1), names);
  if (!meant.empty()) {
    fail(ExitCode::kConfiguration, "{}: {}: there is no such {}; did you mean \"{}\"?", place, name,
         kind, meant);
  }
  fail(ExitCode::kConfiguration, "{}: {}: there is no such {}; it must be one of {}.", place, name,
       kind, fmt::join(names, ", "));
}

// Reads the sections of one document, or those parts of them that it has, and adds the full names
// of its keys to `given`.
void read_sections(const std::vector<Section>& sections, const YamlNode& root,
                   std::set<std::string>& given) {
  if (root.kind != YamlNode::Kind::kMap && root.kind != YamlNode::Kind::kNull) {
    fail(ExitCode::kConfiguration, "{}: expected sections such as \"run:\", found {}.", root.place,
         root.describe());
  }
  for (const auto& [name, map] : root.entries) {
    const auto section =
        std::find_if(sections.begin(), sections.end(),
                     [&name = name](const Section& candidate) { return candidate.name == name; });
    if (section == sections.end()) {
      std::vector<std::string> names;
      for (const Section& candidate : sections) names.push_back(candidate.name);
      refuse_name(map.place, name, "section", names);
    }
    // A section whose keys are all commented out is null.
    if (map.kind != YamlNode::Kind::kMap && map.kind != YamlNode::Kind::kNull) {
      fail(ExitCode::kConfiguration, "{}: {}: expected a map of keys, found {}.", map.place, name,
           map.describe());
    }
    for (const std::string& key : read_fields(section->fields, map, name)) {
      given.insert(name + "." + key);
    }
  }
}

// A map of one entry, as a document that says only this would give.
YamlNode map_with(const std::string& key, YamlNode value) {
  YamlNode map;
  map.kind = YamlNode::Kind::kMap;
  map.place = value.place;
  map.entries.push_back({key, std::move(value)});
  return map;
}

// Refuses a key of a map inside a value, "attention.far_sampling.enabled": such a map has no parts
// that a command line could set one by one.
void refuse_part_of_map(const std::vector<Section>& sections, const std::string& argument) {
  const size_t equals = argument.find('=');
  for (const Section& section : sections) {
    for (const Field& field : section.fields) {
      const std::string start = fmt::format("--{}.{}.", section.name, field.key);
      if (!field.is_map || !argument.starts_with(start) || start.size() > equals) continue;
      fail(ExitCode::kConfiguration,
           "command line: {0}.{1} is given whole: --{0}.{1}='{{{2}: {3}}}', with its other keys "
           "where they are needed. It must be {4}.",
           section.name, field.key, argument.substr(start.size(), equals - start.size()),
           argument.substr(equals + 1), field.values);
    }
  }
}

// `argument` as typed, "--attention.window=4K", as the document {attention: {window: 4K}}.
YamlNode parse_override(const std::string& argument) {
  const size_t equals = argument.find('=');
  const size_t dot = argument.find('.');
  if (argument.starts_with("--") && equals == std::string::npos && dot != std::string::npos) {
    fail(ExitCode::kConfiguration,
         "command line: {0} needs its value after an equals sign: {0}=VALUE.", argument);
  }
  if (!argument.starts_with("--") || equals == std::string::npos || dot > equals) {
    fail(ExitCode::kConfiguration,
         "command line: \"{}\" is neither an option of --help nor a key of the configuration, "
         "which is set by --section.key=value.",
         argument);
  }
  YamlNode value;
  try {
    value = parse_yaml_value(argument.substr(equals + 1), "command line");
  } catch (const Error& error) {
    fail(ExitCode::kConfiguration, "{} This was said of {}.", error.what(), argument);
  }
  return map_with(argument.substr(2, dot - 2),
                  map_with(argument.substr(dot + 1, equals - dot - 1), std::move(value)));
}

void check_required(const std::vector<Section>& sections, const std::string& source,
                    const std::set<std::string>& given) {
  for (const Section& section : sections) {
    for (const Field& field : section.fields) {
      const std::string key = section.name + "." + field.key;
      if (field.needed == Field::Needed::kRequired && !given.contains(key)) {
        fail(ExitCode::kConfiguration, "{}: {} is required: {}.", source, key, field.values);
      }
    }
  }
}

}  // namespace

std::set<std::string> read_fields(const std::vector<Field>& fields, const YamlNode& map,
                                  const std::string& prefix) {
  std::set<std::string> given;
  for (const auto& [key, value] : map.entries) {
    const std::string full_key = prefix + "." + key;
    const auto field =
        std::find_if(fields.begin(), fields.end(),
                     [&key = key](const Field& candidate) { return candidate.key == key; });
    if (field == fields.end()) {
      std::vector<std::string> keys;
      for (const Field& candidate : fields) keys.push_back(candidate.key);
      refuse_name(value.place, full_key, "key", keys);
    }
    field->read(value, full_key);
    given.insert(key);
  }
  return given;
}

RunConfig parse_run_config(std::string_view text, const std::string& source,
                           const std::vector<std::string>& overrides) {
  RunConfig config;
  const std::vector<Section> sections = sections_of(config);
  std::set<std::string> given;
  read_sections(sections, parse_yaml(text, source), given);
  for (const std::string& argument : overrides) {
    const YamlNode document = parse_override(argument);
    refuse_part_of_map(sections, argument);
    read_sections(sections, document, given);
  }
  check_required(sections, source, given);
  check_run_config(config);
  return config;
}

RunConfig read_run_config(const std::string& path, const std::vector<std::string>& overrides) {
  return parse_run_config(read_file(path, ExitCode::kConfiguration, kLargestYaml), path, overrides);
}

}  // namespace swiattn
