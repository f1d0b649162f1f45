// Peaks and bandwidths of this machine by the plainest loops that reach them: what tools/compare_hardware.py holds
// `quern hardware --measure` against. Shares no code with Quern, so that neither can repeat the other's mistake.
// AVX-512 only.
//
//   machine_loops L1 L2 L3 MEMORY SMALL    bytes of a thread's block for each level, and of one in small pages
//
// Prints "name=rate" lines, operations or bytes a second of all OpenMP threads: the median of kPasses passes.
#include <immintrin.h>
#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

namespace {

constexpr int kPasses = 7;
constexpr double kSecondsPerPass = 0.012;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kLine = 64;
/// Two blocks an exact power of two apart would meet in the same cache sets.
constexpr std::size_t kSkew = 17 * kLine;

/// Makes the compiler believe that `value` is used.
void use(__m512 value) { asm volatile("" ::"v"(value)); }

/// One thread's block, in huge pages or in small ones; its own thread touches it first.
class Block {
 public:
  Block(std::size_t bytes, bool huge) : bytes_(bytes + 2 * kHugePage) {
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) {
      std::fprintf(stderr, "machine_loops: no memory for a block of %zu bytes\n", bytes);
      std::exit(1);
    }
    const auto address = (reinterpret_cast<std::uintptr_t>(memory_) + kHugePage - 1) & ~(kHugePage - 1);
    data_ = reinterpret_cast<std::byte*>(address);
    madvise(data_, bytes_ - kHugePage, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    std::memset(data_, 1, bytes + kHugePage);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() { munmap(memory_, bytes_); }
  [[nodiscard]] float* data() const { return reinterpret_cast<float*>(data_); }

 private:
  std::size_t bytes_;
  void* memory_ = nullptr;
  std::byte* data_ = nullptr;
};

using Loop = void (*)(float* block, std::size_t bytes, std::size_t times);
constexpr std::size_t kStride = 4 * kLine / sizeof(float);

void read_loop(float* block, std::size_t bytes, std::size_t times) {
  __m512 sums[4] = {};
  for (; times > 0; --times) {
    for (std::size_t i = 0; i + kStride <= bytes / sizeof(float); i += kStride) {
      for (std::size_t k = 0; k < 4; ++k) sums[k] = _mm512_add_ps(sums[k], _mm512_load_ps(block + i + 16 * k));
    }
  }
  for (const __m512& sum : sums) use(sum);
}

void write_loop(float* block, std::size_t bytes, std::size_t times) {
  for (; times > 0; --times) {
    const __m512 value = _mm512_set1_ps(static_cast<float>(times) + 0.5F);
    for (std::size_t i = 0; i + kStride <= bytes / sizeof(float); i += kStride) {
      for (std::size_t k = 0; k < 4; ++k) _mm512_store_ps(block + i + 16 * k, value);
    }
    asm volatile("" ::"r"(block) : "memory");
  }
}

/// One half of the block to the other; counts what is read and what is written.
void copy_loop(float* block, std::size_t bytes, std::size_t times) {
  float* to = block + (bytes / 2 + kSkew) / sizeof(float);
  for (; times > 0; --times) {
    for (std::size_t i = 0; i + kStride <= bytes / 2 / sizeof(float); i += kStride) {
      for (std::size_t k = 0; k < 4; ++k) _mm512_store_ps(to + i + 16 * k, _mm512_load_ps(block + i + 16 * k));
    }
    asm volatile("" ::"r"(block) : "memory");
  }
}

/// Past the caches. The number is not zero: memory may store zeros faster.
void stream_loop(float* block, std::size_t bytes, std::size_t times) {
  for (; times > 0; --times) {
    const __m512 value = _mm512_set1_ps(static_cast<float>(times) + 0.5F);
    for (std::size_t i = 0; i + kStride <= bytes / sizeof(float); i += kStride) {
      for (std::size_t k = 0; k < 4; ++k) _mm512_stream_ps(block + i + 16 * k, value);
    }
    _mm_sfence();
  }
}

/// Median seconds that all threads take for one call each of `work(thread)`.
double median_seconds(const std::function<void(int)>& work) {
  std::array<double, kPasses> seconds{};
  for (double& one : seconds) {
    std::chrono::steady_clock::time_point begin, end;
#pragma omp parallel
    {
#pragma omp barrier
#pragma omp master
      begin = std::chrono::steady_clock::now();
#pragma omp barrier
      work(omp_get_thread_num());
#pragma omp barrier
#pragma omp master
      end = std::chrono::steady_clock::now();
    }
    one = std::chrono::duration<double>(end - begin).count();
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[kPasses / 2];
}

double bandwidth(Loop loop, std::size_t bytes, bool huge) {
  const auto threads = static_cast<std::size_t>(omp_get_max_threads());
  std::vector<Block*> blocks(threads);
#pragma omp parallel
  blocks[static_cast<std::size_t>(omp_get_thread_num())] = new Block(bytes, huge);
  const auto seconds_of = [&](std::size_t times) {
    return median_seconds([&](int thread) { loop(blocks[static_cast<std::size_t>(thread)]->data(), bytes, times); });
  };
  // As often as a pass takes; a first, short count tells.
  std::size_t times = 1;
  double seconds = seconds_of(times);
  while (seconds < kSecondsPerPass / 8) seconds = seconds_of(times *= 4);
  times = std::max<std::size_t>(1, static_cast<std::size_t>(static_cast<double>(times) * kSecondsPerPass / seconds));
  seconds = seconds_of(times);
  for (Block* block : blocks) delete block;
  return static_cast<double>(bytes * times * threads) / seconds;
}

/// Twelve chains of multiply-adds on registers; a multiply-add is two operations.
double f32_peak() {
  constexpr std::size_t kChains = 12, kRepeats = 1000000;
  const double seconds = median_seconds([](int) {
    __m512 chains[kChains];
    for (std::size_t i = 0; i < kChains; ++i) chains[i] = _mm512_set1_ps(static_cast<float>(i + 1));
    __m512 factor = _mm512_set1_ps(0.999F);
    const __m512 term = _mm512_set1_ps(0.001F);
    for (std::size_t repeat = 0; repeat < kRepeats; ++repeat) {
#pragma GCC unroll 12  // else the chains would lie in memory
      for (std::size_t i = 0; i < kChains; ++i) chains[i] = _mm512_fmadd_ps(chains[i], factor, term);
      asm volatile("" : "+v"(factor));  // no repeat is computed beforehand
    }
#pragma GCC unroll 12
    for (std::size_t i = 0; i < kChains; ++i) use(chains[i]);
  });
  return 32.0 * kChains * kRepeats * omp_get_max_threads() / seconds;
}

}  // namespace

int main(int count, char** words) {
  if (count != 6) {
    std::fprintf(stderr, "machine_loops: expected five numbers of bytes: L1 L2 L3 MEMORY SMALL\n");
    return 2;
  }
  if (!__builtin_cpu_supports("avx512f")) {
    std::fprintf(stderr, "machine_loops: this processor has no AVX-512\n");
    return 2;
  }
  for (int word = 1; word < count; ++word) {
    if (std::strtoull(words[word], nullptr, 10) >= 4096) continue;
    std::fprintf(stderr, "machine_loops: expected a block of at least 4096 bytes, found \"%s\"\n", words[word]);
    return 2;
  }
  struct Access {
    const char* name;
    Loop loop;
  };
  constexpr Access kAccesses[] = {
      {"read", read_loop}, {"write", write_loop}, {"copy", copy_loop}, {"non-temporal write", stream_loop}};
  constexpr const char* kLevels[] = {"L1", "L2", "L3", "memory"};
  const auto bytes = [&](int word) { return static_cast<std::size_t>(std::strtoull(words[word], nullptr, 10)); };
  std::printf("f32 peak=%.6g\n", f32_peak());
  for (int level = 0; level < 4; ++level) {
    for (const Access& access : kAccesses) {
      if (level < 3 && access.loop == stream_loop) continue;
      std::printf("%s %s=%.6g\n", kLevels[level], access.name, bandwidth(access.loop, bytes(level + 1), true));
    }
  }
  std::printf("memory read, small pages=%.6g\n", bandwidth(read_loop, bytes(5), false));
}
