// Whole runs: against the double-precision reference, against themselves after a resume, on other thread counts, and the
// heap.
#include "train/trainer.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include "infer/decoder.hpp"
#include "infer/loaded_model.hpp"
#include "support/cross_entropy.hpp"
#include "support/malloc_counter.hpp"
#include "support/model_harness.hpp"
#include "support/reference_model.hpp"
#include "train/batch_source.hpp"
#include "train/prepare.hpp"

namespace quern {
namespace {

namespace fs = std::filesystem;

struct Trained {
  std::vector<float> weights, m, v;
  std::vector<double> losses;  // of each step
  TrainSummary summary;
};

class TrainerTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("quern_trainer_" + std::to_string(getpid()));
    fs::create_directories(folder_);
    const std::vector<std::string> words = {"the ", "king ", "said ", "unto ", "them ", "go ", "and ", "see.\n"};
    std::mt19937 random(3);
    std::string text;
    while (text.size() < 6000) text += words[random() % words.size()];
    std::ofstream(path("text.txt")) << text;
    PrepareOptions prepare;
    prepare.source = path("text.txt");
    prepare.out = path("corpus.h5");
    prepare.tokenizer = TokenizerKind::characters;
    prepare.split = 0.9;
    ASSERT_TRUE(prepare_corpus(prepare));
  }
  void TearDown() override { fs::remove_all(folder_); }
  [[nodiscard]] std::string path(const std::string& name) const { return (folder_ / name).string(); }

  /// A small Llama row with grouped heads, QK norm and tied embeddings.
  [[nodiscard]] RunConfig config(const std::string& name) const {
    RunConfig run;
    run.dir = path(name);
    run.data.corpus = path("corpus.h5");
    run.model.context = 24;
    run.model.layers = 2;
    run.model.width = 32;
    run.model.heads = 4;
    run.model.kv_heads = 2;
    run.model.head_dim = 8;
    run.model.mlp_width = 64;
    run.model.qk_norm = true;
    run.optimizer.learning_rate = 3e-3F;
    run.optimizer.min_learning_rate = 3e-4F;
    run.optimizer.warmup_steps = 3;
    run.train.steps = 10;
    run.train.batch = 3;
    run.train.accumulation = 2;
    run.train.precision = Precision::f32;
    run.train.log_every = 1;
    run.train.eval_every = 5;
    run.system.threads = 2;
    return run;
  }

  /// The same with Muon and a schedule of three parts.
  [[nodiscard]] RunConfig muon(const std::string& name) const {
    RunConfig run = config(name);
    run.optimizer.kind = OptimizerKind::muon;
    run.optimizer.schedule = ScheduleKind::wsd;
    run.optimizer.cooldown_steps = 4;
    return run;
  }

  /// The same with everything that published models add: experts, sinks, clamps, norms after each half, two RoPE bases.
  [[nodiscard]] RunConfig published(const std::string& name) const {
    RunConfig run = config(name);
    ModelConfig& c = run.model;
    c.mlp = MlpKind::swiglu_clamped;
    c.mlp_width = 24;
    c.experts = 4;
    c.experts_used = 2;
    c.router_bias = c.mlp_bias = c.qkv_bias = c.attention_sinks = c.post_norms = true;
    c.window = 8;
    c.window_period = 2;
    c.rope_base_windowed = 100.0F;
    c.rope_scaling = RopeScaling::linear;
    c.rope_factor = 2.0F;
    c.attention_scale = 0.3F;
    return run;
  }

  /// Runs to the end, or until `stop_at` steps are done, as a signal would stop it.
  [[nodiscard]] static Trained train(const RunConfig& run, bool resume = false, std::int64_t stop_at = -1) {
    Trained result;
    std::atomic<int> signal{0};
    TrainEvents events;
    events.step = [&](const TrainProgress& progress) {
      result.losses.push_back(progress.train_loss);
      if (progress.step == stop_at) signal = 2;
    };
    auto trainer = Trainer::create(run, {.resume = resume, .stop_signal = &signal}, events);
    EXPECT_TRUE(trainer) << (trainer ? "" : trainer.error().message);
    auto summary = (*trainer)->run();
    EXPECT_TRUE(summary) << (summary ? "" : summary.error().message);
    result.summary = *summary;
    const Trainer::Blocks blocks = (*trainer)->blocks();
    result.weights.assign(blocks.weights.begin(), blocks.weights.end());
    result.m.assign(blocks.m.begin(), blocks.m.end());
    result.v.assign(blocks.v.begin(), blocks.v.end());
    return result;
  }

