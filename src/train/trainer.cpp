#include "train/trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "infer/decoder.hpp"
#include "infer/generator.hpp"
#include "math/dispatch.hpp"
#include "math/peak.hpp"
#include "math/thread_team.hpp"
#include "model/atomic_file.hpp"
#include "train/batch_source.hpp"
#include "train/metrics_log.hpp"
#include "train/run_folder.hpp"
#include "train/run_setup.hpp"
#include "train/schedule.hpp"
#include "train/training_memory.hpp"
#include "train/training_step.hpp"

namespace quern {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point start, Clock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

class TrainerImpl final : public Trainer {
 public:
  TrainerImpl(RunSetup setup, const TrainOptions& options, TrainEvents events)
      : setup_(std::move(setup)),
        run_(setup_.plan.run),
        options_(options),
        events_(std::move(events)),
        team_(static_cast<int>(run_.system.threads), setup_.processors),
        training_step_(team_, setup_.backend, setup_.memory, run_.optimizer,
                       setup_.plan.tokens_per_micro_batch * run_.train.accumulation),
        schedule_(learning_rate_schedule(run_.optimizer, run_.train.steps)) {
    training_step_.record_to(options_.profile);
  }

  const TrainingPlan& plan() const override { return setup_.plan; }

  Blocks blocks() const override {
    TrainingMemory& memory = const_cast<TrainerImpl*>(this)->setup_.memory;
    const auto count = static_cast<std::size_t>(memory.layout().elements);
    const auto second = static_cast<std::size_t>(memory.second_moment_layout().elements);
    return {{memory.parameters(), count}, {memory.first_moments(), count}, {memory.second_moments(), second}};
  }

  /// Takes the folder, allocates, and initializes or reads the newest checkpoint.
  Result<void> start() {
    const RunStart mode = options_.resume ? RunStart::resume : options_.force ? RunStart::replace : RunStart::fresh;
    auto folder = RunFolder::open(run_.dir, mode);
    if (!folder) return tl::make_unexpected(folder.error());
    folder_ = std::make_unique<RunFolder>(std::move(*folder));
    TrainingMemory& memory = setup_.memory;
    if (auto applied = use_memory_policy(run_); !applied) return applied;
    if (auto allocated = memory.allocate(); !allocated) return allocated;
    if (options_.resume) {
      if (auto read = read_newest(); !read) return read;
    } else if (setup_.plan.start) {
      const auto count = static_cast<std::size_t>(memory.layout().elements);
      const MutableCheckpointTensors weights{.weights = {memory.parameters(), count}, .m = {}, .v = {}};
      auto read = read_checkpoint_tensors(setup_.plan.start->checkpoint, memory.layout(), weights);
      if (!read) return read;
    } else {
      initialize_parameters(run_.model, memory.layout(), {.standard_deviation = run_.train.init_std}, run_.train.seed,
                            memory.parameters());
    }
    if (auto written = write_file_atomically(folder_->config_path(), to_yaml(run_)); !written) return written;
    team_.run([&](TeamMember& member) {
      Exec exec = memory.exec(member, setup_.backend);
      memory.packs().pack(exec);
    });
    peak_gflops_ = register_peak_flops(team_, setup_.backend, setup_.compute) * 1e-9;
    auto log = MetricsLog::open(folder_->metrics_path(), options_.resume ? info_.step : -1);
    if (!log) return tl::make_unexpected(log.error());
    log_ = std::move(*log);
    return {};
  }

