// The one description of the configuration's keys, from which reading, printing, comparing and the
// reference are made.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/yaml.h"
#include "trainer/run_config.h"

namespace swiattn {

// A key, bound to the member that holds its value.
struct Field {
  enum class Needed { kOptional, kRequired };
  // Whether a change alters the mathematics or data of the remaining steps, so that a resume
  // refuses it, or not.
  enum class OnResume { kRefused, kFree };

  std::string key;
  std::string help;
  std::string values;   // as in Codec
  bool is_map = false;  // likewise
  Needed needed = Needed::kOptional;
  OnResume on_resume = OnResume::kRefused;
  std::function<void(const YamlNode& node, const std::string& full_key)> read;
  std::function<std::string()> write;
};

struct Section {
  std::string name;
  std::string help;
  std::vector<Field> fields;
};

// All sections, in the order of the contract, bound to the members of `config`, which must outlive
// them.
std::vector<Section> sections_of(RunConfig& config);

// Reads the entries of a map into the fields. Returns the keys that were there. Throws
// Error{kConfiguration} for an unknown key.
std::set<std::string> read_fields(const std::vector<Field>& fields, const YamlNode& map,
                                  const std::string& prefix);

}  // namespace swiattn
