// Run files: values, defaults, overrides, the resolved YAML, and the files in configs/.
#include "train/run_config.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <string_view>

#include "math/dispatch.hpp"
#include "support/tests_paths.hpp"
#include "train/training_memory.hpp"

namespace quern {
namespace {

std::string config_file(std::string_view name) { return (source_folder() / "configs" / name).string(); }

constexpr std::string_view kMinimal = "run: {dir: runs/x}\ndata: {corpus: data/x.h5}\n";

RunConfig parse_or_fail(std::string_view yaml, const std::vector<std::string>& overrides = {}) {
  auto run = parse_run_config(yaml, "t.yaml", overrides);
  EXPECT_TRUE(run) << run.error().message;
  return run ? *run : RunConfig{};
}

TEST(RunConfig, MinimalRunHasTheDocumentedDefaults) {
  const RunConfig run = parse_or_fail(kMinimal);
  EXPECT_EQ(run.dir, "runs/x");
  EXPECT_EQ(run.data.corpus, "data/x.h5");
  EXPECT_EQ(run.model.kv_heads, 4);
  EXPECT_EQ(run.model.head_dim, 64);
  EXPECT_EQ(run.model.mlp_width, 704);  // 8/3 * 256 = 682.7, up to a multiple of 32
  EXPECT_EQ(run.train.seed, 1337U);
  EXPECT_EQ(run.train.precision, Precision::automatic);
  EXPECT_EQ(run.context(), 256);
  EXPECT_EQ(run.optimizer.warmup_steps, 100);
  EXPECT_FLOAT_EQ(run.optimizer.min_learning_rate, 1e-4F);
}

TEST(RunConfig, EveryTypeIsRead) {
  const RunConfig run = parse_or_fail(R"(
run:
  dir: "runs/with space"
model:
  width: 384
  heads: 6
  kv_heads: 3
  norm: layer_norm
  norm_bias: true
  norm_eps: 1e-6
  position: learned
  mlp: relu2
  rope_pairing: adjacent
data: {corpus: 'a: b.h5', order: random, documents: isolate}
optimizer: {learning_rate: .0005, beta2: 0.95}
train: {seed: 18446744073709551615, precision: bf16, dropout: 0.2, steps: 50}
sample: {prompt: "line\none\t\u00e9"}
system: {backend: eigen}
)");
  EXPECT_EQ(run.dir, "runs/with space");
  EXPECT_EQ(run.model.head_dim, 64);
  EXPECT_EQ(run.model.kv_heads, 3);
  EXPECT_EQ(run.model.mlp_width, 4 * 384);
  EXPECT_EQ(run.model.norm, NormKind::layer_norm);
  EXPECT_TRUE(run.model.norm_bias);
  EXPECT_EQ(run.model.norm_eps, 1e-6F);
  EXPECT_EQ(run.model.position, PositionKind::learned);
  EXPECT_EQ(run.model.mlp, MlpKind::relu2);
  EXPECT_EQ(run.model.rope_pairing, RopePairing::adjacent);
  EXPECT_EQ(run.data.corpus, "a: b.h5");
  EXPECT_EQ(run.data.order, WindowOrder::random);
  EXPECT_EQ(run.data.documents, DocumentAttention::isolate);
  EXPECT_EQ(run.optimizer.learning_rate, 5e-4F);
  EXPECT_EQ(run.optimizer.min_learning_rate, 5e-5F);
  EXPECT_EQ(run.optimizer.warmup_steps, 5);
  EXPECT_EQ(run.train.seed, UINT64_MAX);
  EXPECT_EQ(run.train.precision, Precision::bf16);
  EXPECT_EQ(run.train.dropout, 0.2F);
  EXPECT_EQ(run.sample.prompt, "line\none\t\xC3\xA9");
  EXPECT_EQ(run.system.backend, BackendKind::eigen);
}

TEST(RunConfig, OverridesApplyInOrderAndAfterTheFile) {
  const RunConfig run = parse_or_fail(
      kMinimal, {"train.steps=10", "train.steps=20", "data.corpus=data/b #1.h5", "sample.prompt=ROMEO: \"hi\"",
                 "model.tied_embeddings=false", "optimizer.learning_rate=1e-2", "model.width=128", "run.dir='quoted dir'"});
  EXPECT_EQ(run.train.steps, 20);
  EXPECT_EQ(run.optimizer.warmup_steps, 2);
  EXPECT_EQ(run.data.corpus, "data/b #1.h5");  // text is taken as it stands
  EXPECT_EQ(run.sample.prompt, "ROMEO: \"hi\"");
  EXPECT_EQ(run.dir, "quoted dir");
  EXPECT_FALSE(run.model.tied_embeddings);
  EXPECT_EQ(run.optimizer.learning_rate, 1e-2F);
  EXPECT_EQ(run.model.head_dim, 32);  // follows the overridden width
  EXPECT_EQ(parse_or_fail(kMinimal, {"sample.prompt="}).sample.prompt, "");
  EXPECT_EQ(parse_or_fail(kMinimal, {"sample.prompt=\"a\\nb\""}).sample.prompt, "a\nb");
  EXPECT_EQ(parse_or_fail(kMinimal, {"sample.prompt=a=b"}).sample.prompt, "a=b");
}

TEST(RunConfig, OverridesCanGiveWhatTheFileLacks) {
  const auto run = parse_run_config("run: {dir: r}", "t.yaml", {"data.corpus=c.h5"});
  ASSERT_TRUE(run) << run.error().message;
  EXPECT_EQ(run->data.corpus, "c.h5");
}

TEST(RunConfig, EmptySectionsAreAllowed) {
  EXPECT_EQ(parse_or_fail("run: {dir: r}\nmodel:\ntrain: ~\ndata: {corpus: c}\n").train.steps, 2000);
}

TEST(RunConfig, ResolvedYamlReadsBackEqual) {
  const RunConfig run = parse_or_fail(kMinimal, {"model.width=192", "model.heads=6", "model.kv_heads=2", "train.seed=99",
                                                 "train.dropout=0.1", "optimizer.learning_rate=6.25e-4", "data.order=random",
                                                 "sample.prompt=\"two\\nlines \\\"and\\\" \\\\ tab\\t\xC3\xA9\"",
                                                 "run.dir=a: b # c", "system.memory_limit_mib=123456"});
  const std::string yaml = to_yaml(run);
  const RunConfig back = parse_or_fail(yaml);
  EXPECT_EQ(to_yaml(back), yaml);
  EXPECT_EQ(back.sample.prompt, run.sample.prompt);
  EXPECT_EQ(back.dir, "a: b # c");
  EXPECT_EQ(back.optimizer.learning_rate, run.optimizer.learning_rate);
  EXPECT_EQ(back.model.mlp_width, run.model.mlp_width);
  for (const KeyDoc& doc : run_config_keys()) {  // every key is there
    EXPECT_NE(yaml.find("  " + doc.key.substr(doc.key.find('.') + 1) + ": "), std::string::npos) << doc.key;
  }
}

TEST(RunConfig, MuonAndWsdHaveTheirDefaults) {
  const RunConfig muon = parse_or_fail(kMinimal, {"optimizer.kind=muon", "optimizer.schedule=wsd", "train.steps=500"});
  EXPECT_EQ(muon.optimizer.kind, OptimizerKind::muon);
  EXPECT_EQ(muon.optimizer.muon_learning_rate, 0.02F);
  EXPECT_EQ(muon.optimizer.muon_momentum, 0.95F);
  EXPECT_EQ(muon.optimizer.newton_schulz_steps, 5);
  EXPECT_EQ(muon.optimizer.cooldown_steps, 100);
  EXPECT_EQ(parse_or_fail(to_yaml(muon)).optimizer.cooldown_steps, 100);
  const RunConfig ends = parse_or_fail(kMinimal, {"optimizer.schedule=wsd", "optimizer.decay_steps=400"});
  EXPECT_EQ(ends.optimizer.cooldown_steps, 80);
  const RunConfig adamw = parse_or_fail(kMinimal);
  EXPECT_EQ(adamw.optimizer.cooldown_steps, 0);
  EXPECT_EQ(to_yaml(parse_or_fail(to_yaml(adamw))), to_yaml(adamw)) << "defaults of what is not in use are allowed";
}

TEST(RunConfig, TheBatchGrowsOnce) {
  const TrainConfig plain = parse_or_fail(kMinimal, {"train.accumulation=3"}).train;
  EXPECT_EQ(plain.accumulation_at(1000), 3);
  EXPECT_EQ(plain.micro_batches(10), 30);
  const TrainConfig doubled = parse_or_fail(kMinimal, {"train.accumulation=3", "train.growth_step=4"}).train;
  EXPECT_EQ(doubled.accumulation_at(3), 3);
  EXPECT_EQ(doubled.accumulation_at(4), 6);
  EXPECT_EQ(doubled.micro_batches(4), 12);
  EXPECT_EQ(doubled.micro_batches(6), 24);
  const TrainConfig told = parse_or_fail(kMinimal, {"train.growth_step=4", "train.grown_accumulation=5"}).train;
  EXPECT_EQ(told.micro_batches(6), 14);
}

TEST(RunConfig, KeyTableIsComplete) {
  std::set<std::string> keys;
  for (const KeyDoc& doc : run_config_keys()) {
    EXPECT_TRUE(keys.insert(doc.key).second) << doc.key << " appears twice";
    EXPECT_FALSE(doc.description.empty()) << doc.key;
    EXPECT_FALSE(doc.allowed.empty()) << doc.key;
    EXPECT_FALSE(doc.default_value.empty()) << doc.key;
  }
  for (const char* key :
       {"run.dir", "data.corpus", "train.steps", "train.precision", "train.seed", "system.threads", "model.vocab"}) {
    EXPECT_TRUE(keys.count(key)) << key;  // names that others rely on
  }
}

// Every documented default, given explicitly, is accepted and changes nothing.
TEST(RunConfig, DocumentedDefaultsAreTheDefaults) {
  const std::string resolved = to_yaml(parse_or_fail(kMinimal));
  for (const KeyDoc& doc : run_config_keys()) {
    if (doc.default_value == "required" || doc.default_value.find_first_of(" ") != std::string::npos) continue;
    if (doc.default_value == "model.heads") continue;
    EXPECT_EQ(to_yaml(parse_or_fail(kMinimal, {doc.key + "=" + doc.default_value})), resolved) << doc.key;
  }
}

TEST(RunConfig, OriginsSayWhereAKeyWasGiven) {
  const RunConfig run = parse_or_fail(kMinimal, {"train.steps=7"});
  EXPECT_EQ(run.at_key("data.corpus", "x"), "t.yaml:2:16: key `data.corpus`: x");
  EXPECT_EQ(run.at_key("train.steps", "x"), "command line: key `train.steps`: x");
  EXPECT_EQ(run.at_key("train.batch", "x"), "key `train.batch` (default): x");
  const auto files = check_run_files(run);
  ASSERT_FALSE(files);
  EXPECT_NE(files.error().message.find("t.yaml:2:16: key `data.corpus`: no such file: data/x.h5"), std::string::npos)
      << files.error().message;
}

TEST(RunConfig, CheckRunFilesAcceptsAFileAndRefusesAFolder) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "quern_run_config_files";
  std::filesystem::create_directories(folder);
  const auto file = folder / "c.h5";
  std::ofstream(file) << "x";
  EXPECT_TRUE(check_run_files(parse_or_fail(kMinimal, {"data.corpus=" + file.string()})));
  const auto refused = check_run_files(parse_or_fail(kMinimal, {"data.corpus=" + folder.string()}));
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("is a folder"), std::string::npos) << refused.error().message;
  std::filesystem::remove_all(folder);
}

