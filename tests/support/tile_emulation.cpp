// Tile instructions raise SIGILL where there are none; the handler decodes and performs them on tiles of its own.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, "Intel AMX instruction set reference"
// (LDTILECFG, STTILECFG, TILELOADD, TILERELEASE, TILESTORED, TILEZERO, TDPBF16PS, TDPBSSD/SUD/USD/UUD). Operands that do not
// fit each other end the program with a sentence, as they raise an exception there.
#include "support/tile_emulation.hpp"

#if defined(QUERN_EMULATES_TILES)

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "math/cpu_features.hpp"

namespace quern::test {
namespace {

constexpr int kTiles = 8;
constexpr int kMaxRows = 16;
constexpr int kMaxRowBytes = 64;

/// The memory operand of LDTILECFG.
struct Config {
  std::uint8_t palette = 0;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(Config) == 64);

struct Tile {
  alignas(64) std::uint8_t bytes[kMaxRows][kMaxRowBytes] = {};
};

// A thread's tiles. Constant initialization, so that a signal handler may touch them.
constinit thread_local Config config;
constinit thread_local Tile tiles[kTiles];
std::atomic<long long> instructions{0};

/// From a signal handler: no streams, no allocation.
[[noreturn]] void stop(std::string_view why) {
  constexpr std::string_view kBefore = "tile emulation: ";
  (void)!write(STDERR_FILENO, kBefore.data(), kBefore.size());
  (void)!write(STDERR_FILENO, why.data(), why.size());
  (void)!write(STDERR_FILENO, "\n", 1);
  std::abort();
}

void need(bool holds, std::string_view why) {
  if (!holds) stop(why);
}

/// Registers by their number in an instruction.
std::uint64_t general_register(const ucontext_t& context, int number) {
  constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return static_cast<std::uint64_t>(context.uc_mcontext.gregs[kOrder[number]]);
}

enum class Prefix : std::uint8_t { none = 0, x66 = 1, xf3 = 2, xf2 = 3 };

/// An instruction with a three-byte VEX prefix of map 0F38, 128 bits, W0: all tile instructions are of this kind.
struct Instruction {
  Prefix prefix = Prefix::none;
  std::uint8_t opcode = 0;
  int mod = 0, reg = 0, rm = 0, vvvv = 0;
  std::uint64_t length = 0;
  std::uint64_t address = 0;  // of a memory operand
  std::uint64_t stride = 0;   // the index register of TILELOADD and TILESTORED, scaled
  bool has_index = false;
};

bool decode(const std::uint8_t* p, const ucontext_t& context, Instruction& in) {
  if (p[0] != 0xC4 || (p[1] & 0x1F) != 2 || (p[2] & 0x84) != 0) return false;  // map; W and L
  const int extends_reg = (p[1] & 0x80) == 0 ? 8 : 0;
  const int extends_index = (p[1] & 0x40) == 0 ? 8 : 0;
  const int extends_base = (p[1] & 0x20) == 0 ? 8 : 0;
  in.prefix = static_cast<Prefix>(p[2] & 3);
  in.vvvv = (~p[2] >> 3) & 15;
  in.opcode = p[3];
  in.mod = p[4] >> 6;
  in.reg = ((p[4] >> 3) & 7) + extends_reg;
  in.rm = p[4] & 7;
  in.length = 5;
  if (in.mod == 3) {
    in.rm += extends_base;
    return true;
  }
  const std::uint8_t* next = p + 5;
  if (in.rm == 4) {  // base + index * scale
    const int scale = *next >> 6;
    const int index = ((*next >> 3) & 7) + extends_index;
    const int base = *next & 7;
    ++next;
    in.has_index = index != 4;
    if (in.has_index) in.stride = general_register(context, index) << scale;
    if (base != 5 || in.mod != 0) {
      in.address = general_register(context, base + extends_base);
    } else {
      std::int32_t displacement = 0;
      std::memcpy(&displacement, next, 4);
      next += 4;
      in.address = static_cast<std::uint64_t>(std::int64_t{displacement});
    }
  } else if (in.rm == 5 && in.mod == 0) {  // relative to the next instruction
    std::int32_t displacement = 0;
    std::memcpy(&displacement, next, 4);
    next += 4;
    in.address = reinterpret_cast<std::uint64_t>(next) + static_cast<std::uint64_t>(std::int64_t{displacement});
  } else {
    in.address = general_register(context, in.rm + extends_base);
  }
  if (in.mod == 1) {
    in.address += static_cast<std::uint64_t>(std::int64_t{static_cast<std::int8_t>(*next)});
    next += 1;
  } else if (in.mod == 2) {
    std::int32_t displacement = 0;
    std::memcpy(&displacement, next, 4);
    next += 4;
    in.address += static_cast<std::uint64_t>(std::int64_t{displacement});
  }
  in.length = static_cast<std::uint64_t>(next - p);
  return true;
}

void load_config(const Instruction& in) {
  Config loaded;
  std::memcpy(&loaded, reinterpret_cast<const void*>(in.address), sizeof loaded);
  need(loaded.palette == 1 && loaded.start_row == 0, "LDTILECFG: a palette other than 1, or a start row");
  for (int i = 0; i < 14; ++i) need(loaded.reserved[i] == 0, "LDTILECFG: reserved bytes that are not 0");
  for (int i = 0; i < 16; ++i) {
    need(i < kTiles || (loaded.rows[i] == 0 && loaded.row_bytes[i] == 0), "LDTILECFG: a shape for a ninth tile");
    need(loaded.rows[i] <= kMaxRows && loaded.row_bytes[i] <= kMaxRowBytes, "LDTILECFG: a tile above 16 rows of 64 bytes");
    need((loaded.rows[i] == 0) == (loaded.row_bytes[i] == 0), "LDTILECFG: rows without bytes, or bytes without rows");
  }
  config = loaded;
  for (Tile& tile : tiles) tile = Tile{};
}

void check_tile(int tile) {
  need(tile < kTiles, "a tile above the eighth");
  need(config.palette == 1, "a tile instruction without a configuration");
  need(config.rows[tile] > 0, "a tile without rows");
}

void load_or_store(const Instruction& in, bool stores) {
  check_tile(in.reg);
  need(in.rm == 4, "TILELOADD or TILESTORED without base and index");
  Tile& tile = tiles[in.reg];
  const std::size_t row_bytes = config.row_bytes[in.reg];
  if (!stores) tile = Tile{};
  for (int row = 0; row < config.rows[in.reg]; ++row) {
    auto* const memory = reinterpret_cast<std::uint8_t*>(in.address + static_cast<std::uint64_t>(row) * in.stride);
    if (stores) {
      std::memcpy(memory, tile.bytes[row], row_bytes);
    } else {
      std::memcpy(tile.bytes[row], memory, row_bytes);
    }
  }
}

/// Rows of the sums, pairs or fours of the operands, 32-bit columns of the sums.
struct ProductShape {
  int rows, depth, columns;
};

/// Checks sums [M x N], a [M x K] and b [K x N], in units of four bytes.
ProductShape product_shape(int sums, int a, int b) {
  for (const int tile : {sums, a, b}) check_tile(tile);
  need(sums != a && sums != b && a != b, "a product whose tiles are not distinct");
  need(config.row_bytes[sums] % 4 == 0 && config.row_bytes[a] % 4 == 0, "a product's row of broken elements");
  need(config.rows[sums] == config.rows[a], "a product: rows of sums and of the first operand differ");
  need(config.row_bytes[a] / 4 == config.rows[b], "a product: columns of the first and rows of the second operand differ");
  need(config.row_bytes[sums] == config.row_bytes[b], "a product: columns of sums and of the second operand differ");
  return {config.rows[sums], config.row_bytes[a] / 4, config.row_bytes[sums] / 4};
}

/// Denormals are read and written as zeros of their sign.
float without_denormals(float x) { return std::abs(x) < 0x1p-126F ? std::copysign(0.0F, x) : x; }

float from_bf16(std::uint16_t bits) { return without_denormals(std::bit_cast<float>(std::uint32_t{bits} << 16)); }

void multiply_bf16(const Instruction& in) {
  const ProductShape shape = product_shape(in.reg, in.rm, in.vvvv);
  const Tile& a = tiles[in.rm];
  const Tile& b = tiles[in.vvvv];
  Tile sums;
  float second[kMaxRows][kMaxRowBytes / 2] = {};  // b, widened once for all rows of a
  for (int k = 0; k < shape.depth; ++k) {
    std::uint16_t bits[kMaxRowBytes / 2];
    std::memcpy(bits, b.bytes[k], sizeof bits);
    for (int n = 0; n < 2 * shape.columns; ++n) second[k][n] = from_bf16(bits[n]);
  }
  for (int m = 0; m < shape.rows; ++m) {
    float even[kMaxRows] = {};
    float odd[kMaxRows] = {};
    for (int k = 0; k < shape.depth; ++k) {
      std::uint16_t pair[2];
      std::memcpy(pair, a.bytes[m] + 4 * k, sizeof pair);
      const float first0 = from_bf16(pair[0]);
      const float first1 = from_bf16(pair[1]);
      // The product of two bf16 is exact in f32 unless it is tiny, so this rounds as a fused multiply-add does.
      for (int n = 0; n < shape.columns; ++n) even[n] = without_denormals(even[n] + first0 * second[k][2 * n]);
      for (int n = 0; n < shape.columns; ++n) odd[n] = without_denormals(odd[n] + first1 * second[k][2 * n + 1]);
    }
    float row[kMaxRows];
    std::memcpy(row, tiles[in.reg].bytes[m], sizeof row);
    for (int n = 0; n < shape.columns; ++n) {
      row[n] = without_denormals(without_denormals(row[n]) + without_denormals(even[n] + odd[n]));
    }
    std::memcpy(sums.bytes[m], row, 4 * static_cast<std::size_t>(shape.columns));
  }
  tiles[in.reg] = sums;
}

/// Bytes as numbers, with or without a sign.
int as_number(std::uint8_t byte, bool has_sign) { return has_sign ? static_cast<std::int8_t>(byte) : int{byte}; }

void multiply_int8(const Instruction& in) {
  const ProductShape shape = product_shape(in.reg, in.rm, in.vvvv);
  const bool a_has_sign = in.prefix == Prefix::xf2 || in.prefix == Prefix::xf3;
  const bool b_has_sign = in.prefix == Prefix::xf2 || in.prefix == Prefix::x66;
  const Tile& a = tiles[in.rm];
  const Tile& b = tiles[in.vvvv];
  Tile sums;
  for (int m = 0; m < shape.rows; ++m) {
    std::uint32_t row[kMaxRows];
    std::memcpy(row, tiles[in.reg].bytes[m], sizeof row);
    for (int k = 0; k < shape.depth; ++k) {
      for (int n = 0; n < shape.columns; ++n) {
        for (int i = 0; i < 4; ++i) {
          row[n] += static_cast<std::uint32_t>(as_number(a.bytes[m][4 * k + i], a_has_sign) *
                                               as_number(b.bytes[k][4 * n + i], b_has_sign));
        }
      }
    }
    std::memcpy(sums.bytes[m], row, 4 * static_cast<std::size_t>(shape.columns));
  }
  tiles[in.reg] = sums;
}

/// False: no tile instruction.
bool perform(const Instruction& in) {
  switch (in.opcode) {
    case 0x49:
      if (in.mod != 3 && in.reg == 0 && in.prefix == Prefix::none) {
        load_config(in);
      } else if (in.mod != 3 && in.reg == 0 && in.prefix == Prefix::x66) {
        std::memcpy(reinterpret_cast<void*>(in.address), &config, sizeof config);
      } else if (in.mod == 3 && in.prefix == Prefix::none) {
        config = Config{};
        for (Tile& tile : tiles) tile = Tile{};
      } else if (in.mod == 3 && in.prefix == Prefix::xf2) {
        check_tile(in.reg);
        tiles[in.reg] = Tile{};
      } else {
        return false;
      }
      return true;
    case 0x4B:
      if (in.mod == 3 || in.prefix == Prefix::none) return false;
      load_or_store(in, in.prefix == Prefix::xf3);
      return true;
    case 0x5C:
      if (in.mod != 3 || in.prefix != Prefix::xf3) return false;
      multiply_bf16(in);
      return true;
    case 0x5E:
      if (in.mod != 3) return false;
      multiply_int8(in);
      return true;
    default:
      return false;
  }
}

void on_illegal_instruction(int, siginfo_t*, void* opaque) {
  auto& context = *static_cast<ucontext_t*>(opaque);
  const auto rip = static_cast<std::uint64_t>(context.uc_mcontext.gregs[REG_RIP]);
  Instruction in;
  if (!decode(reinterpret_cast<const std::uint8_t*>(rip), context, in) || !perform(in)) {
    signal(SIGILL, SIG_DFL);  // and the same instruction again: the program ends as it would have
    return;
  }
  instructions.fetch_add(1, std::memory_order_relaxed);
  context.uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(rip + in.length);
}

}  // namespace
}  // namespace quern::test

