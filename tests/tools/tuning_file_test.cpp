// Files of tuned settings: round trip, keys, and what is said of damaged and foreign ones.
#include "tuning_file.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

namespace quern::tools {
namespace {

namespace fs = std::filesystem;

Tuning example() {
  ModelConfig config;
  config.vocab = 32000;
  Tuning tuning;
  tuning.key = {.processor = "AMD EPYC: \"quoted\" \\ # 9R14",
                .instruction_set = "avx512_vnni",
                .processors = "0-1",
                .threads = 2,
                .numa_nodes = 1,
                .work = {},
                .model = {},
                .types = {}};
  std::vector<GgufTensor> tensors(3);
  tensors[0].type = ElementType::q4_k;
  tensors[1].type = ElementType::f32;
  tensors[2].type = ElementType::q4_k;
  add_model(tuning.key, "llama", config, tensors);
  tuning.settings = {.threads = 1,
                     .affinity = Affinity::spread,
                     .numa = NumaPolicy::interleave,
                     .weights = "mapped",
                     .batch = 256,
                     .block_rows = 128,
                     .task_bytes = 131072,
                     .kv_type = "q8_0"};
  tuning.date = "2026-11-22";
  tuning.reasons = {{"threads", "1: 20 tokens/s [19, 21]; 2: slower"}, {"affinity", "spread"}};
  return tuning;
}

class TuningFile : public testing::Test {
 protected:
  TuningFile() : folder_(fs::path(testing::TempDir()) / ("quern_tuning_" + std::to_string(getpid()))) {
    fs::remove_all(folder_);
  }
  ~TuningFile() override { fs::remove_all(folder_); }
  void expect_refused(std::string text, const std::string& from, const std::string& to, const std::string& part) const {
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    const auto tuning = parse_tuning(text, "a.yaml");
    ASSERT_FALSE(tuning) << to;
    EXPECT_EQ(tuning.error().code, ErrorCode::bad_input);
    EXPECT_EQ(tuning.error().message.rfind("a.yaml:", 0), 0U) << tuning.error().message;
    EXPECT_NE(tuning.error().message.find(part), std::string::npos) << tuning.error().message;
  }
  fs::path folder_;
};

TEST_F(TuningFile, RoundTrip) {
  const Tuning tuning = example();
  const auto path = save_tuning(folder_ / "quern" / "tuning", tuning);
  ASSERT_TRUE(path) << path.error().message;
  EXPECT_EQ(fs::path(*path).filename(), tuning_file_name(tuning.key));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "quern" / "tuning"), fs::directory_iterator()), 1)
      << "nothing is left beside the file";
  const auto read = load_tuning(folder_ / "quern" / "tuning", tuning.key);
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_TRUE(*read);
  EXPECT_EQ((*read)->key, tuning.key);
  EXPECT_EQ((*read)->settings, tuning.settings);
  EXPECT_EQ((*read)->reasons, tuning.reasons);
  EXPECT_EQ((*read)->date, tuning.date);

  Tuning again = tuning;
  again.settings = {};
  again.reasons.clear();
  ASSERT_TRUE(save_tuning(folder_ / "quern" / "tuning", again));
  const auto replaced = load_tuning(folder_ / "quern" / "tuning", tuning.key);
  ASSERT_TRUE(replaced && *replaced);
  EXPECT_EQ((*replaced)->settings, TunedSettings{});
}

TEST_F(TuningFile, AnotherMachineOrModelHasAnotherFile) {
  const Tuning tuning = example();
  ASSERT_TRUE(save_tuning(folder_, tuning));
  std::vector<TuningKey> others(7, tuning.key);
  others[0].processor = "AMD EPYC";
  others[1].instruction_set = "avx2";
  others[2].processors = "0";
  others[3].threads = 1;
  others[4].numa_nodes = 2;
  others[5].types = "3 q8_0";
  others[6].model += " and more";
  for (const TuningKey& other : others) {
    EXPECT_NE(tuning_file_name(other), tuning_file_name(tuning.key));
    const auto found = load_tuning(folder_, other);
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_FALSE(*found);
  }
  // One that was copied to this key's name is told, not taken.
  fs::copy_file(folder_ / tuning_file_name(tuning.key), folder_ / tuning_file_name(others[0]));
  const auto foreign = load_tuning(folder_, others[0]);
  ASSERT_FALSE(foreign);
  EXPECT_NE(foreign.error().message.find("written for llama"), std::string::npos) << foreign.error().message;
  EXPECT_FALSE(*load_tuning({}, tuning.key)) << "without a folder there is nothing";
}

