#include "math/kernel_bench.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace quern {
namespace {

/// Small enough that every kernel runs in a moment; figures mean nothing then.
KernelBenchOptions quick(std::string filter = "") {
  return {.warmup = 0,
          .measured = 1,
          .seconds = 0.0,
          .roof_seconds = 1e-4,
          .memory_bytes = std::size_t{8} << 20,
          .filter = std::move(filter)};
}

HardwareReport small_machine() {
  HardwareReport report;
  report.topology =
      read_topology({.synthetic = "l2:2(size=131072) l1d:1(size=16384) core:1 pu:1", .xml = {}}).value_or(MachineTopology{});
  report.features = cpu_features();
  return report;
}

/// A kernel that counts its calls.
struct Counted final : PreparedKernel {
  explicit Counted(std::vector<std::int64_t>& seen) : calls(seen) {}
  [[nodiscard]] std::size_t scratch_bytes() const override { return 128; }
  void run(Exec& exec, std::int64_t call) override {
    EXPECT_EQ(exec.scratch.size(), 128U);
    if (exec.member.index() == 0) calls.push_back(call);
    exec.member.barrier();
  }
  std::vector<std::int64_t>& calls;
};

KernelCase counting_case(std::string name, double flops, double bytes, std::vector<std::int64_t>& calls) {
  KernelCase one;
  one.name = std::move(name);
  one.flops = flops;
  one.bytes = bytes;
  one.prepare = [&calls](const Backend&, const BenchMemory&) -> Result<std::unique_ptr<PreparedKernel>> {
    return std::make_unique<Counted>(calls);
  };
  return one;
}

TEST(KernelBench, CallsCountUpAndRepeatsAreAsMany) {
  ThreadTeam team(2);
  const Backend backend{supported_kernels().front(), false};
  std::vector<std::int64_t> calls;
  const std::vector<KernelCase> cases{counting_case("nothing", 0.0, 1e3, calls)};
  KernelBenchOptions options = quick();
  options.warmup = 3;
  options.measured = 7;
  const auto bench = bench_kernels(team, backend, small_machine(), cases, options);
  ASSERT_TRUE(bench) << bench.error().message;
  ASSERT_EQ(bench->rows.size(), 1U);
  EXPECT_EQ(bench->rows[0].seconds.count, 7);
  EXPECT_EQ(bench->rows[0].share.count, 7);
  EXPECT_TRUE(bench->rows[0].seconds.has_interval());
  ASSERT_EQ(calls.size(), 11U);  // one to find the length, three to warm up, seven that count
  for (std::size_t i = 0; i < calls.size(); ++i) EXPECT_EQ(calls[i], static_cast<std::int64_t>(i));
}

TEST(KernelBench, TheLowerRoofCounts) {
  ThreadTeam team(1);
  const Backend backend{supported_kernels().front(), false};
  std::vector<std::int64_t> calls;
  std::vector<KernelCase> cases{counting_case("arithmetic", 1e12, 1.0, calls), counting_case("stream", 1.0, 1e4, calls),
                                counting_case("no arithmetic", 0.0, 1e4, calls)};
  cases.push_back(counting_case("from memory", 1.0, 1e4, calls));
  cases.back().from_memory = true;
  cases.back().updated_bytes = 5e3;
  const auto bench = bench_kernels(team, backend, small_machine(), cases, quick());
  ASSERT_TRUE(bench);
  EXPECT_EQ(bench->rows[0].roof.name(), "f32");
  EXPECT_EQ(bench->rows[1].roof.name(), "L2");
  EXPECT_EQ(bench->rows[2].roof.name(), "L2");
  EXPECT_EQ(bench->rows[3].roof.name(), "memory");
  EXPECT_DOUBLE_EQ(bench->rows[3].roof.updated_share, 0.5);
  for (const KernelRow& row : bench->rows) {
    EXPECT_GT(row.roof_rate.median, 0.0);
    EXPECT_NEAR(row.share.median, (row.roof.arithmetic ? row.flops : row.bytes) / row.seconds.median / row.roof_rate.median,
                1e-9 * row.share.median);
  }
}

TEST(KernelBench, EveryKernelOfEveryPathRuns) {
  ThreadTeam team(2);
  for (const KernelTable* kernels : supported_kernels()) {
    const Backend backend{kernels, false};
    const std::vector<KernelCase> cases = kernel_cases(backend);
    std::set<std::string> names;
    for (const KernelCase& one : cases) {
      EXPECT_TRUE(names.insert(one.name).second) << one.name;
      EXPECT_GT(one.flops, 0.0) << one.name;
      EXPECT_GT(one.bytes, 0.0) << one.name;
      EXPECT_LE(one.updated_bytes, one.bytes) << one.name;
    }
    // The best and the plain path run everything; the others differ from them in tables that other tests cover.
    if (kernels != supported_kernels().front() && kernels->isa != Isa::portable) continue;
    const bool slow = kernels->isa == Isa::portable && supported_kernels().size() > 1;
    const auto bench = bench_kernels(team, backend, small_machine(), cases, quick(slow ? "norm" : ""));
    ASSERT_TRUE(bench) << bench.error().message;
    EXPECT_EQ(bench->rows.size(), slow ? 3U : cases.size());
    for (const KernelRow& row : bench->rows) EXPECT_GT(row.seconds.median, 0.0) << row.name;
  }
}

TEST(KernelBench, StopsBetweenKernels) {
  ThreadTeam team(1);
  const Backend backend{supported_kernels().front(), false};
  std::vector<std::int64_t> calls;
  const std::vector<KernelCase> cases{counting_case("a", 1.0, 1.0, calls), counting_case("b", 1.0, 1.0, calls)};
  int rows = 0;
  const auto bench =
      bench_kernels(team, backend, small_machine(), cases, quick(),
                    {.progress = {}, .stop = [&] { return rows > 0; }, .row = [&](const KernelRow&) { ++rows; }});
  ASSERT_TRUE(bench);
  EXPECT_TRUE(bench->stopped);
  EXPECT_EQ(bench->rows.size(), 1U);
}

TEST(KernelBench, WhatIsWrongIsNamed) {
  ThreadTeam team(1);
  const Backend backend{supported_kernels().front(), false};
  const std::vector<KernelCase> cases = kernel_cases(backend);
  const auto none = bench_kernels(team, backend, small_machine(), cases, quick("no such kernel"));
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().message.find("no such kernel"), std::string::npos);
  KernelBenchOptions options = quick();
  options.measured = 0;
  EXPECT_FALSE(bench_kernels(team, backend, small_machine(), cases, options));
}

TEST(BenchMemory, WindowsFollowEachOtherAndComeAgain) {
  std::vector<std::byte> bytes(4096 * 10 + 100);
  const BenchMemory memory{bytes};
  EXPECT_EQ(memory.window(0, 5000), bytes.data());
  EXPECT_EQ(memory.window(1, 5000), bytes.data() + 8192);
  EXPECT_EQ(memory.window(4, 5000), bytes.data() + 4 * 8192);
  EXPECT_EQ(memory.window(5, 5000), bytes.data());
  EXPECT_EQ(memory.window(3, bytes.size()), bytes.data());
  EXPECT_EQ(memory.window(7, 0), bytes.data());
}

}  // namespace
}  // namespace quern