TEST(Configs, EveryFileParsesAndSaysWhatItsNamePromises) {
  std::set<std::string> seen;
  for (const auto& entry : std::filesystem::directory_iterator(source_folder() / "configs")) {
    if (entry.path().extension() != ".yaml") continue;
    seen.insert(entry.path().stem().string());
    const auto run = load_run_config(entry.path().string(), {});
    ASSERT_TRUE(run) << run.error().message;
    EXPECT_EQ(run->dir, "runs/" + entry.path().stem().string());
    // Each key line carries a comment.
    std::ifstream file(entry.path());
    for (std::string line; std::getline(file, line);) {
      const bool is_key = line.rfind("  ", 0) == 0;
      EXPECT_TRUE(!is_key || line.find(" # ") != std::string::npos) << entry.path() << ": " << line;
    }
  }
  for (const char* name : {"quickstart", "shakespeare_char", "shakespeare_char_cpu", "loop_small", "loop_base", "loop_large",
                           "gpt2_124m", "cromwell_1b"}) {
    EXPECT_TRUE(seen.count(name)) << name;
  }
}

TEST(Configs, CharacterModelsMatchNanoGpt) {
  const auto gpu = load_run_config(config_file("shakespeare_char.yaml"), {});
  ASSERT_TRUE(gpu) << gpu.error().message;
  ModelConfig model = gpu->model;
  model.vocab = 65;
  EXPECT_EQ(parameter_layout(model).parameter_count() - 256 * 384, 10646784);
  EXPECT_EQ(gpu->train.batch, 64);
  EXPECT_EQ(gpu->train.dropout, 0.2F);
  const auto cpu = load_run_config(config_file("shakespeare_char_cpu.yaml"), {});
  ASSERT_TRUE(cpu) << cpu.error().message;
  EXPECT_EQ(cpu->train.steps, 2000);
  EXPECT_EQ(cpu->train.batch, 12);
  EXPECT_EQ(cpu->context(), 64);
  EXPECT_EQ(cpu->model.width, 128);
}

