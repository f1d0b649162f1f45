// Bits: Intel SDM volume 2A, CPUID; volume 1, 13.2 (XCR0) and 18.3 (AMX). Permission: Linux
// Documentation/arch/x86/xstate.rst.
#include "math/cpu_features.hpp"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace quern {
namespace {

/// A flag, and the first path whose files are compiled with it (cmake/QuernTargets.cmake, QUERN_FLAGS_*).
struct Requirement {
  Isa isa;
  bool CpuFeatures::*flag;
  std::string_view name;
};

constexpr Requirement kRequirements[] = {
    {Isa::avx2, &CpuFeatures::os_avx, "operating system support of AVX registers"},
    {Isa::avx2, &CpuFeatures::avx2, "avx2"},
    {Isa::avx2, &CpuFeatures::fma, "fma"},
    {Isa::avx2, &CpuFeatures::bmi1, "bmi1"},
    {Isa::avx2, &CpuFeatures::bmi2, "bmi2"},
    {Isa::avx2, &CpuFeatures::f16c, "f16c"},
    {Isa::avx2, &CpuFeatures::aes, "aes"},
    {Isa::avx2, &CpuFeatures::pclmul, "pclmulqdq"},
    {Isa::avx512, &CpuFeatures::os_avx512, "operating system support of AVX-512 registers"},
    {Isa::avx512, &CpuFeatures::avx512f, "avx512f"},
    {Isa::avx512, &CpuFeatures::avx512cd, "avx512cd"},
    {Isa::avx512, &CpuFeatures::avx512bw, "avx512bw"},
    {Isa::avx512, &CpuFeatures::avx512dq, "avx512dq"},
    {Isa::avx512, &CpuFeatures::avx512vl, "avx512vl"},
    {Isa::avx512_vnni, &CpuFeatures::avx512vnni, "avx512_vnni"},
    {Isa::avx512_vnni, &CpuFeatures::avx512vbmi, "avx512_vbmi"},
    {Isa::avx512_vnni, &CpuFeatures::avx512bf16, "avx512_bf16"},
    {Isa::amx, &CpuFeatures::os_amx, "operating system permission to use AMX tiles"},
    {Isa::amx, &CpuFeatures::amx_tile, "amx_tile"},
    {Isa::amx, &CpuFeatures::amx_bf16, "amx_bf16"},
    {Isa::amx, &CpuFeatures::amx_int8, "amx_int8"},
};

constexpr std::uint64_t kXcr0Avx = 0x6;      // SSE and AVX state: bits 1 and 2
constexpr std::uint64_t kXcr0Avx512 = 0xE0;  // mask registers, upper halves, upper 16 registers: bits 5 to 7
constexpr std::uint64_t kXcr0Amx = 0x60000;  // tile configuration and data: bits 17 and 18

constexpr bool bit(std::uint32_t word, int number) { return ((word >> number) & 1U) != 0; }

#if defined(__x86_64__)

internal::CpuidLeaf read_leaf(std::uint32_t leaf, std::uint32_t subleaf) {
  internal::CpuidLeaf result;
  __cpuid_count(leaf, subleaf, result.eax, result.ebx, result.ecx, result.edx);
  return result;
}

std::uint64_t read_xcr0() {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));  // the intrinsic would need -mxsave
  return (std::uint64_t{high} << 32) | low;
}

/// Asks Linux (5.16 and later) to let this process use tile data; holds for all its threads, present and future.
bool ask_for_tiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

CpuFeatures detect() {
  internal::CpuidRecord record;
  record.leaf0 = read_leaf(0, 0);
  const std::uint32_t max_leaf = record.leaf0.eax;
  if (max_leaf >= 1) record.leaf1 = read_leaf(1, 0);
  if (max_leaf >= 7) record.leaf7_0 = read_leaf(7, 0);
  if (max_leaf >= 7 && record.leaf7_0.eax >= 1) record.leaf7_1 = read_leaf(7, 1);
  if (bit(record.leaf1.ecx, 31)) record.hypervisor = read_leaf(0x40000000U, 0);
  record.extended0 = read_leaf(0x80000000U, 0);
  if (record.extended0.eax >= 0x80000004U) {
    for (std::uint32_t i = 0; i < 3; ++i) record.brand[i] = read_leaf(0x80000002U + i, 0);
  }
  const std::uint64_t xcr0 = bit(record.leaf1.ecx, 27) ? read_xcr0() : 0;
  const bool has_tiles = bit(record.leaf7_0.edx, 24) && (xcr0 & kXcr0Amx) == kXcr0Amx;
  return internal::decode_cpuid(record, xcr0, has_tiles && ask_for_tiles());
}

#else

CpuFeatures detect() { return {}; }

#endif

void append(std::string& text, std::uint32_t word) {
  std::array<char, 4> bytes{};
  std::memcpy(bytes.data(), &word, bytes.size());
  for (const char byte : bytes) {
    if (byte != '\0') text.push_back(byte);
  }
}

}  // namespace

