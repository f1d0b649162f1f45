// What this processor can do and the operating system lets us use.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace quern {

/// Instruction-set paths, worst first; each includes the requirements of those before it (amx those of avx512_vnni).
enum class Isa : unsigned char { portable, avx2, avx512, avx512_vnni, amx };
inline constexpr int kIsaCount = 5;
[[nodiscard]] std::string_view isa_name(Isa isa);

/// Flags as CPUID reports them, already ANDed with the system's consent: XCR0 for AVX, AVX-512 and tile state, and for
/// AMX the permission of arch_prctl(ARCH_REQ_XCOMP_PERM), asked for once.
struct CpuFeatures {
  bool avx2 = false, fma = false, f16c = false, bmi1 = false, bmi2 = false, aes = false, pclmul = false;
  bool avx512f = false, avx512cd = false, avx512bw = false, avx512dq = false, avx512vl = false;
  bool avx512vnni = false, avx512vbmi = false, avx512vbmi2 = false, avx512bitalg = false, avx512vpopcntdq = false;
  bool avx512ifma = false, avx512bf16 = false, avx512fp16 = false, gfni = false, vaes = false, vpclmulqdq = false;
  bool avx_vnni = false;
  bool amx_tile = false, amx_bf16 = false, amx_int8 = false;
  bool os_avx = false, os_avx512 = false, os_amx = false;  ///< the system saves these registers / granted permission
  std::string vendor, model_name;                          ///< from CPUID; empty where it has none
  std::string hypervisor;                                  ///< whose virtual machine this is, as it spells it; or empty
};

/// Detected once, on first use; thread-safe.
[[nodiscard]] const CpuFeatures& cpu_features();

/// Whether every flag that files of this path are compiled with is present. The rule for `isa` alone, without running it.
[[nodiscard]] bool supports(const CpuFeatures& features, Isa isa);

/// Names of the flags that `isa` needs and `features` lacks, comma-separated; empty when supported.
[[nodiscard]] std::string missing_features(const CpuFeatures& features, Isa isa);

/// Whether products of bf16 on this path make up for their rounding: matrix tiles do, and VDPBF16PS on AMD's processors (Zen
/// 4 on), which issue as many of it as of FMA and so have twice the multiply-adds. Intel's issue half as many.
[[nodiscard]] bool has_fast_bf16(const CpuFeatures& features, Isa isa);

namespace internal {

/// The four registers of one CPUID answer.
struct CpuidLeaf {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

/// The answers that detection reads; those past the largest leaf stay zero.
struct CpuidRecord {
  CpuidLeaf leaf0, leaf1, leaf7_0, leaf7_1, extended0;
  CpuidLeaf hypervisor;              ///< 0x40000000: only where bit 31 of leaf1.ecx says that there is one
  std::array<CpuidLeaf, 3> brand{};  ///< 0x80000002 to 0x80000004: the model name
};

/// What `record` means under a system that saves the registers in `xcr0` (ignored unless the record says that XCR0 can be
/// read) and has or has not permitted tile data. Pure: tests feed it processors that are not here.
[[nodiscard]] CpuFeatures decode_cpuid(const CpuidRecord& record, std::uint64_t xcr0, bool tile_permission);

}  // namespace internal

}  // namespace quern