TEST_F(TuningFile, DamageIsNamed) {
  const std::string text = tuning_yaml(example());
  ASSERT_TRUE(parse_tuning(text, "a.yaml"));
  for (std::size_t length = 0; length + 1 < text.size(); ++length) {
    const auto cut = parse_tuning(std::string_view(text).substr(0, length), "a.yaml");
    EXPECT_TRUE(!cut || length > text.find("reasons:")) << "a part counts as whole: " << length;
  }
  expect_refused(text, "quern_tuning: 1", "quern_tuning: 2", "expected 1 to 1");
  expect_refused(text, "threads: 1\n  affinity", "threads: many\n  affinity", "expected 0 to 1024, found many");
  expect_refused(text, "batch: 256", "batch: 0", "settings.batch: expected 1 to");
  expect_refused(text, "batch: 256", "batch: 99999999999999999999", "settings.batch");
  expect_refused(text, "affinity: spread", "affinity: everywhere", "none, compact or spread");
  expect_refused(text, "kv_type: q8_0", "kv_type: q9_9", "kv_type");
  expect_refused(text, "weights: mapped", "weights: lost", "mapped or interleaved");
  expect_refused(text, "  block_rows: 128\n", "", "no key `block_rows`");
  expect_refused(text, "  block_rows: 128\n", "  block_rows: 128\n  colour: red\n", "unknown key `colour`");
  expect_refused(text, "  block_rows: 128\n", "  block_rows: 128\n  block_rows: 128\n", "is there twice");
  expect_refused(text, "settings:\n", "settings: 7\nmore:\n", "");
  expect_refused(text, "machine:", "machine: [", "");
  expect_refused(text, "date", std::string("da\0te", 5), "control character");
}

TEST_F(TuningFile, AFileThatCannotBeReadIsAnError) {
  const Tuning tuning = example();
  fs::create_directories(folder_ / tuning_file_name(tuning.key));
  EXPECT_FALSE(load_tuning(folder_, tuning.key));
  EXPECT_FALSE(save_tuning(folder_, tuning));
  std::ofstream(folder_ / "file") << "x";
  EXPECT_FALSE(save_tuning(folder_ / "file", tuning)) << "the folder's name is taken";
}

TEST(TuningKeys, SayWhatMatters) {
  ModelConfig config;
  config.vocab = 100;
  TuningKey a, b;
  add_model(a, "llama", config, {});
  EXPECT_EQ(a.work, "inference");
  EXPECT_EQ(a.types, kPackedTypes);
  config.context *= 2;
  add_model(b, "llama", config, {});
  EXPECT_EQ(a, b) << "the context that a file names changes nothing";
  config.experts = 8;
  config.experts_used = 2;
  add_model(b, "llama", config, {});
  EXPECT_NE(a, b);
  EXPECT_NE(b.model.find("2 of 8 experts"), std::string::npos) << b.model;

  RunConfig run;
  add_run(a, run);
  add_run(b, run);
  EXPECT_EQ(a, b);
  EXPECT_EQ(a.work, "training");
  run.model.vocab = 7;
  add_run(b, run);
  EXPECT_EQ(a, b) << "the corpus decides the vocabulary";
  run.train.batch += 1;
  add_run(b, run);
  EXPECT_NE(a, b);
}

TEST(TuningKeys, TheMachineIsWhatTheProcessSees) {
  const auto key = machine_key();
  ASSERT_TRUE(key) << key.error().message;
  EXPECT_FALSE(key->processors.empty());
  EXPECT_GE(key->threads, 1);
  EXPECT_EQ(*key, *machine_key());
  HardwareReport none;
  none.chosen_because = "QUERN_ISA=sse9: there is none";
  const auto refused = machine_key(none);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, none.chosen_because);
}

TEST(TuningFolder, FollowsTheEnvironment) {
  const auto with = [](const char* config, const char* home) {
    config != nullptr ? setenv("XDG_CONFIG_HOME", config, 1) : unsetenv("XDG_CONFIG_HOME");
    home != nullptr ? setenv("HOME", home, 1) : unsetenv("HOME");
    return tuning_folder().string();
  };
  EXPECT_EQ(with("/etc/mine", "/home/me"), "/etc/mine/quern/tuning");
  EXPECT_EQ(with("relative", "/home/me"), "/home/me/.config/quern/tuning");
  EXPECT_EQ(with(nullptr, "/home/me"), "/home/me/.config/quern/tuning");
  EXPECT_EQ(with(nullptr, nullptr), "");
}

TEST(SettingsText, NamesWhatDiffers) {
  EXPECT_EQ(settings_text({}), "the defaults");
  EXPECT_EQ(settings_text({.threads = 1, .batch = 256}), "1 thread, batch 256");
}

}  // namespace
}  // namespace quern::tools
