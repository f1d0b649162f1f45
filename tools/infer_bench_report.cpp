#include "infer_bench_report.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <vector>

#include "math/kv_rows.hpp"
#include "math/sample_statistics.hpp"
#include "run_statistics.hpp"
#include "summary_report.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

std::string_view compute_word(const RunningModel& running) {
  return running.model->weights().compute == ComputeType::bf16 ? "bf16" : "f32";
}

/// Tokens a second of each round.
Summary rate_of(const InferBenchRow& row) {
  std::vector<double> seconds;
  for (const InferBenchRound& round : row.rounds) seconds.push_back(round.seconds);
  return summarize_rates(static_cast<double>(row.round_tokens), seconds);
}

/// "RATE | SPREAD"; one round has neither range nor spread.
std::string rate_cells(const Summary& rate) {
  return rate.count > 1 ? fmt::format("{} | {}", summary_text(rate), spread_text(rate))
                        : fmt::format("{} | -", number_text(rate.median));
}

/// "PEAK | SHARE %" of a peak in units of `unit` operations.
std::string peak_cells(double peak, double unit, double share) {
  return peak > 0.0 ? fmt::format("{:.2f} | {:.1f} %", peak / unit, 100.0 * share) : "- | -";
}

Json machine_json(const MachineRates& machine) {
  return {{"memory_bytes_per_second", machine.read_bandwidth},
          {"f32_flops", machine.f32_flops},
          {"bf16_tile_flops", machine.bf16_tile_flops},
          {"int8_tile_ops", machine.int8_tile_ops}};
}

Json row_json(const InferBenchRow& row) {
  const bool decode = row.kind == InferBenchKind::decode;
  Json json = {{"kind", to_word(row.kind)}};
  if (decode) {
    json["depth"] = row.depth;
    json["sequences"] = row.sequences;
  }
  json["tokens"] = row.round_tokens;
  json["steps"] = row.steps;
  json["tokens_per_second"] = row.tokens_per_second();
  json["tokens_per_second_min"] = row.slowest();
  json["tokens_per_second_max"] = row.fastest();
  json["tokens_per_second_summary"] = summary_json(rate_of(row));
  json["flops"] = row.flops;
  json["flops_per_second"] = row.flops_per_second();
  if (decode) {
    json["weight_bytes_per_step"] = row.weight_bytes;
    json["kv_bytes_per_step"] = row.kv_bytes;
    json["bytes_per_second"] = row.bytes_per_second();
    json["memory_share"] = row.bandwidth_share();
  }
  json["f32_share"] = row.f32_share();
  json["bf16_tile_share"] = row.bf16_tile_share();
  json["int8_tile_share"] = row.int8_tile_share();
  json["machine"] = machine_json(row.machine());
  Json rounds = Json::array();
  for (const InferBenchRound& round : row.rounds) {
    rounds.push_back({{"seconds", round.seconds},
                      {"tokens_per_second", static_cast<double>(row.round_tokens) / round.seconds},
                      {"machine", machine_json(round.machine)}});
  }
  json["rounds"] = std::move(rounds);
  return json;
}

/// Where matrices lie, in words.
std::string placement_text(const LoadedModel& model) {
  if (model.architecture() == "checkpoint") return "packed in memory";
  switch (model.placement()) {
    case WeightPlacement::interleaved: {
      const std::size_t bytes = model.interleaved().bytes().size();
      if (bytes == 0) return "interleaved where they were made";
      return fmt::format("{} interleaved in memory, {} of them in huge pages", bytes_text(bytes),
                         bytes_text(model.interleaved().huge_page_bytes()));
    }
    case WeightPlacement::cached:
      return fmt::format("{} interleaved in a file, mapped", bytes_text(model.interleaved().bytes().size()));
    default:
      return model.random_weights() != nullptr ? "as in a file" : "as in the file, mapped";
  }
}

}  // namespace

std::string infer_bench_header(const RunningModel& running, const Decoder& decoder, const InferBenchOptions& options) {
  const LoadedModel& model = *running.model;
  const RandomWeights* random = model.random_weights();
  std::string text = fmt::format("{}: {}, {} of weights, {} read a token, {} in {:.3f} s\n",
                                 std::filesystem::path(model.path()).filename().string(), model.architecture(),
                                 bytes_text(model.weight_bytes()), bytes_text(model.bytes_per_token()),
                                 random != nullptr ? "made" : "loaded", running.load_seconds);
  if (random != nullptr) {
    text += fmt::format("Random weights in {} with seed {}, {} of them in huge pages; no file\n", random->mix(),
                        random->seed(), bytes_text(random->huge_page_bytes()));
  }
  text += "Matrices: " + placement_text(model) + '\n';
  text += fmt::format("{}, {} thread{}, activations {}, KV cache {}; rounds: {} to warm up and {} that count{}\n",
                      isa_name(running.backend.kernels->isa), running.team.size(), running.team.size() == 1 ? "" : "s",
                      compute_word(running), kv_type_name(*decoder.limits().kv_type), options.warmup, options.rounds,
                      running.backend.eigen ? ", products by Eigen" : "");
  for (const auto& [on, what] : {std::pair{running.backend.fused, "operations not fused"},
                                 std::pair{running.arena, "buffers allocated for each pass"},
                                 std::pair{running.kv_cache, "no KV cache: each token computes the whole text"}}) {
    if (!on) text += fmt::format("Switched off: {}\n", what);
  }
  text +=
      "Speeds: the median round [interval that holds it with 95 %; of fewer than six rounds slowest-fastest]; spread: the "
      "middle\n"
      "half of the rounds over the median. Shares: of what the machine does, measured around each round (memory\n"
      "also every second of it), medians over rounds. Memory: the best of some reads of 128 MiB that no cache holds. "
      "Tiles:\n"
      "2 x 2 fed from L1. f32: multiply-adds on registers.\n";
  return text;
}

