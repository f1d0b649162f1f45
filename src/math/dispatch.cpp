#include "math/dispatch.hpp"

#include <array>
#include <cstdlib>
#include <string>

#include "math/block_decode.hpp"

namespace quern {
namespace {

/// Block kernels with the decoder of their instruction set, or the nearest lower one.
BlockKernels with_decoder(const BlockKernels* kernels, BlockDecoder decode) {
  BlockKernels whole = *kernels;
  whole.decode = decode;
  return whole;
}

const BlockKernels* blocks_portable() {
  static const BlockKernels kernels = with_decoder(block_kernels_portable(), block_decoder_portable());
  return &kernels;
}
#if defined(__x86_64__)
const BlockKernels* blocks_avx2() {
  static const BlockKernels kernels = with_decoder(block_kernels_avx2(), block_decoder_avx2());
  return &kernels;
}
const BlockKernels* blocks_avx512() {
  static const BlockKernels kernels = with_decoder(block_kernels_avx512(), block_decoder_avx512());
  return &kernels;
}
const BlockKernels* blocks_avx512_vnni() {
  static const BlockKernels kernels = with_decoder(block_kernels_avx512_vnni(), block_decoder_avx512());
  return &kernels;
}
#endif

/// Every path, best first, with null where this build lacks kernels. Calling these functions is safe on any processor: they
/// return the address of a constant.
constexpr std::size_t kPaths = kIsaCount;
const std::array<KernelTable, kPaths>& all_tables() {
#if defined(__x86_64__)
  static const std::array<KernelTable, kPaths> tables = {{
      {Isa::amx, matmul_kernels_amx(), elementwise_kernels_avx512_vnni(), attention_kernels_amx(), blocks_avx512_vnni(),
       block_quantizer_legacy_avx512(), block_quantizer_k_avx512()},
      {Isa::avx512_vnni, matmul_kernels_avx512_vnni(), elementwise_kernels_avx512_vnni(), attention_kernels_avx512_vnni(),
       blocks_avx512_vnni(), block_quantizer_legacy_avx512(), block_quantizer_k_avx512()},
      {Isa::avx512, matmul_kernels_avx512(), elementwise_kernels_avx512(), attention_kernels_avx512(), blocks_avx512(),
       block_quantizer_legacy_avx512(), block_quantizer_k_avx512()},
      {Isa::avx2, matmul_kernels_avx2(), elementwise_kernels_avx2(), attention_kernels_avx2(), blocks_avx2(),
       block_quantizer_legacy_avx2(), block_quantizer_k_avx2()},
      {Isa::portable, matmul_kernels_portable(), elementwise_kernels_portable(), attention_kernels_portable(),
       blocks_portable(), block_quantizer_legacy_portable(), block_quantizer_k_portable()},
  }};
#else
  static const std::array<KernelTable, kPaths> tables = {{
      {Isa::amx, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr},
      {Isa::avx512_vnni, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr},
      {Isa::avx512, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr},
      {Isa::avx2, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr},
      {Isa::portable, matmul_kernels_portable(), elementwise_kernels_portable(), attention_kernels_portable(),
       blocks_portable(), block_quantizer_legacy_portable(), block_quantizer_k_portable()},
  }};
#endif
  return tables;
}

bool is_built(const KernelTable& table) {
  return table.matmul != nullptr && table.elementwise != nullptr && table.attention != nullptr && table.blocks != nullptr &&
         table.quantize_legacy != nullptr && table.quantize_k != nullptr;
}

/// Why a path cannot be used; empty when it can.
std::string obstacle(const KernelTable& table) {
  if (!is_built(table)) return "this build has no kernels for it";
  const std::string missing = missing_features(cpu_features(), table.isa);
  return missing.empty() ? "" : "this machine lacks " + missing;
}

std::string available_names() {
  std::string names;
  for (const KernelTable* table : supported_kernels()) {
    if (!names.empty()) names += ", ";
    names += isa_name(table->isa);
  }
  return names;
}

Result<const KernelTable*> choose() {
  const char* const forced = std::getenv(kIsaVariable);
  if (forced == nullptr || *forced == '\0') return supported_kernels().front();
  Result<const KernelTable*> found = kernels_named(forced);
  if (!found) found.error().message = std::string(kIsaVariable) + ": " + found.error().message;
  return found;
}

}  // namespace

const std::vector<const KernelTable*>& supported_kernels() {
  static const std::vector<const KernelTable*> supported = [] {
    std::vector<const KernelTable*> list;
    for (const KernelTable& table : all_tables()) {
      if (is_built(table) && supports(cpu_features(), table.isa)) list.push_back(&table);
    }
    return list;
  }();
  return supported;
}

Result<const KernelTable*> chosen_kernels() {
  static const Result<const KernelTable*> chosen = choose();
  return chosen;
}

Result<const KernelTable*> kernels_named(std::string_view name) {
  for (const KernelTable& table : all_tables()) {
    if (name != isa_name(table.isa)) continue;
    const std::string reason = obstacle(table);
    if (reason.empty()) return &table;
    return bad_input("instruction set '" + std::string(name) + "' cannot be used: " + reason +
                     "; available: " + available_names());
  }
  return bad_input("unknown instruction set '" + std::string(name) + "'; available: " + available_names());
}

std::vector<IsaStatus> isa_statuses() {
  std::vector<IsaStatus> statuses;
  for (const KernelTable& table : all_tables()) statuses.push_back({table.isa, obstacle(table)});
  return statuses;
}

}  // namespace quern
