#include "run_model.hpp"

#include <fmt/format.h>

#include <signal.h>

#include <array>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdio>

#include "command.hpp"
#include "infer/recomputing_decoder.hpp"
#include "math/dispatch.hpp"
#include "math/numa_policy.hpp"
#include "math/thread_placement.hpp"
#include "model/atomic_file.hpp"
#include "progress.hpp"
#include "use_tuning.hpp"

namespace quern::tools {

namespace {

std::atomic<bool> interrupt_seen{false};
std::atomic<int> interrupt_signal{SIGINT};  // of the first that was seen
std::atomic<bool> second_interrupt_ends{false};
void on_interrupt(int signal) {
  if (!interrupt_seen.exchange(true)) {
    interrupt_signal = signal;
  } else if (second_interrupt_ends) {
    ::signal(signal, SIG_DFL);
    ::raise(signal);
  }
}

/// While it lives, signals that end the program are only noted; afterwards they do again what they did before.
class CaughtEndings {
 public:
  CaughtEndings() {
    for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], nullptr, &before_[i]);
    catch_endings(true);
  }
  ~CaughtEndings() {
    for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
  }
  CaughtEndings(const CaughtEndings&) = delete;
  CaughtEndings& operator=(const CaughtEndings&) = delete;
  /// Whether the caller of this function looks at interrupted() itself.
  [[nodiscard]] bool caught_before() const { return before_[0].sa_handler == on_interrupt; }

 private:
  static constexpr std::array<int, 3> kSignals{SIGINT, SIGTERM, SIGHUP};
  std::array<struct sigaction, 3> before_{};
};

void catch_signal(int signal) {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigaction(signal, &action, nullptr);
}

/// Accepts 0 and [least, most].
CLI::Validator zero_or(std::int64_t least, std::int64_t most) {
  return CLI::Range(std::int64_t{0}, std::int64_t{0}) | CLI::Range(least, most);
}

}  // namespace

Result<std::optional<ElementType>> kv_type_of(const std::string& word) {
  if (word == "auto") return std::optional<ElementType>{};
  const std::optional<ElementType> type = kv_type_named(word);
  if (!type) return bad_input("--kv-type: there is no type " + word);
  return type;
}

void add_model_options(CLI::App& command, ModelOptions& options) {
  command
      .add_option("MODEL", options.model, "A GGUF file (any part of a split one), a checkpoint, or a run folder (its best)")
      ->required();
  command.add_option("--threads", options.threads, "0: the processors this process may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command
      .add_option("--affinity", options.affinity,
                  "Of threads: none, compact (neighbouring cores, one package first) or spread (over packages and caches); "
                  "auto: none")
      ->check(CLI::IsMember({"auto", "none", "compact", "spread"}))
      ->capture_default_str();
  command
      .add_option("--numa", options.numa,
                  "Of memory that is touched first: local, or interleave over the NUMA nodes; auto: local")
      ->check(CLI::IsMember({"auto", "local", "interleave"}))
      ->capture_default_str();
  command.add_option("--precision", options.precision, "Of products; auto: the fastest that the weights' type allows")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}))
      ->capture_default_str();
  command.add_option("--kv-type", options.kv_type, "Of the KV cache; auto: the type that the model computes in")
      ->check(CLI::IsMember({"auto", "f32", "f16", "bf16", "q8_0", "q4_0"}))
      ->capture_default_str();
  command
      .add_option("--weights", options.weights,
                  "Where a GGUF file's matrices lie: as they are in the mapped file; with rows interleaved for this "
                  "instruction set, in memory or in a file beside the model's (cached: made by the first run); auto: the "
                  "cached file if there is one, else interleaved if memory suffices, else mapped")
      ->check(CLI::IsMember({"auto", "mapped", "interleaved", "cached"}))
      ->capture_default_str();
  command.add_flag("--read-ahead", options.read_ahead, "Read mapped weights from the disk before anything else");
  command.add_flag("--mlock", options.lock, "Lock weights in memory");
  command
      .add_option("--task-bytes", options.task_bytes,
                  fmt::format("Of weights that a thread takes at a time in decode; 0: {}", BlockSizes{}.task_bytes))
      ->check(zero_or(BlockSizes::kLeastTaskBytes, BlockSizes::kMostTaskBytes))
      ->capture_default_str();
  command
      .add_option("--block-rows", options.block_rows,
                  "Tokens of a prompt for which a thread reads weights once; 0: 256, of weights that are decoded first 512")
      ->check(zero_or(BlockSizes::kLeastBlockRows, BlockSizes::kMostBlockRows))
      ->capture_default_str();
  command.add_option("--backend", options.backend, "Who computes products")
      ->check(CLI::IsMember({"kernels", "eigen"}))
      ->capture_default_str();
}

