#include "train_display.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace quern::tools {

namespace {

constexpr auto kRedraw = std::chrono::milliseconds(100);

std::size_t terminal_columns() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20) return size.ws_col;
  return 80;
}

std::string bar(std::int64_t done, std::int64_t total, int cells) {
  const auto filled = static_cast<int>(done * cells / std::max<std::int64_t>(total, 1));
  return std::string(static_cast<std::size_t>(filled), '#') + std::string(static_cast<std::size_t>(cells - filled), '.');
}

std::string count_text(double value) {
  if (value >= 1e6) return fmt::format("{:.2f}M", value * 1e-6);
  if (value >= 1e4) return fmt::format("{:.1f}k", value * 1e-3);
  return fmt::format("{:.0f}", value);
}

std::string bytes_text(std::size_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1024.0 * 1024.0));
}

std::string speed_text(const TrainProgress& p) {
  return fmt::format("{} tok/s  {:.0f} GFLOP/s  {:.0f} % of peak", count_text(p.tokens_per_second), p.gflops,
                     p.peak_fraction * 100.0);
}

}  // namespace

std::string duration_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::max(0.0, std::round(seconds)));
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

TrainDisplay::TrainDisplay() : terminal_(isatty(STDOUT_FILENO) == 1) {}

TrainEvents TrainDisplay::events() {
  TrainEvents events;
  events.step = [this](const TrainProgress& progress) { step(progress); };
  events.evaluating = [this](std::int64_t done, std::int64_t total) { evaluating(done, total); };
  events.evaluated = [this](const Evaluation& evaluation) { evaluated(evaluation); };
  events.sample = [this](std::int64_t at, const std::string& text) { sample(at, text); };
  return events;
}

void TrainDisplay::finish() {
  if (live_shown_) std::fputs("\n", stdout);
  live_shown_ = false;
  std::fflush(stdout);
}

void TrainDisplay::live(const std::string& text) {
  const auto now = std::chrono::steady_clock::now();
  if (live_shown_ && now - last_drawn_ < kRedraw) return;
  last_drawn_ = now;
  live_shown_ = true;
  fmt::print("\r\x1b[K{}", text.substr(0, terminal_columns() - 1));
  std::fflush(stdout);
}

void TrainDisplay::line(const std::string& text) {
  if (live_shown_) std::fputs("\r\x1b[K", stdout);
  live_shown_ = false;
  fmt::print("{}\n", text);
  std::fflush(stdout);
}

void TrainDisplay::step(const TrainProgress& p) {
  if (!terminal_) {
    if (p.logged) {
      line(fmt::format("step {:>6}/{}  loss {:.4f}  lr {:.2e}  |g| {:.2f}  {}  {}", p.step, p.steps, p.train_loss,
                       p.learning_rate, p.gradient_norm, speed_text(p), duration_text(p.seconds)));
    }
    return;
  }
  const double remaining = p.seconds / static_cast<double>(p.step) * static_cast<double>(p.steps - p.step);
  live(fmt::format("[{}] {}/{}  loss {:.3f}  {}  {} left", bar(p.step, p.steps, 20), p.step, p.steps, p.train_loss,
                   speed_text(p), duration_text(remaining)));
}

void TrainDisplay::evaluating(std::int64_t done, std::int64_t total) {
  if (terminal_ && done < total) live(fmt::format("[{}] validating {}/{}", bar(done, total, 20), done, total));
}

void TrainDisplay::evaluated(const Evaluation& e) {
  line(fmt::format("step {:>6}  val_loss {:.4f}  ({:.3f} bits per byte){}  validated in {:.1f} s", e.step, e.val_loss,
                   e.bits_per_byte, e.best ? "  best so far" : "", e.seconds));
}

void TrainDisplay::sample(std::int64_t at, const std::string& text) {
  line(fmt::format("--- sample at step {} ---\n{}\n---", at, text));
}

std::string plan_text(const TrainingPlan& plan) {
  const RunConfig& run = plan.run;
  std::string text;
  const auto add = [&](std::string_view name, const std::string& value) {
    text += fmt::format("  {:<22}{}\n", name, value);
  };
  text += "Plan\n";
  if (plan.start) {
    const std::string loss = std::isfinite(plan.start->val_loss) ? fmt::format("{:.4f}", plan.start->val_loss) : "none";
    add("weights of", fmt::format("{} (step {}, its val_loss {})", plan.start->checkpoint, plan.start->step, loss));
  }
  add("parameters", fmt::format("{} ({} in matrix products)", plan.parameters, plan.matmul_parameters));
  add("FLOP per token", fmt::format("{:.2f} M (6 N_matmul + 6 L C T)", plan.flops_per_token * 1e-6));
  const auto step_text = [&](std::int64_t accumulation) {
    return fmt::format("{} ({} x {} x {} accumulated)", accumulation * plan.tokens_per_micro_batch, run.train.batch,
                       run.context(), accumulation);
  };
  std::string per_step = step_text(run.train.accumulation);
  if (run.train.growth_step > 0) {
    per_step += fmt::format(", after {} steps {}", run.train.growth_step,
                            step_text(run.train.accumulation_at(run.train.growth_step)));
  }
  add("tokens per step", per_step);
  add("corpus tokens",
      fmt::format("{} train, {} validation, vocabulary {}", plan.train_tokens, plan.validation_tokens, run.model.vocab));
  add("epochs", fmt::format("{:.2f}", static_cast<double>(run.train.micro_batches(run.train.steps)) *
                                          static_cast<double>(plan.tokens_per_micro_batch) /
                                          static_cast<double>(std::max<std::int64_t>(plan.train_tokens, 1))));
  add("instruction set", plan.isa);
  add("precision", fmt::format("{} ({})", run.train.precision == Precision::bf16 ? "bf16" : "f32", plan.precision_reason));
  add("threads", std::to_string(run.system.threads));
  for (std::size_t i = 0; i < kMemoryCategories; ++i) {
    const auto category = static_cast<MemoryCategory>(i);
    if (plan.memory[category] > 0)
      add(fmt::format("memory: {}", category_name(category)), bytes_text(plan.memory[category]));
  }
  if (plan.program_bytes > 0)
    add("memory: program", bytes_text(plan.program_bytes) + " (with libraries and the corpus's cache)");
  add("memory: arena", fmt::format("{} of {} allowed", bytes_text(plan.memory_bytes), bytes_text(plan.memory_limit_bytes)));
  return text;
}

}  // namespace quern::tools
