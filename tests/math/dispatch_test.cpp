#include "math/dispatch.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/matmul.hpp"

namespace quern {
namespace {

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

TEST(Dispatch, ListsDistinctSupportedPathsBestFirstAndPortableLast) {
  const std::vector<const KernelTable*>& supported = supported_kernels();
  ASSERT_FALSE(supported.empty());
  EXPECT_EQ(supported.back()->isa, Isa::portable);
  for (std::size_t i = 0; i < supported.size(); ++i) {
    EXPECT_TRUE(supports(cpu_features(), supported[i]->isa));
    EXPECT_NE(supported[i]->matmul, nullptr);
    EXPECT_NE(supported[i]->elementwise, nullptr);
    EXPECT_NE(supported[i]->attention, nullptr);
    if (i > 0) {
      EXPECT_GT(supported[i - 1]->isa, supported[i]->isa);
    }
  }
}

/// Every path that this build is known to hold is listed where the processor supports it.
TEST(Dispatch, LeavesOutNoPathThatTheProcessorSupports) {
#if defined(__x86_64__)
  constexpr int kBuilt = kIsaCount;
#else
  constexpr int kBuilt = 1;
#endif
  std::vector<Isa> expected;
  for (int i = kBuilt - 1; i >= 0; --i) {
    if (supports(cpu_features(), static_cast<Isa>(i))) expected.push_back(static_cast<Isa>(i));
  }
  std::vector<Isa> found;
  for (const KernelTable* table : supported_kernels()) found.push_back(table->isa);
  EXPECT_EQ(found, expected);
}

TEST(Dispatch, FindsPathsByName) {
  for (const KernelTable* table : supported_kernels()) {
    const Result<const KernelTable*> found = kernels_named(isa_name(table->isa));
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(*found, table);
  }
}

TEST(Dispatch, RefusesOtherNamesAndListsWhatIsAvailable) {
  std::vector<std::string> names = {"", "AVX2", "avx", "avx2 ", "sse", std::string("avx2\0", 5)};
  for (const IsaStatus& status : isa_statuses()) {
    if (!status.obstacle.empty()) names.emplace_back(isa_name(status.isa));
  }
  for (const std::string& name : names) {
    const Result<const KernelTable*> found = kernels_named(name);
    ASSERT_FALSE(found) << name;
    EXPECT_EQ(found.error().code, ErrorCode::bad_input);
    EXPECT_NE(found.error().message.find("'" + name + "'"), std::string::npos) << found.error().message;
    for (const KernelTable* table : supported_kernels()) {
      EXPECT_NE(found.error().message.find(isa_name(table->isa)), std::string::npos) << found.error().message;
    }
  }
}

TEST(Dispatch, StatusesCoverEveryPathAndAgreeWithTheList) {
  const std::vector<IsaStatus> statuses = isa_statuses();
  ASSERT_EQ(statuses.size(), static_cast<std::size_t>(kIsaCount));
  std::size_t usable = 0;
  for (const IsaStatus& status : statuses) usable += status.obstacle.empty() ? 1U : 0U;
  EXPECT_EQ(usable, supported_kernels().size());
}

/// Holds under whatever QUERN_ISA this program runs; QUERN_EXPECT_ISA (qemu_isa.sh) says what must come out.
TEST(Dispatch, ChoosesTheBestOrTheForcedPath) {
  const Result<const KernelTable*> chosen = chosen_kernels();
  const std::string forced = environment(kIsaVariable);
  if (!forced.empty()) {
    const Result<const KernelTable*> named = kernels_named(forced);
    ASSERT_EQ(chosen.has_value(), named.has_value());
    if (named) {
      EXPECT_EQ(*chosen, *named);
    } else {
      EXPECT_EQ(chosen.error().message, "QUERN_ISA: " + named.error().message);
    }
    return;
  }
  ASSERT_TRUE(chosen);
  EXPECT_EQ(*chosen, supported_kernels().front());
  const std::string expected = environment("QUERN_EXPECT_ISA");
  if (!expected.empty()) {
    EXPECT_EQ(isa_name((*chosen)->isa), expected);
  }
}

/// This program again, with QUERN_ISA set to `value`: the choice is made once per process.
int run_with_forced_isa(const std::string& value) {
  const pid_t child = fork();
  if (child == 0) {
    setenv(kIsaVariable, value.c_str(), 1);
    std::freopen("/dev/null", "w", stdout);
    execl("/proc/self/exe", "dispatch_test", "--gtest_filter=ForcedChild.*", static_cast<char*>(nullptr));
    _exit(99);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// What such a child checks; without QUERN_ISA there is nothing to check.
TEST(ForcedChild, UsesExactlyTheForcedPath) {
  const std::string forced = environment(kIsaVariable);
  const Result<const KernelTable*> chosen = chosen_kernels();
  if (forced.empty()) {
    EXPECT_TRUE(chosen);
    return;
  }
  ASSERT_TRUE(chosen) << chosen.error().message;
  EXPECT_EQ(isa_name((*chosen)->isa), forced);
}

TEST(ForcedIsa, TheVariableForcesEachSupportedPathAndNoOther) {
  for (const KernelTable* table : supported_kernels()) {
    EXPECT_EQ(run_with_forced_isa(std::string(isa_name(table->isa))), 0) << isa_name(table->isa);
  }
  EXPECT_EQ(run_with_forced_isa("no_such_path"), 1);
  EXPECT_EQ(run_with_forced_isa(""), 0);
}

/// Runs a little of each table, so that a wrong list or a wrong flag crashes here (above all on emulated old processors).
/// The kernels' own tests judge their results in depth.
TEST(Kernels, EveryListedElementwiseTableRuns) {
  for (const KernelTable* table : supported_kernels()) {
    SCOPED_TRACE(isa_name(table->isa));
    for (const std::int64_t count : {1, 7, 8, 33, 100}) {
      std::vector<float> x(static_cast<std::size_t>(count));
      std::vector<float> y(x.size(), 0.5F);
      double squares = 0.0;
      double exponentials = 0.0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        x[i] = static_cast<float>(static_cast<int>(i % 9) - 4) * 0.25F;
        squares += static_cast<double>(x[i]) * x[i];
        exponentials += std::exp(static_cast<double>(x[i]));
      }
      // Sums and halves of quarters are exact; a softmax of n terms is off by some n roundings at most.
      EXPECT_DOUBLE_EQ(table->elementwise->sum_of_squares(x.data(), count), squares);
      table->elementwise->add(x.data(), y.data(), count);
      for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], x[i] + 0.5F);
      std::vector<float> p = x;
      table->elementwise->softmax(p.data(), count, 1.0F, 1, count);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double expected = std::exp(static_cast<double>(x[i])) / exponentials;
        EXPECT_NEAR(p[i], expected, expected * static_cast<double>(count + 16) * std::numeric_limits<float>::epsilon());
      }
    }
  }
}

