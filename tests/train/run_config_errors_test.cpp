// What a bad run file gets: a sentence with the place, the key, what is allowed and what was found. And hostile YAML.
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "train/run_config.hpp"
#include "train/run_config_schema.hpp"
#include "train/run_config_yaml.hpp"

namespace quern {
namespace {

constexpr std::string_view kMinimal = "run: {dir: r}\ndata: {corpus: c}\n";

std::string error_of(std::string_view yaml, const std::vector<std::string>& overrides = {}) {
  const auto run = parse_run_config(yaml, "t.yaml", overrides);
  if (run) return "(accepted)";
  EXPECT_EQ(run.error().code, ErrorCode::bad_input);
  return run.error().message;
}

/// The error of `lines` placed after the two lines of a run that is right without them.
std::string error_with(const std::string& lines) { return error_of(std::string(kMinimal) + lines); }

std::string override_error(const std::string& text) { return error_of(kMinimal, {text}); }

TEST(RunConfigErrors, UnknownKeysNameTheNearest) {
  EXPECT_EQ(error_with("train:\n  stesp: 5\n"), "t.yaml:4:3: key `train.stesp`: unknown; nearest known key: `train.steps`");
  EXPECT_EQ(error_with("train: {learning_rate: 1e-3}\n"),
            "t.yaml:3:9: key `train.learning_rate`: unknown; nearest known key: `optimizer.learning_rate`");
  EXPECT_EQ(error_with("steps: 5\n"), "t.yaml:3:1: key `steps`: unknown; nearest known key: `train.steps`");
  EXPECT_NE(error_with("trian: {steps: 5}\n").find("t.yaml:3:1: section `trian`: unknown; sections are run, model, data"),
            std::string::npos);
  EXPECT_EQ(error_with("model: {vocap: 5}\n"), "t.yaml:3:9: key `model.vocap`: unknown; nearest known key: `model.vocab`");
  EXPECT_EQ(override_error("train.step=5"), "command line: key `train.step`: unknown; nearest known key: `train.steps`");
}

TEST(RunConfigErrors, WrongTypesSayWhatIsAllowedAndFound) {
  EXPECT_EQ(error_with("train:\n  steps: many\n"),
            "t.yaml:4:10: key `train.steps`: must be an integer from 1 to 1000000000, found many");
  EXPECT_EQ(error_with("train: {steps: \"5\"}\n"),
            "t.yaml:3:16: key `train.steps`: must be an integer from 1 to 1000000000, found the text \"5\"");
  EXPECT_NE(error_with("train: {steps: 5.0}\n").find("found 5.0"), std::string::npos);
  EXPECT_NE(error_with("train: {steps: 0x10}\n").find("found 0x10"), std::string::npos);
  EXPECT_NE(error_with("train: {steps: +-5}\n").find("found +-5"), std::string::npos);
  EXPECT_NE(error_with("train: {steps: [5]}\n").find("found a list"), std::string::npos);
  EXPECT_NE(error_with("train: {steps: {a: 5}}\n").find("found a mapping"), std::string::npos);
  EXPECT_NE(error_with("train: {steps: }\n").find("found nothing"), std::string::npos);
  EXPECT_NE(error_with("train: {dropout: .nan}\n").find("a number from 0 to 0.95, found .nan"), std::string::npos);
  EXPECT_NE(error_with("optimizer: {eps: 1e99}\n").find("a number above 0 to 1, found 1e99"), std::string::npos);
  EXPECT_NE(error_with("optimizer: {beta1: 1}\n").find("a number from 0 to below 1, found 1"), std::string::npos);
  EXPECT_NE(error_with("model: {qk_norm: yes}\n").find("true or false, found yes"), std::string::npos);
  EXPECT_NE(error_with("model: {mlp: swish}\n")
                .find("must be one of gelu, gelu_erf, relu2, swiglu, geglu, swiglu_clamped, found swish"),
            std::string::npos);
  EXPECT_NE(error_with("train: 5\n").find("t.yaml:3:8: section `train`: must be a mapping of keys, found 5"),
            std::string::npos);
  EXPECT_NE(
      error_of("run: {dir: ''}\ndata: {corpus: c}\n").find("t.yaml:1:12: key `run.dir`: must be text that is not empty"),
      std::string::npos);
  EXPECT_EQ(override_error("train.steps=\"5\""),
            "command line: key `train.steps`: must be an integer from 1 to 1000000000, found the text \"5\"");
  EXPECT_NE(override_error("train.steps=").find("found nothing"), std::string::npos);
  EXPECT_NE(override_error("train.steps={a: b}").find("found a mapping"), std::string::npos);
}

TEST(RunConfigErrors, RangesAreChecked) {
  EXPECT_NE(error_with("train: {steps: 0}\n").find("found 0"), std::string::npos);
  EXPECT_NE(error_with("train: {steps: -1}\n").find("found -1"), std::string::npos);
  EXPECT_NE(error_with("train: {steps: 99999999999999999999}\n").find("found 99999999999999999999"), std::string::npos);
  EXPECT_NE(error_with("train: {seed: -1}\n").find("from 0 to 18446744073709551615"), std::string::npos);
  EXPECT_NE(error_with("model: {layers: 1025}\n").find("an integer from 1 to 1024"), std::string::npos);
  EXPECT_NE(error_with("sample: {top_p: 0}\n").find("a number above 0 to 1, found 0"), std::string::npos);
  EXPECT_NE(error_with("train: {dropout: 1}\n").find("to 0.95, found 1"), std::string::npos);
}

TEST(RunConfigErrors, EveryRangeRefusesItsOutside) {
  for (const internal::RunKey& key : internal::run_schema()) {
    if (const auto* type = std::get_if<internal::IntegerKey>(&key.type)) {
      EXPECT_NE(override_error(std::string(key.name) + "=" + std::to_string(type->low - 1)).find("must be"),
                std::string::npos)
          << key.name;
      EXPECT_NE(override_error(std::string(key.name) + "=" + std::to_string(type->high + 1)).find("must be"),
                std::string::npos)
          << key.name;
    } else if (const auto* choice = std::get_if<internal::ChoiceKey>(&key.type)) {
      EXPECT_GE(choice->words.size(), 2U) << key.name;
      EXPECT_NE(override_error(std::string(key.name) + "=x").find("must be one of"), std::string::npos) << key.name;
    } else if (std::holds_alternative<internal::NumberKey>(key.type)) {
      EXPECT_NE(override_error(std::string(key.name) + "=-1").find("must be a number"), std::string::npos) << key.name;
      EXPECT_NE(override_error(std::string(key.name) + "=1e30").find("must be a number"), std::string::npos) << key.name;
    }
  }
}

TEST(RunConfigErrors, RepeatedKeysNameBothPlaces) {
  EXPECT_EQ(error_with("train:\n  steps: 5\n  batch: 2\n  steps: 6\n"),
            "t.yaml:6:3: key `train.steps`: given twice, first at t.yaml:4:10");
  EXPECT_EQ(error_with("train: {steps: 5}\ntrain: {batch: 2}\n"),
            "t.yaml:4:1: section `train`: given twice, first at t.yaml:3:1");
}

TEST(RunConfigErrors, ImpossibleCombinationsNameTheKeyThatWasGiven) {
  EXPECT_EQ(error_with("model:\n  heads: 4\n  kv_heads: 3\n"),
            "t.yaml:5:13: key `model.kv_heads`: must divide model.heads (4), found kv_heads 3");
  EXPECT_NE(error_with("model: {width: 250, heads: 4}\n")
                .find("t.yaml:3:28: key `model.heads`: model.heads (4) must divide model.width (250) where model.head_dim"),
            std::string::npos);
  EXPECT_NE(error_with("model: {norm_bias: true}\n").find("`model.norm_bias`: true needs model.norm layer_norm"),
            std::string::npos);
  EXPECT_NE(error_with("model: {head_dim: 7}\n").find("even number of rotated elements per head, found 7"),
            std::string::npos);
  EXPECT_NE(error_with("model: {rope_dims: 128}\n").find("at most model.head_dim (64), found 128"), std::string::npos);
  EXPECT_NE(error_with("model: {position: learned, context: 64}\ntrain: {context: 65}\n")
                .find("t.yaml:4:18: key `train.context`: learned positions allow sequences of at most model.context (64)"),
            std::string::npos);
  EXPECT_NE(error_with("optimizer: {learning_rate: 1e-3, min_learning_rate: 2e-3}\n").find("must not be above"),
            std::string::npos);
  EXPECT_NE(error_with("optimizer: {warmup_steps: 11}\ntrain: {steps: 10}\n")
                .find("optimizer.warmup_steps (11) must not be above train.steps (10)"),
            std::string::npos);
  EXPECT_NE(error_with("optimizer: {muon_learning_rate: 0.1}\n")
                .find("key `optimizer.muon_learning_rate`: needs optimizer.kind: muon"),
            std::string::npos);
  EXPECT_NE(error_with("optimizer: {muon_momentum: 0.9}\n").find("needs optimizer.kind: muon"), std::string::npos);
  EXPECT_NE(error_with("optimizer: {newton_schulz_steps: 3}\n").find("needs optimizer.kind: muon"), std::string::npos);
  EXPECT_NE(error_with("optimizer: {cooldown_steps: 5}\n").find("needs optimizer.schedule: wsd"), std::string::npos);
  EXPECT_NE(error_with("optimizer: {cooldown: sqrt}\n").find("needs optimizer.schedule: wsd"), std::string::npos);
  EXPECT_NE(error_with("optimizer: {schedule: wsd, cooldown_steps: 8, warmup_steps: 3}\ntrain: {steps: 10}\n")
                .find("must fit into the 10 steps"),
            std::string::npos);
  EXPECT_NE(error_with("train: {target_loss: 1.5, eval_every: 0}\n").find("train.eval_every must be above 0"),
            std::string::npos);
  EXPECT_NE(error_with("optimizer: {kind: sgd}\n").find("one of adamw, muon"), std::string::npos);
  EXPECT_NE(error_with("optimizer: {warmup_steps: 50, decay_steps: 49}\n").find("`optimizer.decay_steps`"),
            std::string::npos);
  EXPECT_NE(error_with("train: {batch: 65536}\nmodel: {context: 65536}\n").find("train.batch * context"), std::string::npos);
  EXPECT_NE(error_with("train: {steps: 1000000000, accumulation: 5}\n").find("make 5000000000 micro-batches"),
            std::string::npos);
  EXPECT_NE(error_with("train: {grown_accumulation: 5}\n").find("needs train.growth_step"), std::string::npos);
  EXPECT_NE(error_with("model: {layers: 1024, width: 1048576, heads: 1024}\n").find("section `model`: the model would have"),
            std::string::npos);
}

TEST(RunConfigErrors, MissingKeysAndFiles) {
  EXPECT_NE(error_of("run: {dir: r}\n").find("t.yaml: key `data.corpus`: missing"), std::string::npos);
  EXPECT_NE(error_of("data: {corpus: c}\n").find("t.yaml: key `run.dir`: missing"), std::string::npos);
  EXPECT_NE(error_of("").find("t.yaml: empty"), std::string::npos);
  EXPECT_NE(error_of("# only a comment\n").find("t.yaml: empty"), std::string::npos);
  EXPECT_NE(error_of("- 1\n- 2\n").find("must be a mapping of sections"), std::string::npos);
  EXPECT_NE(error_of("hello").find("t.yaml:1:1: must be a mapping"), std::string::npos);
  const auto missing = load_run_config("/nonexistent/run.yaml", {});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message, "/nonexistent/run.yaml: cannot be opened: No such file or directory");
  EXPECT_FALSE(load_run_config(testing::TempDir(), {}));  // a folder
}

TEST(RunConfigErrors, OverridesWithoutValueOrKey) {
  EXPECT_NE(override_error("train.steps").find("`train.steps` is not KEY=VALUE"), std::string::npos);
  EXPECT_NE(override_error("=5").find("is not KEY=VALUE"), std::string::npos);
  EXPECT_NE(override_error("").find("is not KEY=VALUE"), std::string::npos);
  EXPECT_NE(override_error("run.dir=\"open").find("command line: key `run.dir`"), std::string::npos);
  EXPECT_NE(override_error("run.dir=\xFF").find("is not UTF-8"), std::string::npos);
}

TEST(RunConfigErrors, MalformedYamlHasAPlace) {
  EXPECT_NE(error_of("run: {dir: r\ndata: [").find("t.yaml:"), std::string::npos);
  EXPECT_NE(error_of("run:\n  dir: r\n bad\n").find("malformed YAML"), std::string::npos);
  EXPECT_NE(error_of("run: \"unterminated\n").find("malformed YAML"), std::string::npos);
  EXPECT_NE(error_of("run:\n\tdir: r\n").find("t.yaml:2:"), std::string::npos);  // tabs do not indent
  EXPECT_NE(error_of(std::string(kMinimal) + "---\nrun: {dir: q}\n").find("second YAML document"), std::string::npos);
  EXPECT_NE(error_of("[a, b]: c\n").find("a key must be a word, found a list"), std::string::npos);
  EXPECT_NE(error_of("run: *missing\n").find("malformed YAML"), std::string::npos);
}

TEST(RunConfigErrors, TextThatIsNotUtf8) {
  EXPECT_EQ(error_of("run: {dir: r}\n# \xC3\xA9\xFF\n"), "t.yaml:2:4: byte 0xff is not UTF-8 text");
  for (const char* bad :
       {"\x80", "\xC0\xAF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xC3"}) {
    EXPECT_NE(error_of(std::string(kMinimal) + "# " + bad).find("is not UTF-8"), std::string::npos);
  }
  EXPECT_NE(error_of(std::string("run: {dir: a\0b}", 15)).find("control character 0x00"), std::string::npos);
  EXPECT_NE(error_of("run: {dir: r}\n\x04"
                     "data: {corpus: c}\n")
                .find("t.yaml:2:1: control character 0x04"),
            std::string::npos);
}

TEST(RunConfigErrors, HostileDocumentsAreRefusedQuickly) {
  EXPECT_NE(error_of(std::string((1 << 20) + 1, '#')).find("larger than 1048576 bytes"), std::string::npos);
  EXPECT_NE(error_of(std::string(100000, '[')).find("t.yaml:"), std::string::npos);
  EXPECT_NE(error_of("a: " + std::string(17, '[') + std::string(17, ']')).find("nested more than 16 levels"),
            std::string::npos);
  std::string nested;
  for (int i = 0; i < 1000; ++i) nested += std::string(static_cast<std::size_t>(i), ' ') + "a:\n";
  EXPECT_NE(error_of(nested).find("nested more than 16 levels"), std::string::npos);
  std::string bomb = "a: &a [x, x]\n";
  for (char c = 'b'; c <= 'z'; ++c) {
    const std::string previous(1, static_cast<char>(c - 1));
    bomb += std::string(1, c) + ": &" + c + " [*" + previous + ", *" + previous + "]\n";
  }
  EXPECT_NE(error_of(bomb).find("aliases are not accepted"), std::string::npos);
}

// Every prefix and every single-byte change of a good file gives a run or an error, never a crash.
TEST(RunConfigErrors, DamagedFilesNeverCrash) {
  const std::string good = to_yaml(*parse_run_config(kMinimal, "t.yaml", {"sample.prompt=\"a\\nb\""}));
  for (std::size_t length = 0; length < good.size(); length += 7) {
    (void)parse_run_config(good.substr(0, length), "t.yaml", {});
  }
  std::uint64_t state = 12345;
  int refused = 0;
  for (int i = 0; i < 300; ++i) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    std::string text = good;
    constexpr std::string_view kNasty = "{}[]:,&*!|>'\"%@`#-?\n\t \xFF~<";
    for (int k = 0; k < 3; ++k) {
      state = state * 6364136223846793005U + 1442695040888963407U;
      text[(state >> 33) % text.size()] = kNasty[(state >> 20) % kNasty.size()];
    }
    if (!parse_run_config(text, "t.yaml", {})) ++refused;
  }
  EXPECT_GT(refused, 200);
}

TEST(NearestKey, PicksWhatOneMeant) {
  EXPECT_EQ(internal::nearest_run_key("model.n_layers"), "model.layers");
  EXPECT_EQ(internal::nearest_run_key("optimizer.lr"), internal::nearest_run_key("optimizer.lr"));
  EXPECT_EQ(internal::nearest_run_key("train.lerning_rate"), "optimizer.learning_rate");
  EXPECT_EQ(internal::nearest_run_key("trian.steps"), "train.steps");
  EXPECT_FALSE(internal::nearest_run_key(std::string(100000, 'x')).empty());
}

}  // namespace
}  // namespace quern