namespace internal {

CpuFeatures decode_cpuid(const CpuidRecord& record, std::uint64_t xcr0, bool tile_permission) {
  CpuFeatures f;
  append(f.vendor, record.leaf0.ebx);
  append(f.vendor, record.leaf0.edx);
  append(f.vendor, record.leaf0.ecx);
  for (const CpuidLeaf& leaf : record.brand) {
    for (const std::uint32_t word : {leaf.eax, leaf.ebx, leaf.ecx, leaf.edx}) append(f.model_name, word);
  }
  f.model_name.erase(0, f.model_name.find_first_not_of(' '));
  f.model_name.erase(f.model_name.find_last_not_of(' ') + 1);

  const std::uint32_t max_leaf = record.leaf0.eax;
  const CpuidLeaf leaf1 = max_leaf >= 1 ? record.leaf1 : CpuidLeaf{};
  const CpuidLeaf leaf7 = max_leaf >= 7 ? record.leaf7_0 : CpuidLeaf{};
  const CpuidLeaf leaf7_1 = leaf7.eax >= 1 ? record.leaf7_1 : CpuidLeaf{};

  if (bit(leaf1.ecx, 31)) {
    for (const std::uint32_t word : {record.hypervisor.ebx, record.hypervisor.ecx, record.hypervisor.edx}) {
      append(f.hypervisor, word);
    }
  }

  const bool reads_xcr0 = bit(leaf1.ecx, 27);  // OSXSAVE
  f.os_avx = reads_xcr0 && bit(leaf1.ecx, 28) && (xcr0 & kXcr0Avx) == kXcr0Avx;
  f.os_avx512 = f.os_avx && (xcr0 & kXcr0Avx512) == kXcr0Avx512;
  f.os_amx = reads_xcr0 && (xcr0 & kXcr0Amx) == kXcr0Amx && tile_permission;

  // On general registers or with legacy encodings: no consent needed.
  f.pclmul = bit(leaf1.ecx, 1);
  f.aes = bit(leaf1.ecx, 25);
  f.bmi1 = bit(leaf7.ebx, 3);
  f.bmi2 = bit(leaf7.ebx, 8);
  f.gfni = bit(leaf7.ecx, 8);

  f.fma = f.os_avx && bit(leaf1.ecx, 12);
  f.f16c = f.os_avx && bit(leaf1.ecx, 29);
  f.avx2 = f.os_avx && bit(leaf7.ebx, 5);
  f.vaes = f.os_avx && bit(leaf7.ecx, 9);
  f.vpclmulqdq = f.os_avx && bit(leaf7.ecx, 10);
  f.avx_vnni = f.os_avx && bit(leaf7_1.eax, 4);

  f.avx512f = f.os_avx512 && bit(leaf7.ebx, 16);
  f.avx512dq = f.os_avx512 && bit(leaf7.ebx, 17);
  f.avx512ifma = f.os_avx512 && bit(leaf7.ebx, 21);
  f.avx512cd = f.os_avx512 && bit(leaf7.ebx, 28);
  f.avx512bw = f.os_avx512 && bit(leaf7.ebx, 30);
  f.avx512vl = f.os_avx512 && bit(leaf7.ebx, 31);
  f.avx512vbmi = f.os_avx512 && bit(leaf7.ecx, 1);
  f.avx512vbmi2 = f.os_avx512 && bit(leaf7.ecx, 6);
  f.avx512vnni = f.os_avx512 && bit(leaf7.ecx, 11);
  f.avx512bitalg = f.os_avx512 && bit(leaf7.ecx, 12);
  f.avx512vpopcntdq = f.os_avx512 && bit(leaf7.ecx, 14);
  f.avx512fp16 = f.os_avx512 && bit(leaf7.edx, 23);
  f.avx512bf16 = f.os_avx512 && bit(leaf7_1.eax, 5);

  f.amx_bf16 = f.os_amx && bit(leaf7.edx, 22);
  f.amx_tile = f.os_amx && bit(leaf7.edx, 24);
  f.amx_int8 = f.os_amx && bit(leaf7.edx, 25);
  return f;
}

}  // namespace internal

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::portable:
      return "portable";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_vnni:
      return "avx512_vnni";
    case Isa::amx:
      return "amx";
  }
  return "unknown";
}

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

bool supports(const CpuFeatures& features, Isa isa) {
  for (const Requirement& requirement : kRequirements) {
    if (requirement.isa <= isa && !(features.*requirement.flag)) return false;
  }
  return true;
}

std::string missing_features(const CpuFeatures& features, Isa isa) {
  std::string names;
  for (const Requirement& requirement : kRequirements) {
    if (requirement.isa > isa || features.*requirement.flag) continue;
    if (!names.empty()) names += ", ";
    names += requirement.name;
  }
  return names;
}

bool has_fast_bf16(const CpuFeatures& features, Isa isa) {
  return isa == Isa::amx || (isa == Isa::avx512_vnni && features.vendor == "AuthenticAMD");
}

}  // namespace quern
