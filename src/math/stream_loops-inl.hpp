// The loops of StreamKernels over a vector type. Included by one file per instruction set, inside an anonymous namespace,
// with `Vector` and the functions load, store, store_past and fence defined there.

constexpr std::size_t kWidth = sizeof(Vector);
constexpr std::size_t kUnroll = 8;  // registers in flight; kStreamStep is a multiple of 8 of the widest vectors
static_assert(kStreamStep % (kWidth * kUnroll) == 0, "a step holds whole rounds of the loop");

/// Makes the compiler believe that a register is used, so that its load stays, without an instruction.
inline void keep(Vector value) { __asm__ volatile("" : : QUERN_VECTOR_REGISTER(value)); }
/// Keeps the compiler from merging passes.
inline void next_pass() { __asm__ volatile("" : : : "memory"); }

void read(const std::byte* from, std::size_t bytes, std::int64_t passes) {
  for (; passes > 0; --passes) {
    for (std::size_t at = 0; at < bytes; at += kWidth * kUnroll) {
      for (std::size_t i = 0; i < kUnroll; ++i) keep(load(from + at + i * kWidth));
    }
    next_pass();
  }
}

void write(std::byte* to, std::size_t bytes, std::int64_t passes) {
  const Vector value = ones();
  for (; passes > 0; --passes) {
    for (std::size_t at = 0; at < bytes; at += kWidth * kUnroll) {
      for (std::size_t i = 0; i < kUnroll; ++i) store(to + at + i * kWidth, value);
    }
    next_pass();
  }
}

void copy(std::byte* to, const std::byte* from, std::size_t bytes, std::int64_t passes) {
  for (; passes > 0; --passes) {
    for (std::size_t at = 0; at < bytes; at += kWidth * kUnroll) {
      for (std::size_t i = 0; i < kUnroll; ++i) store(to + at + i * kWidth, load(from + at + i * kWidth));
    }
    next_pass();
  }
}

#if defined(QUERN_HAS_STREAM_STORES)
void write_past(std::byte* to, std::size_t bytes, std::int64_t passes) {
  const Vector value = ones();
  for (; passes > 0; --passes) {
    for (std::size_t at = 0; at < bytes; at += kWidth * kUnroll) {
      for (std::size_t i = 0; i < kUnroll; ++i) store_past(to + at + i * kWidth, value);
    }
    fence();
    next_pass();
  }
}
#endif