TEST(Configs, Gpt2HasGpt2sParameters) {
  const auto run = load_run_config(config_file("gpt2_124m.yaml"), {});
  ASSERT_TRUE(run) << run.error().message;
  ModelConfig model = run->model;
  EXPECT_EQ(model.vocab, 50304);
  model.vocab = 50257;
  EXPECT_EQ(parameter_layout(model).parameter_count(), 124439808);
  EXPECT_EQ(run->train.batch, 4);
  EXPECT_EQ(run->context(), 256);
}

TEST(Configs, Cromwell1bHasItsShapeAndFitsInto24Gib) {
  const auto run = load_run_config(config_file("cromwell_1b.yaml"), {});
  ASSERT_TRUE(run) << run.error().message;
  const ModelConfig& model = run->model;
  EXPECT_EQ(model.vocab, 32000);
  EXPECT_EQ(model.context, 4096);
  EXPECT_EQ(model.layers, 24);
  EXPECT_EQ(model.width, 2048);
  EXPECT_EQ(model.heads, 32);
  EXPECT_EQ(model.head_dim, 64);
  EXPECT_EQ(model.kv_heads, 1);
  EXPECT_EQ(model.mlp_width, 5632);
  EXPECT_EQ(model.norm, NormKind::rms_norm);
  EXPECT_EQ(model.position, PositionKind::rope);
  EXPECT_EQ(model.mlp, MlpKind::swiglu);
  EXPECT_TRUE(model.tied_embeddings);
  const std::int64_t layer = 2 * 2048 * 2048 + 2 * 64 * 2048 + 3 * 5632 * 2048 + 2 * 2048;
  EXPECT_EQ(parameter_layout(model).parameter_count(), 24 * layer + 32000 * 2048 + 2048);

  // Where bf16 is multiplied as such; elsewhere packs are f32 and the run needs 4 GiB more.
  const KernelTable& kernels = *supported_kernels().front();
  if (kernels.isa != Isa::amx) return;
  const PassShape shape{
      .rows = run->train.batch * run->context(), .max_length = run->context(), .max_sequences = run->train.batch};
  const auto memory = TrainingMemory::plan({&kernels, false}, ComputeType::bf16, model, shape, run->optimizer.kind, 2);
  ASSERT_TRUE(memory) << memory.error().message;
  EXPECT_LT(memory->bytes(), std::size_t{43} << 29) << "21.5 GiB: the system needs the rest";
}

TEST(Configs, LoopModelsDifferInLayersAlone) {
  const auto base = load_run_config(config_file("loop_base.yaml"), {});
  const auto large = load_run_config(config_file("loop_large.yaml"), {});
  ASSERT_TRUE(base) << base.error().message;
  ASSERT_TRUE(large) << large.error().message;
  EXPECT_EQ(base->model.layers, 4);
  EXPECT_EQ(base->model.vocab, 16000);
  EXPECT_EQ(base->train.batch * base->context(), 16 * 256);
  RunConfig same = *large;
  EXPECT_EQ(same.model.layers, 6);
  same.model.layers = base->model.layers;
  same.dir = base->dir;
  EXPECT_EQ(to_yaml(same), to_yaml(*base));
}

}  // namespace
}  // namespace quern