// The linker's --wrap: calls of quern::cpu_features() come here, and the library's own is __real_...
extern "C" const quern::CpuFeatures& __real__ZN5quern12cpu_featuresEv();
extern "C" const quern::CpuFeatures& __wrap__ZN5quern12cpu_featuresEv();

namespace quern::test {
namespace {

struct Emulation {
  CpuFeatures features;
  bool active = false;
};

Emulation start() {
  Emulation emulation;
  emulation.features = __real__ZN5quern12cpu_featuresEv();
  const char* const wish = std::getenv(kEmulatedTilesVariable);
  if (wish == nullptr || std::string_view(wish) != "1") return emulation;
  // A sentence by which ctest knows a skipped run (tests/CMakeLists.txt).
  if (emulation.features.amx_tile) {
    std::fprintf(stderr, "tiles are not emulated: this processor has them\n");
    return emulation;
  }
  if (const std::string missing = missing_features(emulation.features, Isa::avx512_vnni); !missing.empty()) {
    std::fprintf(stderr, "tiles are not emulated: this machine lacks %s\n", missing.c_str());
    return emulation;
  }
  CpuFeatures& f = emulation.features;
  f.os_amx = f.amx_tile = f.amx_bf16 = f.amx_int8 = true;
  struct sigaction action {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &action, nullptr);
  emulation.active = true;
  return emulation;
}

const Emulation& emulation() {
  static const Emulation result = start();
  return result;
}

}  // namespace

bool emulates_tiles() { return emulation().active; }
long long emulated_tile_instructions() { return instructions.load(std::memory_order_relaxed); }

}  // namespace quern::test

extern "C" const quern::CpuFeatures& __wrap__ZN5quern12cpu_featuresEv() { return quern::test::emulation().features; }

#else

namespace quern::test {

bool emulates_tiles() { return false; }
long long emulated_tile_instructions() { return 0; }

}  // namespace quern::test

#endif
