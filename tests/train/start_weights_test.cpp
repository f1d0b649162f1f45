// Runs that start from given weights: the first validation, what the model keys may say, tokenizers, resuming.
#include "train/start_weights.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <optional>

#include "infer/decoder.hpp"
#include "infer/generator.hpp"
#include "infer/loaded_model.hpp"
#include "math/dispatch.hpp"
#include "model/atomic_file.hpp"
#include "support/small_vocabulary.hpp"
#include "train/prepare.hpp"
#include "train/trainer.hpp"

namespace quern {
namespace {

namespace fs = std::filesystem;

class StartWeightsTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("quern_start_weights_" + std::to_string(getpid()));
    fs::create_directories(folder_);
    std::string text;
    for (int i = 0; i < 300; ++i) text += "the cat " + std::to_string(i * 7919 % 1000) + " sat\n";
    std::ofstream(path("text.txt")) << text;
    prepare("corpus.h5", Tokenizer::bytes(false));
  }
  void TearDown() override { fs::remove_all(folder_); }
  [[nodiscard]] std::string path(const std::string& name) const { return (folder_ / name).string(); }

  void prepare(const std::string& name, const Tokenizer& tokenizer) const {
    PrepareOptions options;
    options.source = path("text.txt");
    options.out = path(name);
    options.ready_tokenizer = tokenizer;
    const auto done = prepare_corpus(options);
    ASSERT_TRUE(done) << done.error().message;
  }