  Result<TrainSummary> run() override {
    TrainSummary summary;
    summary.peak_gflops = peak_gflops_;
    if (info_.step >= run_.train.steps || at_target(info_.best_val_loss)) {
      summary.already_complete = true;
      summary.steps = info_.step;
      summary.best_val_loss = info_.best_val_loss;
      summary.last_val_loss = info_.val_loss;
      summary.seconds = info_.train_seconds;
      return summary;
    }
    reader_ = std::make_unique<BatchPrefetcher>(setup_.batches, info_.micro_batch);

    interval_start_ = Clock::now();
    session_start_ = options_.started.value_or(interval_start_);
    earlier_seconds_ = info_.train_seconds;
    tokens_trained_ = info_.micro_batch * setup_.plan.tokens_per_micro_batch;
    speeds_.reserve(static_cast<std::size_t>(run_.train.steps - info_.step));
    if (setup_.plan.start && run_.train.eval_every > 0) {
      if (auto done = before_first_step(); !done) return tl::make_unexpected(done.error());
    }
    while (info_.step < run_.train.steps && !target_seconds_ && stop_signal() == 0) {
      if (auto done = one_step(); !done) return tl::make_unexpected(done.error());
      if (auto done = after_step(); !done) return tl::make_unexpected(done.error());
    }
    if (last_saved_ != info_.step) {
      if (auto saved = save(false); !saved) return tl::make_unexpected(saved.error());
    }
    if (auto closed = log_->close(); !closed) return tl::make_unexpected(closed.error());

    if (options_.profile != nullptr) {
      summary.end_peak_gflops = register_peak_flops(team_, setup_.backend, setup_.compute) * 1e-9;
    }
    summary.steps = info_.step;
    summary.train_loss = train_loss_;
    summary.best_val_loss = info_.best_val_loss;
    summary.last_val_loss = info_.val_loss;
    summary.seconds = seconds();
    summary.reached_target = target_seconds_.has_value();
    summary.target_seconds = target_seconds_.value_or(0.0);
    summary.stopped_by_signal = info_.step < run_.train.steps && !target_seconds_ ? stop_signal() : 0;
    if (!speeds_.empty()) {
      const auto middle = speeds_.begin() + std::ssize(speeds_) / 2;
      std::nth_element(speeds_.begin(), middle, speeds_.end());
      summary.median_tokens_per_second = *middle;
    }
    return summary;
  }

 private:
  [[nodiscard]] int stop_signal() const {
    return options_.stop_signal == nullptr ? 0 : options_.stop_signal->load(std::memory_order_relaxed);
  }
  [[nodiscard]] bool at_target(double val_loss) const {
    return run_.train.target_loss > 0.0F && val_loss <= static_cast<double>(run_.train.target_loss);
  }
  [[nodiscard]] const Tokenizer& tokenizer() const { return setup_.batches.corpus().tokenizer(); }
  [[nodiscard]] double seconds() const { return earlier_seconds_ + seconds_between(session_start_, Clock::now()); }

  Result<void> read_newest() {
    auto path = find_checkpoint(run_.dir, true);
    if (!path) return tl::make_unexpected(path.error());
    auto info = read_checkpoint_info(*path);
    if (!info) return tl::make_unexpected(info.error());
    if (to_json(info->model) != to_json(run_.model)) {
      return bad_input(*path + ": the checkpoint's model is not the one this run describes; resume needs the same `model`");
    }
    if (info->seed != run_.train.seed) {
      return bad_input(fmt::format("{}: trained with seed {}, this run says `train.seed` {}; resume needs the same", *path,
                                   info->seed, run_.train.seed));
    }
    const auto saved = parse_run_config(info->run_yaml, *path, {});
    if (saved && saved->optimizer.kind != run_.optimizer.kind) {
      return bad_input(fmt::format("{}: trained with optimizer {}, this run says `optimizer.kind` {}; resume needs the same",
                                   *path, to_word(saved->optimizer.kind), to_word(run_.optimizer.kind)));
    }
    TrainingMemory& memory = setup_.memory;
    const auto count = static_cast<std::size_t>(memory.layout().elements);
    const auto second = static_cast<std::size_t>(memory.second_moment_layout().elements);
    auto read = read_checkpoint_tensors(*path, memory.layout(),
                                        {.weights = {memory.parameters(), count},
                                         .m = {memory.first_moments(), count},
                                         .v = {memory.second_moments(), second},
                                         .v_layout = &memory.second_moment_layout()});
    if (!read) return read;
    info_ = std::move(*info);
    last_saved_ = info_.step;
    return {};
  }

  /// Validates and saves the given weights, so that what training adds, or takes away, can be seen.
  Result<void> before_first_step() {
    auto evaluation = evaluate();
    if (!evaluation) return tl::make_unexpected(evaluation.error());
    constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
    MetricsRecord record;
    record.evaluated = true;
    record.val_loss = evaluation->val_loss;
    record.val_bits_per_byte = evaluation->bits_per_byte;
    record.train_loss = record.learning_rate = record.gradient_norm = kNone;
    record.tokens_per_second = record.gflops = record.peak_fraction = kNone;
    record.seconds = seconds();
    if (auto pushed = log_->push(record); !pushed) return pushed;
    if (auto saved = save(evaluation->best); !saved) return saved;
    restart_interval();
    return {};
  }

