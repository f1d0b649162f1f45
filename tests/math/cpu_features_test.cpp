#include "math/cpu_features.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace quern {
namespace {

using internal::CpuidRecord;
using internal::decode_cpuid;

constexpr std::uint64_t kAvxState = 0x7;
constexpr std::uint64_t kAvx512State = kAvxState | 0xE0;
constexpr std::uint64_t kAmxState = kAvx512State | 0x60000;

std::uint32_t bits(std::initializer_list<int> numbers) {
  std::uint32_t word = 0;
  for (const int number : numbers) word |= std::uint32_t{1} << number;
  return word;
}

std::uint32_t word(const char* four) {
  std::uint32_t value = 0;
  std::memcpy(&value, four, 4);
  return value;
}

/// A Haswell-like processor.
CpuidRecord avx2_processor() {
  CpuidRecord record;
  record.leaf0 = {0xD, word("Genu"), word("ntel"), word("ineI")};
  record.leaf1.ecx = bits({1, 12, 25, 26, 27, 28, 29});
  record.leaf7_0.ebx = bits({3, 5, 8});
  record.brand[0] = {word("  A "), word("proc"), word("esso"), word("r   ")};
  return record;
}

CpuidRecord avx512_processor() {
  CpuidRecord record = avx2_processor();
  record.leaf7_0.ebx |= bits({16, 17, 28, 30, 31});
  return record;
}

CpuidRecord vnni_processor() {
  CpuidRecord record = avx512_processor();
  record.leaf7_0.eax = 1;
  record.leaf7_0.ecx |= bits({1, 11});
  record.leaf7_1.eax |= bits({5});
  return record;
}

CpuidRecord amx_processor() {
  CpuidRecord record = vnni_processor();
  record.leaf7_0.edx |= bits({22, 24, 25});
  return record;
}

/// The best path that `record` supports; every worse one must be supported too.
Isa best(const CpuidRecord& record, std::uint64_t xcr0, bool permission) {
  const CpuFeatures features = decode_cpuid(record, xcr0, permission);
  Isa result = Isa::portable;
  bool all_before = true;
  for (int i = 0; i < kIsaCount; ++i) {
    const Isa isa = static_cast<Isa>(i);
    const bool supported = supports(features, isa);
    EXPECT_EQ(supported, missing_features(features, isa).empty()) << isa_name(isa);
    EXPECT_TRUE(all_before || !supported) << isa_name(isa) << " without a worse path";
    all_before = all_before && supported;
    if (supported) result = isa;
  }
  return result;
}

TEST(CpuFeatures, BestPathOfWholeProcessors) {
  EXPECT_EQ(best(CpuidRecord{}, kAmxState, true), Isa::portable);
  EXPECT_EQ(best(avx2_processor(), kAmxState, true), Isa::avx2);
  EXPECT_EQ(best(avx512_processor(), kAmxState, true), Isa::avx512);
  EXPECT_EQ(best(vnni_processor(), kAmxState, true), Isa::avx512_vnni);
  EXPECT_EQ(best(amx_processor(), kAmxState, true), Isa::amx);
}

TEST(CpuFeatures, Bf16IsFastOnTilesAndOnAmdsDotProducts) {
  CpuFeatures features;
  for (const char* vendor : {"GenuineIntel", "AuthenticAMD"}) {
    features.vendor = vendor;
    EXPECT_TRUE(has_fast_bf16(features, Isa::amx));
    EXPECT_EQ(has_fast_bf16(features, Isa::avx512_vnni), features.vendor == "AuthenticAMD");
    EXPECT_FALSE(has_fast_bf16(features, Isa::avx512));  // no bf16 products there
  }
}

TEST(CpuFeatures, NothingWiderThanTheSystemSaves) {
  EXPECT_EQ(best(amx_processor(), 0x1, true), Isa::portable);
  EXPECT_EQ(best(amx_processor(), 0x3, true), Isa::portable);  // SSE state alone
  EXPECT_EQ(best(amx_processor(), kAvxState, true), Isa::avx2);
  EXPECT_EQ(best(amx_processor(), kAvx512State, true), Isa::avx512_vnni);
  for (const int missing : {5, 6, 7}) {
    EXPECT_EQ(best(amx_processor(), kAmxState & ~(std::uint64_t{1} << missing), true), Isa::avx2) << "XCR0 bit " << missing;
  }
  for (const int missing : {17, 18}) {
    EXPECT_EQ(best(amx_processor(), kAmxState & ~(std::uint64_t{1} << missing), true), Isa::avx512_vnni);
  }
}

TEST(CpuFeatures, Xcr0IsIgnoredWhereItCannotBeRead) {
  CpuidRecord record = amx_processor();
  record.leaf1.ecx &= ~bits({27});  // no OSXSAVE
  EXPECT_EQ(best(record, kAmxState, true), Isa::portable);
  EXPECT_FALSE(decode_cpuid(record, kAmxState, true).os_amx);
}

TEST(CpuFeatures, TilesNeedPermission) {
  EXPECT_EQ(best(amx_processor(), kAmxState, false), Isa::avx512_vnni);
  const CpuFeatures features = decode_cpuid(amx_processor(), kAmxState, false);
  EXPECT_FALSE(features.amx_tile || features.amx_bf16 || features.amx_int8 || features.os_amx);
  EXPECT_NE(missing_features(features, Isa::amx).find("permission"), std::string::npos);
}

TEST(CpuFeatures, LeavesPastTheLargestAreNotRead) {
  CpuidRecord record = amx_processor();
  record.leaf0.eax = 6;
  EXPECT_EQ(best(record, kAmxState, true), Isa::portable);
  record = amx_processor();
  record.leaf7_0.eax = 0;  // leaf 7 has no subleaf 1: AVX512_BF16 unknown
  EXPECT_EQ(best(record, kAmxState, true), Isa::avx512);
}

TEST(CpuFeatures, EveryCompiledFlagIsRequired) {
  const auto without = [](auto change, Isa expected, const char* name) {
    CpuidRecord record = amx_processor();
    change(record);
    EXPECT_EQ(best(record, kAmxState, true), expected) << name;
    EXPECT_NE(missing_features(decode_cpuid(record, kAmxState, true), Isa::amx).find(name), std::string::npos) << name;
  };
  for (const auto& [number, name] : {std::pair{1, "pclmulqdq"}, {12, "fma"}, {25, "aes"}, {29, "f16c"}}) {
    without([n = number](CpuidRecord& r) { r.leaf1.ecx &= ~bits({n}); }, Isa::portable, name);
  }
  for (const auto& [number, name] : {std::pair{3, "bmi1"}, {5, "avx2"}, {8, "bmi2"}}) {
    without([n = number](CpuidRecord& r) { r.leaf7_0.ebx &= ~bits({n}); }, Isa::portable, name);
  }
  for (const auto& [number, name] :
       {std::pair{16, "avx512f"}, {17, "avx512dq"}, {28, "avx512cd"}, {30, "avx512bw"}, {31, "avx512vl"}}) {
    without([n = number](CpuidRecord& r) { r.leaf7_0.ebx &= ~bits({n}); }, Isa::avx2, name);
  }
  for (const auto& [number, name] : {std::pair{1, "avx512_vbmi"}, {11, "avx512_vnni"}}) {
    without([n = number](CpuidRecord& r) { r.leaf7_0.ecx &= ~bits({n}); }, Isa::avx512, name);
  }
  without([](CpuidRecord& r) { r.leaf7_1.eax &= ~bits({5}); }, Isa::avx512, "avx512_bf16");
  for (const auto& [number, name] : {std::pair{22, "amx_bf16"}, {24, "amx_tile"}, {25, "amx_int8"}}) {
    without([n = number](CpuidRecord& r) { r.leaf7_0.edx &= ~bits({n}); }, Isa::avx512_vnni, name);
  }
}

TEST(CpuFeatures, NamesAreTrimmed) {
  const CpuFeatures features = decode_cpuid(avx2_processor(), kAvxState, false);
  EXPECT_EQ(features.vendor, "GenuineIntel");
  EXPECT_EQ(features.model_name, "A processor");
  EXPECT_EQ(decode_cpuid(CpuidRecord{}, 0, false).model_name, "");
}

/// The kernel decodes CPUID by itself, and hides flags that it does not allow: an oracle for the real machine.
TEST(CpuFeatures, AgreesWithTheKernelsList) {
#if !defined(__x86_64__)
  GTEST_SKIP() << "no CPUID on this architecture";
#endif
  std::ifstream file("/proc/cpuinfo");
  std::vector<std::string> flags;
  bool virtual_processor = false;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    for (std::string flag; words >> flag;) flags.push_back(flag);
    virtual_processor = true;
    break;
  }
  if (!virtual_processor) GTEST_SKIP() << "/proc/cpuinfo lists no flags";
  if (cpu_features().model_name.find("QEMU") != std::string::npos) GTEST_SKIP() << "emulated: cpuinfo is the host's";
  const auto listed = [&](const char* name) { return std::find(flags.begin(), flags.end(), name) != flags.end(); };
  const CpuFeatures& f = cpu_features();
  EXPECT_EQ(f.avx2, listed("avx2"));
  EXPECT_EQ(f.fma, listed("fma"));
  EXPECT_EQ(f.f16c, listed("f16c"));
  EXPECT_EQ(f.bmi1, listed("bmi1"));
  EXPECT_EQ(f.bmi2, listed("bmi2"));
  EXPECT_EQ(f.aes, listed("aes"));
  EXPECT_EQ(f.pclmul, listed("pclmulqdq"));
  EXPECT_EQ(f.gfni, listed("gfni"));
  EXPECT_EQ(f.vaes, listed("vaes"));
  EXPECT_EQ(f.avx512f, listed("avx512f"));
  EXPECT_EQ(f.avx512cd, listed("avx512cd"));
  EXPECT_EQ(f.avx512bw, listed("avx512bw"));
  EXPECT_EQ(f.avx512dq, listed("avx512dq"));
  EXPECT_EQ(f.avx512vl, listed("avx512vl"));
  EXPECT_EQ(f.avx512ifma, listed("avx512ifma"));
  EXPECT_EQ(f.avx512vbmi, listed("avx512vbmi"));
  EXPECT_EQ(f.avx512vnni, listed("avx512_vnni"));
  EXPECT_EQ(f.avx512bitalg, listed("avx512_bitalg"));
  EXPECT_EQ(f.avx512bf16, listed("avx512_bf16"));
}

