#include "checkpoint/model_commands.h"

#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>

#include "base/json.h"
#include "checkpoint/checkpoint_writer.h"
#include "checkpoint/export_config.h"
#include "checkpoint/hf_export.h"
#include "checkpoint/hf_import.h"
#include "checkpoint/run_commands.h"
#include "checkpoint/saved_checkpoint.h"
#include "model/hybrid_attention.h"
#include "model/parameter_table.h"

namespace swiattn {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr double kLargestRouterStd = 1000.0;

struct Arguments {
  std::string from;
  std::string to;
  std::string tokenizer;  // folder of the companion files
  std::string dtype;
  InitialWeights initial;
  HybridAttention attention;
  bool base = false;
  bool as_json = false;
};

// What surrounds the work of a command.
struct Surroundings {
  FileSystem& files;
  Log& log;
  std::ostream& out;
};

void print(std::ostream& out, bool as_json, const OrderedJson& facts, const std::string& line) {
  if (as_json) {
    out << dump_json(facts, 2) << '\n';
  } else {
    out << line << '\n';
  }
}

struct LoadedModel {
  FlatParameters parameters;
  ImportReport report;
};

LoadedModel load(const HfFolder& folder, bool with_router, const InitialWeights& initial) {
  require_routers(folder);
  LoadedModel model{{parameter_table(folder.config(), with_router),
                     {},
                     at::kFloat,
                     at::kCPU,
                     FlatParameters::Purpose::kEvaluation},
                    {}};
  model.report = load_weights(folder, model.parameters, initial);
  return model;
}

// Without a trailing slash.
std::string checked_destination(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  if (path.empty() || path == "/") {
    fail(ExitCode::kConfiguration, "'{}' is no name for the folder to write.", path);
  }
  return path;
}

std::vector<TensorSource> master_sources(const FlatParameters& parameters) {
  std::vector<TensorSource> sources;
  for (const FlatUnit& unit : parameters.units()) {
    for (const Segment& segment : unit.segments) {
      sources.push_back({segment.spec.name, TensorType::kF32, segment.spec.shape,
                         unit.master_view(segment).const_data_ptr()});
    }
  }
  return sources;
}

// A checkpoint of step 0 with weights only: what a run with init_from starts from.
void import_folder(const Arguments& arguments, const Surroundings& s) {
  const std::string to = checked_destination(arguments.to);
  const double std = arguments.initial.router_std;
  if (!(std >= 0 && std <= kLargestRouterStd)) {
    fail(ExitCode::kConfiguration, "--router-std {}: expected a number from 0 to {}.", std,
         kLargestRouterStd);
  }
  if (file_exists(to) || folder_exists(to)) {
    fail(ExitCode::kCheckpoint, "'{}' exists already: remove it or import to another name.", to);
  }
  const HfFolder folder(arguments.from);
  HybridAttention attention = arguments.attention;
  if (const auto own = read_hybrid_attention(folder.config(), arguments.from + "/config.json")) {
    attention = *own;
  }
  // A full-attention model gets the routers that a hybrid is trained from.
  const LoadedModel model = load(folder, attention.has_router(), arguments.initial);

  // The writer makes a folder named after the step inside another; only the inner one is wanted.
  const std::string parent = to + ".tmp";
  if (folder_exists(parent)) s.files.remove_folder_tree(parent);
  s.files.make_folders(parent);
  CheckpointWriter writer(s.files, s.log, parent, 0);
  const WrittenFile weights =
      write_safetensors(s.files, writer.path("model.safetensors"), master_sources(model.parameters),
                        {{"format", "pt"}});
  writer.add("model.safetensors", weights.bytes, weights.hash);
  const ExportLayout layout =
      attention.has_router() ? ExportLayout::kHybrid : ExportLayout::kBaseWithMode;
  writer.add_text("config.json",
                  export_config(folder.config(), layout, folder.dtype(), attention).dump(2) + "\n");
  for (const std::string& name : companion_files(arguments.from)) {
    writer.add_text(name, read_file(arguments.from + "/" + name, ExitCode::kCheckpoint));
  }
  s.files.rename(writer.commit({}), to);
  s.files.sync_folder(std::filesystem::path(to + "/..").lexically_normal().string());
  s.files.remove_folder_tree(parent);
  const int64_t count = folder.config().parameter_count(attention.has_router());
  print(s.out, arguments.as_json,
        {{"folder", to},
         {"parameters", count},
         {"dtype", folder.dtype()},
         {"new_routers", model.report.initialised.size()}},
        fmt::format("{}: {} parameters as float32 masters, from {} weights in {}; {} routers are "
                    "new.",
                    to, count, folder.dtype(), arguments.from, model.report.initialised.size()));
}

void export_checkpoint(const Arguments& arguments, const Surroundings& s) {
  checked_destination(arguments.to);
  const bool of_run = is_run_checkpoint(arguments.from);
  if (of_run) SavedCheckpoint verified(arguments.from, CheckpointTest::kHashes);
  const HfFolder folder(arguments.from);
  const ModelConfig& config = folder.config();
  ExportOptions options;
  options.attention.mode = "full";
  if (const auto own = read_hybrid_attention(config, arguments.from + "/config.json")) {
    options.attention = *own;
  }
  // A checkpoint holds float32 masters; its config.json says what the export is to be.
  options.dtype = !arguments.dtype.empty() ? arguments.dtype
                  : of_run                 ? config.dtype
                                           : folder.dtype();
  options.companions_from =
      arguments.tokenizer.empty() ? companions_of(arguments.from) : arguments.tokenizer;
  if (companion_files(options.companions_from).empty()) {
    s.log.warning(
        "'{}' has no tokenizer files: the export has none either. Name a folder that has "
        "them with --tokenizer.",
        options.companions_from);
  }
  const LoadedModel model = load(folder, options.attention.has_router(), arguments.initial);
  (arguments.base ? export_base : export_hybrid)(s.files, model.parameters, config, options,
                                                 arguments.to);
  const char* kind = arguments.base ? "base model" : options.attention.mode.c_str();
  print(s.out, arguments.as_json,
        {{"folder", arguments.to}, {"kind", kind}, {"dtype", options.dtype}},
        fmt::format("{}: exported in {} ({}).", arguments.to, options.dtype, kind));
}

void verify(const Arguments& arguments, const Surroundings& s) {
  if (is_run_checkpoint(arguments.from)) {
    return verify_run_checkpoint(arguments.from, arguments.as_json, s.out);
  }
  const HfFolder folder(arguments.from);
  read_hybrid_attention(folder.config(), arguments.from + "/config.json");
  const ImportReport report = verify_weights(folder);
  const char* architecture = to_string(folder.config().architecture);
  print(
      s.out, arguments.as_json,
      {{"folder", arguments.from},
       {"architecture", architecture},
       {"tensors", report.tensors},
       {"parameters", report.parameters},
       {"dtype", folder.dtype()}},
      fmt::format("{}: {} of {} layers, {} tensors, {} parameters in {}: names, shapes and values "
                  "are right.",
                  arguments.from, architecture, folder.config().layers, report.tensors,
                  report.parameters, folder.dtype()));
}

using Action = void (*)(const Arguments&, const Surroundings&);

CLI::App* add_command(CLI::App& app, const std::string& name, const std::string& description,
                      const std::shared_ptr<Arguments>& arguments, Action action,
                      const Surroundings& surroundings) {
  CLI::App* command = app.add_subcommand(name, description);
  command->add_flag("--json", arguments->as_json, "Print JSON");
  command->callback([=] { action(*arguments, surroundings); });
  return command;
}

}  // namespace