void add_batch_option(CLI::App& command, ModelOptions& options) {
  command
      .add_option(
          "--batch", options.batch,
          fmt::format("Tokens of a prompt that are computed together; 0: {}, or what `quern tune` found", kDefaultBatch))
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 24))
      ->capture_default_str();
}

void add_tuned_option(CLI::App& command, ModelOptions& options) {
  options.tuned = true;
  command.add_flag("--no-tuned{false}", options.tuned,
                   "Leave out what `quern tune` found for this model and machine; without, it is used for options that are "
                   "not given (0 or auto)");
}

void add_measuring_options(CLI::App& command, ModelOptions& options) {
  command.add_flag("--no-fused", options.no_fused,
                   "To measure: biases, activations and residuals are passes of their own after each product");
  command.add_flag("--no-arena", options.no_arena, "To measure: working buffers are allocated and freed for each pass");
  command.add_flag("--no-kv-cache", options.no_kv_cache, "To measure: each token computes the whole text again");
}

Result<std::unique_ptr<Decoder>> RunningModel::decoder(Decoder::Limits limits) {
  limits.kv_type = kv_type;
  limits.arena = arena;
  auto decoder = Decoder::create(backend, model->weights(), team, limits);
  if (decoder && !kv_cache) return without_kv_cache(std::move(*decoder));
  return decoder;
}

/// The policy of the team's threads. Asked for on a machine where it changes nothing, a line says so.
static Result<void> use_numa(ThreadTeam& team, const std::string& word) {
  if (word == "auto") return {};  // local is what the system does unasked; asked for, it undoes an interleave before
  const NumaPolicy policy = numa_policy_named(word).value_or(NumaPolicy::local);
  const auto plan = plan_numa_here(policy);
  if (!plan) return tl::make_unexpected(plan.error());
  if (!plan->changes && policy != NumaPolicy::local) fmt::print(stderr, "quern: --numa {}: {}\n", word, plan->remark);
  return apply_numa(team, *plan);
}

Result<std::unique_ptr<RunningModel>> prepare_run(const ModelOptions& options) {
  const auto kernels = chosen_kernels();
  if (!kernels) return tl::make_unexpected(kernels.error());
  const auto kv_type = kv_type_of(options.kv_type);
  if (!kv_type) return tl::make_unexpected(kv_type.error());
  const int threads = options.threads > 0 ? static_cast<int>(options.threads) : default_thread_count();
  const auto processors = place_threads_here(threads, affinity_named(options.affinity).value_or(Affinity::none));
  if (!processors) return tl::make_unexpected(processors.error());
  auto running = std::make_unique<RunningModel>(threads, *processors);
  if (auto applied = use_numa(running->team, options.numa); !applied) return tl::make_unexpected(applied.error());
  running->backend = {.kernels = *kernels, .eigen = options.backend == "eigen", .fused = !options.no_fused};
  if (options.task_bytes > 0) running->backend.blocks.task_bytes = options.task_bytes;
  running->backend.blocks.block_rows = options.block_rows;
  if (options.batch > 0) running->batch = options.batch;
  if (options.affinity != "auto") running->affinity = options.affinity;
  if (options.numa != "auto") running->numa = options.numa;
  running->arena = !options.no_arena;
  running->kv_cache = !options.no_kv_cache;
  running->kv_type = *kv_type;
  return running;
}