  fs::path folder_;
};

ReferenceBatch reference_of(const Batch& batch) {
  ReferenceBatch reference;
  reference.inputs = batch.inputs;
  reference.targets = batch.targets;
  reference.positions = batch.positions;
  reference.weights.assign(batch.weights.begin(), batch.weights.end());
  for (const SequenceRows& rows : batch.sequences) reference.spans.push_back({rows.first_row, rows.rows});
  return reference;
}

/// Ten losses of the double-precision trainer on the same micro-batches from the same start.
std::vector<double> reference_losses(const RunConfig& run) {
  const Corpus corpus = Corpus::open(run.data.corpus).value();
  ModelConfig model = run.model;
  model.vocab = corpus.tokenizer().vocab_size();
  const ParameterLayout layout = parameter_layout(model);
  std::vector<float> start(static_cast<std::size_t>(layout.elements));
  initialize_parameters(model, layout, {.standard_deviation = run.train.init_std}, run.train.seed, start.data());
  std::vector<double> parameters(start.begin(), start.end());
  std::vector<double> gradients(parameters.size());
  const BatchSource source = BatchSource::create(corpus, {.batch = run.train.batch,
                                                          .context = model.context,
                                                          .seed = run.train.seed,
                                                          .order = run.data.order,
                                                          .documents = run.data.documents})
                                 .value();
  ReferenceAdamWState state;
  std::vector<double> losses;
  std::int64_t micro_batch = 0;
  for (std::int64_t step = 0; step < run.train.steps; ++step) {
    std::vector<ReferenceBatch> batches;
    const bool grown = run.train.growth_step > 0 && step >= run.train.growth_step;
    for (std::int64_t i = 0; i < (grown ? run.train.grown_accumulation : run.train.accumulation); ++i) {
      Batch batch;
      EXPECT_TRUE(source.fill(micro_batch++, batch));
      batches.push_back(reference_of(batch));
    }
    losses.push_back(reference_loss_and_gradients(model, layout, parameters, batches, gradients));
    const double peak = static_cast<double>(run.optimizer.learning_rate);
    const double floor = static_cast<double>(run.optimizer.min_learning_rate);
    const auto warmup = static_cast<double>(run.optimizer.warmup_steps);
    const auto at = static_cast<double>(step);
    const double rate =
        at < warmup ? peak * (at + 1.0) / (warmup + 1.0)
                    : floor + (peak - floor) * 0.5 *
                                  (1.0 + std::cos(M_PI * (at - warmup) / (static_cast<double>(run.train.steps) - warmup)));
    reference_adamw_step({.learning_rate = rate,
                          .beta1 = static_cast<double>(run.optimizer.beta1),
                          .beta2 = static_cast<double>(run.optimizer.beta2),
                          .eps = static_cast<double>(run.optimizer.eps),
                          .weight_decay = static_cast<double>(run.optimizer.weight_decay),
                          .clip_norm = static_cast<double>(run.optimizer.clip_norm)},
                         layout, gradients, state, parameters);
  }
  return losses;
}