TEST(Kernels, EveryListedMatmulTableRuns) {
  constexpr std::int64_t kRows = 5;
  constexpr std::int64_t kOutputs = 19;
  constexpr std::int64_t kInputs = 37;
  // Small integers: every product and sum is exact in f32 and the operands are exact in bf16.
  const auto value = [](std::int64_t i, std::int64_t j) { return static_cast<float>((i * 7 + j * 3) % 5 - 2); };
  std::vector<float> x(kRows * kInputs);
  std::vector<bf16> x_bf16(x.size());
  std::vector<float> w(kOutputs * kInputs);
  for (std::int64_t i = 0; i < kRows * kInputs; ++i) {
    const float element = value(i / kInputs, i % kInputs);
    std::uint32_t bits = 0;
    std::memcpy(&bits, &element, sizeof bits);
    x[static_cast<std::size_t>(i)] = element;
    x_bf16[static_cast<std::size_t>(i)] = bf16{static_cast<std::uint16_t>(bits >> 16)};
  }
  for (std::int64_t i = 0; i < kOutputs * kInputs; ++i) w[static_cast<std::size_t>(i)] = value(i % kInputs, i / kInputs + 1);
  for (const KernelTable* table : supported_kernels()) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      SCOPED_TRACE(std::string(isa_name(table->isa)) + (compute == ComputeType::f32 ? " f32" : " bf16"));
      const Backend backend{.kernels = table, .eigen = false};
      const PackedWeightBytes bytes = packed_weight_bytes(backend, compute, kOutputs, kInputs);
      Result<AlignedBuffer> pack = AlignedBuffer::allocate(bytes.forward);
      Result<AlignedBuffer> scratch = AlignedBuffer::allocate(matmul_scratch_bytes(backend, 64, 64));
      ASSERT_TRUE(pack && scratch);
      TeamMember alone;
      Exec exec{alone, backend, {scratch->data(), scratch->bytes()}};
      const Weight weight = pack_weight(exec, compute, w.data(), kOutputs, kInputs, pack->data(), nullptr);
      std::vector<float> y(kRows * kOutputs, -1.0F);
      const bool is_f32 = compute == ComputeType::f32;
      const ConstMatrix input{.data = is_f32 ? static_cast<const void*>(x.data()) : x_bf16.data(),
                              .type = is_f32 ? ElementType::f32 : ElementType::bf16,
                              .rows = kRows,
                              .cols = kInputs,
                              .row_stride = kInputs};
      matmul_forward(exec, input, weight,
                     {.data = y.data(), .type = ElementType::f32, .rows = kRows, .cols = kOutputs, .row_stride = kOutputs});
      for (std::int64_t r = 0; r < kRows; ++r) {
        for (std::int64_t c = 0; c < kOutputs; ++c) {
          float sum = 0.0F;
          for (std::int64_t k = 0; k < kInputs; ++k) {
            sum += x[static_cast<std::size_t>(r * kInputs + k)] * w[static_cast<std::size_t>(c * kInputs + k)];
          }
          EXPECT_EQ(y[static_cast<std::size_t>(r * kOutputs + c)], sum) << r << ", " << c;
        }
      }
    }
  }
}

}  // namespace
}  // namespace quern