  /// One optimizer step. Nothing on this path allocates once the first steps are over.
  Result<void> one_step() {
    training_step_.begin();
    const std::int64_t micro_batches = run_.train.accumulation_at(info_.step);
    for (std::int64_t i = 0; i < micro_batches; ++i) {
      auto batch = reader_->next();
      if (!batch) return tl::make_unexpected(batch.error());
      const BlockDropout dropout{.probability = run_.train.dropout,
                                 .seed = run_.train.seed,
                                 .step = static_cast<std::uint32_t>(info_.micro_batch),
                                 .layer = 0};
      if (auto added = training_step_.add((*batch)->view(), (*batch)->target_count, dropout); !added) return added;
      ++info_.micro_batch;
    }
    learning_rate_ = learning_rate_at(schedule_, info_.step);
    const TrainingStep::Outcome done = training_step_.update(learning_rate_, info_.step + 1);
    if (done.updated) {
      train_loss_ = done.loss;
      gradient_norm_ = done.gradient_norm;
      if (!std::isfinite(gradient_norm_)) {
        return bad_input(fmt::format("{}: the gradient of step {} is not finite (loss {}); lower `optimizer.learning_rate`",
                                     run_.dir, info_.step + 1, train_loss_));
      }
    }
    ++info_.step;
    const std::int64_t tokens = micro_batches * setup_.plan.tokens_per_micro_batch;
    interval_tokens_ += tokens;
    tokens_trained_ += tokens;
    return {};
  }

  Result<void> after_step() {
    const bool last = info_.step == run_.train.steps;
    const auto due = [&](std::int64_t every) { return every > 0 && info_.step % every == 0; };
    const bool evaluate_now =
        (run_.train.eval_every > 0 && last) || (due(run_.train.eval_every) && info_.step >= run_.train.eval_from);
    const bool save_now = evaluate_now || due(run_.train.save_every) || last;
    bool sample_now = events_.sample && (due(run_.sample.every) || last);
    // Whatever takes time besides steps ends an interval of measurement, so that speeds are those of steps alone.
    const bool log_now = due(run_.train.log_every) || save_now || sample_now;

    TrainProgress progress;
    progress.step = info_.step;
    progress.steps = run_.train.steps;
    progress.train_loss = train_loss_;
    progress.learning_rate = learning_rate_;
    progress.gradient_norm = gradient_norm_;
    const double interval = seconds_between(interval_start_, Clock::now());
    progress.tokens_per_second = static_cast<double>(interval_tokens_) / std::max(interval, 1e-9);
    progress.gflops = progress.tokens_per_second * setup_.plan.flops_per_token * 1e-9;
    progress.peak_fraction = peak_gflops_ > 0.0 ? progress.gflops / peak_gflops_ : 0.0;
    progress.seconds = seconds();
    progress.logged = log_now;
    if (events_.step) events_.step(progress);

    MetricsRecord record;
    if (log_now) {
      record.step = info_.step;
      record.train_loss = train_loss_;
      record.learning_rate = learning_rate_;
      record.gradient_norm = gradient_norm_;
      record.tokens = tokens_trained_;
      record.tokens_per_second = progress.tokens_per_second;
      record.gflops = progress.gflops;
      record.peak_fraction = progress.peak_fraction;
      speeds_.push_back(progress.tokens_per_second);
    }
    bool best = false;
    if (evaluate_now) {
      auto evaluation = evaluate();
      if (!evaluation) return tl::make_unexpected(evaluation.error());
      best = evaluation->best;
      record.evaluated = true;
      record.val_loss = evaluation->val_loss;
      record.val_bits_per_byte = evaluation->bits_per_byte;
      if (at_target(evaluation->val_loss)) {
        target_seconds_ = seconds();
        sample_now = static_cast<bool>(events_.sample);
      }
    }
    if (log_now) {
      record.seconds = seconds();
      if (auto pushed = log_->push(record); !pushed) return pushed;
    }
    if (save_now) {
      if (auto saved = save(best); !saved) return saved;
    }
    if (sample_now) {
      if (auto sampled = sample(); !sampled) return sampled;
    }
    if (log_now) restart_interval();
    return {};
  }

  void restart_interval() {
    interval_start_ = Clock::now();
    interval_tokens_ = 0;
  }

  Result<Evaluation> evaluate() {
    const auto start = Clock::now();
    TrainingMemory& memory = setup_.memory;
    double loss_sum = 0.0;
    double weight_sum = 0.0;
    const std::int64_t windows = setup_.plan.validation_windows;
    for (std::int64_t window = 0; window < windows; window += run_.train.batch) {
      if (auto filled = setup_.batches.fill_validation(window, validation_batch_); !filled) {
        return tl::make_unexpected(filled.error());
      }
      memory.pass().set_batch(validation_batch_.view(), {});
      team_.run([&](TeamMember& member) {
        Exec exec = memory.exec(member, setup_.backend);
        memory.pass().evaluate(exec, memory.weights());
      });
      loss_sum += memory.pass().loss_sum();
      weight_sum += static_cast<double>(validation_batch_.target_count);
      if (events_.evaluating) events_.evaluating(std::min(window + run_.train.batch, windows), windows);
    }
    Evaluation evaluation;
    evaluation.step = info_.step;
    evaluation.val_loss = weight_sum > 0.0 ? loss_sum / weight_sum : std::numeric_limits<double>::quiet_NaN();
    evaluation.bits_per_byte = evaluation.val_loss / std::log(2.0) * setup_.plan.validation_tokens_per_byte;
    evaluation.best = evaluation.val_loss < info_.best_val_loss;
    evaluation.seconds = seconds_between(start, Clock::now());
    info_.val_loss = evaluation.val_loss;
    if (evaluation.best) info_.best_val_loss = evaluation.val_loss;
    if (events_.evaluated) events_.evaluated(evaluation);
    return evaluation;
  }