LoadOptions load_options(const ModelOptions& options, std::int64_t context) {
  LoadOptions load;
  if (options.precision != "auto") load.precision = options.precision == "bf16" ? Precision::bf16 : Precision::f32;
  load.context_tokens = context;
  load.placement.placement = options.weights == "mapped"        ? WeightPlacement::mapped
                             : options.weights == "interleaved" ? WeightPlacement::interleaved
                             : options.weights == "cached"      ? WeightPlacement::cached
                                                                : WeightPlacement::automatic;
  load.placement.read_ahead = options.read_ahead;
  load.placement.lock = options.lock;
  return load;
}

Result<std::unique_ptr<RunningModel>> load_model(const ModelOptions& given, std::int64_t context) {
  const auto start = std::chrono::steady_clock::now();
  ModelOptions options = given;
  use_tuning(options);
  auto running = prepare_run(options);
  if (!running) return running;
  RunningModel& run = **running;
  Progress progress(stderr);
  LoadOptions load = load_options(options, context);
  load.placement.progress = [&](std::string_view stage, std::size_t done, std::size_t total) {
    progress.update(stage, static_cast<std::int64_t>(done), static_cast<std::int64_t>(total), "B");
  };
  load.placement.stop = interrupted;
  bool ends = false;
  auto model = [&] {
    // A half-written file must not stay: a signal is seen between two batches, and ends the program after that.
    const CaughtEndings caught;
    auto loaded = LoadedModel::load(options.model, run.backend, run.team, load);
    ends = interrupted() && !caught.caught_before();
    return loaded;
  }();
  progress.finish();
  if (ends) ::raise(interrupt_signal);
  if (!model) return tl::make_unexpected(model.error());
  run.model = std::move(*model);
  run.load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return running;
}

Result<std::vector<std::int32_t>> parse_token_list(const std::string& text) {
  std::vector<std::int32_t> tokens;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    std::int32_t token = 0;
    const auto [next, error] = std::from_chars(at, end, token);
    if (error != std::errc() || (next != end && *next != ',')) {
      const std::string_view rest(at, static_cast<std::size_t>(end - at));
      return bad_input(fmt::format("--tokens: `{}` where a token's number was expected", rest.substr(0, rest.find(','))));
    }
    tokens.push_back(token);
    if (next == end) return tokens;
    at = next + 1;
  }
}

Result<std::string> read_named_file(const std::string& path, std::size_t max_bytes) {
  auto text = read_whole_file(path, max_bytes);
  if (!text) text.error().code = ErrorCode::bad_input;
  return text;
}

Result<std::string> read_text(const std::string& path, std::size_t max_bytes) {
  if (path != "-") return read_named_file(path, max_bytes);
  std::string text;
  char buffer[65536];
  for (std::size_t got = 0; (got = std::fread(buffer, 1, sizeof(buffer), stdin)) > 0;) {
    text.append(buffer, got);
    if (text.size() > max_bytes)
      return bad_input(fmt::format("standard input: expected at most {} bytes, found more", max_bytes));
  }
  if (std::ferror(stdin) != 0) return io_error("standard input cannot be read");
  return text;
}

void catch_interrupts(bool second_ends) {
  second_interrupt_ends = second_ends;
  catch_signal(SIGINT);
}

void catch_endings(bool second_ends) {
  catch_interrupts(second_ends);
  catch_signal(SIGTERM);
  struct sigaction hangup {};
  if (sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN) catch_signal(SIGHUP);  // not under nohup
}

bool interrupted() { return interrupt_seen.load(std::memory_order_relaxed); }
void forget_interrupt() { interrupt_seen.store(false); }

int report_interrupt(const Error& error) {
  fmt::print(stderr, "quern: {}\n", message_line(error));
  return 128 + interrupt_signal;
}

}  // namespace quern::tools
