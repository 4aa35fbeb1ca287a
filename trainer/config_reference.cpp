#include "trainer/config_fields.h"
#include "trainer/run_config.h"

namespace swiattn {
namespace {

constexpr const char* kIntroduction = R"(# Configuration reference

Made by `swiattn-train --print-reference` from the definitions in `trainer/`; do not edit.

A run is described by one YAML file of sections. Every key can be set on the command line too, as
`--section.key=value` with the value in YAML: `--attention.full_layers=[4,8]`,
`--data.sources='[{path: shards/books}]'`. Defaults give way to the file, the file to the command line.
`swiattn-train --print-config` prints the result.

- Whole numbers may have a unit: `20B`, `1.5M`, `1e6`. K, M, B and T are powers of 1000; in
  `sequence_length`, `window` and `original_length` they are powers of 1024, so that `4K` is 4096.
  They end at 2147483647, `seed` and `tokens` at 2^53; durations end at 1e8 seconds.
- Parts of a run are written as steps (`500`), as tokens (`2B tokens`), and `decay` also as a share (`10%`).
- Unknown and repeated keys, anchors, aliases, tags and numbers like `010` are refused.
- "Resume" says what a change of the key does to a run that is continued: "free", or "refused" because
  it would alter the mathematics or the data of the remaining steps (`--allow-change section.key` insists).
)";

// `text` as a cell of a table.
std::string cell(const std::string& text) {
  std::string escaped;
  for (char c : text) {
    if (c == '|') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

}  // namespace

std::string config_reference_markdown() {
  RunConfig defaults;
  std::string text = kIntroduction;
  for (const Section& section : sections_of(defaults)) {
    text += fmt::format("\n## {}\n\n{}\n\n", section.name, section.help);
    text += "| key | default | allowed | resume | meaning |\n|---|---|---|---|---|\n";
    for (const Field& field : section.fields) {
      const bool required = field.needed == Field::Needed::kRequired;
      text += fmt::format(
          "| `{}` | {} | {} | {} | {} |\n", field.key,
          required ? "required" : fmt::format("`{}`", field.write()), cell(field.values),
          field.on_resume == Field::OnResume::kFree ? "free" : "refused", cell(field.help));
    }
  }
  return text;
}

}  // namespace swiattn
