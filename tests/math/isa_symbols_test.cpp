// Files compiled with instruction-set flags must not define symbols that the linker may share with the rest of the program:
// of several weak copies it keeps any one, and an AVX-512 copy crashes older machines. So their objects may define nothing
// but the function that returns their table, and what Highway compiles under a name of its own per instruction set.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace quern {
namespace {

struct Finding {
  std::vector<std::string> members;  // instruction-set objects seen
  std::vector<std::string> offenders;
};

bool ends_with_any(std::string_view text, std::initializer_list<std::string_view> endings) {
  for (const std::string_view ending : endings) {
    if (text.ends_with(ending)) return true;
  }
  return false;
}

/// Highway's own per-target functions: hwy::N_AVX2::..., mangled.
bool is_highway(std::string_view symbol) {
  for (const std::string_view prefix : {"_ZN3hwy", "_ZNK3hwy", "_ZZN3hwy", "_ZTSN3hwy", "_ZTIN3hwy"}) {
    if (symbol.starts_with(prefix)) return true;
  }
  return false;
}

/// Reads what `nm --defined-only` prints of an archive: "member.o:" lines, then "[value] TYPE NAME" lines.
Finding examine(std::istream& listing) {
  Finding finding;
  std::string member;
  bool is_isa_member = false;
  for (std::string line; std::getline(listing, line);) {
    if (line.ends_with(":")) {
      member = line.substr(0, line.size() - 1);
      is_isa_member = ends_with_any(member, {"_avx2.cpp.o", "_avx512.cpp.o", "_avx512_vnni.cpp.o", "_amx.cpp.o"});
      if (is_isa_member) finding.members.push_back(member);
      continue;
    }
    if (!is_isa_member) continue;
    std::istringstream words(line);
    std::string value;
    std::string type;
    std::string name;
    if (!(words >> value >> type >> name) || type.size() != 1) continue;
    const bool weak = type == "W" || type == "V" || type == "u";
    const bool global = type == "T" || type == "D" || type == "B" || type == "R";
    const bool is_table = name.find("_kernels_") != std::string::npos || name.find("_decoder_") != std::string::npos ||
                          name.find("_quantizer_") != std::string::npos;
    if ((weak && !is_highway(name)) || (global && !is_table)) finding.offenders.push_back(member + ": " + type + " " + name);
  }
  return finding;
}

Finding examine(const std::string& listing) {
  std::istringstream stream(listing);
  return examine(stream);
}

TEST(IsaSymbols, TheExaminationFindsWhatItMust) {
  const std::string clean =
      "matmul_portable.cpp.o:\n0000 W _ZSt3maxIfERKT_S2_S2_\n\n"
      "matmul_avx2.cpp.o:\n0000 T _ZN5quern19matmul_kernels_avx2Ev\n0000 t _ZN5quern12_GLOBAL__N_14tileEv\n"
      "0000 W _ZN3hwy6N_AVX23AddEv\n0000 r table\n";
  EXPECT_EQ(examine(clean).offenders, std::vector<std::string>{});
  EXPECT_EQ(examine(clean).members, std::vector<std::string>{"matmul_avx2.cpp.o"});
  for (const char* bad : {"0000 W _ZSt3maxIfERKT_S2_S2_", "0000 V _ZN5quern5tableE", "0000 u _ZN5quern5guardE",
                          "0000 T _ZN5quern6helperEv", "0000 D _ZN5quern5stateE"}) {
    for (const char* member : {"x_avx2.cpp.o:", "x_avx512.cpp.o:", "x_avx512_vnni.cpp.o:", "x_amx.cpp.o:"}) {
      EXPECT_EQ(examine(std::string(member) + "\n" + bad + "\n").offenders.size(), 1U) << member << bad;
    }
  }
}

TEST(IsaSymbols, InstructionSetFilesDefineNothingThatIsShared) {
  if (std::string_view(QUERN_SANITIZE) != "") GTEST_SKIP() << "sanitizers add symbols of their own";
#if !defined(__x86_64__)
  GTEST_SKIP() << "instruction-set files are built on x86-64 only";
#elif !defined(__OPTIMIZE__)
  GTEST_SKIP() << "without optimization always-inline and constant functions remain as symbols";
#endif
  const std::string command = std::string(QUERN_NM) + " --defined-only '" + QUERN_MATH_ARCHIVE + "'";
  std::FILE* const pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string listing;
  std::array<char, 4096> part{};
  for (std::size_t got = 0; (got = std::fread(part.data(), 1, part.size(), pipe)) > 0;) listing.append(part.data(), got);
  ASSERT_EQ(pclose(pipe), 0) << command;
  const Finding finding = examine(listing);
  EXPECT_FALSE(finding.members.empty()) << "no instruction-set object in " << QUERN_MATH_ARCHIVE;
  for (const std::string& offender : finding.offenders) ADD_FAILURE() << offender;
}

}  // namespace
}  // namespace quern
