#include "train/run_setup.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "infer/loaded_model.hpp"
#include "math/process_memory.hpp"
#include "math/thread_team.hpp"
#include "train/start_weights.hpp"

namespace quern {

namespace {

std::string mib(std::size_t bytes) { return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1024.0 * 1024.0)); }

}  // namespace

Result<RunDecisions> decide_run(RunConfig& run) {
  run.train.context = run.context();
  if (auto valid = validate(run.model); !valid) return tl::make_unexpected(valid.error());
  if (auto known = trainable(run.model); !known) return tl::make_unexpected(known.error());
  auto kernels = chosen_kernels();
  if (!kernels) return tl::make_unexpected(kernels.error());
  RunDecisions decisions;
  decisions.backend =
      Backend{.kernels = *kernels, .eigen = run.system.backend == BackendKind::eigen, .fused = run.system.fused};
  decisions.backend.blocks.block_rows = run.system.block_rows;
  decisions.isa = std::string(isa_name((*kernels)->isa)) + (decisions.backend.eigen ? ", products by Eigen" : "");
  if (run.system.threads == 0) run.system.threads = default_thread_count();

  if (run.system.affinity == AffinityKind::automatic) run.system.affinity = AffinityKind::none;
  auto processors = place_threads_here(static_cast<int>(run.system.threads), run.affinity());
  if (!processors) return tl::make_unexpected(processors.error());
  decisions.processors = std::move(*processors);

  decisions.precision_reason = "chosen by `train.precision`";
  if (run.train.precision == Precision::automatic) {
    const bool faster = preferred_compute(decisions.backend) == ComputeType::bf16;
    run.train.precision = faster ? Precision::bf16 : Precision::f32;
    decisions.precision_reason = faster ? "auto: this processor multiplies bf16 faster than f32"
                                        : "auto: this processor multiplies bf16 no faster than f32";
  }
  decisions.compute = run.train.precision == Precision::bf16 ? ComputeType::bf16 : ComputeType::f32;
  return decisions;
}

Placement pass_buffers(const RunConfig& run) { return run.system.arena ? Placement::arena : Placement::apart; }

Result<void> use_memory_policy(const RunConfig& run) {
  // Local is what the system does unasked; asked for, it undoes an interleave before.
  if (run.system.numa == NumaPolicy::local && !run.origins.contains("system.numa")) return {};
  const auto plan = plan_numa_here(run.system.numa);
  if (!plan) return tl::make_unexpected(plan.error());
  ThreadTeam team(static_cast<int>(run.system.threads));
  return apply_numa(team, *plan);
}

std::size_t memory_limit(const RunConfig& run) {
  return run.system.memory_limit_mib > 0 ? static_cast<std::size_t>(run.system.memory_limit_mib) << 20
                                         : default_memory_limit();
}

Result<RunSetup> set_up_run(const RunConfig& requested, bool resume) {
  RunConfig run = requested;
  auto corpus = Corpus::open(run.data.corpus);
  if (!corpus) return tl::make_unexpected(corpus.error());
  TrainingPlan plan;
  if (run.train.from.empty()) {
    const std::int64_t tokens = corpus->tokenizer().vocab_size();
    if (run.model.vocab > 0 && run.model.vocab < tokens) {
      return bad_input(run.at_key("model.vocab", fmt::format("must be 0 or at least {}, the tokens of {}, found {}", tokens,
                                                             corpus->path(), run.model.vocab)));
    }
    if (run.model.vocab == 0) run.model.vocab = tokens;
  } else {
    const auto start = open_start_weights(run, resume);
    if (!start) return tl::make_unexpected(start.error());
    if (auto adopted = adopt_model(*start, run); !adopted) return tl::make_unexpected(adopted.error());
    if (auto same = check_tokenizer(*start, run, *corpus); !same) return tl::make_unexpected(same.error());
    if (!resume) plan.start = StartingPoint{start->checkpoint, start->info.step, start->info.val_loss};
  }
  auto decisions = decide_run(run);
  if (!decisions) return tl::make_unexpected(decisions.error());
  auto batches = BatchSource::create(*corpus, {.batch = run.train.batch,
                                               .context = run.context(),
                                               .seed = run.train.seed,
                                               .order = run.data.order,
                                               .documents = run.data.documents});
  if (!batches) return tl::make_unexpected(batches.error());
  auto memory =
      TrainingMemory::plan(decisions->backend, decisions->compute, run.model,
                           {.rows = batches->rows(), .max_length = run.context(), .max_sequences = batches->max_sequences()},
                           run.optimizer.kind, static_cast<int>(run.system.threads), pass_buffers(run));
  if (!memory) return tl::make_unexpected(memory.error());

  plan.isa = decisions->isa;
  plan.precision_reason = decisions->precision_reason;
  plan.parameters = memory->layout().parameter_count();
  plan.matmul_parameters = memory->layout().matmul_parameter_count();
  plan.flops_per_token = train_flops_per_token(run.model, run.context());
  plan.tokens_per_micro_batch = batches->rows();
  plan.train_tokens = corpus->tokens(Split::train);
  plan.validation_tokens = corpus->tokens(Split::validation);
  plan.validation_windows = batches->validation_windows();
  if (run.train.eval_tokens > 0) {
    const std::int64_t allowed = (run.train.eval_tokens + run.context() - 1) / run.context();
    plan.validation_windows = std::min(plan.validation_windows, allowed);
  }
  plan.validation_tokens_per_byte = static_cast<double>(plan.validation_tokens) /
                                    static_cast<double>(std::max<std::int64_t>(corpus->text_bytes(Split::validation), 1));
  plan.memory = memory->report();
  plan.memory_bytes = memory->bytes();
  plan.program_bytes = peak_resident_bytes();
  plan.memory_limit_bytes = memory_limit(run);
  plan.run = std::move(run);
  return RunSetup{.plan = std::move(plan),
                  .backend = decisions->backend,
                  .compute = decisions->compute,
                  .processors = std::move(decisions->processors),
                  .batches = std::move(*batches),
                  .memory = std::move(*memory)};
}

Result<TrainingPlan> plan_training(const RunConfig& run, bool resume) {
  auto setup = set_up_run(run, resume);
  if (!setup) return tl::make_unexpected(setup.error());
  return setup->plan;
}

Result<void> check_memory(const TrainingPlan& plan) {
  if (plan.memory_bytes <= plan.memory_limit_bytes) return {};
  std::string parts;
  std::size_t largest = 0;
  for (std::size_t i = 0; i < kMemoryCategories; ++i) {
    if (plan.memory.bytes[i] == 0) continue;
    parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", category_name(static_cast<MemoryCategory>(i)),
                         mib(plan.memory.bytes[i]));
    if (plan.memory.bytes[i] > plan.memory.bytes[largest]) largest = i;
  }
  const auto category = static_cast<MemoryCategory>(largest);
  const bool by_batch = category == MemoryCategory::activations || category == MemoryCategory::cache;
  const char* advice = category == MemoryCategory::scratch     ? "lower `system.threads`"
                       : by_batch && plan.run.train.batch == 1 ? "lower `train.context`"
                       : by_batch ? "lower `train.batch` (and raise `train.accumulation` to keep the tokens per step)"
                                  : "lower `model.width` or `model.layers`";
  return no_memory(fmt::format("this run needs {} ({}), but {} are allowed; {}", mib(plan.memory_bytes), parts,
                               mib(plan.memory_limit_bytes), advice));
}

}  // namespace quern