  [[nodiscard]] RunConfig config(const std::string& name, const std::vector<std::string>& overrides) const {
    std::vector<std::string> all = {"run.dir=" + path(name), "data.corpus=" + path("corpus.h5"),
                                    "train.steps=6",         "train.batch=2",
                                    "train.eval_every=3",    "train.log_every=1",
                                    "train.precision=f32",   "system.threads=2"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    const auto run = parse_run_config("train: {}", "t.yaml", all);
    EXPECT_TRUE(run) << run.error().message;
    return run ? *run : RunConfig{};
  }
  /// Overrides of a small model that has nothing at its default.
  [[nodiscard]] static std::vector<std::string> small_model() {
    return {"model.context=16",
            "model.layers=2",
            "model.width=24",
            "model.heads=3",
            "model.kv_heads=1",
            "model.mlp=geglu",
            "model.mlp_width=40",
            "model.qk_norm=true",
            "model.norm_eps=1e-6",
            "train.seed=7",
            "model.tied_embeddings=false"};
  }

  struct Trained {
    std::vector<float> start, weights;
    std::vector<Evaluation> evaluations;
    std::vector<double> losses;
    std::string last_sample;
  };
  [[nodiscard]] static Trained train(const RunConfig& run, bool resume = false, std::int64_t stop_at = -1) {
    Trained result;
    std::atomic<int> signal{0};
    TrainEvents events;
    events.step = [&](const TrainProgress& progress) {
      result.losses.push_back(progress.train_loss);
      if (progress.step == stop_at) signal = 2;
    };
    events.evaluated = [&](const Evaluation& evaluation) { result.evaluations.push_back(evaluation); };
    events.sample = [&](std::int64_t, const std::string& text) { result.last_sample = text; };
    auto trainer = Trainer::create(run, {.resume = resume, .stop_signal = &signal}, events);
    EXPECT_TRUE(trainer) << (trainer ? "" : trainer.error().message);
    if (!trainer) return result;
    const auto weights = (*trainer)->blocks().weights;
    result.start.assign(weights.begin(), weights.end());
    const auto summary = (*trainer)->run();
    EXPECT_TRUE(summary) << (summary ? "" : summary.error().message);
    result.weights.assign(weights.begin(), weights.end());
    return result;
  }
  /// The run that others start from.
  [[nodiscard]] Trained first_run() const { return train(config("first", small_model())); }
  void refused(const RunConfig& run, const std::vector<std::string>& parts) const {
    const auto plan = plan_training(run);
    ASSERT_FALSE(plan);
    EXPECT_EQ(plan.error().code, ErrorCode::bad_input);
    for (const std::string& part : parts) {
      EXPECT_NE(plan.error().message.find(part), std::string::npos) << part << "\n" << plan.error().message;
    }
    EXPECT_FALSE(fs::exists(run.dir));
  }

  fs::path folder_;
};

TEST_F(StartWeightsTest, StartsWithTheCheckpointsModelWeightsAndLoss) {
  const Trained first = first_run();
  const RunConfig run = config("second", {"train.from=" + path("first"), "train.seed=8", "train.dropout=0.1"});
  const auto plan = plan_training(run);
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(plan->start->checkpoint, path("first/checkpoints/best.h5"));
  EXPECT_EQ(plan->run.model.heads, 3);
  EXPECT_EQ(plan->run.model.mlp, MlpKind::geglu);
  EXPECT_EQ(plan->run.model.context, 16);

  const CheckpointInfo best = read_checkpoint_info(path("first/checkpoints/best.h5")).value();
  const Trained second = train(run);
  ASSERT_EQ(second.evaluations.size(), 3U);
  EXPECT_EQ(second.evaluations[0].step, 0);
  EXPECT_EQ(second.evaluations[0].val_loss, best.val_loss);
  EXPECT_TRUE(second.evaluations[0].best);
  if (best.step == 6) {
    EXPECT_EQ(second.start, first.weights);
  }
  EXPECT_NE(second.weights, second.start);

  // What is written says it, and reads back to the same run.
  const std::string yaml = read_whole_file(path("second/run.yaml"), 1 << 20).value();
  EXPECT_NE(yaml.find("from: \"" + path("first")), std::string::npos) << yaml;
  EXPECT_NE(yaml.find("heads: 3"), std::string::npos) << yaml;
  const auto again = load_run_config(path("second/run.yaml"), {"run.dir=" + path("third")});
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(train(*again).losses, second.losses);
  const std::string metrics = read_whole_file(path("second/metrics.jsonl"), 1 << 20).value();
  EXPECT_EQ(metrics.rfind("{\"step\": 0, \"train_loss\": null, \"val_loss\": ", 0), 0U) << metrics;
}

TEST_F(StartWeightsTest, ResumeEqualsNeverStoppedWithoutTheFirstCheckpoint) {
  (void)first_run();
  const std::vector<std::string> from = {"train.from=" + path("first"), "train.dropout=0.1", "model.context=20"};
  const Trained whole = train(config("whole", from));
  const Trained stopped = train(config("stopped", from), false, 4);
  fs::remove_all(path("first"));
  const Trained rest = train(config("stopped", from), true);
  std::vector<double> losses = stopped.losses;
  losses.insert(losses.end(), rest.losses.begin(), rest.losses.end());
  EXPECT_EQ(losses, whole.losses);
  EXPECT_EQ(rest.weights, whole.weights);
  for (const Evaluation& evaluation : rest.evaluations) EXPECT_GT(evaluation.step, 0) << "the start is validated once";
  refused(config("another", from), {"train.from", path("first")});
}

TEST_F(StartWeightsTest, GivenModelKeysMustAgree) {
  (void)first_run();
  const std::string from = "train.from=" + path("first/checkpoints/last.h5");
  std::vector<std::string> same = small_model();
  same.push_back(from);
  EXPECT_TRUE(plan_training(config("same", same)));
  refused(config("wide", {from, "model.width=32"}),
          {"command line: key `model.width`: must be 24", "last.h5", "found 32", "without the key"});
  refused(config("kind", {from, "model.mlp=swiglu"}), {"`model.mlp`: must be geglu", "found swiglu"});
  refused(config("tied", {from, "model.tied_embeddings=true"}), {"`model.tied_embeddings`: must be false"});

  // RoPE has no tensor of the context: it may change. A table of positions may not, but shorter sequences are fine.
  const auto longer = plan_training(config("longer", {from, "model.context=32"}));
  ASSERT_TRUE(longer) << longer.error().message;
  EXPECT_EQ(longer->run.model.context, 32);
  EXPECT_EQ(longer->run.context(), 32);
  std::vector<std::string> learned = small_model();
  learned.insert(learned.end(), {"model.position=learned", "train.steps=1"});
  (void)train(config("learned", learned));
  const std::string from_learned = "train.from=" + path("learned");
  refused(config("table", {from_learned, "model.context=32"}), {"`model.context`: must be 16", "found 32"});
  refused(config("table", {from_learned, "train.context=32"}), {"`train.context`", "learned positions", "16"});
  EXPECT_TRUE(plan_training(config("table", {from_learned, "train.context=8"})));
}

TEST_F(StartWeightsTest, OtherThingsGetASentence) {
  (void)first_run();
  prepare("other.h5", Tokenizer::bytes(true));
  const std::string from = "train.from=" + path("first");
  refused(config("other", {from, "data.corpus=" + path("other.h5")}),
          {"`data.corpus`", "other.h5 was prepared with another tokenizer (bytes, 257 tokens)", "(bytes, 256 tokens)",
           "quern data prepare SOURCE --tokenizer " + path("first/checkpoints/best.h5")});
  refused(config("none", {"train.from=" + path("absent.h5")}), {"`train.from`", "absent.h5: no such file or folder"});
  std::ofstream(path("model.gguf")) << "GGUF....";
  refused(config("none", {"train.from=" + path("model.gguf")}),
          {"model.gguf is a GGUF file", "quern convert " + path("model.gguf")});
  fs::create_directories(path("hf"));
  std::ofstream(path("hf/config.json")) << "{}";
  refused(config("none", {"train.from=" + path("hf")}), {"hf is a Hugging Face folder", "quern convert"});
  fs::create_directories(path("empty"));
  refused(config("none", {"train.from=" + path("empty")}), {"`train.from`", "empty"});
  refused(config("none", {"train.from=" + path("corpus.h5")}), {"corpus.h5 is a corpus"});
  refused(config("none", {"train.from=" + path("text.txt")}), {"text.txt: expected a checkpoint"});

  // --force would remove the weights before they are read.
  const RunConfig own = config("first", {from});
  const auto trainer = Trainer::create(own, {.force = true}, {});
  ASSERT_FALSE(trainer);
  EXPECT_NE(trainer.error().message.find("lies in run.dir"), std::string::npos) << trainer.error().message;
  EXPECT_TRUE(fs::exists(path("first/checkpoints/best.h5")));
}

// An imported model: a published vocabulary, embeddings padded beyond it with rows that any text would choose.
TEST_F(StartWeightsTest, PaddedVocabulariesTrainAndSample) {
  const Tokenizer tokenizer = Tokenizer::from_huggingface_json(small_sentencepiece_json(), "small").value();
  prepare("published.h5", tokenizer);
  ModelConfig model;
  model.vocab = tokenizer.vocab_size() + 6;
  model.context = 24;
  model.layers = 1;
  model.width = 32;
  model.heads = model.kv_heads = 2;
  model.head_dim = 16;
  model.mlp_width = 64;
  const ParameterLayout layout = parameter_layout(model);
  std::vector<float> weights(static_cast<std::size_t>(layout.elements));
  initialize_parameters(model, layout, {}, 3, weights.data());
  const Parameter& embedding = layout.parameters[static_cast<std::size_t>(layout.token_embedding)];
  float* const padding = weights.data() + embedding.offset + (model.vocab - 2) * model.width;
  for (std::int64_t i = 0; i < model.width; ++i) {
    padding[i] = 0.5F;
    padding[model.width + i] = -0.5F;
  }
  CheckpointInfo info;
  info.model = model;
  info.tokenizer_json = tokenizer.to_json();
  ASSERT_TRUE(save_checkpoint(path("imported.h5"), info, layout, {weights, {}, {}}));

  const RunConfig run = config("tuned", {"data.corpus=" + path("published.h5"), "train.from=" + path("imported.h5"),
                                         "sample.tokens=20", "sample.prompt=the"});
  const Trained trained = train(run);
  EXPECT_EQ(trained.start, weights);
  EXPECT_LT(trained.losses.back(), trained.losses.front());
  EXPECT_EQ(trained.last_sample.rfind("the", 0), 0U) << trained.last_sample;

  const Backend backend{supported_kernels().front(), false};
  ThreadTeam team(1);
  for (const std::string& file : {path("imported.h5"), path("tuned")}) {
    const auto loaded = LoadedModel::load(file, backend, team, {.precision = Precision::f32});
    ASSERT_TRUE(loaded) << loaded.error().message;
    auto decoder = Decoder::create(backend, (*loaded)->weights(), team, {.batch_tokens = 8, .context_tokens = 24}).value();
    Request request{.prompt = encode_prompt(tokenizer, "the").value(), .sampler = {.temperature = 0.0F}};
    request.stop.max_tokens = 20;
    const auto generation = generate(*decoder, &tokenizer, request);
    ASSERT_TRUE(generation) << generation.error().message;
    EXPECT_LT(*std::max_element(generation->tokens.begin(), generation->tokens.end()), tokenizer.vocab_size());
    Sampler sampler(model.vocab, {.temperature = 0.0F});
    const auto padded = generate(*decoder, request.prompt, sampler, {.max_tokens = 1});
    if (file == path("imported.h5")) {
      EXPECT_GE(padded->tokens.at(0), tokenizer.vocab_size()) << "the rows are likely";
    }
  }
  info.tokenizer_json = Tokenizer::bytes(true).to_json();
  model.vocab = info.model.vocab = 200;
  const ParameterLayout small = parameter_layout(model);
  weights.resize(static_cast<std::size_t>(small.elements));
  ASSERT_TRUE(save_checkpoint(path("cut.h5"), info, small, {weights, {}, {}}));
  refused(config("cut", {"train.from=" + path("cut.h5")}), {"cut.h5: the tokenizer has 257 tokens", "only 200"});
}

}  // namespace
}  // namespace quern
