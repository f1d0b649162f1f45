#include "kernel_bench_report.hpp"

#include <fmt/format.h>

#include "summary_report.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

/// A time with the unit that suits it.
std::string time_text(const Summary& seconds) {
  if (seconds.median >= 1e-3) return summary_text(seconds, 1e-3) + " ms";
  return summary_text(seconds, 1e-6) + " us";
}

std::string key_of(Counter counter) {
  std::string key(to_word(counter));
  for (char& letter : key) {
    if (letter == ' ' || letter == '-') letter = '_';
    letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  }
  return key;
}

std::string roof_text(const KernelRow& row) {
  return fmt::format("{}, {}", row.roof.name(),
                     row.roof.arithmetic ? fmt::format("{} GFLOP/s", number_text(row.roof_rate.median * 1e-9))
                                         : fmt::format("{} GB/s", number_text(row.roof_rate.median * 1e-9)));
}

}  // namespace

std::string kernel_bench_header(const KernelBenchRun& run) {
  return fmt::format(
      "{}, {}, {} thread{}; {} repeats to warm up and {} that count\n"
      "Figures: the median [interval that holds it with 95 %]; spread: the middle half of the samples over the median. The "
      "roof "
      "is the lower\n"
      "of the arithmetic's peak and FLOP per byte times the bandwidth of what holds the operands, measured before and after "
      "each "
      "repeat.\n"
      "Bytes: each operand read and each result written once; from memory, lines that are written are read first.\n\n"
      "| kernel | time | GFLOP/s | GB/s | FLOP/byte | roof | of the roof | spread |\n"
      "|---|---|---|---|---|---|---|---|\n",
      run.processor.empty() ? "unknown processor" : run.processor, run.instruction_set, run.threads,
      run.threads == 1 ? "" : "s", run.options.warmup, run.options.measured);
}

std::string kernel_bench_line(const KernelRow& row) {
  return fmt::format("| {} | {} | {} | {} | {} | {} | {} % | {} |\n", row.name, time_text(row.seconds),
                     number_text(row.flops_per_second() * 1e-9), number_text(row.bytes_per_second() * 1e-9),
                     number_text(row.flops_per_byte()), roof_text(row), summary_text(row.share, 0.01),
                     spread_text(row.seconds));
}

std::string kernel_bench_counters(const KernelBench& bench) {
  std::string text;
  if (!bench.counters_obstacle.empty()) {
    text = fmt::format("\nHardware counters: {}.\n", bench.counters_obstacle);
  } else {
    text = "\nCounts of one call, all threads, user mode:\n\n";
    for (const KernelRow& row : bench.rows) {
      text += fmt::format("  {}:", row.name);
      for (const CounterReading& reading : row.counters)
        text += fmt::format(" {} {:.4g};", to_word(reading.counter), reading.count);
      text += '\n';
    }
  }
  return text;
}

Json kernel_bench_json(const KernelBenchRun& run, const KernelBench& bench) {
  Json rows = Json::array();
  for (const KernelRow& row : bench.rows) {
    Json counters = Json::object();
    for (const CounterReading& reading : row.counters) counters[key_of(reading.counter)] = reading.count;
    rows.push_back({{"name", row.name},
                    {"flops", row.flops},
                    {"bytes", row.bytes},
                    {"flops_per_byte", row.flops_per_byte()},
                    {"flops_per_second", row.flops_per_second()},
                    {"bytes_per_second", row.bytes_per_second()},
                    {"roof", row.roof.name()},
                    {"seconds", summary_json(row.seconds)},
                    {"roof_rate", summary_json(row.roof_rate)},
                    {"share", summary_json(row.share)},
                    {"counters", std::move(counters)}});
  }
  return {{"bench", "kernels"},
          {"processor", run.processor},
          {"instruction_set", run.instruction_set},
          {"threads", run.threads},
          {"warmup", run.options.warmup},
          {"measured", run.options.measured},
          {"counters_obstacle", bench.counters_obstacle},
          {"interrupted", bench.stopped},
          {"rows", std::move(rows)}};
}

std::string kernel_bench_csv(const KernelBench& bench) {
  std::string text =
      "kernel,seconds,seconds_low,seconds_high,seconds_spread,flops,bytes,flops_per_second,bytes_per_second,flops_per_byte,"
      "roof,"
      "roof_rate,share,share_low,share_high\n";
  for (const KernelRow& row : bench.rows) {
    text += fmt::format("{},{:.9g},{:.9g},{:.9g},{:.4g},{:.9g},{:.9g},{:.6g},{:.6g},{:.6g},{},{:.6g},{:.6g},{:.6g},{:.6g}\n",
                        row.name, row.seconds.median, row.seconds.low, row.seconds.high, row.seconds.spread(), row.flops,
                        row.bytes, row.flops_per_second(), row.bytes_per_second(), row.flops_per_byte(), row.roof.name(),
                        row.roof_rate.median, row.share.median, row.share.low, row.share.high);
  }
  return text;
}

}  // namespace quern::tools