// A trained checkpoint, loaded and decoded through the KV cache in chunks, gives the losses that the trainer computes with
// the same weights, bit for bit.
TEST_F(TrainerTest, TheRunnersLogProbabilitiesAreTheTrainers) {
  for (const RunConfig& run : {config("runner"), published("published")}) {
    SCOPED_TRACE(run.dir);
    const Trained trained = train(run);
    const Corpus corpus = Corpus::open(run.data.corpus).value();
    const BatchSource source = BatchSource::create(corpus, {.batch = 2, .context = run.model.context, .seed = 5}).value();
    Batch batch;
    ASSERT_TRUE(source.fill(3, batch));
    const ReferenceBatch reference = reference_of(batch);

    const Backend backend{supported_kernels().front(), false};
    ThreadTeam team(2);
    const auto model = LoadedModel::load(run.dir, backend, team, {.precision = Precision::f32});
    ASSERT_TRUE(model) << model.error().message;
    const ModelConfig& shape = (*model)->weights().config;
    ModelHarness harness(shape, backend, ComputeType::f32, 2, std::ssize(batch.inputs));
    harness.parameters = trained.weights;
    harness.pack();
    const HarnessBatch rows(reference);
    harness.evaluate(rows.view());

    auto decoder = Decoder::create(backend, (*model)->weights(), team,
                                   {.batch_tokens = 7, .context_tokens = shape.context, .all_logits = true});
    ASSERT_TRUE(decoder) << decoder.error().message;
    for (const ReferenceSpan& span : reference.spans) {
      const KvCache::SequenceId sequence = (*decoder)->cache().add_sequence().value();
      for (std::int64_t at = 0; at < span.rows; at += 7) {
        const std::int64_t count = std::min<std::int64_t>(7, span.rows - at);
        const SequenceTokens chunk{
            sequence,
            std::span(batch.inputs).subspan(static_cast<std::size_t>(span.first_row + at), static_cast<std::size_t>(count))};
        ASSERT_TRUE((*decoder)->forward(std::span(&chunk, 1)));
        for (std::int64_t i = 0; i < count; ++i) {
          const auto row = static_cast<std::size_t>(span.first_row + at + i);
          ASSERT_EQ(
              test::row_loss(*backend.kernels->elementwise, (*decoder)->logits(i).data(), shape.vocab, batch.targets[row]),
              harness.row_losses()[row])
              << row;
        }
      }
      (*decoder)->cache().remove_sequence(sequence);
    }
  }
}

// Floor 1's bar: ten steps of f32 training stay within 1e-4 of an independent double-precision trainer.
TEST_F(TrainerTest, TenLossesEqualTheDoublePrecisionTrainer) {
  RunConfig llama = config("llama");
  RunConfig gpt2 = config("gpt2");
  gpt2.model.norm = NormKind::layer_norm;
  gpt2.model.norm_bias = true;
  gpt2.model.position = PositionKind::learned;
  gpt2.model.mlp = MlpKind::gelu;
  gpt2.model.kv_heads = 4;
  gpt2.model.qk_norm = false;
  gpt2.model.attention_bias = true;
  gpt2.model.mlp_bias = true;
  gpt2.model.tied_embeddings = false;
  RunConfig eigen = config("eigen");
  eigen.system.backend = BackendKind::eigen;
  RunConfig growing = config("growing");
  growing.train.growth_step = 4;
  growing.train.grown_accumulation = 3;
  for (const RunConfig& run : {llama, gpt2, eigen, published("published"), growing}) {
    SCOPED_TRACE(run.dir);
    const std::vector<double> expected = reference_losses(run);
    const Trained trained = train(run);
    ASSERT_EQ(trained.losses.size(), expected.size());
    for (std::size_t step = 0; step < expected.size(); ++step) {
      EXPECT_NEAR(trained.losses[step], expected[step], 1e-4) << "step " << step + 1;
    }
    EXPECT_LT(trained.losses.back(), trained.losses.front()) << "it learns";
  }
}

TEST_F(TrainerTest, ResumeEqualsNeverStopped) {
  RunConfig runs[] = {config("whole32"), config("whole16"), published("published"), muon("muon32"), muon("muon16")};
  runs[1].train.precision = runs[4].train.precision = Precision::bf16;
  runs[1].train.growth_step = 3;  // resumed with the larger batch
  runs[2].train.growth_step = 6;  // resumed before it
  for (RunConfig& run : runs) {
    run.train.dropout = 0.1F;
    const Trained whole = train(run);
    run.dir += "_stopped";
    const Trained first = train(run, false, 4);
    EXPECT_EQ(first.summary.stopped_by_signal, 2);
    EXPECT_EQ(first.summary.steps, 4);
    const Trained rest = train(run, true);
    EXPECT_EQ(rest.summary.steps, 10);
    std::vector<double> losses = first.losses;
    losses.insert(losses.end(), rest.losses.begin(), rest.losses.end());
    EXPECT_EQ(losses, whole.losses);
    EXPECT_EQ(rest.weights, whole.weights);
    EXPECT_EQ(rest.m, whole.m);
    EXPECT_EQ(rest.v, whole.v);
    EXPECT_EQ(rest.summary.best_val_loss, whole.summary.best_val_loss);
    const Trained again = train(run, true);
    EXPECT_TRUE(again.summary.already_complete);
    EXPECT_EQ(again.weights, whole.weights);
  }
}