  Result<void> save(bool best) {
    if (auto flushed = log_->flush(); !flushed) return flushed;
    TrainingMemory& memory = setup_.memory;
    info_.model = run_.model;
    info_.run_yaml = to_yaml(run_);
    info_.tokenizer_json = tokenizer().to_json();
    info_.seed = run_.train.seed;
    info_.train_seconds = seconds();
    info_.quern_version = QUERN_VERSION;
    info_.has_optimizer = true;
    const Blocks all = blocks();
    const CheckpointTensors tensors{
        .weights = all.weights, .m = all.m, .v = all.v, .v_layout = &memory.second_moment_layout()};
    auto saved = folder_->save(info_, memory.layout(), tensors, best, run_.train.keep);
    if (!saved) return saved;
    last_saved_ = info_.step;
    if (events_.saved) events_.saved(checkpoint_path(run_.dir, info_.step));
    return {};
  }

  /// A sample of the live weights, through the same decoder that `quern sample` uses.
  Result<void> sample() {
    if (run_.sample.tokens == 0) return {};
    if (!decoder_) {
      const std::int64_t context = run_.context();
      auto decoder = Decoder::create(setup_.backend, setup_.memory.weights(), team_,
                                     {.batch_tokens = std::min<std::int64_t>(context, 64), .context_tokens = context});
      if (!decoder) return tl::make_unexpected(decoder.error());
      decoder_ = std::move(*decoder);
    }
    auto prompt = encode_prompt(tokenizer(), run_.sample.prompt);
    if (!prompt) return tl::make_unexpected(prompt.error());
    Sampler sampler(run_.model.vocab, {.temperature = run_.sample.temperature,
                                       .top_k = run_.sample.top_k,
                                       .top_p = run_.sample.top_p,
                                       .seed = run_.train.seed});
    auto generated =
        generate(*decoder_, *prompt, sampler, {.max_tokens = run_.sample.tokens, .vocab = drawn_vocab(tokenizer())});
    if (!generated) return tl::make_unexpected(generated.error());
    events_.sample(info_.step,
                   run_.sample.prompt + tokenizer().decode(generated->tokens, {.text_start = run_.sample.prompt.empty()}));
    return {};
  }

  RunSetup setup_;
  const RunConfig& run_;  // setup_.plan.run
  TrainOptions options_;
  TrainEvents events_;
  ThreadTeam team_;
  TrainingStep training_step_;
  LearningRateSchedule schedule_;
  std::unique_ptr<RunFolder> folder_;
  std::unique_ptr<MetricsLog> log_;
  std::unique_ptr<BatchPrefetcher> reader_;
  std::unique_ptr<Decoder> decoder_;
  Batch validation_batch_;
  CheckpointInfo info_;
  double peak_gflops_ = 0.0;
  double train_loss_ = std::numeric_limits<double>::quiet_NaN();
  double learning_rate_ = 0.0;
  double gradient_norm_ = 0.0;
  std::int64_t tokens_trained_ = 0;
  std::int64_t last_saved_ = -1;
  std::int64_t interval_tokens_ = 0;
  double earlier_seconds_ = 0.0;
  std::optional<double> target_seconds_;  // when train.target_loss was reached
  Clock::time_point session_start_, interval_start_;
  std::vector<double> speeds_;
};

}  // namespace

Result<std::unique_ptr<Trainer>> Trainer::create(const RunConfig& run, const TrainOptions& options, TrainEvents events) {
  auto setup = set_up_run(run, options.resume);
  if (!setup) return tl::make_unexpected(setup.error());
  if (auto fits = check_memory(setup->plan); !fits) return tl::make_unexpected(fits.error());
  auto trainer = std::make_unique<TrainerImpl>(std::move(*setup), options, std::move(events));
  if (auto started = trainer->start(); !started) return tl::make_unexpected(started.error());
  return trainer;
}

}  // namespace quern
