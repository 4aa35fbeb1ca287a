// The committed configurations and the committed page about them.
#include "base/file_system.h"
#include "base/text.h"
#include "tests/base/expect_error.h"
#include "trainer/run_config.h"

namespace swiattn {
namespace {

TEST(ConfigReference, TheCommittedPageIsTheGeneratedOne) {
  EXPECT_EQ(read_file(SWIATTN_SOURCE "/docs/config-reference.md", ExitCode::kData),
            config_reference_markdown())
      << "Run: build/bin/swiattn-train --print-reference > docs/config-reference.md";
}

std::vector<std::string> committed_configs() {
  std::vector<std::string> paths;
  for (const std::string& name : list_folder(SWIATTN_SOURCE "/configs", ExitCode::kData)) {
    if (glob_matches("*.yaml", name))
      paths.push_back(std::string(SWIATTN_SOURCE "/configs/") + name);
  }
  return paths;
}

TEST(Configs, EveryCommittedOneReadsAndPrintsBack) {
  const std::vector<std::string> paths = committed_configs();
  EXPECT_GE(paths.size(), 8u);
  for (const std::string& path : paths) {
    SCOPED_TRACE(path);
    RunConfig config;
    ASSERT_NO_THROW(config = read_run_config(path, {}));
    EXPECT_EQ(parse_run_config(print_run_config(config), "printed", {}), config);
  }
}

TEST(Configs, ThePaperOnesDifferFromTheirTwinsInAttentionOnly) {
  for (const std::string length : {"4k", "32k"}) {
    const std::string base = SWIATTN_SOURCE "/configs/paper-1b-" + length;
    const RunConfig hybrid = read_run_config(base + ".yaml", {});
    EXPECT_EQ(hybrid.attention.mode, AttentionSection::Mode::kSwitch);
    EXPECT_EQ(hybrid.attention.window, 1024);
    for (const std::string twin : {"-full", "-swa", "-static"}) {
      for (const ConfigChange& change :
           config_changes(hybrid, read_run_config(base + twin + ".yaml", {}))) {
        EXPECT_THAT(change.key,
                    testing::AnyOf("run.folder", "attention.mode", "attention.full_layers"))
            << base << twin;
      }
    }
  }
}

TEST(Configs, ThePaperOnesHaveItsLengthsAndRates) {
  const RunConfig at_4k = read_run_config(SWIATTN_SOURCE "/configs/paper-1b-4k.yaml", {});
  EXPECT_EQ(at_4k.total_steps(), 5000);
  EXPECT_EQ(at_4k.tokens_per_step(), 1024 * 4096);
  EXPECT_EQ(at_4k.optimizer.learning_rate, 1e-4);
  const RunConfig at_32k = read_run_config(SWIATTN_SOURCE "/configs/paper-1b-32k.yaml", {});
  EXPECT_EQ(at_32k.total_steps(), 2000);
  EXPECT_EQ(at_32k.tokens_per_step(), 128 * 32768);
  EXPECT_EQ(at_32k.optimizer.learning_rate, 2e-4);
  EXPECT_EQ(at_32k.model.rope_scaling->factor, 8);
  EXPECT_EQ(at_32k.warmup_steps(), 500);
}

}  // namespace
}  // namespace swiattn