void add_model_commands(CLI::App& app, FileSystem& files, Log& log, std::ostream& out) {
  const auto arguments = std::make_shared<Arguments>();
  const Surroundings s{files, log, out};
  CLI::App* import = add_command(
      app, "import", "Make a checkpoint of float32 weights, to start runs from, of a model folder",
      arguments, import_folder, s);
  import->add_option("from", arguments->from, "A Hugging Face model folder")
      ->required()
      ->type_name("HF_DIR");
  import->add_option("to", arguments->to, "The folder to write")->required()->type_name("OUT");
  import->add_option("--seed", arguments->initial.seed, "Of routers that the folder does not have")
      ->capture_default_str();
  import->add_option("--router-std", arguments->initial.router_std, "Their standard deviation")
      ->check(CLI::Range(0.0, 1000.0))
      ->capture_default_str();
  import->add_option("--window", arguments->attention.window, "Keys that the window holds")
      ->check(CLI::Range(1, std::numeric_limits<int>::max()))
      ->capture_default_str();

  CLI::App* exported = add_command(
      app, "export", "Write a Hugging Face folder that transformers loads, of a checkpoint",
      arguments, export_checkpoint, s);
  exported->add_option("from", arguments->from, "A checkpoint of a run, or a hybrid export")
      ->required()
      ->type_name("CHECKPOINT");
  exported->add_option("to", arguments->to, "The folder to write")->required()->type_name("OUT");
  exported->add_flag("--base", arguments->base, "Drop the routers: a plain model");
  exported
      ->add_option("--dtype", arguments->dtype, "Default: that of the folder the run began with")
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}));
  exported
      ->add_option("--tokenizer", arguments->tokenizer,
                   "Copy tokenizer files from this folder (default: the run's init_from)")
      ->type_name("DIR");

  CLI::App* verified = add_command(
      app, "verify",
      "Read every byte of a checkpoint or of a model folder and say whether it is right", arguments,
      verify, s);
  verified->add_option("folder", arguments->from, "A checkpoint of a run, or a Hugging Face folder")
      ->required()
      ->type_name("CHECKPOINT|HF_DIR");
}

}  // namespace swiattn