TEST_F(TrainerTest, SameBitsAtAnyThreadCount) {
  RunConfig starts[] = {config("threads32_"), config("threads16_"), muon("muon32_"), muon("muon16_")};
  starts[1].train.precision = starts[3].train.precision = Precision::bf16;
  for (const RunConfig& start : starts) {
    std::vector<Trained> runs;
    for (const std::int64_t threads : {1, 2, 4}) {
      RunConfig run = start;
      run.dir += std::to_string(threads);
      run.train.dropout = 0.1F;
      run.system.threads = threads;
      runs.push_back(train(run));
    }
    for (const Trained& run : {runs[1], runs[2]}) {
      EXPECT_EQ(run.losses, runs[0].losses);
      EXPECT_EQ(run.weights, runs[0].weights);
      EXPECT_EQ(run.m, runs[0].m);
      EXPECT_EQ(run.v, runs[0].v);
    }
  }
}

// The loss is a mean over all tokens of the step: how they are cut into micro-batches changes rounding only.
TEST_F(TrainerTest, AccumulationIsTheSameStep) {
  RunConfig split = config("split");
  RunConfig whole = config("whole");
  whole.train.batch = 6;
  whole.train.accumulation = 1;
  const Trained a = train(split);
  const Trained b = train(whole);
  for (std::size_t step = 0; step < a.losses.size(); ++step) EXPECT_NEAR(a.losses[step], b.losses[step], 1e-4);
}

TEST_F(TrainerTest, SteadyStepsAllocateNothing) {
  if (!malloc_counting_available()) GTEST_SKIP() << "this build has the sanitizer's malloc, which is not counted";
  RunConfig runs[] = {config("heap32"), config("heap16"), published("heap_published"), muon("heap_muon")};
  runs[1].train.precision = Precision::bf16;
  for (RunConfig& run : runs) {
    run.train.steps = 40;
    run.train.eval_every = 0;
    run.train.dropout = 0.1F;
    count_thread_outside("quern-");  // the corpus reader and the log writer
    MallocCounts counts{1, 1};
    TrainEvents events;
    events.step = [&](const TrainProgress& progress) {
      if (progress.step == 3) start_malloc_counting();
      if (progress.step == 39) counts = stop_malloc_counting();
    };
    auto trainer = Trainer::create(run, {}, events).value();
    ASSERT_TRUE(trainer->run());
    EXPECT_EQ(counts.inside, 0U);
    std::printf("allocations in steps 4 to 39: %llu in the step, %llu on the reader's and the log's threads\n",
                static_cast<unsigned long long>(counts.inside), static_cast<unsigned long long>(counts.outside));
  }
}

TEST_F(TrainerTest, RefusesARunThatDoesNotFitAndNamesTheKeyToLower) {
  RunConfig run = config("large");
  run.system.memory_limit_mib = 1;
  run.train.batch = 64;
  const auto trainer = Trainer::create(run, {}, {});
  ASSERT_FALSE(trainer);
  EXPECT_EQ(trainer.error().code, ErrorCode::no_memory);
  EXPECT_NE(trainer.error().message.find("activations"), std::string::npos) << trainer.error().message;
  EXPECT_NE(trainer.error().message.find("train.batch"), std::string::npos) << trainer.error().message;
  EXPECT_FALSE(fs::exists(run.dir)) << "nothing is made of a run that is refused";
}

TEST_F(TrainerTest, StopsAtItsTargetLossAndSaysWhen) {
  RunConfig run = config("target");
  run.train.steps = 40;
  run.train.eval_every = 5;
  const Trained whole = train(run);
  ASSERT_LT(whole.summary.best_val_loss, whole.losses.front() - 0.2);
  EXPECT_FALSE(whole.summary.reached_target) << "there was none";

  run.dir += "_stopped";
  run.train.target_loss = static_cast<float>(whole.losses.front() - 0.1);
  const Trained stopped = train(run);
  EXPECT_TRUE(stopped.summary.reached_target);
  EXPECT_LT(stopped.summary.steps, 40);
  EXPECT_EQ(stopped.summary.steps % 5, 0) << "only validations count";
  EXPECT_LE(stopped.summary.last_val_loss, static_cast<double>(run.train.target_loss));
  EXPECT_GT(stopped.summary.target_seconds, 0.0);
  EXPECT_LE(stopped.summary.target_seconds, stopped.summary.seconds);
  EXPECT_EQ(stopped.summary.stopped_by_signal, 0);
  const Trained again = train(run, true);
  EXPECT_TRUE(again.summary.already_complete);
  EXPECT_EQ(again.weights, stopped.weights);
}