#if defined(__x86_64__)
[[gnu::target("amx-tile")]] void use_a_tile() {
  struct [[gnu::packed]] Config {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t bytes_per_row[16] = {64};
    std::uint8_t rows[16] = {16};
  };
  static_assert(sizeof(Config) == 64);
  const Config config;
  __asm__ volatile("ldtilecfg %0\n\ttilezero %%tmm0\n\ttilerelease" : : "m"(config));
}

TEST(CpuFeatures, TilePermissionHoldsForThreadsStartedLater) {
  if (!cpu_features().amx_tile) GTEST_SKIP() << "no AMX here: " << missing_features(cpu_features(), Isa::amx);
  use_a_tile();
  std::thread(use_a_tile).join();  // without permission: SIGILL
}
#endif

TEST(CpuFeatures, NameOfTheHypervisor) {
  internal::CpuidRecord record;
  record.hypervisor = {0x40000001, word("KVMK"), word("VMKV"), word("M\0\0\0")};
  EXPECT_TRUE(internal::decode_cpuid(record, 0, false).hypervisor.empty());  // nothing says that there is one
  record.leaf1.ecx = bits({31});
  EXPECT_TRUE(internal::decode_cpuid(record, 0, false).hypervisor.empty());  // leaf 1 is past the last
  record.leaf0.eax = 1;
  EXPECT_EQ(internal::decode_cpuid(record, 0, false).hypervisor, "KVMKVMKVM");
}

}  // namespace
}  // namespace quern