std::string infer_bench_table_head(InferBenchKind kind) {
  if (kind == InferBenchKind::prefill) {
    return "\n| prefill | tokens/s | spread | TFLOP/s | bf16 tiles TFLOP/s | of them | int8 tiles TOP/s | of them | f32 "
           "TFLOP/s | of "
           "it "
           "|\n|---|---|---|---|---|---|---|---|---|---|\n";
  }
  return "\n| depth | sequences | tokens/s | spread | ms/step | weights/step | KV/step | GB/s | memory GB/s | of it | "
         "TFLOP/s |\n"
         "|---|---|---|---|---|---|---|---|---|---|---|\n";
}

std::string infer_bench_line(const InferBenchRow& row) {
  const MachineRates machine = row.machine();
  const std::string rate = rate_cells(rate_of(row));
  if (row.kind == InferBenchKind::prefill) {
    return fmt::format("| {} | {} | {:.3f} | {} | {} | {} |\n", row.round_tokens, rate, row.flops_per_second() * 1e-12,
                       peak_cells(machine.bf16_tile_flops, 1e12, row.bf16_tile_share()),
                       peak_cells(machine.int8_tile_ops, 1e12, row.int8_tile_share()),
                       peak_cells(machine.f32_flops, 1e12, row.f32_share()));
  }
  const double step_ms = 1e3 * static_cast<double>(row.sequences) / row.tokens_per_second();
  return fmt::format("| {} | {} | {} | {:.2f} | {} | {} | {:.2f} | {} | {:.3f} |\n", row.depth, row.sequences, rate, step_ms,
                     bytes_text(static_cast<std::size_t>(row.weight_bytes)),
                     bytes_text(static_cast<std::size_t>(row.kv_bytes)), row.bytes_per_second() * 1e-9,
                     peak_cells(machine.read_bandwidth, 1e9, row.bandwidth_share()), row.flops_per_second() * 1e-12);
}

Json infer_bench_json(const RunningModel& running, const Decoder& decoder, const InferBenchOptions& options,
                      const InferBench& bench, std::size_t peak_bytes) {
  const LoadedModel& model = *running.model;
  Json json = {{"model", model.path()},
               {"architecture", model.architecture()},
               {"weight_bytes", model.weight_bytes()},
               {"weight_bytes_per_token", model.bytes_per_token()},
               {"isa", isa_name(running.backend.kernels->isa)},
               {"backend", running.backend.eigen ? "eigen" : "kernels"},
               {"fused", running.backend.fused},
               {"arena", running.arena},
               {"kv_cache", running.kv_cache},
               {"threads", running.team.size()},
               {"affinity", running.affinity},
               {"numa", running.numa},
               {"task_bytes", running.backend.blocks.task_bytes},
               {"block_rows", running.backend.blocks.block_rows},
               {"compute", compute_word(running)},
               {"kv_type", kv_type_name(*decoder.limits().kv_type)},
               {"context", decoder.limits().context_tokens},
               {"batch", decoder.limits().batch_tokens},
               {"decode_tokens", options.decode_tokens},
               {"warmup", options.warmup},
               {"rounds", options.rounds},
               {"load_seconds", running.load_seconds},
               {"weights", placement_name(running.model->placement())},
               {"peak_memory_bytes", peak_bytes},
               {"interrupted", bench.stopped}};
  if (const RandomWeights* random = model.random_weights(); random != nullptr) {
    json["random_weights"] = {
        {"type", random->mix()}, {"seed", random->seed()}, {"huge_page_bytes", random->huge_page_bytes()}};
  }
  Json rows = Json::array();
  for (const InferBenchRow& row : bench.rows) rows.push_back(row_json(row));
  json["rows"] = std::move(rows);
  return json;
}

std::string infer_bench_csv(const InferBench& bench) {
  std::string text =
      "kind,prompt,depth,sequences,rounds,tokens_per_second,low,high,coverage,spread,flops_per_second,bytes_per_second,"
      "memory_bytes_per_second,memory_share,f32_share,bf16_tile_share,int8_tile_share\n";
  for (const InferBenchRow& row : bench.rows) {
    const bool decode = row.kind == InferBenchKind::decode;
    const Summary rate = rate_of(row);
    text += fmt::format(
        "{},{},{},{},{},{:.6g},{:.6g},{:.6g},{:.4g},{:.4g},{:.6g},{:.6g},{:.6g},{:.4g},{:.4g},{:.4g},{:.4g}\n",
        to_word(row.kind), decode ? "" : std::to_string(row.round_tokens), decode ? std::to_string(row.depth) : "",
        row.sequences, rate.count, rate.median, rate.low, rate.high, rate.coverage, rate.spread(), row.flops_per_second(),
        row.bytes_per_second(), row.machine().read_bandwidth, row.bandwidth_share(), row.f32_share(), row.bf16_tile_share(),
        row.int8_tile_share());
  }
  return text;
}

}  // namespace quern::tools
