// quern train: a run from a YAML file.
#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "command.hpp"
#include "math/operation_profile.hpp"
#include "math/process_memory.hpp"
#include "math/process_time.hpp"
#include "math/thread_team.hpp"
#include "model/atomic_file.hpp"
#include "step_profile.hpp"
#include "train/run_config.hpp"
#include "train/trainer.hpp"
#include "train_display.hpp"
#include "use_tuning.hpp"

namespace quern::tools {

namespace {

struct Arguments {
  std::string file;
  std::vector<std::string> overrides;
  bool resume = false;
  bool force = false;
  bool dry_run = false;
  bool no_fused = false, no_arena = false, tuned = true;
  bool profile = false;
  std::string profile_json, trace;

  [[nodiscard]] bool profiled() const { return profile || !profile_json.empty() || !trace.empty(); }
};

std::atomic<int> stop_signal{0};

/// "1.2345", or "none" where no validation ran.
std::string loss_text(double loss) { return std::isfinite(loss) ? fmt::format("{:.4f}", loss) : "none"; }

/// The first signal asks for a stop after the step; a second one of the same kind ends the process at once.
extern "C" void on_signal(int signal) {
  stop_signal.store(signal, std::memory_order_relaxed);
  std::signal(signal, SIG_DFL);
}

Result<void> show_profile(const Arguments& arguments, const OperationProfile& profile, const TrainSummary& summary) {
  const double peak = 0.5 * (summary.peak_gflops + summary.end_peak_gflops);
  if (arguments.profile) {
    fmt::print(
        "\n{}peak of registers: {:.0f} GFLOP/s before the first step, {:.0f} after the last; shares are of the mean\n",
        step_profile_text(profile, peak), summary.peak_gflops, summary.end_peak_gflops);
  }
  if (!arguments.profile_json.empty()) {
    const std::string text = step_profile_json(profile, peak).dump(2) + "\n";
    if (auto written = write_file_atomically(arguments.profile_json, text); !written) return written;
  }
  if (!arguments.trace.empty()) return write_step_trace(profile, arguments.trace);
  return {};
}

Result<int> train(const Arguments& arguments) {
  std::vector<std::string> overrides = arguments.overrides;
  if (arguments.no_fused) overrides.emplace_back("system.fused=false");
  if (arguments.no_arena) overrides.emplace_back("system.arena=false");
  auto run = load_run_config(arguments.file, overrides);
  if (!run) return tl::make_unexpected(run.error());
  if (arguments.tuned) use_tuning(*run);
  if (const auto files = check_run_files(*run); !files) return tl::make_unexpected(files.error());
  if (arguments.dry_run) {
    const auto plan = plan_training(*run, arguments.resume);
    if (!plan) return tl::make_unexpected(plan.error());
    fmt::print("{}\n{}", to_yaml(plan->run), plan_text(*plan));
    if (const auto fits = check_memory(*plan); !fits) return tl::make_unexpected(fits.error());
    return kExitOk;
  }

  for (const std::string& path : {arguments.profile_json, arguments.trace}) {  // before the work that they would lose
    if (path.empty()) continue;
    if (const auto writable = AtomicFile::create(path); !writable) return tl::make_unexpected(writable.error());
  }
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
  TrainDisplay display;
  std::optional<OperationProfile> profile;
  if (arguments.profiled()) {
    const std::int64_t threads = run->system.threads > 0 ? run->system.threads : default_thread_count();
    profile.emplace(static_cast<int>(threads), !arguments.trace.empty());
  }
  const auto age =
      std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(process_age_seconds()));
  const TrainOptions options{.resume = arguments.resume,
                             .force = arguments.force,
                             .stop_signal = &stop_signal,
                             .profile = profile ? &*profile : nullptr,
                             .started = std::chrono::steady_clock::now() - age};
  auto trainer = Trainer::create(*run, options, display.events());
  if (!trainer) return tl::make_unexpected(trainer.error());
  fmt::print("{}", plan_text((*trainer)->plan()));
  const auto summary = (*trainer)->run();
  display.finish();
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
  if (!summary) return tl::make_unexpected(summary.error());

