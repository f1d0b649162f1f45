// Dropout masks on Highway vectors: Philox4x32-10 (Salmon et al., SC 2011) for several counters at once, with the counter
// layout of DropoutMask. math/philox.hpp is the scalar reference; both give the same bits on every instruction set.
#pragma once

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

#include "math/elementwise_kernels.hpp"

namespace quern {
namespace {
namespace simd {

namespace hn = hwy::HWY_NAMESPACE;

constexpr std::uint32_t kPhiloxMul0 = 0xD2511F53U;
constexpr std::uint32_t kPhiloxMul1 = 0xCD9E8D57U;
constexpr std::uint32_t kPhiloxWeyl0 = 0x9E3779B9U;
constexpr std::uint32_t kPhiloxWeyl1 = 0xBB67AE85U;

/// Columns whose mask one call of dropout_lanes makes: 16 blocks of 8.
constexpr std::int64_t kDropoutColumns = 128;

/// A DropoutMask ready for use: what does not change from row to row.
struct DropoutConstants {
  std::uint32_t threshold;  ///< lanes below it are dropped; 0: nothing is
  float scale;              ///< of kept values
  std::uint32_t site, step, first_row;
  /// The two key words of each round; 64 bits wide, so that a vector takes one straight from memory.
  std::uint64_t keys[10][2];
};

HWY_INLINE DropoutConstants dropout_constants(const DropoutMask& mask) {
  DropoutConstants c;
  c.threshold = static_cast<std::uint32_t>(static_cast<double>(mask.probability) * 65536.0 + 0.5);
  c.scale = c.threshold >= 65536U ? 0.0F : 65536.0F / static_cast<float>(65536U - c.threshold);
  std::uint32_t key0 = static_cast<std::uint32_t>(mask.seed);
  std::uint32_t key1 = static_cast<std::uint32_t>(mask.seed >> 32);
  for (auto& key : c.keys) {
    key[0] = key0;
    key[1] = key1;
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  c.site = mask.site;
  c.step = mask.step;
  c.first_row = mask.first_row;
  return c;
}

/// Fills `lanes` with the 16-bit lanes of columns 8 * first_block .. 8 * first_block + 127 of mask row `row` (counted as
/// DropoutMask does, first_row added).
HWY_INLINE void dropout_lanes(const DropoutConstants& c, std::uint32_t row, std::uint32_t first_block,
                              std::uint16_t* HWY_RESTRICT lanes) {
  constexpr std::size_t kBlocks = static_cast<std::size_t>(kDropoutColumns) / 8;
#if HWY_TARGET == HWY_SCALAR
  for (std::size_t block = 0; block < kBlocks; ++block) {
    std::uint32_t c0 = first_block + static_cast<std::uint32_t>(block), c1 = row, c2 = c.site, c3 = c.step;
    for (const auto& key : c.keys) {
      const std::uint64_t p0 = static_cast<std::uint64_t>(kPhiloxMul0) * c0;
      const std::uint64_t p1 = static_cast<std::uint64_t>(kPhiloxMul1) * c2;
      c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ static_cast<std::uint32_t>(key[0]);
      c1 = static_cast<std::uint32_t>(p1);
      c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ static_cast<std::uint32_t>(key[1]);
      c3 = static_cast<std::uint32_t>(p0);
    }
    const std::uint32_t words[4] = {c0, c1, c2, c3};
    for (std::size_t lane = 0; lane < 8; ++lane) {
      lanes[8 * block + lane] = static_cast<std::uint16_t>(words[lane / 2] >> (16 * (lane % 2)));
    }
  }
#else
  // One block per 64-bit lane, each word in the lower half; upper halves hold leftovers that the multiplications ignore.
  // Two vectors go together, because the multiplications of one alone wait for each other.
  const hn::ScalableTag<std::uint64_t> d64;
  const hn::Repartition<std::uint32_t, decltype(d64)> d32;
  using V = hn::Vec<decltype(d64)>;
  constexpr std::size_t kBlockLanes = HWY_LANES(std::uint64_t);
  static_assert(kBlockLanes <= 8);
  alignas(64) static constexpr std::uint64_t kCounting[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  const V low = hn::Set(d64, 0xFFFFFFFFULL);
  const V mul0 = hn::Set(d64, kPhiloxMul0), mul1 = hn::Set(d64, kPhiloxMul1);
  const auto product = [d32](V a, V b) { return hn::MulEven(hn::BitCast(d32, a), hn::BitCast(d32, b)); };
  for (std::size_t block = 0; block < kBlocks; block += 2 * kBlockLanes) {
    V a0 = hn::Add(hn::Set(d64, first_block + block), hn::Load(d64, kCounting));
    V b0 = hn::Add(a0, hn::Set(d64, kBlockLanes));
    V a1 = hn::Set(d64, row), b1 = a1;
    V a2 = hn::Set(d64, c.site), b2 = a2;
    V a3 = hn::Set(d64, c.step), b3 = a3;
    for (const auto& key : c.keys) {
      const V key0 = hn::Set(d64, key[0]), key1 = hn::Set(d64, key[1]);
      const V pa0 = product(a0, mul0), pa1 = product(a2, mul1);
      const V pb0 = product(b0, mul0), pb1 = product(b2, mul1);
      a0 = hn::Xor3(hn::ShiftRight<32>(pa1), a1, key0);
      a1 = pa1;
      a2 = hn::Xor3(hn::ShiftRight<32>(pa0), a3, key1);
      a3 = pa0;
      b0 = hn::Xor3(hn::ShiftRight<32>(pb1), b1, key0);
      b1 = pb1;
      b2 = hn::Xor3(hn::ShiftRight<32>(pb0), b3, key1);
      b3 = pb0;
    }
    // Words 0, 1 and 2, 3 of a block side by side in memory are its lanes in order (little endian, as every target here).
    auto* out = reinterpret_cast<std::uint64_t*>(lanes + 8 * block);
    hn::StoreInterleaved2(hn::Or(hn::And(a0, low), hn::ShiftLeft<32>(a1)), hn::Or(hn::And(a2, low), hn::ShiftLeft<32>(a3)),
                          d64, out);
    hn::StoreInterleaved2(hn::Or(hn::And(b0, low), hn::ShiftLeft<32>(b1)), hn::Or(hn::And(b2, low), hn::ShiftLeft<32>(b3)),
                          d64, out + 2 * kBlockLanes);
  }
#endif
}

/// The scale where the lanes that start at `lanes` keep their column, 0 where they drop it: the mask's factor for Lanes(d)
/// consecutive columns.
template <class D>
HWY_INLINE hn::Vec<D> dropout_factor(D d, const std::uint16_t* lanes, const DropoutConstants& c) {
  const hn::Rebind<std::int32_t, D> di;
  const hn::Rebind<std::uint16_t, D> dh;
  const auto lane = hn::PromoteTo(di, hn::LoadU(dh, lanes));
  const auto drop = hn::Lt(lane, hn::Set(di, static_cast<std::int32_t>(c.threshold)));
  return hn::IfThenZeroElse(hn::RebindMask(d, drop), hn::Set(d, c.scale));
}

}  // namespace simd
}  // namespace
}  // namespace quern