TEST_F(TrainerTest, ValidatesFromTheStepThatItIsTold) {
  RunConfig run = config("from");
  run.train.eval_every = 2;
  run.train.eval_from = 5;
  std::vector<std::int64_t> steps;
  TrainEvents events;
  events.evaluated = [&](const Evaluation& evaluation) { steps.push_back(evaluation.step); };
  auto trainer = Trainer::create(run, {}, events).value();
  ASSERT_TRUE(trainer->run());
  EXPECT_EQ(steps, (std::vector<std::int64_t>{6, 8, 10}));
}

TEST_F(TrainerTest, CountsSecondsFromWhenItIsTold) {
  const RunConfig run = config("started");
  const auto hour_ago = std::chrono::steady_clock::now() - std::chrono::hours(1);
  auto trainer = Trainer::create(run, {.started = hour_ago}, {}).value();
  const auto summary = trainer->run();
  ASSERT_TRUE(summary);
  EXPECT_GT(summary->seconds, 3600.0);
}

TEST_F(TrainerTest, MuonLearnsAndResumeRefusesAnotherOptimizer) {
  RunConfig run = muon("kinds");
  run.train.steps = 30;
  const Trained trained = train(run);
  EXPECT_LT(trained.losses.back(), 0.7 * trained.losses.front());
  EXPECT_LT(trained.v.size(), trained.m.size()) << "only what AdamW updates has second moments";
  RunConfig other = run;
  other.optimizer.kind = OptimizerKind::adamw;
  const auto resumed = Trainer::create(other, {.resume = true}, {});
  ASSERT_FALSE(resumed);
  EXPECT_NE(resumed.error().message.find("trained with optimizer muon, this run says `optimizer.kind` adamw"),
            std::string::npos)
      << resumed.error().message;
}

TEST_F(TrainerTest, ResumeRefusesAnotherModelOrSeed) {
  RunConfig run = config("other");
  (void)train(run, false, 2);
  RunConfig wider = run;
  wider.model.mlp_width = 96;
  const auto other_model = Trainer::create(wider, {.resume = true}, {});
  ASSERT_FALSE(other_model);
  EXPECT_NE(other_model.error().message.find("model"), std::string::npos);
  RunConfig reseeded = run;
  reseeded.train.seed = 1;
  const auto other_seed = Trainer::create(reseeded, {.resume = true}, {});
  ASSERT_FALSE(other_seed);
  EXPECT_NE(other_seed.error().message.find("train.seed"), std::string::npos);
  const auto overwrite = Trainer::create(run, {}, {});
  ASSERT_FALSE(overwrite);
  EXPECT_NE(overwrite.error().message.find("--resume"), std::string::npos) << overwrite.error().message;
}

// val_loss is the mean over the whole validation split in windows of the run's block length: recomputed from the
// checkpoint in double precision.
TEST_F(TrainerTest, ValidationLossIsTheWholeSplitsMean) {
  RunConfig run = config("validation");
  run.train.steps = 5;
  const Trained trained = train(run);
  const Corpus corpus = Corpus::open(run.data.corpus).value();
  ModelConfig model = run.model;
  model.vocab = corpus.tokenizer().vocab_size();
  const ParameterLayout layout = parameter_layout(model);
  const std::vector<double> parameters(trained.weights.begin(), trained.weights.end());
  const std::int64_t tokens = corpus.tokens(Split::validation);
  std::vector<std::int32_t> text(static_cast<std::size_t>(tokens));
  ASSERT_TRUE(corpus.read(Split::validation, 0, text));
  double sum = 0.0;
  for (std::int64_t begin = 0; begin + 1 < tokens; begin += model.context) {
    const std::int64_t rows = std::min(model.context, tokens - 1 - begin);
    ReferenceBatch window;
    window.spans = {{0, rows}};
    for (std::int64_t i = 0; i < rows; ++i) {
      window.inputs.push_back(text[static_cast<std::size_t>(begin + i)]);
      window.targets.push_back(text[static_cast<std::size_t>(begin + i + 1)]);
      window.weights.push_back(1.0);
      window.positions.push_back(static_cast<std::int32_t>(i));
    }
    sum += reference_loss(model, layout, parameters, std::span(&window, 1)) * static_cast<double>(rows);
  }
  EXPECT_NEAR(trained.summary.last_val_loss, sum / static_cast<double>(tokens - 1), 1e-5);
}

}  // namespace
}  // namespace quern