  if (summary->already_complete) {
    const bool target =
        run->train.target_loss > 0.0F && summary->best_val_loss <= static_cast<double>(run->train.target_loss);
    fmt::print("{}: complete, {} steps were done in {} (best val_loss {}); {} to go on\n", run->dir, summary->steps,
               duration_text(summary->seconds), loss_text(summary->best_val_loss),
               target ? "lower train.target_loss" : "raise train.steps");
    return kExitOk;
  }
  fmt::print("{}: {} steps in {}, best val_loss {}, {:.0f} tokens/s (median), peak of this run's registers {:.0f} GFLOP/s\n",
             run->dir, summary->steps, duration_text(summary->seconds), loss_text(summary->best_val_loss),
             summary->median_tokens_per_second, summary->peak_gflops);
  if (run->train.target_loss > 0.0F) {
    if (summary->reached_target) {
      fmt::print("target val_loss {}: reached at step {} with {:.4f}, {:.2f} s after the program's start{}\n",
                 run->train.target_loss, summary->steps, summary->last_val_loss, summary->target_seconds,
                 arguments.resume ? " (earlier sessions included)" : "");
    } else if (summary->stopped_by_signal == 0) {
      fmt::print("target val_loss {}: not reached in {} steps, best {}\n", run->train.target_loss, summary->steps,
                 loss_text(summary->best_val_loss));
    }
  }
  if (const std::size_t peak = peak_resident_bytes(); peak > 0) {
    const TrainingPlan& plan = (*trainer)->plan();
    const auto mib = [](std::size_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); };
    fmt::print("peak memory {:.1f} MiB, planned {:.1f} MiB (arena and program)\n", mib(peak),
               mib(plan.memory_bytes + plan.program_bytes));
  }
  if (profile) {
    if (auto shown = show_profile(arguments, *profile, *summary); !shown) return tl::make_unexpected(shown.error());
  }
  if (summary->stopped_by_signal != 0) {
    std::string words;
    for (const std::string& word : overrides) words += fmt::format(" '{}'", word);
    fmt::print("stopped by signal {} after step {}, saved; go on with: quern train {}{} --resume\n",
               summary->stopped_by_signal, summary->steps, arguments.file, words);
    return 128 + summary->stopped_by_signal;
  }
  return kExitOk;
}

}  // namespace

void add_train(CLI::App& app, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* train_command = app.add_subcommand("train", "Train a model as a YAML run says");
  train_command->footer(examples(
      {"quern train configs/quickstart.yaml", "quern train configs/quickstart.yaml train.steps=50 run.dir=runs/short",
       "quern train configs/quickstart.yaml --dry-run", "quern train configs/quickstart.yaml --resume",
       "quern train configs/quickstart.yaml train.steps=20 --profile --trace trace.json --force"}));
  train_command->add_option("RUN", arguments->file, "The run (YAML); `quern config-keys` lists its keys")->required();
  train_command->add_option("KEY=VALUE", arguments->overrides, "Keys to set beside the file's, such as train.steps=100");
  train_command->add_flag("--resume", arguments->resume, "Go on from the run folder's newest checkpoint");
  train_command->add_flag("--force", arguments->force, "Replace a run that is there")->excludes("--resume");
  train_command->add_flag("--dry-run", arguments->dry_run,
                          "Print the resolved run, parameters, memory and FLOP per token; train nothing");
  train_command->add_flag("--no-fused", arguments->no_fused,
                          "To measure: what follows a product, the loss and packing are passes of their own");
  train_command->add_flag("--no-arena", arguments->no_arena,
                          "To measure: buffers are allocated and freed for each micro-batch");
  train_command->add_flag("--no-tuned{false}", arguments->tuned,
                          "Leave out what `quern tune` found for this run and machine; without, it is used for keys of "
                          "`system` that are not given");
  train_command->add_flag("--profile", arguments->profile, "Print time, FLOP and bytes by operation and phase at the end");
  train_command->add_option("--profile-json", arguments->profile_json, "Write the profile as JSON")->type_name("FILE");
  train_command->add_option("--trace", arguments->trace, "Write what each thread did when, for Perfetto")->type_name("FILE");
  train_command->callback([&command, arguments] { command.run = [arguments] { return train(*arguments); }; });
}

}  // namespace quern::tools
